//! The running parts, as those who tell of them see them.

use super::probe::Probe;
use super::retain::Retention;
use super::storage::Storage;
use crate::audit::live::{Board, Keeper};
use crate::audit::node::{NodeFacts, Watch};
use crate::changelog::Horizon;
use crate::config::Config;
use crate::export::ExporterHandle;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// What runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) config: Config,
    pub(super) storage: Storage,
    pub(super) exporter: Arc<ExporterHandle>,
    pub(super) horizon: Arc<Horizon>,
    watch: OnceLock<Arc<Watch>>,
    pub(super) probe: Probe,
    pub(super) retention: Arc<Retention>,
    pub(super) board: Arc<Board>,
    pub(super) keeper: OnceLock<Arc<Keeper>>,
    pub(super) started: Instant,
    phase: Mutex<Phase>,
}

/// Where the sidecar is in its life.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// What the last process left open is being verified.
    Recovering,
    /// Applications are served.
    Serving(SocketAddr),
    /// It was told to end.
    Ending,
}

impl Running {
    pub(super) fn new(
        config: Config,
        storage: Storage,
        exporter: Arc<ExporterHandle>,
        horizon: Arc<Horizon>,
        probe: Probe,
    ) -> Self {
        let phase = Mutex::new(Phase::Recovering);
        let (watch, board, keeper) = (OnceLock::new(), Arc::default(), OnceLock::new());
        let (retention, started) = (Arc::new(Retention::new(&config.retention, &storage)), Instant::now());
        Self { config, storage, exporter, horizon, watch, probe, retention, board, keeper, started, phase }
    }

    /// The node is watched from now on.
    pub(super) fn watched_by(&self, watch: Arc<Watch>) {
        let _only_once = self.watch.set(watch);
    }

    /// What is known of the node.
    pub(super) fn node(&self) -> NodeFacts {
        self.watch.get().map(|watch| watch.facts()).unwrap_or_default()
    }

    /// Applications are served from now on, unless the end has begun already.
    pub(super) fn serving(&self, listen: SocketAddr) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Recovering) {
            *phase = Phase::Serving(listen);
        }
    }

    /// The end has begun.
    pub(super) fn ending(&self) {
        *self.phase.lock() = Phase::Ending;
    }

    /// The part that keeps it from serving, and what is done instead; `None`: it serves.
    pub(super) fn phase(&self) -> Option<(&'static str, &'static str)> {
        match *self.phase.lock() {
            Phase::Recovering => Some(("start", "what the last process left open is being verified")),
            Phase::Ending => Some(("drain", "the sidecar is ending")),
            Phase::Serving(_) => None,
        }
    }

    /// Where applications are served.
    pub(super) fn listen(&self) -> Option<String> {
        match *self.phase.lock() {
            Phase::Serving(listen) => Some(listen.to_string()),
            _ => None,
        }
    }
}
