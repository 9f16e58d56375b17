//! A small export that has everything in it: made by the exporter, from a log that a chain of changes was appended to.

use bson::{RawBson, RawDocumentBuf, rawdoc};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tidelog::changelog::{Changelog, LogOptions};
use tidelog::clock::Clock;
use tidelog::config::SinkConfig;
use tidelog::disk::FaultDisk;
use tidelog::export::{ExportOptions, Exporter, Limits};
use tidelog::types::{
    Body, Change, Control, Draft, EntityKey, Epoch, Found, Image, Namespace, Op, Origin, RetryId, Seq, TxnPart,
};

pub(crate) fn dir() -> &'static Path {
    Path::new("/export")
}

/// What the appended changes left.
#[derive(Default)]
struct Chain {
    images: BTreeMap<(Namespace, i32), Image>,
    counters: BTreeMap<(Namespace, i32), u64>,
}

impl Chain {
    fn change(&mut self, ns: &Namespace, id: i32, op: Op, after: Option<RawDocumentBuf>) -> Draft {
        let at = (ns.clone(), id);
        let seq = self.counters.entry(at.clone()).or_default();
        *seq += 1;
        let after = after.map(|d| Image::new(Bytes::copy_from_slice(d.as_bytes())));
        let before = match &after {
            Some(image) => self.images.insert(at, image.clone()),
            None => self.images.remove(&at),
        };
        let origin =
            Origin { connection: 1, client: "127.0.0.1:5".into(), user: "ann@admin".into(), ..Origin::default() };
        let change = Change {
            ns: ns.clone(),
            id: RawBson::Int32(id),
            key: EntityKey(id.to_le_bytes().as_slice().into()),
            epoch: Epoch(1),
            seq: Seq(*seq),
            op,
            before_sha: before.as_ref().map(Image::sha),
            before,
            after,
            operation_time: Some(7 << 32 | 1),
            retry: Some(RetryId { lsid: [7; 16], txn_number: 3, stmt_id: 0 }),
            txn: None,
            found: (op == Op::Observed).then_some(Found::Touch),
            origin: Arc::new(origin),
            comment: "nightly".into(),
            traceparent: String::new(),
            correlation: 1 << 32 | 9,
        };
        Draft { body: Body::Change(Box::new(change)), continued: false }
    }

    fn rename(&mut self, from: &Namespace, to: &Namespace) -> Draft {
        let images = std::mem::take(&mut self.images).into_iter();
        self.images = images.map(|((ns, id), i)| ((if ns == *from { to.clone() } else { ns }, id), i)).collect();
        control(Control::Rename { from: from.clone(), to: to.clone() })
    }
}

/// One of the two changes of a transaction.
fn together(mut draft: Draft, index: u32) -> Draft {
    if let Body::Change(change) = &mut draft.body {
        change.txn = Some(TxnPart { lsid: [5; 16], txn_number: 8, index, count: 2 });
    }
    Draft { continued: index < 2, ..draft }
}

fn control(fact: Control) -> Draft {
    Draft { body: Body::Control(fact), continued: false }
}

fn document(id: i32, text: &str, n: i32) -> RawDocumentBuf {
    rawdoc! { "_id": id, "text": text, "n": n }
}

/// The records of each window.
fn windows() -> Vec<Vec<Draft>> {
    let (orders, archive, stock) =
        (Namespace::new("shop", "orders"), Namespace::new("shop", "archive"), Namespace::new("shop", "stock"));
    let mut chain = Chain::default();
    let first = vec![
        control(Control::Started { version: "1".into() }),
        control(Control::Opened { ns: orders.clone(), complete: true }),
        chain.change(&orders, 1, Op::Insert, Some(document(1, "red", 1))),
        chain.change(&orders, 2, Op::Insert, Some(document(2, "red", 2))),
    ];
    let second = vec![
        together(chain.change(&orders, 3, Op::Insert, Some(document(3, "blue", 3))), 1),
        together(chain.change(&orders, 4, Op::Insert, Some(document(4, "red", 4))), 2),
        chain.change(&orders, 1, Op::Update, Some(document(1, "red", 5))),
        chain.change(&orders, 2, Op::Replace, Some(document(2, "green", 2))),
        chain.change(&orders, 5, Op::Insert, Some(document(5, "red", 4))),
        chain.change(&orders, 5, Op::Delete, None),
    ];
    let third = vec![
        chain.rename(&orders, &archive),
        chain.change(&archive, 1, Op::Update, Some(document(1, "red", 6))),
        control(Control::Opened { ns: stock.clone(), complete: false }),
        control(Control::GapOpened { id: 1, ns: stock.clone(), cause: "out".into(), detail: "$out".into() }),
    ];
    let fourth = vec![
        chain.change(&orders, 9, Op::Insert, Some(document(9, "red", 9))),
        chain.change(&stock, 1, Op::Observed, Some(document(1, "box", 1))),
        control(Control::GapOpened { id: 2, ns: orders.clone(), cause: "merge".into(), detail: "$merge".into() }),
        control(Control::GapClosed { id: 2 }),
        control(Control::Reconciled { ns: orders, whole: true, entities: 1, differing: 1, repaired: 0 }),
    ];
    vec![first, second, third, fourth]
}

