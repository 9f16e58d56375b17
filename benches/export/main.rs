//! The bench of the forms: how many records a second one core turns into the bytes of a sink's file.
//!
//! ```text
//! cargo bench --bench export                   every form, 300,000 records, three rounds
//! cargo bench --bench export -- 1000000        more records
//! ```
//!
//! One thread: records of 400-byte documents (three inserts, one update) → encoder → SHA-256 → a temporary file, as
//! an export does once it has read a record. What it leaves out: reading and checking the log, the manifest, fsync. A figure is
//! the best of three rounds, in seconds of the processor (user and system), since machines are shared; the forms take turns
//! within a round.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use bson::{RawBson, doc};
use sha2::{Digest as _, Sha256};
use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tidelog::config::{Compression, Envelope, Format};
use tidelog::format::Form;
use tidelog::format::jsonl::Bson;
use tidelog::types::{Body, Change, EntityKey, Epoch, Hlc, Image, LogId, Lsn, Namespace, Op, Origin, Record, Seq};

/// Bytes are hashed and written in pieces of about this size, as the exporter does.
const PIECE_BYTES: usize = 1 << 20;
/// Different documents; they come again and again.
const DOCUMENTS: u64 = 4096;

type Fallible<T> = Result<T, Box<dyn Error>>;

struct Case {
    name: &'static str,
    form: Form,
    best: Duration,
    bytes: u64,
}

fn main() -> Fallible<()> {
    let told = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let count: u64 = told.unwrap_or(300_000);
    let records = (0..DOCUMENTS).map(record).collect::<Fallible<Vec<_>>>()?;
    let mut cases = cases();
    for _ in 0..3 {
        for case in &mut cases {
            let mut file = tempfile::tempfile()?;
            let begun = spent()?;
            case.bytes = write(&mut file, case.form, &records, count)?;
            case.best = case.best.min(spent()?.saturating_sub(begun));
        }
    }
    println!("| form | records/s | bytes a record |\n|---|---|---|");
    for case in &cases {
        let micros = case.best.as_micros().max(1);
        println!("| {} | {} | {} |", case.name, u128::from(count) * 1_000_000 / micros, case.bytes / count.max(1));
    }
    Ok(())
}

/// Time of the processor that this process has taken: fields 14 and 15 of `/proc/self/stat`, in hundredths of a second.
fn spent() -> Fallible<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat has another form")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
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

/// Every fourth is an update, the others are inserts.
fn record(number: u64) -> Fallible<Record> {
    let update = number % 4 == 3;
    let before = update.then(|| image(number, 1)).transpose()?;
    let id = format!("order-{number:012}");
    let change = Change {
        ns: Namespace::new("shop", "orders"),
        id: RawBson::String(id.clone()),
        key: EntityKey(id.as_bytes().into()),
        epoch: Epoch(1),
        seq: Seq(if update { 2 } else { 1 }),
        op: if update { Op::Update } else { Op::Insert },
        before,
        before_sha: None,
        after: Some(image(number, 2)?),
        operation_time: Some(1_764_000_000 << 32 | number),
        retry: None,
        txn: None,
        found: None,
        origin: Arc::new(Origin { connection: 12, client: "10.0.0.7:51234".into(), ..Origin::default() }),
        comment: String::new(),
        traceparent: String::new(),
        correlation: 12 << 32 | number,
    };
    let wall_ms = 1_764_000_000_000 + i64::try_from(number)?;
    let hlc = Hlc(u64::try_from(wall_ms)? << 16);
    Ok(Record { lsn: Lsn(1), hlc, wall_ms, continued: false, body: Body::Change(Box::new(change)) })
}

/// A document of 400 bytes, with text that compresses about as names and words do.
fn image(number: u64, version: i32) -> Fallible<Image> {
    let words = Sha256::digest(number.to_le_bytes());
    let hex = hex::encode(words);
    let mut document = doc! {
        "_id": format!("order-{number:012}"), "version": version, "customer": hex.get(..24).unwrap_or_default(),
        "total": f64::from(version) * 19.9, "when": bson::DateTime::from_millis(1_764_000_000_000 + i64::try_from(number)?),
        "items": [{"sku": hex.get(24..36).unwrap_or_default(), "n": 1}, {"sku": hex.get(36..48).unwrap_or_default(), "n": 2}],
        "status": "paid", "address": {"city": "Lisbon", "street": "Rua da Prata", "zip": hex.get(48..55).unwrap_or_default()},
    };
    let missing = 400_usize.saturating_sub(document.to_vec()?.len() + "note".len() + 7);
    document.insert("note", "leave it at the door, please ".repeat(20).get(..missing).unwrap_or_default());
    let bytes = document.to_vec()?;
    debug_assert_eq!(bytes.len(), 400);
    Ok(Image::new(bytes.into()))
}
