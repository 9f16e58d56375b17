//! Which records the store can no longer take back. Pure: it is given what looks found, in order, and says how far it goes.
//!
//! # The proof
//! A record in the log speaks of a write that the node had applied when the log's end `tail` was read. Then the node was asked:
//! it had applied everything up to `last`. The records up to `tail` are proved once a later answer *of the same process*
//! 1. came to a question that was put at least `need_ms` of *seen life* later: the store writes its journal at an interval, so
//!    by then it had written what it had applied; and
//! 2. where the node is a member of a set, tells a majority commit point at or past `last` **in the term of `last`**. By the set's own rule two
//!    histories that share an entry of a term agree on all before it, so what the majority has then holds `last`; in
//!    another term it need not, and the change of term has everything read again instead.
//!
//! # Decisions
//! - Life is counted, not time: between two answers at most [`PULSE_MS`], so a store that was frozen (or a machine that had no
//!   time for it) does not count as having written its journal meanwhile. Each freeze is believed once for a pulse at most, so `need_ms`
//!   wants a pulse more than the journal interval for each freeze that may fall into that time.
//! - Times are those at which a question was put, since an answer proves life only from then on.
//! - A member that tells no commit point (none known) is held to rule 1 only.

use super::look::{Look, OpTime};
use crate::types::Lsn;
use std::collections::VecDeque;

/// More life than this is not believed of one gap between two answers.
pub(super) const PULSE_MS: u64 = 100;
/// Ends of the log that are waited for one by one; past it the newest stands for those after it.
const MARKS: usize = 256;

/// The end of the log at one moment, and what must be seen before it is proved.
#[derive(Clone, Copy, Debug)]
struct Mark {
    tail: Lsn,
    life_ms: u64,
    last: Option<OpTime>,
}

/// The state of the proof for one process in one term.
#[derive(Debug)]
pub(super) struct Proof {
    need_ms: u64,
    life_ms: u64,
    asked_ms: Option<u64>,
    marks: VecDeque<Mark>,
    upto: Lsn,
}

impl Proof {
    /// Everything up to `upto` is proved; a mark is ripe after `need_ms` of life.
    pub(super) fn new(upto: Lsn, need_ms: u64) -> Self {
        Self { need_ms, life_ms: 0, asked_ms: None, marks: VecDeque::new(), upto }
    }

    /// The node is another: what was waited for is not proved by this one.
    pub(super) fn begin_anew(&mut self) {
        self.marks.clear();
        self.asked_ms = None;
    }

    /// Takes an answer to a question put at `asked_ms` (monotonic), after the log ended at `tail`. Gives how far the log is proved.
    pub(super) fn see(&mut self, asked_ms: u64, tail: Lsn, look: &Look) -> Lsn {
        let gap = self.asked_ms.map_or(0, |before| asked_ms.saturating_sub(before));
        self.life_ms += gap.min(PULSE_MS);
        self.asked_ms = Some(asked_ms);
        while let Some(mark) = self.marks.front().filter(|mark| self.holds(mark, look)) {
            self.upto = self.upto.max(mark.tail);
            self.marks.pop_front();
        }
        let newest = self.marks.back().map_or(self.upto, |mark| mark.tail);
        if tail > newest {
            if self.marks.len() >= MARKS {
                self.marks.pop_back();
            }
            self.marks.push_back(Mark { tail, life_ms: self.life_ms, last: look.last });
        }
        self.upto
    }

    fn holds(&self, mark: &Mark, look: &Look) -> bool {
        let lived = self.life_ms - mark.life_ms >= self.need_ms;
        let committed = match (mark.last, look.majority) {
            (Some(last), Some(majority)) => majority.term == last.term && majority.ts >= last.ts,
            _ => true,
        };
        lived && committed
    }

