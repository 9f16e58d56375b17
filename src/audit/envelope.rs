//! Reading a line in Debezium's envelope: the change in it, as far as a line of our own record would tell it.
//!
//! Promises: what the envelope says twice (number, time, operation, whether a first read found it) must agree with what `tidelog` in it
//! says; a field that is not known is told.
//!
//! Does not: know a transaction's places (`lsid` and `txnNumber` are there, not which change of how many), nor control records.

use super::line::Line;
use super::{Kind, Wrong, expect, wrong};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    before: Option<String>,
    after: Option<String>,
    #[serde(rename = "updateDescription")]
    update: Value,
    source: Source,
    op: String,
    ts_ms: i64,
    transaction: Value,
    tidelog: Ours,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    version: String,
    connector: String,
    name: String,
    ts_ms: i64,
    snapshot: String,
    db: String,
    sequence: String,
    ts_us: Option<i64>,
    ts_ns: Option<i64>,
    collection: String,
    #[serde(rename = "ord")]
    _ord: u64,
    lsid: Option<String>,
    #[serde(rename = "txnNumber")]
    txn_number: Option<i64>,
    #[serde(rename = "wallTime")]
    wall_time: i64,
}

/// The fields of our own record that have no place in the envelope, as a line has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ours {
    log: String,
    lsn: u64,
    id: Value,
    key: String,
    epoch: u32,
    seq: u64,
    op: String,
    found: Option<String>,
    before_sha256: Option<String>,
    after_sha256: Option<String>,
    change_hash: String,
    hlc: String,
    continued: bool,
    before_bson: Option<String>,
    after_bson: Option<String>,
}

/// Reads a line.
pub(super) fn parse(bytes: &[u8]) -> Result<Line, Wrong> {
    told(serde_json::from_slice(bytes).map_err(|e| form("envelope", &e))?)
}

/// Reads a row that was made into what a line says.
#[cfg(feature = "parquet")]
pub(super) fn row(value: Value) -> Result<Line, Wrong> {
    told(serde_json::from_value(value).map_err(|e| form("envelope", &e))?)
}

fn told(envelope: Envelope) -> Result<Line, Wrong> {
    let Envelope { before, after, update, source, op, ts_ms, transaction, tidelog: ours } = envelope;
    let first = ours.op == "observed" && ours.found.as_deref() == Some("snapshot");
    let (was, is) = (ours.before_sha256.is_some(), ours.after_sha256.is_some());
    let word = match (ours.op.as_str(), was, is) {
        ("observed", _, true) if first => "r",
        ("insert", ..) | ("observed", false, true) => "c",
        ("update" | "replace", ..) | ("observed", true, true) => "u",
        _ => "d",
    };
    expect(op == word, Kind::Op, || format!("op is {op:?}, of {} it is {word:?}", ours.op))?;
    expect(update.is_null() && transaction.is_null(), Kind::LineForm, || "a field that is always null is not".into())?;
    agree(&source, ts_ms, first, ours.lsn)?;
    let mut line = Line::default();
    line.ns = Some(format!("{}.{}", source.db, source.collection));
    (line.before, line.after) = (json(before, "before")?, json(after, "after")?);
    (line.before_bson, line.after_bson) =
        (base64(ours.before_bson, "before_bson")?, base64(ours.after_bson, "after_bson")?);
    // The envelope has no bytes of an id. Where those of an image are there, the text of the id need not be exact.
    line.id_bson = line.after_bson.clone().or_else(|| line.before_bson.clone());
    (line.log, line.lsn, line.hlc, line.continued) = (ours.log, ours.lsn, ours.hlc, ours.continued);
    (line.id, line.key, line.epoch, line.seq) = (Some(ours.id), Some(ours.key), Some(ours.epoch), Some(ours.seq));
    (line.op, line.found, line.change_hash) = (Some(ours.op), ours.found, Some(ours.change_hash));
    (line.before_sha256, line.after_sha256) = (ours.before_sha256, ours.after_sha256);
    Ok(line)
}

/// What `source` says again.
fn agree(source: &Source, ts_ms: i64, first: bool, lsn: u64) -> Result<(), Wrong> {
    let names = (source.version.as_str(), source.connector.as_str(), source.name.as_str());
    let names = names == ("tidelog 1", "mongodb", "tidelog") && source.sequence == format!("[\"{lsn}\"]");
    let times = source.ts_ms == ts_ms
        && source.wall_time == ts_ms
        && source.ts_us == ts_ms.checked_mul(1_000)
        && source.ts_ns == ts_ms.checked_mul(1_000_000);
    let session = source.lsid.is_some() == source.txn_number.is_some();
    let said = names && times && session && source.snapshot == if first { "true" } else { "false" };
    expect(said, Kind::LineForm, || "`source` does not say what the rest of the line says".into())
}

fn json(text: Option<String>, field: &str) -> Result<Option<Value>, Wrong> {
    text.map(|text| serde_json::from_str(&text).map_err(|e| form(field, &e))).transpose()
}

fn base64(text: Option<String>, field: &str) -> Result<Option<Vec<u8>>, Wrong> {
    let Some(text) = text else { return Ok(None) };
    match super::line::decode(&text) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => wrong(Kind::LineForm, format!("{field}: base64: {error}")),
    }
}

fn form(field: &str, error: &serde_json::Error) -> Wrong {
    Wrong { kind: Kind::LineForm, what: format!("{field}: {error}") }
}
