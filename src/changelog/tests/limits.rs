//! Full disks, full queues, large records, second owners.

use super::support::{DIR, batch, change, open, open_with, options, put, read_all, small, wait};
use crate::changelog::frame::MAX_PAYLOAD_BYTES;
use crate::changelog::{Changelog, LogError, LogOptions};
use crate::clock::Clock;
use crate::disk::{FaultDisk, OsDisk};
use crate::types::{Body, Change, Digest, Image, Lsn};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

#[test]
fn images_of_16_megabytes_on_both_sides() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1 << 20).unwrap();
    let image = |byte| Image::from_parts(Bytes::from(vec![byte; 16 << 20]), Digest([byte; 32]));
    let (before, after) = (image(1), image(2));
    let large = Change { before_sha: Some(before.sha()), before: Some(before), after: Some(after), ..change(1, 0) };
    let bodies = vec![small(1), Body::Change(Box::new(large)), small(2)];
    put(&log, bodies.clone()).unwrap();
    put(&log, vec![small(3)]).unwrap();
    drop(log);
    let (log, opened) = open(&disk.crash(0), 1 << 20).unwrap();
    assert_eq!(opened.tail, Lsn(4));
    let mut reader = log.reader(Lsn(1));
    let _first = reader.next_committed().unwrap().unwrap();
    let large = reader.next_committed().unwrap().unwrap();
    assert_eq!(large.record.body, bodies[1]);
    assert_eq!(log.read_at(Lsn(2), large.offset).unwrap(), *large.record);
    assert_eq!(reader.next().unwrap().unwrap().body, bodies[2]);
}

#[test]
fn a_record_over_the_limit_is_refused_alone() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1 << 20).unwrap();
    let large = Change {
        after: Some(Image::from_parts(Bytes::from(vec![0; MAX_PAYLOAD_BYTES]), Digest([0; 32]))),
        ..change(1, 0)
    };
    let refused = put(&log, vec![small(1), Body::Change(Box::new(large))]).unwrap_err();
    assert!(matches!(refused, LogError::TooLarge { .. }), "{refused}");
    assert_eq!(put(&log, vec![small(1)]).unwrap(), Lsn(1));
}

#[test]
fn a_nearly_full_disk_says_so_before_it_is_full() {
    let disk = FaultDisk::new();
    disk.set_capacity(100_000);
    let (log, _) = open_with(&disk, LogOptions { min_free_bytes: 50_000, ..options(1 << 20) }).unwrap();
    log.writable().unwrap();
    put(&log, vec![Body::Change(Box::new(change(1, 60_000)))]).unwrap();
    let started = Instant::now();
    let refused = loop {
        if let Err(refused) = log.writable() {
            break refused;
        }
        assert!(started.elapsed().as_secs() < 20, "never noticed");
        std::thread::yield_now();
    };
    assert!(matches!(refused, LogError::DiskFull { min_free_bytes: 50_000, .. }), "{refused}");
    assert_eq!(refused.class(), "retry");
    put(&log, vec![small(2)]).expect("what was forwarded before is still taken");
    disk.set_capacity(1_000_000);
    while log.writable().is_err() {
        assert!(started.elapsed().as_secs() < 40, "never recovered");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_disk_poisons_and_the_next_start_goes_on_after_the_last_good_record() {
    let disk = FaultDisk::new();
    disk.set_capacity(2_000);
    let (log, _) = open(&disk, 1 << 20).unwrap();
    let mut acked = 0;
    let error = loop {
        match put(&log, vec![small(acked)]) {
            Ok(_) => acked += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Poisoned { .. }) && acked > 2, "{error}");
    assert!(error.to_string().contains("full") || error.to_string().contains("space"), "{error}");
    assert!(matches!(put(&log, vec![small(99)]), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.writable(), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.nothing_to_log(), Err(LogError::Poisoned { .. })));
    assert!(matches!(wait(log.reserve(1)), Err(LogError::Poisoned { .. })));
    assert_eq!(read_all(&log).unwrap().len() as u64, acked, "what was durable can still be read");
    assert!(matches!(log.close(), Err(LogError::Poisoned { .. })));
    drop(log);
    disk.set_capacity(1 << 20);
    let (log, opened) = open(&disk, 1 << 20).unwrap();
    assert_eq!(opened.tail.0, acked);
    assert!(opened.truncated.is_some() && !opened.clean);
    assert_eq!(put(&log, vec![small(100)]).unwrap().0, acked + 1);
}

#[test]
fn room_in_the_queue_is_given_in_turn() {
    let disk = FaultDisk::new();
    let (log, _) = open_with(&disk, LogOptions { queue_bytes: 64 << 10, ..options(1 << 20) }).unwrap();
    wait(async {
        let first = log.reserve(40 << 10).await.unwrap();
        let second = log.reserve(u64::MAX);
        tokio::pin!(second);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), &mut second).await.is_err());
        drop(first);
        let _all = second.await.expect("more than the queue counts as the whole queue");
    });
}

#[test]
fn one_owner_at_a_time_in_one_process() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1 << 20).unwrap();
    let second = open(&disk, 1 << 20).unwrap_err();
    assert!(matches!(second, LogError::Locked { .. }), "{second}");
    drop(log);
    open(&disk, 1 << 20).unwrap();
}

const CHILD_DIR: &str = "TIDELOG_TEST_CHILD_DIR";

fn open_real(dir: &Path) -> Result<Changelog, LogError> {
    let opened = Changelog::open(Arc::new(OsDisk), dir.to_owned(), options(1 << 20), Clock::system(), Box::new(|_| {}));
    opened.map(|(log, _)| log)
}

/// Runs itself as a second process that tries to open the log.
#[test]
fn one_owner_at_a_time_among_processes() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let refused = open_real(&PathBuf::from(dir)).unwrap_err();
        assert!(matches!(refused, LogError::Locked { .. }), "{refused}");
        assert!(refused.to_string().contains("held by another process (pid "), "{refused}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = open_real(dir.path()).unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "changelog::tests::limits::one_owner_at_a_time_among_processes", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
    drop(log);
    open_real(dir.path()).unwrap();
}

#[test]
fn a_closed_log_takes_nothing() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1 << 20).unwrap();
    let under_way = log.append(batch(vec![small(1)]));
    log.close().unwrap();
    assert_eq!(wait(under_way.wait()).unwrap().last(), Lsn(1));
    assert!(matches!(put(&log, vec![small(2)]), Err(LogError::Closed)));
    assert!(matches!(log.writable(), Err(LogError::Closed)));
    assert_eq!(read_all(&log).unwrap().len(), 1, "{DIR}");
    log.close().unwrap();
}

#[test]
fn a_panicking_observer_poisons() {
    let disk = FaultDisk::new();
    let observer = Box::new(|_: &[crate::types::Committed]| panic!("on purpose"));
    let (log, _) =
        Changelog::open(Arc::new(disk), PathBuf::from(DIR), options(1 << 20), Clock::manual(0), observer).unwrap();
    assert!(matches!(put(&log, vec![small(1)]), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.writable(), Err(LogError::Poisoned { .. })));
}
