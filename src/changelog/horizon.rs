//! The horizon: up to which record the store itself can no longer take back what the log says.
//!
//! One task proves (the node watch of `audit`), the cutter of `export` obeys: no window holds a record past
//! [`Horizon::upto`], and none ends inside a *forbidden interval*.
//!
//! # Invariants
//! - `upto` never goes back.
//! - An interval `(unproven, record]` is known before `upto` passes `unproven`: between the two stand changes that the store lost and
//!   the records that correct them, so a window that ended there would tell of a state that never lasted. Ending *at*
//!   `unproven` or at `record` is right.
//!
//! It does not: know how a record is proved. It is not durable: it is found anew at each start, from nothing.

use crate::metrics;
use crate::types::Lsn;
use parking_lot::Mutex;
use std::sync::Arc;

/// Shared by the one who proves and those who wait. See the module.
#[derive(Debug)]
pub struct Horizon(Mutex<State>);

#[derive(Debug)]
struct State {
    upto: Lsn,
    /// `(unproven, record)`, in order of `record`.
    forbidden: Vec<(Lsn, Lsn)>,
    held: String,
}

impl Horizon {
    /// Nothing is proved yet; `why`, for people.
    pub fn closed(why: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { upto: Lsn::ZERO, forbidden: Vec::new(), held: why.to_owned() })))
    }

    /// Everything counts as proved: for a log without a store.
    pub fn open() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { upto: Lsn(u64::MAX), forbidden: Vec::new(), held: String::new() })))
    }

    /// The last record that is proved.
    pub fn upto(&self) -> Lsn {
        self.0.lock().upto
    }

    /// Everything up to `lsn` is proved.
    pub fn advance(&self, lsn: Lsn) {
        let mut state = self.0.lock();
        state.upto = state.upto.max(lsn);
        metrics::HORIZON_LSN.set(state.upto.0);
    }

    /// No window ends after `unproven` and before `record`. Call it before [`advance`](Self::advance) passes `unproven`.
    pub fn forbid(&self, unproven: Lsn, record: Lsn) {
        if unproven < record {
            let mut state = self.0.lock();
            state.forbidden.push((unproven, record));
            state.forbidden.sort_by_key(|(_, record)| *record);
        }
    }

    /// Whether a window may end with record `lsn`.
    pub fn may_end(&self, lsn: Lsn) -> bool {
        !self.0.lock().forbidden.iter().any(|(unproven, record)| *unproven < lsn && lsn < *record)
    }

    /// A window ended with `lsn`: intervals before it are of no more use.
    pub fn passed(&self, lsn: Lsn) {
        self.0.lock().forbidden.retain(|(_, record)| *record > lsn);
    }

    /// Why it stands still; empty: it does not, or there is nothing to prove.
    pub fn held(&self) -> String {
        self.0.lock().held.clone()
    }

    /// Says why it stands still (empty: it moves).
    pub fn hold(&self, why: &str) {
        why.clone_into(&mut self.0.lock().held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_never_goes_back() {
        let horizon = Horizon::closed("start");
        assert_eq!((horizon.upto(), horizon.held().as_str()), (Lsn::ZERO, "start"));
        horizon.advance(Lsn(7));
        horizon.advance(Lsn(3));
        assert_eq!(horizon.upto(), Lsn(7));
        assert_eq!(Horizon::open().upto(), Lsn(u64::MAX));
    }

    proptest! {
        #[test]
        fn a_window_ends_at_the_edges_of_an_interval_or_outside(
            intervals in proptest::collection::vec((0u64..40, 0u64..40), 0..6), lsn in 0u64..45, passed in 0u64..45,
        ) {
            let horizon = Horizon::open();
            for (unproven, record) in &intervals {
                horizon.forbid(Lsn(*unproven), Lsn(*record));
            }
            let inside = |at: u64| intervals.iter().any(|(from, to)| *from < at && at < *to);
            prop_assert_eq!(horizon.may_end(Lsn(lsn)), !inside(lsn));
            horizon.passed(Lsn(passed));
            if lsn > passed && !inside(passed) {
                prop_assert_eq!(horizon.may_end(Lsn(lsn)), !inside(lsn), "what lies ahead is still known");
            }
        }
    }
}
