//! Reading a copy back, each byte checked before it is believed.

use super::super::error::IndexError;
use super::write::{BLOCK, BLOCK_HEAD_BYTES, FOOTER, FOOTER_BYTES, HEADER_BYTES, MAGIC, ROWS, VERSION};
use super::{SnapshotError, Whole};
use crate::disk::{Disk, DiskFile};
use crate::types::{LogId, Lsn};
use std::path::{Path, PathBuf};

/// No block is longer: a row more than [`BLOCK_BYTES`](super::write) with room to spare.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Takes a row.
pub(in crate::entity) type Visit<'v> = dyn FnMut(Kind, &[u8], &[u8]) -> Result<(), IndexError> + 'v;

/// What a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::entity) enum Kind {
    Meta,
    Entity,
}

impl Kind {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Meta => 1,
            Self::Entity => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Meta, Self::Entity].into_iter().find(|kind| kind.code() == code)
    }
}

/// A file being read.
struct From {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    at: u64,
    len: u64,
}

impl From {
    fn damaged(&self, fact: impl Into<String>) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), offset: self.at, fact: fact.into() }
    }

    /// The next bytes; no more than the file has are ever asked for.
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, SnapshotError> {
        if (bytes as u64) > self.len.saturating_sub(self.at) {
            return Err(self.damaged("the file ends early"));
        }
        let mut out = vec![0; bytes];
        let got = self.file.read_at(self.at, &mut out).map_err(SnapshotError::io("read"))?;
        if got != bytes {
            return Err(self.damaged("the file ends early"));
        }
        self.at += bytes as u64;
        Ok(out)
    }
}

pub(super) fn read(
    disk: &dyn Disk,
    path: &Path,
    expected: (LogId, Lsn),
    visit: &mut Visit<'_>,
) -> Result<Whole, SnapshotError> {
    let file = disk.open_read(path).map_err(SnapshotError::io("read"))?;
    let len = file.len().map_err(SnapshotError::io("read"))?;
    let mut from = From { file, path: path.to_owned(), at: 0, len };
    header(&mut from, expected)?;
    let (mut blocks, mut meta, mut entities) = (0_u32, 0_u64, 0_u64);
    let mut last = (Kind::Meta, Vec::new());
    loop {
        let start = from.at;
        let mut head = from.take(BLOCK.len())?;
        if head == FOOTER {
            from.at = start;
            footer(&mut from, blocks, (meta, entities))?;
            return Ok(Whole { lsn: expected.1, bytes: len, entities });
        }
        if head != BLOCK {
            from.at = start;
            return Err(from.damaged("neither a block nor the end stands here"));
        }
        head.extend(from.take(BLOCK_HEAD_BYTES - BLOCK.len())?);
        blocks += 1;
        let block = body(&mut from, &head, blocks)?;
        let mut rest = block.bytes.as_slice();
        for _ in 0..block.rows {
            let Some((key, value)) = row(&mut rest) else { return Err(from.damaged("a row is longer than its block")) };
            let first = meta + entities == 0;
            if !first && (block.kind, key) <= (last.0, last.1.as_slice()) {
                return Err(from.damaged("rows are out of order"));
            }
            last.0 = block.kind;
            last.1.clear();
            last.1.extend_from_slice(key);
            match block.kind {
                Kind::Meta => meta += 1,
                Kind::Entity => entities += 1,
            }
            visit(block.kind, key, value).map_err(Box::new)?;
        }
        if !rest.is_empty() {
            return Err(from.damaged("a block has bytes after its rows"));
        }
    }
}

fn header(from: &mut From, (log, lsn): (LogId, Lsn)) -> Result<(), SnapshotError> {
    let bytes = from.take(HEADER_BYTES)?;
    from.at = 0;
    if !bytes.starts_with(MAGIC) {
        return Err(from.damaged("this is no snapshot of an index"));
    }
    if !is_sealed(&bytes) {
        return Err(from.damaged("the header's checksum does not match"));
    }
    let version = u16_at(&bytes, 8);
    if version != VERSION || u16_at(&bytes, 10) != ROWS {
        let found = version.max(u16_at(&bytes, 10));
        return Err(SnapshotError::Version { path: from.path.clone(), found });
    }
    let id: Option<[u8; 16]> = bytes.get(16..).and_then(<[u8]>::first_chunk).copied();
    let found = LogId(id.unwrap_or_default());
    if found != log {
        return Err(SnapshotError::Foreign { path: from.path.clone(), found, ours: log });
    }
    let at = Lsn(u64_at(&bytes, 32));
    if at != lsn {
        return Err(SnapshotError::Misnamed { path: from.path.clone(), found: at });
    }
    from.at = HEADER_BYTES as u64;
    Ok(())
}

struct Block {
    kind: Kind,
    rows: u32,
    bytes: Vec<u8>,
}

fn body(from: &mut From, head: &[u8], number: u32) -> Result<Block, SnapshotError> {
    let length = usize::try_from(u32_at(head, 16)).unwrap_or(usize::MAX);
    if length > MAX_BODY_BYTES {
        return Err(from.damaged(format!("a block of {length} bytes")));
    }
    let bytes = from.take(length)?;
    let covered = crc32c::crc32c(head.get(BLOCK.len()..BLOCK_HEAD_BYTES - 4).unwrap_or_default());
    if crc32c::crc32c_append(covered, &bytes) != u32_at(head, BLOCK_HEAD_BYTES - 4) {
        return Err(from.damaged("a block's checksum does not match"));
    }
    if u32_at(head, 8) != number {
        return Err(from.damaged(format!("block {} stands where {number} should", u32_at(head, 8))));
    }
    let kind = head.get(4).and_then(|code| Kind::from_code(*code));
    let kind = kind.ok_or_else(|| from.damaged("a block of a kind that this version does not know"))?;
    Ok(Block { kind, rows: u32_at(head, 12), bytes })
}

fn footer(from: &mut From, blocks: u32, rows: (u64, u64)) -> Result<(), SnapshotError> {
    let bytes = from.take(FOOTER_BYTES)?;
    if !is_sealed(&bytes) {
        return Err(from.damaged("the footer's checksum does not match"));
    }
    if (u32_at(&bytes, 4), u64_at(&bytes, 8), u64_at(&bytes, 16)) != (blocks, rows.0, rows.1) {
        return Err(from.damaged("the footer counts other rows than there are"));
    }
    if from.at != from.len {
        return Err(from.damaged("bytes follow the end"));
    }
    Ok(())
}

fn row<'b>(rest: &mut &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
    let (lengths, body) = rest.split_at_checked(8)?;
    let (key, value) = (usize::try_from(u32_at(lengths, 0)).ok()?, usize::try_from(u32_at(lengths, 4)).ok()?);
    let (key, body) = body.split_at_checked(key)?;
    let (value, body) = body.split_at_checked(value)?;
    *rest = body;
    Some((key, value))
}

/// The last four bytes are the CRC of those before.
fn is_sealed(bytes: &[u8]) -> bool {
    let Some((covered, crc)) = bytes.split_last_chunk::<4>() else { return false };
    crc32c::crc32c(covered) == u32::from_le_bytes(*crc)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}
