//! Lets the beginning of the changelog go: what is old or too much, and what nobody needs.
//!
//! # Promises
//! - No record goes that a [`Holder`] needs: a sink that does not have it, a dead letter that nobody dropped, a consumer of
//!   the log, the open window. Who holds
//!   is told.
//! - No record goes before the entity index as it is at that record or a later one lies on the disk in a file of its own, synced and
//!   read back whole: whatever happens to the index, it can be made again.
//! - Writes never wait: it runs on a thread of its own, and the index is copied from a view that lets writers go on.
//!
//! # Order
//! ```text
//! holders → what may go → (view of the index → log synced → copy written, synced, renamed → read back → older copies removed) → trim
//! ```
//! A copy stands at the log's end of its time, so it serves until the log has moved on by all that is kept: there is about one for
//! each time that the log is written through. The start of the log is durable before segments are removed; a cut anywhere is gone on
//! with at the next turn.

mod decide;
#[cfg(test)]
mod tests;

use super::storage::Storage;
use crate::changelog::{Changelog, LogError};
use crate::clock::Clock;
use crate::config::RetentionConfig;
use crate::entity::{Index, IndexError, SnapshotError, Snapshots, Whole};
use crate::export::{ExporterHandle, Holder};
use crate::metrics;
use crate::types::Lsn;
use decide::{Bounds, Verdict, decide};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Why nothing was let go.
#[derive(Debug, thiserror::Error)]
enum RetainError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// What was found at the last turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Bytes that the settings let go and that somebody needs.
    pub(super) held_bytes: u64,
    /// The log takes more than the settings say, for that reason.
    pub(super) over: bool,
    /// Those who hold them.
    pub(super) holders: Vec<Holder>,
    /// Why nothing could be let go; empty: it could.
    pub(super) error: String,
}

impl Told {
    /// What a person should know, and what to do.
    pub(super) fn warning(&self) -> Option<String> {
        if !self.error.is_empty() {
            return Some(format!("retention: nothing of the changelog can be let go: {}", self.error));
        }
        let first = self.holders.first().filter(|_| self.over)?;
        let more = match self.holders.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let Holder { who, needs, window } = first;
        Some(format!(
            "retention: the changelog takes more than `retention.log_max_bytes`; {} bytes of it are kept for {who}{more}, from record {needs} \
             (window {window}) on. Let it catch up; or let it go: take a sink out of the settings, drop dead letters (`tidelog dlq drop`), \
             drop a consumer",
            self.held_bytes
        ))
    }
}

/// The one that lets go.
#[derive(Debug)]
pub(super) struct Retention {
    bounds: Bounds,
    every: Duration,
    log: Arc<Changelog>,
    index: Arc<Index>,
    clock: Arc<Clock>,
    snapshots: Snapshots,
    /// The newest copy of the index that this process read whole.
    checked: Mutex<Option<Whole>>,
    told: Mutex<Told>,
}

impl Retention {
    pub(super) fn new(config: &RetentionConfig, storage: &Storage) -> Self {
        let bounds = Bounds { age_ms: config.log_max_age_ms, bytes: config.log_max_bytes };
        let Storage { disk, clock, log, index, data, .. } = storage;
        Self {
            bounds,
            every: Duration::from_millis(config.every_ms),
            log: Arc::clone(log),
            index: Arc::clone(index),
            clock: Arc::clone(clock),
            snapshots: Snapshots::new(Arc::clone(disk), data.index_snapshots()),
            checked: Mutex::new(None),
            told: Mutex::default(),
        }
    }

    /// What was found at the last turn.
    pub(super) fn told(&self) -> Told {
        self.told.lock().clone()
    }

    /// Looks again and again until `end`.
    pub(super) async fn run(self: Arc<Self>, exporter: Arc<ExporterHandle>, end: CancellationToken) {
        self.show_newest();
        if self.bounds.are_none() {
            return;
        }
        while tokio::time::timeout(self.every, end.cancelled()).await.is_err() {
            let (this, exporter, stop) = (Arc::clone(&self), Arc::clone(&exporter), end.clone());
            let turn = move || this.turn(&exporter.holders(), &|| stop.is_cancelled());
            if let Err(error) = tokio::task::spawn_blocking(turn).await {
                tracing::error!(%error, "a turn of the retention failed");
            }
        }
    }

