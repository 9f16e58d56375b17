//! Marks: which entities and namespaces an open transaction has its hands on.
//!
//! A transaction holds no guard between its statements, but what it has modified is locked in the store until it ends. A mark
//! says so, so that nobody takes a guard and then waits in the store for a transaction that in turn waits for that guard.
//!
//! # Invariants
//! - A mark is placed while the entity's guard is held and lifted when its transaction has ended here: dropped, or its
//!   records staged in the index.
//! - An owner's marks are lifted together; who waits for an owner wakes then.
//! - Marks cost memory by entity, not by key length: an entity is its 128-bit hash (two keyed 64-bit hashes). Two entities of
//!   one hash would make a write wait that need not; nothing else depends on it.

use crate::mutants::{Mutant, mutated};
use crate::types::{EntityKey, Namespace};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::watch;

const SHARDS: u64 = 64;

/// An entity, as marks know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityHash(u128);

/// A transaction that owns marks. Clones mean the same one.
#[derive(Clone, Debug)]
pub struct MarkOwner(Arc<OwnerState>);

#[derive(Debug)]
struct OwnerState {
    /// Its commit was sent and nobody knows whether it took effect.
    unsettled: AtomicBool,
    lifted: watch::Sender<bool>,
}

impl Default for MarkOwner {
    fn default() -> Self {
        Self(Arc::new(OwnerState { unsettled: AtomicBool::new(false), lifted: watch::Sender::new(false) }))
    }
}

impl PartialEq for MarkOwner {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl MarkOwner {
    /// Waits until its marks are lifted.
    pub async fn lifted(&self) {
        let mut lifted = self.0.lifted.subscribe();
        // The sender lives in `self`.
        let _woken = lifted.wait_for(|lifted| *lifted).await;
    }

    /// Its commit was sent: until it is settled, what the store shows of its entities may be its doing.
    pub fn set_unsettled(&self, unsettled: bool) {
        self.0.unsettled.store(unsettled, Ordering::Release);
    }

    /// See [`set_unsettled`](Self::set_unsettled).
    pub fn is_unsettled(&self) -> bool {
        self.0.unsettled.load(Ordering::Acquire)
    }
}

/// Most places have one owner, and there may be millions of places.
#[derive(Debug)]
struct Owners {
    first: MarkOwner,
    #[allow(clippy::box_collection, reason = "an empty vector is three words, and it nearly always is")]
    others: Option<Box<Vec<MarkOwner>>>,
}

impl Owners {
    fn of(first: MarkOwner) -> Self {
        Self { first, others: None }
    }

    fn all(&self) -> impl Iterator<Item = &MarkOwner> {
        std::iter::once(&self.first).chain(self.others.iter().flat_map(|others| others.iter()))
    }

    /// False: it was there.
    fn add(&mut self, owner: &MarkOwner) -> bool {
        let new = self.all().all(|known| known != owner);
        if new {
            self.others.get_or_insert_default().push(owner.clone());
        }
        new
    }

    /// Takes `owner` out, which is in it. True: nobody is left.
    fn leave(&mut self, owner: &MarkOwner) -> bool {
        if self.first != *owner {
            self.others.iter_mut().for_each(|others| others.retain(|o| o != owner));
            return false;
        }
        match self.others.as_mut().and_then(|others| others.pop()) {
            Some(other) => {
                self.first = other;
                false
            }
            None => true,
        }
    }
}

/// The marks of all open transactions.
#[derive(Debug)]
pub struct Marks {
    entities: Vec<Mutex<HashMap<EntityHash, Owners>>>,
    namespaces: Mutex<HashMap<Namespace, Owners>>,
    /// Entities and namespaces marked, so that a write asks for nothing while there is no transaction.
    count: AtomicUsize,
    hashers: [RandomState; 2],
}

impl Default for Marks {
    fn default() -> Self {
        Self::new()
    }
}

impl Marks {
    /// None.
    pub fn new() -> Self {
        Self {
            entities: (0..SHARDS).map(|_| Mutex::default()).collect(),
            namespaces: Mutex::default(),
            count: AtomicUsize::new(0),
            hashers: [RandomState::new(), RandomState::new()],
        }
    }

