//! An index as it is at one record, and its way into a file.

use super::super::error::IndexError;
use super::super::index::Index;
use super::super::rows::Rows;
use super::read::Kind;
use super::{SnapshotError, Whole};
use crate::disk::{Disk, DiskFile};
use crate::types::{LogId, Lsn};
use fjall::{Keyspace, Readable as _, Snapshot};
use std::path::Path;

pub(super) const MAGIC: &[u8; 8] = b"TIDEIDX1";
pub(super) const VERSION: u16 = 1;
/// The version of the rows' own layout.
pub(super) const ROWS: u16 = 1;
pub(super) const BLOCK: &[u8; 4] = b"TDSB";
pub(super) const FOOTER: &[u8; 4] = b"TDSE";
pub(super) const HEADER_BYTES: usize = 44;
pub(super) const BLOCK_HEAD_BYTES: usize = 24;
pub(super) const FOOTER_BYTES: usize = 28;

/// A block is written when its rows take this many bytes.
const BLOCK_BYTES: usize = 256 * 1024;

/// So many bytes are synced together: one sync of a whole large file would hold up the syncs of the log beside it.
const SYNC_BYTES: u64 = 4 << 20;

/// All rows of an index as of one record. While it is held, the engine keeps what later records replace: do not hold it for long.
pub struct View {
    lsn: Lsn,
    rows: Snapshot,
    entities: Keyspace,
    meta: Keyspace,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("lsn", &self.lsn).finish_non_exhaustive()
    }
}

impl View {
    /// The last record applied.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }
}

impl Index {
    /// The index as it is now, for [`Snapshots::write`](super::Snapshots::write). Whoever applies records waits for it only as long as
    /// it takes to ask.
    ///
    /// # Errors
    /// The index is stopped, or lives in memory only.
    pub fn view(&self) -> Result<View, IndexError> {
        self.healthy()?;
        // Not in the middle of a rename, whose rows come before its record.
        let _writer = self.writer.lock();
        match &self.rows {
            Rows::Engine(engine) => Ok(View {
                lsn: self.applied(),
                rows: engine.db.snapshot(),
                entities: engine.entities.clone(),
                meta: engine.meta.clone(),
            }),
            #[cfg(feature = "model")]
            Rows::Memory(_) => Err(IndexError::InMemory),
        }
    }
}

pub(super) fn write(
    disk: &dyn Disk,
    path: &Path,
    view: &View,
    log: LogId,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Whole>, SnapshotError> {
    let mut file = disk.create_new(path).map_err(SnapshotError::io("write"))?;
    let mut out = Out { file: &mut *file, bytes: 0, synced: 0, blocks: 0, body: Vec::new(), rows: 0 };
    out.append(&header(log, view.lsn))?;
    let mut counts = [0_u64; 2];
    for ((kind, keyspace), count) in [(Kind::Meta, &view.meta), (Kind::Entity, &view.entities)].iter().zip(&mut counts)
    {
        for guard in view.rows.iter(keyspace) {
            let row = guard.into_inner().map_err(IndexError::engine("read for a snapshot"));
            let (key, value) = row.map_err(Box::new)?;
            if out.push(*kind, &key, &value)? && stop() {
                return Ok(None);
            }
            *count += 1;
        }
        out.end_block(*kind)?;
    }
    let [meta, entities] = counts;
    let footer = footer(out.blocks, meta, entities);
    out.append(&footer)?;
    let bytes = out.bytes;
    file.sync_all().map_err(SnapshotError::io("write"))?;
    Ok(Some(Whole { lsn: view.lsn, bytes, entities }))
}

fn header(log: LogId, lsn: Lsn) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&ROWS.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&log.0);
    out.extend_from_slice(&lsn.0.to_le_bytes());
    sealed(out)
}

fn footer(blocks: u32, meta: u64, entities: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(FOOTER_BYTES);
    out.extend_from_slice(FOOTER);
    out.extend_from_slice(&blocks.to_le_bytes());
    out.extend_from_slice(&meta.to_le_bytes());
    out.extend_from_slice(&entities.to_le_bytes());
    sealed(out)
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The file being written.
struct Out<'f> {
    file: &'f mut dyn DiskFile,
    bytes: u64,
    synced: u64,
    blocks: u32,
    body: Vec<u8>,
    rows: u32,
}

impl Out<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.append(bytes).map_err(SnapshotError::io("write"))?;
        self.bytes += bytes.len() as u64;
        if self.bytes - self.synced >= SYNC_BYTES {
            self.file.sync_data().map_err(SnapshotError::io("write"))?;
            self.synced = self.bytes;
        }
        Ok(())
    }

    /// Takes a row in; `true`: with it a block was written.
    fn push(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> Result<bool, SnapshotError> {
        for part in [key, value] {
            self.body.extend_from_slice(&length(part).to_le_bytes());
        }
        self.body.extend_from_slice(key);
        self.body.extend_from_slice(value);
        self.rows += 1;
        if self.body.len() < BLOCK_BYTES {
            return Ok(false);
        }
        self.end_block(kind).map(|()| true)
    }

    fn end_block(&mut self, kind: Kind) -> Result<(), SnapshotError> {
        if self.rows == 0 {
            return Ok(());
        }
        self.blocks += 1;
        let mut head = Vec::with_capacity(BLOCK_HEAD_BYTES);
        head.extend_from_slice(BLOCK);
        head.extend_from_slice(&[kind.code(), 0, 0, 0]);
        for number in [self.blocks, self.rows, length(&self.body)] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        let covered = crc32c::crc32c(head.get(BLOCK.len()..).unwrap_or_default());
        head.extend_from_slice(&crc32c::crc32c_append(covered, &self.body).to_le_bytes());
        let body = std::mem::take(&mut self.body);
        self.append(&head)?;
        self.append(&body)?;
        self.body = body;
        self.body.clear();
        self.rows = 0;
        Ok(())
    }
}

/// Rows are far below 4 GiB: the engine takes no key above 64 KiB and values of a few hundred bytes are what we give it.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
