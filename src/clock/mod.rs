//! The only reader of the wall clock, and the hybrid clock made from it.
//!
//! # Invariants
//! - [`Clock::tick`] is strictly increasing for the life of the value, whatever the machine's clock does, and after
//!   [`Clock::restore`] it is greater than what was restored.
//! - After [`Clock::observe_cluster_time`] took a foreign time, each later tick is greater than that time, so causality that
//!   drivers gossip (`$clusterTime`) crosses sidecars.
//! - A foreign time may push the clock at most [`DEFAULT_MAX_AHEAD_MS`] (or what was set) past the wall clock; what is further
//!   ahead is ignored and counted ([`Clock::refused`], metric `tidelog_clock_rejected_total`): one machine with a broken clock must not drag
//!   all others into the future.
//!
//! # Decisions
//! The layer of this module is 1, not 0, since it makes the [`Hlc`] of `types`.

use crate::metrics::CLOCK_REJECTED;
use crate::types::Hlc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How far a foreign time may lie ahead of the wall clock unless told otherwise: one hour, in milliseconds.
pub const DEFAULT_MAX_AHEAD_MS: u64 = 3_600_000;

/// More increments than that within one second are taken as that many: 1000 ms times 2^16 steps, less one.
const MAX_INCREMENT: u64 = 65_535_999;

/// The wall clock and the hybrid clock of one log.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    /// The last tick given or merged.
    last: AtomicU64,
    max_ahead_ms: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
enum Source {
    System,
    Manual(AtomicI64),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Arc<Self> {
        Self::with(Source::System)
    }

    /// A clock that stands at `ms` since 1970 until [`Clock::advance`] moves it.
    pub fn manual(ms: i64) -> Arc<Self> {
        Self::with(Source::Manual(AtomicI64::new(ms)))
    }

    fn with(source: Source) -> Arc<Self> {
        Arc::new(Self {
            source,
            last: AtomicU64::new(0),
            max_ahead_ms: AtomicU64::new(DEFAULT_MAX_AHEAD_MS),
            refused: AtomicU64::new(0),
        })
    }

    /// Sets how far ahead of the wall clock a foreign time may lie, in milliseconds.
    pub fn set_max_ahead_ms(&self, ms: u64) {
        self.max_ahead_ms.store(ms, Ordering::Relaxed);
    }

    /// Moves a manual clock by `ms` (which may be negative, as machines' clocks do). A system clock is not moved.
    pub fn advance(&self, ms: i64) {
        if let Source::Manual(now) = &self.source {
            now.fetch_add(ms, Ordering::Relaxed);
        }
    }