    /// How marks know an entity.
    pub fn hash(&self, ns: &Namespace, key: &EntityKey) -> EntityHash {
        let [a, b] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one((ns, key))));
        EntityHash(a << 64 | b)
    }

    /// Marks an entity for `owner`; once more does nothing.
    pub fn place(&self, owner: &MarkOwner, entity: EntityHash) {
        let Some(shard) = self.shard(entity).filter(|_| !mutated(Mutant::SkipMarks)) else { return };
        if enter(&mut shard.lock(), entity, owner) {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Marks a namespace for `owner`: it has its hands in it; once more does nothing.
    pub fn enter(&self, owner: &MarkOwner, ns: &Namespace) {
        if enter(&mut self.namespaces.lock(), ns.clone(), owner) {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Lifts all marks of `owner`, which are these, and wakes who waits for it.
    pub fn lift<'n>(
        &self,
        owner: &MarkOwner,
        entities: impl Iterator<Item = EntityHash>,
        namespaces: impl Iterator<Item = &'n Namespace>,
    ) {
        let mut gone = 0;
        for entity in entities {
            let Some(shard) = self.shard(entity) else { continue };
            gone += usize::from(leave(&mut shard.lock(), &entity, owner));
        }
        for ns in namespaces {
            gone += usize::from(leave(&mut self.namespaces.lock(), ns, owner));
        }
        self.count.fetch_sub(gone, Ordering::AcqRel);
        owner.0.lifted.send_replace(true);
    }

    /// Nothing is marked.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// How many marks there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// An owner of a mark on one of the entities that `which` means; under their guards.
    pub fn owner_of(
        &self,
        mut entities: impl Iterator<Item = EntityHash>,
        which: impl Fn(&MarkOwner) -> bool,
    ) -> Option<MarkOwner> {
        if self.is_empty() {
            return None;
        }
        entities.find_map(|entity| {
            let shard = self.shard(entity)?.lock();
            shard.get(&entity)?.all().find(|owner| which(owner)).cloned()
        })
    }

    /// An owner that has its hands in a namespace that `which` means.
    pub fn owner_in(&self, which: impl Fn(&Namespace) -> bool) -> Option<MarkOwner> {
        if self.is_empty() {
            return None;
        }
        let namespaces = self.namespaces.lock();
        let found = namespaces.iter().filter(|(ns, _)| which(ns)).min_by(|a, b| a.0.cmp(b.0));
        found.map(|(_, owners)| owners.first.clone())
    }

    /// The entity is marked by a transaction whose commit was sent and is not settled: what the store shows of it may be
    /// that transaction's doing.
    pub fn is_unsettled(&self, ns: &Namespace, key: &EntityKey) -> bool {
        !self.is_empty() && self.owner_of(std::iter::once(self.hash(ns, key)), MarkOwner::is_unsettled).is_some()
    }

    fn shard(&self, entity: EntityHash) -> Option<&Mutex<HashMap<EntityHash, Owners>>> {
        let place = entity.0 % u128::from(SHARDS);
        self.entities.get(usize::try_from(place).ok()?)
    }
}

/// False: it was there.
fn enter<K: Eq + Hash>(places: &mut HashMap<K, Owners>, place: K, owner: &MarkOwner) -> bool {
    match places.entry(place) {
        Entry::Occupied(mut owners) => owners.get_mut().add(owner),
        Entry::Vacant(free) => {
            free.insert(Owners::of(owner.clone()));
            true
        }
    }
}

/// False: it was not there.
fn leave<K: Eq + Hash>(places: &mut HashMap<K, Owners>, place: &K, owner: &MarkOwner) -> bool {
    let Some(owners) = places.get_mut(place) else { return false };
    if owners.all().all(|known| known != owner) {
        return false;
    }
    if owners.leave(owner) {
        places.remove(place);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(marks: &Marks, id: u8) -> EntityHash {
        marks.hash(&Namespace::new("d", "c"), &EntityKey([id].as_slice().into()))
    }

    #[test]
    fn marks_are_lifted_together_and_leave_nothing() {
        let (marks, owner, other) = (Marks::new(), MarkOwner::default(), MarkOwner::default());
        let ns = Namespace::new("d", "c");
        let (one, two) = (entity(&marks, 1), entity(&marks, 2));
        for _ in 0..2 {
            marks.place(&owner, one);
            marks.place(&owner, two);
            marks.place(&other, two);
            marks.enter(&owner, &ns);
        }
        assert_eq!(marks.len(), 4);
        assert_eq!(marks.owner_of([one].into_iter(), |_| true), Some(owner.clone()));
        assert_eq!(marks.owner_of([one].into_iter(), |o| *o != owner), None);
        assert_eq!(marks.owner_of([one, two].into_iter(), |o| *o != owner), Some(other.clone()));
        assert_eq!(marks.owner_in(|n| n.db() == "d"), Some(owner.clone()));
        marks.lift(&owner, [one, two].into_iter(), [ns].iter());
        assert_eq!((marks.len(), marks.owner_in(|_| true)), (1, None));
        marks.lift(&other, [two].into_iter(), [].iter());
        assert!(marks.is_empty());
    }

    #[test]
    fn only_a_sent_commit_is_unsettled() {
        let (marks, owner) = (Marks::new(), MarkOwner::default());
        let (ns, key) = (Namespace::new("d", "c"), EntityKey([1].as_slice().into()));
        marks.place(&owner, marks.hash(&ns, &key));
        assert!(!marks.is_unsettled(&ns, &key));
        owner.set_unsettled(true);
        assert!(marks.is_unsettled(&ns, &key));
        assert!(!marks.is_unsettled(&ns, &EntityKey([2].as_slice().into())));
    }

    #[tokio::test]
    async fn who_waits_wakes_when_they_are_lifted() {
        let (marks, owner) = (Arc::new(Marks::new()), MarkOwner::default());
        let one = entity(&marks, 1);
        marks.place(&owner, one);
        let waiting = tokio::spawn({
            let owner = owner.clone();
            async move { owner.lifted().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        marks.lift(&owner, [one].into_iter(), [].iter());
        waiting.await.unwrap();
        owner.lifted().await;
    }
}
