//! A log in good health.

use super::support::{DIR, bodies, open, options, put, read_all, segments, small, wait};
use crate::changelog::record::HeadBody;
use crate::changelog::{Changelog, Durability, LogError, LogOptions};
use crate::clock::Clock;
use crate::disk::{Disk, FaultDisk, OsDisk};
use crate::types::{Body, Committed, Epoch, Lsn, Record};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MANY: u64 = 1 << 20;

fn bodies_of(records: &[Record]) -> Vec<Body> {
    records.iter().map(|r| r.body.clone()).collect()
}

#[test]
fn records_come_back_after_reopening() {
    let disk = FaultDisk::new();
    let (log, opened) = open(&disk, MANY).unwrap();
    assert_eq!((opened.tail, opened.first, opened.epoch.0, opened.truncated), (Lsn::ZERO, Lsn(1), 1, None));
    assert_eq!(put(&log, bodies()).unwrap(), Lsn(17));
    assert_eq!(log.tail(), Lsn(17));
    let before = read_all(&log).unwrap();
    log.close().unwrap();
    let (log, again) = open(&disk, MANY).unwrap();
    assert_eq!((again.log_id, again.tail, again.epoch, again.clean), (opened.log_id, Lsn(17), opened.epoch, true));
    assert_eq!(read_all(&log).unwrap(), before);
    assert_eq!(bodies_of(&before), bodies());
    assert_eq!(before.iter().map(|r| r.lsn.0).collect::<Vec<_>>(), (1..=17).collect::<Vec<_>>());
    assert!(before.windows(2).all(|w| w[0].hlc < w[1].hlc));
    assert_eq!(before.iter().filter(|r| r.continued).count(), 16);
    put(&log, vec![small(1)]).unwrap();
    assert!(read_all(&log).unwrap().last().unwrap().hlc > before.last().unwrap().hlc);
}

#[test]
fn segments_roll_and_are_read_across() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1000).unwrap();
    for n in 0..40 {
        put(&log, vec![small(n)]).unwrap();
    }
    assert!(segments(&disk).len() > 4);
    let whole = read_all(&log).unwrap();
    assert_eq!(whole.len(), 40);
    for from in [1, 2, 17, 39, 40, 41] {
        let mut reader = log.reader(Lsn(from));
        let mut got = Vec::new();
        while let Some(record) = reader.next().unwrap() {
            got.push(record);
        }
        assert_eq!(got, whole[usize::try_from(from).unwrap() - 1..]);
    }
    drop(log);
    let (log, opened) = open(&disk, 1000).unwrap();
    assert_eq!(opened.tail, Lsn(40));
    assert_eq!(read_all(&log).unwrap(), whole);
}

#[test]
fn a_reader_follows_the_tail() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 600).unwrap();
    let mut reader = log.reader(Lsn(1));
    let mut tail = log.subscribe();
    assert_eq!(reader.next().unwrap(), None);
    for n in 1..30 {
        put(&log, vec![small(n)]).unwrap();
        assert_eq!(*tail.borrow_and_update(), Lsn(n));
        assert_eq!(reader.next().unwrap().map(|r| r.lsn), Some(Lsn(n)));
        assert_eq!(reader.next().unwrap(), None);
    }
}

#[test]
fn a_record_is_read_at_its_place() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 900).unwrap();
    for n in 0..30 {
        put(&log, vec![small(n), Body::Change(Box::new(super::support::change(n, 6000)))]).unwrap();
    }
    let mut reader = log.reader(Lsn(1));
    let mut heads = log.reader(Lsn(1));
    while let Some(Committed { record, offset }) = reader.next_committed().unwrap() {
        assert_eq!(log.read_at(record.lsn, offset).unwrap(), *record);
        let head = heads.next_head().unwrap().unwrap();
        assert_eq!((head.offset, head.head.stamp.lsn), (offset, record.lsn));
        let HeadBody::Change { image_bytes, .. } = head.head.body else { panic!() };
        assert!(image_bytes > 20 && head.bytes > image_bytes);
        assert!(matches!(
            log.read_at(record.lsn, offset + 1),
            Err(LogError::Damaged { .. } | LogError::NotThere { .. })
        ));
    }
    assert!(matches!(log.read_at(Lsn(61), 76), Err(LogError::NotThere { .. })));
    assert!(matches!(log.read_at(Lsn(2), 76), Err(LogError::NotThere { .. })));
}

