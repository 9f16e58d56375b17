//! How records become rows: [`Index::apply`].
//!
//! A group of records is one batch of the engine: rows, the states of the namespaces touched, and the lsn. A rename is the exception: it
//! writes one row for each living entity, in chunks, *before* the batch that moves the lsn past it. A crash in between
//! leaves rows under the new name that the rename, applied again, overwrites with the same bytes; the old rows are not touched.

use super::error::IndexError;
use super::index::{Entry, Folded, Index, NodeSeen, too_long};
use super::row::{self, NamespaceRow, Row};
use super::rows::Batch;
use crate::types::{
    Body, Committed, Control, Digest, EntityKey, Epoch, Gap, Image, LogState, Lsn, Namespace, Record, Seq,
};
use parking_lot::RwLockUpgradableReadGuard;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// How many rows of a rename are written at once.
const RENAME_CHUNK: usize = 4096;

/// What the index needs of a record: the images stay out, so that waiting steps hold no documents.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Change(ChangeStep),
    Control { record: Arc<Record> },
}

#[derive(Clone, Debug)]
pub(super) struct ChangeStep {
    id: (Namespace, EntityKey),
    epoch: Epoch,
    seq: Seq,
    lsn: Lsn,
    offset: u64,
    before: Option<Digest>,
    after: Option<Digest>,
}

impl Step {
    pub(super) fn of(committed: &Committed) -> Self {
        let record = &committed.record;
        match &record.body {
            Body::Change(change) => Self::Change(ChangeStep {
                id: (change.ns.clone(), change.key.clone()),
                epoch: change.epoch,
                seq: change.seq,
                lsn: record.lsn,
                offset: committed.offset,
                before: change.before_sha.or_else(|| change.before.as_ref().map(Image::sha)),
                after: change.after.as_ref().map(Image::sha),
            }),
            Body::Control(_) => Self::Control { record: Arc::clone(record) },
        }
    }

    fn lsn(&self) -> Lsn {
        match self {
            Self::Change(change) => change.lsn,
            Self::Control { record } => record.lsn,
        }
    }
}

/// What a batch will change, until it is committed.
struct Work {
    batch: Batch,
    /// States of the namespaces touched, and gaps opened in this batch.
    log: LogState,
    dropped: HashMap<Namespace, Lsn>,
    gaps: BTreeMap<u64, Option<Gap>>,
    node: Option<NodeSeen>,
    /// Entities changed, to take out of the overlay.
    changed: Vec<((Namespace, EntityKey), Epoch, Seq)>,
    last: Lsn,
}

impl Index {
    /// Applies durable records in lsn order. Records already applied are skipped.
    ///
    /// # Errors
    /// A hole in the lsn, or the engine failed: then the index is stopped.
    pub fn apply(&self, group: &[Committed]) -> Result<(), IndexError> {
        let steps: Vec<Step> = group.iter().map(Step::of).collect();
        self.apply_steps(&steps)
    }

    pub(super) fn apply_steps(&self, steps: &[Step]) -> Result<(), IndexError> {
        self.healthy()?;
        let _writer = self.writer.lock();
        let applied = self.try_apply(steps);
        if let Err(error) = &applied {
            self.stop(error);
        }
        applied
    }

    fn try_apply(&self, steps: &[Step]) -> Result<(), IndexError> {
        let mut work = self.work();
        for step in steps {
            if step.lsn() <= work.last {
                continue;
            }
            if step.lsn() != work.last.next() {
                return Err(IndexError::OutOfOrder { expected: work.last.next(), got: step.lsn() });
            }
            match step {
                Step::Change(change) => self.change(&mut work, change)?,
                Step::Control { record } => {
                    let Body::Control(control) = &record.body else { continue };
                    if let Control::Rename { from, to } = control {
                        self.commit(work)?;
                        work = self.work();
                        self.move_entities(from, to, record.lsn)?;
                    }
                    self.control(&mut work, record, control);
                }
            }
            work.last = step.lsn();
        }
        self.commit(work)
    }

    fn work(&self) -> Work {
        Work {
            batch: self.rows.batch(),
            log: LogState::default(),
            dropped: HashMap::new(),
            gaps: BTreeMap::new(),
            node: None,
            changed: Vec::new(),
            last: self.applied(),
        }
    }

    fn change(&self, work: &mut Work, change: &ChangeStep) -> Result<(), IndexError> {
        let (ns, key) = &change.id;
        self.touch(work, ns);
        work.log.apply_change(ns, change.before, change.after);
        let entry =
            Entry { lsn: change.lsn, offset: change.offset, ..Entry::staged(change.epoch, change.seq, change.after) };
        let row_key = row::key(ns, key).ok_or_else(|| too_long(ns))?;
        work.batch.put(row_key, &Row { entry, at: change.lsn });
        work.changed.push((change.id.clone(), change.epoch, change.seq));
        Ok(())
    }

