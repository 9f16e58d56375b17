//! Which entities were guarded while somebody looked at the store without guards.
//!
//! A [`Watch`] learns of each guard of its namespace that is *given back* while it is open. Whoever reads the store after opening
//! it, and afterwards takes the guard of an entity that the watch has not seen, knows that nobody held that entity from before
//! the read until now: a holder in between must have given it back. So what was read is compared with the index as if the guard
//! had been held all along.
//!
//! Costs nobody anything while no watch is open: one relaxed load for each guard given back.

use crate::mutants::{Mutant, mutated};
use crate::types::{EntityKey, Namespace};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The open watches of all namespaces.
#[derive(Debug, Default)]
pub(super) struct Watches {
    open: AtomicUsize,
    all: Mutex<Vec<Arc<Seen>>>,
}

#[derive(Debug)]
struct Seen {
    ns: Namespace,
    keys: Mutex<HashSet<EntityKey>>,
    /// The namespace as a whole was held exclusively.
    whole: AtomicBool,
}

/// An open watch; it ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    home: Arc<Watches>,
    seen: Arc<Seen>,
}

impl Watches {
    pub(super) fn open(self: &Arc<Self>, ns: &Namespace) -> Watch {
        let seen = Arc::new(Seen { ns: ns.clone(), keys: Mutex::default(), whole: AtomicBool::new(false) });
        self.all.lock().push(Arc::clone(&seen));
        self.open.fetch_add(1, Ordering::SeqCst);
        Watch { home: Arc::clone(self), seen }
    }

    /// Nobody watches anything.
    pub(super) fn none(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }

    /// These entities are about to be given back.
    pub(super) fn given_back<'k>(&self, entities: impl Iterator<Item = &'k (Namespace, EntityKey)>) {
        let watches = self.all.lock();
        for (ns, key) in entities {
            for seen in watches.iter().filter(|seen| seen.ns == *ns) {
                seen.keys.lock().insert(key.clone());
            }
        }
    }

    /// A namespace, or all of those that `inside` says, is about to be given back by one who had it alone.
    pub(super) fn alone(&self, inside: impl Fn(&Namespace) -> bool) {
        for seen in self.all.lock().iter().filter(|seen| inside(&seen.ns)) {
            seen.whole.store(true, Ordering::SeqCst);
        }
    }
}

impl Watch {
    /// Somebody may have held the entity since the watch was opened. Asked under the entity's guard.
    pub fn touched(&self, key: &EntityKey) -> bool {
        !mutated(Mutant::ForgetWatch) && (self.seen.whole.load(Ordering::SeqCst) || self.seen.keys.lock().contains(key))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.home.all.lock().retain(|seen| !Arc::ptr_eq(seen, &self.seen));
        self.home.open.fetch_sub(1, Ordering::SeqCst);
    }
}