#[test]
fn the_observer_comes_before_the_waiters_and_sees_all_in_order() {
    let disk = FaultDisk::new();
    let seen: Arc<Mutex<Vec<Committed>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let observer = Box::new(move |group: &[Committed]| sink.lock().extend_from_slice(group));
    let (log, _) =
        Changelog::open(Arc::new(disk), PathBuf::from(DIR), options(2000), Clock::manual(0), observer).unwrap();
    for n in 1..50 {
        put(&log, vec![small(n)]).unwrap();
        assert_eq!(seen.lock().last().unwrap().record.lsn, Lsn(n));
    }
    for committed in seen.lock().iter() {
        assert_eq!(log.read_at(committed.record.lsn, committed.offset).unwrap(), *committed.record);
    }
}

#[test]
fn retention_removes_whole_segments_and_never_the_last() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1000).unwrap();
    for n in 0..40 {
        put(&log, vec![small(n)]).unwrap();
    }
    let count = segments(&disk).len();
    assert_eq!(log.trim(Lsn::ZERO).unwrap(), Lsn(1));
    let first = log.trim(Lsn(20)).unwrap();
    assert!(first > Lsn(10) && first <= Lsn(21), "{first}");
    assert!(segments(&disk).len() < count);
    assert_eq!(log.first(), first);
    assert!(matches!(log.reader(Lsn(1)).next(), Err(LogError::Trimmed { first: f, .. }) if f == first));
    assert_eq!(log.reader(first).next().unwrap().unwrap().lsn, first);
    let last = log.trim(Lsn(u64::MAX)).unwrap();
    assert_eq!(segments(&disk).len(), 1);
    assert!(last <= Lsn(40));
    drop(log);
    let (log, opened) = open(&disk, 1000).unwrap();
    assert_eq!((opened.first, opened.tail), (last, Lsn(40)));
    assert_eq!(put(&log, vec![small(1)]).unwrap(), Lsn(41));
}

#[test]
fn extents_tell_what_each_segment_holds_and_when_it_ended() {
    let (disk, clock) = (FaultDisk::new(), Clock::manual(1_000));
    let reopen = || {
        let disk = Arc::new(disk.clone());
        Changelog::open(disk, PathBuf::from(DIR), options(1000), Arc::clone(&clock), Box::new(|_| {})).unwrap().0
    };
    let log = reopen();
    assert_eq!(log.extents().unwrap().closed, []);
    for n in 0..40 {
        clock.advance(10);
        put(&log, vec![small(n)]).unwrap();
    }
    let told = log.extents().unwrap();
    assert!(told.closed.len() > 3, "{told:?}");
    let mut next = Lsn(1);
    for extent in &told.closed {
        assert_eq!(extent.first, next);
        next = extent.last.next();
        let mut reader = log.reader(extent.last);
        let last = reader.next().unwrap().unwrap();
        assert!(extent.ended_ms >= last.wall_ms && extent.ended_ms < last.wall_ms + 20, "{extent:?} {}", last.wall_ms);
    }
    let bytes: Vec<u64> = segments(&disk).iter().map(|path| disk.read(path).unwrap().len() as u64).collect();
    let told_bytes: Vec<u64> = told.closed.iter().map(|e| e.bytes).chain([told.open_bytes]).collect();
    assert_eq!(told_bytes, bytes);
    drop(log);
    assert_eq!(reopen().extents().unwrap(), told, "a restart changes nothing");
}

#[test]
fn a_live_log_can_be_inspected() {
    let disk = FaultDisk::new();
    assert!(matches!(inspect(&disk), Err(LogError::Io { .. })), "no folder");
    let (log, opened) = open(&disk, 1000).unwrap();
    for n in 0..40 {
        put(&log, vec![small(n)]).unwrap();
    }
    let inspection = inspect(&disk).unwrap();
    assert_eq!((inspection.log_id, inspection.first, inspection.tail), (opened.log_id, Lsn(1), Lsn(40)));
    inspection.check().unwrap();
    let mut reader = inspection.reader(Lsn(33));
    assert_eq!(reader.next().unwrap(), log.reader(Lsn(33)).next().unwrap());
    // A writer in the middle of a record is no hindrance.
    disk.open_rw(segments(&disk).last().unwrap()).unwrap().append(&[1, 2, 3]).unwrap();
    let inspection = inspect(&disk).unwrap();
    assert_eq!(inspection.tail, Lsn(40));
    assert_eq!(inspection.torn.unwrap().bytes, 3);
}

fn inspect(disk: &FaultDisk) -> Result<crate::changelog::Inspection, LogError> {
    Changelog::inspect(Arc::new(disk.clone()), Path::new(DIR))
}

