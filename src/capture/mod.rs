//! `write` and `verify`: the only two ways into the log.
//!
//! Promises (DESIGN.md 3): each change that the store made on behalf of a client that was answered *ok* is durable in the
//! log before the answer; images are those of the change itself; per entity seq is dense; what could not be proved is
//! verified, and what cannot be verified is a gap.
//!
//! Transactions have a page of their own: [`txn`].
//!
//! Does not: follow changes made behind the sidecar's back (found at the next
//! touch of their entity).
//!
//! # Decisions
//! - A batch goes to the store in as few pieces as stay exact: consecutive statements that name different entities by `_id`
//!   travel together, everything else goes alone, narrowed to the ids that were found. An entity that appears twice starts a
//!   new piece, so each change has its own record.
//! - A statement whose outcome cannot be tied to ids (a collation, an upsert that finds nothing, a shape we do not know)
//!   runs under the exclusive guard of its namespace.

mod command;
mod compare;
mod cursors;
mod ddl;
mod epoch;
mod error;
mod foreign;
mod intent;
mod keep;
mod looks;
mod namespace;
mod observe;
mod others;
mod own;
mod piece;
pub mod range;
mod recover;
mod resolve;
mod swap;
mod told;
mod txn;
mod verify;
mod write;

use bson::raw::RawDocument;
use bytes::Bytes;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::changelog::{Changelog, Durable, Ticket};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::entity::{Guards, Index, Marks, NsGuards};
use crate::mutants::{Mutant, mutated};
use crate::store::Node;
use crate::types::{Draft, Epoch, Namespace, Origin};

use command::merge::{self, is_ok};
pub use ddl::written_by;
pub use epoch::Epochs;
pub use error::{CaptureError, ShapeError};
pub use foreign::covers;
pub use intent::{IntentError, Intents, Left, Scope, Slot};
use observe::Via;
pub use own::TxnId;
pub use txn::{TransactionLimits, abort_transaction, in_transaction};

/// What capture is built from.
#[derive(Debug)]
pub struct Parts {
    /// The log.
    pub log: Arc<Changelog>,
    /// The entity index.
    pub index: Arc<Index>,
    /// The privileged connection.
    pub privileged: Arc<dyn Node>,
    /// The clock that learns cluster times.
    pub clock: Arc<Clock>,
    /// Where intents are kept.
    pub disk: Arc<dyn Disk>,
    /// Their folder.
    pub intents: PathBuf,
    /// Who counts, as the log knows it.
    pub epoch: Epoch,
    /// When entities of open intents are looked at a second time; a third time when the longest transaction has ended since.
    pub second_look: Duration,
    /// How long transactions may take.
    pub transactions: TransactionLimits,
}

/// The capture of one sidecar.
#[derive(Debug)]
pub struct Capture {
    log: Arc<Changelog>,
    index: Arc<Index>,
    privileged: Arc<dyn Node>,
    clock: Arc<Clock>,
    intents: Arc<Intents>,
    guards: Guards,
    ns_guards: NsGuards,
    marks: Arc<Marks>,
    transactions: txn::Transactions,
    namespaces: namespace::Namespaces,
    trailers: swap::Trailers,
    cursors: cursors::Cursors,
    foreign: foreign::Foreign,
    gap_turn: tokio::sync::Mutex<()>,
    /// The store's life, as last seen.
    life: parking_lot::Mutex<String>,
    own: own::Own,
    epochs: Arc<Epochs>,
    looks: looks::Looks,
}

/// What capture keeps for one client connection.
#[derive(Debug)]
pub struct Session {
    /// Who it is; the proxy replaces it as it learns.
    pub origin: Arc<Origin>,
    intents: Arc<Intents>,
    slot: Option<Slot>,
    via: HashMap<Namespace, Via>,
}

/// What the client gets.
#[derive(Debug)]
pub struct Outcome {
    /// A whole `OP_MSG` that answers the client's request.
    pub reply: Bytes,
    /// Proof that all records of the command are durable.
    pub durable: Durable,
}

