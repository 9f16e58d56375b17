//! The whole of it over a disk that is cut at every sync and fails at every sync: whatever happens to the index, it can be made
//! again as the fold of all records, also of those that are gone.

use super::*;
use crate::changelog::{Durability, LogOptions, Opened};
use crate::config::DataDir;
use crate::disk::{Disk, FaultDisk};
use crate::entity::{Basis, Entry, IndexOptions};
use crate::types::{
    Body, Change, Committed, Control, Digest, Draft, EntityKey, Epoch, Image, LogState, Namespace, Op, Record, Seq,
    WindowId,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const DATA: &str = "/data";
const SEGMENT_BYTES: u64 = 1_200;
const SEEDS: u64 = 6;

/// Everything that was ever put in the queue, and how much of it was acknowledged.
#[derive(Clone, Default)]
struct Story {
    queued: Vec<Body>,
    acked: usize,
}

/// A log, its index, and the retention over both. The index lies in a folder that goes with it: each rig begins without one.
struct Rig {
    log: Arc<Changelog>,
    index: Arc<Index>,
    retention: Retention,
    seen: Arc<Mutex<Vec<Committed>>>,
    opened: Opened,
    _folder: TempDir,
}

fn rig(disk: &FaultDisk) -> Result<Rig, Box<dyn std::error::Error>> {
    let options = LogOptions {
        segment_bytes: SEGMENT_BYTES,
        durability: Durability::Always,
        queue_bytes: 1 << 20,
        min_free_bytes: 0,
    };
    let (clock, data, seen) = (Clock::manual(1_000), DataDir::new(Path::new(DATA)), Arc::new(Mutex::new(Vec::new())));
    let observer = {
        let seen = Arc::clone(&seen);
        Box::new(move |group: &[Committed]| seen.lock().extend_from_slice(group))
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (log, opened) = Changelog::open(Arc::clone(&disk), data.log(), options, Arc::clone(&clock), observer)?;
    let snapshots = Snapshots::new(Arc::clone(&disk), data.index_snapshots());
    let basis = Basis { log: opened.log_id, first: opened.first, tail: opened.tail, snapshots: Some(&snapshots) };
    // Its syncs prove nothing here: where there is memory for it, they cost nothing either.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_none| tempfile::tempdir())?;
    let index = Index::open_over(folder.path(), &basis, &IndexOptions { cache_bytes: 1 << 20 })?;
    super::super::storage::replay(&log, &index, opened.tail)?;
    let (log, index) = (Arc::new(log), Arc::new(index));
    let config = RetentionConfig { log_max_bytes: 1, ..RetentionConfig::default() };
    let storage =
        Storage { disk, clock, log: Arc::clone(&log), index: Arc::clone(&index), opened: opened.clone(), data };
    let retention = Retention::new(&config, &storage);
    Ok(Rig { log, index, retention, seen, opened, _folder: folder })
}

impl Rig {
    /// The last record of the `n`th closed segment.
    fn end_of(&self, n: usize) -> u64 {
        self.log.extents().unwrap().closed[n].last.0
    }

    /// Lets go all before `needs`.
    fn let_go(&self, needs: u64) -> Told {
        self.retention.turn(&[holder("sink x", needs)], &|| false);
        self.retention.told()
    }
}

fn holder(who: &str, needs: u64) -> Holder {
    Holder { who: who.to_owned(), needs: Lsn(needs), window: WindowId(7) }
}

/// The `n`th change: of one of six entities, a deletion now and then; and once in a while a dropped collection.
fn body(n: usize, before: &[Body]) -> Body {
    let name = |n: usize| Namespace::new("shop", if n.is_multiple_of(2) { "orders" } else { "items" });
    if n % 17 == 16 {
        return Body::Control(Control::Drop { ns: name(n / 17) });
    }
    let (ns, key) = (name(n), EntityKey(Arc::from([12, u8::try_from(n % 6).unwrap()])));
    let alive = fold(before).remove(&(ns.clone(), key.clone()));
    let seq = Seq(alive.map_or(1, |entry| entry.seq.0 + 1));
    let image = |n: usize| Image::new(bson::rawdoc! { "_id": 1, "n": i64::try_from(n).unwrap() }.into_bytes().into());
    let after = (n % 5 != 4).then(|| image(n));
    let before_sha = alive.filter(|entry| entry.alive).map(|entry| entry.sha);
    Body::Change(Box::new(Change {
        before_sha,
        after,
        ..Change::new(ns, bson::RawBson::Int32(1), key, (Epoch(1), seq), Op::Update)
    }))
}

type Entities = BTreeMap<(Namespace, EntityKey), Entry>;

/// What an index says of these records, by the plainest means; without offsets.
fn fold(bodies: &[Body]) -> Entities {
    let mut out = Entities::new();
    for (body, lsn) in bodies.iter().zip(1..) {
        match body {
            Body::Change(change) => {
                let sha = change.after.as_ref().map(Image::sha);
                let entry = Entry { lsn: Lsn(lsn), ..Entry::staged(change.epoch, change.seq, sha) };
                out.insert((change.ns.clone(), change.key.clone()), entry);
            }
            Body::Control(Control::Drop { ns }) => {
                for (_, entry) in out.iter_mut().filter(|((at, _), _)| at == ns) {
                    (entry.alive, entry.sha) = (false, Digest([0; 32]));
                }
            }
            Body::Control(_) => {}
        }
    }
    out
}

fn state(bodies: &[Body]) -> LogState {
    let mut state = LogState::default();
    for (body, lsn) in bodies.iter().zip(1..) {
        let hlc = crate::types::Hlc(0);
        state.apply(&Record { lsn: Lsn(lsn), hlc, wall_ms: 0, continued: false, body: body.clone() });
    }
    state
}

impl Story {
    /// Appends so many records and brings the index up to them. `false`: the log is broken.
    fn append(&mut self, rig: &Rig, count: usize) -> bool {
        let mut drafts = Vec::new();
        for _ in 0..count {
            let body = body(self.queued.len(), &self.queued);
            self.queued.push(body.clone());
            drafts.push(Draft { body, continued: false });
        }
        // A group is never cut by a new segment: several groups, several segments.
        for group in drafts.chunks(4) {
            if rig.log.append(group.to_vec()).wait_blocking().is_err() {
                return false;
            }
        }
        self.acked = self.queued.len();
        let seen = rig.seen.lock().clone();
        rig.index.apply(&seen).is_ok()
    }

    /// Writes, lets go, writes, lets go again. Stops at the first error.
    fn run(disk: &FaultDisk) -> Self {
        let mut story = Self::default();
        let Ok(rig) = rig(disk) else { return story };
        for (count, needs) in [(9, 1), (9, 8), (4, 17), (12, 30), (3, 30), (8, u64::MAX)] {
            if !story.append(&rig, count) {
                break;
            }
            rig.let_go(needs);
        }
        story
    }

    /// Opens what is left, without an index: it is the fold of all records up to the log's end.
    fn check(&mut self, disk: &FaultDisk, what: &str) -> Rig {
        let rig = rig(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        let tail = usize::try_from(rig.opened.tail.0).unwrap();
        assert!(tail >= self.acked && tail <= self.queued.len(), "{what}: {} acked, {tail} left", self.acked);
        self.queued.truncate(tail);
        self.check_index(&rig, what);
        rig
    }

    fn check_index(&self, rig: &Rig, what: &str) {
        let mut entities = Entities::new();
        rig.index
            .scan_all(|ns, key, entry| {
                if entry.alive && entry.lsn >= rig.log.first() {
                    let record = rig.log.read_at(entry.lsn, entry.offset).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(record.body, self.queued[usize::try_from(entry.lsn.0).unwrap() - 1], "{what}");
                }
                entities.insert((ns, key), Entry { offset: 0, ..entry });
            })
            .unwrap();
        assert_eq!(entities, fold(&self.queued), "{what}");
        assert_eq!(rig.index.snapshot(), (Lsn(self.queued.len() as u64), state(&self.queued)), "{what}");
    }

    /// As [`check`](Self::check), then goes on: numbers follow each other, more goes, and a power cut later it is the same.
    fn survives_on(&self, disk: &FaultDisk, what: &str) {
        let mut story = self.clone();
        let rig = story.check(disk, what);
        story.acked = story.queued.len();
        assert!(story.append(&rig, 7), "{what}");
        let told = rig.let_go(u64::MAX);
        assert_eq!(told.error, "", "{what}");
        drop(rig);
        story.check(&disk.crash(0), &format!("{what}, and again"));
    }
}

fn syncs_of_the_script() -> u64 {
    let disk = FaultDisk::new();
    let mut story = Story::run(&disk);
    assert_eq!(story.acked, 45);
    let first = story.check(&disk.crash(0), "the script").log.first();
    assert!(first > Lsn(30), "{first}");
    disk.syncs()
}

#[test]
fn the_machine_stops_at_every_sync_and_the_index_is_gone() {
    let all = syncs_of_the_script();
    assert!(all > 40, "{all}");
    for sync in 1..=all {
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
        story.survives_on(&disk.crash(0), &format!("sync {sync} failed"));
        story.survives_on(&disk.kill(), &format!("sync {sync} failed, killed"));
    }
}

#[test]
fn who_holds_is_told_with_what_to_do_and_nothing_of_it_goes() {
    let disk = FaultDisk::new();
    let (rig, mut story) = (rig(&disk).unwrap(), Story::default());
    assert!(story.append(&rig, 30));
    let told = rig.let_go(1);
    assert_eq!((rig.log.first(), told.over, told.error.as_str()), (Lsn(1), true, ""));
    assert!(told.held_bytes > 0);
    let text = told.warning().unwrap();
    assert!(text.contains("sink x") && text.contains("window 7") && text.contains("dlq drop"), "{text}");
    let copies = disk.list(&PathBuf::from(DATA).join("index-snapshot"));
    assert!(copies.is_err(), "nothing goes, so nothing was copied: {copies:?}");
    let (one, two) = (rig.end_of(0), rig.end_of(1));
    let told = rig.let_go(two);
    assert_eq!((rig.log.first(), told.over), (Lsn(one + 1), true));
    rig.retention.turn(&[holder("sink y", 31), holder("dead letters of sink x", two)], &|| false);
    let told = rig.retention.told();
    assert_eq!(told.holders.len(), 1, "the other one holds nothing that should go: {told:?}");
    assert_eq!(rig.log.first(), Lsn(one + 1));
    let told = rig.let_go(31);
    assert_eq!((told.held_bytes, told.warning()), (0, None));
    story.check_index(&rig, "what is there goes on");
}

#[test]
fn one_copy_serves_until_the_log_has_moved_past_it() {
    let disk = FaultDisk::new();
    let (rig, mut story) = (rig(&disk).unwrap(), Story::default());
    let copies = || disk.list(&PathBuf::from(DATA).join("index-snapshot")).unwrap();
    assert!(story.append(&rig, 30));
    let (one, two) = (rig.end_of(0), rig.end_of(1));
    rig.let_go(one + 1);
    assert_eq!(copies(), ["00000000000000000030.tds"]);
    assert!(story.append(&rig, 5));
    rig.let_go(two + 1);
    assert_eq!((copies(), rig.log.first()), (vec!["00000000000000000030.tds".to_owned()], Lsn(two + 1)));
    assert!(story.append(&rig, 20));
    rig.let_go(u64::MAX);
    assert_eq!(copies(), ["00000000000000000055.tds"]);
    // Somebody takes it away: before anything more goes there is another.
    disk.remove(&PathBuf::from(DATA).join("index-snapshot/00000000000000000055.tds")).unwrap();
    assert!(story.append(&rig, 15));
    let first = rig.log.first();
    rig.let_go(rig.end_of(0) + 1);
    assert!(rig.log.first() > first);
    assert_eq!(copies(), ["00000000000000000070.tds"]);
    drop(rig);
    story.check(&disk.crash(0), "taken away");
}

#[test]
fn a_copy_that_went_bad_is_not_trusted_by_the_next_process() {
    let disk = FaultDisk::new();
    let mut story = Story::default();
    let first = {
        let rig = rig(&disk).unwrap();
        assert!(story.append(&rig, 30));
        rig.let_go(rig.end_of(0) + 1);
        rig.log.first()
    };
    let path = PathBuf::from(DATA).join("index-snapshot/00000000000000000030.tds");
    let good = disk.read(&path).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 4;
    disk.replace(&path, &bad).unwrap();
    let text = match rig(&disk) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("without an index and without a copy it began anew, from record {first}"),
    };
    assert!(text.contains("cannot be made again") && text.contains("checksum"), "{text}");
    // With its index it could go on; it makes a new copy before it lets go more. Here: the good one is put back first.
    disk.replace(&path, &good).unwrap();
    let rig = story.check(&disk, "put back");
    disk.replace(&path, &bad).unwrap();
    assert!(story.append(&rig, 3));
    assert_eq!(rig.let_go(rig.end_of(0) + 1).error, "");
    assert!(rig.log.first() > first);
    drop(rig);
    story.check(&disk.crash(0), "made anew");
}

#[test]
fn without_room_for_a_copy_nothing_goes() {
    let disk = FaultDisk::new();
    let (rig, mut story) = (rig(&disk).unwrap(), Story::default());
    assert!(story.append(&rig, 30));
    disk.set_capacity(0);
    let told = rig.let_go(u64::MAX);
    assert_eq!(rig.log.first(), Lsn(1));
    assert!(told.warning().unwrap().contains("nothing of the changelog can be let go"), "{told:?}");
    disk.set_capacity(1 << 40);
    assert_eq!(rig.let_go(u64::MAX).error, "");
    assert!(rig.log.first() > Lsn(1));
}
