//! Who holds the log, and how sinks begin on a log that was trimmed.

use super::super::handle::{ExportOptions, assemble};
use super::super::tests::{batch, insert};
use super::super::worker::Progress;
use super::super::{ExportError, SinkOptions};
use super::*;
use crate::changelog::{Changelog, LogOptions};
use crate::clock::Clock;
use crate::config::{SinkConfig, Start};
use crate::disk::{Disk, FaultDisk};
use crate::types::Draft;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

struct Rig {
    log: Arc<Changelog>,
    shared: Arc<Shared>,
    cutting: super::super::cut::Cutting,
    workers: Vec<super::super::worker::Worker>,
    now_ms: u64,
}

fn sink(name: &'static str, start: Start, max_record_bytes: u64) -> SinkOptions {
    let dir = PathBuf::from(format!("/export/{name}"));
    SinkOptions { name, config: SinkConfig { start, max_record_bytes, dir, ..SinkConfig::default() } }
}

fn rig(disk: &FaultDisk, sinks: Vec<SinkOptions>) -> Result<Rig, ExportError> {
    let (clock, options) = (Clock::manual(1_000), LogOptions { segment_bytes: 1_500, ..LogOptions::default() });
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (log, _) =
        Changelog::open(Arc::clone(&disk), "/data/log".into(), options, Arc::clone(&clock), Box::new(|_| {}))?;
    let log = Arc::new(log);
    let mut options = ExportOptions::folder(PathBuf::from("/data"), PathBuf::from("/export/x"));
    options.sinks = sinks;
    options.limits.max_records = 4;
    let (shared, cutting, workers) = assemble(options, Arc::clone(&log), disk, clock)?;
    Ok(Rig { log, shared, cutting, workers, now_ms: 0 })
}

impl Rig {
    /// Appends so many records; windows of four close over them.
    fn write(&mut self, from: u32, count: u32) {
        for n in from..from + count {
            let _durable = self.log.append(batch(n, 1)).wait_blocking().unwrap();
        }
        self.close();
    }

    fn close(&mut self) {
        for _ in 0..3 {
            self.now_ms += 6_000;
            self.cutting.step(self.now_ms).unwrap();
        }
    }

    /// The worker delivers so many windows, as its thread would.
    fn deliver(&mut self, seat: usize, windows: u64) {
        let mut delivered = 0;
        while delivered < windows {
            match self.workers[seat].step(0).unwrap() {
                Progress::Delivered => delivered += 1,
                Progress::Again => {}
                other => panic!("{other:?}"),
            }
            self.shared.sinks[seat].moved(self.workers[seat].position());
        }
    }

    fn holders(&self) -> Vec<(String, u64, u64)> {
        self.shared.holders().into_iter().map(|h| (h.who, h.needs.0, h.window.0)).collect()
    }
}

fn held(who: &str, needs: u64, window: u64) -> (String, u64, u64) {
    (who.to_owned(), needs, window)
}

#[test]
fn sinks_dead_letters_and_the_open_window_hold_what_they_need() {
    let disk = FaultDisk::new();
    let small = sink("small", Start::Oldest, 90);
    let mut rig = rig(&disk, vec![sink("all", Start::Oldest, 0), small]).unwrap();
    assert_eq!(rig.holders(), [held("sink all", 1, 1), held("sink small", 1, 1), held("the open window", 1, 1)]);
    rig.write(1, 5);
    let large = bson::rawdoc! { "_id": 6, "text": "x".repeat(100) };
    let mut body = insert(6);
    if let crate::types::Body::Change(change) = &mut body {
        change.after = Some(crate::types::Image::new(large.into_bytes().into()));
    }
    let _durable = rig.log.append(vec![Draft { body, continued: false }]).wait_blocking().unwrap();
    rig.write(7, 6);
    assert_eq!(rig.shared.windows.last(), WindowId(4), "1 to 4, 5, 6 to 9, 10 to 12");
    rig.deliver(0, 3);
    assert_eq!(rig.holders(), [held("sink small", 1, 1), held("sink all", 10, 4), held("the open window", 13, 5)]);
    rig.deliver(1, 4);
    let letters = held("dead letters of sink small", 6, 3);
    assert_eq!(
        rig.holders(),
        [letters.clone(), held("sink all", 10, 4), held("sink small", 13, 5), held("the open window", 13, 5)]
    );
    // Asked for again it is still needed; dropped it is not.
    rig.shared.sinks[1].letters.lock().retry(&BTreeSet::new()).unwrap();
    assert_eq!(rig.holders()[0], letters);
    while rig.workers[1].step(0).unwrap() != Progress::Nothing {}
    assert_eq!(rig.holders()[0], letters, "refused again");
    rig.shared.sinks[1].letters.lock().drop_letters(&BTreeSet::new()).unwrap();
    assert_eq!(rig.holders()[0], held("sink all", 10, 4));
}