/// Documents that have no exact text, or hardly one, and ids of their kind.
fn odd() -> Vec<Vec<Draft>> {
    let ns = Namespace::new("odd", "documents");
    let mut chain = Chain::default();
    let raw = |inside: &[u8]| {
        let length = i32::try_from(inside.len() + 5).expect("small");
        let bytes = [length.to_le_bytes().as_slice(), inside, &[0]].concat();
        RawDocumentBuf::from_bytes(bytes).expect("a document")
    };
    let mut deep = rawdoc! {};
    for _ in 0..170 {
        deep = rawdoc! { "a": deep };
    }
    let documents = [
        raw(b"\x10_id\0\x01\0\0\0\x0aa\0\x0aa\0"),
        raw(b"\x10_id\0\x02\0\0\0\x02a\0\x02\0\0\0\xff\0"),
        rawdoc! { "_id": 3, "a": { "$oid": "not one" }, "b": { "$numberInt": "1" } },
        rawdoc! { "_id": 4, "deep": deep },
        rawdoc! { "_id": 5, "long": "é\n".repeat(700_000) },
        rawdoc! { "_id": 6, "n": f64::from_bits(0xfff8_0000_0000_0007), "r": bson::Regex { pattern: bson::cstr!("x").into(), options: bson::cstr!("xi").into() } },
    ];
    let first = (1..).zip(documents).map(|(id, d)| chain.change(&ns, id, Op::Insert, Some(d))).collect();
    // Acknowledged, and hidden by somebody else: the document is as it was, or is not there as before.
    let hidden = rawdoc! { "_id": 3, "a": { "$oid": "not one" }, "b": { "$numberInt": "1" } };
    let second = [(3, Some(hidden)), (7, None)].map(|(id, image)| chain.change(&ns, id, Op::Observed, image));
    let third = (1..=6).map(|id| chain.change(&ns, id, Op::Delete, None)).collect();
    vec![first, second.into(), third]
}

/// The export of ordinary documents.
pub(crate) fn export() -> FaultDisk {
    export_of(windows())
}

/// The export of odd ones.
pub(crate) fn export_odd() -> FaultDisk {
    export_of(odd())
}

/// The export of ordinary or of odd documents in another form.
pub(crate) fn export_as(odd_ones: bool, form: &dyn Fn(&mut SinkConfig)) -> FaultDisk {
    export_in(if odd_ones { odd() } else { windows() }, form)
}

fn export_of(windows: Vec<Vec<Draft>>) -> FaultDisk {
    export_in(windows, &|_| {})
}

/// Appends, cuts, exports.
fn export_in(windows: Vec<Vec<Draft>>, form: &dyn Fn(&mut SinkConfig)) -> FaultDisk {
    let disk = FaultDisk::new();
    let clock = Clock::system();
    let opened = Changelog::open(
        Arc::new(disk.clone()),
        "/data/log".into(),
        LogOptions::default(),
        Arc::clone(&clock),
        Box::new(|_| {}),
    );
    let log = Arc::new(opened.expect("a log").0);
    let mut options = ExportOptions::folder("/data".into(), dir().to_owned());
    options.limits = Limits { settle_ms: 0, ..Limits::default() };
    options.sinks.iter_mut().for_each(|sink| form(&mut sink.config));
    let exporter = Exporter::spawn(options, Arc::clone(&log), Arc::new(disk.clone()), clock).expect("an exporter");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    for (number, drafts) in windows.into_iter().enumerate() {
        let cut = async {
            let _durable = log.append(drafts).wait().await.expect("durable");
            let window = exporter.cut(Some(format!("w{number}"))).await.expect("closed");
            exporter.wait_exported(window).await.expect("exported");
        };
        runtime.block_on(cut);
    }
    exporter.shutdown();
    disk
}