impl Session {
    /// The session's slot for intents.
    fn slot(&mut self) -> Result<&mut Slot, CaptureError> {
        if self.slot.is_none() {
            self.slot = Some(self.intents.slot()?);
        }
        self.slot.as_mut().ok_or_else(|| CaptureError::Answer("no slot".to_owned()))
    }

    fn close_slot(&mut self) -> Result<(), CaptureError> {
        match &mut self.slot {
            Some(slot) => Ok(slot.close()?),
            None => Ok(()),
        }
    }
}

impl Capture {
    /// Puts capture together. [`recover`](Self::recover) must have ended before the first client is served.
    ///
    /// # Errors
    /// When the intents' folder cannot be opened.
    pub fn new(parts: Parts) -> Result<Self, CaptureError> {
        let Parts { log, index, privileged, clock, disk, intents, epoch, second_look, transactions } = parts;
        let files = txn::Files::open(Arc::clone(&disk), intents.join("transactions"))?;
        let looks = looks::Looks::new(second_look, transactions.lifetime);
        let guards = Guards::new();
        Ok(Self {
            log,
            index,
            privileged,
            intents: Intents::open(disk, intents, clock.clone())?,
            clock,
            ns_guards: NsGuards::beside(&guards),
            guards,
            marks: Arc::new(Marks::new()),
            transactions: txn::Transactions::new(files, transactions),
            namespaces: namespace::Namespaces::default(),
            trailers: swap::Trailers::default(),
            cursors: cursors::Cursors::default(),
            foreign: foreign::Foreign::default(),
            gap_turn: tokio::sync::Mutex::default(),
            life: parking_lot::Mutex::default(),
            own: own::Own::default(),
            epochs: Epochs::new(epoch),
            looks,
        })
    }

    /// What capture keeps for a new client connection.
    pub fn session(&self, origin: Arc<Origin>) -> Session {
        Session { origin, intents: self.intents.clone(), slot: None, via: HashMap::new() }
    }

    /// Refuses a write before anything is forwarded when the log could not make it durable, or the index stands still.
    fn admit(&self, retryable: bool) -> Result<(), CaptureError> {
        let log = self.log.writable().map_err(|error| error.to_string());
        let Err(error) = log.and_then(|()| self.index.healthy().map_err(|error| error.to_string())) else {
            return Ok(());
        };
        let message = format!("tidelog refuses the write, nothing was forwarded: {error}");
        Err(if retryable {
            let labels = &["RetryableWriteError"];
            CaptureError::Refused { code: 262, code_name: "ExceededTimeLimit", message, labels }
        } else {
            let labels = &["SystemOverloadedError", "RetryableError"];
            CaptureError::Refused { code: 462, code_name: "IngressRequestRateLimitExceeded", message, labels }
        })
    }

    /// Hands records to the committer, in the order of calls.
    fn enqueue(&self, drafts: Vec<Draft>) -> Ticket {
        self.own.note(&drafts);
        self.log.append(drafts)
    }
}

/// Error codes that a store gives before it touches anything: the command could not be read, or may not be run.
const NOTHING_RAN: [i64; 27] = [
    2, 9, 13, 14, 20, 26, 27, 40, 52, 59, 67, 72, 73, 115, 166, 168, 217, 225, 251, 256, 322, 323, 8000, 40414, 40415,
    40602, 5_739_101,
];

/// The reply proves that its command changed nothing.
fn unchanged(reply: &RawDocument) -> bool {
    let code = command::number(reply.get("code").ok().flatten()).unwrap_or(0);
    if !is_ok(reply) {
        return mutated(Mutant::TrustErrors) || NOTHING_RAN.contains(&code) && merge::count(reply, "n") == 0;
    }
    if reply.get_document("cursor").is_ok() {
        let did = ["nInserted", "nModified", "nUpserted", "nDeleted"].map(|field| merge::count(reply, field));
        return did == [0; 4] && merge::error_count(reply) == 0;
    }
    if let Ok(last) = reply.get_document("lastErrorObject") {
        return merge::count(last, "n") == 0;
    }
    reply.get("n").is_ok_and(|n| n.is_some()) && merge::count(reply, "n") == 0 && merge::error_count(reply) == 0
}