#[test]
fn a_new_sink_begins_with_the_oldest_window_that_is_whole() {
    let disk = FaultDisk::new();
    {
        let mut rig = rig(&disk, vec![sink("one", Start::Oldest, 0), sink("away", Start::Oldest, 0)]).unwrap();
        rig.write(1, 40);
        rig.deliver(0, 10);
        rig.deliver(1, 1);
        // `away` is not in the settings for a while.
        rig.log.trim(Lsn(19)).unwrap();
    }
    let (first, oldest) = {
        let rig = rig(&disk, vec![sink("one", Start::Oldest, 0), sink("two", Start::Oldest, 0)]).unwrap();
        let first = rig.log.first().0;
        assert!(first > 5 && first <= 20, "{first}");
        let oldest = (first + 2) / 4 + 1;
        let from = (oldest - 1) * 4 + 1;
        assert!(from >= first && from < first + 4);
        assert_eq!(rig.holders()[0], held("sink two", from, oldest));
        (first, oldest)
    };
    let mut again = rig(&disk, vec![sink("two", Start::Oldest, 0)]).unwrap();
    again.deliver(0, 11 - oldest);
    assert_eq!(again.workers[0].step(0).unwrap(), Progress::Nothing);
    let windows = disk.list(&PathBuf::from("/export/two")).unwrap();
    assert_eq!(windows.iter().filter(|n| n.starts_with("window-")).count() as u64, 11 - oldest);
    drop(again);
    // One that is to begin too early or too late is stopped alone; each look tells why, until it can begin.
    let mut three = rig(&disk, vec![sink("three", Start::Window(oldest - 1), 0)]).unwrap();
    let text = three.workers[0].step(0).unwrap_err().to_string();
    assert!(text.contains("sink three") && text.contains(&format!("start = {oldest}")), "{text}");
    drop(three);
    rig(&disk, vec![sink("three", Start::Window(oldest), 0)]).map(|_| ()).unwrap();
    // One that comes back and is too late is stopped alone, and told why; it holds what is left until it is taken out.
    let mut late = rig(&disk, vec![sink("one", Start::Oldest, 0), sink("away", Start::Oldest, 0)]).unwrap();
    let error = late.workers[1].step(0).unwrap_err();
    assert!(matches!(error, ExportError::Missing { window: WindowId(2), .. }), "{error}");
    assert_eq!(error.class(), crate::sink::Class::Permanent);
    assert!(error.to_string().contains("Remedy: "), "{error}");
    assert_eq!(late.holders()[0], held("sink away", 5, 2));
    assert!(first > 5);
    drop(late);
    // A ledger from before the log begins.
    disk.remove(&PathBuf::from("/data/windows/ledger.tdw")).unwrap();
    let behind = rig(&disk, Vec::new()).map(|_| ()).unwrap_err();
    assert!(matches!(behind, ExportError::Behind { closed: Lsn(0), first: f } if f.0 == first), "{behind}");
}

#[test]
fn a_sink_that_begins_later_is_stopped_alone_and_holds_nothing() {
    let disk = FaultDisk::new();
    let mut one = rig(&disk, vec![sink("one", Start::Oldest, 0)]).unwrap();
    one.write(1, 40);
    one.deliver(0, 10);
    drop(one);
    let mut four = rig(&disk, vec![sink("four", Start::Window(13), 0)]).unwrap();
    for _ in 0..2 {
        let error = four.workers[0].step(0).unwrap_err();
        assert!(matches!(error, ExportError::Start { first: WindowId(13), closed: WindowId(10), .. }), "{error}");
        assert_eq!(error.class(), crate::sink::Class::Permanent);
    }
    // What it does not have yet is in no window that is closed: it holds no more than the open window does.
    assert_eq!(four.holders()[0].1, four.holders().last().unwrap().1);
    drop(four);
}
