//! The end of a transaction: its final images, its commit, its batch in the log.

use std::collections::BTreeMap;
use tokio::time::Instant;

use super::read::CHUNK;
use super::spill::{Changes, Sealed, Spill};
use super::wait::Reach;
use super::{MANY, Outcome, Phase, State, Stop, Tx, Txn, fields, relay, says_over, spilled};
use crate::capture::Capture;
use crate::capture::command::merge::is_ok;
use crate::capture::compare::{Cause, Step};
use crate::capture::error::CaptureError;
use crate::capture::observe::{Seen, Target};
use crate::capture::piece::Hold;
use crate::changelog::{Durable, Source};
use crate::entity::Entry;
use crate::mutants::{Mutant, mutated};
use crate::types::{Body, Change, Control, Draft, EntityKey, Epoch, Found, Image, Namespace, Op, Seq, TxnPart};
use bson::raw::{RawBsonRef, RawDocument};

/// Bytes of images before that are held while their images after are read.
const HELD_BYTES: usize = 4 << 20;

/// Bytes of a batch from which on it is read while it is written.
const STREAMED_BYTES: u64 = 8 << 20;

/// What a commit holds while it is under way.
pub(super) struct Held {
    hold: Hold,
    /// Entities are guarded one by one, so they are staged; else the index is waited for.
    staged: bool,
}

/// As [`Held`], with the number of each change, in the order of the spill.
pub(super) struct Numbered {
    held: Held,
    numbers: Vec<(Epoch, Seq)>,
}

/// Why a commit cannot be sent.
enum NotSent {
    Stop(Stop),
    /// The guards were not to be had, and the transaction may have been committed by an earlier attempt.
    Later,
}

impl<E: Into<Stop>> From<E> for NotSent {
    fn from(stop: E) -> Self {
        Self::Stop(stop.into())
    }
}

impl Capture {
    /// Carries a client's `commitTransaction` through.
    pub(super) async fn commit(&self, mut tx: Tx<'_>) -> Result<Outcome, CaptureError> {
        let ready = match self.prepared(&mut tx).await {
            Ok(ready) => ready,
            Err(NotSent::Later) => return Err(super::not_known_yet()),
            Err(NotSent::Stop(stop)) => return self.not_sent(tx, stop).await,
        };
        let Some(Numbered { held, numbers }) = ready else { return self.commit_nothing(tx).await };
        let again = matches!(tx.state.phase, Phase::Sent { .. });
        if let Err(error) = seal(&mut tx, self.life(), numbers.first().copied()) {
            self.end(tx.txn, tx.state, Phase::Aborted { certain: false }, "broken").await;
            return Err(error);
        }
        let held = if mutated(Mutant::LiftEarly) { self.let_go(tx.txn, tx.state, held).await } else { held };
        let reply = match relay(tx.upstream, tx.message).await {
            Ok(reply) => reply,
            Err(error) => {
                // It may have been committed, or may be still: what is there now is looked at under the guards.
                self.settle_held(tx.txn, tx.state, held, false).await?;
                return Err(error);
            }
        };
        let body = reply.body();
        if is_ok(body) || mutated(Mutant::LogFailed) {
            let time = self.learn(body);
            let durable = self.committed(tx.txn, tx.state, Numbered { held, numbers }, time).await?;
            tx.session.close_slot()?;
            return Ok(Outcome { reply: crate::capture::write::answer(&reply, tx.message.request_id()), durable });
        }
        if says_over(body) && again {
            // A store that has forgotten a transaction says this of one that it has committed, too: what it has, tells.
            self.settle_held(tx.txn, tx.state, held, true).await?;
        } else if says_over(body) {
            drop(held);
            self.end(tx.txn, tx.state, Phase::Aborted { certain: false }, "error").await;
        }
        self.told(&reply, tx.message)
    }

    /// Reads the images after and takes the guards. `None`: the transaction changed nothing.
    async fn prepared(&self, tx: &mut Tx<'_>) -> Result<Option<Numbered>, NotSent> {
        if tx.state.last.is_none() {
            self.read_last(tx).await?;
        }
        let nothing = tx.state.last.as_ref().is_none_or(|last| last.count() == 0);
        if nothing && tx.state.blind.is_empty() && tx.state.controls.is_empty() {
            return Ok(None);
        }
        match self.hold_all(tx.txn, tx.state).await {
            Ok(held) => Ok(Some(self.numbered(tx.state, held).await?)),
            Err(Stop::Blocked) if matches!(tx.state.phase, Phase::Sent { .. }) => Err(NotSent::Later),
            Err(stop) => Err(stop.into()),
        }
    }

