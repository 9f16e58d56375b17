//! What everything in one schedule shares: the dice of its seed, virtual time, the sidecar's wall clock, the trace.

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tidelog::clock::Clock;
use tokio::time::Instant;

/// Wall time at the start of each schedule, milliseconds since 1970.
const BASE_MS: i64 = 1_790_000_000_000;

/// The shared part of one schedule.
pub(crate) struct World {
    dice: Mutex<SmallRng>,
    began: Instant,
    clock: Mutex<Option<Arc<Clock>>>,
    trace: Option<Mutex<Vec<String>>>,
}

impl World {
    /// Must be called within the schedule's runtime. `traced`: keep a trace.
    pub(crate) fn new(seed: u64, traced: bool) -> Arc<Self> {
        Arc::new(Self {
            dice: Mutex::new(SmallRng::seed_from_u64(seed)),
            began: Instant::now(),
            clock: Mutex::new(None),
            trace: traced.then(Mutex::default),
        })
    }

    /// A number out of `range`.
    pub(crate) fn draw(&self, range: Range<u64>) -> u64 {
        self.dice.lock().random_range(range)
    }

    /// An index below `n`.
    pub(crate) fn index(&self, n: usize) -> usize {
        self.dice.lock().random_range(0..n)
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&self, percent: u64) -> bool {
        percent > 0 && self.draw(0..100) < percent
    }

    /// Milliseconds since the schedule began.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The step from one place to another: mostly short, at times long.
    pub(crate) async fn hop(&self) {
        let ms = match self.draw(0..10) {
            0..=4 => return tokio::task::yield_now().await,
            5..=8 => self.draw(1..6),
            _ => self.draw(6..60),
        };
        self.sleep_ms(ms).await;
    }

    /// Waits, and lets the sidecar's clock follow.
    pub(crate) async fn sleep_ms(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        self.set_clock();
    }

    /// A clock for a new process of the sidecar.
    pub(crate) fn new_clock(&self) -> Arc<Clock> {
        let clock = Clock::manual(BASE_MS);
        *self.clock.lock() = Some(Arc::clone(&clock));
        self.set_clock();
        clock
    }

    fn set_clock(&self) {
        if let Some(clock) = &*self.clock.lock() {
            let now = BASE_MS + i64::try_from(self.now_ms()).unwrap_or(0);
            clock.advance(now - clock.wall_ms());
        }
    }

    /// Seconds since 1970, for the store's cluster time.
    pub(crate) fn secs(&self) -> u32 {
        u32::try_from(BASE_MS / 1000).unwrap_or(0) + u32::try_from(self.now_ms() / 1000).unwrap_or(0)
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let line = format!("{:>6} ms  {}", self.now_ms(), line());
            trace.lock().push(line);
        }
    }

    /// The trace so far.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.as_ref().map(|trace| trace.lock().clone()).unwrap_or_default()
    }
}
