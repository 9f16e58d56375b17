//! What stands in the log: changes of entities and control facts.

use super::{Digest, EntityKey, Epoch, Hlc, Image, Lsn, Namespace, Seq};
use bson::RawBson;
use std::sync::Arc;

/// What a change did to its entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// The entity came to be (an insert, or an upsert that found nothing).
    Insert,
    /// Modifiers or a pipeline changed it.
    Update,
    /// A replacement document took its place.
    Replace,
    /// It was deleted.
    Delete,
    /// Found by reading the store: the sidecar did not forward the change that made it. `after` may be absent (it is gone).
    Observed,
}

impl Op {
    /// The word used in exports, metrics and filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Observed => "observed",
        }
    }
}

/// Who made a change: learnt from the connection's handshake and authentication. Empty strings stand for "not told".
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The sidecar's number of the client connection, from 1 in each process.
    pub connection: u64,
    /// `host:port` of the client.
    pub client: String,
    /// `user@db` once authentication succeeded.
    pub user: String,
    /// `SCRAM-SHA-256` and the like.
    pub mechanism: String,
    /// `client.application.name` of hello.
    pub app: String,
    /// `client.driver.name` and version, as `name/version`.
    pub driver: String,
}

/// The identity of a retryable write: a driver's retry carries the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RetryId {
    /// `lsid.id` of the session (a UUID's 16 bytes).
    pub lsid: [u8; 16],
    /// `txnNumber`.
    pub txn_number: i64,
    /// Index of the statement in its command.
    pub stmt_id: i32,
}

/// The place of a change in its multi-document transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TxnPart {
    /// `lsid.id` of the session (a UUID's 16 bytes).
    pub lsid: [u8; 16],
    /// `txnNumber`.
    pub txn_number: i64,
    /// 1, 2 … `count`, in log order.
    pub index: u32,
    /// Changes of the transaction. All of them stand together in the log.
    pub count: u32,
}

/// What led the sidecar to read an entity whose change it had not forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Found {
    /// The next write of the same entity found it changed.
    #[default]
    Touch,
    /// The first read of a namespace that held documents before the sidecar came.
    Snapshot,
    /// A write whose outcome was not told (a broken connection, a killed sidecar), or that could not be tied to entities.
    Recovery,
    /// The change stream told of another writer.
    Bypass,
    /// The change stream told of a delete that a TTL index explains.
    Ttl,
    /// `$out`, `$merge`, `mapReduce` and their like.
    Aggregation,
    /// What happened while the sidecar was down.
    CatchUp,
    /// A comparison of log and store.
    Reconcile,
    /// The store restarted or rolled back and lost what it had acknowledged.
    StoreLoss,
}

impl Found {
    /// The word used in exports, metrics and filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Touch => "touch",
            Self::Snapshot => "snapshot",
            Self::Recovery => "recovery",
            Self::Bypass => "bypass",
            Self::Ttl => "ttl",
            Self::Aggregation => "aggregation",
            Self::CatchUp => "catchUp",
            Self::Reconcile => "reconcile",
            Self::StoreLoss => "storeLoss",
        }
    }
}

/// One change of one entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where the entity lives.
    pub ns: Namespace,
    /// Its `_id` as stored.
    pub id: RawBson,
    /// The canonical form of `id`.
    pub key: EntityKey,
    /// Who counts.
    pub epoch: Epoch,
    /// 1, 2, 3 … within the epoch.
    pub seq: Seq,
    /// What happened.
    pub op: Op,
    /// The image before; `None`: there was none (or its bytes are not known, see `before_sha`).
    pub before: Option<Image>,
    /// SHA-256 of the image before; `None`: the entity did not exist. Present without `before` only for an observed
    /// change whose earlier record is no longer in the log.
    pub before_sha: Option<Digest>,
    /// The image after; `None`: the entity is gone.
    pub after: Option<Image>,
    /// The store's `operationTime` (seconds ≪ 32 | increment), where it has one.
    pub operation_time: Option<u64>,
    /// Identity of the retryable write, where it was one.
    pub retry: Option<RetryId>,
    /// Its place in a transaction, where it was made in one.
    pub txn: Option<TxnPart>,
    /// For [`Op::Observed`], and only there: what led to the read.
    pub found: Option<Found>,
    /// Who did it.
    pub origin: Arc<Origin>,
    /// The command's `comment` as canonical Extended JSON (a plain string stands as itself); empty: none.
    pub comment: String,
    /// A W3C `traceparent` found in the comment; empty: none.
    pub traceparent: String,
    /// All changes of one client command share it: `connection << 32 | requestID`.
    pub correlation: u64,
}