    async fn not_sent(&self, tx: Tx<'_>, stop: Stop) -> Result<Outcome, CaptureError> {
        match stop {
            Stop::Reply(reply) => {
                self.end(tx.txn, tx.state, Phase::Aborted { certain: false }, "error").await;
                self.told(&reply, tx.message)
            }
            Stop::Blocked => {
                tx.upstream.run("admin", fields::abort_transaction(tx.message.body())).await?;
                self.end(tx.txn, tx.state, Phase::Aborted { certain: true }, "blocked").await;
                Err(super::lock_timeout())
            }
            Stop::Failed(error) => {
                self.end(tx.txn, tx.state, Phase::Aborted { certain: false }, "broken").await;
                Err(error)
            }
        }
    }

    /// Nothing to log: the store's answer is all there is.
    async fn commit_nothing(&self, tx: Tx<'_>) -> Result<Outcome, CaptureError> {
        let reply = relay(tx.upstream, tx.message).await?;
        if is_ok(reply.body()) {
            self.end(tx.txn, tx.state, Phase::Committed, "commit").await;
        } else if says_over(reply.body()) {
            self.end(tx.txn, tx.state, Phase::Aborted { certain: false }, "error").await;
        }
        self.told(&reply, tx.message)
    }

    /// Reads what the transaction leaves of each entity that it touched, and keeps those that it changed.
    async fn read_last(&self, tx: &mut Tx<'_>) -> Result<(), Stop> {
        let mut last = Spill::new(&self.transactions.files);
        let mut touched = tx.state.touched.changes();
        loop {
            let (mut chunk, mut bytes, mut count) = (BTreeMap::<Namespace, BTreeMap<EntityKey, Change>>::new(), 0, 0);
            while count < CHUNK && bytes < HELD_BYTES {
                let Some(change) = touched.next() else { break };
                let change = change.map_err(spilled)?;
                bytes += change.before.as_ref().map_or(0, |image| image.bytes().len());
                count += 1;
                chunk.entry(change.ns.clone()).or_default().insert(change.key.clone(), change);
            }
            if count == 0 {
                break;
            }
            for (ns, entities) in chunk {
                self.read_chunk(tx, &ns, entities, &mut last).await?;
            }
        }
        tx.state.last = Some(last);
        Ok(())
    }

    async fn read_chunk(
        &self,
        tx: &mut Tx<'_>,
        ns: &Namespace,
        mut entities: BTreeMap<EntityKey, Change>,
        last: &mut Spill,
    ) -> Result<(), Stop> {
        let ids: Vec<bson::RawBson> = entities.values().map(|change| change.id.clone()).collect();
        let ids: Vec<RawBsonRef<'_>> = ids.iter().map(bson::RawBson::as_raw_bson_ref).collect();
        let mut each = |seen: Seen| {
            for ((_, key), after) in seen {
                let Some(change) = entities.remove(&key) else { continue };
                keep(last, change, Some(after))?;
            }
            Ok(())
        };
        tx.images(ns, &ids, &mut each).await?;
        for (_, change) in entities {
            keep(last, change, None)?;
        }
        Ok(())
    }

    /// Takes the guards of all that is to be committed.
    pub(super) async fn hold_all(&self, txn: &Txn, state: &State) -> Result<Held, Stop> {
        let empty = Spill::new(&self.transactions.files);
        let last = state.last.as_ref().unwrap_or(&empty);
        let staged = last.count() <= MANY as u64 && state.blind.is_empty();
        let reach = if staged {
            let entities =
                last.changes().map(|c| c.map(|c| (c.ns, c.key))).collect::<Result<_, _>>().map_err(spilled)?;
            Reach::Entities(entities)
        } else {
            let (mut namespaces, mut hashes) = (state.blind.clone(), Vec::new());
            for change in last.changes() {
                let change = change.map_err(spilled)?;
                hashes.push(self.marks.hash(&change.ns, &change.key));
                if !namespaces.contains(&change.ns) {
                    namespaces.insert(change.ns);
                }
            }
            Reach::Namespaces(namespaces, hashes)
        };
        Ok(Held { hold: self.hold_commit(txn, &reach).await?, staged })
    }

