//! Which events of the change stream are our own: they cost no read.
//!
//! Each change that this sidecar forwarded outside a transaction makes one event, whose time is at most the `operationTime` of its
//! reply. So it is kept, by entity, until an event with such a time came, or the stream is past that time. An event that finds
//! none is somebody else's (or ours, told too late): its entity is verified, which appends nothing if the log knows it all.
//! Transactions are known by session and number, DDL by what it was about.
//!
//! Promises: an event taken for our own though it was foreign makes our own event look foreign in its place, so the number of
//! verifies is never too small; a verify clears its entity.
//!
//! Does not: matter for truth. Everything here may be forgotten at the price of reads.

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Capture;
use crate::types::{Body, Draft, EntityKey, Namespace, Op};

/// More than this is not kept: the stream stands still.
const MOST: usize = 500_000;

/// A session's id and its number.
pub type TxnId = ([u8; 16], i64);

type EntityId = (Namespace, EntityKey);

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct Own {
    on: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entities: HashMap<EntityId, VecDeque<u64>>,
    /// In the order in which they came, to be forgotten.
    order: VecDeque<(u64, EntityId)>,
    transactions: HashMap<TxnId, u64>,
    ddl: Vec<(String, u64)>,
    /// The stream has been judged up to here.
    judged: u64,
}

impl Own {
    /// Takes note of changes that are on their way into the log.
    pub(crate) fn note(&self, drafts: &[Draft]) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let mut kept = self.kept.lock();
        for draft in drafts {
            let Body::Change(change) = &draft.body else { continue };
            match change.operation_time {
                Some(time) if change.op != Op::Observed && change.txn.is_none() => {
                    kept.note((change.ns.clone(), change.key.clone()), time);
                }
                _ => {}
            }
        }
    }

    /// A transaction is committed; without a time it is kept for a minute past the stream.
    pub(crate) fn note_transaction(&self, id: TxnId, time: Option<u64>) {
        if self.on.load(Ordering::Relaxed) {
            let mut kept = self.kept.lock();
            let until = time.unwrap_or(kept.judged.saturating_add(60 << 32));
            kept.transactions.insert(id, until);
        }
    }

    /// A collection, or all of a database (`db.`), was changed by a command of ours.
    pub(crate) fn note_ddl(&self, place: String, time: u64) {
        if self.on.load(Ordering::Relaxed) {
            self.kept.lock().ddl.push((place, time));
        }
    }
}

impl Kept {
    fn note(&mut self, id: EntityId, time: u64) {
        if time <= self.judged {
            return;
        }
        if self.order.len() >= MOST {
            self.entities.clear();
            self.order.clear();
        }
        self.entities.entry(id.clone()).or_default().push_back(time);
        self.order.push_back((time, id));
    }

    fn take(&mut self, id: &EntityId, time: u64) -> bool {
        let Some(times) = self.entities.get_mut(id) else { return false };
        times.retain(|t| *t >= time);
        let ours = times.pop_front().is_some();
        if times.is_empty() {
            self.entities.remove(id);
        }
        ours
    }

    fn past(&mut self, time: u64) {
        self.judged = self.judged.max(time);
        while let Some((_, id)) = self.order.front().filter(|(t, _)| *t < time) {
            if let Some(times) = self.entities.get_mut(id) {
                times.retain(|t| *t >= time);
                if times.is_empty() {
                    self.entities.remove(id);
                }
            }
            self.order.pop_front();
        }
        self.transactions.retain(|_, t| *t >= time);
        self.ddl.retain(|(_, t)| *t >= time);
    }
}

impl Capture {
    /// The change stream is read from now on (or no more): what is our own is kept for it.
    pub fn follow(&self, on: bool) {
        self.own.on.store(on, Ordering::Relaxed);
        *self.own.kept.lock() = Kept::default();
    }

    /// The event of an entity's change at `time` is our own.
    pub fn is_own_change(&self, ns: &Namespace, key: &EntityKey, time: u64) -> bool {
        self.own.kept.lock().take(&(ns.clone(), key.clone()), time)
    }

    /// The event belongs to a transaction of ours.
    pub fn is_own_transaction(&self, id: &TxnId) -> bool {
        self.own.kept.lock().transactions.contains_key(id)
    }

    /// The event of a command on a collection at `time` is our own.
    pub fn is_own_ddl(&self, ns: &Namespace, time: u64) -> bool {
        let database = [ns.db(), "."].concat();
        self.own.kept.lock().ddl.iter().any(|(place, t)| *t >= time && (*place == ns.as_str() || *place == database))
    }

    /// Entities whose events were taken for foreign have been verified: nothing of them is awaited any more.
    pub fn forget_own<'k>(&self, ns: &Namespace, keys: impl Iterator<Item = &'k EntityKey>) {
        let mut kept = self.own.kept.lock();
        for key in keys {
            kept.entities.remove(&(ns.clone(), key.clone()));
        }
    }

    /// The stream has been judged up to `time`.
    pub fn judged(&self, time: u64) {
        self.own.kept.lock().past(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> EntityId {
        (Namespace::new("a", "x"), EntityKey([n].as_slice().into()))
    }

    #[test]
    fn as_many_events_are_ours_as_changes_were() {
        let mut kept = Kept::default();
        kept.note(id(1), 10);
        kept.note(id(1), 12);
        assert!(!kept.take(&id(2), 9));
        assert!(kept.take(&id(1), 10) && kept.take(&id(1), 11), "two changes, two events");
        assert!(!kept.take(&id(1), 12), "a third one is foreign");
        kept.note(id(1), 20);
        assert!(!kept.take(&id(1), 21), "later than any reply of ours");
        assert!(kept.entities.is_empty());
    }

    #[test]
    fn what_the_stream_has_passed_is_forgotten() {
        let mut kept = Kept::default();
        kept.note(id(1), 10);
        kept.note(id(2), 20);
        kept.transactions.insert(([1; 16], 1), 15);
        kept.past(16);
        assert!(!kept.take(&id(1), 10) && kept.take(&id(2), 20));
        assert!(kept.transactions.is_empty() && kept.order.len() == 1);
        kept.note(id(3), 16);
        assert!(!kept.take(&id(3), 16), "its event was judged before the record came");
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut kept = Kept::default();
        for n in 0..=MOST {
            kept.note(id(u8::try_from(n % 200).unwrap()), 1 + n as u64);
        }
        assert_eq!(kept.order.len(), 1);
    }
}
