//! Files read back by the crate's own reader; other readers are in `tests/e2e/test_formats.py`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a test may fail loudly")]

use super::*;
use crate::config::{Compression, Format};
use crate::format::jsonl::{Bson, change_hash};
use crate::format::samples::{all, change, image, record};
use crate::types::{Body, Control, Lsn, Op};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::file::statistics::Statistics;
use ::parquet::record::Field;
use bson::doc;
use bytes::Bytes;
use std::collections::BTreeMap;

const LOG: LogId = LogId([9; 16]);

fn table(bson: Bson, compression: Compression, parts: u32) -> Table {
    Table::new(LOG, Form { format: Format::Parquet, bson, compression, parts, ..Form::default() }).unwrap()
}

fn written(mut table: Table, records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        assert_eq!(table.append(&mut out, record).unwrap(), Taken::Row);
    }
    table.end(&mut out).unwrap();
    out
}

fn reader(bytes: Vec<u8>) -> SerializedFileReader<Bytes> {
    SerializedFileReader::new(Bytes::from(bytes)).unwrap()
}

/// Every row as a map of the columns that have a value.
fn rows(bytes: Vec<u8>) -> Vec<BTreeMap<String, Field>> {
    let reader = reader(bytes);
    let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
    let there = |(name, field): (&String, &Field)| (*field != Field::Null).then(|| (name.clone(), field.clone()));
    rows.map(|row| row.get_column_iter().filter_map(there).collect()).collect()
}

