//! The loops of the export's threads: when to step, and what to do when a step fails.
//!
//! After a transient failure the next try waits a random time up to a bound that doubles (full jitter), so that many
//! sidecars do not come back to a mended server at the same moment. After a permanent one the sink counts as stopped; it is
//! looked at again now and then, so that it goes on without a restart once a person mended it. The cutter ends.

use super::cut::{Cutting, Request};
use super::error::ExportError;
use super::handle::Shared;
use super::worker::{Progress, Worker};
use crate::sink::Class;
use rand::RngExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The cutter looks at the log this often.
const LOOK: Duration = Duration::from_millis(20);
/// A worker looks for a stop or a window at least this often.
const IDLE: Duration = Duration::from_secs(1);
/// The gauges are set this often.
const GAUGES: Duration = Duration::from_millis(500);

/// Starts the thread that closes windows.
pub(super) fn cut(
    shared: Arc<Shared>,
    cutting: Cutting,
    inbox: flume::Receiver<Request>,
) -> Result<JoinHandle<()>, ExportError> {
    let run = move || {
        let end = End { shared: &shared, seat: None };
        run_cutter(&shared, cutting, &inbox);
        drop(end);
    };
    thread::Builder::new().name("export-cut".into()).spawn(run).map_err(ExportError::Thread)
}

/// Starts the thread that serves one sink.
pub(super) fn deliver(shared: Arc<Shared>, seat: usize, worker: Worker) -> Result<JoinHandle<()>, ExportError> {
    let run = move || {
        let end = End { shared: &shared, seat: Some(seat) };
        run_worker(&shared, seat, worker);
        drop(end);
    };
    thread::Builder::new().name("export-sink".into()).spawn(run).map_err(ExportError::Thread)
}

/// Says that a thread ended, however it ended, unless it was told to or said why itself.
struct End<'s> {
    shared: &'s Shared,
    seat: Option<usize>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let stopping = self.shared.stop.load(Ordering::Acquire);
        let why = if stopping { "the sidecar is ending" } else { "its thread ended without a reason" };
        match self.seat.map(|seat| self.shared.sinks.get(seat)) {
            None => {
                let mut error = self.shared.cutter.error.lock();
                if error.is_empty() {
                    why.clone_into(&mut error);
                }
            }
            Some(Some(seat)) if !seat.live.borrow().stopped => seat.live.send_modify(|live| {
                live.stopped = true;
                why.clone_into(&mut live.error);
            }),
            Some(_) => {}
        }
    }
}

fn run_cutter(shared: &Shared, mut cutting: Cutting, inbox: &flume::Receiver<Request>) {
    let start = Instant::now();
    let now_ms = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (mut failures, mut not_before, mut gauges) = (0, start, start);
    while !shared.stop.load(Ordering::Acquire) {
        match inbox.recv_timeout(LOOK) {
            Ok(request) => cutting.ask(request),
            Err(flume::RecvTimeoutError::Timeout) => {}
            Err(flume::RecvTimeoutError::Disconnected) => return,
        }
        inbox.drain().for_each(|request| cutting.ask(request));
        if Instant::now() < not_before {
            continue;
        }
        match cutting.step(now_ms()) {
            Ok(()) => {
                failures = 0;
                shared.cutter.error.lock().clear();
            }
            Err(error) => {
                failures += 1;
                tracing::error!(%error, failures, "no window can be closed");
                *shared.cutter.error.lock() = error.to_string();
                if error.class() == Class::Permanent {
                    return;
                }
                not_before = Instant::now() + backoff(shared.retry_ms, failures);
            }
        }
        if gauges.elapsed() >= GAUGES {
            gauges = Instant::now();
            shared.status();
        }
    }
}

fn run_worker(shared: &Shared, seat: usize, mut worker: Worker) {
    let Some(seat) = shared.sinks.get(seat) else { return };
    let (mut failures, mut heard) = (0, 0);
    while !shared.stop.load(Ordering::Acquire) {
        seat.trying();
        let pause = match worker.step(shared.clock.wall_ms()) {
            Ok(Progress::Stopped) => return,
            Ok(progress) => {
                failures = 0;
                if progress == Progress::Delivered || seat.live.borrow().failures > 0 {
                    seat.moved(worker.position());
                }
                if matches!(progress, Progress::Delivered | Progress::Again) { Duration::ZERO } else { IDLE }
            }
            Err(error) => {
                failures += 1;
                let class = error.class();
                tracing::error!(%error, sink = seat.name, failures, class = class.name(), "a window was not delivered");
                seat.failed(&error.to_string(), class);
                // Somebody may mend what is outside of us; nothing is written before the sink was opened and checked anew.
                if class == Class::Permanent {
                    Duration::from_millis(shared.retry_ms.1)
                } else {
                    backoff(shared.retry_ms, failures)
                }
            }
        };
        heard = rest(shared, heard, pause, failures > 0);
    }
}

/// Waits; a failing worker is not woken by new windows, only by the end.
fn rest(shared: &Shared, mut heard: u64, pause: Duration, failing: bool) -> u64 {
    let until = Instant::now() + pause;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || shared.stop.load(Ordering::Acquire) {
            return heard;
        }
        let rung = shared.wait(heard, left);
        if rung != heard && !failing {
            return rung;
        }
        heard = rung;
    }
}

fn backoff((first, greatest): (u64, u64), failures: u32) -> Duration {
    let bound = first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(greatest);
    Duration::from_millis(rand::rng().random_range(0..=bound))
}
