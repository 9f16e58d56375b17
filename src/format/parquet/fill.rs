//! A record as the values of a row.

use super::rows::Row;
use crate::format::ejson::{self, Fidelity, text};
use crate::format::jsonl::{self, Bson};
use crate::types::{Body, Change, Control, Digest, Found, Image, Origin, Record};

/// What is the same for all rows of a file.
#[derive(Debug)]
pub(super) struct Constants {
    /// The log's identity, as text.
    pub(super) log: String,
    /// When images are carried as BSON.
    pub(super) bson: Bson,
}

/// Fills one row.
pub(super) fn record(row: &mut Row<'_>, constants: &Constants, lsn: i64, hlc: i64, record: &Record) {
    row.text("log", &constants.log);
    row.long("lsn", Some(lsn));
    let inexact = match &record.body {
        Body::Change(told) => change(row, told),
        Body::Control(fact) => {
            control(row, fact);
            Inexact::default()
        }
    };
    row.long("hlc", Some(hlc));
    row.long("wall", Some(record.wall_ms));
    let told = match &record.body {
        Body::Change(told) => Some(&**told),
        Body::Control(_) => None,
    };
    happened(row, told);
    origin(row, told);
    row.flag("continued", record.continued);
    bson(row, told, &inexact, constants.bson);
    row.bytes("control_detail", |out| {
        let Body::Control(fact) = &record.body else { return false };
        jsonl::control_detail(out, fact);
        true
    });
    row.none("tags");
    row.none("schema_version");
}

/// Whose Extended JSON does not give the same bytes back.
#[derive(Debug, Default)]
struct Inexact {
    id: bool,
    before: bool,
    after: bool,
}

fn change(row: &mut Row<'_>, change: &Change) -> Inexact {
    let mut inexact = Inexact::default();
    row.none("control");
    row.text("ns", change.ns.as_str());
    row.bytes("id", |out| {
        let fidelity = ejson::first_value(out, jsonl::alone(change.id.as_raw_bson_ref()).as_bytes());
        inexact.id = fidelity != Fidelity::Exact;
        fidelity != Fidelity::Unwritable
    });
    row.bytes("key", |out| {
        text::hex(out, change.key.as_bytes());
        true
    });
    row.long("epoch", Some(i64::from(change.epoch.0)));
    row.long("seq", i64::try_from(change.seq.0).ok());
    row.text("op", change.op.name());
    inexact.before = image(row, "before", change.before.as_ref());
    inexact.after = image(row, "after", change.after.as_ref());
    digest(row, "before_sha256", jsonl::before_sha(change));
    digest(row, "after_sha256", change.after.as_ref().map(Image::sha));
    digest(row, "change_hash", Some(jsonl::change_hash(change)));
    inexact
}

/// The columns of a change, for a control record.
fn control(row: &mut Row<'_>, fact: &Control) {
    let (word, about) = jsonl::control_words(fact);
    row.text("control", word);
    // A database and the old name of a collection stand in the detail.
    let ns = if matches!(fact, Control::DropDatabase { .. } | Control::Rename { .. }) { "" } else { about };
    row.text("ns", ns);
    for name in ["id", "key"] {
        row.none(name);
    }
    for name in ["epoch", "seq", "op", "before", "after", "before_sha256", "after_sha256", "change_hash"] {
        row.none(name);
    }
}

/// Whether its Extended JSON is not exact.
fn image(row: &mut Row<'_>, name: &str, image: Option<&Image>) -> bool {
    let mut inexact = false;
    row.bytes(name, |out| {
        let Some(image) = image else { return false };
        let fidelity = ejson::document(out, image.bytes());
        inexact = fidelity != Fidelity::Exact;
        fidelity != Fidelity::Unwritable
    });
    inexact
}

pub(super) fn digest(row: &mut Row<'_>, name: &str, digest: Option<Digest>) {
    row.bytes(name, |out| {
        text::hex(out, digest.as_ref().map_or(&[], |d| &d.0));
        digest.is_some()
    });
}

/// When, in which session, how it was found.
fn happened(row: &mut Row<'_>, change: Option<&Change>) {
    let time = change.and_then(|c| c.operation_time);
    row.long("operation_time_t", time.and_then(|t| i64::try_from(t >> 32).ok()));
    row.long("operation_time_i", time.and_then(|t| i64::try_from(t & 0xffff_ffff).ok()));
    let retry = change.and_then(|c| c.retry.as_ref());
    row.bytes("retry_lsid", |out| retry.is_some_and(|r| lsid(out, &r.lsid)));
    row.long("retry_txn_number", retry.map(|r| r.txn_number));
    row.int("retry_stmt_id", retry.map(|r| r.stmt_id));
    let txn = change.and_then(|c| c.txn.as_ref());
    row.bytes("txn_lsid", |out| txn.is_some_and(|t| lsid(out, &t.lsid)));
    row.long("txn_txn_number", txn.map(|t| t.txn_number));
    row.long("txn_index", txn.map(|t| i64::from(t.index)));
    row.long("txn_count", txn.map(|t| i64::from(t.count)));
    row.text("found", change.and_then(|c| c.found).map_or("", Found::name));
}

fn lsid(out: &mut Vec<u8>, lsid: &[u8; 16]) -> bool {
    jsonl::uuid(out, lsid);
    true
}

fn origin(row: &mut Row<'_>, change: Option<&Change>) {
    let nobody = Origin::default();
    let origin = change.map_or(&nobody, |c| &*c.origin);
    row.long("origin_connection", change.and_then(|c| i64::try_from(c.origin.connection).ok()));
    row.text("origin_client", &origin.client);
    row.text("origin_user", &origin.user);
    row.text("origin_mechanism", &origin.mechanism);
    row.text("origin_app", &origin.app);
    row.text("origin_driver", &origin.driver);
    row.text("comment", change.map_or("", |c| &c.comment));
    row.text("traceparent", change.map_or("", |c| &c.traceparent));
    row.bytes("correlation", |out| {
        let Some(change) = change else { return false };
        jsonl::correlation(out, change.correlation);
        true
    });
}

fn bson(row: &mut Row<'_>, change: Option<&Change>, inexact: &Inexact, bson: Bson) {
    row.bytes("id_bson", |out| {
        let Some(change) = change.filter(|_| inexact.id) else { return false };
        out.extend_from_slice(jsonl::alone(change.id.as_raw_bson_ref()).as_bytes());
        true
    });
    let images = [
        ("before_bson", change.and_then(|c| c.before.as_ref()), inexact.before),
        ("after_bson", change.and_then(|c| c.after.as_ref()), inexact.after),
    ];
    for (name, image, inexact) in images {
        row.bytes(name, |out| {
            let Some(image) = image.filter(|_| inexact || bson == Bson::Always) else { return false };
            out.extend_from_slice(image.bytes());
            true
        });
    }
}