fn text(row: &BTreeMap<String, Field>, name: &str) -> String {
    match row.get(name) {
        Some(Field::Str(text)) => text.clone(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn the_same_records_give_the_same_bytes() {
    for compression in [Compression::None, Compression::Zstd] {
        let once = written(table(Bson::Always, compression, 1), &all());
        assert_eq!(once, written(table(Bson::Always, compression, 1), &all()));
        assert!(once.starts_with(b"PAR1") && once.ends_with(b"PAR1"));
    }
    let metadata = reader(written(table(Bson::Always, Compression::None, 1), &all()));
    let file = metadata.metadata().file_metadata();
    assert_eq!(file.created_by(), Some("tidelog version 1"));
    assert!(file.key_value_metadata().is_none_or(Vec::is_empty));
}

fn says_the_same(row: &BTreeMap<String, Field>, record: &Record) {
    assert_eq!(row["lsn"], Field::Long(i64::try_from(record.lsn.0).unwrap()));
    assert_eq!(row["wall"], Field::TimestampMillis(record.wall_ms));
    assert_eq!(text(row, "log"), LOG.to_string());
    match &record.body {
        Body::Change(change) => {
            assert_eq!(text(row, "op"), change.op.name());
            assert_eq!(text(row, "change_hash"), change_hash(change).to_string());
            assert_eq!(row.contains_key("before"), change.before.is_some());
            assert_eq!(row.contains_key("after"), change.after.is_some());
            assert!(!row.contains_key("control") && !row.contains_key("control_detail"));
        }
        Body::Control(fact) => {
            assert_eq!(text(row, "control"), crate::format::jsonl::control_words(fact).0);
            let detail: serde_json::Value = serde_json::from_str(&text(row, "control_detail")).unwrap();
            assert!(detail.as_object().is_some_and(|o| !o.is_empty()), "{detail}");
            assert_eq!(row.get("ns").is_some(), detail.get("ns").is_some(), "{detail}");
            assert!(!row.contains_key("op"));
        }
    }
}

#[test]
fn every_record_has_its_row() {
    let records = all();
    let rows = rows(written(table(Bson::WhereNeeded, Compression::Zstd, 1), &records));
    assert_eq!(rows.len(), records.len());
    for (row, record) in rows.iter().zip(&records) {
        says_the_same(row, record);
    }
    let update = &rows[1];
    assert_eq!(text(update, "after"), r#"{"_id":{"$numberInt":"1"},"n":{"$numberLong":"2"},"s":"é \"quoted\""}"#);
    assert_eq!(update["operation_time_t"], Field::Long(1_764_000_000));
    assert_eq!(text(update, "retry_lsid"), "07070707-0707-0707-0707-070707070707");
    assert_eq!(update["retry_stmt_id"], Field::Int(1));
    assert_eq!(text(update, "correlation"), "3:9");
    assert_eq!(rows[2]["txn_txn_number"], Field::Long(-1));
    assert_eq!(text(&rows[4], "found"), "snapshot");
}

#[test]
fn images_are_carried_as_bytes_where_text_is_not_exact() {
    let records = all();
    let needed = rows(written(table(Bson::WhereNeeded, Compression::None, 1), &records));
    let always = rows(written(table(Bson::Always, Compression::None, 1), &records));
    for ((needed, always), record) in needed.iter().zip(&always).zip(&records) {
        let Body::Change(change) = &record.body else { continue };
        let bytes =
            |image: &Option<crate::types::Image>| image.as_ref().map(|i| Field::Bytes(i.bytes().to_vec().into()));
        assert_eq!(always.get("after_bson").cloned(), bytes(&change.after));
        assert_eq!(always.get("before_bson").cloned(), bytes(&change.before));
        assert_eq!(needed.contains_key("after_bson"), record.lsn == Lsn(7), "{}", record.lsn);
        assert!(!needed.contains_key("before_bson"));
    }
}

/// Too deep for text: no text at all, and the bytes.
#[test]
fn a_deep_document_stands_in_its_bytes() {
    let deep = (0..120).fold(doc! {"_id": 1}, |inner, _| doc! {"d": inner});
    let mut told = change(Op::Insert, None, Some(&doc! {"_id": 1}));
    told.after = Some(image(&deep));
    let rows =
        rows(written(table(Bson::WhereNeeded, Compression::None, 1), &[record(1, Body::Change(Box::new(told)))]));
    assert!(!rows[0].contains_key("after"));
    assert_eq!(rows[0]["after_bson"], Field::Bytes(image(&deep).bytes().to_vec().into()));
}

#[test]
fn a_record_that_has_no_place_fails_alone() {
    let good = all();
    let mut bad = good[0].clone();
    bad.lsn = Lsn(u64::MAX);
    let (mut table, mut out) = (table(Bson::Always, Compression::None, 1), Vec::new());
    for record in &good {
        assert!(matches!(table.append(&mut out, &bad), Err(FormatError::Record { lsn: Lsn(u64::MAX), .. })));
        table.append(&mut out, record).unwrap();
    }
    table.end(&mut out).unwrap();
    assert_eq!(out, written(self::table(Bson::Always, Compression::None, 1), &good));
}

/// Row groups end by bytes; what was written leaves at once; what is held stays within a row group and a record.
#[test]
fn memory_is_bounded_by_a_row_group() {
    let document = doc! {"_id": 1, "s": "x".repeat(20_000)};
    let (mut table, mut out) = (table(Bson::Always, Compression::None, 64), Vec::new());
    assert_eq!(table.group_bytes, 512 << 10);
    for lsn in 1..=200 {
        let told = change(Op::Insert, None, Some(&document));
        table.append(&mut out, &record(lsn, Body::Change(Box::new(told)))).unwrap();
        assert!(table.rows.bytes() < table.group_bytes);
        assert!(table.rows.capacity() < 3 * table.group_bytes, "{}", table.rows.capacity());
        assert_eq!(table.file.as_ref().unwrap().inner().len(), 0);
    }
    assert!(out.len() > 6 << 20, "all but the last row group has left");
    table.end(&mut out).unwrap();
    let reader = reader(out);
    let groups = reader.metadata().row_groups();
    assert!(groups.len() > 10);
    let mut last = 0;
    for group in groups {
        let column = group.columns().iter().find(|c| c.column_descr().name() == "lsn").unwrap();
        let Some(Statistics::Int64(told)) = column.statistics() else { panic!("no statistics") };
        assert!(*told.min_opt().unwrap() > last);
        last = *told.max_opt().unwrap();
        let image = group.columns().iter().find(|c| c.column_descr().name() == "after").unwrap();
        assert!(image.statistics().is_none() && image.dictionary_page_offset().is_none());
        let key = group.columns().iter().find(|c| c.column_descr().name() == "key").unwrap();
        assert!(key.bloom_filter_offset().is_some() && key.column_index_offset().is_some());
    }
    assert_eq!(last, 200);
}

#[test]
fn a_large_document_does_not_stay_in_memory() {
    let (mut table, mut out) = (table(Bson::Always, Compression::None, 1024), Vec::new());
    let large = doc! {"_id": 1, "s": "x".repeat(15 << 20)};
    for lsn in 1..=2 {
        let told = change(Op::Insert, None, Some(&large));
        table.append(&mut out, &record(lsn, Body::Change(Box::new(told)))).unwrap();
    }
    assert_eq!(table.rows.rows(), 0);
    assert!(table.rows.capacity() < 4 << 20, "{}", table.rows.capacity());
}

#[test]
fn a_file_without_records_can_be_read() {
    assert!(rows(written(table(Bson::Always, Compression::Zstd, 4), &[])).is_empty());
    let only = [record(1, Body::Control(Control::Started { version: "1".into() }))];
    assert_eq!(rows(written(table(Bson::Always, Compression::Zstd, 4), &only)).len(), 1);
}

#[test]
fn an_ended_file_takes_nothing() {
    let (mut table, mut out) = (table(Bson::Always, Compression::None, 1), Vec::new());
    table.end(&mut out).unwrap();
    assert!(matches!(table.end(&mut out), Err(FormatError::File(_))));
}

/// The page for people names every column, in the order of the file.
#[test]
fn the_page_has_the_columns() {
    let page = include_str!("../../../deploy/docs/parquet.md");
    let table: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(n, _)| n).collect();
    let columns: Vec<_> = schema::COLUMNS.iter().map(|column| column.name).collect();
    assert_eq!(table, columns);
}

/// A row in Debezium's envelope says what its line says.
#[test]
fn rows_of_the_envelope_are_its_lines() {
    let form = Form { format: Format::Parquet, envelope: Envelope::Debezium, bson: Bson::Always, ..Form::default() };
    let (mut table, mut out) = (Table::new(LOG, form).unwrap(), Vec::new());
    let mut lines = crate::format::debezium::Envelopes::new(LOG, Bson::Always);
    let mut expected = Vec::new();
    for record in &all() {
        let mut line = Vec::new();
        let taken = lines.append(&mut line, record).unwrap();
        assert_eq!(table.append(&mut out, record).unwrap(), taken);
        if taken == Taken::Row {
            expected.push(serde_json::from_slice::<serde_json::Value>(&line).unwrap());
        }
    }
    table.end(&mut out).unwrap();
    let found: Vec<_> = reader(out).get_row_iter(None).unwrap().map(|row| json(row.unwrap())).collect();
    assert_eq!(found, expected);
}

/// A row as its line would be.
fn json(row: ::parquet::record::Row) -> serde_json::Value {
    use base64::Engine as _;
    let value = |(name, field): (String, Field)| {
        let value = match field {
            Field::Null if name.ends_with("_bson") => return None,
            Field::Null => serde_json::Value::Null,
            Field::Str(text) if name == "id" => serde_json::from_str(&text).unwrap(),
            Field::Str(text) => text.into(),
            Field::Long(number) if name == "hlc" => number.to_string().into(),
            Field::Long(number) => number.into(),
            Field::Bool(flag) => flag.into(),
            Field::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes.data()).into(),
            Field::Group(row) => json(row),
            other => panic!("{name}: {other:?}"),
        };
        Some((name, value))
    };
    serde_json::Value::Object(row.into_columns().into_iter().filter_map(value).collect())
}

#[test]
fn a_document_too_deep_for_the_envelope_fails_alone() {
    let deep = (0..120).fold(doc! {"_id": 1}, |inner, _| doc! {"d": inner});
    let form = Form { format: Format::Parquet, envelope: Envelope::Debezium, ..Form::default() };
    let (mut table, mut out) = (Table::new(LOG, form).unwrap(), Vec::new());
    let bad = record(1, Body::Change(Box::new(change(Op::Insert, None, Some(&deep)))));
    assert!(matches!(table.append(&mut out, &bad), Err(FormatError::Record { lsn: Lsn(1), .. })));
    let good = record(2, Body::Change(Box::new(change(Op::Insert, None, Some(&doc! {"_id": 1})))));
    table.append(&mut out, &good).unwrap();
    table.end(&mut out).unwrap();
    assert_eq!(reader(out).metadata().file_metadata().num_rows(), 1);
}