    /// Wall time in milliseconds since 1970. May go back.
    #[expect(clippy::disallowed_methods, reason = "this is the one reader of the wall clock")]
    pub fn wall_ms(&self) -> i64 {
        match &self.source {
            Source::System => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
                Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
            },
            Source::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// The next reading: greater than every reading before and every foreign time taken, and not below the wall clock.
    pub fn tick(&self) -> Hlc {
        let now = self.wall_floor() << 16;
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = now.max(last.saturating_add(1));
            match self.last.compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Hlc(next),
                Err(seen) => last = seen,
            }
        }
    }

    /// Merges a `$clusterTime` or `operationTime` (`secs` since 1970, `inc` within that second). `false`: it lay too far
    /// ahead and was ignored.
    pub fn observe_cluster_time(&self, secs: u32, inc: u32) -> bool {
        let ms = u64::from(secs) * 1000;
        let bound = self.wall_floor().saturating_add(self.max_ahead_ms.load(Ordering::Relaxed));
        if ms > bound {
            self.refused.fetch_add(1, Ordering::Relaxed);
            CLOCK_REJECTED.inc();
            return false;
        }
        self.last.fetch_max((ms << 16) + u64::from(inc).min(MAX_INCREMENT), Ordering::AcqRel);
        true
    }

    /// Goes on after `last`, the greatest reading found in the log at start.
    pub fn restore(&self, last: Hlc) {
        self.last.fetch_max(last.0, Ordering::AcqRel);
    }

    /// How many foreign times were ignored because they lay too far ahead.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Wall milliseconds as the hybrid clock takes them: not negative, 48 bits.
    fn wall_floor(&self) -> u64 {
        u64::try_from(self.wall_ms()).unwrap_or(0).min((1 << 48) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_increase_though_the_wall_goes_back() {
        let clock = Clock::manual(1_000);
        let first = clock.tick();
        assert_eq!(first, Hlc(1_000 << 16));
        assert_eq!(clock.tick(), Hlc((1_000 << 16) + 1));
        clock.advance(-500);
        assert_eq!(clock.wall_ms(), 500);
        assert_eq!(clock.tick(), Hlc((1_000 << 16) + 2));
        clock.advance(600);
        assert_eq!(clock.tick(), Hlc(1_100 << 16));
    }

    #[test]
    fn the_counter_carries_into_the_milliseconds() {
        let clock = Clock::manual(1);
        clock.restore(Hlc((1 << 16) + 0xffff));
        assert_eq!(clock.tick(), Hlc(2 << 16));
    }

    #[test]
    fn a_foreign_time_pushes_within_the_bound() {
        let clock = Clock::manual(10_000);
        clock.set_max_ahead_ms(5_000);
        assert!(clock.observe_cluster_time(15, 7));
        assert_eq!(clock.tick(), Hlc((15_000 << 16) + 8));
        assert!(!clock.observe_cluster_time(16, 0));
        assert_eq!((clock.refused(), clock.tick()), (1, Hlc((15_000 << 16) + 9)));
    }

    #[test]
    fn cluster_times_keep_their_order() {
        let clock = Clock::manual(0);
        for (secs, inc) in [(1, 0), (1, 1), (1, 70_000), (2, 0)] {
            let before = clock.tick();
            clock.observe_cluster_time(secs, inc);
            assert!(clock.tick() > before);
        }
    }

    #[test]
    fn a_wall_before_1970_is_zero() {
        assert_eq!(Clock::manual(-5).tick(), Hlc(1));
    }

    #[test]
    fn threads_never_share_a_tick() {
        let clock = Clock::system();
        let mut all: Vec<Hlc> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..2_000).map(|_| clock.tick()).collect::<Vec<_>>())).collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    use proptest::prelude::*;

    /// What can happen to a clock.
    #[derive(Clone, Debug)]
    enum Event {
        Tick,
        /// The machine's clock is set, forwards or back, by a second or by years.
        Jump(i64),
        /// A client gossips a time.
        Gossip(u32, u32),
        /// The process ends; the next one finds the last reading in the log, its machine's clock anywhere.
        Restart(i64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let years = 100_000_000_000_i64;
        prop_oneof![
            6 => Just(Event::Tick),
            2 => (-2_000_i64..2_000).prop_map(Event::Jump),
            1 => (-years..years).prop_map(Event::Jump),
            2 => (0u32..4_000_000_000, 0u32..100_000).prop_map(|(secs, inc)| Event::Gossip(secs, inc)),
            1 => (-years..years).prop_map(Event::Restart),
        ]
    }

    proptest! {
        #[test]
        fn no_jump_no_gossip_and_no_restart_takes_it_back(
            start in 0i64..3_000_000_000_000, events in proptest::collection::vec(event(), 1..300),
        ) {
            let (mut clock, mut wall) = (Clock::manual(start), start);
            let mut last = clock.tick();
            for event in events {
                match event {
                    Event::Tick => {}
                    Event::Jump(ms) => {
                        clock.advance(ms);
                        wall += ms;
                    }
                    Event::Gossip(secs, inc) => {
                        let before = last;
                        let taken = clock.observe_cluster_time(secs, inc);
                        let time = Hlc((u64::from(secs) * 1000) << 16);
                        let bound = u64::try_from(wall).unwrap_or(0) + DEFAULT_MAX_AHEAD_MS;
                        prop_assert_eq!(taken, u64::from(secs) * 1000 <= bound);
                        last = clock.tick();
                        prop_assert!(last > before && (!taken || last > time), "what was gossiped is before what follows");
                    }
                    Event::Restart(at) => {
                        (clock, wall) = (Clock::manual(at), at);
                        clock.restore(last);
                    }
                }
                let next = clock.tick();
                prop_assert!(next > last);
                prop_assert!(next.millis() >= u64::try_from(wall).unwrap_or(0).min((1 << 48) - 1), "not behind the wall");
                last = next;
            }
        }
    }
}
