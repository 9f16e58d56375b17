//! Decides where a window ends. Pure: it is given heads of records in order and the time, and says when and why to close.
//!
//! # Invariants
//! 1. A window never ends inside a batch ([`Stamp::continued`](crate::changelog::record::Stamp)).
//! 2. It is given only records that are at least `settle_ms` old ([`Settling`]), so no window holds a record that a crash of
//!    the store may take back.
//! 3. It is given only records that the store cannot take back by its own rules ([`Horizon`](crate::changelog::Horizon)), and no
//!    window ends between a change that the store lost and its correction.
//! 4. The log's records are synced before the window over them is closed, whatever the log's durability.
//! 5. An empty window is made only when somebody asked for it.
//!
//! # Decisions
//! Ages are counted on a monotonic clock from the moment a record was first seen to be durable, not from its wall time: a
//! machine's clock that steps must neither close a window early nor keep it open. After a restart everything settles anew.

use super::ledger::{Cause, Clocks, Window};
use crate::changelog::RecordHead;
use crate::changelog::record::HeadBody;
use crate::format::jsonl::Bson;
use crate::types::{LogState, Lsn, WindowId};
use std::collections::VecDeque;

/// When a window closes: at the first bound that is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its records in the log.
    pub max_bytes: u64,
    /// Records.
    pub max_records: u64,
    /// Time since its first record.
    pub max_age_ms: u64,
    /// Time without a new record.
    pub idle_ms: u64,
    /// A quiet window stays open until its first record is this old.
    pub min_age_ms: u64,
    /// A quiet window stays open until it has this many bytes.
    pub min_bytes: u64,
    /// A record younger than this is in no window.
    pub settle_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_records: 100_000,
            max_age_ms: 60_000,
            idle_ms: 5_000,
            min_age_ms: 0,
            min_bytes: 0,
            settle_ms: 500,
        }
    }
}

/// Which records are old enough.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// When the log's end was first seen at which record, oldest first.
    seen: VecDeque<Mark>,
    /// Those that are settled and whose records are not taken yet (the horizon holds them back), oldest first.
    waiting: VecDeque<Mark>,
    /// Everything up to here is settled.
    settled: Mark,
    settle_ms: u64,
}

/// The end of the log at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at_ms: u64,
    pub(super) wall_ms: i64,
    pub(super) tail: Lsn,
}

/// Marks that wait one by one; past it the newest stands for those after it.
const WAITING: usize = 1_024;

impl Settling {
    pub(super) fn new(settle_ms: u64) -> Self {
        Self { settle_ms, ..Self::default() }
    }

    /// Takes note of the log's end as it is now.
    pub(super) fn observe(&mut self, now: Mark) {
        if self.newest().tail < now.tail {
            self.seen.push_back(now);
        }
        while let Some(mark) = self.seen.front().filter(|m| m.at_ms + self.settle_ms <= now.at_ms) {
            self.settled = *mark;
            let full = self.waiting.len() >= WAITING;
            match self.waiting.back_mut().filter(|_| full) {
                Some(newest) => newest.tail = mark.tail,
                None => self.waiting.push_back(*mark),
            }
            self.seen.pop_front();
        }
    }

    /// The last record that is old enough.
    pub(super) fn settled(&self) -> Lsn {
        self.settled.tail
    }

    /// When the newest record was first seen.
    pub(super) fn newest(&self) -> Mark {
        self.seen.back().copied().unwrap_or(self.settled)
    }

    /// When the record was first seen, as far as is known.
    pub(super) fn seen_at(&self, lsn: Lsn) -> Mark {
        self.waiting.iter().chain(&self.seen).find(|m| m.tail >= lsn).copied().unwrap_or(self.settled)
    }

    /// Records up to `lsn` were taken.
    pub(super) fn took(&mut self, lsn: Lsn) {
        while self.waiting.front().is_some_and(|m| m.tail <= lsn) {
            self.waiting.pop_front();
        }
    }

    /// The oldest of which no record was taken, or not all.
    pub(super) fn oldest_waiting(&self) -> Option<Mark> {
        self.waiting.front().or(self.seen.front()).copied()
    }
}

/// The window that is open, and the fold of the log up to its last record.
#[derive(Debug)]
pub(super) struct Cutter {
    limits: Limits,
    bson: Bson,
    id: WindowId,
    first: Lsn,
    last: Lsn,
    log_bytes: u64,
    clocks: Option<Clocks>,
    /// When its first record was first seen.
    since_ms: u64,
    continued: bool,
    /// The last record lies between a change that the store lost and its correction.
    forbidden: bool,
    /// At the end of the window before.
    before: LogState,
    state: LogState,
}

