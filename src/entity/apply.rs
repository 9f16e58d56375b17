//! How records become rows: [`Index::apply`].
//!
//! A group of records is one batch of the engine: rows, the states of the namespaces touched, and the lsn. A rename is the exception: it
//! writes one row for each living entity, in chunks, *before* the batch that moves the lsn past it. A crash in between
//! leaves rows under the new name that the rename, applied again, overwrites with the same bytes; the old rows are not touched.

use super::error::IndexError;
use super::index::{Entry, Folded, Index, too_long};
use super::row::{self, NamespaceRow, Row};
use crate::types::{
    Body, Committed, Control, Digest, EntityKey, Epoch, Gap, Image, LogState, Lsn, Namespace, Record, Seq,
};
use fjall::OwnedWriteBatch;
use parking_lot::RwLockUpgradableReadGuard;
use std::collections::{BTreeMap, HashMap};
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
    batch: OwnedWriteBatch,
    /// States of the namespaces touched, and gaps opened in this batch.
    log: LogState,
    dropped: HashMap<Namespace, Lsn>,
    gaps: BTreeMap<u64, Option<Gap>>,
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
            batch: self.db.batch(),
            log: LogState::default(),
            dropped: HashMap::new(),
            gaps: BTreeMap::new(),
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
        work.batch.insert(&self.entities, row_key, Row { entry, at: change.lsn }.encode());
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
            Control::Opened { ns, .. } => {
                self.touch(work, ns);
                Vec::new()
            }
            _ => Vec::new(),
        };
        for ns in emptied {
            self.touch(work, &ns);
            work.dropped.insert(ns, record.lsn);
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
        let mut batch = self.db.batch();
        for guard in self.entities.prefix(&prefix) {
            let (row_key, value) = guard.into_inner().map_err(IndexError::engine("scan for rename"))?;
            let moved = Row::decode(&value).ok_or(IndexError::Damaged { what: "entities" })?;
            if !moved.entry_after(dropped).alive {
                continue;
            }
            let key = EntityKey(row_key.get(prefix.len()..).unwrap_or(&[]).into());
            let to_key = row::key(to, &key).ok_or_else(|| too_long(to))?;
            let own = match self.entities.get(&to_key).map_err(IndexError::engine("get for rename"))? {
                Some(value) => Row::decode(&value).ok_or(IndexError::Damaged { what: "entities" })?.entry,
                None => Entry::staged(Epoch(0), Seq(0), None),
            };
            let entry = Entry { epoch: own.epoch, seq: own.seq, ..moved.entry };
            batch.insert(&self.entities, to_key, Row { entry, at: lsn }.encode());
            if batch.len() >= RENAME_CHUNK {
                std::mem::replace(&mut batch, self.db.batch()).commit().map_err(IndexError::engine("rename"))?;
            }
        }
        batch.commit().map_err(IndexError::engine("rename"))
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
            work.batch.insert(&self.meta, row::namespace_key(ns), row.encode());
        }
        for (id, gap) in &work.gaps {
            match gap {
                Some(gap) => work.batch.insert(&self.meta, row::gap_key(*id), row::encode_gap(gap)),
                None => work.batch.remove(&self.meta, row::gap_key(*id)),
            }
        }
        work.batch.insert(&self.meta, "applied", work.last.0.to_le_bytes());
        work.batch.commit().map_err(IndexError::engine("commit"))?;
        let mut folded = RwLockUpgradableReadGuard::upgrade(folded);
        folded.take(work.log, work.dropped, work.gaps);
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
