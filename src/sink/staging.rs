//! A file of a window on its way: written under a temporary name.

use super::SinkError;
use crate::disk::{Disk, DiskFile};
use std::path::{Path, PathBuf};

/// The ending of temporary names.
pub(super) const TEMPORARY: &str = ".tmp";

/// A file being written.
#[derive(Debug)]
pub(super) struct Staging {
    temporary: PathBuf,
    file: Box<dyn DiskFile>,
    bytes: u64,
}

impl Staging {
    /// Starts the file `name` in `dir`; what an earlier try left under the temporary name is removed.
    pub(super) fn new(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Self, SinkError> {
        let temporary = dir.join(format!("{name}{TEMPORARY}"));
        if disk.exists(&temporary)? {
            disk.remove(&temporary)?;
        }
        let file = disk.create_new(&temporary)?;
        Ok(Self { temporary, file, bytes: 0 })
    }

    /// Adds bytes. After an error the file must be started anew.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.file.append(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes the bytes durable; an error too if the length is not what was written.
    pub(super) fn seal(self) -> Result<(), SinkError> {
        self.file.sync_all()?;
        if self.file.len()? != self.bytes {
            return Err(SinkError::NotProved { path: self.temporary });
        }
        Ok(())
    }
}
