//! How fast a sink's bytes go out, and how far the delivery under way is.
//!
//! The bound holds over any stretch longer than a second: what a quiet time saved is forgotten, so a sink that was idle for
//! an hour does not then take an hour's bytes at once. It never holds a thread that was told to stop.

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

    /// When `bytes` more should have gone out, counted from `now`.
    fn took(&self, bytes: u64, now: Instant) -> Instant {
        if self.per_second > 0 {
            let micros = u128::from(bytes) * 1_000_000 / u128::from(self.per_second);
            let cost = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
            let from = now.checked_sub(SAVED).map_or(self.due.get(), |oldest| self.due.get().max(oldest));
            // Past the end of the clock's range there is nothing to wait for.
            self.due.set(from.checked_add(cost).unwrap_or(now));
        }
        self.due.get()
    }

    /// `bytes` were handed over: waits until they should have gone out; `false`: told to stop.
    pub(super) fn wait(&self, bytes: u64, stop: &Stop) -> bool {
        let due = self.took(bytes, Instant::now());
        loop {
            if stop.wished() {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
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
        assert_eq!(pace.took(500, start), start + Duration::from_millis(500));
        assert_eq!(pace.took(1_500, start), start + Duration::from_secs(2));
        let later = start + Duration::from_hours(1);
        assert_eq!(pace.took(3_000, later), later + Duration::from_secs(2));
        assert_eq!(Pace::new(0).took(u64::MAX, start).saturating_duration_since(Instant::now()), Duration::ZERO);
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let stop = Stop(std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)));
        assert!(!Pace::new(1).wait(1_000_000, &stop));
        assert!(Pace::new(0).wait(1_000_000, &Stop(std::sync::Arc::default())));
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
