//! Guards: the right to observe and change entities ([`Guards`]) and namespaces ([`NsGuards`]).
//!
//! # Invariants
//! - Per entity first come, first served; per namespace and database as well.
//! - No deadlock: several are taken in one order (databases, namespaces, entities, each sorted). **One call takes all
//!   that a command needs**; a holder does not call again for more of the same kind. Namespace guards come before entity guards.
//! - Dropping a guard, or the future that waits for it, gives everything back. A time-out around the call is safe.
//! - An entry exists only while someone holds or awaits it.

use super::flight::{Flights, Seat};
use super::queue::{Held, Mode, Table};
use super::watch::{Watch, Watches};
use crate::metrics::{self, GUARD_WAIT_SECONDS, GUARD_WAITERS, GUARDS_HELD};
use crate::types::{EntityKey, Namespace};
use std::sync::Arc;
use std::time::Instant;

type EntityId = (Namespace, EntityKey);

/// The guards of all entities.
#[derive(Clone, Debug)]
pub struct Guards {
    table: Arc<Table<EntityId>>,
    watches: Arc<Watches>,
}

/// Entities held; dropped, they go to whoever is next.
#[derive(Debug)]
#[must_use = "a guard that is dropped guards nothing"]
pub struct EntityGuard {
    held: Vec<Held<EntityId>>,
    watches: Arc<Watches>,
    _count: metrics::Held,
}

impl Drop for EntityGuard {
    fn drop(&mut self) {
        if !self.watches.none() {
            self.watches.given_back(self.held.iter().filter_map(Held::key));
        }
    }
}

impl EntityGuard {
    fn of(held: Vec<Held<EntityId>>, watches: &Arc<Watches>) -> Self {
        let count = GUARDS_HELD.hold(u64::try_from(held.len()).unwrap_or(0));
        Self { held, watches: Arc::clone(watches), _count: count }
    }

    /// How many entities are held (each counted once).
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// A wait under way, counted also when its future is dropped.
struct Wait {
    began: Instant,
    _count: metrics::Held,
}

impl Wait {
    fn begin() -> Self {
        Self { began: Instant::now(), _count: GUARD_WAITERS.hold(1) }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        GUARD_WAIT_SECONDS.observe(self.began.elapsed());
    }
}

impl Default for Guards {
    fn default() -> Self {
        Self::new()
    }
}

impl Guards {
    /// None held.
    pub fn new() -> Self {
        Self { table: Table::new(), watches: Arc::default() }
    }

    /// Learns from now on which entities of `ns` are given back.
    pub fn watch(&self, ns: &Namespace) -> Watch {
        self.watches.open(ns)
    }

    /// Takes those entities that nobody holds or awaits; gives the others back by name. Waits for nobody.
    pub fn try_lock(&self, ns: &Namespace, mut keys: Vec<EntityKey>) -> (EntityGuard, Vec<EntityKey>) {
        keys.sort_unstable();
        keys.dedup();
        let (mut held, mut busy) = (Vec::with_capacity(keys.len()), Vec::new());
        for key in keys {
            match self.table.try_acquire(&(ns.clone(), key), Mode::Exclusive) {
                Ok(one) => held.push(one),
                Err((_, key)) => busy.push(key),
            }
        }
        (EntityGuard::of(held, &self.watches), busy)
    }

    /// Takes entities of one namespace; keys may come in any order and more than once.
    pub async fn lock(&self, ns: &Namespace, keys: Vec<EntityKey>) -> EntityGuard {
        self.lock_many(keys.into_iter().map(|key| (ns.clone(), key)).collect()).await
    }

    /// Takes entities of several namespaces.
    pub async fn lock_many(&self, mut ids: Vec<EntityId>) -> EntityGuard {
        ids.sort_unstable();
        ids.dedup();
        let wait = Wait::begin();
        let mut held = Vec::with_capacity(ids.len());
        for id in &ids {
            held.push(self.table.acquire(id, Mode::Exclusive).await);
        }
        drop(wait);
        EntityGuard::of(held, &self.watches)
    }

    /// Entities that someone holds or awaits.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Nobody holds or awaits anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A database or a namespace; databases sort first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    Database(Arc<str>),
    Collection(Namespace),
}

/// The guards of all namespaces and databases.
#[derive(Clone, Debug)]
pub struct NsGuards {
    table: Arc<Table<Place>>,
    watches: Arc<Watches>,
    flights: Arc<Flights>,
}

/// Namespaces (and their databases) held.
#[derive(Debug)]
#[must_use = "a guard that is dropped guards nothing"]
pub struct NsGuard {
    held: Vec<Held<Place>>,
    watches: Arc<Watches>,
    _seat: Seat,
}

impl Drop for NsGuard {
    fn drop(&mut self) {
        if self.watches.none() {
            return;
        }
        for place in self.held.iter().filter(|held| held.mode() == Mode::Exclusive).filter_map(Held::key) {
            match place {
                Place::Database(db) => self.watches.alone(|ns| ns.db() == &**db),
                Place::Collection(alone) => self.watches.alone(|ns| ns == alone),
            }
        }
    }
}

impl Default for NsGuards {
    fn default() -> Self {
        Self::new()
    }
}

impl NsGuards {
    /// None held.
    pub fn new() -> Self {
        Self { table: Table::new(), watches: Arc::default(), flights: Flights::new() }
    }

    /// None held; the watches of `entities` learn of exclusive holders.
    pub fn beside(entities: &Guards) -> Self {
        Self { table: Table::new(), watches: Arc::clone(&entities.watches), flights: Flights::new() }
    }

    /// For writes of documents: others may write, nobody may drop or rename.
    pub async fn shared(&self, ns: &Namespace) -> NsGuard {
        self.collections(std::slice::from_ref(ns), Mode::Shared).await
    }

    /// [`NsGuards::shared`] for a command that writes into several.
    pub async fn shared_many(&self, namespaces: &[Namespace]) -> NsGuard {
        self.collections(namespaces, Mode::Shared).await
    }

    /// For drop, rename (both names), `$out` and their like: nobody else writes there.
    pub async fn exclusive(&self, namespaces: &[Namespace]) -> NsGuard {
        self.collections(namespaces, Mode::Exclusive).await
    }

    /// For dropDatabase: nobody else writes anywhere in it.
    pub async fn database_exclusive(&self, db: &str) -> NsGuard {
        self.take(vec![(Place::Database(db.into()), Mode::Exclusive)]).await
    }

    /// Waits until all that are held now have been dropped; those taken meanwhile are not waited for.
    pub async fn landed(&self) {
        self.flights.landed().await;
    }

    /// Places that someone holds or awaits.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Nobody holds or awaits anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn collections(&self, namespaces: &[Namespace], mode: Mode) -> NsGuard {
        let mut places = Vec::with_capacity(namespaces.len() * 2);
        for ns in namespaces {
            places.push((Place::Database(ns.db().into()), Mode::Shared));
            places.push((Place::Collection(ns.clone()), mode));
        }
        self.take(places).await
    }

    async fn take(&self, mut places: Vec<(Place, Mode)>) -> NsGuard {
        places.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        places.dedup_by(|a, b| a.0 == b.0);
        let _wait = Wait::begin();
        let mut held = Vec::with_capacity(places.len());
        for (place, mode) in &places {
            held.push(self.table.acquire(place, *mode).await);
        }
        NsGuard { held, watches: Arc::clone(&self.watches), _seat: self.flights.board() }
    }
}
