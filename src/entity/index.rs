//! The entity index: for each entity its last `(epoch, seq)`, where its image lies in the log, the image's hash, alive or not;
//! and the log's state (fingerprints, gaps), all as of one lsn.
//!
//! # Invariants
//! - It is derived: rows, states and the applied lsn are written in one atomic batch, records in lsn order, so what is on disk
//!   is always the fold of the log's records `1..=applied`. It is never synced for its own sake; a crash takes it back to an
//!   earlier lsn, from where the caller replays.
//! - An index of another log, one that is ahead of the log's tail, or one that is behind its first record, is thrown away at open.
//! - A reader sees its own stage: [`Index::get`] looks at what is staged first. Called under the entity's guard it gives the
//!   entity's truth.
//! - Drop is one row, whatever the number of entities: they are dead by comparison of lsn. Their `(epoch, seq)` stay, for ever.
//! - After the first error of [`Index::apply`] all calls fail: no write goes on beside an index that stands still.
//!
//! # Control facts
//! Drop, dropDatabase and rename take effect when they are applied, not when they are staged. Who writes one holds the
//! exclusive namespace guard until [`Index::wait_applied`] of its lsn returned; the same for `Opened`.
//!
//! # Decisions
//! The engine keeps its own files, so the files of this folder do not go through `disk`; nothing here is a promise to a client.

use super::error::IndexError;
use super::overlay::Overlay;
use super::row::{self, Row};
use super::rows::Rows;
use crate::metrics::{GAPS_OPEN, INDEX_APPLIED_LSN};
use crate::types::{Digest, EntityKey, Epoch, Gap, LogState, Lsn, Namespace, Seq};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use tokio::sync::watch;

/// What the index knows of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who counted last. `Epoch(0)` with `Seq(0)`: the entity came by a rename and has no record under this name.
    pub epoch: Epoch,
    /// The number of its last change under this name.
    pub seq: Seq,
    /// The record whose `after` is its image (after a rename: a record under the old name). `Lsn::ZERO` while staged.
    pub lsn: Lsn,
    /// Offset of that record's frame in its segment. 0 while staged.
    pub offset: u64,
    /// SHA-256 of its image; zeros when it is not alive.
    pub sha: Digest,
    /// It exists.
    pub alive: bool,
}

impl Entry {
    /// What to stage for a change that is on its way into the log. `after`: hash of the image, `None` for a deletion.
    pub fn staged(epoch: Epoch, seq: Seq, after: Option<Digest>) -> Self {
        let sha = after.unwrap_or(Digest([0; 32]));
        Self { epoch, seq, lsn: Lsn::ZERO, offset: 0, sha, alive: after.is_some() }
    }

    /// The numbers of the entity's next change, counted by `epoch`; `last` is what the index has.
    #[must_use]
    pub fn next(last: Option<&Self>, epoch: Epoch) -> (Epoch, Seq) {
        match last {
            Some(last) if last.epoch >= epoch => (last.epoch, Seq(last.seq.0 + 1)),
            _ => (epoch, Seq(1)),
        }
    }

    /// It no longer exists; its numbers stay.
    pub(super) fn buried(self) -> Self {
        Self { alive: false, sha: Digest([0; 32]), ..self }
    }
}

/// What the log knows of a namespace as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The log holds all of it.
    pub complete: bool,
}

/// What the log last said of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Identity of its process; empty: it tells none.
    pub process: String,
    /// Election term; 0: a standalone.
    pub term: u64,
    /// Rollback id; 0: it tells none.
    pub rbid: u64,
    /// The record.
    pub lsn: Lsn,
}

/// Settings of the index.
#[derive(Clone, Debug)]
pub struct IndexOptions {
    /// Memory for blocks read from disk, in bytes.
    pub cache_bytes: u64,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// What is folded in memory; always as of `applied`.
#[derive(Clone, Debug, Default)]
pub(super) struct Folded {
    pub(super) log: LogState,
    /// The record that last emptied a namespace.
    pub(super) dropped: HashMap<Namespace, Lsn>,
    pub(super) node: Option<NodeSeen>,
    pub(super) applied: Lsn,
}

impl Folded {
    /// Puts the numbers that people watch into the metrics.
    pub(super) fn show(&self) {
        INDEX_APPLIED_LSN.set(self.applied.0);
        GAPS_OPEN.set(u64::try_from(self.log.gaps.len()).unwrap_or(0));
    }
}

/// How far the index is, for those who wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) applied: Lsn,
    pub(super) stopped: Option<String>,
}

