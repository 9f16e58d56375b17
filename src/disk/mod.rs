//! The only door to files.
//!
//! [`Disk`] is what the sidecar needs of a file system, no more. [`OsDisk`] is the real one; [`FaultDisk`] lives in memory,
//! knows which bytes and which directory entries are durable, and can fail or stop at any sync, so that crash tests cut
//! where they like.
//!
//! What a caller may rely on:
//!
//! 1. Bytes are durable after [`DiskFile::sync_data`] returned ok, and not before. After it *failed* nothing is known: the
//!    kernel may have dropped the dirty pages and say ok to the next sync. Never retry it.
//! 2. A new file, a removed file and a rename are durable after [`Disk::sync_dir`] of the folder returned ok.
//! 3. [`Disk::replace`] leaves either the old or the new bytes under the name, whenever it is cut.
//! 4. [`Disk::lock`] excludes other processes and other holders in this one, and ends with the process, however it ends.
//!
//! It does not cache, retry or hide errors; each error says what was done to which path.

mod fault;
mod os;

pub use fault::FaultDisk;
pub use os::OsDisk;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

/// A failed operation on a path. It travels inside [`io::Error`], whose kind is that of `source`.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}: {source}", path.display())]
pub struct DiskError {
    /// What was tried: `open`, `write`, `fdatasync`, …
    pub op: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl DiskError {
    /// Puts operation and path into an [`io::Error`] and keeps its kind.
    fn wrap(op: &'static str, path: &Path, source: io::Error) -> io::Error {
        io::Error::new(source.kind(), Self { op, path: path.to_owned(), source })
    }
}

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "`len` asks the system and may fail; emptiness is nobody's question")]
pub trait DiskFile: Send + Sync + Debug {
    /// Writes all of `bytes` at the end. After an error an unknown part of it may be there.
    ///
    /// # Errors
    /// What the system said; `StorageFull` when the disk is full.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`; does not move the end that [`append`](Self::append) knows.
    ///
    /// # Errors
    /// What the system said.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads at `offset` until `buf` is full or the file ends; says how many bytes it got.
    ///
    /// # Errors
    /// What the system said.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The length in bytes, as it is now.
    ///
    /// # Errors
    /// What the system said.
    fn len(&self) -> io::Result<u64>;

    /// Cuts (or fills up with zeros) to `len` bytes; [`append`](Self::append) goes on there.
    ///
    /// # Errors
    /// What the system said.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// `fdatasync`: the bytes and the length are durable.
    ///
    /// # Errors
    /// What the system said; after an error nothing about earlier writes is known.
    fn sync_data(&self) -> io::Result<()>;

    /// `fsync`: bytes, length and attributes are durable.
    ///
    /// # Errors
    /// As [`sync_data`](Self::sync_data).
    fn sync_all(&self) -> io::Result<()>;
}

/// A file system, as far as the sidecar needs one. Paths are taken as they are.
pub trait Disk: Send + Sync + Debug {
    /// Makes a new empty file for reading and writing; it must not exist.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system said.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing; appends go to its end.
    ///
    /// # Errors
    /// `NotFound`, or what the system said.
    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading.
    ///
    /// # Errors
    /// `NotFound`, or what the system said.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// All bytes of a file. For small files: the caller knows what it asks for.
    ///
    /// # Errors
    /// `NotFound`, or what the system said.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Names (not paths) of what is in a folder, sorted; names that are not UTF-8 are left out.
    ///
    /// # Errors
    /// `NotFound`, or what the system said.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a folder and those above it. Durable once [`sync_dir`](Self::sync_dir) of the one above returned.
    ///
    /// # Errors
    /// What the system said.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, or what the system said.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder and all in it; ok when it is not there.
    ///
    /// # Errors
    /// What the system said.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Renames a file or folder, replacing a file of that name.
    ///
    /// # Errors
    /// What the system said.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the entries of a folder durable.
    ///
    /// # Errors
    /// What the system said.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Whether something is there.
    ///
    /// # Errors
    /// What the system said (a folder that may not be read is not "no").
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Bytes that this process may still write in the file system of `dir`.
    ///
    /// # Errors
    /// What the system said.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Takes an exclusive lock on the file `path` (made if need be), without waiting, and writes this process's id in it.
    ///
    /// # Errors
    /// `WouldBlock` when another holds it, naming who; else what the system said.
    fn lock(&self, path: &Path) -> io::Result<Lock>;

    /// Makes a folder and those above it, each durable before the next. The lowest level that is there already is synced too:
    /// a run that was killed may have made it and not come to its sync. If a sync fails, the folder that it was for is taken
    /// away again, so that a second try makes (and syncs) it anew.
    ///
    /// # Errors
    /// What the system said. That the folder above may not be read is none: then it was not made by us.
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let Some(above) = dir.parent() else { return Ok(()) };
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        if self.exists(dir)? {
            let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
            return self.sync_dir(above).or_else(|error| if denied(&error) { Ok(()) } else { Err(error) });
        }
        self.make_dir(above)?;
        self.create_dir_all(dir)?;
        self.sync_dir(above).or_else(|error| self.remove_dir_all(dir).and(Err(error)))
    }

    /// Puts `bytes` under the name `path` durably: temporary file beside it, fsync, rename, fsync of the folder. Whenever
    /// it is cut, the old or the new bytes are there. One writer for each name.
    ///
    /// # Errors
    /// What the system said; then either may be there.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        if self.exists(&temporary)? {
            self.remove(&temporary)?;
        }
        let mut file = self.create_new(&temporary)?;
        file.append(bytes)?;
        file.sync_all()?;
        drop(file);
        self.rename(&temporary, path)?;
        self.sync_dir(path.parent().unwrap_or(Path::new("/")))
    }
}

/// An exclusive lock, given back when dropped.
#[derive(Debug)]
pub struct Lock {
    _held: Box<dyn Held>,
}

impl Lock {
    fn new(held: impl Held + 'static) -> Self {
        Self { _held: Box::new(held) }
    }
}

/// What keeps a lock: dropping it gives it back.
trait Held: Send + Sync + Debug {}

#[cfg(test)]
mod tests;
