//! Durable copies of the index, so that the log below them may go: `DATA/index-snapshot/<lsn, 20 digits>.tds`.
//!
//! What the log has lost to retention is nowhere but in the index: the `(epoch, seq)` of every entity, dead ones too. The index
//! itself is never synced for its own sake, so before the log is trimmed the index as it is at one record is written here.
//!
//! # Invariants
//! 1. A file is written under a temporary name, fsynced, renamed, and the folder fsynced: under its name it is whole, or the disk
//!    went bad.
//! 2. It holds the rows of [`View`], all as of one lsn, whoever writes to the index meanwhile.
//! 3. The file before it goes only after the new one was read back whole ([`Snapshots::keep`]). One that an earlier process left is
//!    relied on only after [`Snapshots::adopt`].
//! 4. Nothing grows with the number of entities but the file: rows are written and read block by block.
//!
//! It does not decide when a copy is made nor what may be trimmed, and it does not look at the log.
//!
//! # Layout (little-endian)
//! ```text
//! header  "TIDEIDX1"  version u16 = 1  rows' layout u16 = 1 (see `row`)  zero u32  log id [16]  lsn u64
//!         crc32c of these 40 bytes u32
//! block   "TDSB"  kind u8 (1 meta, 2 entities)  zero [3]  number u32  rows u32  length of body u32
//!         crc32c of kind to length and of the body u32  body
//! body    rows { length of key u32  length of value u32  key  value }, keys ascending within a kind
//! footer  "TDSE"  blocks u32  rows of meta u64  rows of entities u64  crc32c of these 20 bytes u32
//! ```
//! Blocks are numbered 1, 2, 3 …, those of `meta` before those of `entities`. `meta` has the rows `log` and `applied`, which say
//! what the header says. After the footer the file ends.
//!
//! # Decisions
//! Rows are copied as they are, neither compressed nor taken apart: half of a row is a hash. An index of ten million entities is a
//! file of about a gigabyte.

mod error;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use error::SnapshotError;
pub(super) use read::Kind;
pub use write::View;

use crate::disk::Disk;
use crate::types::{LogId, Lsn};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXTENSION: &str = ".tds";
const TEMPORARY: &str = ".tds.tmp";

/// The folder of the copies.
#[derive(Clone, Debug)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

/// A copy that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The record that it stands at.
    pub lsn: Lsn,
    /// Bytes of its file.
    pub bytes: u64,
    /// Entities in it, dead ones too.
    pub entities: u64,
}

impl Snapshots {
    /// Those in the folder `dir`, which need not be there.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The records that copies stand at, by their names, the newest first. Nothing is read.
    ///
    /// # Errors
    /// What the system said.
    pub fn list(&self) -> Result<Vec<Lsn>, SnapshotError> {
        let mut found: Vec<Lsn> = self.names()?.iter().filter_map(|name| lsn_of(name)).collect();
        found.sort_unstable();
        found.reverse();
        Ok(found)
    }

    /// Writes the index as `view` has it, durable when this returns; `None`: `stop` said so, nothing is left of it. Blocks.
    ///
    /// # Errors
    /// The index or the system; nothing is left of it.
    pub fn write(&self, view: &View, log: LogId, stop: &dyn Fn() -> bool) -> Result<Option<Whole>, SnapshotError> {
        let io = SnapshotError::io("write");
        self.disk.make_dir(&self.dir).map_err(io)?;
        self.remove_where(|name| name.ends_with(TEMPORARY))?;
        let temporary = self.dir.join(format!("{:020}{TEMPORARY}", view.lsn().0));
        let written = write::write(&*self.disk, &temporary, view, log, stop);
        let whole = match written {
            Ok(Some(whole)) => whole,
            Ok(None) => return self.disk.remove(&temporary).map(|()| None).map_err(SnapshotError::io("remove")),
            Err(error) => {
                // Room for others, where the disk lets us; the next one removes it otherwise.
                self.disk.remove(&temporary).ok();
                return Err(error);
            }
        };
        self.disk.rename(&temporary, &self.path(view.lsn())).map_err(SnapshotError::io("write"))?;
        self.disk.sync_dir(&self.dir).map_err(SnapshotError::io("write"))?;
        Ok(Some(whole))
    }

    /// Reads a copy from its first to its last byte.
    ///
    /// # Errors
    /// It is damaged, of another log or version, not there, or the system said so.
    pub fn check(&self, log: LogId, lsn: Lsn) -> Result<Whole, SnapshotError> {
        self.read(log, lsn, &mut |_, _, _| Ok(()))
    }

    /// [`check`](Self::check), and makes sure that it is there after a power cut, whatever became of the one who wrote it: its bytes
    /// were synced before it had its name, its name may not have been.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn adopt(&self, log: LogId, lsn: Lsn) -> Result<Whole, SnapshotError> {
        let whole = self.check(log, lsn)?;
        self.disk.sync_dir(&self.dir).map_err(SnapshotError::io("sync"))?;
        Ok(whole)
    }

    /// Removes all but this one, which was [checked](Self::check), and what cut writes left.
    ///
    /// # Errors
    /// What the system said.
    pub fn keep(&self, lsn: Lsn) -> Result<(), SnapshotError> {
        self.remove_where(|name| name.ends_with(TEMPORARY) || lsn_of(name).is_some_and(|other| other != lsn))
    }

    /// The bytes of a copy's file; `None`: it is not there.
    ///
    /// # Errors
    /// What the system said.
    pub fn size(&self, lsn: Lsn) -> Result<Option<u64>, SnapshotError> {
        let path = self.path(lsn);
        if !self.disk.exists(&path).map_err(SnapshotError::io("look at"))? {
            return Ok(None);
        }
        let bytes = self.disk.open_read(&path).and_then(|file| file.len()).map_err(SnapshotError::io("look at"))?;
        Ok(Some(bytes))
    }

    /// Gives each row of a copy to `visit`: those of `meta`, then entities, in the order of keys. What was given counts only if this
    /// returns `Ok`.
    pub(super) fn read(&self, log: LogId, lsn: Lsn, visit: &mut read::Visit<'_>) -> Result<Whole, SnapshotError> {
        read::read(&*self.disk, &self.path(lsn), (log, lsn), visit)
    }

    fn path(&self, lsn: Lsn) -> PathBuf {
        self.dir.join(format!("{:020}{EXTENSION}", lsn.0))
    }

    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        match self.disk.list(&self.dir) {
            Ok(names) => Ok(names),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(SnapshotError::io("list")(error)),
        }
    }

    fn remove_where(&self, goes: impl Fn(&str) -> bool) -> Result<(), SnapshotError> {
        let going: Vec<String> = self.names()?.into_iter().filter(|name| goes(name)).collect();
        for name in &going {
            self.disk.remove(&self.dir.join(name)).map_err(SnapshotError::io("remove"))?;
        }
        if going.is_empty() {
            return Ok(());
        }
        self.disk.sync_dir(&self.dir).map_err(SnapshotError::io("remove"))
    }
}

/// The record that a file's name tells; `None`: not the name of a copy.
fn lsn_of(name: &str) -> Option<Lsn> {
    let digits = name.strip_suffix(EXTENSION)?;
    if digits.len() == 20 { digits.parse().ok().map(Lsn) } else { None }
}
