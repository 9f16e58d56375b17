//! How far everything is, for people: read by the admin address, written by those who do the work.

use parking_lot::Mutex;

use super::reconcile::Report;
use crate::metrics;
use crate::types::Namespace;

/// A namespace being read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The namespace.
    pub ns: Namespace,
    /// Documents read.
    pub read: u64,
    /// About how many there are.
    pub estimated: u64,
    /// Documents a second, lately; 0: not known yet.
    pub per_second: u64,
    /// About how long it will still take, ms; 0 while the rate is not known.
    pub left_ms: u64,
}

impl Reading {
    /// Of 100; never 100 before the end.
    pub fn percent(&self) -> u64 {
        match self.estimated {
            0 => 0,
            all => (self.read.saturating_mul(100) / all).min(99),
        }
    }
}

/// The first read of namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotTold {
    /// It is on.
    pub enabled: bool,
    /// Namespaces that the log does not hold whole yet.
    pub waiting: u64,
    /// The one being read.
    pub reading: Option<Reading>,
    /// Why the last try failed; empty: it did not.
    pub error: String,
}

/// The change stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowerTold {
    /// `following`, `off: …` or `waiting: …`; empty: not begun.
    pub state: String,
    /// The time of the last event judged, ms since 1970; 0: none yet.
    pub position_ms: i64,
    /// More events wait.
    pub behind: bool,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    snapshot: Mutex<SnapshotTold>,
    follower: Mutex<FollowerTold>,
    report: Mutex<Report>,
}

impl Board {
    /// The first read of namespaces.
    pub fn snapshot(&self) -> SnapshotTold {
        self.snapshot.lock().clone()
    }

    /// The change stream.
    pub fn follower(&self) -> FollowerTold {
        self.follower.lock().clone()
    }

    /// The last comparison of log and store.
    pub fn report(&self) -> Report {
        self.report.lock().clone()
    }

    /// A new one begins; gives its number.
    pub(super) fn begin_report(&self) -> Result<u64, String> {
        let mut report = self.report.lock();
        if report.run > 0 && !report.ended {
            return Err("a comparison is under way".into());
        }
        *report = Report { run: report.run + 1, ..Report::default() };
        Ok(report.run)
    }

    pub(super) fn with_report(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock());
    }

    pub(super) fn set_follower(&self, change: impl FnOnce(&mut FollowerTold)) {
        change(&mut self.follower.lock());
    }

    pub(super) fn set_snapshot(&self, change: impl FnOnce(&mut SnapshotTold)) {
        let mut told = self.snapshot.lock();
        change(&mut told);
        metrics::SNAPSHOT_WAITING.set(told.waiting);
        metrics::SNAPSHOT_PERCENT.set(told.reading.as_ref().map_or(0, Reading::percent));
    }
}
