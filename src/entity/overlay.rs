//! What is staged and not yet in the index, in memory.
//!
//! # Invariants
//! - An entity's entry stands here from its [`Overlay::stage`] until a record with that `(epoch, seq)` or a later one was
//!   applied, so a reader that looks here first never sees the past.
//! - Its size is that of the log's queue and the indexer's queue, both bounded; it has no bound of its own.

use super::index::Entry;
use crate::metrics::INDEX_OVERLAY_ENTRIES;
use crate::types::{EntityKey, Epoch, Namespace, Seq};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};

const SHARDS: u64 = 64;

type EntityId = (Namespace, EntityKey);

#[derive(Debug)]
pub(super) struct Overlay {
    shards: Vec<Mutex<HashMap<EntityId, Entry>>>,
    hasher: RandomState,
}

impl Overlay {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    pub(super) fn get(&self, id: &EntityId) -> Option<Entry> {
        self.shard(id)?.lock().get(id).copied()
    }

    pub(super) fn stage(&self, id: EntityId, entry: Entry) {
        let Some(shard) = self.shard(&id) else { return };
        if shard.lock().insert(id, entry).is_none() {
            INDEX_OVERLAY_ENTRIES.inc();
        }
    }

    /// `(epoch, seq)` of the entity is in the index now.
    pub(super) fn applied(&self, id: &EntityId, epoch: Epoch, seq: Seq) {
        let Some(shard) = self.shard(id) else { return };
        let mut staged = shard.lock();
        if staged.get(id).is_some_and(|entry| (entry.epoch, entry.seq) <= (epoch, seq)) {
            staged.remove(id);
            INDEX_OVERLAY_ENTRIES.dec();
        }
    }

    /// What is staged of a namespace, in key order.
    pub(super) fn of(&self, ns: &Namespace) -> BTreeMap<EntityKey, Entry> {
        let mut out = BTreeMap::new();
        for shard in &self.shards {
            let staged = shard.lock();
            out.extend(staged.iter().filter(|((at, _), _)| at == ns).map(|((_, key), entry)| (key.clone(), *entry)));
        }
        out
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, id: &EntityId) -> Option<&Mutex<HashMap<EntityId, Entry>>> {
        self.shards.get(usize::try_from(self.hasher.hash_one(id) % SHARDS).ok()?)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        INDEX_OVERLAY_ENTRIES.sub(u64::try_from(self.len()).unwrap_or(0));
    }
}
