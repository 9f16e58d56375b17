//! A change as a line in the envelope of Debezium's connector for MongoDB, for consumers that know that one.
//!
//! The shape is that of connector 3.6 (`MongoDbSchema`, `MongoDbSourceInfoStructMaker` and `SchemaFactory` in
//! `io.debezium:debezium-connector-mongodb` and `debezium-connector-common` 3.6.1.Final) as `JsonConverter` writes a value with
//! `schemas.enable=false`: `before`, `after`, `updateDescription`, `source`, `op`, `ts_ms`, `transaction`, in this order.
//! `deploy/docs/debezium.md` tells the fields.
//!
//! Promises: the same record gives the same bytes, always; each line is valid JSON; `before` and `after` are canonical
//! Extended JSON (Debezium's own writes numbers that fit an `int` bare; both are read as the same BSON). What Debezium has no
//! word for stands beside it under `tidelog`, which its consumers do not look at.
//!
//! Does not: write control records, for which the envelope has no place ([`Taken::Nothing`]); tell which fields an update
//! touched (`updateDescription` is `null`, since both images are there); write the key of a Kafka message.

use super::ejson::{self, Fidelity, text};
use super::jsonl::{self, Bson, digest, flag, name, number, text_field};
use super::{Encoder, FormatError, Taken};
use crate::types::{Body, Change, Found, Image, LogId, Lsn, Op, Record, TxnPart};

/// Writes the changes of one log.
#[derive(Debug)]
pub struct Envelopes {
    log: String,
    bson: Bson,
    /// Extended JSON on its way into a JSON string; kept for its capacity.
    before: Vec<u8>,
    after: Vec<u8>,
}

/// Whose Extended JSON does not give the same bytes back.
#[derive(Debug, Default)]
pub(super) struct Inexact {
    pub(super) before: bool,
    pub(super) after: bool,
}

/// What `source.version` says.
pub(super) const VERSION: &str = "tidelog 1";

impl Envelopes {
    /// For the records of `log`.
    pub fn new(log: LogId, bson: Bson) -> Self {
        Self { log: log.to_string(), bson, before: Vec::new(), after: Vec::new() }
    }

    fn line(&self, out: &mut Vec<u8>, record: &Record, change: &Change, inexact: &Inexact) {
        out.extend_from_slice(b"{\"before\":");
        json(out, change.before.as_ref(), &self.before);
        name(out, "after");
        json(out, change.after.as_ref(), &self.after);
        name(out, "updateDescription");
        out.extend_from_slice(b"null");
        source(out, record, change);
        text_field(out, "op", op(change));
        milliseconds(out, "ts_ms", record.wall_ms, 1);
        name(out, "transaction");
        out.extend_from_slice(b"null");
        self.ours(out, record, change, inexact);
        out.extend_from_slice(b"}\n");
    }

    /// What Debezium has no word for.
    fn ours(&self, out: &mut Vec<u8>, record: &Record, change: &Change, inexact: &Inexact) {
        name(out, "tidelog");
        out.extend_from_slice(b"{\"log\":");
        text::string(out, &self.log);
        number(out, "lsn", record.lsn.0);
        name(out, "id");
        let alone = jsonl::alone(change.id.as_raw_bson_ref());
        ejson::first_value(out, alone.as_bytes());
        name(out, "key");
        jsonl::quoted_hex(out, change.key.as_bytes());
        number(out, "epoch", u64::from(change.epoch.0));
        number(out, "seq", change.seq.0);
        text_field(out, "op", change.op.name());
        name(out, "found");
        text::told(out, change.found.map_or("", Found::name));
        name(out, "before_sha256");
        digest(out, jsonl::before_sha(change));
        name(out, "after_sha256");
        digest(out, change.after.as_ref().map(Image::sha));
        name(out, "change_hash");
        digest(out, Some(jsonl::change_hash(change)));
        name(out, "hlc");
        jsonl::hlc(out, record.hlc);
        flag(out, "continued", record.continued);
        for (field, image, inexact) in
            [("before_bson", &change.before, inexact.before), ("after_bson", &change.after, inexact.after)]
        {
            if let Some(image) = image.as_ref().filter(|_| inexact || self.bson == Bson::Always) {
                name(out, field);
                out.push(b'"');
                text::base64(out, image.bytes());
                out.push(b'"');
            }
        }
        out.push(b'}');
    }
}

