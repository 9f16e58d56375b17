//! Records to write, and a log to write them to.

use crate::changelog::{Changelog, Durability, LogError, LogOptions, Opened};
use crate::clock::Clock;
use crate::disk::{Disk, FaultDisk};
use crate::types::{
    Body, Change, Control, Digest, Draft, EntityKey, Epoch, Found, Image, Lsn, Namespace, Op, Origin, Record, RetryId,
    Seq, TxnPart,
};
use bson::RawBson;
use bytes::Bytes;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const DIR: &str = "/log";

pub(crate) fn options(segment_bytes: u64) -> LogOptions {
    LogOptions { segment_bytes, durability: Durability::Always, queue_bytes: 1 << 20, min_free_bytes: 0 }
}

pub(crate) fn open(disk: &FaultDisk, segment_bytes: u64) -> Result<(Changelog, Opened), LogError> {
    open_with(disk, options(segment_bytes))
}

pub(crate) fn open_with(disk: &FaultDisk, options: LogOptions) -> Result<(Changelog, Opened), LogError> {
    Changelog::open(Arc::new(disk.clone()), PathBuf::from(DIR), options, Clock::manual(1_000), Box::new(|_| {}))
}

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Appends one batch and waits for it.
pub(crate) fn put(log: &Changelog, bodies: Vec<Body>) -> Result<Lsn, LogError> {
    wait(log.append(batch(bodies)).wait()).map(|durable| durable.last())
}

/// Drafts of one atomic batch.
pub(crate) fn batch(bodies: Vec<Body>) -> Vec<Draft> {
    let count = bodies.len();
    bodies.into_iter().enumerate().map(|(i, body)| Draft { body, continued: i + 1 < count }).collect()
}

pub(crate) fn read_all(log: &Changelog) -> Result<Vec<Record>, LogError> {
    let mut reader = log.reader(log.first());
    let mut records = Vec::new();
    while let Some(record) = reader.next()? {
        records.push(record);
    }
    Ok(records)
}

pub(crate) fn segments(disk: &FaultDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(DIR)).unwrap();
    names.iter().filter(|n| n.starts_with("seg-")).map(|n| Path::new(DIR).join(n)).collect()
}

/// A change whose image after has `bytes` bytes of text.
#[allow(clippy::big_endian_bytes, reason = "keys sort as their numbers do")]
pub(crate) fn change(n: u64, bytes: usize) -> Change {
    let ns = Namespace::new("shop", "orders");
    let document = bson::rawdoc! { "_id": i64::try_from(n).unwrap(), "text": "x".repeat(bytes) };
    Change {
        after: Some(Image::new(Bytes::from(document.into_bytes()))),
        ..Change::new(
            ns,
            RawBson::Int64(i64::try_from(n).unwrap()),
            EntityKey(Arc::from(n.to_be_bytes().as_slice())),
            (Epoch(1), Seq(1)),
            Op::Insert,
        )
    }
}

pub(crate) fn small(n: u64) -> Body {
    Body::Change(Box::new(change(n, 20)))
}

