//! The last segment: the one that is written to, and how the next one is begun.

use super::error::LogError;
use super::identity::Identity;
use super::segment::{self, HEADER_BYTES, Header};
use super::shared::Shared;
use crate::disk::{Disk, DiskFile};
use crate::types::{Hlc, Lsn};
use std::io;
use std::path::Path;

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Tail {
    file: Box<dyn DiskFile>,
    first: Lsn,
    written: u64,
    segment_bytes: u64,
}

impl Tail {
    /// Goes on in a segment that ends, whole, at `written`.
    pub(super) fn reopen(file: Box<dyn DiskFile>, first: Lsn, written: u64, segment_bytes: u64) -> Self {
        Self { file, first, written, segment_bytes }
    }

    /// Makes a segment: header, fsync, fsync of the folder.
    pub(super) fn create(disk: &dyn Disk, dir: &Path, header: &Header, segment_bytes: u64) -> Result<Self, LogError> {
        let made = || {
            let mut file = disk.create_new(&dir.join(segment::name(header.first)))?;
            file.append(&header.encode())?;
            file.sync_all()?;
            disk.sync_dir(dir)?;
            Ok(file)
        };
        let file = made().map_err(LogError::io("begin a segment"))?;
        Ok(Self { file, first: header.first, written: HEADER_BYTES as u64, segment_bytes })
    }

    /// Makes the segment after this one; `last` is the last record of this one, and everything here is durable.
    pub(super) fn next(
        &self,
        shared: &Shared,
        identity: &Identity,
        last: Lsn,
        last_hlc: Hlc,
        created_ms: i64,
    ) -> Result<Self, LogError> {
        let header = Header {
            log_id: identity.log_id,
            epoch: identity.epoch,
            first: last.next(),
            created_ms,
            previous_bytes: self.written,
            previous_hlc: last_hlc,
            previous_first: self.first,
        };
        Self::create(&*shared.disk, &shared.dir, &header, self.segment_bytes)
    }

    /// First record of the segment.
    pub(super) fn first(&self) -> Lsn {
        self.first
    }

    /// Bytes handed to the disk so far, header included.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// No record in it yet.
    pub(super) fn is_empty(&self) -> bool {
        self.written <= HEADER_BYTES as u64
    }

    /// Full with `more` bytes that are still in memory.
    pub(super) fn is_full(&self, more: usize) -> bool {
        self.written + more as u64 >= self.segment_bytes && self.written + more as u64 > HEADER_BYTES as u64
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Cuts off what was appended after the first `written` bytes.
    pub(super) fn cut(&mut self, written: u64) -> io::Result<()> {
        self.file.truncate(written)?;
        self.written = written;
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
