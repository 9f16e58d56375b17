//! A change as a row in Debezium's envelope: the same as the [line](crate::format::debezium), its groups as groups of columns.
//!
//! Promises: what the line says, value by value; but `hlc` is a number, and BSON is bytes.

use super::fill::{Constants, digest};
use super::rows::Row;
use crate::format::FormatError;
use crate::format::debezium::{self, Inexact};
use crate::format::ejson::{self, text};
use crate::format::jsonl::{self, Bson};
use crate::types::{Change, Found, Image, Lsn, Record};

/// Extended JSON of images on its way into a row; kept for its capacity.
#[derive(Debug, Default)]
pub(super) struct Envelopes {
    before: Vec<u8>,
    after: Vec<u8>,
    inexact: Inexact,
}

impl Envelopes {
    /// Writes the images, before a row is begun: one that cannot be told fails alone.
    pub(super) fn images(&mut self, change: &Change, lsn: Lsn) -> Result<(), FormatError> {
        let before = debezium::extended(&mut self.before, change.before.as_ref(), lsn)?;
        let after = debezium::extended(&mut self.after, change.after.as_ref(), lsn)?;
        self.inexact = Inexact { before, after };
        Ok(())
    }

    /// Fills one row; `at`: lsn and hybrid clock.
    pub(super) fn fill(
        &self,
        row: &mut Row<'_>,
        constants: &Constants,
        at: (i64, i64),
        record: &Record,
        change: &Change,
    ) {
        for (name, image, extended) in [("before", &change.before, &self.before), ("after", &change.after, &self.after)]
        {
            row.bytes(name, |out| {
                out.extend_from_slice(extended);
                image.is_some()
            });
        }
        row.none("updateDescription");
        source(row, record, change);
        row.text("op", debezium::op(change));
        row.long("ts_ms", Some(record.wall_ms));
        row.none("transaction");
        ours(row, constants, at, record, change);
        for (name, image, inexact) in [
            ("tidelog.before_bson", &change.before, self.inexact.before),
            ("tidelog.after_bson", &change.after, self.inexact.after),
        ] {
            row.bytes(name, |out| {
                let Some(image) = image.as_ref().filter(|_| inexact || constants.bson == Bson::Always) else {
                    return false;
                };
                out.extend_from_slice(image.bytes());
                true
            });
        }
    }
}

fn source(row: &mut Row<'_>, record: &Record, change: &Change) {
    row.text("source.version", debezium::VERSION);
    row.text("source.connector", "mongodb");
    row.text("source.name", "tidelog");
    row.long("source.ts_ms", Some(record.wall_ms));
    row.text("source.snapshot", if debezium::first_read(change) { "true" } else { "false" });
    // A database and a collection always have a name; each row needs its value.
    word(row, "source.db", change.ns.db());
    row.bytes("source.sequence", |out| {
        out.extend_from_slice(b"[\"");
        text::unsigned(out, record.lsn.0);
        out.extend_from_slice(b"\"]");
        true
    });
    row.long("source.ts_us", record.wall_ms.checked_mul(1_000));
    row.long("source.ts_ns", record.wall_ms.checked_mul(1_000_000));
    word(row, "source.collection", change.ns.collection());
    row.long("source.ord", i64::try_from(debezium::ord(change)).ok().or(Some(0)));
    let txn = change.txn.as_ref();
    row.bytes("source.lsid", |out| txn.is_some_and(|txn| debezium::session(out, &txn.lsid)));
    row.long("source.txnNumber", txn.map(|txn| txn.txn_number));
    row.long("source.wallTime", Some(record.wall_ms));
}

fn ours(row: &mut Row<'_>, constants: &Constants, (lsn, hlc): (i64, i64), record: &Record, change: &Change) {
    row.text("tidelog.log", &constants.log);
    row.long("tidelog.lsn", Some(lsn));
    row.bytes("tidelog.id", |out| {
        ejson::first_value(out, jsonl::alone(change.id.as_raw_bson_ref()).as_bytes());
        true
    });
    row.bytes("tidelog.key", |out| {
        text::hex(out, change.key.as_bytes());
        true
    });
    row.long("tidelog.epoch", Some(i64::from(change.epoch.0)));
    row.long("tidelog.seq", i64::try_from(change.seq.0).ok().or(Some(i64::MAX)));
    row.text("tidelog.op", change.op.name());
    row.text("tidelog.found", change.found.map_or("", Found::name));
    digest(row, "tidelog.before_sha256", jsonl::before_sha(change));
    digest(row, "tidelog.after_sha256", change.after.as_ref().map(Image::sha));
    digest(row, "tidelog.change_hash", Some(jsonl::change_hash(change)));
    row.long("tidelog.hlc", Some(hlc));
    row.flag("tidelog.continued", record.continued);
}

/// Text that is there even if it is empty.
fn word(row: &mut Row<'_>, name: &str, value: &str) {
    row.bytes(name, |out| {
        out.extend_from_slice(value.as_bytes());
        true
    });
}
