//! Windows as Parquet: they hold, and damage to any column is found; *resealed*, with the hashes around it mended.

use crate::export::{self, export_as};
use crate::forge::{Forge, sha};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::Field;
use serde_json::json;
use std::sync::Arc;
use tidelog::audit::{Finding, Kind, verify};
use tidelog::config::{Compression, Format, SinkConfig};
use tidelog::disk::FaultDisk;

const FILE: &str = "records.parquet";

fn table(config: &mut SinkConfig) {
    config.format = Format::Parquet;
}

fn finding(disk: &FaultDisk) -> Option<Finding> {
    verify(disk, export::dir(), &mut |_| {}).expect("readable").finding
}

/// A file taken apart: its rows, each a name and a value for each column.
type Rows = Vec<Vec<(String, Field)>>;

/// Takes the file of a window apart, lets it be edited and puts it together again.
fn edit(forge: &Forge, window: u64, file: &str, edit: impl Fn(&mut Rows)) {
    let reader = SerializedFileReader::new(bytes::Bytes::from(forge.read(window, file))).expect("a file");
    let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
    let mut rows: Rows =
        reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row").into_columns()).collect();
    edit(&mut rows);
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::clone(&schema), Arc::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    for number in 0..schema.get_fields().len() {
        let values: Vec<&Field> = rows.iter().map(|row| &row[number].1).collect();
        let there: Vec<i16> = values.iter().map(|field| i16::from(**field != Field::Null)).collect();
        let mut column = group.next_column().expect("a column").expect("a column");
        match column.untyped() {
            ColumnWriter::ByteArrayColumnWriter(to) => {
                let bytes = |field: &&Field| match field {
                    Field::Str(text) => Some(ByteArray::from(text.as_str())),
                    Field::Bytes(bytes) => Some(bytes.clone()),
                    _ => None,
                };
                to.write_batch(&values.iter().filter_map(bytes).collect::<Vec<_>>(), Some(&there), None)
            }
            ColumnWriter::Int64ColumnWriter(to) => {
                let long = |field: &&Field| match field {
                    Field::Long(number) | Field::TimestampMillis(number) => Some(*number),
                    _ => None,
                };
                to.write_batch(&values.iter().filter_map(long).collect::<Vec<_>>(), Some(&there), None)
            }
            ColumnWriter::Int32ColumnWriter(to) => {
                let int = |field: &&Field| if let Field::Int(number) = field { Some(*number) } else { None };
                to.write_batch(&values.iter().filter_map(int).collect::<Vec<_>>(), Some(&there), None)
            }
            ColumnWriter::BoolColumnWriter(to) => {
                let flag = |field: &&Field| if let Field::Bool(flag) = field { Some(*flag) } else { None };
                to.write_batch(&values.iter().filter_map(flag).collect::<Vec<_>>(), Some(&there), None)
            }
            _ => panic!("a column of another type"),
        }
        .expect("written");
        column.close().expect("closed");
    }
    group.close().expect("closed");
    forge.write(window, file, &writer.into_inner().expect("a file"));
}

fn cell<'r>(rows: &'r mut Rows, row: usize, name: &str) -> &'r mut Field {
    &mut rows[row].iter_mut().find(|(column, _)| column == name).expect("a column").1
}

/// Another value of the same type.
fn spoil(field: &mut Field) {
    *field = match field {
        Field::Str(text) => Field::Str(format!("{text}0")),
        Field::Bytes(bytes) => Field::Bytes([bytes.data(), &[7]].concat().into()),
        Field::Long(number) => Field::Long(*number + 1),
        Field::TimestampMillis(number) => Field::TimestampMillis(*number + 1),
        Field::Int(number) => Field::Int(*number + 1),
        Field::Bool(flag) => Field::Bool(!*flag),
        other => panic!("{other:?}"),
    };
}

#[test]
fn they_hold() {
    let forms: [&dyn Fn(&mut SinkConfig); 4] = [
        &|_| {},
        &|config| config.bson = true,
        &|config| (config.compression, config.parts) = (Compression::Zstd, 4),
        &|config| (config.latest, config.parts, config.bson) = (true, 3, true),
    ];
    for (number, form) in forms.iter().enumerate() {
        for odd in [false, true].into_iter().take(1 + usize::from(number % 3 == 0)) {
            let plain = verify(&export_as(odd, &|_| {}), export::dir(), &mut |_| {}).expect("readable");
            let disk = export_as(odd, &|config| {
                table(config);
                form(config);
            });
            let verdict = verify(&disk, export::dir(), &mut |_| {}).expect("readable");
            assert!(verdict.holds() && verdict.unread == 0 && plain.holds(), "form {number}: {verdict}");
            assert_eq!(
                (verdict.windows, verdict.records, verdict.changes),
                (plain.windows, plain.records, plain.changes)
            );
            assert_eq!((&verdict.namespaces, &verdict.gaps), (&plain.namespaces, &plain.gaps));
            assert_eq!(verdict.latest, if number == 3 { verdict.windows } else { 0 });
        }
    }
}