impl Change {
    /// What every change has; the rest as if nothing were told: no images, by nobody, for no reason.
    pub fn new(ns: Namespace, id: RawBson, key: EntityKey, (epoch, seq): (Epoch, Seq), op: Op) -> Self {
        Self {
            ns,
            id,
            key,
            epoch,
            seq,
            op,
            before: None,
            before_sha: None,
            after: None,
            operation_time: None,
            retry: None,
            txn: None,
            found: None,
            origin: Arc::default(),
            comment: String::new(),
            traceparent: String::new(),
            correlation: 0,
        }
    }
}

/// A fact about namespaces or about the log itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Control {
    /// The sidecar saw a namespace for the first time. `complete`: it held nothing then, so the log holds all of it.
    Opened {
        /// The namespace.
        ns: Namespace,
        /// Held no document when first seen.
        complete: bool,
    },
    /// A client's `create` succeeded. Entities: none.
    Create {
        /// The namespace.
        ns: Namespace,
        /// The command's options as canonical Extended JSON.
        options: String,
    },
    /// A collection was dropped: all its entities are gone.
    Drop {
        /// The namespace.
        ns: Namespace,
    },
    /// A database was dropped: all entities of all its namespaces are gone.
    DropDatabase {
        /// The database.
        db: String,
    },
    /// All entities of `from` now live in `to` with the same images; what `to` held is gone. `(epoch, seq)` of an
    /// entity belongs to its namespace's name and is not moved.
    Rename {
        /// The old name.
        from: Namespace,
        /// The new name.
        to: Namespace,
    },
    /// Options of a collection changed. Entities: untouched.
    CollMod {
        /// The namespace.
        ns: Namespace,
        /// The command's options as canonical Extended JSON.
        options: String,
    },
    /// From here on the log does not prove `ns` (or all namespaces of a database, written `db.*`).
    GapOpened {
        /// Number of the gap: ascending in this log, never given twice.
        id: u64,
        /// What is not proved: a namespace, or `db.*`.
        ns: Namespace,
        /// Why, in one word: `out`, `merge`, `mapReduce`, …
        cause: String,
        /// What a person should know, no document contents.
        detail: String,
    },
    /// A verify proved the gap's namespace again.
    GapClosed {
        /// The number of the gap.
        id: u64,
    },
    /// A namespace that was incomplete is in the log whole, from this record on: its first read has ended.
    Completed {
        /// The namespace.
        ns: Namespace,
    },
    /// A comparison of log and store ended.
    Reconciled {
        /// The namespace.
        ns: Namespace,
        /// Every entity was compared, not a range or a sample.
        whole: bool,
        /// Entities compared.
        entities: u64,
        /// Of them, those that differed.
        differing: u64,
        /// Of those, how many were repaired by *observed* records.
        repaired: u64,
    },
    /// The node is another than before: a new process, a new term, a rollback, or the first one that this log saw.
    Node {
        /// Identity of the store's process (`topologyVersion.processId` in hex); empty: it tells none.
        process: String,
        /// Election term; 0: a standalone.
        term: u64,
        /// Rollback id (`rbid`); 0: it tells none.
        rbid: u64,
        /// The epoch from here on.
        epoch: Epoch,
        /// Records after this one, up to here, were not proved durable in the store when it changed; they have been
        /// verified, and the corrections stand before this record. No window ends between the two.
        unproven: Lsn,
    },
    /// A process took the log over (start of the sidecar).
    Started {
        /// The version of the program.
        version: String,
    },
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A change of one entity.
    Change(Box<Change>),
    /// A control fact.
    Control(Control),
}

/// A record on its way into the log: the committer gives it its lsn, clock and wall time.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What it says.
    pub body: Body,
    /// More records of the same atomic batch follow: after a crash all of them are in the log or none.
    pub continued: bool,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number.
    pub lsn: Lsn,
    /// Hybrid clock; never goes back within a log.
    pub hlc: Hlc,
    /// Wall time, milliseconds since 1970; may go back with the machine's clock.
    pub wall_ms: i64,
    /// More records of the same atomic batch follow.
    pub continued: bool,
    /// What it says.
    pub body: Body,
}

/// A durable record and where it lies, as the committer hands it on.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The record.
    pub record: Arc<Record>,
    /// Offset in bytes of its frame in its segment.
    pub offset: u64,
}
