//! Why a window could not be delivered, and whether trying again can help.

use crate::types::{LogId, WindowId};
use std::io;
use std::path::PathBuf;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Try again later: a full disk, a missing mount, a permission that somebody will repair.
    Transient,
    /// Trying again cannot help, or would destroy something: a person has to look.
    Permanent,
}

impl Class {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
        }
    }
}

/// Why a window could not be delivered.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The system refused.
    #[error("export folder: {0}")]
    Io(#[from] io::Error),
    /// What was written does not read back.
    #[error("{} does not read back as it was written", path.display())]
    NotProved {
        /// The file.
        path: PathBuf,
    },
    /// The folder holds the windows of another log.
    #[error("the export folder {} belongs to log {found}, this is log {ours}: choose another folder", dir.display())]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// The log that would export there.
        ours: LogId,
    },
    /// Windows were delivered, but the folder's mark is not there.
    #[error("the export folder {} has no tidelog.json though windows up to {delivered} were delivered: is the volume mounted, is it the right bucket? If they are really lost, remove the sink's checkpoint to deliver everything again", dir.display())]
    Vanished {
        /// The folder.
        dir: PathBuf,
        /// The last window delivered.
        delivered: WindowId,
    },
    /// Windows stand in a folder that no log has marked.
    #[error("the export folder {} holds windows but no tidelog.json: they are not this log's; choose another folder", dir.display())]
    Unmarked {
        /// The folder.
        dir: PathBuf,
    },
    /// The same window is there with other contents.
    #[error("window {window} is in the export folder already with other contents ({}): it is not overwritten; compare it with `tidelog verify`", path.display())]
    Conflict {
        /// The window.
        window: WindowId,
        /// The file that differs.
        path: PathBuf,
    },
    /// The folder holds a window that this log has not closed.
    #[error(
        "the export folder has window {window}, but this log has closed only {closed}: DATA was restored from an older copy, or lost; do not go on with it"
    )]
    Ahead {
        /// The window found.
        window: WindowId,
        /// The last window that the log closed.
        closed: WindowId,
    },
    /// The program was built without this kind of sink.
    #[error("this program was built without sinks of type \"{kind}\": build it with `--features {kind}`")]
    Absent {
        /// The type.
        kind: &'static str,
    },
    /// A server that cannot be reached, is overloaded or failed.
    #[error("{0}")]
    Away(String),
    /// A server or the settings refuse: a person has to change something.
    #[error("{0}")]
    Refused(String),
    /// This record alone is refused.
    #[error("record {lsn} is refused: {reason}")]
    Record {
        /// Its number in the log.
        lsn: crate::types::Lsn,
        /// Why.
        reason: String,
    },
    /// The steps of a delivery came in another order than promised; a defect of this program.
    #[error("the steps of a delivery are out of order: {0}")]
    Order(&'static str),
}

impl SinkError {
    /// Whether trying again can help.
    pub fn class(&self) -> Class {
        match self {
            Self::Io(_) | Self::NotProved { .. } | Self::Vanished { .. } | Self::Away(_) | Self::Order(_) => {
                Class::Transient
            }
            Self::Foreign { .. }
            | Self::Unmarked { .. }
            | Self::Conflict { .. }
            | Self::Ahead { .. }
            | Self::Absent { .. }
            | Self::Refused(_)
            | Self::Record { .. } => Class::Permanent,
        }
    }
}
