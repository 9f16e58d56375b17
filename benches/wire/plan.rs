//! What is asked: the operations, their messages, and the documents that must be there first.

use crate::Fallible;
use crate::load::Connection;
use crate::message::{self, FRESH_MARK, ID_MARK, Template};
use crate::servers::Target;
use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, RawDocumentBuf, rawdoc};
use clap::ValueEnum;
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

const DB: &str = "bench";
/// Documents of the collection that finds and updates draw from.
pub(crate) const BASE_DOCUMENTS: i64 = 20_000;
/// Documents that one updateMany changes.
const GROUP: i64 = 100;
/// Documents of one insertMany.
const BATCH: i64 = 1_000;
/// Each document is a little larger than this.
pub(crate) const DOCUMENT_BYTES: usize = 400;

/// One kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub(crate) enum Op {
    /// `find` one document by `_id`.
    Find,
    /// `insert` one document.
    Insert,
    /// `update` one document by `_id` with `$inc`.
    Update,
    /// `update` one document by `_id` with a whole document.
    Replace,
    /// `delete` one document by `_id`.
    Delete,
    /// `insert` 1,000 documents.
    InsertMany,
    /// `update` with `multi` of 100 documents, found through an index.
    UpdateMany,
}

impl Op {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 7] =
        [Self::Find, Self::Insert, Self::Update, Self::Replace, Self::Delete, Self::InsertMany, Self::UpdateMany];

    /// The word in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::InsertMany => "insertMany",
            Self::UpdateMany => "updateMany",
        }
    }

    /// How much longer a cell of it is measured: with 64 clients, one of the heavy ones may take a second.
    pub(crate) fn weight(self) -> u32 {
        if matches!(self, Self::InsertMany | Self::UpdateMany) { 3 } else { 1 }
    }

    /// Has a collection of its own in each cell; the others work on the base.
    fn fresh(self) -> bool {
        matches!(self, Self::Insert | Self::InsertMany | Self::Delete)
    }

    /// The collection's name, without the target's. Replacements have one of their own: they would leave its groups.
    fn collection(self) -> &'static str {
        match self {
            Self::Find | Self::Update | Self::UpdateMany => "base",
            Self::Replace => "replaced",
            Self::Insert | Self::InsertMany | Self::Delete => self.name(),
        }
    }

    /// A driver would send it as a retryable write.
    fn retryable(self) -> bool {
        !matches!(self, Self::Find | Self::UpdateMany)
    }
}

/// Which ids an operation names next.
#[derive(Clone, Copy, Debug)]
enum Ids {
    /// The next `step` after those before, up to `until`.
    Counted { step: i64, until: i64 },
    /// Any below.
    Random { below: i64 },
}

/// All that the clients of one cell do.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// Which operation.
    pub(crate) op: Op,
    /// The `n` that each reply must say; `None`: a find, whose reply must hold the document.
    pub(crate) expected: Option<i64>,
    /// Where the counter of ids starts.
    pub(crate) first_id: i64,
    collection: String,
    ids: Ids,
}

impl Work {
    /// The next id; `None`: there are no more.
    pub(crate) fn next_id(&self, counter: &Cell<i64>) -> Option<i64> {
        match self.ids {
            Ids::Random { below } => Some(rand::random_range(0..below)),
            Ids::Counted { step, until } => {
                let id = counter.get();
                counter.set(id + step);
                (id < until).then_some(id)
            }
        }
    }

    /// The message of one client, which is one session of a driver with its default options.
    pub(crate) fn template(&self) -> Fallible<Template> {
        let mut body = self.body();
        let id = Binary { subtype: BinarySubtype::Uuid, bytes: uuid::Uuid::new_v4().as_bytes().to_vec() };
        body.append(bson::cstr!("lsid"), rawdoc! { "id": id });
        if self.op.retryable() {
            body.append(bson::cstr!("txnNumber"), FRESH_MARK);
        }
        body.append(bson::cstr!("$db"), DB);
        let sequence = self.sequence();
        let name = match self.op {
            Op::Find => return Template::new(&body, None),
            Op::Insert | Op::InsertMany => "documents",
            Op::Update | Op::Replace | Op::UpdateMany => "updates",
            Op::Delete => "deletes",
        };
        Template::new(&body, Some((name, &sequence)))
    }

    fn body(&self) -> RawDocumentBuf {
        let collection = self.collection.as_str();
        match self.op {
            Op::Find => {
                rawdoc! { "find": collection, "filter": { "_id": ID_MARK }, "limit": 1_i32, "singleBatch": true }
            }
            Op::Insert | Op::InsertMany => rawdoc! { "insert": collection, "ordered": true },
            Op::Update | Op::Replace | Op::UpdateMany => rawdoc! { "update": collection, "ordered": true },
            Op::Delete => rawdoc! { "delete": collection, "ordered": true },
        }
    }

