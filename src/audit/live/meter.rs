//! How fast a read goes, for people: documents over the time that they took, with the pause that pays for the last of them.
//!
//! Promises: under a bound on the rate the meter never tells more than the bound, from the first page on; before there is a stretch
//! of time worth measuring it tells nothing.

use std::time::{Duration, Instant};

/// How long one stretch is. The rate is that of the stretch under way and the one before.
const STRETCH: Duration = Duration::from_secs(2);
/// The least time that is worth measuring.
const LEAST: Duration = Duration::from_millis(100);

/// Documents a second over the last seconds.
#[derive(Debug)]
pub(super) struct Meter {
    /// When the stretch under way began. In the future while the pause of the one before lasts.
    began: Instant,
    documents: u64,
    /// The stretch before.
    before: (u64, Duration),
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, documents: 0, before: (0, Duration::ZERO) }
    }

    /// Takes in the documents of a page that ends `now` and after which there is a pause; gives documents a second. 0: not known yet.
    pub(super) fn add(&mut self, now: Instant, documents: u64, pause: Duration) -> u64 {
        self.documents += documents;
        let took = now.saturating_duration_since(self.began) + pause;
        let rate = rate(self.before.0 + self.documents, self.before.1 + took);
        if took >= STRETCH {
            self.before = (self.documents, took);
            (self.began, self.documents) = (now + pause, 0);
        }
        rate
    }
}

/// Rounded down, so that it never passes a bound; but what moves is not told to stand still.
fn rate(documents: u64, took: Duration) -> u64 {
    if documents == 0 || took < LEAST {
        return 0;
    }
    let a_second = u128::from(documents) * 1_000_000 / took.as_micros();
    u64::try_from(a_second).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_page_is_paid_by_its_pause() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        assert_eq!(meter.add(now + ms(7), 50, ms(243)), 200);
    }

    #[test]
    fn a_bound_is_never_passed() {
        let mut now = Instant::now();
        let mut meter = Meter::new(now);
        for page in 0..100 {
            now += ms(page % 7); // the page itself
            let told = meter.add(now, 50, ms(250 - page % 7));
            assert!((195..=200).contains(&told), "page {page}: {told}");
            now += ms(250 - page % 7) + ms(1); // the pause, and a little more
        }
    }

    #[test]
    fn nothing_is_told_before_there_is_something_to_measure() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        assert_eq!(meter.add(now + ms(3), 1_000, Duration::ZERO), 0);
        assert_eq!(meter.add(now + ms(100), 1_000, Duration::ZERO), 20_000);
        assert_eq!(Meter::new(now).add(now + ms(500), 0, Duration::ZERO), 0);
        assert_eq!(Meter::new(now).add(now + ms(5_000), 1, Duration::ZERO), 1);
    }

    #[test]
    fn it_follows_a_change_within_two_stretches() {
        let mut now = Instant::now();
        let mut meter = Meter::new(now);
        let mut told = 0;
        for documents in [1_000, 1_000, 1_000, 1_000, 10, 10, 10, 10] {
            now += ms(1_000);
            told = meter.add(now, documents, Duration::ZERO);
        }
        assert_eq!(told, 10);
    }
}