/// Columns that no rule of records covers: as in lines, only the file's hash does. Clocks are free between their
/// neighbours, batches where no transaction is.
#[rustfmt::skip]
const FREE: [&str; 21] = [
    "hlc", "wall", "continued", "operation_time_t", "operation_time_i", "retry_lsid", "retry_txn_number", "retry_stmt_id",
    "origin_connection", "origin_client", "origin_user", "origin_mechanism", "origin_app", "origin_driver", "comment",
    "traceparent", "correlation", "tags", "schema_version",
    // The text beside the bytes is for people: where bytes are there, they are the image.
    "before", "after",
];

/// Each value of each row, another one: found by the file's hash, and where that is mended by the records' own rules.
#[test]
fn damage_in_any_column_is_found() {
    let good = export_as(false, &|config| {
        table(config);
        config.bson = true;
    });
    let reader = SerializedFileReader::new(bytes::Bytes::from(Forge(good.kill()).read(2, FILE))).expect("a file");
    let mut columns = std::collections::BTreeSet::new();
    for (row, fields) in reader.get_row_iter(None).expect("rows").enumerate() {
        let fields = fields.expect("a row").into_columns();
        for (name, _) in fields.into_iter().filter(|(_, field)| *field != Field::Null) {
            let forge = Forge(good.kill());
            edit(&forge, 2, FILE, |rows| spoil(cell(rows, row, &name)));
            let found = finding(&forge.0).map(|f| (f.kind, f.window));
            assert_eq!(found, Some((Kind::FileHash, 2)), "{name} of row {row}");
            forge.reseal_files();
            let found = finding(&forge.0);
            let said = found.as_ref().is_some_and(|f| f.window == 2 && f.kind != Kind::FileHash);
            let free = FREE.contains(&name.as_str()) && found.is_none_or(|f| f.kind == Kind::LineForm);
            assert!(said || free, "{name} of row {row} resealed");
            columns.insert(name);
        }
    }
    assert!(columns.len() >= 26, "{columns:?}");
}

/// Where text is not exact the bytes are the image.
#[test]
fn damage_in_bytes_is_found() {
    let good = export_as(true, &table);
    for name in ["before_bson", "before_sha256", "id"] {
        let forge = Forge(good.kill());
        resealed(&forge, 2, |rows| spoil(cell(rows, 0, name)));
        let found = finding(&forge.0).map(|f| (f.window, f.kind));
        assert!(found.is_some_and(|(window, kind)| window == 2 && kind != Kind::FileHash), "{name}: {found:?}");
    }
}

type Spoiled<'a> = (&'a str, Kind, &'a dyn Fn(&Forge));