    fn sequence(&self) -> Vec<RawDocumentBuf> {
        match self.op {
            Op::Find => Vec::new(),
            Op::Insert => vec![document(ID_MARK)],
            Op::InsertMany => (0..BATCH).map(|i| document(ID_MARK + i)).collect(),
            Op::Update => vec![rawdoc! { "q": { "_id": ID_MARK }, "u": { "$inc": { "n": 1_i32 } } }],
            Op::Replace => vec![rawdoc! { "q": { "_id": ID_MARK }, "u": document(ID_MARK) }],
            Op::Delete => vec![rawdoc! { "q": { "_id": ID_MARK }, "limit": 1_i32 }],
            Op::UpdateMany => {
                vec![rawdoc! { "q": { "g": ID_MARK }, "u": { "$inc": { "n": 1_i32 } }, "multi": true }]
            }
        }
    }
}

/// A document as an order system might have it.
fn document(id: i64) -> RawDocumentBuf {
    rawdoc! {
        "_id": id,
        "g": if id >= ID_MARK { 0 } else { id / GROUP },
        "revision": FRESH_MARK,
        "n": 0_i32,
        "customer": "Ada Lovelace, 12 Analytical Row, London",
        "status": "open",
        "amount": 129.95,
        "lines": [
            { "sku": "A-1000234", "quantity": 2_i32, "price": 19.95, "text": "Thermal paper, 80 mm, white" },
            { "sku": "B-7700021", "quantity": 1_i32, "price": 89.05, "text": "Ledger, bound, 400 pages, lined" },
        ],
        "note": "leave with the neighbour on the left if nobody opens",
    }
}

/// Fills the collections that finds, updates and replacements draw from, through the target itself.
pub(crate) async fn load_base(address: SocketAddr, target: Target) -> Fallible<()> {
    fill(address, &format!("replaced_{}", target.name()), BASE_DOCUMENTS).await?;
    let collection = format!("base_{}", target.name());
    fill(address, &collection, BASE_DOCUMENTS).await?;
    let index = rawdoc! {
        "createIndexes": collection,
        "indexes": [{ "key": { "g": 1_i32 }, "name": "g_1" }],
        "$db": DB,
    };
    Connection::open(address).await?.command(&index).await
}

/// Inserts documents 0 to `count` in batches.
async fn fill(address: SocketAddr, collection: &str, count: i64) -> Fallible<()> {
    let mut connection = Connection::open(address).await?;
    let mut from = 0;
    while from < count {
        let until = (from + BATCH).min(count);
        let documents: Vec<_> = (from..until).map(document).collect();
        let body = rawdoc! { "insert": collection, "$db": DB };
        let request = message::encode(1, &body, Some(("documents", &documents)))?;
        let reply = message::body(connection.call(&request).await?)?;
        if reply.get("writeErrors")?.is_some() {
            return Err(format!("filling {collection}: {reply:?}").into());
        }
        from = until;
    }
    Ok(())
}

/// Makes what one cell needs.
pub(crate) async fn prepare(
    address: SocketAddr,
    target: Target,
    op: Op,
    clients: usize,
    seconds: Duration,
) -> Fallible<Work> {
    let collection = format!("{}_{}", op.collection(), target.name());
    let (ids, expected, first_id) = match op {
        Op::Find => (Ids::Random { below: BASE_DOCUMENTS }, None, 0),
        Op::Update | Op::Replace => (Ids::Random { below: BASE_DOCUMENTS }, Some(1), 0),
        Op::UpdateMany => (Ids::Random { below: BASE_DOCUMENTS / GROUP }, Some(GROUP), 0),
        Op::Insert => (Ids::Counted { step: 1, until: i64::MAX }, Some(1), 1),
        Op::InsertMany => (Ids::Counted { step: BATCH, until: i64::MAX }, Some(BATCH), 1),
        Op::Delete => (Ids::Counted { step: 1, until: deletable(clients, seconds) }, Some(1), 0),
    };
    let work = Work { op, expected, first_id, collection, ids };
    if op.fresh() {
        // A document first, so that no cell pays for the making of its collection.
        fill(address, &work.collection, deletable_of(op, clients, seconds)).await?;
    }
    Ok(work)
}

/// Documents that a delete cell has to delete; it ends early when they are gone.
fn deletable(clients: usize, seconds: Duration) -> i64 {
    let per_second = if clients < 8 { 9_000.0 } else { 22_000.0 };
    let wanted = per_second * seconds.as_secs_f64() * 1.2;
    // A whole number of batches between 1,000 and 1,000,000: no cast that could lose.
    let mut count = BATCH;
    let mut reached = 1_000.0;
    while reached < wanted && count < 1_000_000 {
        count += BATCH;
        reached += 1_000.0;
    }
    count
}

fn deletable_of(op: Op, clients: usize, seconds: Duration) -> i64 {
    if op == Op::Delete { deletable(clients, seconds) } else { 1 }
}

/// Takes away what a cell made.
pub(crate) async fn clean(address: SocketAddr, work: &Work) -> Fallible<()> {
    if !work.op.fresh() {
        return Ok(());
    }
    let drop = rawdoc! { "drop": work.collection.as_str(), "$db": DB };
    let body: &RawDocument = &drop;
    Connection::open(address).await?.command(body).await
}
