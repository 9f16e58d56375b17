//! How fast a sink's bytes go out, and how far the delivery under way is.
//!
//! The bound holds over any stretch longer than a second: what a quiet time saved is forgotten, so a sink that was idle for
//! an hour does not then take an hour's bytes at once. What the last bytes of a window cost is waited for before the next
//! window begins, so that a sink's transaction is not held open for it. It never holds a thread that was told to stop.

use super::writing::Stop;
use crate::types::WindowId;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A thread that waits looks for the wish to stop this often.
const SLICE: Duration = Duration::from_millis(50);
/// A bound that was not used for so long starts anew.
const SAVED: Duration = Duration::from_secs(1);

/// The bound of one sink.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second; 0: no bound.
    per_second: u64,
    /// When everything handed over so far should have gone out.
    due: Cell<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: u64) -> Self {
        Self { per_second, due: Cell::new(Instant::now()) }
    }

    /// `bytes` were handed over.
    pub(super) fn took(&self, bytes: u64) {
        self.took_at(bytes, Instant::now());
    }

    fn took_at(&self, bytes: u64, now: Instant) {
        if self.per_second > 0 {
            let micros = u128::from(bytes) * 1_000_000 / u128::from(self.per_second);
            let cost = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
            let from = now.checked_sub(SAVED).map_or(self.due.get(), |oldest| self.due.get().max(oldest));
            // Past the end of the clock's range there is nothing to wait for.
            self.due.set(from.checked_add(cost).unwrap_or(now));
        }
    }

    /// Waits until everything handed over should have gone out; `false`: told to stop.
    pub(super) fn wait(&self, stop: &Stop) -> bool {
        loop {
            if stop.wished() {
                return false;
            }
            let left = self.due.get().saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}

/// The delivery under way, written by the sink's thread and read by those who ask.
#[derive(Debug, Default)]
pub(super) struct Underway {
    window: AtomicU64,
    done: AtomicU64,
    of: AtomicU64,
}

/// How far the delivery of a window is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivering {
    /// The window; zero: none is being delivered.
    pub window: WindowId,
    /// Records of the log that were read for it.
    pub done: u64,
    /// Records of the log that it covers.
    pub of: u64,
}

impl Underway {
    pub(super) fn begin(&self, window: WindowId, of: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.of.store(of, Ordering::Relaxed);
        self.window.store(window.0, Ordering::Release);
    }

    pub(super) fn at(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.window.store(0, Ordering::Release);
    }

    /// As it is now. Numbers of two windows may mix for a moment.
    pub(super) fn now(&self) -> Delivering {
        let window = WindowId(self.window.load(Ordering::Acquire));
        if window == WindowId::ZERO {
            return Delivering::default();
        }
        let of = self.of.load(Ordering::Relaxed);
        Delivering { window, done: self.done.load(Ordering::Relaxed).min(of), of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_out_at_the_bound_and_idle_time_is_not_saved_up() {
        let pace = Pace::new(1_000);
        let start = pace.due.get();
        let took = |bytes, now| {
            pace.took_at(bytes, now);
            pace.due.get()
        };
        assert_eq!(took(500, start), start + Duration::from_millis(500));
        assert_eq!(took(1_500, start), start + Duration::from_secs(2));
        let later = start + Duration::from_hours(1);
        assert_eq!(took(3_000, later), later + Duration::from_secs(2));
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let stop = Stop(std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)));
        let (slow, free) = (Pace::new(1), Pace::new(0));
        slow.took(1_000_000);
        free.took(u64::MAX);
        assert!(!slow.wait(&stop));
        assert!(free.wait(&Stop(std::sync::Arc::default())));
    }

    #[test]
    fn a_delivery_tells_how_far_it_is() {
        let under = Underway::default();
        assert_eq!(under.now(), Delivering::default());
        under.begin(WindowId(7), 10);
        under.at(4);
        assert_eq!(under.now(), Delivering { window: WindowId(7), done: 4, of: 10 });
        under.end();
        assert_eq!(under.now().window, WindowId::ZERO);
    }
}
