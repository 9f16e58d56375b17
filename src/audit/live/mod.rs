//! Who calls `verify` while the sidecar runs, and when: the first read of namespaces, the change stream, catch-up, gaps, comparisons.
//!
//! | file | asks for |
//! |---|---|
//! | `snapshot` | the first read of each namespace that held documents before the sidecar came |
//! | `follower`, `hints` | entities that the change stream says somebody else changed |
//! | `reach` | nothing: it notices that the oplog rolled over what the stream had not read |
//! | `catchup` | everything known, after a time in which nobody looked |
//! | `gaps` | what an open gap covers, until it is proved |
//! | `reconcile`, `bounds` | comparisons: reported, or repaired as well; of a range; scheduled |
//! | `walk` | a namespace whole, page by page at a bounded rate, tried again until it is done |
//! | `meter` | how fast a read goes, for people |
//! | `progress` | where the reads are, for the next process |
//! | `board` | how far everything is, for people |
//!
//! Promises: none of it keeps a client waiting for more than the comparison of one entity; nothing is written to the store;
//! a process that is killed at any point goes on where it was; what ended is in the log as a control record.
//!
//! Does not: decide what is true. That is [`capture`](crate::capture)'s, under the guards.

mod board;
mod bounds;
mod catchup;
mod follower;
mod gaps;
mod hints;
mod meter;
mod pace;
mod progress;
mod reach;
mod reconcile;
mod snapshot;
mod walk;

pub use board::{Board, FollowerTold, Reading, SnapshotTold};
pub use bounds::Bounds;
pub use pace::Pace;
pub use reconcile::{Compared, Report, Request};

use crate::capture::{Capture, CaptureError};
use crate::disk::Disk;
use crate::entity::Index;
use crate::store::{Privileged, PrivilegedError};
use progress::Progress;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Pause after something failed, before it is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What the keeper is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces that the log does not hold whole are read.
    pub snapshot: bool,
    /// How fast everything is read.
    pub pace: Pace,
    /// The change stream is read.
    pub follower: bool,
    /// How long an event waits for our own record.
    pub wait: Duration,
    /// What nobody tells of is looked for by comparing everything.
    pub catch_up: bool,
    /// Time between scheduled comparisons; zero: none.
    pub reconcile_every: Duration,
    /// What part of each namespace they read, of 100.
    pub sample_percent: u64,
}

/// What it works with.
#[derive(Debug)]
pub struct Parts {
    /// `verify`.
    pub capture: Arc<Capture>,
    /// What is there at all.
    pub node: Privileged,
    /// What the log knows.
    pub index: Arc<Index>,
    /// Where progress is kept.
    pub disk: Arc<dyn Disk>,
    /// Its folder.
    pub dir: PathBuf,
    /// How far everything is.
    pub board: Arc<Board>,
}

/// Keeps the log true.
#[derive(Debug)]
pub struct Keeper {
    capture: Arc<Capture>,
    node: Privileged,
    index: Arc<Index>,
    progress: Progress,
    options: Options,
    board: Arc<Board>,
    /// Catch-up is wanted.
    behind: AtomicBool,
    wanted: Notify,
    stop: CancellationToken,
}

/// Why a piece of work did not come to its end.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Node(#[from] PrivilegedError),
    #[error("progress: {0}")]
    Disk(#[from] std::io::Error),
    #[error(
        "{ns} has a default collation: its documents are not in the order of their `_id`s as values; compare it whole"
    )]
    Collated { ns: String },
    #[error("{ns} is not recorded (a view, capped, time series or of the server's own)")]
    NotRecorded { ns: String },
}

impl Keeper {
    /// Puts it together; nothing runs before [`run`](Self::run).
    ///
    /// # Errors
    /// When the folder for progress cannot be made.
    pub fn new(parts: Parts, options: Options, stop: CancellationToken) -> std::io::Result<Arc<Self>> {
        let Parts { capture, node, index, disk, dir, board } = parts;
        let progress = Progress::open(disk, dir, capture.log_id())?;
        let (behind, wanted) = (AtomicBool::new(false), Notify::new());
        Ok(Arc::new(Self { capture, node, index, progress, options, board, behind, wanted, stop }))
    }

    /// Does its work until it is told to stop. What is under way is then left as it is: the next process goes on.
    pub async fn run(self: Arc<Self>) {
        let stop = self.stop.clone();
        let work = async {
            tokio::join!(self.snapshots(), self.gaps(), self.follow(), self.catch_up(), self.schedule());
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }
}