    /// The metrics of the copy that is there, before the first one of this process.
    fn show_newest(&self) {
        let newest = self.snapshots.list().ok().and_then(|all| all.first().copied());
        let Some(lsn) = newest else { return };
        metrics::INDEX_SNAPSHOT_LSN.set(lsn.0);
        metrics::INDEX_SNAPSHOT_BYTES.set(self.snapshots.size(lsn).ok().flatten().unwrap_or(0));
    }

    /// Looks once, and lets go what may go. Blocks.
    fn turn(&self, holders: &[Holder], stop: &dyn Fn() -> bool) {
        let mut told = Told::default();
        match self.let_go(holders, stop) {
            Ok(verdict) => {
                told.held_bytes = verdict.held_bytes;
                told.over = verdict.over;
                let holds = |holder: &&Holder| verdict.held.is_some_and(|held| holder.needs <= held);
                told.holders = holders.iter().filter(holds).cloned().collect();
            }
            Err(RetainError::Log(LogError::Closed)) => return,
            Err(error) => told.error = error.to_string(),
        }
        metrics::RETENTION_HELD_BYTES.set(told.held_bytes);
        let before = std::mem::replace(&mut *self.told.lock(), told.clone());
        let who = |told: &Told| (told.over, told.error.clone(), told.holders.first().map(|h| h.who.clone()));
        if let Some(warning) = told.warning().filter(|_| who(&before) != who(&told)) {
            tracing::warn!(held_bytes = told.held_bytes, "{warning}");
        }
    }

    fn let_go(&self, holders: &[Holder], stop: &dyn Fn() -> bool) -> Result<Verdict, RetainError> {
        let needs = holders.iter().map(|holder| holder.needs).min().unwrap_or(Lsn(1));
        let verdict = decide(&self.log.extents()?, self.clock.wall_ms(), self.bounds, needs);
        let Some(goes) = verdict.goes else { return Ok(verdict) };
        let Some(copy) = self.copy(goes, stop)? else { return Ok(verdict) };
        let before = self.log.first();
        let first = self.log.trim(goes.min(copy.lsn))?;
        if first > before {
            tracing::info!(
                first = first.0,
                removed = first.0 - before.0,
                snapshot = copy.lsn.0,
                "records of the log went"
            );
        }
        Ok(verdict)
    }

    /// A whole copy of the index that stands at `goes` or later, made now if there is none; `None`: told to stop. One that stands
    /// earlier is given where the index itself is not so far yet.
    fn copy(&self, goes: Lsn, stop: &dyn Fn() -> bool) -> Result<Option<Whole>, RetainError> {
        let mut checked = self.checked.lock();
        if let Some(copy) = *checked
            && copy.lsn >= goes
            && self.snapshots.size(copy.lsn)? == Some(copy.bytes)
        {
            return Ok(Some(copy));
        }
        *checked = None;
        let log = self.log.log_id();
        let newest = self.snapshots.list()?.into_iter().find(|lsn| (goes..=self.log.tail()).contains(lsn));
        if let Some(lsn) = newest {
            match self.snapshots.adopt(log, lsn) {
                Ok(copy) => {
                    *checked = Some(copy);
                    return Ok(Some(copy));
                }
                Err(error) => tracing::warn!(%error, "a snapshot of the entity index is no good; a new one is made"),
            }
        }
        let began = Instant::now();
        let view = self.index.view()?;
        // No copy may stand after the log's end, whatever its durability.
        let _durable = self.log.sync().wait_blocking()?;
        let Some(written) = self.snapshots.write(&view, log, stop)? else { return Ok(None) };
        drop(view);
        let copy = self.snapshots.check(log, written.lsn)?;
        self.snapshots.keep(copy.lsn)?;
        *checked = Some(copy);
        let took = began.elapsed();
        metrics::INDEX_SNAPSHOT_LSN.set(copy.lsn.0);
        metrics::INDEX_SNAPSHOT_BYTES.set(copy.bytes);
        metrics::INDEX_SNAPSHOT_SECONDS.set_ms(i64::try_from(took.as_millis()).unwrap_or(i64::MAX));
        metrics::INDEX_SNAPSHOT_TIME.set_ms(self.clock.wall_ms());
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            lsn = copy.lsn.0,
            entities = copy.entities,
            bytes = copy.bytes,
            took_ms,
            "the entity index was copied"
        );
        Ok(Some(copy))
    }
}