#[test]
fn an_empty_append_waits_for_what_came_before() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, MANY).unwrap();
    let nothing = wait(log.append(Vec::new()).wait()).unwrap();
    assert_eq!((nothing.first(), nothing.last()), (Lsn(1), Lsn::ZERO));
    let one = log.append(super::support::batch(vec![small(1), small(2)]));
    let barrier = wait(log.append(Vec::new()).wait()).unwrap();
    assert_eq!(barrier.last(), Lsn(2));
    assert_eq!(log.tail(), Lsn(2));
    assert_eq!(wait(one.wait()).unwrap().first(), Lsn(1));
    assert_eq!(log.nothing_to_log().unwrap().last(), Lsn(2));
}

#[test]
fn a_batch_never_reaches_over_its_append() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, MANY).unwrap();
    let open_end = vec![crate::types::Draft { body: small(1), continued: true }];
    let _durable = wait(log.append(open_end).wait()).unwrap();
    assert!(!read_all(&log).unwrap()[0].continued);
}

#[test]
fn intervals_and_the_system_acknowledge_after_the_write_and_raise_the_generation() {
    for durability in [Durability::Interval(5), Durability::Os] {
        let disk = FaultDisk::new();
        let options = LogOptions { durability, ..options(MANY) };
        let (log, _) = super::support::open_with(&disk, options).unwrap();
        put(&log, vec![small(1)]).unwrap();
        let _durable = wait(log.sync().wait()).unwrap();
        let cut = disk.crash(0);
        let (after, opened) = super::support::open_with(&cut, options).unwrap();
        assert_eq!((opened.tail, opened.epoch.0, opened.clean), (Lsn(1), 2, false), "{durability:?}");
        after.close().unwrap();
        let (_, opened) = super::support::open_with(&cut, options).unwrap();
        assert_eq!((opened.epoch.0, opened.clean), (2, true), "closed in order: stays");
    }
}

#[test]
fn an_interval_syncs_without_being_asked() {
    let disk = FaultDisk::new();
    let options = LogOptions { durability: Durability::Interval(1), ..options(MANY) };
    let (log, _) = super::support::open_with(&disk, options).unwrap();
    put(&log, vec![small(1)]).unwrap();
    let started = std::time::Instant::now();
    while open(&disk.crash(0), MANY).unwrap().1.tail == Lsn::ZERO {
        assert!(started.elapsed().as_secs() < 20, "never synced");
        std::thread::yield_now();
    }
}

#[test]
fn many_writers_get_their_own_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(64 << 10);
    let (log, _) =
        Changelog::open(Arc::new(OsDisk), dir.path().join("log"), options, Clock::system(), Box::new(|_| {})).unwrap();
    let log = &log;
    std::thread::scope(|scope| {
        for t in 0..8 {
            scope.spawn(move || {
                for n in 0..50 {
                    let durable = wait(log.append(super::support::batch(vec![small(t), small(n)])).wait()).unwrap();
                    assert_eq!(durable.last(), durable.first().next());
                    let record = log.reader(durable.first()).next().unwrap().unwrap();
                    assert_eq!((record.body, record.continued), (small(t), true));
                }
            });
        }
    });
    assert_eq!(log.tail(), Lsn(800));
    assert_eq!(read_all(log).unwrap().len(), 800);
}

#[test]
fn clocks_of_machines_that_are_set_back_do_not_take_the_log_back() {
    let mut disk = FaultDisk::new();
    let mut last = None;
    for (n, at) in [5_000_000_000_000, 1_000, -7, 4_999_999_999_999, 6_000_000_000_000, 0].into_iter().enumerate() {
        let clock = Clock::manual(at);
        let dir = PathBuf::from(DIR);
        let opened = Changelog::open(Arc::new(disk.clone()), dir, options(700), Arc::clone(&clock), Box::new(|_| {}));
        let (log, _) = opened.unwrap();
        for step in [0, -10_000, 20_000, -500] {
            clock.advance(step);
            put(&log, vec![small(1), small(2)]).unwrap();
        }
        let records = read_all(&log).unwrap();
        assert!(records.windows(2).all(|pair| pair[0].hlc < pair[1].hlc), "start {n}");
        assert!(records.last().map(|r| r.hlc) > last, "start {n}");
        last = records.last().map(|r| r.hlc);
        if n % 2 == 0 {
            log.close().unwrap();
        } else {
            disk = disk.kill();
        }
    }
}

#[test]
fn a_raised_epoch_is_durable_and_never_goes_down() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, MANY).unwrap();
    log.raise_epoch(Epoch(7)).unwrap();
    log.raise_epoch(Epoch(3)).unwrap();
    put(&log, vec![small(1)]).unwrap();
    let after = disk.crash(0);
    drop(log);
    let (log, opened) = open(&after, MANY).unwrap();
    assert_eq!(opened.epoch, Epoch(7));
    log.close().unwrap();
    let (_log, opened) = open(&after, MANY).unwrap();
    assert_eq!(opened.epoch, Epoch(7), "also after an end in order");
}
