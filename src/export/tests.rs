//! The whole of it, step by step, over a disk that is cut at every sync and fails at every sync. The oracle: the files of all
//! windows, one after the other, are the lines of the log, each once.

use super::cut::{Cutting, Request};
use super::handle::{Shared, assemble};
use super::worker::{Progress, Worker};
use super::*;
use crate::changelog::{Changelog, Durability, Horizon, LogOptions, Opened};
use crate::clock::Clock;
use crate::disk::{Disk, FaultDisk};
use crate::format::jsonl::{Bson, Lines};
use crate::sink::Class;
use crate::types::{Body, Change, Control, Draft, EntityKey, Epoch, Image, Lsn, Namespace, Op, Seq, WindowId};
use bson::rawdoc;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;

const EXPORT: &str = "/export";

fn options(bson: Bson) -> ExportOptions {
    let limits = Limits { max_records: 4, max_age_ms: 10_000, idle_ms: 3_000, max_bytes: 1 << 20, ..Limits::default() };
    ExportOptions { limits, bson, ..ExportOptions::folder(PathBuf::from("/data"), PathBuf::from(EXPORT)) }
}

pub(super) fn insert(n: u32) -> Body {
    let document = rawdoc! { "_id": i64::from(n), "text": "x".repeat(20), "n": f64::from(n) };
    Body::Change(Box::new(Change {
        after: Some(Image::new(Bytes::copy_from_slice(document.as_bytes()))),
        operation_time: Some(5 << 32 | 6),
        correlation: u64::from(n),
        ..Change::new(
            Namespace::new("shop", "orders"),
            bson::RawBson::Int64(i64::from(n)),
            EntityKey(n.to_le_bytes().as_slice().into()),
            (Epoch(1), Seq(1)),
            Op::Insert,
        )
    }))
}

/// A batch of `size` records that stand together.
pub(super) fn batch(from: u32, size: u32) -> Vec<Draft> {
    (from..from + size).map(|n| Draft { body: insert(n), continued: n + 1 < from + size }).collect()
}

struct Rig {
    log: Arc<Changelog>,
    shared: Arc<Shared>,
    cutting: Cutting,
    worker: Worker,
    now_ms: u64,
}

fn open_log(disk: &FaultDisk, clock: &Arc<Clock>, durability: Durability) -> Option<(Changelog, Opened)> {
    let options = LogOptions { durability, ..LogOptions::default() };
    let observer = Box::new(|_: &[crate::types::Committed]| {});
    Changelog::open(Arc::new(disk.clone()), "/data/log".into(), options, Arc::clone(clock), observer).ok()
}

fn rig(disk: &FaultDisk, bson: Bson) -> Option<Rig> {
    rig_with(disk, bson, Durability::Always)
}

fn rig_with(disk: &FaultDisk, bson: Bson, durability: Durability) -> Option<Rig> {
    rig_of(disk, options(bson), durability)
}

fn rig_of(disk: &FaultDisk, options: ExportOptions, durability: Durability) -> Option<Rig> {
    let clock = Clock::manual(1_764_015_525_123);
    let (log, _opened) = open_log(disk, &clock, durability)?;
    let log = Arc::new(log);
    let (shared, cutting, mut workers) = assemble(options, Arc::clone(&log), Arc::new(disk.clone()), clock).ok()?;
    Some(Rig { log, shared, cutting, worker: workers.pop()?, now_ms: 0 })
}

impl Rig {
    fn append(&self, drafts: Vec<Draft>) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(self.log.append(drafts).wait()).is_ok()
    }

    fn advance(&mut self, ms: u64) -> Result<(), ExportError> {
        self.now_ms += ms;
        self.cutting.step(self.now_ms)
    }

    fn ask(&mut self, label: Option<&str>) -> oneshot::Receiver<WindowId> {
        let (reply, answer) = oneshot::channel();
        let reply = Some(reply);
        self.cutting.ask(Request { label: label.map(str::to_owned), target: self.log.tail(), reply });
        answer
    }

    /// Steps until everything is closed and delivered. `false`: something failed twice.
    fn run_out(&mut self) -> bool {
        let mut failures = 0;
        loop {
            let cut = self.advance(4_000);
            let delivered = self.worker.step(0);
            if cut.is_err() || delivered.is_err() {
                failures += 1;
                if failures > 1 {
                    return false;
                }
                continue;
            }
            let closed = self.shared.windows.last();
            let at = self.worker.position().map_or(Lsn::ZERO, |p| p.last);
            if matches!(delivered, Ok(Progress::Nothing)) && at == self.log.tail() && closed != WindowId::ZERO {
                return true;
            }
        }
    }

    fn lines(&self, bson: Bson) -> Vec<u8> {
        let (mut out, mut lines) = (Vec::new(), Lines::new(self.log.log_id(), bson));
        let mut reader = self.log.reader(Lsn(1));
        while let Some(record) = reader.next().expect("read") {
            lines.line(&mut out, &record);
        }
        out
    }
}

