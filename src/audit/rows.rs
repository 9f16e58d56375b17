//! Reading a Parquet file row by row: each row gives the same [`Line`] as a line of JSON would, so that all rules hold for it too.
//!
//! Promises: it shares no code with the writer but the `parquet` crate; a column that is not known, is missing or has another type
//! is told; a column that a record of its kind must not have is too. Memory is a piece of each column of the row group being read.
//!
//! Does not: prove bytes. Whoever opens a file has hashed it before: a reader of Parquet begins at the end. What no rule of lines
//! covers (`tags`, `schema_version`, …) is proved by the file's hash alone, as in lines.

use super::batch::Place;
use super::envelope;
use super::line::{Line, Sha};
use super::merge::Reading;
use super::{Kind, Wrong, expect, wrong};
use crate::disk::{Disk, DiskFile};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, FileReader as _, Length, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde::Deserialize as _;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

/// The columns, from the page of the docs.
const COLUMNS: [&str; 42] = [
    "log",
    "lsn",
    "control",
    "ns",
    "id",
    "key",
    "epoch",
    "seq",
    "op",
    "before",
    "after",
    "before_sha256",
    "after_sha256",
    "change_hash",
    "hlc",
    "wall",
    "operation_time_t",
    "operation_time_i",
    "retry_lsid",
    "retry_txn_number",
    "retry_stmt_id",
    "txn_lsid",
    "txn_txn_number",
    "txn_index",
    "txn_count",
    "found",
    "origin_connection",
    "origin_client",
    "origin_user",
    "origin_mechanism",
    "origin_app",
    "origin_driver",
    "comment",
    "traceparent",
    "correlation",
    "continued",
    "id_bson",
    "before_bson",
    "after_bson",
    "control_detail",
    "tags",
    "schema_version",
];
/// Those of Debezium's envelope.
const ENVELOPE: [&str; 35] = [
    "before",
    "after",
    "updateDescription",
    "source.version",
    "source.connector",
    "source.name",
    "source.ts_ms",
    "source.snapshot",
    "source.db",
    "source.sequence",
    "source.ts_us",
    "source.ts_ns",
    "source.collection",
    "source.ord",
    "source.lsid",
    "source.txnNumber",
    "source.wallTime",
    "op",
    "ts_ms",
    "transaction",
    "tidelog.log",
    "tidelog.lsn",
    "tidelog.id",
    "tidelog.key",
    "tidelog.epoch",
    "tidelog.seq",
    "tidelog.op",
    "tidelog.found",
    "tidelog.before_sha256",
    "tidelog.after_sha256",
    "tidelog.change_hash",
    "tidelog.hlc",
    "tidelog.continued",
    "tidelog.before_bson",
    "tidelog.after_bson",
];
/// Of our own record, those that a control record has; but for `tags` and `schema_version`, of which nothing is said here.
const CONTROL: [&str; 8] = ["log", "lsn", "control", "ns", "hlc", "wall", "continued", "control_detail"];

/// A file as the `parquet` crate reads it.
struct Source {
    file: Arc<dyn DiskFile>,
    length: u64,
}

/// Bytes of it from a place on.
struct From {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(self.at, buffer)?;
        self.at += got as u64;
        Ok(got)
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Source {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(From { file: Arc::clone(&self.file), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let inside = start.checked_add(length as u64).is_some_and(|end| end <= self.length);
        let mut bytes = vec![0; if inside { length } else { 0 }];
        if !inside || self.file.read_at(start, &mut bytes)? < length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of {}", self.length)));
        }
        Ok(bytes.into())
    }
}

/// A Parquet file being read.
pub(super) struct Rows {
    rows: RowIter<'static>,
    reading: Reading,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("reading", &self.reading).finish_non_exhaustive()
    }
}

impl Rows {
    /// Opens it; with `prints` each line gets the SHA-256 of its row.
    pub(super) fn open(disk: &dyn Disk, path: &Path, reading: Reading) -> io::Result<Result<Self, Wrong>> {
        let file: Arc<dyn DiskFile> = disk.open_read(path)?.into();
        let length = file.len()?;
        let opened = SerializedFileReader::new(Source { file, length }).map_err(unreadable);
        Ok(opened.and_then(|reader| {
            let schema = reader.metadata().file_metadata().schema_descr();
            let found: Vec<_> = schema.columns().iter().map(|column| column.path().string()).collect();
            let columns: &[&str] = if reading.envelope { &ENVELOPE } else { &COLUMNS };
            expect(found == columns, Kind::LineForm, || "the columns are not those of a record".into())?;
            Ok(Self { rows: RowIter::from_file_into(Box::new(reader)), reading })
        }))
    }

