//! A file of a window on its way: written under a temporary name, hashed as it goes.

use super::SinkError;
use crate::disk::{Disk, DiskFile};
use crate::types::Digest;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// The ending of temporary names.
pub(super) const TEMPORARY: &str = ".tmp";

/// A file being written.
#[derive(Debug)]
pub struct Staging {
    name: String,
    temporary: PathBuf,
    file: Box<dyn DiskFile>,
    hash: Sha256,
    bytes: u64,
}

/// A file whose bytes are durable under its temporary name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFile {
    /// The name it will have.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

impl Staging {
    /// Starts the file `name` in `dir`; what an earlier try left under the temporary name is removed.
    pub(super) fn new(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Self, SinkError> {
        let temporary = dir.join(format!("{name}{TEMPORARY}"));
        if disk.exists(&temporary)? {
            disk.remove(&temporary)?;
        }
        let file = disk.create_new(&temporary)?;
        Ok(Self { name: name.to_owned(), temporary, file, hash: Sha256::new(), bytes: 0 })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// What the system said; the file must then be started anew.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.file.append(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes the bytes durable.
    ///
    /// # Errors
    /// What the system said, or a length that is not what was written; the file must then be started anew.
    pub fn seal(self) -> Result<SealedFile, SinkError> {
        self.file.sync_all()?;
        if self.file.len()? != self.bytes {
            return Err(SinkError::NotProved { path: self.temporary });
        }
        Ok(SealedFile { name: self.name, bytes: self.bytes, sha256: Digest(self.hash.finalize().into()) })
    }
}
