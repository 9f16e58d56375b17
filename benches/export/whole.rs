//! The whole path: a changelog → a folder, and a copy of the same bytes.

use super::records::change;
use super::{Fallible, Work, spent};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidelog::changelog::{Changelog, LogOptions};
use tidelog::clock::Clock;
use tidelog::config::{Compression, Format, SinkConfig};
use tidelog::disk::{Disk, OsDisk};
use tidelog::export::{ExportOptions, Exporter, Limits, SinkOptions};
use tidelog::types::{Body, Draft};

/// Changes handed to the log at once, and bytes of them.
const BATCH: u64 = 1_000;
const BATCH_BYTES: usize = 32 << 20;

struct Case {
    name: &'static str,
    format: Format,
    compression: Compression,
    bson: bool,
    best: Duration,
    wall: Duration,
    bytes: u64,
    copy: Duration,
    peak_kib: u64,
}

pub(super) fn run(work: Work, wanted: &dyn Fn(&str) -> bool) -> Fallible<()> {
    let dir = tempfile::tempdir()?;
    let (disk, clock): (Arc<dyn Disk>, _) = (Arc::new(OsDisk), Clock::system());
    let options = LogOptions { min_free_bytes: 0, ..LogOptions::default() };
    let (log, _) =
        Changelog::open(Arc::clone(&disk), dir.path().join("log"), options, Arc::clone(&clock), Box::new(|_| {}))?;
    fill(&log, work)?;
    let log = Arc::new(log);
    let mut cases = cases();
    cases.retain(|case| wanted(case.name));
    for round in 0..3 {
        for (number, case) in cases.iter_mut().enumerate() {
            let place = dir.path().join(format!("round-{round}-{number}"));
            forget_peak()?;
            let (took, wall) = export(&log, &disk, &clock, case, &place)?;
            case.peak_kib = case.peak_kib.max(peak_kib()?);
            let file = copied(&place)?;
            (case.best, case.wall) = (case.best.min(took), case.wall.min(wall));
            (case.bytes, case.copy) = (file.0, case.copy.min(file.1));
            std::fs::remove_dir_all(&place)?;
        }
    }
    let Work { count, bytes } = work;
    println!("Log → folder, {count} changes of {bytes}-byte documents in one window:\n");
    println!(
        "| form | records/s of a core | wall s | bytes a record | time / copying the bytes | peak memory |\n|---|---|---|---|---|---|"
    );
    for case in &cases {
        let a_second = u128::from(count) * 1_000_000 / case.best.as_micros().max(1);
        let ratio = case.best.as_secs_f64() / case.copy.as_secs_f64().max(0.01);
        let (wall, each) = (case.wall.as_secs_f64(), case.bytes / count.max(1));
        println!("| {} | {a_second} | {wall:.2} | {each} | {ratio:.1} | {} MiB |", case.name, case.peak_kib / 1024);
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let case = |name, format, compression, bson| {
        let most = Duration::MAX;
        Case { name, format, compression, bson, best: most, wall: most, bytes: 0, copy: most, peak_kib: 0 }
    };
    vec![
        case("jsonl", Format::Jsonl, Compression::None, false),
        case("jsonl, zstd", Format::Jsonl, Compression::Zstd, false),
        case("parquet", Format::Parquet, Compression::None, false),
        case("parquet, zstd", Format::Parquet, Compression::Zstd, false),
        case("parquet, bson, zstd", Format::Parquet, Compression::Zstd, true),
    ]
}

fn fill(log: &Changelog, Work { count, bytes }: Work) -> Fallible<()> {
    let batch = BATCH.min(u64::try_from(BATCH_BYTES / bytes)?).max(1);
    for first in (0..count).step_by(usize::try_from(batch)?) {
        let draft = |number| Ok(Draft { body: Body::Change(Box::new(change(number, bytes)?)), continued: false });
        let drafts = (first..count.min(first + batch)).map(draft).collect::<Fallible<Vec<_>>>()?;
        let _durable = log.append(drafts).wait_blocking()?;
    }
    Ok(())
}

/// Processor time and wall time from the start of the export until everything is in the folder.
fn export(
    log: &Arc<Changelog>,
    disk: &Arc<dyn Disk>,
    clock: &Arc<Clock>,
    case: &Case,
    place: &Path,
) -> Fallible<(Duration, Duration)> {
    let config = SinkConfig {
        dir: place.join("export"),
        format: case.format,
        compression: case.compression,
        bson: case.bson,
        ..SinkConfig::default()
    };
    let limits = Limits {
        max_bytes: u64::MAX,
        max_records: u64::MAX,
        max_age_ms: u64::MAX,
        idle_ms: 0,
        settle_ms: 0,
        ..Limits::default()
    };
    let sinks = vec![SinkOptions { name: "folder", config }];
    let options = ExportOptions { limits, sinks, ..ExportOptions::folder(place.join("data"), place.join("export")) };
    let (before, begun) = (spent()?, Instant::now());
    let handle = Exporter::spawn(options, Arc::clone(log), Arc::clone(disk), Arc::clone(clock))?;
    while handle.exported() < log.tail() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = (spent()?.saturating_sub(before), begun.elapsed());
    handle.shutdown();
    Ok(took)
}

/// Copies the files of the windows; tells their bytes and the processor time.
fn copied(place: &Path) -> Fallible<(u64, Duration)> {
    let (mut bytes, before) = (0, spent()?);
    for window in std::fs::read_dir(place.join("export"))? {
        let window = window?.path();
        for file in std::fs::read_dir(window).into_iter().flatten() {
            let (mut from, mut to) = (File::open(file?.path())?, tempfile::tempfile_in(place)?);
            bytes += std::io::copy(&mut from, &mut to)?;
            to.sync_all()?;
        }
    }
    Ok((bytes, spent()?.saturating_sub(before)))
}

/// The peak of this process's memory counts from now on (`Documentation/filesystems/proc.rst`, `clear_refs`).
fn forget_peak() -> Fallible<()> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// The peak of this process's memory since then.
fn peak_kib() -> Fallible<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("/proc/self/status has no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
