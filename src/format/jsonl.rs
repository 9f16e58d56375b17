//! A record as one line of JSON: what stands in `records.jsonl` and what `tidelog log` prints.
//!
//! Promises: the same record gives the same bytes, always; every field of a kind of record is there (absent ones are
//! `null`), in one order; the line is valid JSON whatever the document holds. `deploy/docs/record.md` names the fields.
//!
//! The optional fields `id_bson`, `before_bson`, `after_bson` (base64 of BSON) come only where the Extended JSON is not
//! exact (see [`super::ejson`]), or for each image when [`Bson::Always`] was asked for.

use super::ejson::{self, Fidelity, text};
use super::{Encoder, FormatError, Taken};
use crate::types::{Body, Change, Control, Digest, Found, Hlc, Image, LogId, Origin, Record, RetryId, TxnPart};
use bson::raw::RawBsonRef;
use bson::{RawBson, RawDocumentBuf, cstr};
use sha2::{Digest as _, Sha256};

/// When a line carries its images as base64 BSON beside the Extended JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bson {
    /// Where Extended JSON does not give the same bytes back.
    #[default]
    WhereNeeded,
    /// In each record, so that SQL engines can recompute `before_sha256` and `after_sha256`.
    Always,
}

/// Writes the records of one log as lines.
#[derive(Debug)]
pub struct Lines {
    /// `{"log":"…","lsn":`, the same in each line.
    opening: Vec<u8>,
    bson: Bson,
    /// `null` or bytes to show after the fixed fields; kept for their capacity.
    extras: Vec<u8>,
}

impl Lines {
    /// For the records of `log`.
    pub fn new(log: LogId, bson: Bson) -> Self {
        Self { opening: format!("{{\"log\":\"{log}\",\"lsn\":").into_bytes(), bson, extras: Vec::new() }
    }

    /// Appends the record and a newline.
    pub fn line(&mut self, out: &mut Vec<u8>, record: &Record) {
        out.extend_from_slice(&self.opening);
        text::unsigned(out, record.lsn.0);
        match &record.body {
            Body::Change(change) => self.change(out, record, change),
            Body::Control(fact) => control(out, record, fact),
        }
        out.extend_from_slice(b"}\n");
    }

    fn change(&mut self, out: &mut Vec<u8>, record: &Record, change: &Change) {
        self.extras.clear();
        text_field(out, "ns", change.ns.as_str());
        name(out, "id");
        self.id(out, &change.id);
        name(out, "key");
        quoted_hex(out, change.key.as_bytes());
        number(out, "epoch", u64::from(change.epoch.0));
        number(out, "seq", change.seq.0);
        text_field(out, "op", change.op.name());
        name(out, "before");
        self.image(out, change.before.as_ref(), "before_bson");
        name(out, "after");
        self.image(out, change.after.as_ref(), "after_bson");
        name(out, "before_sha256");
        digest(out, before_sha(change));
        name(out, "after_sha256");
        digest(out, change.after.as_ref().map(Image::sha));
        name(out, "change_hash");
        digest(out, Some(change_hash(change)));
        times(out, record);
        name(out, "operation_time");
        operation_time(out, change.operation_time);
        name(out, "retry");
        retry(out, change.retry.as_ref());
        name(out, "txn");
        txn(out, change.txn.as_ref());
        name(out, "found");
        text::told(out, change.found.map_or("", Found::name));
        name(out, "origin");
        origin(out, &change.origin);
        name(out, "comment");
        text::told(out, &change.comment);
        name(out, "traceparent");
        text::told(out, &change.traceparent);
        name(out, "correlation");
        out.push(b'"');
        correlation(out, change.correlation);
        out.push(b'"');
        flag(out, "continued", record.continued);
        out.extend_from_slice(&self.extras);
    }

    fn id(&mut self, out: &mut Vec<u8>, id: &RawBson) {
        let alone = alone(id.as_raw_bson_ref());
        if ejson::first_value(out, alone.as_bytes()) != Fidelity::Exact {
            self.extra("id_bson", alone.as_bytes());
        }
    }

    fn image(&mut self, out: &mut Vec<u8>, image: Option<&Image>, extra: &str) {
        let Some(image) = image else { return out.extend_from_slice(b"null") };
        if ejson::document(out, image.bytes()) != Fidelity::Exact || self.bson == Bson::Always {
            self.extra(extra, image.bytes());
        }
    }

