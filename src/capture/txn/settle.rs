//! Commits whose outcome nobody told: what the store has of their entities says it.
//!
//! A transaction is atomic, so one entity that it changed and that now is as it left it proves the commit; marks keep other
//! writers off these entities meanwhile. One that is still as before proves that it has not been committed *yet*: it may be,
//! by the client's next try or by a message that is still in the network, until the store gives it up.
//!
//! A store that has restarted or changed its term since may have lost what it had before, and look as if it had committed: then
//! what it has stands as *observed*, unless the client's own retry is told the outcome.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use tokio::time::Instant;
use tracing::{info, warn};

use super::commit::Held;
use super::spill::{Left, Spill};
use super::{Phase, SessionKey, State, Stop, Txn, spilled};
use crate::capture::Capture;
use crate::capture::compare::Cause;
use crate::capture::error::CaptureError;
use crate::capture::intent::Scope;
use crate::capture::observe::Target;
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::store::life_of;
use crate::types::{Change, Digest, Found, Image, Namespace, Seq};
use bson::RawBson;
use bson::raw::RawDocument;

/// Entities that are read at once.
const CHUNK: usize = 200;

/// An entity with the hashes of its images before and after.
type Sent = (Target, Option<Digest>, Option<Digest>);

/// What the store says of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Committed,
    NotYet,
    /// All its entities are neither as before nor as it left them: others wrote since.
    Moved,
}

impl Capture {
    /// Settles a sent commit, if it can be told. `over`: the store has surely ended it, so what is not committed never will be.
    pub(super) async fn settle_commit(&self, txn: &Txn, state: &mut State, over: bool) -> Result<(), CaptureError> {
        if !matches!(state.phase, Phase::Sent { .. }) {
            return Ok(());
        }
        if self.is_logged(state)? {
            txn.owner.set_unsettled(false);
            self.end(txn, state, Phase::Committed, "commit").await;
            return Ok(());
        }
        match self.hold_all(txn, state).await {
            Ok(held) => self.settle_held(txn, state, held, over).await,
            Err(Stop::Failed(error)) => Err(error),
            // Whoever has the guards: later.
            Err(Stop::Blocked | Stop::Reply(_)) => Ok(()),
        }
    }

    /// As [`settle_commit`](Self::settle_commit), the guards already held.
    pub(super) async fn settle_held(
        &self,
        txn: &Txn,
        state: &mut State,
        held: Held,
        over: bool,
    ) -> Result<(), CaptureError> {
        let Phase::Sent { since } = state.phase else { return Ok(()) };
        let over = over || since.elapsed() > self.transactions.limits.lifetime;
        if !state.blind.is_empty() && !over {
            // Which of them it changed is not known: they are verified when it is over.
            return Ok(());
        }
        let verdict = match &state.last {
            _ if state.moved => Verdict::Moved,
            Some(last) if last.count() > 0 => self.verdict(last).await?,
            _ => Verdict::Moved,
        };
        let verdict = match verdict {
            Verdict::Committed if self.ask_life().await? != state.sent_to => Verdict::Moved,
            verdict => verdict,
        };
        match verdict {
            Verdict::Committed => {
                metrics::TRANSACTIONS_SETTLED.inc_for("committed");
                let _durable = self.committed(txn, state, held, None).await?;
            }
            Verdict::NotYet if !over && !mutated(Mutant::NotYetIsNever) => {}
            Verdict::NotYet => {
                metrics::TRANSACTIONS_SETTLED.inc_for("aborted");
                drop(held);
                txn.owner.set_unsettled(false);
                self.end(txn, state, Phase::Aborted { certain: false }, "error").await;
            }
            Verdict::Moved => {
                metrics::TRANSACTIONS_SETTLED.inc_for("moved");
                txn.owner.set_unsettled(false);
                if let Err(error) = self.verify_moved(state).await {
                    // Some of it may be in the log: there is no other way for the rest.
                    state.moved = true;
                    txn.owner.set_unsettled(true);
                    return Err(error);
                }
                drop(held);
                self.end(txn, state, Phase::Aborted { certain: false }, "error").await;
            }
        }
        Ok(())
    }