/// The index. All methods may be called from any thread; [`Index::apply`] from one at a time (others wait).
pub struct Index {
    pub(super) rows: Rows,
    pub(super) overlay: Overlay,
    pub(super) folded: RwLock<Folded>,
    /// Held by whoever applies.
    pub(super) writer: Mutex<()>,
    pub(super) progress: watch::Sender<Progress>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("applied", &self.applied())
            .field("staged", &self.overlay.len())
            .finish_non_exhaustive()
    }
}

impl Index {
    /// The last record applied.
    pub fn applied(&self) -> Lsn {
        self.folded.read().applied
    }

    /// What is known of an entity: staged, else applied. `None`: the log never spoke of it.
    ///
    /// # Errors
    /// The engine failed, or the index is stopped.
    pub fn get(&self, ns: &Namespace, key: &EntityKey) -> Result<Option<Entry>, IndexError> {
        self.healthy()?;
        let id = (ns.clone(), key.clone());
        match self.overlay.get(&id) {
            Some(staged) => Ok(Some(staged)),
            None => self.stored(ns, key),
        }
    }

    /// The applied part of [`Index::get`].
    fn stored(&self, ns: &Namespace, key: &EntityKey) -> Result<Option<Entry>, IndexError> {
        let row_key = row::key(ns, key).ok_or_else(|| too_long(ns))?;
        let row = self.rows.get("get", &row_key)?;
        Ok(row.map(|row| row.entry_after(self.dropped(ns))))
    }

    /// Notes a change that was handed to the log, under the entity's guard, so that the next holder sees it.
    pub fn stage(&self, ns: &Namespace, key: &EntityKey, entry: Entry) {
        self.overlay.stage((ns.clone(), key.clone()), entry);
    }

    /// What is known of an entity once everything staged of it now is applied: `lsn` and `offset` are then told.
    ///
    /// # Errors
    /// The engine failed, or the index is stopped.
    pub async fn settled(&self, ns: &Namespace, key: &EntityKey) -> Result<Option<Entry>, IndexError> {
        let id = (ns.clone(), key.clone());
        let mut progress = self.progress.subscribe();
        loop {
            progress.mark_unchanged();
            if self.overlay.get(&id).is_none() {
                return self.get(ns, key);
            }
            self.healthy()?;
            if progress.changed().await.is_err() {
                return self.get(ns, key); // The sender lives in `self`.
            }
        }
    }

    /// Waits until record `lsn` is applied.
    ///
    /// # Errors
    /// The index is stopped.
    pub async fn wait_applied(&self, lsn: Lsn) -> Result<(), IndexError> {
        let mut progress = self.progress.subscribe();
        loop {
            if self.applied() >= lsn {
                return Ok(());
            }
            self.healthy()?;
            if progress.changed().await.is_err() {
                return self.healthy(); // The sender lives in `self`.
            }
        }
    }

    /// What the log knows of a namespace; `None`: nothing, it was never seen.
    pub fn known(&self, ns: &Namespace) -> Option<Known> {
        self.folded.read().log.namespaces.get(ns).map(|state| Known { complete: state.complete })
    }

    /// The record that last emptied the namespace (or moved another to its name); zero: none did.
    pub fn emptied(&self, ns: &Namespace) -> Lsn {
        self.dropped(ns)
    }

    /// The gaps that are open.
    pub fn gaps(&self) -> BTreeMap<u64, Gap> {
        self.folded.read().log.gaps.clone()
    }

    /// The fold of the log up to [`Index::applied`].
    pub fn state(&self) -> LogState {
        self.folded.read().log.clone()
    }

    /// What the log last said of the node; `None`: nothing, or not since the index was made from a log that had been trimmed.
    pub fn node(&self) -> Option<NodeSeen> {
        self.folded.read().node.clone()
    }

