//! Why windows cannot be closed or delivered.

use super::checkpoint::CheckpointError;
use super::dead::{MAX_LETTERS, MAX_OF_WINDOW};
use super::ledger::LedgerError;
use crate::changelog::LogError;
use crate::format::FormatError;
use crate::sink::{Class, SinkError};
use crate::types::{Lsn, WindowId};

/// A label stands in the ledger and in a manifest for good, so it is short.
pub(super) const MAX_LABEL_BYTES: usize = 1024;

/// Why windows cannot be closed or delivered.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The window ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A sink.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The log is shorter than its windows.
    #[error(
        "the log ends at {tail}, but closed windows hold records up to {closed}: DATA lost a part of the log; nothing is exported from it"
    )]
    Shortened {
        /// The log's end.
        tail: Lsn,
        /// The end of the last window.
        closed: Lsn,
    },
    /// The log begins after its windows.
    #[error(
        "closed windows hold records up to {closed}, but the log begins with {first}: DATA/windows is lost or an older copy than DATA/log; \
         restore it from a copy made when the log ended at record {} or later; nothing is exported from it", first.0.saturating_sub(1)
    )]
    Behind {
        /// The end of the last window.
        closed: Lsn,
        /// The log's first record.
        first: Lsn,
    },
    /// The checkpoint is ahead of the ledger.
    #[error(
        "sink {sink} has window {delivered}, but only {closed} are closed: DATA/windows was lost or restored from an older copy"
    )]
    Ahead {
        /// The sink.
        sink: String,
        /// What it has.
        delivered: WindowId,
        /// The last window closed.
        closed: WindowId,
    },
    /// A new sink is to begin with a window that is far off.
    #[error(
        "sink {sink} is to start with window {first}, but only {closed} are closed: it begins when that one is; \"now\" is the next"
    )]
    Start {
        /// The sink.
        sink: String,
        /// The window.
        first: WindowId,
        /// The last window closed.
        closed: WindowId,
    },
    /// A new sink is to begin with a window whose records are gone.
    #[error(
        "sink {sink} is to start with window {first}, whose records retention removed; the oldest window that the log has whole is \
         {oldest}: use `start = {oldest}` or \"oldest\""
    )]
    Trimmed {
        /// The sink.
        sink: String,
        /// The window.
        first: WindowId,
        /// The oldest window that it can begin with.
        oldest: WindowId,
    },
    /// A record or a file that cannot be written in the sink's form.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Too many records are refused for it to be the records' fault.
    #[error(
        "window {window}: more records are refused than single ones ({MAX_OF_WINDOW} of a window, {MAX_LETTERS} in all): {reason}"
    )]
    Refused {
        /// The window.
        window: WindowId,
        /// Why the last one was.
        reason: String,
    },
    /// The log does not have the record that comes next.
    #[error(
        "window {window} needs record {lsn}, which the log does not have: retention removed it while this sink was not in the settings, \
         or DATA/log is an older copy. Remedy: restore a DATA folder that has it; or let the sink begin anew with `start = \"oldest\"` \
         under a new name and at an empty place: it gets the oldest window that the log still has whole. Until then take it out of \
         the settings: it keeps the log from being trimmed"
    )]
    Missing {
        /// The window.
        window: WindowId,
        /// The record.
        lsn: Lsn,
    },
    /// A manifest that cannot be written as JSON.
    #[error("manifest: {0}")]
    Manifest(#[from] serde_json::Error),
    /// A thread could not be started.
    #[error("a thread for the export: {0}")]
    Thread(std::io::Error),
    /// A label that is too long.
    #[error("a label of {bytes} bytes: at most {MAX_LABEL_BYTES}")]
    Label {
        /// Its length.
        bytes: usize,
    },
    /// The exporter has ended, or a part of it has; why.
    #[error("the export has stopped: {0}")]
    Stopped(String),
}

impl ExportError {
    /// Whether trying again can help.
    pub fn class(&self) -> Class {
        match self {
            Self::Sink(error) => error.class(),
            Self::Ledger(LedgerError::Io(_))
            | Self::Checkpoint(CheckpointError::Io(_))
            | Self::Log(LogError::Io { .. } | LogError::DiskFull { .. }) => Class::Transient,
            _ => Class::Permanent,
        }
    }
}
