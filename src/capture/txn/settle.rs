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
use crate::types::{Change, Digest, EntityKey, Found, Image, Namespace};
use bson::RawBson;
use bson::raw::RawDocument;

/// Entities that are compared with the log without a pause.
const AT_ONCE: usize = 1_000;

/// Entities that are read at once.
const CHUNK: usize = 200;

/// An entity of a commit, with the hashes of its images.
struct Sent {
    target: Target,
    before: Option<Digest>,
    after: Option<Digest>,
    /// The log says of it what the transaction saw first.
    joins: bool,
}

/// What the entities seen so far tell.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// One is as the transaction left it: it was committed.
    after: bool,
    /// One is as it was before.
    before: bool,
    /// One is neither, and its change would not join to what the log says of it: the log has lost what followed, with the machine.
    stray: bool,
}

/// What the store says of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Committed,
    NotYet,
    /// Its entities are neither as before nor as it left them: others wrote since. Or its batch cannot stand in the log whole.
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
                let numbered = self.numbered(state, held).await?;
                let _durable = self.committed(txn, state, numbered, None).await?;
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
        let known = self.known_sha(&change.ns, &change.key)?;
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

    /// What the store says of a commit that it may have carried out.
    async fn verdict(&self, last: &Spill) -> Result<Verdict, CaptureError> {
        let mut told = Told::default();
        let mut changes = last.changes();
        loop {
            let (mut chunk, mut bytes, mut ended) = (Vec::new(), 0, true);
            for (n, change) in changes.by_ref().enumerate() {
                let Change { ns, key, id, before_sha, after, .. } = change.map_err(spilled)?;
                let joins = self.known_sha(&ns, &key)? == before_sha;
                // Once it is known to be committed, only an entity that its change may not join to is looked at.
                if !(told.after && joins) {
                    bytes += after.as_ref().map_or(0, |image| image.bytes().len());
                    let after = after.as_ref().map(Image::sha);
                    chunk.push(Sent { target: Target { ns, key, id }, before: before_sha, after, joins });
                }
                if chunk.len() >= CHUNK || bytes >= (8 << 20) || n >= AT_ONCE {
                    ended = false;
                    break;
                }
            }
            chunk.sort_by(|a, b| a.target.ns.cmp(&b.target.ns));
            self.look_at_sent(&chunk, &mut told).await?;
            match told {
                Told { after: true, stray: true, .. } => return Ok(Verdict::Moved),
                Told { after: false, before: true, .. } => return Ok(Verdict::NotYet),
                Told { after: true, .. } if ended => return Ok(Verdict::Committed),
                _ if ended => return Ok(Verdict::Moved),
                _ => tokio::task::yield_now().await,
            }
        }
    }

    async fn look_at_sent(&self, chunk: &[Sent], told: &mut Told) -> Result<(), CaptureError> {
        for group in chunk.chunk_by(|a, b| a.target.ns == b.target.ns) {
            let targets: Vec<Target> = group.iter().map(|sent| sent.target.clone()).collect();
            let seen = self.look_at(&targets).await?;
            for Sent { target, before, after, joins } in group {
                let now = seen.get(&(target.ns.clone(), target.key.clone())).map(Image::sha);
                told.after |= now == *after;
                told.before |= now == *before;
                told.stray |= now != *after && now != *before && !joins;
            }
        }
        Ok(())
    }

    /// What the log says of an entity; `None`: it is not there.
    fn known_sha(&self, ns: &Namespace, key: &EntityKey) -> Result<Option<Digest>, CaptureError> {
        let known = self.index.get(ns, key).map_err(|e| CaptureError::Index(e.to_string()))?;
        Ok(known.filter(|entry| entry.alive).map(|entry| entry.sha))
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
        let last = self.last_number(&change.ns, &change.key)?;
        Ok(last.zip(left.first).is_some_and(|(last, first)| last >= first))
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