    /// The fold of the log and the lsn it stands at.
    pub fn snapshot(&self) -> (Lsn, LogState) {
        let folded = self.folded.read();
        (folded.applied, folded.log.clone())
    }

    /// Entities of a namespace in key order, after `after`, at most `limit`, dead ones included; staged ones as they are staged.
    /// Writers that go on meanwhile may or may not be seen.
    ///
    /// # Errors
    /// The engine failed, or a row is damaged.
    pub fn scan(
        &self,
        ns: &Namespace,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<Vec<(EntityKey, Entry)>, IndexError> {
        // First what is staged: what is applied in between is then seen twice, not missed.
        let mut found = self.overlay.of(ns);
        if let Some(after) = after {
            found.retain(|key, _| key > after);
        }
        let applied = self.scan_applied(ns, after, limit)?;
        if applied.len() == limit {
            let last = applied.last().map(|(key, _)| key.clone());
            found.retain(|key, _| Some(key) <= last.as_ref());
        }
        for (key, entry) in applied {
            let staged = found.entry(key).or_insert(entry);
            if (staged.epoch, staged.seq) <= (entry.epoch, entry.seq) {
                *staged = entry;
            }
        }
        Ok(found.into_iter().take(limit).collect())
    }

    /// The applied part of [`Index::scan`].
    fn scan_applied(
        &self,
        ns: &Namespace,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<Vec<(EntityKey, Entry)>, IndexError> {
        let prefix = row::prefix(ns, 0).ok_or_else(|| too_long(ns))?;
        let dropped = self.dropped(ns);
        let from = after.map_or(Bound::Included(prefix.clone()), |key| {
            Bound::Excluded([prefix.as_slice(), key.as_bytes()].concat())
        });
        let mut out = Vec::with_capacity(limit.min(1024));
        for found in self.rows.from("scan", from).take(limit) {
            let (row_key, row) = found?;
            let Some(key) = row_key.strip_prefix(prefix.as_slice()) else { break };
            out.push((EntityKey(key.into()), row.entry_after(dropped)));
        }
        Ok(out)
    }

    /// Every applied entity of every namespace, to compare one index with another.
    ///
    /// # Errors
    /// The engine failed, or a row is damaged.
    pub fn scan_all(&self, mut visit: impl FnMut(Namespace, EntityKey, Entry)) -> Result<(), IndexError> {
        for found in self.rows.from("scan", Bound::Unbounded) {
            let (row_key, row) = found?;
            let (ns, key) = row::split_key(&row_key).ok_or(IndexError::Damaged { what: "entities" })?;
            let entry = row.entry_after(self.dropped(&ns));
            visit(ns, key, entry);
        }
        Ok(())
    }

    /// Entities staged and not yet applied.
    pub fn staged(&self) -> usize {
        self.overlay.len()
    }

    /// `Ok` as long as no error stopped the index.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] with the reason.
    pub fn healthy(&self) -> Result<(), IndexError> {
        match &self.progress.borrow().stopped {
            Some(reason) => Err(IndexError::Stopped { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn dropped(&self, ns: &Namespace) -> Lsn {
        self.folded.read().dropped.get(ns).copied().unwrap_or(Lsn::ZERO)
    }

    /// Wakes those who wait: `folded` is in force.
    pub(super) fn publish(&self, applied: Lsn) {
        self.progress.send_modify(|now| now.applied = applied);
    }

    /// From here on all calls fail.
    pub(super) fn stop(&self, reason: &IndexError) {
        tracing::error!(%reason, "the entity index stops; writes are refused until the sidecar is restarted");
        self.progress.send_modify(|now| {
            now.stopped.get_or_insert_with(|| reason.to_string());
        });
    }
}

impl Row {
    /// The entity as it is after its namespace was last emptied by record `dropped`.
    pub(super) fn entry_after(&self, dropped: Lsn) -> Entry {
        if self.entry.alive && self.at >= dropped { self.entry } else { self.entry.buried() }
    }
}

pub(super) fn too_long(ns: &Namespace) -> IndexError {
    IndexError::NamespaceTooLong { len: ns.as_str().len() }
}
