//! The retention of one sink's windows: what is there, what is due, who holds it; and the removal, one window at a time, between two
//! deliveries.
//!
//! A removal that fails does not stop deliveries: it is told, and tried again after a while.

use super::consumers::Consumers;
use super::dead::DeadLetters;
use super::ledger::Windows;
use super::retain::{Bounds, Decision, Held, Kept, decide};
use crate::config::SinkConfig;
use crate::metrics;
use crate::sink::{Sink, SinkError};
use crate::types::WindowId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// After a failed removal the next is tried so much later.
const AGAIN_MS: i64 = 30_000;

/// What a sink keeps, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// The first window that is there; zero: not known (there is none, or the place keeps windows by rules of its own).
    pub first: WindowId,
    /// Windows there, and their bytes; zero where no retention is set: nobody counts then.
    pub windows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bound of the bytes; 0: none.
    pub keep_bytes: u64,
    /// Windows that are due and held; `None`: none is.
    pub held: Option<Held>,
    /// Why the last removal failed; empty: it did not.
    pub error: String,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tidied {
    /// Nothing was to be done, or could be.
    Nothing,
    /// A window is gone.
    Removed,
    /// The sink failed: it is to be opened anew.
    Broken,
}

/// The retention of a sink's windows.
#[derive(Debug)]
pub(super) struct Tidy {
    name: &'static str,
    bounds: Bounds,
    consumers: Arc<Consumers>,
    windows: Arc<Windows>,
    /// What is at the sink; `None`: not looked at yet.
    kept: Option<BTreeMap<WindowId, Kept>>,
    not_before_ms: i64,
    live: Arc<Mutex<Retained>>,
}

impl Tidy {
    pub(super) fn new(
        name: &'static str,
        config: &SinkConfig,
        consumers: Arc<Consumers>,
        windows: Arc<Windows>,
    ) -> Self {
        let bounds = Bounds { age_ms: config.keep_age_ms, bytes: config.keep_bytes };
        let live = Arc::new(Mutex::new(Retained { keep_bytes: bounds.bytes, ..Retained::default() }));
        Self { name, bounds, consumers, windows, kept: None, not_before_ms: i64::MIN, live }
    }

    /// What is told of it.
    pub(super) fn live(&self) -> Arc<Mutex<Retained>> {
        Arc::clone(&self.live)
    }

    /// The sink was opened.
    pub(super) fn opened(&self, sink: &mut dyn Sink) {
        if let Some(first) = sink.shelf().and_then(|shelf| shelf.first()) {
            self.live.lock().first = first;
        }
    }

    /// A window, or more of one, is at the sink.
    pub(super) fn delivered(&mut self, window: WindowId, bytes: u64, amendment: bool) {
        let closed_ms = self.closed_ms(window);
        if let Some(kept) = &mut self.kept {
            let entry = kept.entry(window).or_insert(Kept { bytes: 0, closed_ms });
            entry.bytes = if amendment { entry.bytes + bytes } else { bytes };
        }
        let mut live = self.live.lock();
        if !amendment && (live.first == WindowId::ZERO || window < live.first) {
            live.first = window;
        }
    }

    /// Removes the oldest window if it may go. `delivered`: the sink's checkpoint.
    pub(super) fn step(
        &mut self,
        sink: &mut dyn Sink,
        letters: &Mutex<DeadLetters>,
        delivered: WindowId,
        now_ms: i64,
    ) -> Tidied {
        if !self.bounds.any() || now_ms < self.not_before_ms {
            return Tidied::Nothing;
        }
        match self.try_step(sink, letters, delivered, now_ms) {
            Ok(tidied) => tidied,
            Err(error) => {
                tracing::error!(%error, sink = self.name, "windows that are due cannot be removed");
                self.live.lock().error = error.to_string();
                (self.kept, self.not_before_ms) = (None, now_ms.saturating_add(AGAIN_MS));
                Tidied::Broken
            }
        }
    }

    fn try_step(
        &mut self,
        sink: &mut dyn Sink,
        letters: &Mutex<DeadLetters>,
        delivered: WindowId,
        now_ms: i64,
    ) -> Result<Tidied, SinkError> {
        let Some(place) = sink.shelf() else { return Ok(Tidied::Nothing) };
        if self.kept.is_none() {
            // A window that came without its checkpoint comes again first.
            let found = place.survey()?.into_iter().filter(|found| found.window <= delivered);
            let kept = |window| self.closed_ms(window);
            self.kept = Some(found.map(|s| (s.window, Kept { bytes: s.bytes, closed_ms: kept(s.window) })).collect());
        }
        let (bounds, live) = (self.bounds, &self.live);
        let Some(kept) = &mut self.kept else { return Ok(Tidied::Nothing) };
        let decision = self.consumers.reading(self.name, |reading| {
            let decision = decide(bounds, kept, reading, |window| letters.lock().waits(window), now_ms);
            let mut live = live.lock();
            if let Decision::Remove(window) = decision {
                // From here on no consumer is set back to it.
                live.first = window.next();
            }
            live.held = if let Decision::Held(held) = &decision { Some(held.clone()) } else { None };
            decision
        });
        let tidied = match decision {
            Decision::Keep | Decision::Held(_) => Tidied::Nothing,
            Decision::Remove(window) => {
                place.remove_first(window)?;
                tracing::info!(sink = self.name, window = window.0, "a window is removed by retention");
                kept.remove(&window);
                metrics::WINDOWS_REMOVED.inc_for(self.name);
                Tidied::Removed
            }
        };
        self.tell();
        Ok(tidied)
    }

    fn tell(&self) {
        let Some(kept) = &self.kept else { return };
        let mut live = self.live.lock();
        (live.windows, live.bytes) = (kept.len() as u64, kept.values().map(|kept| kept.bytes).sum());
        live.error.clear();
        metrics::KEPT_BYTES.set_for(self.name, live.bytes);
        metrics::WINDOWS_HELD.set_for(self.name, live.held.as_ref().map_or(0, |held| held.windows));
    }

    /// When a window was closed; one that the ledger does not tell of is never too old.
    fn closed_ms(&self, window: WindowId) -> i64 {
        self.windows.get(window).ok().flatten().map_or(i64::MAX, |window| window.closed_ms)
    }
}