impl Encoder for Envelopes {
    fn append(&mut self, out: &mut Vec<u8>, record: &Record) -> Result<Taken, FormatError> {
        let Body::Change(change) = &record.body else { return Ok(Taken::Nothing) };
        let before = extended(&mut self.before, change.before.as_ref(), record.lsn)?;
        let after = extended(&mut self.after, change.after.as_ref(), record.lsn)?;
        self.line(out, record, change, &Inexact { before, after });
        Ok(Taken::Row)
    }

    fn end(&mut self, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}

/// The image as Extended JSON into `into`; whether a reader would not get the same bytes back.
pub(super) fn extended(into: &mut Vec<u8>, image: Option<&Image>, lsn: Lsn) -> Result<bool, FormatError> {
    into.clear();
    let Some(image) = image else { return Ok(false) };
    match ejson::document(into, image.bytes()) {
        Fidelity::Exact => Ok(false),
        Fidelity::Lossy => Ok(true),
        // A `null` here would say that the document is gone.
        Fidelity::Unwritable => {
            let reason = format!("nested deeper than {} levels, and the envelope takes text only", ejson::MAX_DEPTH);
            Err(FormatError::Record { lsn, reason })
        }
    }
}

/// The operation as Debezium has it: `c`, `u`, `d`, and `r` for what a first read found.
pub(super) fn op(change: &Change) -> &'static str {
    let was = change.before.is_some() || change.before_sha.is_some();
    match (change.op, was, change.after.is_some()) {
        (Op::Delete, ..) | (Op::Observed, _, false) => "d",
        (Op::Observed, ..) if change.found == Some(Found::Snapshot) => "r",
        (Op::Insert, ..) | (Op::Observed, false, true) => "c",
        (Op::Update | Op::Replace, ..) | (Op::Observed, true, true) => "u",
    }
}

fn source(out: &mut Vec<u8>, record: &Record, change: &Change) {
    name(out, "source");
    out.extend_from_slice(b"{\"version\":");
    text::string(out, VERSION);
    out.extend_from_slice(b",\"connector\":\"mongodb\",\"name\":\"tidelog\"");
    milliseconds(out, "ts_ms", record.wall_ms, 1);
    text_field(out, "snapshot", if first_read(change) { "true" } else { "false" });
    text_field(out, "db", change.ns.db());
    name(out, "sequence");
    out.extend_from_slice(b"\"[\\\"");
    text::unsigned(out, record.lsn.0);
    out.extend_from_slice(b"\\\"]\"");
    milliseconds(out, "ts_us", record.wall_ms, 1_000);
    milliseconds(out, "ts_ns", record.wall_ms, 1_000_000);
    text_field(out, "collection", change.ns.collection());
    name(out, "ord");
    text::unsigned(out, ord(change));
    transaction(out, change.txn.as_ref());
    milliseconds(out, "wallTime", record.wall_ms, 1);
    out.push(b'}');
}

/// As a change stream tells it: only for changes of a multi-document transaction.
fn transaction(out: &mut Vec<u8>, txn: Option<&TxnPart>) {
    name(out, "lsid");
    let Some(txn) = txn else { return out.extend_from_slice(b"null,\"txnNumber\":null") };
    let mut id = Vec::new();
    session(&mut id, &txn.lsid);
    text::string(out, &String::from_utf8_lossy(&id));
    name(out, "txnNumber");
    text::signed(out, txn.txn_number);
}