fn check(good: &FaultDisk, rows: &[Spoiled<'_>]) {
    for (what, kind, spoil) in rows {
        let forge = Forge(good.kill());
        spoil(&forge);
        let found = finding(&forge.0);
        assert_eq!(found.as_ref().map(|f| f.kind), Some(*kind), "{what}: {found:?}");
    }
}

fn resealed(forge: &Forge, window: u64, change: impl Fn(&mut Rows)) {
    edit(forge, window, FILE, change);
    forge.reseal_files();
}

/// Without BSON: the image is what its text says.
#[test]
fn spoiled_and_resealed() {
    let good = export_as(false, &table);
    let text = |text: &str| Field::Str(text.to_owned());
    check(
        &good,
        &[
            ("a row is gone", Kind::Lsn, &|f| resealed(f, 2, |r| drop(r.remove(1)))),
            ("the last row is gone", Kind::Counts, &|f| resealed(f, 2, |r| drop(r.pop()))),
            ("rows swapped", Kind::Lsn, &|f| resealed(f, 2, |r| r.swap(0, 1))),
            ("a row twice", Kind::Lsn, &|f| resealed(f, 2, |r| r.insert(1, r[1].clone()))),
            ("another image", Kind::ImageHash, &|f| {
                resealed(f, 2, |r| *cell(r, 0, "after") = text(r#"{"_id":{"$numberInt":"3"}}"#));
            }),
            ("no image", Kind::ImageHash, &|f| resealed(f, 2, |r| *cell(r, 0, "after") = Field::Null)),
            ("text that is no JSON", Kind::LineForm, &|f| resealed(f, 2, |r| *cell(r, 0, "after") = text("{"))),
            ("another id", Kind::Id, &|f| resealed(f, 2, |r| *cell(r, 0, "id") = text("7"))),
            ("no id", Kind::LineForm, &|f| resealed(f, 2, |r| *cell(r, 0, "id") = Field::Null)),
            ("another operation", Kind::ChangeHash, &|f| resealed(f, 2, |r| *cell(r, 0, "op") = text("update"))),
            ("half of a transaction", Kind::LineForm, &|f| resealed(f, 2, |r| *cell(r, 0, "txn_count") = Field::Null)),
            ("out of its transaction", Kind::Transaction, &|f| {
                resealed(f, 2, |r| {
                    for name in ["txn_lsid", "txn_txn_number", "txn_index", "txn_count"] {
                        *cell(r, 1, name) = Field::Null;
                    }
                });
            }),
            ("a negative number", Kind::LineForm, &|f| resealed(f, 2, |r| *cell(r, 0, "seq") = Field::Long(-1))),
            ("a control record that has a key", Kind::LineForm, &|f| {
                resealed(f, 1, |r| *cell(r, 0, "key") = text("00"));
            }),
            ("another namespace than its detail's", Kind::LineForm, &|f| {
                resealed(f, 1, |r| *cell(r, 1, "ns") = text("shop.others"));
            }),
            ("another namespace", Kind::Counts, &|f| {
                resealed(f, 1, |r| {
                    *cell(r, 1, "ns") = text("shop.others");
                    *cell(r, 1, "control_detail") = text(r#"{"ns":"shop.others","complete":true}"#);
                });
            }),
            ("a detail that another kind has", Kind::LineForm, &|f| {
                resealed(f, 1, |r| *cell(r, 1, "control_detail") = text(r#"{"ns":"shop.orders","lsn":9}"#));
            }),
            ("another time", Kind::Clock, &|f| {
                resealed(f, 4, |r| {
                    let last = r.len() - 1;
                    spoil(cell(r, last, "wall"));
                });
            }),
            ("the clock goes back", Kind::Clock, &|f| resealed(f, 2, |r| *cell(r, 1, "hlc") = Field::Long(5))),
            ("no Parquet", Kind::LineForm, &|f| {
                f.write(2, FILE, b"PAR1PAR1");
                f.reseal_files();
            }),
            ("cut short", Kind::LineForm, &|f| {
                let bytes = f.read(2, FILE);
                f.write(2, FILE, &bytes[..bytes.len() / 2]);
                f.reseal_files();
            }),
        ],
    );
}

#[test]
fn manifests() {
    check(
        &export_as(false, &table),
        &[
            ("another count and its hash", Kind::Counts, &|f| {
                f.edit_manifest(2, |m| m["counts"]["shop.orders"]["insert"] = json!(9));
                f.reseal_files();
            }),
            ("other rows", Kind::Counts, &|f| {
                f.edit_manifest(2, |m| (m["files"][0]["records"], m["records"]) = (json!(5), json!(6)));
                f.reseal_files();
            }),
            ("more alive", Kind::Fingerprint, &|f| {
                f.edit_manifest(4, |m| m["namespaces"][0]["alive"] = json!(9));
                f.reseal_files();
            }),
            ("a file damaged", Kind::FileHash, &|f| {
                let mut bytes = f.read(3, FILE);
                bytes[20] ^= 1;
                f.write(3, FILE, &bytes);
            }),
            ("a file gone", Kind::FileMissing, &|f| f.remove(3, FILE)),
        ],
    );
    let good = Forge(export_as(false, &table));
    assert_eq!(sha(&good.read(1, FILE)).len(), 64);
}

/// A latest file of rows: another value that only the comparison with the history can tell.
#[test]
fn a_latest_file_is_held_against_the_history() {
    let good = export_as(false, &|config| {
        table(config);
        config.latest = true;
    });
    let edited = |window: u64, change: &dyn Fn(&mut Rows)| {
        let forge = Forge(good.kill());
        edit(&forge, window, "latest.parquet", change);
        forge.reseal_files();
        finding(&forge.0).map(|found| (found.kind, found.file.unwrap_or_default()))
    };
    let told = |kind: Kind| Some((kind, "latest.parquet".to_owned()));
    assert_eq!(edited(2, &|_| {}), None, "the same rows laid out otherwise");
    assert_eq!(edited(2, &|r| spoil(cell(r, 0, "origin_user"))), told(Kind::Latest));
    assert_eq!(edited(2, &|r| drop(r.remove(0))), told(Kind::Latest));
    assert_eq!(edited(3, &|r| drop(r.remove(0))), told(Kind::Latest));
}
