//! A bound on how fast the store is read for the sidecar's own sake.

use std::time::Duration;

/// Documents and bytes a second, at most; 0: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Documents.
    pub documents: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Pace {
    /// How many documents to read at once: what a quarter of a second allows, at most `most`.
    pub(super) fn page(self, most: usize) -> usize {
        match self.documents {
            0 => most,
            a_second => usize::try_from(a_second / 4).unwrap_or(most).clamp(1, most),
        }
    }

    /// How long so much should have taken.
    pub(super) fn due(self, documents: u64, bytes: u64) -> Duration {
        let of = |amount: u64, a_second: u64| match a_second {
            0 => Duration::ZERO,
            a_second => Duration::from_micros(amount.saturating_mul(1_000_000) / a_second),
        };
        of(documents, self.documents).max(of(bytes, self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_bound_counts() {
        let pace = Pace { documents: 100, bytes: 1_000 };
        assert_eq!(pace.due(50, 10), Duration::from_millis(500));
        assert_eq!(pace.due(1, 5_000), Duration::from_secs(5));
        assert_eq!((pace.page(1_000), Pace { documents: 1, bytes: 0 }.page(1_000)), (25, 1));
        assert_eq!(Pace::default().due(u64::MAX, u64::MAX), Duration::ZERO);
    }
}