    /// Numbers all that is to be committed. Doing it again gives the same.
    pub(super) async fn numbered(&self, state: &State, held: Held) -> Result<Numbered, CaptureError> {
        self.epochs.known().await;
        let (mut numbers, mut drafts) = (Vec::new(), Vec::new());
        let mut numbered = Ok(());
        let again = state.phase != Phase::Open;
        for (n, change) in state.last.iter().flat_map(Spill::changes).enumerate() {
            numbered = self.number(change.map_err(spilled), again, &mut numbers, &mut drafts).await;
            if numbered.is_err() {
                break;
            }
            if n % 1_000 == 999 {
                let _pushed_on = self.enqueue(std::mem::take(&mut drafts));
                tokio::task::yield_now().await;
            }
        }
        // Whatever has been staged must follow, whatever came after it.
        let _in_order = self.enqueue(drafts);
        numbered?;
        Ok(Numbered { held, numbers })
    }

    /// The number of one change. What the log does not know of the entity is written down first: what the store holds outside,
    /// since the transaction's snapshot may be older than what the log rightly knows (such a commit fails).
    async fn number(
        &self,
        change: Result<Change, CaptureError>,
        again: bool,
        numbers: &mut Vec<(Epoch, Seq)>,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), CaptureError> {
        let change = change?;
        let index = |e: crate::entity::IndexError| CaptureError::Index(e.to_string());
        let mut known = self.index.get(&change.ns, &change.key).map_err(index)?;
        let known_sha = known.as_ref().filter(|e| e.alive).map(|e| e.sha);
        if known_sha != change.before_sha {
            let Change { ns, key, id, before, after, origin, .. } = change;
            let target = Target { ns, key, id };
            let cause = Cause { origin, found: Found::Touch, ..Cause::default() };
            let mut seen = self.look_at(std::slice::from_ref(&target)).await?;
            let now = seen.remove(&(target.ns.clone(), target.key.clone()));
            // A commit that is sent again may have been carried out: then the transaction proved what was before. At the first try
            // somebody else made what is there, though it may be just like what the transaction made.
            let done = again && now.as_ref().map(Image::sha) == after.as_ref().map(Image::sha);
            self.compare(&Step::observed(&target, if done { before } else { now }), &cause, drafts)?;
            known = self.index.get(&target.ns, &target.key).map_err(index)?;
        }
        numbers.push(Entry::next(known.as_ref(), self.epochs.current()));
        Ok(())
    }

    /// The store has committed: one batch, then guards and marks go.
    pub(super) async fn committed(
        &self,
        txn: &Txn,
        state: &mut State,
        numbered: Numbered,
        operation_time: Option<u64>,
    ) -> Result<Durable, CaptureError> {
        let Numbered { held: Held { hold, staged }, numbers } = numbered;
        let last = state.last.take().unwrap_or_else(|| Spill::new(&self.transactions.files));
        let controls = self.with_opened(std::mem::take(&mut state.controls));
        let count = u32::try_from(last.count()).unwrap_or(u32::MAX);
        let part = TxnPart { lsid: txn.id, txn_number: txn.number, index: 0, count };
        let batch = Batch { changes: last.changes(), numbers, part, operation_time };
        if staged {
            for (change, (epoch, seq)) in last.changes().zip(&batch.numbers) {
                let change = change.map_err(spilled)?;
                let entry = Entry::staged(*epoch, *seq, change.after.as_ref().map(Image::sha));
                self.index.stage(&change.ns, &change.key, entry);
            }
        }
        let facts: Vec<_> = controls.into_iter().map(|c| Ok(fact(c))).collect();
        let ticket = if last.bytes() > STREAMED_BYTES {
            let source: Source = Box::new(facts.into_iter().chain(batch));
            self.log.append_stream(source)
        } else {
            let drafts: Result<Vec<Draft>, std::io::Error> = facts.into_iter().chain(batch).collect();
            let mut drafts = drafts.map_err(spilled)?;
            let ends = drafts.len().saturating_sub(1);
            let ends = if mutated(Mutant::NotContinued) { 0 } else { ends };
            drafts.iter_mut().enumerate().for_each(|(n, draft)| draft.continued = n < ends);
            self.enqueue(drafts)
        };
        self.own.note_transaction((txn.id, txn.number), operation_time);
        let alone = (!staged).then_some(hold);
        let mut durable = ticket.wait().await?;
        if let Some(alone) = alone {
            let applied = self.index.wait_applied(durable.last()).await;
            applied.map_err(|e| CaptureError::Index(e.to_string()))?;
            for ns in std::mem::take(&mut state.blind) {
                let cause = Cause { found: Found::Recovery, ..Cause::default() };
                durable = self.verify_namespace(&ns, &cause).await?;
            }
            drop(alone);
        }
        state.last = Some(last);
        txn.owner.set_unsettled(false);
        self.end(txn, state, Phase::Committed, "commit").await;
        Ok(durable)
    }