    /// The next row; `None`: the file is at its end.
    pub(super) fn next(&mut self) -> Result<Option<Line>, Wrong> {
        let Some(row) = self.rows.next() else { return Ok(None) };
        let row = row.map_err(unreadable)?;
        let print = self.reading.prints.then(|| print(&row));
        let mut line = if self.reading.envelope { enveloped(row)? } else { line(row)? };
        line.print = print;
        Ok(Some(line))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn unreadable(error: ParquetError) -> Wrong {
    Wrong { kind: Kind::LineForm, what: format!("it cannot be read as Parquet: {error}") }
}

/// The values of a row that are there, taken out one by one.
struct Cells(Vec<(String, Field)>);

fn line(row: Row) -> Result<Line, Wrong> {
    let mut cells = Cells(row.into_columns());
    for unproved in ["tags", "schema_version"] {
        cells.take(unproved)?;
    }
    let line = match cells.text("control")? {
        Some(word) => control(&mut cells, word)?,
        None => change(&mut cells)?,
    };
    match cells.0.iter().find(|(_, field)| *field != Field::Null) {
        Some((name, _)) => wrong(Kind::LineForm, format!("a record of its kind has no `{name}`")),
        None => Ok(line),
    }
}

/// A control record: its details are those of a line.
fn control(cells: &mut Cells, word: String) -> Result<Line, Wrong> {
    debug_assert!(CONTROL.iter().all(|name| COLUMNS.contains(name)), "of the columns");
    let detail = must(cells.text("control_detail")?, "control_detail")?;
    let mut fields: Map<String, Value> = serde_json::from_str(&detail).map_err(|e| form("control_detail", &e))?;
    let clashes = CONTROL.iter().find(|name| **name != "ns" && fields.contains_key(**name));
    expect(clashes.is_none(), Kind::LineForm, || format!("control_detail has `{}`", clashes.unwrap_or(&"")))?;
    let ns = cells.text("ns")?;
    let same = fields.get("ns").and_then(Value::as_str) == ns.as_deref();
    expect(same, Kind::LineForm, || "`ns` is not that of `control_detail`".into())?;
    let common = common(cells)?;
    fields.insert("log".into(), common.log.into());
    fields.insert("lsn".into(), common.lsn.into());
    fields.insert("control".into(), word.into());
    fields.insert("hlc".into(), common.hlc.into());
    fields.insert("wall".into(), common.wall.into());
    fields.insert("continued".into(), common.continued.into());
    Line::deserialize(Value::Object(fields)).map_err(|e| form("control_detail", &e))
}

/// A row in Debezium's envelope, made into what its line says.
fn enveloped(row: Row) -> Result<Line, Wrong> {
    let mut value = object(row)?;
    if let Some(ours) = value.get_mut("tidelog").and_then(Value::as_object_mut) {
        let id = ours.get("id").and_then(Value::as_str).map(serde_json::from_str);
        let id = id.transpose().map_err(|e| form("tidelog.id", &e))?.unwrap_or_default();
        ours.insert("id".into(), id);
        let hlc = ours.get("hlc").and_then(Value::as_i64).map(|hlc| hlc.to_string());
        ours.insert("hlc".into(), hlc.into());
    }
    envelope::row(Value::Object(value))
}

/// The values of a row by their names, groups as objects, bytes as base64.
fn object(row: Row) -> Result<Map<String, Value>, Wrong> {
    let value = |(name, field): (String, Field)| {
        let value = match field {
            Field::Null => Value::Null,
            Field::Str(text) => text.into(),
            Field::Long(number) => number.into(),
            Field::Bool(flag) => flag.into(),
            Field::Bytes(bytes) => STANDARD.encode(bytes.data()).into(),
            Field::Group(row) => Value::Object(object(row)?),
            _ => return wrong(Kind::LineForm, format!("`{name}` has a type that no field of the envelope has")),
        };
        Ok((name, value))
    };
    row.into_columns().into_iter().map(value).collect()
}

/// What every row has.
fn common(cells: &mut Cells) -> Result<Line, Wrong> {
    let mut line = Line::default();
    line.log = must(cells.text("log")?, "log")?;
    line.lsn = must(cells.number("lsn")?, "lsn")?;
    line.hlc = must(cells.number::<u64>("hlc")?, "hlc")?.to_string();
    line.wall = cells.wall()?;
    line.continued = match cells.take("continued")? {
        Some(Field::Bool(flag)) => flag,
        _ => return wrong(Kind::LineForm, "`continued` is no flag"),
    };
    Ok(line)
}

fn change(cells: &mut Cells) -> Result<Line, Wrong> {
    let mut line = common(cells)?;
    line.ns = cells.text("ns")?;
    (line.id_bson, line.before_bson, line.after_bson) =
        (cells.bytes("id_bson")?, cells.bytes("before_bson")?, cells.bytes("after_bson")?);
    // Text that cannot be written has no value here, and is `null` in a line.
    line.id = cells.json("id")?.or_else(|| line.id_bson.as_ref().map(|_| Value::Null));
    (line.key, line.epoch, line.seq, line.op) =
        (cells.text("key")?, cells.number("epoch")?, cells.number("seq")?, cells.text("op")?);
    (line.before, line.after) = (cells.json("before")?, cells.json("after")?);
    (line.before_sha256, line.after_sha256) = (cells.text("before_sha256")?, cells.text("after_sha256")?);
    (line.change_hash, line.found) = (cells.text("change_hash")?, cells.text("found")?);
    let lsid = cells.text("txn_lsid")?;
    let (number, index, count) =
        (cells.number("txn_txn_number")?, cells.number("txn_index")?, cells.number("txn_count")?);
    line.txn = match (lsid, number, index, count) {
        (None, None, None, None) => None,
        (Some(lsid), Some(txn_number), Some(index), Some(count)) => Some(Place { lsid, txn_number, index, count }),
        _ => return wrong(Kind::LineForm, "a place in a transaction that is not whole"),
    };
    told(cells)?;
    Ok(line)
}

/// What no rule covers, but for its type.
fn told(cells: &mut Cells) -> Result<(), Wrong> {
    for name in ["operation_time_t", "operation_time_i", "retry_txn_number", "retry_stmt_id", "origin_connection"] {
        cells.number::<i64>(name)?;
    }
    let texts = ["retry_lsid", "comment", "traceparent", "correlation"];
    let origin = ["origin_client", "origin_user", "origin_mechanism", "origin_app", "origin_driver"];
    for name in texts.into_iter().chain(origin) {
        cells.text(name)?;
    }
    Ok(())
}

impl Cells {
    /// The value of a column; `None`: it has none in this row.
    fn take(&mut self, name: &str) -> Result<Option<Field>, Wrong> {
        let place = COLUMNS.iter().position(|column| *column == name);
        let Some((_, field)) = place.and_then(|place| self.0.get_mut(place)) else {
            return wrong(Kind::LineForm, format!("no column `{name}`"));
        };
        let field = std::mem::replace(field, Field::Null);
        Ok((field != Field::Null).then_some(field))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Wrong> {
        match self.take(name)? {
            None => Ok(None),
            Some(Field::Str(text)) => Ok(Some(text)),
            Some(_) => wrong(Kind::LineForm, format!("`{name}` is no text")),
        }
    }

    fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, Wrong> {
        match self.take(name)? {
            None => Ok(None),
            Some(Field::Bytes(bytes)) => Ok(Some(bytes.data().to_vec())),
            Some(_) => wrong(Kind::LineForm, format!("`{name}` is not binary")),
        }
    }

    fn number<N: TryFrom<i64>>(&mut self, name: &str) -> Result<Option<N>, Wrong> {
        let number = match self.take(name)? {
            None => return Ok(None),
            Some(Field::Long(number)) => number,
            Some(Field::Int(number)) => i64::from(number),
            Some(_) => return wrong(Kind::LineForm, format!("`{name}` is no number")),
        };
        let fits = N::try_from(number).ok();
        fits.map(Some).ok_or_else(|| Wrong { kind: Kind::LineForm, what: format!("`{name}` is {number}") })
    }

    fn json(&mut self, name: &str) -> Result<Option<Value>, Wrong> {
        self.text(name)?.map(|text| serde_json::from_str(&text).map_err(|e| form(name, &e))).transpose()
    }

    /// The wall time as lines and manifests write it.
    fn wall(&mut self) -> Result<String, Wrong> {
        let Some(Field::TimestampMillis(ms)) = self.take("wall")? else {
            return wrong(Kind::LineForm, "`wall` is no time");
        };
        let at = Timestamp::from_millisecond(ms).map_err(|e| form("wall", &e))?;
        Ok(at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
    }
}

fn must<T>(value: Option<T>, name: &str) -> Result<T, Wrong> {
    value.ok_or_else(|| Wrong { kind: Kind::LineForm, what: format!("no `{name}`") })
}

fn form(name: &str, error: &dyn fmt::Display) -> Wrong {
    Wrong { kind: Kind::LineForm, what: format!("{name}: {error}") }
}

/// SHA-256 of all values of a row.
fn print(row: &Row) -> Sha {
    let mut hash = Sha256::new();
    let mut value = |kind: u8, bytes: &[u8]| {
        hash.update([kind]);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (_, field) in row.get_column_iter() {
        match field {
            Field::Null => value(0, &[]),
            Field::Str(text) => value(1, text.as_bytes()),
            Field::Bytes(bytes) => value(2, bytes.data()),
            Field::Bool(flag) => value(3, &[u8::from(*flag)]),
            Field::Int(number) => value(4, &number.to_le_bytes()),
            Field::Long(number) | Field::TimestampMillis(number) => value(5, &number.to_le_bytes()),
            other => value(6, other.to_string().as_bytes()),
        }
    }
    hash.finalize().into()
}
