//! The real file system.

use super::{Disk, DiskError, DiskFile, Held, Lock};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

#[derive(Debug)]
struct OsFile {
    file: File,
    path: PathBuf,
    /// Where the next append goes.
    end: u64,
}

impl OsFile {
    fn open(options: &OpenOptions, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let open = || {
            let file = options.open(path)?;
            let end = file.metadata()?.len();
            Ok(Self { file, path: path.to_owned(), end })
        };
        match open() {
            Ok(file) => Ok(Box::new(file)),
            Err(e) => Err(DiskError::wrap("open", path, e)),
        }
    }

    fn told<T>(&self, op: &'static str, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|e| DiskError::wrap(op, &self.path, e))
    }
}

impl DiskFile for OsFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.told("write", self.file.write_all_at(bytes, self.end))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.told("write", self.file.write_all_at(bytes, offset))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.told("read", Err(e)),
            }
        }
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        self.told("stat", self.file.metadata().map(|m| m.len()))
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.told("truncate", self.file.set_len(len))?;
        self.end = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.told("fdatasync", self.file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.told("fsync", self.file.sync_all())
    }
}

#[derive(Debug)]
struct OsLock {
    /// The lock is on the open file: closing it, also by the process's death, gives it back.
    _file: File,
}

impl Held for OsLock {}

fn who_holds(file: &File) -> String {
    let mut text = String::new();
    match file.take(64).read_to_string(&mut text) {
        Ok(n) if n > 0 => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn take_lock(path: &Path) -> io::Result<Lock> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let text = format!("held by another process (pid {})", who_holds(&file));
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        Err(TryLockError::Error(e)) => return Err(e),
    }
    // The text is for a person; only the lock counts, so it needs no sync.
    file.set_len(0)?;
    file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)?;
    Ok(Lock::new(OsLock { _file: file }))
}

impl Disk for OsDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsFile::open(OpenOptions::new().read(true).write(true).create_new(true), path)
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsFile::open(OpenOptions::new().read(true).write(true), path)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsFile::open(OpenOptions::new().read(true), path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path).map_err(|e| DiskError::wrap("read", path, e))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let list = || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(dir)? {
                names.extend(entry?.file_name().into_string().ok());
            }
            names.sort_unstable();
            Ok(names)
        };
        list().map_err(|e| DiskError::wrap("list", dir, e))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| DiskError::wrap("create folder", dir, e))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path).map_err(|e| DiskError::wrap("remove", path, e))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DiskError::wrap("remove folder", dir, e)),
            _ => Ok(()),
        }
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one door to it; callers sync the folder")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to).map_err(|e| DiskError::wrap("rename to", to, e))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // The parent of a relative name is the empty path: the current folder.
        let real = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(real).and_then(|d| d.sync_all()).map_err(|e| DiskError::wrap("fsync folder", dir, e))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists().map_err(|e| DiskError::wrap("stat", path, e))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir).map_err(|e| DiskError::wrap("statvfs", dir, e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        take_lock(path).map_err(|e| DiskError::wrap("lock", path, e))
    }
}
