//! The pace of one sink: at most so many bytes a second, over all its windows.
//!
//! Promises: bytes that were handed over are paid for before the next window begins, and before the next piece of the same one;
//! the end of a window is never held up, and a wish to stop ends a wait. Does not: bound what is within one piece.

use super::writing::Stop;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// A wait looks for a wish to stop this often.
const LOOK: Duration = Duration::from_millis(50);

/// The pace, and when the next byte may go.
#[derive(Debug)]
pub(super) struct Pace {
    /// 0: no bound.
    bytes_per_second: u64,
    free: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free: Mutex::new(Instant::now()) }
    }

    /// So many bytes went.
    pub(super) fn took(&self, bytes: usize) {
        if self.bytes_per_second > 0 {
            let mut free = self.free.lock();
            *free = Instant::now().max(*free) + self.cost(bytes);
        }
    }

    /// Waits until bytes may go; `false`: told to stop.
    pub(super) fn wait(&self, stop: &Stop) -> bool {
        while !stop.wished() {
            let left = self.free.lock().saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(LOOK));
        }
        false
    }

    fn cost(&self, bytes: usize) -> Duration {
        let micros = (bytes as u128 * 1_000_000).checked_div(u128::from(self.bytes_per_second)).unwrap_or(0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn bytes_cost_time_and_a_stop_ends_the_wait() {
        let wish = Arc::new(AtomicBool::new(false));
        let stop = Stop(Arc::clone(&wish));
        let pace = Pace::new(1_000);
        assert_eq!(pace.cost(2_500), Duration::from_millis(2_500));
        let begun = Instant::now();
        pace.took(100);
        pace.took(100);
        assert!(pace.wait(&stop) && begun.elapsed() >= Duration::from_millis(200), "what went must be paid for");
        pace.took(1_000_000_000);
        wish.store(true, Ordering::Release);
        assert!(!pace.wait(&stop));
    }

    #[test]
    fn no_bound_is_no_wait() {
        let pace = Pace::new(0);
        pace.took(usize::MAX);
        assert!(pace.wait(&Stop(Arc::new(AtomicBool::new(false)))));
    }
}
