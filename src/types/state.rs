//! The small state that a fold of the log keeps: per namespace the fingerprint, and the open gaps.

use super::{Body, Control, Digest, Lsn, Namespace, Record};
use std::collections::BTreeMap;

/// What the log knows of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceState {
    /// Entities alive.
    pub alive: u64,
    /// Sum modulo 2^256 of the SHA-256 (as big-endian numbers) of the images of the living.
    pub sum: [u8; 32],
    /// The namespace held nothing when first seen (or was dropped since), so `alive` and `sum` are all of it.
    pub complete: bool,
}

impl NamespaceState {
    /// A namespace of which it is known that it holds nothing.
    fn empty() -> Self {
        Self { complete: true, ..Self::default() }
    }

    /// One image is replaced by another; `None` stands for "no entity".
    pub fn replace(&mut self, before: Option<Digest>, after: Option<Digest>) {
        if let Some(before) = before {
            subtract(&mut self.sum, &before.0);
            self.alive = self.alive.saturating_sub(1);
        }
        if let Some(after) = after {
            add(&mut self.sum, &after.0);
            self.alive = self.alive.saturating_add(1);
        }
    }
}

/// An open entry of the gap ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Number, ascending in this log.
    pub id: u64,
    /// What is not proved.
    pub ns: Namespace,
    /// Why.
    pub cause: String,
    /// For a person.
    pub detail: String,
    /// The record that opened it.
    pub since: Lsn,
    /// Wall time of that record, ms since 1970.
    pub since_ms: i64,
}

/// Fold of a log up to some lsn.
///
/// # What a control fact does
/// `Opened` makes a namespace known; said again it can only take completeness away. `Drop` and `DropDatabase` leave known, complete, empty
/// namespaces. `Rename` moves the state and leaves `from` empty; a `from` never seen makes `to` incomplete, for what it held is
/// not in the log. `Completed` makes a known namespace complete. `Create`, `CollMod`, `Reconciled`, `Node`, `Started` change nothing: a `create` may succeed on a collection that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Namespaces seen.
    pub namespaces: BTreeMap<Namespace, NamespaceState>,
    /// Gaps open.
    pub gaps: BTreeMap<u64, Gap>,
}

impl LogState {
    /// Folds one more record; records come in lsn order, each once.
    pub fn apply(&mut self, record: &Record) {
        match &record.body {
            Body::Change(change) => {
                let before = change.before_sha.or_else(|| change.before.as_ref().map(super::Image::sha));
                self.apply_change(&change.ns, before, change.after.as_ref().map(super::Image::sha));
            }
            Body::Control(control) => self.apply_control(record.lsn, record.wall_ms, control),
        }
    }

    /// Folds a change of which only the hashes are at hand.
    pub fn apply_change(&mut self, ns: &Namespace, before: Option<Digest>, after: Option<Digest>) {
        if let Some(state) = self.namespaces.get_mut(ns) {
            state.replace(before, after);
        } else {
            self.namespaces.entry(ns.clone()).or_default().replace(before, after);
        }
    }

    /// Folds a control fact; `lsn` and `wall_ms` are those of its record.
    pub fn apply_control(&mut self, lsn: Lsn, wall_ms: i64, control: &Control) {
        match control {
            Control::Opened { ns, complete } => {
                let fresh = NamespaceState { complete: *complete, ..NamespaceState::default() };
                self.namespaces.entry(ns.clone()).and_modify(|known| known.complete &= complete).or_insert(fresh);
            }
            Control::Drop { ns } => {
                self.namespaces.insert(ns.clone(), NamespaceState::empty());
            }
            Control::DropDatabase { db } => {
                for (_, state) in self.namespaces.iter_mut().filter(|(ns, _)| ns.db() == db) {
                    *state = NamespaceState::empty();
                }
            }
            Control::Rename { from, to } => {
                let moved = self.namespaces.insert(from.clone(), NamespaceState::empty()).unwrap_or_default();
                self.namespaces.insert(to.clone(), moved);
            }
            Control::GapOpened { id, ns, cause, detail } => {
                let gap = Gap {
                    id: *id,
                    ns: ns.clone(),
                    cause: cause.clone(),
                    detail: detail.clone(),
                    since: lsn,
                    since_ms: wall_ms,
                };
                self.gaps.insert(*id, gap);
            }
            Control::GapClosed { id } => {
                self.gaps.remove(id);
            }
            Control::Completed { ns } => {
                if let Some(state) = self.namespaces.get_mut(ns) {
                    state.complete = true;
                }
            }
            Control::Create { .. }
            | Control::CollMod { .. }
            | Control::Reconciled { .. }
            | Control::Node { .. }
            | Control::Started { .. } => {}
        }
    }
}

