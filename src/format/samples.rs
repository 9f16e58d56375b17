//! Records for the tests of the formats: changes of several kinds, and a control record of each kind.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use crate::types::{
    Body, Change, Control, EntityKey, Epoch, Found, Hlc, Image, Lsn, Namespace, Op, Origin, Record, RetryId, Seq,
    TxnPart,
};
use bson::{Bson, Document, RawBson, doc};
use std::sync::Arc;

/// An image of a document.
pub(super) fn image(document: &Document) -> Image {
    Image::new(document.to_vec().unwrap().into())
}

/// The record with this number and body.
pub(super) fn record(lsn: u64, body: Body) -> Record {
    let wall_ms = 1_764_000_000_000 + i64::try_from(lsn).unwrap();
    let hlc = Hlc(u64::try_from(wall_ms).unwrap() << 16);
    Record { lsn: Lsn(lsn), hlc, wall_ms, continued: false, body }
}

/// A change with everything that is always there.
pub(super) fn change(op: Op, before: Option<&Document>, after: Option<&Document>) -> Change {
    let id = after.or(before).and_then(|d| d.get("_id")).cloned().unwrap_or(Bson::Null);
    Change {
        before: before.map(image),
        after: after.map(image),
        origin: Arc::new(Origin {
            connection: 3,
            client: "10.0.0.1:5".into(),
            app: "shop".into(),
            ..Origin::default()
        }),
        correlation: (3 << 32) | 9,
        ..Change::new(
            Namespace::new("shop", "orders"),
            RawBson::try_from(id.clone()).unwrap(),
            EntityKey(id.to_string().as_bytes().into()),
            (Epoch(1), Seq(7)),
            op,
        )
    }
}

/// A control record of each kind.
pub(super) fn controls() -> Vec<Control> {
    let ns = || Namespace::new("shop", "orders");
    vec![
        Control::Started { version: "1.2.3".into() },
        Control::Opened { ns: ns(), complete: true },
        Control::Create { ns: ns(), options: "{\"capped\":false}".into() },
        Control::CollMod { ns: ns(), options: "{}".into() },
        Control::Drop { ns: ns() },
        Control::DropDatabase { db: "shop".into() },
        Control::Rename { from: ns(), to: Namespace::new("shop", "old") },
        Control::GapOpened { id: 1, ns: ns(), cause: "out".into(), detail: "$out".into() },
        Control::GapClosed { id: 1 },
        Control::Completed { ns: ns() },
        Control::Reconciled { ns: ns(), whole: true, entities: 3, differing: 2, repaired: 1 },
        Control::Node { process: "ab".into(), term: 4, rbid: 1, epoch: Epoch(2), unproven: Lsn(3) },
    ]
}

/// Changes of each kind, then a control record of each kind.
pub(super) fn all() -> Vec<Record> {
    let (old, new) = (doc! {"_id": 1, "n": 1}, doc! {"_id": 1, "n": 2_i64, "s": "é \"quoted\""});
    let mut update = change(Op::Update, Some(&old), Some(&new));
    update.operation_time = Some((1_764_000_000 << 32) | 5);
    update.retry = Some(RetryId { lsid: [7; 16], txn_number: 12, stmt_id: 1 });
    update.comment = "nightly".into();
    update.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    let mut replace = change(Op::Replace, Some(&new), Some(&old));
    replace.txn = Some(TxnPart { lsid: [8; 16], txn_number: -1, index: 1, count: 2 });
    let mut found = change(Op::Observed, None, Some(&new));
    found.found = Some(Found::Snapshot);
    let mut gone = change(Op::Observed, Some(&new), None);
    gone.found = Some(Found::Ttl);
    // A key twice: Extended JSON alone would not give the same bytes back.
    let mut twice = change(Op::Insert, None, Some(&new));
    let raw = b"\x19\0\0\0\x10_id\0\x01\0\0\0\x10a\0\x01\0\0\0\x08a\0\x01\0";
    twice.after = Some(Image::new(raw.to_vec().into()));
    let changes = [
        change(Op::Insert, None, Some(&old)),
        update,
        replace,
        change(Op::Delete, Some(&old), None),
        found,
        gone,
        twice,
    ];
    let bodies =
        changes.into_iter().map(|c| Body::Change(Box::new(c))).chain(controls().into_iter().map(Body::Control));
    (1..).zip(bodies).map(|(lsn, body)| record(lsn, body)).collect()
}
