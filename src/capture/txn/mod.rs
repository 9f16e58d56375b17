//! Writes inside multi-document transactions.
//!
//! Promises (DESIGN.md 3.2): the changes of a committed transaction stand together in the log, in one batch that a window
//! never cuts, each with its place; nothing of an aborted one, however it ended. `before` is what the transaction saw first,
//! `after` what it committed; several statements on one entity make one change. A commit whose reply never came is settled by
//! what the store says, also by the next process. Memory does not grow with the size of a transaction.
//!
//! State belongs to the session (user, lsid), not to the connection. A transaction of which this process does not know the
//! beginning is aborted in the store before anything of it is forwarded, so the store's own answer makes the driver run it again.
//!
//! # How a transaction goes
//! - *Statement*: guards of its entities, for this round trip only and never for long → images before, read inside the transaction, of
//!   those that it touches for the first time → forward → [marks](crate::entity::Marks) → guards released.
//! - *Commit*: images after, read inside the transaction → guards → numbers → the sealed [spill] as intent → forward
//!   → one batch → guards and marks lifted.
//! - Any error inside, as for the store itself, ends it.
//!
//! # Why nothing waits for ever
//! A write outside a transaction that finds a mark holds nothing while it waits; so nobody holds a guard and is blocked in the store
//! by a transaction. A statement or commit that cannot have its guards within a bound ends its transaction with the store's own
//! word for it, `LockTimeout` (mongod gives up after 5 ms). A transaction that has not ended after its lifetime is taken for dead.
//!
//! # Decisions
//! - Entities that a statement named and did not change have no record: both images are read inside the transaction and compare equal.
//! - A client that may not read: its namespaces are verified, alone, once its transaction has committed; the changes stand as *observed*.
//! - More than [`MANY`] entities are guarded by their namespaces.

mod commit;
mod error;
mod fields;
mod read;
mod registry;
mod settle;
mod spill;
mod statement;
mod tend;
mod wait;

use bson::raw::RawDocument;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::command::merge::is_ok;
use super::command::number;
use super::ddl::{Ddl, written_by};
use super::error::CaptureError;
use super::intent::IntentError;
use super::write::{answer, is_clean, verb};
use super::{Capture, Outcome, Session};
use crate::entity::EntityHash;
use crate::metrics;
use crate::store::Upstream;
use crate::types::{Control, Namespace};
use crate::wire::msg::OpMsg;
use crate::wire::{DdlKind, Kind};

use fields::Ident;
pub use fields::{abort_transaction, in_transaction};
pub use registry::TransactionLimits;
pub(crate) use registry::Transactions;
use registry::{Known, Phase, SessionKey, State, Txn};
pub(crate) use spill::Files;
pub(crate) use wait::limit_of;

/// Entities that are guarded one by one; beyond, their namespaces are.
const MANY: usize = 10_000;

/// Error code `NoSuchTransaction`.
const NO_SUCH_TRANSACTION: i64 = 251;

/// A command of an open transaction, at work.
struct Tx<'a> {
    session: &'a mut Session,
    upstream: &'a mut Upstream,
    txn: &'a Txn,
    state: &'a mut State,
    message: &'a OpMsg,
    /// `startTransaction` was not sent yet.
    first: bool,
    /// It was sent with a read of ours, in this command.
    ours_began: bool,
}

/// Why a command of a transaction got no reply of its own.
#[derive(Debug)]
enum Stop {
    /// The store's answer to a read of ours, which is as good an answer to the client's command.
    Reply(OpMsg),
    /// The guards were not to be had in time.
    Blocked,
    Failed(CaptureError),
}

