//! The machine stops, or a sync fails, at every sync of a scripted workload; then the log is opened again.

use super::support::{batch, open, put, read_all, small, wait};
use crate::changelog::{Changelog, Opened};
use crate::disk::FaultDisk;
use crate::types::{Body, Draft, Lsn};

const SEGMENT_BYTES: u64 = 1_500;
const SEEDS: u64 = 40;

/// What a script did: every body that was put in the queue, where batches end, and how many were acknowledged.
#[derive(Debug, Default)]
struct Story {
    queued: Vec<Body>,
    batch_ends: Vec<usize>,
    acked: usize,
}

impl Story {
    /// Appends batches of these sizes at once, then waits for all. False: the log is broken.
    fn append(&mut self, log: &Changelog, batches: &[usize]) -> bool {
        let mut tickets = Vec::new();
        for count in batches {
            let bodies: Vec<Body> = (0..*count).map(|i| small((self.queued.len() + i) as u64)).collect();
            self.queued.extend(bodies.iter().cloned());
            self.batch_ends.push(self.queued.len());
            let ticket = if *count > 6 {
                let drafts = bodies.into_iter().map(|body| Ok(Draft { body, continued: false }));
                log.append_stream(Box::new(drafts))
            } else {
                log.append(batch(bodies))
            };
            tickets.push((ticket, self.queued.len()));
        }
        tickets.into_iter().fold(true, |whole, (ticket, end)| match wait(ticket.wait()) {
            Ok(durable) => {
                assert!(whole, "an ack after a failure");
                assert_eq!(durable.last(), Lsn(end as u64));
                self.acked = end;
                whole
            }
            Err(_) => false,
        })
    }

    /// What was queued and is not in the log will never be.
    fn go_on_from(&mut self, tail: Lsn) {
        let tail = usize::try_from(tail.0).unwrap();
        self.queued.truncate(tail);
        self.batch_ends.retain(|end| *end <= tail);
    }

    /// Writes, rolls, retention, orderly close, reopening. Stops at the first error.
    fn run(disk: &FaultDisk) -> Self {
        let mut story = Self::default();
        let Ok((log, _)) = open(disk, SEGMENT_BYTES) else { return story };
        let _whole = story.append(&log, &[1])
            && story.append(&log, &[3, 1, 2])
            && story.append(&log, &[5])
            && story.append(&log, &[1, 1, 1, 4])
            && story.append(&log, &[9])
            && log.trim(Lsn(4)).is_ok()
            && story.append(&log, &[2, 2]);
        drop(log);
        let Ok((log, opened)) = open(disk, SEGMENT_BYTES) else { return story };
        story.check(&log, &opened, "reopened by the script");
        story.go_on_from(opened.tail);
        let _whole = story.append(&log, &[2]) && story.append(&log, &[12]) && log.trim(Lsn(20)).is_ok();
        story
    }

    /// No acked record lost, none that was never queued, a prefix, whole batches.
    fn check(&self, log: &Changelog, opened: &Opened, what: &str) {
        let tail = usize::try_from(opened.tail.0).unwrap();
        assert!(tail >= self.acked, "{what}: {} acked, {tail} left", self.acked);
        assert!(tail <= self.queued.len(), "{what}: a ghost");
        assert!(
            tail == 0 || self.batch_ends.contains(&tail),
            "{what}: half a batch at {tail}, ends {:?}",
            self.batch_ends
        );
        let records = read_all(log).unwrap_or_else(|e| panic!("{what}: {e}"));
        let first = usize::try_from(opened.first.0).unwrap();
        assert_eq!(records.len(), tail + 1 - first, "{what}");
        for (record, lsn) in records.iter().zip(first..) {
            assert_eq!(record.lsn, Lsn(lsn as u64), "{what}");
            assert_eq!(record.body, self.queued[lsn - 1], "{what}");
            assert_eq!(record.continued, !self.batch_ends.contains(&lsn), "{what}");
        }
    }

    /// Opens what is left, checks it, goes on writing, and checks that too after another power cut.
    fn survives_on(&self, disk: &FaultDisk, what: &str) {
        let (log, opened) = open(disk, SEGMENT_BYTES).unwrap_or_else(|e| panic!("{what}: {e}"));
        self.check(&log, &opened, what);
        let mut after = Self { queued: self.queued.clone(), batch_ends: self.batch_ends.clone(), acked: 0 };
        after.go_on_from(opened.tail);
        after.queued.push(small(1_000));
        after.acked = after.queued.len();
        after.batch_ends.push(after.acked);
        put(&log, vec![small(1_000)]).unwrap_or_else(|e| panic!("{what}: {e}"));
        let again = disk.crash(0);
        let (log, opened) = open(&again, SEGMENT_BYTES).unwrap_or_else(|e| panic!("{what}, again: {e}"));
        after.check(&log, &opened, what);
    }
}

fn syncs_of_the_script() -> u64 {
    let disk = FaultDisk::new();
    let story = Story::run(&disk);
    assert_eq!(story.acked, story.queued.len());
    disk.syncs()
}

#[test]
fn the_machine_stops_at_every_sync() {
    let all = syncs_of_the_script();
    assert!(all > 20, "{all}");
    for sync in 1..=all + 1 {
        let disk = FaultDisk::new();
        disk.stop_at(sync);
        let story = Story::run(&disk);
        for seed in 0..SEEDS {
            story.survives_on(&disk.crash(seed), &format!("sync {sync}, seed {seed}"));
        }
        story.survives_on(&disk.kill(), &format!("sync {sync}, killed"));
    }
}

#[test]
fn every_sync_fails_once() {
    for sync in 1..=syncs_of_the_script() {
        let disk = FaultDisk::new();
        disk.fail_at(sync);
        let story = Story::run(&disk);
        let what = format!("sync {sync} failed");
        for seed in 0..SEEDS {
            story.survives_on(&disk.crash(seed), &format!("{what}, seed {seed}"));
        }
        // The machine lives on: pages whose sync failed look clean and must be written again.
        story.survives_on(&disk.kill(), &what);
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1 << 20).unwrap();
    put(&log, vec![small(1)]).unwrap();
    disk.fail_at(disk.syncs() + 1);
    let error = put(&log, vec![small(2)]).unwrap_err();
    assert!(error.to_string().contains("Remedy: "), "{error}");
    assert_eq!(error.class(), "fatal");
    put(&log, vec![small(3)]).unwrap_err();
    log.writable().unwrap_err();
    log.nothing_to_log().unwrap_err();
    assert_eq!(log.tail(), Lsn(1));
    assert_eq!(read_all(&log).unwrap().len(), 1);
    log.close().unwrap_err();
}