    /// What [`Mutant::LiftEarly`] does.
    async fn let_go(&self, txn: &Txn, state: &mut State, held: Held) -> Held {
        let marked = self.marked(state).await;
        self.lift(txn, state, marked);
        Held { hold: Hold::exclusive(self.ns_guards.shared_many(&[]).await), ..held }
    }

    /// Takes clocks out of a reply; gives its `operationTime`.
    fn learn(&self, reply: &RawDocument) -> Option<u64> {
        if let Ok(time) = reply.get_document("$clusterTime").and_then(|d| d.get_timestamp("clusterTime")) {
            self.clock.observe_cluster_time(time.time, time.increment);
        }
        let time = reply.get_timestamp("operationTime").ok()?;
        Some(u64::from(time.time) << 32 | u64::from(time.increment))
    }
}

/// The intent of a commit: the next process finds what it would have logged.
fn seal(tx: &mut Tx<'_>, life: String, first: Option<(Epoch, Seq)>) -> Result<(), CaptureError> {
    let Tx { session, txn, state, .. } = tx;
    // Asked for again, it is still that of the first try: what was lost since may look like this commit.
    let life = if state.phase == Phase::Open { life } else { state.sent_to.clone() };
    if let (Some(last), false) = (&mut state.last, mutated(Mutant::NoSeal)) {
        let sealed = Sealed { user: &txn.key.user, lsid: &txn.key.lsid, number: txn.number, first, life: &life };
        last.seal(&sealed)?;
    }
    if !state.blind.is_empty() {
        let blind: Vec<Namespace> = state.blind.iter().cloned().collect();
        session.slot()?.namespaces(&blind)?;
    }
    txn.owner.set_unsettled(true);
    if state.phase == Phase::Open {
        state.phase = Phase::Sent { since: Instant::now() };
        state.sent_to = life;
    }
    Ok(())
}

fn fact(control: Control) -> Draft {
    Draft { body: Body::Control(control), continued: false }
}

/// Keeps a change, if it is one.
fn keep(last: &mut Spill, change: Change, after: Option<Image>) -> Result<(), Stop> {
    if change.before_sha == after.as_ref().map(Image::sha) {
        return Ok(());
    }
    let op = match (&change.before, &after) {
        (None, _) => Op::Insert,
        (_, None) => Op::Delete,
        _ => change.op,
    };
    let stored = after.as_ref().and_then(crate::capture::compare::stored_id);
    Ok(last.push(Change { op, id: stored.unwrap_or(change.id), after, ..change })?)
}

/// The records of a transaction, made as they are asked for.
struct Batch {
    changes: Changes,
    numbers: Vec<(Epoch, Seq)>,
    part: TxnPart,
    operation_time: Option<u64>,
}

impl Iterator for Batch {
    type Item = std::io::Result<Draft>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut change = match self.changes.next()? {
            Ok(change) => change,
            Err(error) => return Some(Err(error)),
        };
        let place = usize::try_from(self.part.index).unwrap_or(usize::MAX);
        let Some((epoch, seq)) = self.numbers.get(place) else {
            return Some(Err(std::io::Error::other("a change without a number")));
        };
        self.part.index += 1;
        (change.epoch, change.seq) = (*epoch, *seq);
        change.txn = Some(self.part.clone());
        change.operation_time = self.operation_time;
        crate::metrics::CHANGES.inc_for(change.op.name());
        Some(Ok(Draft { body: Body::Change(Box::new(change)), continued: false }))
    }
}