impl<E: Into<CaptureError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Capture {
    /// Carries a command that stands inside a transaction through, whatever it is.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn transact(
        &self,
        session: &mut Session,
        upstream: &mut Upstream,
        kind: Kind,
        message: &OpMsg,
    ) -> Result<Outcome, CaptureError> {
        let Some(ident) = Ident::of(message.body()) else {
            return self.unfit(session, upstream, kind, message).await;
        };
        match self.transactions.find(&session.origin.user, ident) {
            Known::Here(txn) => {
                let mut state = txn.state.lock().await;
                let tx =
                    Tx { session, upstream, txn: &txn, state: &mut state, message, first: false, ours_began: false };
                self.go_on(tx, kind).await
            }
            Known::Begins(txn, older) => {
                let mut state = txn.state.lock().await;
                let tx =
                    Tx { session, upstream, txn: &txn, state: &mut state, message, first: true, ours_began: false };
                let outcome = self.command(tx, kind).await;
                // The store has ended the session's older one with this, whatever came of the new one.
                if let Some(older) = older {
                    self.supersede(&older).await;
                }
                outcome
            }
            Known::Stale => self.stale(upstream, message).await,
            Known::Unknown => {
                metrics::TRANSACTIONS_ENDED.inc_for("unknown");
                self.after_abort(upstream, message).await
            }
        }
    }

    /// Fields that make no transaction: the store says what is wrong with them. A write that it takes all the same is verified.
    async fn unfit(
        &self,
        session: &mut Session,
        upstream: &mut Upstream,
        kind: Kind,
        message: &OpMsg,
    ) -> Result<Outcome, CaptureError> {
        match kind {
            Kind::Write(kind) => self.opaque(session, upstream, verb(kind), message).await,
            Kind::Ddl(_) | Kind::Aggregate | Kind::MapReduce | Kind::Hidden => Err(CaptureError::Refused {
                code: 72,
                code_name: "InvalidOptions",
                message: "a transaction needs an lsid with a UUID, a txnNumber of type long and autocommit: false"
                    .to_owned(),
                labels: &[],
            }),
            _ => {
                let reply = relay(upstream, message).await?;
                self.told(&reply, message)
            }
        }
    }

    /// A command of a transaction that is here.
    async fn go_on(&self, tx: Tx<'_>, kind: Kind) -> Result<Outcome, CaptureError> {
        match (tx.state.phase, kind) {
            (Phase::Sent { .. }, Kind::Commit) if tx.state.moved => {
                self.settle_commit(tx.txn, tx.state, false).await?;
                if matches!(tx.state.phase, Phase::Sent { .. }) {
                    return Err(not_known_yet());
                }
                self.after_abort(tx.upstream, tx.message).await
            }
            (Phase::Open | Phase::Sent { .. }, Kind::Commit) => self.commit(tx).await,
            (Phase::Open, _) => self.command(tx, kind).await,
            (Phase::Sent { .. }, Kind::Abort) => {
                let reply = relay(tx.upstream, tx.message).await?;
                self.settle_commit(tx.txn, tx.state, false).await?;
                self.told(&reply, tx.message)
            }
            (Phase::Sent { .. }, _) => {
                let outcome = self.after_abort(tx.upstream, tx.message).await;
                self.settle_commit(tx.txn, tx.state, false).await?;
                outcome
            }
            (Phase::Committed | Phase::Aborted { certain: true }, _) => {
                let reply = relay(tx.upstream, tx.message).await?;
                self.told(&reply, tx.message)
            }
            (Phase::Aborted { certain: false }, Kind::Abort) => {
                let reply = relay(tx.upstream, tx.message).await?;
                tx.state.phase = Phase::Aborted { certain: is_ok(reply.body()) };
                self.told(&reply, tx.message)
            }
            (Phase::Aborted { certain: false }, _) => self.after_abort(tx.upstream, tx.message).await,
        }
    }

    /// Any command but a commit, in an open transaction.
    async fn command(&self, mut tx: Tx<'_>, kind: Kind) -> Result<Outcome, CaptureError> {
        let done = match kind {
            Kind::Write(kind) => match self.admit(false) {
                Ok(()) => self.statement(&mut tx, kind).await,
                Err(refused) => Err(Stop::Failed(refused)),
            },
            Kind::Ddl(kind) => self.collections(&mut tx, kind).await,
            Kind::Aggregate | Kind::MapReduce => self.aggregate(&mut tx).await,
            _ => tx.pass().await,
        };
        let message = tx.message;
        match done {
            Ok(reply) | Err(Stop::Reply(reply)) => {
                let body = reply.body();
                if kind == Kind::Abort {
                    self.end(tx.txn, tx.state, Phase::Aborted { certain: is_ok(body) }, "abort").await;
                } else if !is_clean(body) {
                    self.after_error(tx, kind, body).await?;
                }
                self.told(&reply, message)
            }
            Err(Stop::Blocked) => {
                tx.upstream.run("admin", abort_transaction(message.body())).await?;
                self.end(tx.txn, tx.state, Phase::Aborted { certain: true }, "blocked").await;
                Err(lock_timeout())
            }
            Err(Stop::Failed(error)) => {
                // What the store did with it is not known: nothing of it is forwarded until it is surely over there.
                self.end(tx.txn, tx.state, Phase::Aborted { certain: false }, "broken").await;
                Err(error)
            }
        }
    }

    /// Ends a transaction of which nothing is to be in the log (or all of it is): lifts its marks.
    async fn end(&self, txn: &Txn, state: &mut State, phase: Phase, how: &'static str) {
        let was_open = matches!(state.phase, Phase::Open | Phase::Sent { .. });
        state.phase = phase;
        if !was_open {
            return;
        }
        metrics::TRANSACTIONS_ENDED.inc_for(how);
        metrics::TRANSACTIONS_OPEN.dec();
        let marked = self.marked(state).await;
        // First the intent goes: as long as it is there, nobody else writes what it names.
        for spill in state.last.iter_mut().chain(std::iter::once(&mut state.touched)) {
            if let Err(error) = spill.release() {
                tracing::warn!(%error, "a transaction's file stays until the next start");
            }
        }
        state.last = None;
        self.lift(txn, state, marked);
        self.transactions.open.fetch_sub(1, Ordering::AcqRel);
        state.controls = Vec::new();
        state.blind = BTreeSet::new();
    }

    /// The entities that it has marked, as a list of their hashes.
    async fn marked(&self, state: &State) -> Vec<EntityHash> {
        // A sealed spill of a dead process is all there is to it.
        let of = if state.touched.count() > 0 { Some(&state.touched) } else { state.last.as_ref() };
        let Some(of) = of else { return Vec::new() };
        let (changes, marks) = (of.changes(), Arc::clone(&self.marks));
        let hashes = move || changes.flatten().map(|change| marks.hash(&change.ns, &change.key)).collect();
        if of.count() > MANY as u64 {
            return tokio::task::spawn_blocking(hashes).await.unwrap_or_default();
        }
        hashes()
    }

    fn lift(&self, txn: &Txn, state: &mut State, entities: Vec<EntityHash>) {
        let namespaces = std::mem::take(&mut state.namespaces);
        self.marks.lift(&txn.owner, entities.into_iter(), namespaces.iter());
    }

    /// A newer number of its session was seen by the store.
    async fn supersede(&self, older: &Txn) {
        let mut state = older.state.lock().await;
        match state.phase {
            Phase::Open => self.end(older, &mut state, Phase::Aborted { certain: true }, "superseded").await,
            Phase::Sent { .. } => {
                if let Err(error) = self.settle_commit(older, &mut state, true).await {
                    tracing::warn!(%error, "a commit of unknown outcome is settled later");
                }
            }
            Phase::Committed | Phase::Aborted { .. } => {}
        }
    }

    /// A write outside a transaction carried this number: an open transaction of its session has ended in the store.
    pub(crate) async fn newer_number(&self, session: &Session, body: &RawDocument) {
        let (Ok(lsid), Ok(number)) = (body.get_document("lsid"), body.get_i64("txnNumber")) else { return };
        if let Some(older) = self.transactions.superseded(&session.origin.user, lsid, number) {
            self.supersede(&older).await;
        }
    }

    /// A command that the store must refuse. Should it not, what it did is undone.
    async fn stale(&self, upstream: &mut Upstream, message: &OpMsg) -> Result<Outcome, CaptureError> {
        let reply = relay(upstream, message).await?;
        if is_clean(reply.body()) && message.command().0 != "abortTransaction" {
            return self.after_abort(upstream, message).await;
        }
        self.told(&reply, message)
    }

    /// A command of a transaction that may still be open in the store though nothing is known of it here: first it is surely
    /// over, then the store answers.
    async fn after_abort(&self, upstream: &mut Upstream, message: &OpMsg) -> Result<Outcome, CaptureError> {
        upstream.run("admin", abort_transaction(message.body())).await?;
        let reply = relay(upstream, message).await?;
        self.told(&reply, message)
    }

    fn told(&self, reply: &OpMsg, message: &OpMsg) -> Result<Outcome, CaptureError> {
        Ok(Outcome { reply: answer(reply, message.request_id()), durable: self.log.nothing_to_log()? })
    }

    /// `create` is recorded with its transaction; no store allows the others, and one that did would open a gap.
    async fn collections(&self, tx: &mut Tx<'_>, kind: DdlKind) -> Result<OpMsg, Stop> {
        let ddl = Ddl::parse(kind, tx.message);
        let reply = tx.pass().await?;
        if !is_ok(reply.body()) {
            return Ok(reply);
        }
        match ddl {
            Some(ddl) if kind == DdlKind::Create => {
                for control in ddl.controls {
                    if let Control::Create { ns, .. } = &control {
                        self.enter(tx, ns);
                    }
                    tx.state.controls.push(control);
                }
            }
            _ => {
                let ns = Namespace::new(tx.message.db().unwrap_or_default(), "*");
                self.open_gap(&ns, "ddl", "a command that changes collections succeeded inside a transaction").await?;
            }
        }
        Ok(reply)
    }

    async fn aggregate(&self, tx: &mut Tx<'_>) -> Result<OpMsg, Stop> {
        let writes = written_by(tx.message);
        let reply = tx.pass().await?;
        if let (Some((ns, cause)), true) = (writes, is_ok(reply.body())) {
            self.open_gap(&ns, cause, "inside a transaction").await?;
        }
        Ok(reply)
    }

    /// The transaction has its hands in a namespace from here on.
    fn enter(&self, tx: &mut Tx<'_>, ns: &Namespace) {
        if tx.state.namespaces.insert(ns.clone()) {
            self.marks.enter(&tx.txn.owner, ns);
        }
    }
}

