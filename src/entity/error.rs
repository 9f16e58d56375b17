//! What can go wrong with the index. All of it is *fatal* for writes (no write is forwarded without the index) but
//! costs no data: the index is derived from the log.

use crate::types::Lsn;
use std::path::PathBuf;

/// An error of the index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The storage engine failed.
    #[error("entity index: {op} failed: {source}")]
    Engine {
        /// What was tried.
        op: &'static str,
        /// What the engine said.
        #[source]
        source: fjall::Error,
    },
    /// Another process has the index open.
    #[error("entity index {path}: another process has it open; stop that one first")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be made or removed.
    #[error("entity index {path}: {op} failed: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        op: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A row cannot be read.
    #[error(
        "entity index: a row of `{what}` cannot be read; remove the index folder and start again, it is rebuilt from the log"
    )]
    Damaged {
        /// Which kind of row.
        what: &'static str,
    },
    /// Records must come one after the other.
    #[error("entity index: record {expected} should have been applied next, not {got}")]
    OutOfOrder {
        /// The next record.
        expected: Lsn,
        /// The one that came.
        got: Lsn,
    },
    /// The namespace's name is longer than any store allows.
    #[error("entity index: a namespace of {len} bytes is too long")]
    NamespaceTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The index is gone, and the log no longer reaches back to where it could be made anew.
    #[error(
        "entity index: it cannot be used ({reason}) and cannot be made again: the log starts at record {first}, what was before was \
         removed by retention, and {} holds no whole snapshot that fits ({snapshots}). Lost with it are the number of each entity's last \
         change and which entities there are; counting anew at 1 would give numbers twice. Remedy: restore {} (or the folder of the \
         index) from a copy of this data folder made when the log ended at record {} or later; or move the data folder away and \
         start a new log: the sidecar then reads every namespace again, under a new log id", dir.display(), dir.display(), first.0.saturating_sub(1)
    )]
    Lost {
        /// What is wrong with the index.
        reason: String,
        /// The log's first record.
        first: Lsn,
        /// The folder of the snapshots.
        dir: PathBuf,
        /// What is wrong with each of them.
        snapshots: String,
    },
    /// It lives in memory, for a test; there is nothing to take a snapshot of.
    #[cfg(feature = "model")]
    #[error("entity index: it lives in memory only")]
    InMemory,
    /// An earlier error stopped the index; restart the sidecar.
    #[error(
        "entity index: stopped after an earlier error: {reason}; make room on its disk and restart the sidecar: the start brings it up to the log"
    )]
    Stopped {
        /// That error.
        reason: String,
    },
}

impl IndexError {
    /// For `map_err` on the engine's results.
    pub(super) fn engine(op: &'static str) -> impl FnOnce(fjall::Error) -> Self {
        move |source| Self::Engine { op, source }
    }
}