/// Bytes of all windows, and each manifest's.
fn exported(disk: &FaultDisk) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut lines, mut manifests) = (Vec::new(), Vec::new());
    let dir = Path::new(EXPORT);
    for name in disk.list(dir).unwrap_or_default().iter().filter(|n| n.starts_with("window-")) {
        if let Ok(manifest) = disk.read(&dir.join(name).join("manifest.json")) {
            lines.extend(disk.read(&dir.join(name).join("records.jsonl")).expect("a manifest without its file"));
            manifests.push(manifest);
        }
    }
    (lines, manifests)
}

#[test]
fn windows_hold_each_record_once() {
    let disk = FaultDisk::new();
    let mut rig = rig(&disk, Bson::WhereNeeded).expect("open");
    assert!(rig.append(batch(0, 3)) && rig.append(batch(3, 3)) && rig.append(batch(6, 1)));
    rig.advance(499).expect("step");
    rig.advance(499).expect("step");
    assert_eq!(rig.shared.windows.last(), WindowId::ZERO, "nothing has settled");
    assert!(rig.run_out());
    let (lines, manifests) = exported(&disk);
    assert_eq!(lines, rig.lines(Bson::WhereNeeded));
    // Six at the bound of four, since a batch is not split; one when nothing came.
    assert_eq!(manifests.len(), 2);
    let first: serde_json::Value = serde_json::from_slice(&manifests[0]).expect("json");
    assert_eq!((first["records"].as_u64(), first["cause"].as_str()), (Some(6), Some("count")));
    assert_eq!(first["namespaces"][0]["alive"], 6);
    let second: serde_json::Value = serde_json::from_slice(&manifests[1]).expect("json");
    assert_eq!(second["previous_manifest_sha256"], crate::types::Digest::of(&manifests[0]).to_string());
    assert_eq!(rig.shared.status().sinks[0].lag_records, 7, "the worker's loop tells");
    rig.shared.sinks[0].moved(rig.worker.position());
    assert_eq!(rig.shared.status().sinks[0].lag_records, 0);
}

#[test]
fn a_cut_is_answered() {
    let disk = FaultDisk::new();
    let mut rig = rig(&disk, Bson::WhereNeeded).expect("open");
    let mut nothing = rig.ask(None);
    rig.advance(1).expect("step");
    assert_eq!(nothing.try_recv(), Ok(WindowId(1)), "the first window, empty");
    let mut last = rig.ask(None);
    rig.advance(1).expect("step");
    assert_eq!(last.try_recv(), Ok(WindowId(1)), "nothing new");
    assert!(rig.append(batch(0, 2)));
    let mut labelled = rig.ask(Some("month-end"));
    let mut again = rig.ask(Some("audit"));
    assert!(rig.append(batch(2, 1)));
    rig.advance(1).expect("step");
    assert!(labelled.try_recv().is_err(), "not settled");
    rig.advance(600).expect("step");
    assert_eq!(labelled.try_recv(), Ok(WindowId(2)));
    assert_eq!(again.try_recv(), Ok(WindowId(3)), "empty, with its label");
    let window = rig.shared.windows.get(WindowId(2)).expect("read").expect("there");
    assert_eq!((window.label.as_deref(), window.last), (Some("month-end"), Lsn(2)), "what came later is not in it");
    assert!(rig.run_out());
    assert_eq!(exported(&disk).0, rig.lines(Bson::WhereNeeded));
}

