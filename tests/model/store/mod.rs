//! The simulated store: what a MongoDB node does, as far as the protocol can tell, over `OP_MSG`.
//!
//! `state` holds documents and history, `write` runs statements, `command` speaks the commands, `net` serves connections
//! and cuts them, `node` is what the privileged connection sees. No code of `capture` in it.

pub(crate) mod command;
pub(crate) mod docs;
pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod state;
pub(crate) mod write;

use crate::world::World;
use parking_lot::Mutex;
use state::{Lsid, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::AbortHandle;

/// What kind of node it is, and what goes wrong. Percentages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flavor {
    /// Of messages: the connection is cut around it.
    pub(crate) cut: u64,
    /// Of write commands: an error of the node, before or in the middle of it.
    pub(crate) refuse: u64,
    /// Of reads through the privileged connection: they fail.
    pub(crate) blind: u64,
    /// A crash loses what is younger than this many milliseconds; 0: nothing.
    pub(crate) unjournaled_ms: u64,
    /// Records of retryable writes and of committed transactions survive a restart.
    pub(crate) records_survive: bool,
    /// It tells election and operation times.
    pub(crate) replica: bool,
    /// A conflict of two inserts of one `_id` is found at the commit.
    pub(crate) late_conflicts: bool,
    /// Transactions expire after this many milliseconds.
    pub(crate) txn_lifetime_ms: u64,
}

/// The node.
pub(crate) struct Store {
    pub(crate) world: Arc<World>,
    pub(crate) flavor: Flavor,
    pub(crate) state: Mutex<State>,
    up: AtomicBool,
    /// Faults happen.
    pub(crate) rough: AtomicBool,
    pub(crate) process: AtomicU64,
    checkouts: Mutex<BTreeMap<Lsid, Arc<tokio::sync::Mutex<()>>>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    pub(crate) fn new(world: Arc<World>, flavor: Flavor) -> Arc<Self> {
        Arc::new(Self {
            world,
            flavor,
            state: Mutex::default(),
            up: AtomicBool::new(true),
            rough: AtomicBool::new(true),
            process: AtomicU64::new(1),
            checkouts: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    /// It answers.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// A fault of so many percent, while faults happen.
    fn fault(&self, percent: u64) -> bool {
        self.rough.load(Ordering::Relaxed) && self.world.chance(percent)
    }

    /// One at a time per session.
    fn checkout(&self, lsid: &Lsid) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.checkouts.lock().entry(*lsid).or_default())
    }

    /// Ends with the process of the node.
    fn task(&self, task: &tokio::task::JoinHandle<()>) {
        let mut tasks = self.tasks.lock();
        tasks.retain(|t| !t.is_finished());
        tasks.push(task.abort_handle());
    }

    /// Dies, and comes back after `down_ms`.
    pub(crate) async fn crash(&self, down_ms: u64) {
        self.up.store(false, Ordering::Relaxed);
        self.tasks.lock().drain(..).for_each(|t| t.abort());
        self.checkouts.lock().clear();
        let now = self.world.now_ms();
        let lost = {
            let mut state = self.state.lock();
            let unjournaled = self.flavor.unjournaled_ms;
            let bound = if unjournaled == 0 { u64::MAX } else { now.saturating_sub(unjournaled) };
            state.journal(bound);
            let (from, to) = (state.kept, state.history.len());
            let from = from + self.world.index(to - from + 1);
            state.restart(from, self.flavor.records_survive, now)
        };
        self.world.note(|| format!("store dies, {lost} changes lost"));
        tokio::time::sleep(Duration::from_millis(down_ms)).await;
        self.process.fetch_add(1, Ordering::Relaxed);
        self.up.store(true, Ordering::Relaxed);
        self.world.note(|| "store is back".to_owned());
    }
}
