//! Commands that write past the entities (`$out`, `$merge`, …): which are under way, how many there were.
//!
//! Promises: a gap closes only if no such command began after the verify that proves it, and none may still be running: one whose
//! connection broke counts as running for as long as the last [look](super::looks) waits.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

use super::Capture;
use super::error::CaptureError;
use crate::types::{Control, Gap, Namespace};

/// How long after its end a command still explains changes that are found.
const RECENT: Duration = Duration::from_secs(10);

/// The commands, by the namespace that they write.
#[derive(Debug, Default)]
pub(crate) struct Foreign(Mutex<HashMap<Namespace, Told>>);

#[derive(Debug, Default)]
struct Told {
    count: u64,
    running: u32,
    /// It is sure that none runs from here on.
    ended: Option<Instant>,
}

/// One under way. Dropped without [`ended`](UnderWay::ended), nobody knows when it ends.
#[derive(Debug)]
pub(crate) struct UnderWay<'f> {
    home: &'f Foreign,
    ns: Namespace,
    unknown: Duration,
}

impl UnderWay<'_> {
    /// The store has answered.
    pub(crate) fn ended(mut self) {
        self.unknown = Duration::ZERO;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(told) = self.home.0.lock().get_mut(&self.ns) {
            told.running = told.running.saturating_sub(1);
            told.ended = told.ended.max(Some(Instant::now() + self.unknown));
        }
    }
}

impl Foreign {
    /// One begins; `unknown`: how long it may go on if its end is never told.
    pub(crate) fn begin(&self, ns: &Namespace, unknown: Duration) -> UnderWay<'_> {
        let mut all = self.0.lock();
        let told = all.entry(ns.clone()).or_default();
        told.count += 1;
        told.running += 1;
        UnderWay { home: self, ns: ns.clone(), unknown }
    }

    /// How many there were in what a gap covers; `None`: one may be running.
    fn mark(&self, gap: &Namespace) -> Option<u64> {
        let now = Instant::now();
        let mut sum = 0;
        for (_, told) in self.0.lock().iter().filter(|(ns, _)| covers(gap, ns)) {
            if told.running > 0 || told.ended.is_some_and(|at| at > now) {
                return None;
            }
            sum += told.count;
        }
        Some(sum)
    }

    /// One is under way, or ended a moment ago.
    fn recent(&self, ns: &Namespace) -> bool {
        let now = Instant::now();
        let all = self.0.lock();
        all.get(ns).is_some_and(|told| told.running > 0 || told.ended.is_some_and(|at| at + RECENT > now))
    }
}

/// What a gap is about: a namespace, a database as `db.*`, or everything as `*.*`.
pub fn covers(gap: &Namespace, ns: &Namespace) -> bool {
    gap == ns || gap.as_str() == "*.*" || (gap.collection() == "*" && gap.db() == ns.db())
}

impl Capture {
    /// To be asked before the verify that shall prove a gap; `None`: what made it may be going on.
    pub fn gap_mark(&self, gap: &Gap) -> Option<u64> {
        self.foreign.mark(&gap.ns)
    }

    /// Closes a gap that a verify has proved which began after `mark` was asked. `false`: it has to be proved once more.
    ///
    /// # Errors
    /// When the log fails.
    pub async fn close_gap(&self, gap: &Gap, mark: u64) -> Result<bool, CaptureError> {
        let _turn = self.gap_turn.lock().await;
        if self.foreign.mark(&gap.ns) != Some(mark) {
            return Ok(false);
        }
        let _durable = self.control(vec![Control::GapClosed { id: gap.id }]).await?;
        Ok(true)
    }

    /// An `$out`, `$merge` or their like explains what is found in `ns` now.
    pub fn is_aggregating(&self, ns: &Namespace) -> bool {
        self.foreign.recent(ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_mark_holds_until_another_begins() {
        let (foreign, ns) = (Foreign::default(), Namespace::new("a", "x"));
        let everywhere = ["a.x", "a.*", "*.*"].map(Namespace::from_full);
        let unknown = Duration::from_millis(300);
        let first = foreign.begin(&ns, unknown);
        assert!(everywhere.iter().all(|gap| foreign.mark(gap).is_none()));
        assert_eq!(foreign.mark(&Namespace::from_full("b.*")), Some(0));
        first.ended();
        assert!(everywhere.iter().all(|gap| foreign.mark(gap) == Some(1)));
        drop(foreign.begin(&ns, unknown));
        assert_eq!(foreign.mark(&ns), None, "its end was not told");
        tokio::time::advance(unknown).await;
        assert_eq!(foreign.mark(&ns), Some(2));
        assert!(foreign.recent(&ns) && !foreign.recent(&everywhere[1]));
    }
}