impl Tx<'_> {
    /// The client's command as it is.
    async fn pass(&mut self) -> Result<OpMsg, Stop> {
        self.first = false;
        Ok(relay(self.upstream, self.message).await?)
    }

    /// Forwards a piece of the client's command under a number of ours.
    async fn forward(&mut self, piece: Bytes) -> Result<OpMsg, Stop> {
        self.first = false;
        let id = self.upstream.next_id();
        let piece = super::piece::with_number(piece, 4, id);
        Ok(self.upstream.exchange(&piece).await.map_err(CaptureError::from)?)
    }
}

/// Forwards a message as it is but for flags that change how replies come, and takes the whole reply.
async fn relay(upstream: &mut Upstream, message: &OpMsg) -> Result<OpMsg, CaptureError> {
    let bytes = if message.flags() == 0 { message.bytes().clone() } else { message.with_body(message.body(), 0) };
    let bytes = super::piece::with_number(bytes, 4, upstream.next_id());
    Ok(upstream.exchange(&bytes).await?)
}

/// The reply says that the transaction has ended in the store.
fn says_over(reply: &RawDocument) -> bool {
    number(reply.get("code").ok().flatten()) == Some(NO_SUCH_TRANSACTION)
        || fields::has_label(reply, "TransientTransactionError")
}

/// As mongod answers a statement that cannot have its locks: the driver runs the transaction again.
fn lock_timeout() -> CaptureError {
    CaptureError::Refused {
        code: 24,
        code_name: "LockTimeout",
        message: "Unable to acquire the guards of the transaction's entities in time; it is aborted".to_owned(),
        labels: &["TransientTransactionError"],
    }
}

/// A commit is asked for again before what came of it is in the log.
fn not_known_yet() -> CaptureError {
    CaptureError::Refused {
        code: 262,
        code_name: "ExceededTimeLimit",
        message: "the outcome of an earlier commit of the transaction is not known yet".to_owned(),
        labels: &["RetryableWriteError"],
    }
}

/// A spill that cannot be written or read.
fn spilled(error: std::io::Error) -> CaptureError {
    IntentError::from(error).into()
}
