//! Which window of a sink may go: the decision alone, without doing it.
//!
//! # The rules
//! 1. A window is due when it was closed longer ago than the bound says, or when the windows from it on have more bytes than the bound
//!    says.
//! 2. Only the oldest goes, one at a time; never the newest.
//! 3. A window is held by a consumer that is not done with it, and by records that it lacks and that somebody may still retry: the
//!    amendment would lack its window.

use crate::types::WindowId;
use std::collections::BTreeMap;

/// How long and how much a sink keeps; 0: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) age_ms: u64,
    pub(super) bytes: u64,
}

impl Bounds {
    /// Whether windows ever go.
    pub(super) fn any(self) -> bool {
        self.age_ms > 0 || self.bytes > 0
    }
}

/// A window that is at the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) bytes: u64,
    /// When it was closed, ms since 1970.
    pub(super) closed_ms: i64,
}

/// What holds a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowHolder {
    /// A consumer that is done with the windows up to this one.
    Consumer {
        /// Its name.
        name: String,
        /// The last window that it is done with.
        done: WindowId,
    },
    /// Dead letters of the window that wait, or were asked for.
    DeadLetters,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing is due.
    Keep,
    /// This window goes.
    Remove(WindowId),
    /// Windows are due, and held.
    Held(Held),
}

/// Windows that are due and cannot go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The first of them.
    pub first: WindowId,
    /// How many.
    pub windows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The sink has more bytes than it should.
    pub too_large: bool,
    /// Who holds the first of them.
    pub by: Vec<WindowHolder>,
}

/// Decides about the windows `kept`; `reading`: the consumers and what each is done with; `lacks`: whether letters of a window wait.
pub(super) fn decide(
    bounds: Bounds,
    kept: &BTreeMap<WindowId, Kept>,
    reading: &[(String, WindowId)],
    lacks: impl FnOnce(WindowId) -> bool,
    now_ms: i64,
) -> Decision {
    let total: u64 = kept.values().map(|kept| kept.bytes).sum();
    let (mut left, mut held) = (total, Held::default());
    for (window, kept) in kept.iter().take(kept.len().saturating_sub(1)) {
        let age = u64::try_from(now_ms.saturating_sub(kept.closed_ms)).unwrap_or(0);
        let old = bounds.age_ms > 0 && age > bounds.age_ms;
        let large = bounds.bytes > 0 && left > bounds.bytes;
        if !old && !large {
            break;
        }
        if held.windows == 0 {
            held.first = *window;
        }
        held.windows += 1;
        held.bytes += kept.bytes;
        left -= kept.bytes;
    }
    if held.windows == 0 {
        return Decision::Keep;
    }
    let not_done = reading.iter().filter(|(_, done)| *done < held.first);
    held.by = not_done.map(|(name, done)| WindowHolder::Consumer { name: name.clone(), done: *done }).collect();
    if lacks(held.first) {
        held.by.push(WindowHolder::DeadLetters);
    }
    if held.by.is_empty() {
        return Decision::Remove(held.first);
    }
    held.too_large = bounds.bytes > 0 && total > bounds.bytes;
    Decision::Held(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows 3 to 7 of 100 bytes, closed at 3,000 to 7,000 ms.
    fn kept() -> BTreeMap<WindowId, Kept> {
        (3..=7).map(|n| (WindowId(n), Kept { bytes: 100, closed_ms: 1_000 * i64::try_from(n).unwrap() })).collect()
    }

    fn asked(age_ms: u64, bytes: u64, reading: &[(&str, u64)], lacks: &[u64], now_ms: i64) -> Decision {
        let reading: Vec<_> = reading.iter().map(|(name, done)| ((*name).to_owned(), WindowId(*done))).collect();
        decide(Bounds { age_ms, bytes }, &kept(), &reading, |window| lacks.contains(&window.0), now_ms)
    }

    #[test]
    fn the_oldest_goes_when_it_is_due() {
        assert_eq!(asked(0, 0, &[], &[], 1 << 40), Decision::Keep, "no bound");
        assert_eq!(asked(5_000, 0, &[], &[], 8_000), Decision::Keep, "at the bound");
        assert_eq!(asked(5_000, 0, &[], &[], 8_001), Decision::Remove(WindowId(3)));
        assert_eq!(asked(0, 500, &[], &[], 0), Decision::Keep);
        assert_eq!(asked(0, 499, &[], &[], 0), Decision::Remove(WindowId(3)));
        assert_eq!(asked(1, 0, &[], &[], -5), Decision::Keep, "a clock that was set back");
    }

    #[test]
    fn the_newest_never_goes() {
        let one: BTreeMap<_, _> = kept().into_iter().skip(4).collect();
        let bounds = Bounds { age_ms: 1, bytes: 1 };
        assert_eq!(decide(bounds, &one, &[], |_| false, 1 << 40), Decision::Keep);
        assert_eq!(decide(bounds, &BTreeMap::new(), &[], |_| false, 1 << 40), Decision::Keep);
    }

    #[test]
    fn who_is_not_done_holds_and_is_named() {
        assert_eq!(asked(1, 0, &[("a", 3), ("b", 9)], &[], 1 << 40), Decision::Remove(WindowId(3)));
        let Decision::Held(held) = asked(1, 0, &[("a", 2), ("b", 3), ("c", 0)], &[3], 1 << 40) else { panic!() };
        let consumer = |name: &str, done| WindowHolder::Consumer { name: name.into(), done: WindowId(done) };
        assert_eq!(held.by, [consumer("a", 2), consumer("c", 0), WindowHolder::DeadLetters]);
        assert_eq!((held.first, held.windows, held.bytes, held.too_large), (WindowId(3), 4, 400, false));
        let Decision::Held(held) = asked(0, 250, &[("a", 2)], &[], 0) else { panic!() };
        assert_eq!((held.windows, held.bytes, held.too_large), (3, 300, true));
        assert_eq!(asked(1, 0, &[], &[4], 1 << 40), Decision::Remove(WindowId(3)), "letters of a later window");
    }
}