    /// What it waits for, for people.
    pub(super) fn waits_for(&self, look: &Look) -> &'static str {
        match self.marks.front() {
            Some(mark) if self.life_ms - mark.life_ms >= self.need_ms && !self.holds(mark, look) => {
                "a majority of the set does not have the newest writes yet"
            }
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(term: u64, last: u64, majority: u64) -> Look {
        let time = |ts| Some(OpTime { term, ts });
        Look { member: true, primary: true, last: time(last), majority: time(majority), ..Look::default() }
    }

    #[test]
    fn a_record_is_proved_by_life_and_by_the_majority() {
        let mut proof = Proof::new(Lsn(3), 200);
        assert_eq!(proof.see(0, Lsn(5), &member(1, 10, 9)), Lsn(3));
        assert_eq!(proof.see(100, Lsn(6), &member(1, 11, 11)), Lsn(3), "too young");
        assert_eq!(proof.see(200, Lsn(6), &member(1, 12, 12)), Lsn(5));
        assert_eq!(proof.see(300, Lsn(6), &member(1, 12, 10)), Lsn(5), "no majority");
        assert_eq!(proof.waits_for(&member(1, 12, 10)), "a majority of the set does not have the newest writes yet");
        assert_eq!(proof.see(301, Lsn(6), &member(2, 13, 13)), Lsn(5), "another term proves nothing");
        assert_eq!(proof.see(302, Lsn(6), &member(1, 12, 11)), Lsn(6));
    }

    #[test]
    fn silence_is_not_life() {
        let mut proof = Proof::new(Lsn::ZERO, 250);
        let alone = Look::default();
        proof.see(0, Lsn(1), &alone);
        assert_eq!(proof.see(10_000, Lsn(1), &alone), Lsn::ZERO, "it may have been frozen all the while");
        assert_eq!(proof.see(10_100, Lsn(1), &alone), Lsn::ZERO);
        assert_eq!(proof.see(10_150, Lsn(1), &alone), Lsn(1));
    }

    #[test]
    fn marks_are_bounded_and_the_last_stands_for_those_after_it() {
        let mut proof = Proof::new(Lsn::ZERO, 0);
        let stuck = |n: u64| member(1, n, 0);
        for n in 1..2_000 {
            proof.see(n, Lsn(n), &stuck(n));
        }
        assert_eq!(proof.marks.len(), MARKS);
        assert_eq!(proof.see(2_000, Lsn(1_999), &member(1, 2_000, 2_000)), Lsn(1_999));
    }

    #[derive(Clone, Debug)]
    enum Event {
        /// So many writes are applied and logged.
        Writes(u64),
        /// Time passes while the store runs and writes its journal.
        Runs(u64),
        /// Time passes while it is frozen.
        Frozen(u64),
        /// The watch asks; the majority lags by so many writes.
        Asks(u64),
        /// It crashes and loses what is not in its journal.
        Crashes,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (1u64..9).prop_map(Event::Writes),
            4 => (1u64..120).prop_map(Event::Runs),
            1 => (1u64..2_000).prop_map(Event::Frozen),
            8 => (0u64..4).prop_map(Event::Asks),
            1 => Just(Event::Crashes),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        /// A store that writes its journal each 100 ms of its own life never loses what was proved.
        #[test]
        fn what_is_proved_is_never_lost(events in proptest::collection::vec(event(), 1..200)) {
            const JOURNAL_MS: u64 = 100;
            let (mut now, mut life, mut flushed_at) = (0u64, 0u64, 0u64);
            let (mut tail, mut journal) = (0u64, 0u64);
            let mut proof = Proof::new(Lsn::ZERO, JOURNAL_MS + PULSE_MS);
            let mut thawed = None;
            let mut proved = Lsn::ZERO;
            for event in events {
                match event {
                    Event::Writes(n) => tail += n,
                    Event::Runs(ms) => for _ in 0..ms {
                        now += 1;
                        life += 1;
                        if life - flushed_at >= JOURNAL_MS {
                            (journal, flushed_at) = (tail, life);
                        }
                    },
                    // One freeze at a time: the next not before a journal interval and a pulse of life.
                    Event::Frozen(_) if thawed.is_some_and(|at| life - at < 2 * JOURNAL_MS + PULSE_MS) => {}
                    Event::Frozen(ms) => (now, thawed) = (now + ms, Some(life)),
                    Event::Asks(lag) => proved = proof.see(now, Lsn(tail), &member(1, tail, tail.saturating_sub(lag))),
                    Event::Crashes => {
                        prop_assert!(proved.0 <= journal, "proved {} of {journal} written", proved);
                        // What was lost is corrected by records after it, and only then is anything proved again.
                        proof.begin_anew();
                        (journal, flushed_at) = (tail, life);
                    }
                }
            }
            prop_assert!(proved.0 <= journal);
        }
    }
}
