//! The forms alone: records → encoder → SHA-256 → a temporary file, as an export does once it has read a record. What it leaves
//! out: reading and checking the log, the manifest, fsync.

use super::records::change;
use super::{Fallible, Work, spent};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Write as _;
use std::time::Duration;
use tidelog::config::{Compression, Envelope, Format};
use tidelog::format::Form;
use tidelog::format::jsonl::Bson;
use tidelog::types::{Body, Hlc, LogId, Lsn, Record};

/// Bytes are hashed and written in pieces of about this size, as the exporter does.
const PIECE_BYTES: usize = 1 << 20;
/// Different documents, fewer where they are large; they come again and again.
const DOCUMENTS: usize = 4096;
const DOCUMENTS_BYTES: usize = 256 << 20;

struct Case {
    name: &'static str,
    form: Form,
    best: Duration,
    bytes: u64,
}

pub(super) fn run(work: Work, wanted: &dyn Fn(&str) -> bool) -> Fallible<()> {
    let count = work.count;
    let documents = DOCUMENTS.min(DOCUMENTS_BYTES / work.bytes).max(1);
    let records =
        (0..u64::try_from(documents)?).map(|number| record(number, work.bytes)).collect::<Fallible<Vec<_>>>()?;
    let mut cases = cases();
    cases.retain(|case| wanted(case.name));
    for _ in 0..3 {
        for case in &mut cases {
            let mut file = tempfile::tempfile()?;
            let begun = spent()?;
            case.bytes = write(&mut file, case.form, &records, count)?;
            case.best = case.best.min(spent()?.saturating_sub(begun));
        }
    }
    println!("The forms alone:\n");
    println!("| form | records/s of a core | bytes a record |\n|---|---|---|");
    for case in &cases {
        let micros = case.best.as_micros().max(1);
        println!("| {} | {} | {} |", case.name, u128::from(count) * 1_000_000 / micros, case.bytes / count.max(1));
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    use {Bson::Always, Bson::WhereNeeded, Compression::Zstd, Envelope::Debezium, Format::Parquet};
    let plain = Form::default();
    let none = Compression::None;
    let case = |name, form| Case { name, form, best: Duration::MAX, bytes: 0 };
    vec![
        case("jsonl", plain),
        case("jsonl, zstd", Form { compression: Zstd, ..plain }),
        case("debezium", Form { envelope: Debezium, ..plain }),
        case("parquet", Form { format: Parquet, compression: none, bson: WhereNeeded, ..plain }),
        case("parquet, bson", Form { format: Parquet, compression: none, bson: Always, ..plain }),
        case("parquet, zstd", Form { format: Parquet, compression: Zstd, bson: WhereNeeded, ..plain }),
        case("parquet, bson, zstd", Form { format: Parquet, compression: Zstd, bson: Always, ..plain }),
    ]
}

fn write(file: &mut File, form: Form, records: &[Record], count: u64) -> Fallible<u64> {
    let (mut encoder, mut piece) = (form.encoder(LogId([7; 16]))?, Vec::new());
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    for (lsn, record) in (1..=count).zip(records.iter().cycle()) {
        let mut record = record.clone();
        record.lsn = Lsn(lsn);
        encoder.append(&mut piece, &record)?;
        if piece.len() >= PIECE_BYTES || lsn == count {
            if lsn == count {
                encoder.end(&mut piece)?;
            }
            hash.update(&piece);
            file.write_all(&piece)?;
            bytes += piece.len() as u64;
            piece.clear();
        }
    }
    std::hint::black_box(hash.finalize());
    Ok(bytes)
}

fn record(number: u64, bytes: usize) -> Fallible<Record> {
    let wall_ms = 1_764_000_000_000 + i64::try_from(number)?;
    let hlc = Hlc(u64::try_from(wall_ms)? << 16);
    Ok(Record { lsn: Lsn(1), hlc, wall_ms, continued: false, body: Body::Change(Box::new(change(number, bytes)?)) })
}