/// A change with every field.
pub(crate) fn full_change() -> Change {
    let before = Image::new(Bytes::from(bson::rawdoc! { "_id": 5, "a": 1 }.into_bytes()));
    Change {
        id: RawBson::String("five".into()),
        epoch: Epoch(3),
        seq: Seq(12),
        op: Op::Replace,
        before_sha: Some(before.sha()),
        before: Some(before),
        operation_time: Some((77 << 32) | 2),
        retry: Some(RetryId { lsid: [8; 16], txn_number: -4, stmt_id: 6 }),
        origin: Arc::new(Origin {
            connection: 9,
            client: "10.0.0.1:50000".into(),
            user: "amélie@admin".into(),
            mechanism: "SCRAM-SHA-256".into(),
            app: "till".into(),
            driver: "PyMongo/4.9".into(),
        }),
        comment: "{\"why\":\"because\"}".into(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        correlation: (9 << 32) | 1,
        ..change(5, 10)
    }
}

/// One body of every kind, and changes with everything and with nothing.
pub(crate) fn bodies() -> Vec<Body> {
    let ns = Namespace::new("shop", "orders");
    let text = || String::from("{}");
    let mut all = vec![
        Body::Change(Box::new(full_change())),
        Body::Change(Box::new(change(1, 0))),
        Body::Change(Box::new(Change {
            op: Op::Observed,
            before_sha: Some(Digest([9; 32])),
            after: None,
            ..change(2, 0)
        })),
    ];
    let controls = [
        Control::Opened { ns: ns.clone(), complete: true },
        Control::Create { ns: ns.clone(), options: text() },
        Control::Drop { ns: ns.clone() },
        Control::DropDatabase { db: "shop".into() },
        Control::Rename { from: ns.clone(), to: Namespace::new("shop", "old") },
        Control::CollMod { ns: ns.clone(), options: String::new() },
        Control::GapOpened { id: 4, ns, cause: "merge".into(), detail: "into shop.sums".into() },
        Control::GapClosed { id: 4 },
        Control::Started { version: "0.1.0".into() },
    ];
    all.extend(controls.into_iter().map(Body::Control));
    // What came later stands after it, so that the bytes written before it came stay as they are.
    let txn = Some(TxnPart { lsid: [7; 16], txn_number: 41, index: 2, count: 3 });
    all.push(Body::Change(Box::new(Change { txn, ..change(3, 0) })));
    all.push(Body::Change(Box::new(Change { op: Op::Observed, found: Some(Found::Ttl), ..change(4, 0) })));
    let ns = Namespace::new("shop", "orders");
    let later = [
        Control::Completed { ns: ns.clone() },
        Control::Reconciled { ns, whole: true, entities: 10, differing: 2, repaired: 1 },
        Control::Node { process: "0a1b".into(), term: 3, rbid: 1, epoch: Epoch(3), unproven: Lsn(12) },
    ];
    all.extend(later.into_iter().map(Body::Control));
    all
}

fn image_strategy() -> impl Strategy<Value = Option<Image>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..200).prop_map(|b| Image::new(Bytes::from(b))))
}

fn op_strategy() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![Op::Insert, Op::Update, Op::Replace, Op::Delete, Op::Observed])
}

fn id_strategy() -> impl Strategy<Value = RawBson> {
    prop_oneof![
        any::<i32>().prop_map(RawBson::Int32),
        any::<i64>().prop_map(RawBson::Int64),
        ".*".prop_map(RawBson::String),
        any::<[u8; 12]>().prop_map(|b| RawBson::ObjectId(bson::oid::ObjectId::from_bytes(b))),
        (".{0,8}", any::<i64>()).prop_map(|(s, n)| RawBson::Document(bson::rawdoc! { "s": s, "n": n })),
    ]
}

/// Any body: changes of every shape, now and then a control record.
pub(crate) fn body_strategy() -> impl Strategy<Value = Body> {
    let texts = ("[a-z]{0,5}\\.[a-z.]{0,9}", ".{0,20}", ".{0,20}", ".{0,20}");
    let numbers =
        (any::<u32>(), any::<u64>(), any::<u64>(), any::<Option<u64>>(), any::<Option<([u8; 16], i64, i32)>>());
    let parts =
        (id_strategy(), op_strategy(), image_strategy(), image_strategy(), prop::collection::vec(any::<u8>(), 0..40));
    let change = (texts, numbers, parts).prop_map(|(texts, numbers, (id, op, before, after, key))| {
        Body::Change(Box::new(Change {
            ns: Namespace::from_full(&texts.0),
            id,
            key: EntityKey(Arc::from(key)),
            epoch: Epoch(numbers.0),
            seq: Seq(numbers.1),
            op,
            before_sha: before.as_ref().map(Image::sha),
            before,
            after,
            operation_time: numbers.3,
            retry: numbers.4.map(|(lsid, txn_number, stmt_id)| RetryId { lsid, txn_number, stmt_id }),
            txn: (numbers.2 % 3 == 0).then_some(TxnPart { lsid: [1; 16], txn_number: 2, index: 3, count: 9 }),
            found: (numbers.2 % 2 == 0).then_some(Found::Snapshot),
            origin: Arc::new(Origin { client: texts.1.clone(), user: texts.2.clone(), ..Origin::default() }),
            comment: texts.3.clone(),
            traceparent: texts.1,
            correlation: numbers.2,
        }))
    });
    prop_oneof![4 => change, 1 => prop::sample::select(bodies())]
}
