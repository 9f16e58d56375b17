//! What can go wrong with the log, as facts with their place.

use super::record::RecordError;
use crate::types::Lsn;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the log cannot do what was asked. Cheap to clone: one failure is told to every waiter.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// An operation on a file failed.
    #[error("changelog: {op}: {source}")]
    Io {
        /// What the log was doing.
        op: &'static str,
        /// What the disk said, with the path.
        source: Arc<io::Error>,
    },
    /// A write or sync failed earlier: what the disk holds is not known, so nothing is acknowledged any more.
    #[error(
        "changelog is poisoned, no write is acknowledged any more: {cause}. Remedy: mend the disk, then restart the sidecar; \
         it goes on after the last durable record and verifies what was under way"
    )]
    Poisoned {
        /// The first failure.
        cause: Arc<str>,
    },
    /// The disk is nearly full; writes are refused before they reach the store.
    #[error(
        "the disk of the changelog is nearly full: {free_bytes} bytes free, {min_free_bytes} must stay free. Remedy: free \
         space in {}, or let the exporter catch up so that old segments can go", dir.display()
    )]
    DiskFull {
        /// The log's folder.
        dir: PathBuf,
        /// Free bytes at the last look.
        free_bytes: u64,
        /// The setting.
        min_free_bytes: u64,
    },
    /// Bytes that were durable are not what was written.
    #[error("changelog segment {segment} is damaged at offset {offset}: {fact}. Remedy: {REMEDY}")]
    Damaged {
        /// File name of the segment (or of the identity file).
        segment: String,
        /// Where, in bytes.
        offset: u64,
        /// What is wrong there.
        fact: String,
    },
    /// A file of the log is not there.
    #[error("changelog file {file} is missing: {fact}. Remedy: {REMEDY}")]
    Missing {
        /// Its name.
        file: String,
        /// How we know.
        fact: String,
    },
    /// A file was written by a newer version of the program.
    #[error(
        "changelog file {file} has format version {found}, this program reads {known}. Remedy: use the newer program"
    )]
    Version {
        /// Its name.
        file: String,
        /// The version in the file.
        found: u16,
        /// The version we know.
        known: u16,
    },
    /// Another process or another part of this one has the log open.
    #[error("changelog is in use: {source}. Remedy: stop the other sidecar; two must never write one log")]
    Locked {
        /// What the disk said, with the path and the holder.
        source: Arc<io::Error>,
    },
    /// A record is larger than the format allows.
    #[error("a record of {bytes} bytes does not fit in the changelog (at most {max})")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most a frame may hold.
        max: u64,
    },
    /// The record was removed by retention.
    #[error("record {lsn} was removed by retention; the log starts at {first}")]
    Trimmed {
        /// What was asked for.
        lsn: Lsn,
        /// What the log starts at now.
        first: Lsn,
    },
    /// There is no such record: the place does not hold it, or it is not durable yet.
    #[error("record {lsn} is not at offset {offset}: {fact}")]
    NotThere {
        /// What was asked for.
        lsn: Lsn,
        /// Where.
        offset: u64,
        /// What is there instead.
        fact: String,
    },
    /// The log was closed.
    #[error("changelog is closed")]
    Closed,
}

const REMEDY: &str = "restore the log's folder from a copy; or move it away and start anew: the sidecar then opens a new log \
                      and verifies every namespace against the store. Never edit segments";

impl LogError {
    /// The error's class, which is its metric label: `client` (the caller's doing), `retry` (may go away), `fatal`.
    pub fn class(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } | Self::Trimmed { .. } | Self::NotThere { .. } => "client",
            Self::DiskFull { .. } => "retry",
            Self::Io { .. }
            | Self::Poisoned { .. }
            | Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::Version { .. }
            | Self::Locked { .. }
            | Self::Closed => "fatal",
        }
    }

    pub(super) fn io(op: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, source: Arc::new(source) }
    }

    pub(super) fn damaged(segment: impl Into<String>, offset: u64, fact: impl Into<String>) -> Self {
        Self::Damaged { segment: segment.into(), offset, fact: fact.into() }
    }

    pub(super) fn undecodable(segment: String, offset: u64, error: &RecordError) -> Self {
        Self::Damaged { segment, offset, fact: error.to_string() }
    }
}
