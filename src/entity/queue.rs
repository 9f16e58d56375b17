//! A table of fair locks, one per key, that exist only while someone holds or awaits them.
//!
//! # Invariants
//! - First come, first served per key: nobody passes a waiter, also no reader a waiting writer.
//! - `exclusive` excludes all others; any number of `shared` go together.
//! - A dropped future (a client that went away) gives its place back; a lock granted to it in that moment is passed on.
//! - A key without holder and waiter has no entry ([`Table::len`] is 0 when all is quiet).
//!
//! It knows nothing of deadlocks: who takes several keys takes them in their order, in one go.

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;
use tokio::sync::oneshot;

const SHARDS: u64 = 64;

/// How a lock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// The locks.
#[derive(Debug)]
pub(super) struct Table<K: Eq + Hash + Clone + Debug> {
    shards: Vec<Mutex<HashMap<K, Lock<K>>>>,
    hasher: RandomState,
}

/// The state of one key. Either `exclusive`, or `shared` > 0, or (for a moment) neither.
#[derive(Debug)]
struct Lock<K: Eq + Hash + Clone + Debug> {
    exclusive: bool,
    shared: usize,
    waiters: VecDeque<(Mode, oneshot::Sender<Held<K>>)>,
}

impl<K: Eq + Hash + Clone + Debug> Lock<K> {
    fn admits(&self, mode: Mode) -> bool {
        !self.exclusive && (mode == Mode::Shared || self.shared == 0)
    }

    fn enter(&mut self, mode: Mode) {
        match mode {
            Mode::Shared => self.shared += 1,
            Mode::Exclusive => self.exclusive = true,
        }
    }

    fn leave(&mut self, mode: Mode) {
        match mode {
            Mode::Shared => self.shared = self.shared.saturating_sub(1),
            Mode::Exclusive => self.exclusive = false,
        }
    }

    fn is_unused(&self) -> bool {
        !self.exclusive && self.shared == 0 && self.waiters.is_empty()
    }
}

/// A lock held; dropping it hands the key on.
pub(super) struct Held<K: Eq + Hash + Clone + Debug> {
    table: Arc<Table<K>>,
    /// `None` once the lock was given back by other means.
    key: Option<K>,
    mode: Mode,
}

impl<K: Eq + Hash + Clone + Debug> Debug for Held<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("key", &self.key).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone + Debug> Held<K> {
    pub(super) fn key(&self) -> Option<&K> {
        self.key.as_ref()
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }
}

impl<K: Eq + Hash + Clone + Debug> Drop for Held<K> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.table.release(&key, self.mode);
        }
    }
}

enum Entered<K: Eq + Hash + Clone + Debug> {
    Now(Held<K>),
    Later(oneshot::Receiver<Held<K>>),
}

impl<K: Eq + Hash + Clone + Debug> Table<K> {
    pub(super) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect();
        Arc::new(Self { shards, hasher: RandomState::new() })
    }

    /// Takes the lock of `key`.
    pub(super) async fn acquire(self: &Arc<Self>, key: &K, mode: Mode) -> Held<K> {
        loop {
            match self.enter(key, mode) {
                Entered::Now(held) => return held,
                Entered::Later(turn) => {
                    // A waiter's sender lives until it is granted, so the error does not happen; trying again is right in any case.
                    if let Ok(held) = turn.await {
                        return held;
                    }
                }
            }
        }
    }

    /// Takes the lock of `key` if nobody is in the way; else gives the key back.
    pub(super) fn try_acquire(self: &Arc<Self>, key: &K, mode: Mode) -> Result<Held<K>, K> {
        if let Some(shard) = self.shard(key) {
            let locks = shard.lock();
            if locks.get(key).is_some_and(|lock| !lock.waiters.is_empty() || !lock.admits(mode)) {
                return Err(key.clone());
            }
        }
        match self.enter(key, mode) {
            Entered::Now(held) => Ok(held),
            // Somebody came between: the place in the queue is given up again.
            Entered::Later(_) => Err(key.clone()),
        }
    }

    /// Keys that someone holds or awaits.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn enter(self: &Arc<Self>, key: &K, mode: Mode) -> Entered<K> {
        let Some(shard) = self.shard(key) else {
            return Entered::Later(oneshot::channel().1);
        };
        let mut locks = shard.lock();
        if let Some(lock) = locks.get_mut(key) {
            if !lock.waiters.is_empty() || !lock.admits(mode) {
                let (grant, turn) = oneshot::channel();
                lock.waiters.push_back((mode, grant));
                return Entered::Later(turn);
            }
            lock.enter(mode);
        } else {
            let mut lock = Lock { exclusive: false, shared: 0, waiters: VecDeque::new() };
            lock.enter(mode);
            locks.insert(key.clone(), lock);
        }
        Entered::Now(self.held(key, mode))
    }

    /// Gives the lock back and grants it to whoever is next; a grant that nobody takes is given back in turn.
    fn release(self: &Arc<Self>, key: &K, mode: Mode) {
        let mut given_back = vec![mode];
        while let Some(mode) = given_back.pop() {
            for (mode, grant) in self.leave(key, mode) {
                if let Err(mut refused) = grant.send(self.held(key, mode)) {
                    refused.key = None;
                    given_back.push(mode);
                }
            }
        }
    }

    /// One leaves; those who may now enter are counted in and returned.
    fn leave(&self, key: &K, mode: Mode) -> Vec<(Mode, oneshot::Sender<Held<K>>)> {
        let mut next = Vec::new();
        let Some(shard) = self.shard(key) else {
            return next;
        };
        let mut locks = shard.lock();
        let Some(lock) = locks.get_mut(key) else {
            return next;
        };
        lock.leave(mode);
        while lock.waiters.front().is_some_and(|(mode, _)| lock.admits(*mode)) {
            if let Some((mode, grant)) = lock.waiters.pop_front() {
                lock.enter(mode);
                next.push((mode, grant));
            }
        }
        if lock.is_unused() {
            locks.remove(key);
        }
        next
    }

    fn held(self: &Arc<Self>, key: &K, mode: Mode) -> Held<K> {
        Held { table: Arc::clone(self), key: Some(key.clone()), mode }
    }

    fn shard(&self, key: &K) -> Option<&Mutex<HashMap<K, Lock<K>>>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS).unwrap_or(0);
        self.shards.get(hash)
    }
}
