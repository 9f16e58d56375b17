//! A file system in memory that knows what is durable, and fails where a test says. A test tool.
//!
//! Each file has live bytes (what a reader of the same machine sees) and durable bytes (what is left after a power cut),
//! and so have the folders. A sync moves the one to the other. Syncs of files and folders are counted from 1;
//! [`FaultDisk::fail_at`] makes one fail, [`FaultDisk::stop_at`] stops the machine just before one.
//!
//! A failed sync of a file behaves as Linux does: the dirty bytes stay live, count as clean, and no later sync writes them.
//! A failed sync of a folder leaves its entries for the next one.

mod state;

use super::{Disk, DiskError, DiskFile, Held, Lock};
use parking_lot::Mutex;
use state::{DirOp, Entry, State};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file system in memory for crash tests; clones share it. The root folder exists from the start.
#[derive(Clone, Default)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultDisk").field("syncs", &self.syncs()).finish_non_exhaustive()
    }
}

impl FaultDisk {
    /// An empty disk without faults and with room for 2^40 bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many syncs (of files and folders) were asked for so far.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Lets the sync with this number (the first is 1) fail with an I/O error; a file's bytes that it should have saved are not
    /// saved by a later one either.
    pub fn fail_at(&self, sync: u64) {
        self.state.lock().fail_at = Some(sync);
    }

    /// Stops the machine just before the sync with this number: it and every operation after it fail.
    pub fn stop_at(&self, sync: u64) {
        self.state.lock().stop_at = Some(sync);
    }

    /// Sets the room for all files together, in bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// The disk after a power cut. Seed 0: exactly what was durable. Any other: what was durable, and of the rest whatever
    /// the seed says: of each file a prefix of the unsynced writes with the last one torn, or any of their sectors; of the
    /// folders a prefix of the unsynced entries. Faults and locks are gone. This disk stays as it is.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(self.state.lock().after_power_cut(seed))) }
    }

    /// The disk after the process was killed but the machine lived: all live bytes are there, unsynced ones still unsynced.
    /// Faults and locks are gone. This disk stays as it is.
    #[must_use]
    pub fn kill(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.state.lock().after_kill())) }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.with("open", path, |state| {
            let number = state.file(path)?;
            let end = state.node(number)?.live.len();
            let file: Box<dyn DiskFile> =
                Box::new(FaultFile { disk: self.clone(), path: path.to_owned(), number, end });
            Ok(file)
        })
    }

    fn with<T>(&self, op: &'static str, path: &Path, run: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        state.running().and_then(|()| run(&mut state)).map_err(|e| DiskError::wrap(op, path, e))
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    path: PathBuf,
    number: usize,
    end: usize,
}

impl DiskFile for FaultFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (number, end) = (self.number, self.end);
        self.disk.with("write", &self.path, |state| state.write(number, end, bytes))?;
        self.end += bytes.len();
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.with("write", &self.path, |state| state.write(self.number, state::position(offset)?, bytes))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.disk.with("read", &self.path, |state| {
            let live = &state.node(self.number)?.live;
            let from = live.get(state::position(offset)?..).unwrap_or_default();
            let n = from.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..n), from.get(..n)) {
                to.copy_from_slice(from);
            }
            Ok(n)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.with("stat", &self.path, |state| Ok(state.node(self.number)?.live.len() as u64))
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let end = state::position(len)?;
        self.disk.with("truncate", &self.path, |state| state.truncate(self.number, end))?;
        self.end = end;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.with("fdatasync", &self.path, |state| state.sync_file(self.number))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.with("fsync", &self.path, |state| state.sync_file(self.number))
    }
}

#[derive(Debug)]
struct FaultLock {
    disk: FaultDisk,
    path: PathBuf,
}

impl Held for FaultLock {}

impl Drop for FaultLock {
    fn drop(&mut self) {
        self.disk.state.lock().locks.remove(&self.path);
    }
}

impl Disk for FaultDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.with("open", path, |state| state.create(path))?;
        self.open(path)
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.with("read", path, |state| {
            let number = state.file(path)?;
            Ok(state.node(number)?.live.clone())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.with("list", dir, |state| {
            state.dir(dir)?;
            let inside = state.live.keys().filter(|p| p.parent() == Some(dir));
            Ok(inside.filter_map(|p| p.file_name()?.to_str().map(str::to_owned)).collect())
        })
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.with("create folder", dir, |state| {
            let mut above: Vec<&Path> = dir.ancestors().filter(|p| p.parent().is_some()).collect();
            above.reverse();
            for part in above {
                match state.live.get(part) {
                    Some(Entry::Folder) => {}
                    Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                    None => state.change(DirOp::Link(part.to_owned(), Entry::Folder)),
                }
            }
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with("remove", path, |state| {
            state.file(path)?;
            state.change(DirOp::Unlink(path.to_owned()));
            Ok(())
        })
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.with("remove folder", dir, |state| {
            let inside: Vec<PathBuf> = state.live.keys().filter(|p| p.starts_with(dir)).cloned().collect();
            for path in inside.into_iter().rev() {
                state.change(DirOp::Unlink(path));
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with("rename to", to, |state| {
            if !state.live.contains_key(from) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.dir(to.parent().unwrap_or(Path::new("/")))?;
            state.change(DirOp::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.with("fsync folder", dir, |state| {
            state.dir(dir)?;
            state.sync_dir(dir)
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.with("stat", path, |state| Ok(path.parent().is_none() || state.live.contains_key(path)))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.with("statvfs", dir, |state| Ok(state.free()))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.with("lock", path, |state| {
            if !state.locks.insert(path.to_owned()) {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "held by another holder of this disk"));
            }
            if !state.live.contains_key(path) {
                state.create(path)?;
            }
            Ok(())
        })?;
        Ok(Lock::new(FaultLock { disk: self.clone(), path: path.to_owned() }))
    }
}