#[test]
fn windows_wait_for_the_horizon_and_end_at_its_intervals_edges() {
    let disk = FaultDisk::new();
    let horizon = Horizon::closed("nobody proved anything");
    let clock = Clock::manual(1_764_015_525_123);
    let (log, _opened) = open_log(&disk, &clock, Durability::Always).expect("open");
    let log = Arc::new(log);
    let options = ExportOptions { horizon: Arc::clone(&horizon), ..options(Bson::WhereNeeded) };
    let assembled = assemble(options, Arc::clone(&log), Arc::new(disk.clone()), Arc::clone(&clock));
    let (shared, cutting, mut workers) = assembled.expect("assemble");
    let mut rig = Rig { log, shared, cutting, worker: workers.pop().expect("a worker"), now_ms: 0 };
    for n in 0..12 {
        assert!(rig.append(batch(n, 1)));
    }
    let mut asked = rig.ask(None);
    rig.advance(0).expect("step");
    rig.advance(20_000).expect("step");
    assert_eq!(rig.shared.windows.last(), WindowId::ZERO, "nothing is proved");
    clock.advance(7_000);
    assert_eq!(rig.shared.status().sinks[0].lag_ms, 7_000, "the lag moves");
    // 4..=9 hold lost changes, 10 says so: the window that is full at 4 goes on to 10.
    horizon.forbid(Lsn(3), Lsn(10));
    horizon.advance(Lsn(10));
    rig.advance(20).expect("step");
    assert_eq!(rig.shared.windows.last(), WindowId(1));
    let window = rig.shared.windows.get(WindowId(1)).expect("read").expect("there");
    assert_eq!((window.first, window.last), (Lsn(1), Lsn(10)));
    assert!(asked.try_recv().is_err(), "what was asked for is not proved");
    horizon.advance(Lsn(12));
    rig.advance(20).expect("step");
    assert_eq!(asked.try_recv(), Ok(WindowId(2)));
    assert!(rig.run_out());
    assert_eq!(exported(&disk).0, rig.lines(Bson::WhereNeeded));
}

#[test]
fn exporting_again_gives_the_same_bytes() {
    let disk = FaultDisk::new();
    let mut first = rig(&disk, Bson::Always).expect("open");
    assert!(first.append(batch(0, 5)) && first.append(batch(5, 5)));
    assert!(first.run_out());
    let once = exported(&disk);
    drop(first);
    let again = disk.kill();
    again.remove_dir_all(Path::new(EXPORT)).expect("remove");
    let mut missing = rig(&again, Bson::WhereNeeded).expect("open");
    assert!(matches!(missing.worker.step(0), Err(error) if error.class() == Class::Transient), "the folder vanished");
    drop(missing);
    again.remove_dir_all(Path::new("/data/checkpoints")).expect("remove");
    // Another setting now: old windows keep theirs.
    let mut second = rig(&again, Bson::WhereNeeded).expect("open");
    assert!(second.run_out());
    assert_eq!(exported(&again), once);
    // And over what is there.
    drop(second);
    let third = again.kill();
    third.remove_dir_all(Path::new("/data/checkpoints")).expect("remove");
    let mut rig = rig(&third, Bson::WhereNeeded).expect("open");
    assert!(rig.run_out());
    assert_eq!(exported(&third), once);
}

/// Some records, everything exported, some more; tells the manifests that were proved durable.
fn scenario(disk: &FaultDisk) -> (bool, Option<checkpoint::Checkpoint>) {
    let Some(mut rig) = rig(disk, Bson::WhereNeeded) else { return (false, None) };
    let all = rig.append(batch(0, 5)) && rig.run_out() && rig.append(batch(5, 6)) && rig.run_out();
    (all, rig.worker.position())
}

fn check_after(after: &FaultDisk, proved: Option<checkpoint::Checkpoint>, what: &str) {
    let before = exported(after);
    if let Some(at) = proved {
        let manifest = before.1.get(usize::try_from(at.window.0).expect("small") - 1);
        assert_eq!(manifest.map(|m| crate::types::Digest::of(m)), at.manifest, "{what}: a proved window is gone");
    }
    let mut rig = rig(after, Bson::WhereNeeded).unwrap_or_else(|| panic!("{what}: does not open"));
    let from = u32::try_from(rig.log.tail().0).expect("small") + 100;
    assert!(rig.append(batch(from, 2)) && rig.run_out(), "{what}: does not go on");
    let (lines, manifests) = exported(after);
    assert_eq!(lines, rig.lines(Bson::WhereNeeded), "{what}: lost or doubled");
    assert_eq!(manifests[..before.1.len()], before.1, "{what}: a window changed");
}