impl Cutter {
    /// Goes on after the window `last` of the ledger, at whose end the state was `state`.
    pub(super) fn new(limits: Limits, bson: Bson, last: Option<&Window>, state: &LogState) -> Self {
        let (id, end) = last.map_or((WindowId::ZERO, Lsn::ZERO), |w| (w.id, w.last));
        Self {
            limits,
            bson,
            id: id.next(),
            first: end.next(),
            last: end,
            log_bytes: 0,
            clocks: None,
            since_ms: 0,
            continued: false,
            forbidden: false,
            before: state.clone(),
            state: state.clone(),
        }
    }

    /// The last record taken in.
    pub(super) fn last(&self) -> Lsn {
        self.last
    }

    /// The window that is open, or would be.
    pub(super) fn id(&self) -> WindowId {
        self.id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clocks.is_none()
    }

    /// Whether a window may end after the last record taken.
    pub(super) fn may_close(&self) -> bool {
        !self.continued && !self.forbidden
    }

    /// Wall time of its first record.
    pub(super) fn oldest_wall_ms(&self) -> Option<i64> {
        self.clocks.as_ref().map(|c| c.first_wall_ms)
    }

    /// Takes the next record in; `seen_ms`: when it was first seen; `may_end`: a window may end with it.
    pub(super) fn take(&mut self, record: &RecordHead, seen_ms: u64, may_end: bool) {
        let stamp = &record.head.stamp;
        match &record.head.body {
            HeadBody::Change { ns, before_sha, after_sha, .. } => self.state.apply_change(ns, *before_sha, *after_sha),
            HeadBody::Control(fact) => self.state.apply_control(stamp.lsn, stamp.wall_ms, fact),
        }
        self.last = stamp.lsn;
        self.log_bytes += record.bytes;
        self.continued = stamp.continued;
        self.forbidden = !may_end;
        if let Some(clocks) = &mut self.clocks {
            clocks.last_hlc = stamp.hlc;
            clocks.last_wall_ms = stamp.wall_ms;
        } else {
            let (first_hlc, first_wall_ms) = (stamp.hlc, stamp.wall_ms);
            self.clocks = Some(Clocks { first_hlc, last_hlc: first_hlc, first_wall_ms, last_wall_ms: first_wall_ms });
            self.since_ms = seen_ms;
        }
    }

    /// Whether it is full.
    pub(super) fn full(&self) -> Option<Cause> {
        let records = self.last.0 + 1 - self.first.0;
        self.reached([
            (Cause::Size, self.log_bytes >= self.limits.max_bytes),
            (Cause::Count, records >= self.limits.max_records),
        ])
    }

    /// Whether its time has come, after every settled record was taken. `newest`: the log's end and when it was first seen.
    pub(super) fn ripe(&self, now_ms: u64, newest: Mark) -> Option<Cause> {
        let (age, idle) = (now_ms.saturating_sub(self.since_ms), now_ms.saturating_sub(newest.at_ms));
        let enough = age >= self.limits.min_age_ms && self.log_bytes >= self.limits.min_bytes;
        let quiet = newest.tail == self.last && enough;
        self.reached([(Cause::Age, age >= self.limits.max_age_ms), (Cause::Idle, quiet && idle >= self.limits.idle_ms)])
    }

    fn reached(&self, bounds: [(Cause, bool); 2]) -> Option<Cause> {
        let may = !self.is_empty() && self.may_close();
        bounds.into_iter().find_map(|(cause, is)| (may && is).then_some(cause))
    }

    /// The window as it would be closed now. Nothing changes until [`closed`](Self::closed) is told.
    pub(super) fn window(&self, cause: Cause, label: Option<String>, closed_ms: i64) -> Window {
        Window {
            id: self.id,
            cause,
            label,
            bson: self.bson,
            first: self.first,
            last: self.last,
            log_bytes: self.log_bytes,
            closed_ms,
            clocks: self.clocks.clone(),
            changed: Window::difference(&self.before, &self.state),
            gaps: self.state.gaps.values().cloned().collect(),
        }
    }

    /// The window is durable in the ledger: the next one opens.
    pub(super) fn closed(&mut self) {
        self.id = self.id.next();
        self.first = self.last.next();
        self.log_bytes = 0;
        self.clocks = None;
        self.before.clone_from(&self.state);
    }
}

#[cfg(test)]
mod tests;