/// A session's id as Extended JSON; there always is one.
pub(super) fn session(out: &mut Vec<u8>, lsid: &[u8]) -> bool {
    out.extend_from_slice(br#"{"id": {"$binary": {"base64": ""#);
    text::base64(out, lsid);
    out.extend_from_slice(br#"", "subType": "04"}}}"#);
    true
}

/// Whether the first read of its namespace found it.
pub(super) fn first_read(change: &Change) -> bool {
    change.op == Op::Observed && change.found == Some(Found::Snapshot)
}

/// The increment of the operation's time; 0 where the store tells none.
pub(super) fn ord(change: &Change) -> u64 {
    change.operation_time.map_or(0, |time| time & 0x7fff_ffff)
}

/// A time in another unit.
fn milliseconds(out: &mut Vec<u8>, field: &str, wall_ms: i64, times: i64) {
    name(out, field);
    match wall_ms.checked_mul(times) {
        Some(value) => text::signed(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

/// Extended JSON inside a JSON string.
fn json(out: &mut Vec<u8>, image: Option<&Image>, extended: &[u8]) {
    match image {
        Some(_) => text::string(out, &String::from_utf8_lossy(extended)),
        None => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail loudly")]

    use super::*;
    use crate::format::samples::{all, change, controls, image, record};
    use bson::doc;
    use serde_json::{Value, json};

    const LOG: LogId = LogId([9; 16]);

    fn line(record: &Record) -> Option<Value> {
        let (mut out, mut encoder) = (Vec::new(), Envelopes::new(LOG, Bson::WhereNeeded));
        let taken = encoder.append(&mut out, record).unwrap();
        assert_eq!(taken == Taken::Row, out.ends_with(b"\n"));
        (taken == Taken::Row).then(|| serde_json::from_slice(&out).unwrap())
    }

    fn observed(before: bool, before_sha: bool, after: bool, found: Found) -> String {
        let document = doc! {"_id": 1};
        let mut told = change(Op::Observed, before.then_some(&document), after.then_some(&document));
        told.found = Some(found);
        told.before_sha = before_sha.then(|| image(&document).sha());
        let line = line(&record(1, Body::Change(Box::new(told)))).unwrap();
        line["op"].as_str().unwrap().to_owned() + line["source"]["snapshot"].as_str().unwrap()
    }

    #[test]
    fn a_line_has_the_fields_of_the_envelope_in_their_order() {
        let line = line(&all()[2]).unwrap();
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(keys(&line), "before after updateDescription source op ts_ms transaction tidelog");
        assert_eq!(
            keys(&line["source"]),
            "version connector name ts_ms snapshot db sequence ts_us ts_ns collection ord lsid txnNumber wallTime"
        );
        let source = &line["source"];
        assert_eq!((&source["db"], &source["collection"]), (&json!("shop"), &json!("orders")));
        assert_eq!(source["sequence"], json!("[\"3\"]"));
        assert_eq!(source["txnNumber"], json!(-1));
        let lsid: Value = serde_json::from_str(source["lsid"].as_str().unwrap()).unwrap();
        assert_eq!(lsid["id"]["$binary"]["subType"], json!("04"));
        let after: Value = serde_json::from_str(line["after"].as_str().unwrap()).unwrap();
        assert_eq!(after, json!({"_id": {"$numberInt": "1"}, "n": {"$numberInt": "1"}}));
        assert_eq!(line["tidelog"]["lsn"], json!(3));
    }

    #[test]
    fn operations() {
        let ops: Vec<_> = all().iter().filter_map(line).map(|l| l["op"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ops, ["c", "u", "u", "d", "r", "d", "c"]);
        assert_eq!(observed(false, false, true, Found::Snapshot), "rtrue");
        assert_eq!(observed(false, false, true, Found::Bypass), "cfalse");
        assert_eq!(observed(true, false, true, Found::Touch), "ufalse");
        assert_eq!(observed(false, true, true, Found::CatchUp), "ufalse");
        assert_eq!(observed(false, true, false, Found::Ttl), "dfalse");
        assert_eq!(observed(false, false, false, Found::Recovery), "dfalse");
    }

    #[test]
    fn control_records_have_no_line() {
        for fact in controls() {
            assert_eq!(line(&record(1, Body::Control(fact))), None);
        }
    }

    #[test]
    fn what_is_not_exact_has_its_bytes() {
        let with: Vec<_> = all().iter().filter_map(line).map(|l| l["tidelog"].get("after_bson").is_some()).collect();
        assert_eq!(with, [false, false, false, false, false, false, true]);
    }

    #[test]
    fn a_document_too_deep_for_text_fails_alone() {
        let deep = (0..120).fold(doc! {"_id": 1}, |inner, _| doc! {"d": inner});
        let told = change(Op::Insert, None, Some(&deep));
        let (mut out, mut encoder) = (Vec::new(), Envelopes::new(LOG, Bson::Always));
        let result = encoder.append(&mut out, &record(5, Body::Change(Box::new(told))));
        assert!(matches!(result, Err(FormatError::Record { lsn: Lsn(5), .. })));
        assert!(out.is_empty());
    }
}
