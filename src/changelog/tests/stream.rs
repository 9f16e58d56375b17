//! Batches that are read while they are written.

use super::support::{DIR, batch, open, options, put, read_all, small, wait};
use crate::changelog::{Changelog, LogError, Source};
use crate::clock::Clock;
use crate::disk::FaultDisk;
use crate::types::{Body, Draft, Lsn};
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

fn source(bodies: Vec<Body>) -> Source {
    Box::new(bodies.into_iter().map(|body| Ok(Draft { body, continued: false })))
}

fn bodies(range: std::ops::Range<u64>) -> Vec<Body> {
    range.map(small).collect()
}

#[test]
fn a_streamed_batch_stands_as_any_other_and_the_observer_sees_all_of_it() {
    let disk = FaultDisk::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let observer = Box::new(move |group: &[crate::types::Committed]| {
        told.lock().extend(group.iter().map(|c| (c.record.lsn.0, c.offset)));
    });
    let (log, _) =
        Changelog::open(Arc::new(disk.clone()), PathBuf::from(DIR), options(3_000), Clock::manual(1), observer)
            .unwrap();
    let tickets = [
        log.append(batch(bodies(0..3))),
        log.append_stream(source(bodies(3..503))),
        log.append_stream(source(Vec::new())),
        log.append(batch(bodies(503..505))),
    ];
    let last: Vec<u64> = tickets.into_iter().map(|t| wait(t.wait()).unwrap().last().0).collect();
    assert_eq!(last, [3, 503, 503, 505]);
    let records = read_all(&log).unwrap();
    assert_eq!(records.iter().map(|r| r.body.clone()).collect::<Vec<_>>(), bodies(0..505));
    let ends: Vec<u64> = records.iter().filter(|r| !r.continued).map(|r| r.lsn.0).collect();
    assert_eq!(ends, [3, 503, 505]);
    let seen = seen.lock().clone();
    assert_eq!(seen.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(), (1..=505).collect::<Vec<_>>());
    for (lsn, offset) in seen {
        assert_eq!(log.read_at(Lsn(lsn), offset).unwrap().lsn, Lsn(lsn), "its place is told");
    }
    drop(log);
    let (log, opened) = open(&disk, 3_000).unwrap();
    assert_eq!((opened.tail, opened.truncated), (Lsn(505), None));
    assert_eq!(read_all(&log).unwrap(), records);
}

#[test]
fn a_source_that_fails_leaves_nothing_and_the_log_goes_on() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1 << 20).unwrap();
    put(&log, bodies(0..2)).unwrap();
    let mut left = bodies(2..60_000).into_iter();
    let failing: Source = Box::new(std::iter::from_fn(move || match left.next() {
        Some(body) if left.len() > 10 => Some(Ok(Draft { body, continued: false })),
        _ => Some(Err(io::Error::other("gone"))),
    }));
    let failed = wait(log.append_stream(failing).wait()).unwrap_err();
    assert!(matches!(failed, LogError::Io { .. }), "{failed}");
    assert_eq!(log.tail(), Lsn(2));
    assert_eq!(put(&log, bodies(2..5)).unwrap(), Lsn(5));
    let records = read_all(&log).unwrap();
    assert_eq!(records.iter().map(|r| r.body.clone()).collect::<Vec<_>>(), bodies(0..5));
    drop(log);
    let (log, opened) = open(&disk, 1 << 20).unwrap();
    assert_eq!((opened.tail, opened.truncated), (Lsn(5), None));
    assert_eq!(read_all(&log).unwrap(), records);
}