    fn extra(&mut self, field: &str, bytes: &[u8]) {
        name(&mut self.extras, field);
        self.extras.push(b'"');
        text::base64(&mut self.extras, bytes);
        self.extras.push(b'"');
    }
}

impl Encoder for Lines {
    fn append(&mut self, out: &mut Vec<u8>, record: &Record) -> Result<Taken, FormatError> {
        self.line(out, record);
        Ok(Taken::Row)
    }

    fn end(&mut self, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}

/// SHA-256 of `epoch:seq:op:before_sha256:after_sha256:key:ns`: numbers in decimal, hashes and key in lower-case hex, the
/// empty string for an absent image. It binds what an outsider must not confuse: which change of which entity this is.
pub fn change_hash(change: &Change) -> Digest {
    let mut words = Vec::with_capacity(256);
    text::unsigned(&mut words, u64::from(change.epoch.0));
    words.push(b':');
    text::unsigned(&mut words, change.seq.0);
    words.push(b':');
    words.extend_from_slice(change.op.name().as_bytes());
    for sha in [before_sha(change), change.after.as_ref().map(Image::sha)] {
        words.push(b':');
        text::hex(&mut words, sha.as_ref().map_or(&[], |d| &d.0));
    }
    words.push(b':');
    text::hex(&mut words, change.key.as_bytes());
    words.push(b':');
    words.extend_from_slice(change.ns.as_str().as_bytes());
    Digest(Sha256::digest(&words).into())
}

/// SHA-256 of the image before, also where the image itself is not known.
pub(super) fn before_sha(change: &Change) -> Option<Digest> {
    change.before_sha.or_else(|| change.before.as_ref().map(Image::sha))
}

/// The word of a control record, and the namespace (or database) that it is about; empty: the whole log.
pub(crate) fn control_words(fact: &Control) -> (&'static str, &str) {
    match fact {
        Control::Opened { ns, .. } => ("opened", ns.as_str()),
        Control::Create { ns, .. } => ("create", ns.as_str()),
        Control::Drop { ns } => ("drop", ns.as_str()),
        Control::DropDatabase { db } => ("dropDatabase", db),
        Control::Rename { from, .. } => ("rename", from.as_str()),
        Control::CollMod { ns, .. } => ("collMod", ns.as_str()),
        Control::GapOpened { ns, .. } => ("gapOpened", ns.as_str()),
        Control::GapClosed { .. } => ("gapClosed", ""),
        Control::Completed { ns } => ("completed", ns.as_str()),
        Control::Reconciled { ns, .. } => ("reconciled", ns.as_str()),
        Control::Node { .. } => ("node", ""),
        Control::Started { .. } => ("started", ""),
    }
}

fn control(out: &mut Vec<u8>, record: &Record, fact: &Control) {
    let (word, _) = control_words(fact);
    text_field(out, "control", word);
    control_fields(out, fact);
    times(out, record);
    flag(out, "continued", record.continued);
}

/// The fields of its kind as one JSON object.
#[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "a column of Parquet"))]
pub(super) fn control_detail(out: &mut Vec<u8>, fact: &Control) {
    let start = out.len();
    control_fields(out, fact);
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

fn control_fields(out: &mut Vec<u8>, fact: &Control) {
    match fact {
        Control::Opened { ns, complete } => {
            text_field(out, "ns", ns.as_str());
            flag(out, "complete", *complete);
        }
        Control::Create { ns, options } | Control::CollMod { ns, options } => {
            text_field(out, "ns", ns.as_str());
            text_field(out, "options", options);
        }
        Control::Drop { ns } | Control::Completed { ns } => text_field(out, "ns", ns.as_str()),
        Control::DropDatabase { db } => text_field(out, "db", db),
        Control::Rename { from, to } => {
            text_field(out, "from", from.as_str());
            text_field(out, "to", to.as_str());
        }
        Control::GapOpened { id, ns, cause, detail } => {
            number(out, "id", *id);
            text_field(out, "ns", ns.as_str());
            text_field(out, "cause", cause);
            text_field(out, "detail", detail);
        }
        Control::GapClosed { id } => number(out, "id", *id),
        Control::Reconciled { ns, whole, entities, differing, repaired } => {
            text_field(out, "ns", ns.as_str());
            flag(out, "whole", *whole);
            number(out, "entities", *entities);
            number(out, "differing", *differing);
            number(out, "repaired", *repaired);
        }
        Control::Node { process, term, rbid, epoch, unproven } => {
            text_field(out, "process", process);
            number(out, "term", *term);
            number(out, "rbid", *rbid);
            number(out, "epoch", u64::from(epoch.0));
            number(out, "unproven", unproven.0);
        }
        Control::Started { version } => text_field(out, "version", version),
    }
}

/// A document `{_id: value}`.
pub(super) fn alone(value: RawBsonRef<'_>) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), value);
    document
}

/// A comma and a field's name.
pub(super) fn name(out: &mut Vec<u8>, field: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(field.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A field of text.
pub(super) fn text_field(out: &mut Vec<u8>, field: &str, value: &str) {
    name(out, field);
    text::string(out, value);
}

/// A field with a number.
pub(super) fn number(out: &mut Vec<u8>, field: &str, value: u64) {
    name(out, field);
    text::unsigned(out, value);
}

/// A field that is true or false.
pub(super) fn flag(out: &mut Vec<u8>, field: &str, value: bool) {
    name(out, field);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// Hex as text.
pub(super) fn quoted_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    text::hex(out, bytes);
    out.push(b'"');
}

/// A hash as text; `null`: there is none.
pub(super) fn digest(out: &mut Vec<u8>, digest: Option<Digest>) {
    match digest {
        Some(digest) => quoted_hex(out, &digest.0),
        None => out.extend_from_slice(b"null"),
    }
}

/// `hlc` as decimal text (no reader rounds it) and `wall`.
fn times(out: &mut Vec<u8>, record: &Record) {
    name(out, "hlc");
    hlc(out, record.hlc);
    name(out, "wall");
    text::wall(out, record.wall_ms);
}

/// A hybrid clock as quoted decimal.
pub(super) fn hlc(out: &mut Vec<u8>, hlc: Hlc) {
    out.push(b'"');
    text::unsigned(out, hlc.0);
    out.push(b'"');
}

fn operation_time(out: &mut Vec<u8>, time: Option<u64>) {
    let Some(time) = time else { return out.extend_from_slice(b"null") };
    out.extend_from_slice(b"{\"t\":");
    text::unsigned(out, time >> 32);
    out.extend_from_slice(b",\"i\":");
    text::unsigned(out, time & 0xffff_ffff);
    out.push(b'}');
}

fn retry(out: &mut Vec<u8>, retry: Option<&RetryId>) {
    let Some(retry) = retry else { return out.extend_from_slice(b"null") };
    session(out, &retry.lsid, retry.txn_number);
    out.extend_from_slice(b",\"stmt_id\":");
    text::signed(out, i64::from(retry.stmt_id));
    out.push(b'}');
}

fn txn(out: &mut Vec<u8>, txn: Option<&TxnPart>) {
    let Some(txn) = txn else { return out.extend_from_slice(b"null") };
    session(out, &txn.lsid, txn.txn_number);
    number(out, "index", u64::from(txn.index));
    number(out, "count", u64::from(txn.count));
    out.push(b'}');
}

/// The start of an object: the session's id as a UUID, and the number.
fn session(out: &mut Vec<u8>, lsid: &[u8; 16], txn_number: i64) {
    out.extend_from_slice(b"{\"lsid\":\"");
    uuid(out, lsid);
    out.extend_from_slice(b"\",\"txn_number\":");
    text::signed(out, txn_number);
}

/// Sixteen bytes as a UUID is written.
pub(super) fn uuid(out: &mut Vec<u8>, bytes: &[u8; 16]) {
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        text::hex(out, &[*byte]);
    }
}

fn origin(out: &mut Vec<u8>, origin: &Origin) {
    out.extend_from_slice(b"{\"connection\":");
    text::unsigned(out, origin.connection);
    let words = [&origin.client, &origin.user, &origin.mechanism, &origin.app, &origin.driver];
    for (field, word) in ["client", "user", "mechanism", "app", "driver"].iter().zip(words) {
        name(out, field);
        text::told(out, word);
    }
    out.push(b'}');
}

/// `connection:request`: as text no reader rounds it.
pub(super) fn correlation(out: &mut Vec<u8>, value: u64) {
    text::unsigned(out, value >> 32);
    out.push(b':');
    text::unsigned(out, value & 0xffff_ffff);
}
