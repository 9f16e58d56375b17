//! What is known of the export at this moment, for people and probes.

use super::checkpoint::Checkpoint;
use super::dead::DeadLetters;
use super::handle::Shared;
use super::pace::{Delivering, Underway};
use super::tidy::Retained;
use crate::config::Start;
use crate::metrics;
use crate::sink::Class;
use crate::types::{Lsn, WindowId};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// The export at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The last closed window.
    pub closed: WindowId,
    /// Its last record.
    pub closed_lsn: Lsn,
    /// Durable records that are too young for a window.
    pub settling_records: u64,
    /// Why no window can be closed now; empty: it can.
    pub cut_error: String,
    /// Each sink.
    pub sinks: Vec<SinkStatus>,
}

/// One sink at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// Its name.
    pub name: &'static str,
    /// `folder`, `kafka` …
    pub kind: &'static str,
    /// Where it is.
    pub place: String,
    /// The last window proved durable there.
    pub delivered: WindowId,
    /// That window's last record.
    pub checkpoint: Lsn,
    /// Durable records that it does not have.
    pub lag_records: u64,
    /// Age of the oldest of them in ms of wall time; 0: it has all.
    pub lag_ms: u64,
    /// Why the last delivery failed; empty: it did not.
    pub error: String,
    /// A person has to change something; until then it looks again now and then.
    pub stopped: bool,
    /// Failures since the last success.
    pub failures: u32,
    /// Records that it refused and that nobody dropped.
    pub dead_letters: u64,
    /// Whether it is tried.
    pub circuit: Circuit,
    /// The delivery under way.
    pub delivering: Delivering,
    /// What it keeps.
    pub retained: Retained,
}

/// Whether a sink is tried, by the words of circuit breakers; the numbers are those of the metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Circuit {
    /// 0: the last try went well.
    #[default]
    Closed,
    /// 1: it failed, and is being tried again.
    HalfOpen,
    /// 2: it failed, and is left alone for a while.
    Open,
    /// 3: it needs a person, and is looked at now and then.
    Stopped,
}

impl Circuit {
    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half open",
            Self::Open => "open",
            Self::Stopped => "stopped",
        }
    }
}

/// How far a sink is, as its worker tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SinkLive {
    pub(super) position: Option<Checkpoint>,
    pub(super) error: String,
    pub(super) stopped: bool,
    pub(super) failures: u32,
    pub(super) circuit: Circuit,
}

/// A sink as seen from the handle.
#[derive(Debug)]
pub(super) struct SinkSeat {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) place: String,
    /// Where it begins, while it has no position.
    pub(super) start: Start,
    pub(super) live: watch::Sender<SinkLive>,
    pub(super) letters: Arc<Mutex<DeadLetters>>,
    pub(super) underway: Arc<Underway>,
    pub(super) retained: Arc<Mutex<Retained>>,
}

impl SinkSeat {
    pub(super) fn moved(&self, position: Option<Checkpoint>) {
        self.live.send_modify(|live| *live = SinkLive { position, ..SinkLive::default() });
        metrics::SINK_FAILING.set_flag_for(self.name, false);
        self.show(Circuit::Closed, 0);
    }

    /// A try begins: a sink that failed is half open until it is known how it went.
    pub(super) fn trying(&self) {
        if self.live.borrow().failures > 0 {
            self.live.send_modify(|live| live.circuit = Circuit::HalfOpen);
            self.show(Circuit::HalfOpen, self.live.borrow().failures);
        }
    }

    fn show(&self, circuit: Circuit, failures: u32) {
        metrics::SINK_CIRCUIT.set_for(self.name, circuit as u64);
        metrics::SINK_FAILURES.set_for(self.name, u64::from(failures));
    }

    pub(super) fn failed(&self, error: &str, class: Class) {
        let circuit = if class == Class::Permanent { Circuit::Stopped } else { Circuit::Open };
        self.live.send_modify(|live| {
            error.clone_into(&mut live.error);
            live.stopped |= class == Class::Permanent;
            live.failures = live.failures.saturating_add(1);
            live.circuit = circuit;
        });
        self.show(circuit, self.live.borrow().failures);
        metrics::SINK_ERRORS.inc_for(class.name());
        metrics::SINK_FAILING.set_flag_for(self.name, true);
    }
}

/// What the cutter tells.
#[derive(Debug, Default)]
pub(super) struct CutterLive {
    /// The last record taken into a window.
    pub(super) taken: AtomicU64,
    /// Wall times of the oldest record in the open window and of the oldest that settles.
    pub(super) oldest: Mutex<(Option<i64>, Option<i64>)>,
    pub(super) error: Mutex<String>,
}

impl Shared {
    /// Reads it all now, and sets the gauges.
    pub(super) fn status(&self) -> Status {
        let tail = self.log.tail();
        let closed = self.windows.last();
        let closed_lsn = self.windows.get(closed).ok().flatten().map_or(Lsn::ZERO, |w| w.last);
        let settling_records = tail.0.saturating_sub(self.cutter.taken.load(Ordering::Acquire));
        metrics::SETTLING_RECORDS.set(settling_records);
        let sinks = self.sinks.iter().map(|seat| self.sink_status(seat, tail)).collect();
        Status { closed, closed_lsn, settling_records, cut_error: self.cutter.error.lock().clone(), sinks }
    }

    fn sink_status(&self, seat: &SinkSeat, tail: Lsn) -> SinkStatus {
        let live = seat.live.borrow().clone();
        let (delivered, checkpoint) = live.position.map_or((WindowId::ZERO, Lsn::ZERO), |p| (p.window, p.last));
        let lag_records = tail.0.saturating_sub(checkpoint.0);
        let lag_ms = if lag_records == 0 { 0 } else { self.age_of_oldest(delivered) };
        metrics::EXPORT_LAG_RECORDS.set_for(seat.name, lag_records);
        metrics::EXPORT_LAG_SECONDS.set_ms_for(seat.name, i64::try_from(lag_ms).unwrap_or(i64::MAX));
        SinkStatus {
            name: seat.name,
            kind: seat.kind,
            place: seat.place.clone(),
            delivered,
            checkpoint,
            lag_records,
            lag_ms,
            error: live.error,
            stopped: live.stopped,
            failures: live.failures,
            dead_letters: seat.letters.lock().waiting() as u64,
            circuit: live.circuit,
            delivering: seat.underway.now(),
            retained: seat.retained.lock().clone(),
        }
    }

    /// Age of the first record after the window `delivered`, in ms.
    fn age_of_oldest(&self, delivered: WindowId) -> u64 {
        let mut id = delivered.next();
        let mut oldest = None;
        // Empty windows have no clocks; they come by hand, so few follow each other.
        while oldest.is_none() {
            match self.windows.get(id) {
                Ok(Some(window)) => oldest = window.clocks.map(|c| c.first_wall_ms),
                _ => break,
            }
            id = id.next();
        }
        let (open, settling) = *self.cutter.oldest.lock();
        let oldest = oldest.or(open).or(settling);
        oldest.map_or(0, |ms| u64::try_from(self.clock.wall_ms().saturating_sub(ms)).unwrap_or(0))
    }
}