#[test]
fn a_cut_at_every_sync_neither_loses_nor_doubles() {
    for stop in 1.. {
        let disk = FaultDisk::new();
        disk.stop_at(stop);
        let (all, proved) = scenario(&disk);
        for seed in 0..6 {
            check_after(&disk.crash(seed), proved, &format!("stop {stop} seed {seed}"));
        }
        check_after(&disk.kill(), proved, &format!("kill {stop}"));
        if all {
            assert!(stop > 30, "the scenario has {stop} syncs only");
            return;
        }
    }
}

#[test]
fn a_failure_at_every_sync_neither_loses_nor_doubles() {
    for fail in 1.. {
        let disk = FaultDisk::new();
        disk.fail_at(fail);
        let (_, proved) = scenario(&disk);
        let injected = disk.syncs() >= fail;
        check_after(&disk.crash(0), proved, &format!("failed sync {fail}, then a power cut"));
        check_after(&disk.kill(), proved, &format!("failed sync {fail}, then a kill"));
        if !injected {
            return;
        }
    }
}

#[test]
fn a_window_holds_only_what_a_power_cut_leaves_in_the_log() {
    for durability in [Durability::Os, Durability::Interval(60_000), Durability::Always] {
        let disk = FaultDisk::new();
        let mut rig = rig_with(&disk, Bson::WhereNeeded, durability).expect("open");
        assert!(rig.append(batch(0, 5)) && rig.run_out());
        check_after(&disk.crash(0), rig.worker.position(), &format!("{durability:?}"));
    }
}

#[test]
fn a_log_shorter_than_its_windows_is_noticed() {
    let disk = FaultDisk::new();
    let mut first = rig(&disk, Bson::WhereNeeded).expect("open");
    assert!(first.append(batch(0, 3)) && first.run_out());
    drop(first);
    let lost = disk.kill();
    let segments = lost.list(Path::new("/data/log")).expect("list");
    let segment = segments.iter().find(|n| n.starts_with("seg-")).expect("a segment");
    let path = Path::new("/data/log").join(segment);
    let bytes = lost.read(&path).expect("read");
    lost.replace(&path, &bytes[..bytes.len() - 10]).expect("cut");
    let clock = Clock::manual(0);
    if let Some((log, _)) = open_log(&lost, &clock, Durability::Always) {
        let result = assemble(options(Bson::WhereNeeded), Arc::new(log), Arc::new(lost), clock);
        assert!(matches!(result, Err(ExportError::Shortened { .. })));
    }
}

/// A sink that keeps as little as it can.
fn frugal(disk: &FaultDisk) -> Option<Rig> {
    let mut options = options(Bson::WhereNeeded);
    options.sinks[0].config.keep_bytes = 1;
    rig_of(disk, options, Durability::Always)
}

/// The windows of the folder, by name.
fn there(disk: &FaultDisk) -> Vec<String> {
    let names = disk.list(Path::new(EXPORT)).unwrap_or_default();
    names.into_iter().filter(|name| name.starts_with("window-")).collect()
}

#[test]
fn a_window_goes_when_who_reads_it_is_done() {
    let disk = FaultDisk::new();
    let mut rig = frugal(&disk).expect("open");
    let reach = |_: &str| Some(consumers::Reach { first: WindowId(1), last: WindowId(2) });
    let wish = |done| consumers::Wish { mark: Some(consumers::Mark::Done(WindowId(done))), ..Default::default() };
    rig.shared
        .consumers
        .set("books", wish(0), |_| Some(consumers::Reach { first: WindowId(1), last: WindowId(0) }), 0)
        .expect("set");
    for n in 0..3 {
        assert!(rig.append(batch(n * 4, 4)));
    }
    assert!(rig.run_out());
    assert_eq!(there(&disk).len(), 3);
    let held = rig.shared.status().sinks[0].retained.held.clone().expect("held");
    assert_eq!((held.first, held.windows, held.too_large), (WindowId(1), 2, true));
    assert_eq!(held.by, [WindowHolder::Consumer { name: "books".into(), done: WindowId(0) }]);
    rig.shared.consumers.set("books", wish(1), reach, 0).expect("set");
    assert!(rig.run_out());
    assert_eq!(there(&disk), ["window-0000000002", "window-0000000003"]);
    rig.shared.consumers.forget("books").expect("forget");
    assert!(rig.run_out());
    assert_eq!(there(&disk), ["window-0000000003"]);
    let kept = rig.shared.status().sinks[0].retained.clone();
    assert_eq!((kept.first, kept.windows, kept.held), (WindowId(3), 1, None));
}

