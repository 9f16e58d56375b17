//! What of the log may go. Pure.

use crate::changelog::Extents;
use crate::types::Lsn;

/// What the settings let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Records that are older, ms; 0: none for its age.
    pub(super) age_ms: u64,
    /// The oldest ones of a log that takes more bytes; 0: none for that.
    pub(super) bytes: u64,
}

impl Bounds {
    /// Nothing ever goes.
    pub(super) fn are_none(&self) -> bool {
        self.age_ms == 0 && self.bytes == 0
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The last record of the segments that go.
    pub(super) goes: Option<Lsn>,
    /// The last record of those that would go too, if nobody needed them.
    pub(super) held: Option<Lsn>,
    /// Their bytes.
    pub(super) held_bytes: u64,
    /// The log takes more bytes than it should, because somebody needs them.
    pub(super) over: bool,
}

/// `needs`: the oldest record that somebody needs.
pub(super) fn decide(log: &Extents, now_ms: i64, bounds: Bounds, needs: Lsn) -> Verdict {
    let mut verdict = Verdict::default();
    let mut left = log.open_bytes + log.closed.iter().map(|extent| extent.bytes).sum::<u64>();
    for extent in &log.closed {
        let age_ms = u64::try_from(now_ms.saturating_sub(extent.ended_ms)).unwrap_or(0);
        let old = bounds.age_ms > 0 && age_ms > bounds.age_ms;
        let large = bounds.bytes > 0 && left > bounds.bytes;
        if !(old || large) {
            break;
        }
        if extent.last < needs {
            verdict.goes = Some(extent.last);
        } else {
            verdict.held = Some(extent.last);
            verdict.held_bytes += extent.bytes;
            verdict.over |= large;
        }
        left -= extent.bytes;
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changelog::Extent;

    /// Segments of ten records and 100 bytes, one ended each second from 1 s on; 50 bytes are open.
    fn log(segments: u64) -> Extents {
        let extent = |n: u64| Extent {
            first: Lsn(n * 10 + 1),
            last: Lsn(n * 10 + 10),
            bytes: 100,
            ended_ms: i64::try_from((n + 1) * 1_000).unwrap(),
        };
        Extents { closed: (0..segments).map(extent).collect(), open_bytes: 50 }
    }

    fn verdict(goes: u64, held: u64, held_bytes: u64, over: bool) -> Verdict {
        let some = |lsn: u64| (lsn > 0).then_some(Lsn(lsn));
        Verdict { goes: some(goes), held: some(held), held_bytes, over }
    }

    const NOBODY: Lsn = Lsn(u64::MAX);

    #[test]
    fn nothing_goes_by_default_whatever_there_is() {
        assert!(Bounds { age_ms: 0, bytes: 0 }.are_none());
        assert_eq!(decide(&log(9), 1 << 50, Bounds { age_ms: 0, bytes: 0 }, NOBODY), Verdict::default());
    }

    #[test]
    fn by_age_what_is_older_than_the_bound_and_no_younger_one() {
        let bounds = Bounds { age_ms: 2_000, bytes: 0 };
        assert_eq!(decide(&log(5), 5_000, bounds, NOBODY), verdict(20, 0, 0, false));
        assert_eq!(decide(&log(5), 5_001, bounds, NOBODY), verdict(30, 0, 0, false));
        assert_eq!(decide(&log(5), 0, bounds, NOBODY), Verdict::default(), "a clock that was set back");
        assert_eq!(decide(&log(5), 1 << 50, bounds, NOBODY), verdict(50, 0, 0, false), "the open segment stays");
    }

    #[test]
    fn by_size_until_it_fits_and_no_further() {
        let bounds = |bytes| Bounds { age_ms: 0, bytes };
        assert_eq!(decide(&log(5), 0, bounds(550), NOBODY), Verdict::default());
        assert_eq!(decide(&log(5), 0, bounds(549), NOBODY), verdict(10, 0, 0, false));
        assert_eq!(decide(&log(5), 0, bounds(350), NOBODY), verdict(20, 0, 0, false));
        assert_eq!(decide(&log(5), 0, bounds(1), NOBODY), verdict(50, 0, 0, false));
        assert_eq!(decide(&log(0), 0, bounds(1), NOBODY), Verdict::default());
    }

    #[test]
    fn either_bound_lets_go() {
        assert_eq!(decide(&log(5), 4_001, Bounds { age_ms: 1_000, bytes: 449 }, NOBODY), verdict(30, 0, 0, false));
        assert_eq!(decide(&log(5), 2_001, Bounds { age_ms: 1_000, bytes: 250 }, NOBODY), verdict(30, 0, 0, false));
    }

    #[test]
    fn a_segment_with_a_record_that_is_needed_is_held_and_so_are_those_after_it() {
        let by_size = Bounds { age_ms: 0, bytes: 250 };
        assert_eq!(decide(&log(5), 0, by_size, Lsn(31)), verdict(30, 0, 0, false));
        assert_eq!(decide(&log(5), 0, by_size, Lsn(30)), verdict(20, 30, 100, true));
        assert_eq!(decide(&log(5), 0, by_size, Lsn(1)), verdict(0, 30, 300, true));
        let by_age = Bounds { age_ms: 2_000, bytes: 0 };
        assert_eq!(decide(&log(5), 5_001, by_age, Lsn(15)), verdict(10, 30, 200, false));
        // Held for its age, and within its size.
        assert_eq!(decide(&log(5), 5_001, Bounds { age_ms: 2_000, bytes: 500 }, Lsn(15)), verdict(10, 30, 200, false));
    }
}
