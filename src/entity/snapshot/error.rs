//! What can go wrong with a copy of the index. None of it costs data as long as the log is not trimmed past it.

use super::super::error::IndexError;
use crate::types::{LogId, Lsn};
use std::io;
use std::path::PathBuf;

/// Why a copy of the index cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The system refused.
    #[error("index snapshot: cannot {op}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// What the disk said, with the path.
        source: io::Error,
    },
    /// The index could not be read.
    #[error("index snapshot: {0}")]
    Index(#[from] Box<IndexError>),
    /// Bytes are not what was written.
    #[error("index snapshot {} is damaged at byte {offset}: {fact}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong there.
        fact: String,
    },
    /// It belongs to another log.
    #[error("index snapshot {} belongs to log {found}, this is log {ours}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The log it belongs to.
        found: LogId,
        /// The log that was opened.
        ours: LogId,
    },
    /// Written by a newer program.
    #[error("index snapshot {} has format version {found}, this program reads 1", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u16,
    },
    /// The name and the contents differ.
    #[error("index snapshot {} says that it stands at record {found}", path.display())]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: Lsn,
    },
}

impl SnapshotError {
    pub(super) fn io(op: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, source }
    }
}