#[test]
fn retention_goes_on_after_a_cut_at_every_sync() {
    for stop in 1.. {
        let disk = FaultDisk::new();
        disk.stop_at(stop);
        let written = frugal(&disk).is_some_and(|mut rig| (0..3).all(|n| rig.append(batch(n * 4, 4)) && rig.run_out()));
        for seed in 0..4 {
            let what = format!("stop {stop} seed {seed}");
            let after = disk.crash(seed);
            let mut rig = frugal(&after).expect("opens after a crash");
            assert!(rig.append(batch(100, 4)) && rig.run_out(), "{what}");
            let last = rig.shared.windows.last().0;
            assert_eq!(there(&after), [format!("window-{last:010}")], "{what}");
            let (lines, _) = exported(&after);
            assert!(!lines.is_empty() && rig.lines(Bson::WhereNeeded).ends_with(&lines), "{what}");
        }
        if written {
            return;
        }
    }
}

/// Waits until the status is as wanted.
fn until(handle: &ExporterHandle, wanted: impl Fn(&SinkStatus) -> bool) -> SinkStatus {
    for _ in 0..1_000 {
        let status = handle.status().sinks.remove(0);
        if wanted(&status) {
            return status;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{:?}", handle.status());
}

#[test]
fn threads_deliver_and_tell() {
    let disk = FaultDisk::new();
    let clock = Clock::system();
    let (log, _) = open_log(&disk, &clock, Durability::Always).expect("open");
    let log = Arc::new(log);
    let mut options = options(Bson::WhereNeeded);
    (options.limits.settle_ms, options.retry_ms) = (10, (1, 5));
    let handle = Exporter::spawn(options, Arc::clone(&log), Arc::new(disk.clone()), clock).expect("spawn");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let append = |drafts| runtime.block_on(log.append(drafts).wait()).is_ok();
    assert!(append(vec![Draft { body: Body::Control(Control::Started { version: "1".into() }), continued: false }]));
    assert!(append(batch(0, 2)));
    let window = runtime.block_on(handle.cut(Some("here".into()))).expect("cut");
    runtime.block_on(handle.wait_exported(window)).expect("exported");
    assert_eq!((handle.exported(), handle.status().sinks[0].lag_ms), (Lsn(3), 0));
    assert_eq!(handle.windows(5).expect("windows").len(), 1);
    // The volume goes away: the sink says so and tries again; the lag grows though nothing comes; then it heals.
    let mark = Path::new(EXPORT).join("tidelog.json");
    let bytes = disk.read(&mark).expect("read");
    disk.remove(&mark).expect("remove");
    assert!(append(batch(2, 1)));
    let window = runtime.block_on(handle.cut(None)).expect("cut");
    let failing = until(&handle, |s| s.failures > 1 && s.lag_ms > 20);
    assert!(failing.error.contains("mounted") && !failing.stopped && failing.lag_records == 1, "{failing:?}");
    disk.replace(&mark, &bytes).expect("mount");
    runtime.block_on(handle.wait_exported(window)).expect("exported");
    assert_eq!(until(&handle, |s| s.failures == 0).error, "");
    // A stranger's window stands in the way: no second try.
    disk.create_dir_all(&Path::new(EXPORT).join("window-0000000003")).expect("folder");
    disk.replace(&Path::new(EXPORT).join("window-0000000003/manifest.json"), b"{}").expect("write");
    let window = runtime.block_on(handle.cut(Some("x".into()))).expect("cut");
    assert!(matches!(runtime.block_on(handle.wait_exported(window)), Err(ExportError::Stopped(_))));
    assert!(handle.status().sinks[0].stopped);
    handle.shutdown();
    assert!(matches!(runtime.block_on(handle.cut(None)), Err(ExportError::Stopped(_))));
}