    /// Its batch is in the log: the process was killed before it could forget the intent. Until it is forgotten nobody else
    /// writes these entities or logs what is seen of them, so the log says of each what was before, or what the batch says.
    fn is_logged(&self, state: &State) -> Result<bool, CaptureError> {
        let Some(change) = state.last.as_ref().and_then(|last| last.changes().next()) else { return Ok(false) };
        let change = change.map_err(spilled)?;
        let known = self.index.get(&change.ns, &change.key).map_err(|e| CaptureError::Index(e.to_string()))?;
        let known = known.filter(|entry| entry.alive).map(|entry| entry.sha);
        Ok(known == change.after.as_ref().map(Image::sha) && known != change.before_sha)
    }

    /// Asks the store for its life, after the images were read: they are of this life or an earlier one.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn ask_life(&self) -> Result<String, CaptureError> {
        let hello = self.privileged.hello().await.map_err(|e| CaptureError::Store(e.to_string()))?;
        let life = life_of(&hello);
        self.life.lock().clone_from(&life);
        Ok(life)
    }

    /// The store's life when it was last asked for.
    pub(super) fn life(&self) -> String {
        self.life.lock().clone()
    }

    /// Committed only if its batch can stand in the log as it is: see [`verdict_of`](Self::verdict_of).
    async fn verdict(&self, last: &Spill) -> Result<Verdict, CaptureError> {
        let mut verdict = None;
        let mut changes = last.changes();
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let mut bytes = 0;
            while chunk.len() < CHUNK && bytes < (8 << 20) {
                let Some(change) = changes.next() else { break };
                let Change { ns, key, id, before_sha, after, .. } = change.map_err(spilled)?;
                bytes += after.as_ref().map_or(0, |image| image.bytes().len());
                chunk.push((Target { ns, key, id }, before_sha, after.as_ref().map(Image::sha)));
            }
            if chunk.is_empty() {
                return Ok(verdict.unwrap_or(Verdict::Moved));
            }
            chunk.sort_by(|a, b| a.0.ns.cmp(&b.0.ns));
            match self.verdict_of(&chunk).await? {
                Some(Verdict::Moved) => return Ok(Verdict::Moved),
                Some(Verdict::NotYet) if verdict.is_none() => return Ok(Verdict::NotYet),
                told => verdict = verdict.or(told),
            }
        }
    }

    /// What some of its entities tell; `None`: nothing, others wrote since. *Moved*: one of them is neither as it left it nor, in the
    /// log, as it was before (the log has lost what followed the commit, with the machine): a batch would not join to that.
    async fn verdict_of(&self, chunk: &[Sent]) -> Result<Option<Verdict>, CaptureError> {
        let mut verdict = None;
        for group in chunk.chunk_by(|a, b| a.0.ns == b.0.ns) {
            let targets: Vec<Target> = group.iter().map(|(target, _, _)| target.clone()).collect();
            let seen = self.look_at(&targets).await?;
            for (target, before, after) in group {
                let now = seen.get(&(target.ns.clone(), target.key.clone())).map(Image::sha);
                if now == *after {
                    verdict = Some(Verdict::Committed);
                    continue;
                }
                let known = self.index.get(&target.ns, &target.key).map_err(|e| CaptureError::Index(e.to_string()))?;
                if known.filter(|entry| entry.alive).map(|entry| entry.sha) != *before {
                    return Ok(Some(Verdict::Moved));
                }
                if now == *before && verdict.is_none() {
                    verdict = Some(Verdict::NotYet);
                }
            }
        }
        Ok(verdict)
    }

    /// What became of the entities stands as *observed*: whose doing it was cannot be told.
    async fn verify_moved(&self, state: &State) -> Result<(), CaptureError> {
        let cause = Cause { found: Found::Recovery, ..Cause::default() };
        for ns in &state.blind {
            let _durable = self.verify_namespace(ns, &cause).await?;
        }
        let Some(last) = &state.last else { return Ok(()) };
        let mut changes = last.changes().peekable();
        while changes.peek().is_some() {
            let mut targets = Vec::new();
            for change in changes.by_ref().take(CHUNK) {
                let Change { ns, key, id, .. } = change.map_err(spilled)?;
                targets.push(Target { ns, key, id });
            }
            targets.sort_by(|a, b| a.ns.cmp(&b.ns));
            let mut drafts = Vec::new();
            let verified = self.verify_targets(&targets, &cause, &mut drafts).await;
            let _durable = self.enqueue(drafts).wait().await?;
            verified?;
        }
        Ok(())
    }

    /// Takes up the commits that dead processes had sent, and settles those that can be told.
    pub(crate) async fn recover_commits(&self) -> Result<usize, CaptureError> {
        for left in self.transactions.files.left_behind()? {
            if let Some(damage) = damage(&left.spill)? {
                self.lost(left, &damage).await?;
            } else if self.is_past(&left)? {
                self.past(left).await?;
            } else if !self.transactions.all().iter().any(|txn| txn.number == left.number && txn.key.lsid == left.lsid)
            {
                self.take_up(left).await?;
            }
        }
        let mut sent = 0;
        for txn in self.transactions.all() {
            let mut state = txn.state.lock().await;
            if matches!(state.phase, Phase::Sent { .. }) {
                sent += 1;
                self.settle_commit(&txn, &mut state, false).await?;
            }
        }
        if sent > 0 {
            info!(commits = sent, "looked at what the last process had sent to be committed");
        }
        Ok(sent)
    }

    /// A sent commit that a crash of the machine has torn: what it changed is not known, so nothing is proved until all is compared.
    async fn lost(&self, mut left: Left, damage: &std::io::Error) -> Result<(), CaptureError> {
        warn!(file = left.name, %damage, "a sent commit cannot be read: everything is compared with the store");
        let detail = format!("the file {} of a commit that had been sent cannot be read: {damage}", left.name);
        self.open_gap(&Namespace::new("*", "*"), "commit", &detail).await?;
        left.spill.release().map_err(CaptureError::from)
    }

    /// It was settled, and a crash of the machine has brought its file back as it was before: the log has what came of it, since
    /// nobody counts on these entities before it is settled.
    fn is_past(&self, left: &Left) -> Result<bool, CaptureError> {
        let Some(change) = left.spill.changes().next() else { return Ok(true) };
        let change = change.map_err(spilled)?;
        let known = self.index.get(&change.ns, &change.key).map_err(|e| CaptureError::Index(e.to_string()))?;
        Ok(known.is_some_and(|known| left.first.1 > Seq(0) && (known.epoch, known.seq) >= left.first))
    }

    async fn past(&self, mut left: Left) -> Result<(), CaptureError> {
        info!(file = left.name, "a commit that was settled before the crash: its entities are verified");
        let mut changes = left.spill.changes().peekable();
        while changes.peek().is_some() {
            let mut groups = BTreeMap::<Namespace, Vec<RawBson>>::new();
            for change in changes.by_ref().take(CHUNK) {
                let Change { ns, id, .. } = change.map_err(spilled)?;
                groups.entry(ns).or_default().push(id);
            }
            self.verify(&Scope::Entities(groups), Found::Recovery).await?;
        }
        left.spill.release().map_err(CaptureError::from)
    }

    async fn take_up(&self, left: Left) -> Result<(), CaptureError> {
        let Left { user, lsid, number, life, spill, .. } = left;
        let key = SessionKey { user, lsid: lsid.clone() };
        let id = RawDocument::from_bytes(&lsid).ok().and_then(|d| d.get_binary("id").ok()?.bytes.try_into().ok());
        let txn =
            self.transactions.begin(key.clone(), id.unwrap_or_default(), number, Phase::Sent { since: Instant::now() });
        {
            let mut state = txn.state.lock().await;
            for change in spill.changes() {
                let change = change.map_err(spilled)?;
                self.marks.place(&txn.owner, self.marks.hash(&change.ns, &change.key));
                if state.namespaces.insert(change.ns.clone()) {
                    self.marks.enter(&txn.owner, &change.ns);
                }
            }
            txn.owner.set_unsettled(true);
            state.last = Some(spill);
            state.sent_to = life;
        }
        // A session whose older commit is not settled either keeps both.
        let mut sessions = self.transactions.sessions.lock();
        let newest = sessions.get(&key).is_none_or(|other| other.number < number);
        let older = if newest { sessions.insert(key, txn) } else { Some(txn) };
        self.transactions.left.lock().extend(older);
        Ok(())
    }
}

/// What keeps a spill from being read to its end; an error of the disk itself is none.
fn damage(spill: &Spill) -> Result<Option<std::io::Error>, CaptureError> {
    match spill.changes().find_map(Result::err) {
        Some(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => Ok(Some(error)),
        Some(error) => Err(spilled(error)),
        None => Ok(None),
    }
}