/// `sum += term` modulo 2^256, big end first.
fn add(sum: &mut [u8; 32], term: &[u8; 32]) {
    let mut carry = false;
    for (digit, term) in sum.iter_mut().zip(term).rev() {
        let (partial, over) = digit.overflowing_add(*term);
        let (total, again) = partial.overflowing_add(u8::from(carry));
        *digit = total;
        carry = over || again;
    }
}

/// `sum -= term` modulo 2^256, big end first.
fn subtract(sum: &mut [u8; 32], term: &[u8; 32]) {
    let mut borrow = false;
    for (digit, term) in sum.iter_mut().zip(term).rev() {
        let (partial, under) = digit.overflowing_sub(*term);
        let (total, again) = partial.overflowing_sub(u8::from(borrow));
        *digit = total;
        borrow = under || again;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(name: &str) -> Namespace {
        Namespace::from_full(name)
    }

    fn fold(controls: &[Control]) -> LogState {
        let mut state = LogState::default();
        for (lsn, control) in (1..).zip(controls) {
            state.apply_control(Lsn(lsn), 9, control);
        }
        state
    }

    fn opened(name: &str, complete: bool) -> Control {
        Control::Opened { ns: ns(name), complete }
    }

    #[test]
    fn sums_wrap_and_come_back() {
        let mut state = NamespaceState::default();
        let (most, one) = (Digest([0xff; 32]), Digest(std::array::from_fn(|n| u8::from(n == 31))));
        state.replace(None, Some(most));
        state.replace(None, Some(one));
        assert_eq!((state.alive, state.sum), (2, [0; 32]));
        state.replace(Some(one), None);
        assert_eq!((state.alive, state.sum), (1, most.0));
        state.replace(Some(most), Some(one));
        assert_eq!((state.alive, state.sum), (1, one.0));
    }

    #[test]
    fn completeness_is_gained_only_by_emptying_or_reading_all() {
        let again = fold(&[opened("a.x", false), opened("a.x", true), opened("a.y", true), opened("a.y", false)]);
        assert!(!again.namespaces[&ns("a.x")].complete && !again.namespaces[&ns("a.y")].complete);
        let dropped = fold(&[opened("a.x", false), Control::Drop { ns: ns("a.x") }]);
        assert_eq!(dropped.namespaces[&ns("a.x")], NamespaceState::empty());
        let read = fold(&[opened("a.x", false), Control::Completed { ns: ns("a.x") }]);
        assert!(read.namespaces[&ns("a.x")].complete);
        let unknown = fold(&[Control::Completed { ns: ns("a.x") }]);
        assert!(unknown.namespaces.is_empty(), "what was never opened has no state to complete");
        let mut unopened = LogState::default();
        unopened.apply_change(&ns("a.x"), None, Some(Digest([1; 32])));
        assert!(!unopened.namespaces[&ns("a.x")].complete);
    }

    #[test]
    fn a_database_is_what_stands_before_the_first_dot() {
        let state = fold(&[
            opened("a.x", false),
            opened("ab.x", false),
            opened("a.b.c", false),
            Control::DropDatabase { db: "a".into() },
        ]);
        let complete: Vec<_> = state.namespaces.values().map(|s| s.complete).collect();
        assert_eq!(complete, [true, true, false], "a.b.c, a.x, ab.x");
    }

    #[test]
    fn a_rename_moves_the_state_and_replaces_the_target() {
        let mut state = fold(&[opened("a.x", true), opened("a.y", false)]);
        state.apply_change(&ns("a.x"), None, Some(Digest([1; 32])));
        state.apply_change(&ns("a.y"), None, Some(Digest([2; 32])));
        let moved = state.namespaces[&ns("a.x")].clone();
        state.apply_control(Lsn(5), 9, &Control::Rename { from: ns("a.x"), to: ns("a.y") });
        assert_eq!((&state.namespaces[&ns("a.y")], &state.namespaces[&ns("a.x")]), (&moved, &NamespaceState::empty()));
        state.apply_control(Lsn(6), 9, &Control::Rename { from: ns("a.unseen"), to: ns("a.y") });
        assert_eq!(state.namespaces[&ns("a.y")], NamespaceState::default(), "what it holds is not in the log");
    }

    #[test]
    fn gaps_open_and_close() {
        let gap = |id| Control::GapOpened { id, ns: ns("a.*"), cause: "out".into(), detail: String::new() };
        let state = fold(&[gap(1), gap(2), Control::GapClosed { id: 1 }]);
        assert_eq!(state.gaps.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!((state.gaps[&2].since, state.gaps[&2].since_ms), (Lsn(2), 9));
    }
}