    fn control(&self, work: &mut Work, record: &Record, control: &Control) {
        let emptied: Vec<Namespace> = match control {
            Control::Drop { ns } => vec![ns.clone()],
            Control::Rename { from, to } => vec![from.clone(), to.clone()],
            Control::DropDatabase { db } => {
                let folded = self.folded.read();
                let all = folded.log.namespaces.keys().chain(work.log.namespaces.keys());
                all.filter(|ns| ns.db() == db).cloned().collect()
            }
            Control::Opened { ns, .. } | Control::Completed { ns } => {
                self.touch(work, ns);
                Vec::new()
            }
            _ => Vec::new(),
        };
        for ns in emptied {
            self.touch(work, &ns);
            work.dropped.insert(ns, record.lsn);
        }
        if let Control::Node { process, term, rbid, .. } = control {
            work.node = Some(NodeSeen { process: process.clone(), term: *term, rbid: *rbid, lsn: record.lsn });
        }
        work.log.apply_control(record.lsn, record.wall_ms, control);
        if let Control::GapOpened { id, .. } | Control::GapClosed { id } = control {
            work.gaps.insert(*id, work.log.gaps.get(id).cloned());
        }
    }

    /// Brings a namespace's state into the work, where it is not yet.
    fn touch(&self, work: &mut Work, ns: &Namespace) {
        if work.log.namespaces.contains_key(ns) {
            return;
        }
        if let Some(state) = self.folded.read().log.namespaces.get(ns) {
            work.log.namespaces.insert(ns.clone(), state.clone());
        }
    }

    /// Writes a row under `to` for each entity alive under `from`; what `to` knew of its own numbers stays.
    pub(super) fn move_entities(&self, from: &Namespace, to: &Namespace, lsn: Lsn) -> Result<(), IndexError> {
        if from == to {
            return Ok(());
        }
        let dropped = self.dropped(from);
        let prefix = row::prefix(from, 0).ok_or_else(|| too_long(from))?;
        let mut batch = self.rows.batch();
        for found in self.rows.from("scan for rename", Bound::Included(prefix.clone())) {
            let (row_key, moved) = found?;
            let Some(key) = row_key.strip_prefix(prefix.as_slice()) else { break };
            if !moved.entry_after(dropped).alive {
                continue;
            }
            let to_key = row::key(to, &EntityKey(key.into())).ok_or_else(|| too_long(to))?;
            let own = self.rows.get("get for rename", &to_key)?;
            let own = own.map_or_else(|| Entry::staged(Epoch(0), Seq(0), None), |row| row.entry);
            let entry = Entry { epoch: own.epoch, seq: own.seq, ..moved.entry };
            batch.put(to_key, &Row { entry, at: lsn });
            if batch.len() >= RENAME_CHUNK {
                std::mem::replace(&mut batch, self.rows.batch()).commit("rename")?;
            }
        }
        batch.commit("rename")
    }

    /// Writes the batch, then puts it in force in memory, then clears what it supersedes and wakes waiters.
    fn commit(&self, mut work: Work) -> Result<(), IndexError> {
        let folded = self.folded.upgradable_read();
        if work.last == folded.applied {
            return Ok(());
        }
        for (ns, state) in &work.log.namespaces {
            let dropped = work.dropped.get(ns).or_else(|| folded.dropped.get(ns)).copied().unwrap_or(Lsn::ZERO);
            let row = NamespaceRow { state: state.clone(), dropped };
            work.batch.meta(row::namespace_key(ns), Some(row.encode()));
        }
        for (id, gap) in &work.gaps {
            work.batch.meta(row::gap_key(*id), gap.as_ref().map(row::encode_gap));
        }
        if let Some(node) = &work.node {
            work.batch.meta("node", Some(row::encode_node(node)));
        }
        work.batch.meta("applied", Some(work.last.0.to_le_bytes().to_vec()));
        work.batch.commit("commit")?;
        let mut folded = RwLockUpgradableReadGuard::upgrade(folded);
        folded.take(work.log, work.dropped, work.gaps);
        if work.node.is_some() {
            folded.node = work.node;
        }
        folded.applied = work.last;
        folded.show();
        drop(folded);
        for (id, epoch, seq) in &work.changed {
            self.overlay.applied(id, *epoch, *seq);
        }
        self.publish(work.last);
        Ok(())
    }
}

impl Folded {
    fn take(&mut self, log: LogState, dropped: HashMap<Namespace, Lsn>, gaps: BTreeMap<u64, Option<Gap>>) {
        self.log.namespaces.extend(log.namespaces);
        self.dropped.extend(dropped);
        for (id, gap) in gaps {
            match gap {
                Some(gap) => self.log.gaps.insert(id, gap),
                None => self.log.gaps.remove(&id),
            };
        }
    }
}
