//! The file `LOG`: which log this is, its generation, where it starts, and how its last owner left it.

use super::error::LogError;
use super::frame::{u32_at, u64_at};
use crate::disk::Disk;
use crate::types::{Epoch, LogId, Lsn};
use std::path::Path;

/// The file's name.
pub(super) const NAME: &str = "LOG";

const MAGIC: &[u8; 8] = b"TIDELOGI";
const BYTES: usize = 56;

/// How the last owner left the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It was closed, everything synced; the last record is this one.
    Closed(Lsn),
    /// It is open, or its owner died; every acknowledged record had been synced.
    Synced,
    /// It is open, or its owner died; acknowledged records may not have been synced.
    Unsynced,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) log_id: LogId,
    pub(super) epoch: Epoch,
    /// First lsn of the first segment: what is below was removed by retention.
    pub(super) first: Lsn,
    pub(super) left: Left,
}

impl Identity {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (left, tail) = match self.left {
            Left::Synced => (0_u8, Lsn::ZERO),
            Left::Unsynced => (1, Lsn::ZERO),
            Left::Closed(tail) => (2, tail),
        };
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&super::segment::VERSION.to_le_bytes());
        bytes.extend_from_slice(&[left, 0]);
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&self.log_id.0);
        bytes.extend_from_slice(&self.first.0.to_le_bytes());
        bytes.extend_from_slice(&tail.0.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(bytes.len(), BYTES);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        let damaged = |fact: &str| LogError::damaged(NAME, 0, fact);
        let (covered, crc) = bytes.split_at_checked(BYTES - 4).ok_or_else(|| damaged("the file ends early"))?;
        if crc.len() != 4 || !covered.starts_with(MAGIC) {
            return Err(damaged("this is no identity file of a changelog"));
        }
        if crc32c::crc32c(covered) != u32_at(crc, 0) {
            return Err(damaged("the checksum does not match"));
        }
        let version = u16::try_from(u32_at(bytes, 8) & 0xffff).unwrap_or(0);
        if version != super::segment::VERSION {
            return Err(LogError::Version { file: NAME.to_owned(), found: version, known: super::segment::VERSION });
        }
        let tail = Lsn(u64_at(bytes, 40));
        let left = match bytes.get(10) {
            Some(0) => Left::Synced,
            Some(1) => Left::Unsynced,
            Some(2) => Left::Closed(tail),
            _ => return Err(damaged("it was left in a state that this version does not know")),
        };
        let log_id = bytes.get(16..).and_then(<[u8]>::first_chunk).copied().ok_or_else(|| damaged("short"))?;
        Ok(Self { log_id: LogId(log_id), epoch: Epoch(u32_at(bytes, 12)), first: Lsn(u64_at(bytes, 32)), left })
    }

    pub(super) fn save(&self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        disk.replace(&dir.join(NAME), &self.encode()).map_err(LogError::io("write the identity file"))
    }
}
