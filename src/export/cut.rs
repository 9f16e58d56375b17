//! Runs the cutter: follows the log, answers those who ask for a cut, makes windows durable in the ledger.

use super::cutter::{Cutter, Limits, Mark, Settling};
use super::error::ExportError;
use super::event::{Markers, Schedule};
use super::handle::Shared;
use super::ledger::{Cause, Ledger, Window};
use crate::changelog::Reader;
use crate::changelog::record::HeadBody;
use crate::format::jsonl::Bson;
use crate::metrics;
use crate::types::{Lsn, WindowId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Someone who wants a window closed.
#[derive(Debug)]
pub(super) struct Request {
    /// What the window is to be called.
    pub(super) label: Option<String>,
    /// Everything up to here belongs into that window or an earlier one.
    pub(super) target: Lsn,
    /// Gets the window's number once it is durable in the ledger; `None`: the schedule asks.
    pub(super) reply: Option<oneshot::Sender<WindowId>>,
}

/// What decides where windows end.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) limits: Limits,
    pub(super) bson: Bson,
    pub(super) markers: Markers,
    pub(super) schedule: Option<Schedule>,
}

/// The one that closes windows.
#[derive(Debug)]
pub(super) struct Cutting {
    shared: Arc<Shared>,
    ledger: Ledger,
    cutter: Cutter,
    settling: Settling,
    reader: Reader,
    requests: VecDeque<Request>,
    markers: Markers,
    schedule: Option<Schedule>,
    /// The label that a marker gives the window which is to close.
    marked: Option<String>,
}

impl Cutting {
    pub(super) fn new(shared: Arc<Shared>, ledger: Ledger, wanted: Wanted) -> Result<Self, ExportError> {
        let Wanted { limits, bson, markers, mut schedule } = wanted;
        let closed = ledger.last().map_or(Lsn::ZERO, |w| w.last);
        let tail = shared.log.tail();
        if tail < closed {
            return Err(ExportError::Shortened { tail, closed });
        }
        let first = shared.log.first();
        if closed.next() < first {
            return Err(ExportError::Behind { closed, first });
        }
        let since_ms = ledger.last().map_or_else(|| shared.clock.wall_ms(), |window| window.closed_ms);
        if let Some(schedule) = &mut schedule {
            schedule.begin(since_ms);
        }
        let settling = Settling::new(limits.settle_ms);
        let cutter = Cutter::new(limits, bson, ledger.last(), ledger.state());
        let reader = shared.log.reader(closed.next());
        Ok(Self {
            shared,
            ledger,
            cutter,
            settling,
            reader,
            requests: VecDeque::new(),
            markers,
            schedule,
            marked: None,
        })
    }

    pub(super) fn ask(&mut self, request: Request) {
        self.requests.push_back(request);
    }

    /// Does all that can be done at `now_ms` (monotonic). After a transient error it may be called again.
    pub(super) fn step(&mut self, now_ms: u64) -> Result<(), ExportError> {
        let wall_ms = self.shared.clock.wall_ms();
        self.settling.observe(Mark { at_ms: now_ms, wall_ms, tail: self.shared.log.tail() });
        if let Some(label) = self.schedule.as_mut().and_then(|schedule| schedule.due(wall_ms)) {
            self.ask(Request { label: Some(label), target: self.shared.log.tail(), reply: None });
        }
        loop {
            self.answer(wall_ms)?;
            if self.marked.is_some() && self.cutter.may_close() {
                self.close(Cause::Marker, self.marked.clone(), wall_ms)?;
                self.marked = None;
            }
            if let Some(cause) = self.cutter.full() {
                self.close(cause, None, wall_ms)?;
            } else if self.cutter.last() < self.settling.settled().min(self.shared.horizon.upto()) && self.take()? {
                // One more; it may have filled the window.
            } else if let Some(cause) = self.cutter.ripe(now_ms, self.settling.newest()) {
                self.close(cause, None, wall_ms)?;
            } else {
                break;
            }
        }
        self.tell();
        Ok(())
    }

    /// Takes the next settled record.
    fn take(&mut self) -> Result<bool, ExportError> {
        let Some(head) = self.reader.next_head()? else { return Ok(false) };
        let seen = self.settling.seen_at(head.head.stamp.lsn);
        self.settling.took(head.head.stamp.lsn);
        if let HeadBody::Change { ns, .. } = &head.head.body
            && self.markers.watch(ns.as_str())
        {
            let record = self.shared.log.read_at(head.head.stamp.lsn, head.offset)?;
            self.marked = self.markers.label(&record).or(self.marked.take());
        }
        self.cutter.take(&head, seen.at_ms, self.shared.horizon.may_end(head.head.stamp.lsn));
        Ok(true)
    }

    /// Answers those whose records are all in windows or in the open one. Without a label, a cut that would be empty is
    /// answered with the last window.
    fn answer(&mut self, wall_ms: i64) -> Result<(), ExportError> {
        while let Some(request) = self.requests.front() {
            if request.target > self.cutter.last() || !self.cutter.may_close() {
                break;
            }
            let label = request.label.clone();
            let mut window = self.shared.windows.last();
            if !self.cutter.is_empty() || label.is_some() || window == WindowId::ZERO {
                window = self.cutter.id();
                let cause = if request.reply.is_some() { Cause::Cut } else { Cause::Schedule };
                self.close(cause, label, wall_ms)?;
            }
            if let Some(reply) = self.requests.pop_front().and_then(|request| request.reply) {
                // Who asked may have gone; the window stands.
                let _gone = reply.send(window);
            }
        }
        Ok(())
    }

    fn close(&mut self, cause: Cause, label: Option<String>, wall_ms: i64) -> Result<(), ExportError> {
        // With a durability below `always` the log may be ahead of its disk; a window must not be.
        let _durable = self.shared.log.sync().wait_blocking()?;
        let window: Window = self.cutter.window(cause, label, wall_ms);
        let (id, first, last) = (window.id, window.first, window.last);
        self.ledger.append(window)?;
        self.cutter.closed();
        self.shared.horizon.passed(last);
        metrics::WINDOWS_CLOSED.inc_for(cause.name());
        tracing::debug!(window = id.0, first = first.0, last = last.0, cause = cause.name(), "window closed");
        self.shared.wake();
        Ok(())
    }

    fn tell(&self) {
        let live = &self.shared.cutter;
        live.taken.store(self.cutter.last().0, Ordering::Release);
        let settling = self.settling.oldest_waiting().map(|mark| mark.wall_ms);
        *live.oldest.lock() = (self.cutter.oldest_wall_ms(), settling);
    }
}
