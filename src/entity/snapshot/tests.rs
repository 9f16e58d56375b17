//! Written, read back, loaded: the same index; cut or damaged: refused, and nothing is thrown away for it.

use super::super::index::{Index, IndexOptions};
use super::super::open::Basis;
use super::super::tests::support::{Deed, LOG, Model, any_deed, dump, key, ns, open};
use super::super::{IndexError, SnapshotError, Snapshots};
use crate::disk::{Disk, FaultDisk};
use crate::types::{Epoch, LogId, Lsn};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIR: &str = "/data/index-snapshot";

/// For indexes, whose syncs prove nothing here: where there is memory for it, they cost nothing either.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_none| tempfile::tempdir()).unwrap()
}

fn snapshots(disk: &FaultDisk) -> Snapshots {
    Snapshots::new(Arc::new(disk.clone()), PathBuf::from(DIR))
}

fn take(snapshots: &Snapshots, index: &Index) -> Lsn {
    let view = index.view().unwrap();
    let whole = snapshots.write(&view, LOG, &|| false).unwrap().unwrap();
    assert_eq!(snapshots.check(LOG, view.lsn()).unwrap(), whole);
    whole.lsn
}

fn over(dir: &Path, snapshots: &Snapshots, first: u64, tail: u64) -> Result<Index, IndexError> {
    let basis = Basis { log: LOG, first: Lsn(first), tail: Lsn(tail), snapshots: Some(snapshots) };
    Index::open_over(dir, &basis, &IndexOptions { cache_bytes: 1 << 20 })
}

fn write(ns: usize, key: u8, to: u8) -> Deed {
    Deed::Write { ns, key, to: Some(to) }
}

fn model_of(deeds: &[Deed]) -> Model {
    let mut model = Model::default();
    for deed in deeds {
        model.record(deed, Epoch(1));
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Taken somewhere while records go on, loaded into nothing, the records after it replayed: the index, row by row.
    #[test]
    fn loaded_and_replayed_is_the_index(
        deeds in prop::collection::vec(any_deed(), 1..120), cut in any::<prop::sample::Index>(), group in 1_usize..9,
    ) {
        let model = model_of(&deeds);
        prop_assume!(!model.log.is_empty());
        let tail = u64::try_from(model.log.len()).unwrap();
        let (dir, disk) = (folder(), FaultDisk::new());
        let copies = snapshots(&disk);
        let live = open(&dir.path().join("live"), Lsn(tail));
        let cut = cut.index(model.log.len() + 1);
        model.log[..cut].chunks(group).for_each(|g| live.apply(g).unwrap());
        let at_cut = dump(&live);
        let view = live.view().unwrap();
        model.log[cut..].chunks(group).for_each(|g| live.apply(g).unwrap());
        // What came after the view was asked for is not in it.
        copies.write(&view, LOG, &|| false).unwrap().unwrap();
        drop(view);
        if cut == 0 {
            return Ok(()); // Nothing was applied: such an index has no record to stand at.
        }
        let first = u64::try_from(cut).unwrap() + 1;
        let loaded = over(&dir.path().join("loaded"), &copies, first, tail).unwrap();
        prop_assert_eq!(dump(&loaded), at_cut);
        prop_assert_eq!(loaded.node(), None);
        loaded.apply(&model.log[cut..]).unwrap();
        model.check(&loaded);
        prop_assert_eq!(dump(&loaded), dump(&live));
        let all = dump(&loaded);
        drop(loaded);
        prop_assert_eq!(dump(&over(&dir.path().join("loaded"), &copies, first, tail).unwrap()), all);
    }
}

#[test]
fn an_index_behind_the_log_is_made_from_the_snapshot() {
    let (dir, disk) = (folder(), FaultDisk::new());
    let model = model_of(&[write(0, 1, 1), write(0, 2, 2), Deed::Drop { ns: 0 }, write(1, 3, 3), write(0, 1, 3)]);
    let copies = snapshots(&disk);
    let ahead = open(&dir.path().join("ahead"), Lsn(5));
    ahead.apply(&model.log[..4]).unwrap();
    assert_eq!(take(&copies, &ahead), Lsn(4));
    let behind = dir.path().join("behind");
    let index = open(&behind, Lsn(5));
    index.apply(&model.log[..2]).unwrap();
    drop(index);
    // With the record after it still in the log it goes on where it was.
    assert_eq!(over(&behind, &copies, 3, 5).unwrap().applied(), Lsn(2));
    let index = over(&behind, &copies, 4, 5).unwrap();
    assert_eq!(index.applied(), Lsn(4));
    index.apply(&model.log[4..]).unwrap();
    model.check(&index);
}

#[test]
fn without_a_whole_snapshot_a_trimmed_log_has_no_index_and_nothing_is_thrown_away() {
    let (dir, disk) = (folder(), FaultDisk::new());
    let model = model_of(&[write(0, 1, 1), write(0, 2, 2), write(0, 1, 3)]);
    let copies = snapshots(&disk);
    let told = |result: Result<Index, IndexError>| match result {
        Err(error @ IndexError::Lost { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let text = told(over(&dir.path().join("none"), &copies, 3, 3));
    assert!(text.contains("starts at record 3") && text.contains("there is none") && text.contains(DIR), "{text}");
    assert!(text.contains("Remedy: restore"), "{text}");
    let index = open(&dir.path().join("index"), Lsn(3));
    index.apply(&model.log).unwrap();
    let lsn = take(&copies, &index);
    let name = disk.list(Path::new(DIR)).unwrap().remove(0);
    assert_eq!((lsn, name.as_str()), (Lsn(3), "00000000000000000003.tds"));
    drop(index);
    // Of an index that is foreign to the log, with a damaged snapshot, the folder stays as it is.
    let path = Path::new(DIR).join(name);
    let bytes = disk.read(&path).unwrap();
    let mut damaged = bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    disk.replace(&path, &damaged).unwrap();
    let other = Basis { log: LogId([8; 16]), first: Lsn(3), tail: Lsn(3), snapshots: Some(&copies) };
    told(Index::open_over(&dir.path().join("index"), &other, &IndexOptions::default()));
    assert_eq!(over(&dir.path().join("index"), &copies, 3, 3).unwrap().applied(), Lsn(3));
    let text = told(over(&dir.path().join("none"), &copies, 3, 3));
    assert!(text.contains("checksum"), "{text}");
    // One that stands after the log's end (another copy of the log) or before its beginning does not do.
    disk.replace(&path, &bytes).unwrap();
    assert!(told(over(&dir.path().join("none"), &copies, 2, 2)).contains("one stands at record 3"));
    assert!(told(over(&dir.path().join("none"), &copies, 5, 9)).contains("one stands at record 3"));
    assert_eq!(over(&dir.path().join("none"), &copies, 3, 3).unwrap().applied(), Lsn(3));
    // A log that is whole needs none.
    disk.replace(&path, &damaged).unwrap();
    assert_eq!(over(&dir.path().join("whole"), &copies, 1, 3).unwrap().applied(), Lsn(0));
}

#[test]
fn every_flipped_bit_and_every_cut_is_told() {
    let (dir, disk) = (folder(), FaultDisk::new());
    let copies = snapshots(&disk);
    let index = open(dir.path(), Lsn(9));
    index.apply(&model_of(&[write(0, 1, 1), write(2, 2, 2), Deed::OpenGap { id: 1, ns: 0 }]).log).unwrap();
    let lsn = take(&copies, &index);
    let path = Path::new(DIR).join(format!("{:020}.tds", lsn.0));
    let good = disk.read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        disk.replace(&path, &bad).unwrap();
        copies.check(LOG, lsn).unwrap_err();
        disk.replace(&path, &good[..at]).unwrap();
        copies.check(LOG, lsn).unwrap_err();
    }
    disk.replace(&path, &[good.as_slice(), b"x"].concat()).unwrap();
    copies.check(LOG, lsn).unwrap_err();
    disk.replace(&path, &good).unwrap();
    copies.check(LOG, lsn).unwrap();
    let foreign = copies.check(LogId([9; 16]), lsn);
    assert!(matches!(foreign, Err(SnapshotError::Foreign { .. })), "{foreign:?}");
    disk.rename(&path, &Path::new(DIR).join(format!("{:020}.tds", 8))).unwrap();
    let misnamed = copies.check(LOG, Lsn(8));
    assert!(matches!(misnamed, Err(SnapshotError::Misnamed { found: Lsn(3), .. })), "{misnamed:?}");
}

#[test]
fn blocks_that_are_doubled_swapped_or_missing_are_told() {
    let (dir, disk) = (folder(), FaultDisk::new());
    let copies = snapshots(&disk);
    let index = many(dir.path(), 6_000);
    let lsn = take(&copies, &index);
    let path = Path::new(DIR).join(format!("{:020}.tds", lsn.0));
    let good = disk.read(&path).unwrap();
    let mut starts: Vec<usize> = (44..good.len()).filter(|at| good[*at..].starts_with(b"TDSB")).collect();
    starts.push(good.len() - 28);
    assert!(starts.len() >= 4, "{starts:?}");
    let block = |n: usize| &good[starts[n]..starts[n + 1]];
    let (head, one, two, rest) = (&good[..starts[1]], block(1), block(2), &good[starts[3]..]);
    for bad in [vec![head, one, one, two, rest], vec![head, two, one, rest], vec![head, two, rest]] {
        disk.replace(&path, &bad.concat()).unwrap();
        copies.check(LOG, lsn).unwrap_err();
    }
}

/// An index with so many entities, more than a block or a batch holds.
fn many(dir: &Path, entities: u32) -> Index {
    let index = open(dir, Lsn(1_000_000));
    let model = model_of(&[write(0, 1, 1)]);
    let group: Vec<_> = (0..entities)
        .map(|n| {
            let mut record = (*model.log[0].record).clone();
            record.lsn = Lsn(u64::from(n) + 1);
            if let crate::types::Body::Change(change) = &mut record.body {
                change.key = crate::types::EntityKey(Arc::from(n.to_le_bytes()));
            }
            crate::types::Committed { record: Arc::new(record), offset: 7 }
        })
        .collect();
    index.apply(&group).unwrap();
    index
}

#[test]
fn a_load_that_is_cut_begins_anew() {
    let (dir, disk) = (folder(), FaultDisk::new());
    let copies = snapshots(&disk);
    let index = many(&dir.path().join("a"), 9_000);
    let lsn = take(&copies, &index);
    let cut = dir.path().join("b");
    let half = open(&cut, lsn);
    half.rows.put_meta("loading", b"").unwrap();
    half.rows.put_meta("applied", &lsn.0.to_le_bytes()).unwrap();
    drop(half);
    let loaded = over(&cut, &copies, lsn.0, lsn.0).unwrap();
    assert_eq!(dump(&loaded), dump(&index));
    assert_eq!(loaded.get(&ns("a.x"), &key(9)).unwrap(), None);
}

#[test]
fn told_to_stop_or_without_room_it_leaves_nothing_and_keeps_the_one_before() {
    let (dir, disk) = (folder(), FaultDisk::new());
    let copies = snapshots(&disk);
    let index = many(dir.path(), 9_000);
    let view = index.view().unwrap();
    assert_eq!(copies.write(&view, LOG, &|| true).unwrap(), None);
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), Vec::<String>::new());
    let lsn = take(&copies, &index);
    index.apply(&[crate::types::Committed { offset: 1, record: Arc::new(next_record(lsn)) }]).unwrap();
    disk.set_capacity(copies.size(lsn).unwrap().unwrap() + 1_000);
    copies.write(&index.view().unwrap(), LOG, &|| false).unwrap_err();
    assert_eq!(copies.list().unwrap(), [lsn]);
    assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 1);
    copies.check(LOG, lsn).unwrap();
    disk.set_capacity(1 << 40);
    let newer = take(&copies, &index);
    assert_eq!(copies.list().unwrap(), [newer, lsn]);
    copies.keep(newer).unwrap();
    assert_eq!(copies.list().unwrap(), [newer]);
    assert_eq!(copies.size(lsn).unwrap(), None);
}

fn next_record(lsn: Lsn) -> crate::types::Record {
    let mut record = (*model_of(&[write(1, 1, 1)]).log[0].record).clone();
    record.lsn = lsn.next();
    record
}

#[test]
fn the_machine_stops_at_every_sync_of_a_snapshot() {
    let (dir, script) = (folder(), FaultDisk::new());
    let index = many(dir.path(), 100);
    let old = take(&snapshots(&script), &index);
    index.apply(&[crate::types::Committed { offset: 1, record: Arc::new(next_record(old)) }]).unwrap();
    let attempt = |disk: &FaultDisk| {
        let copies = snapshots(disk);
        let new = copies.write(&index.view().unwrap(), LOG, &|| false)?.unwrap().lsn;
        copies.check(LOG, new)?;
        copies.keep(new)
    };
    let whole = script.kill();
    attempt(&whole).unwrap();
    let all = whole.syncs();
    assert!(all >= 3, "{all}");
    for sync in 1..=all {
        let disk = script.kill();
        disk.stop_at(sync);
        attempt(&disk).unwrap_err();
        for seed in 0..40 {
            let left = snapshots(&disk.crash(seed));
            let whole: Vec<_> = left.list().unwrap().into_iter().filter(|l| left.check(LOG, *l).is_ok()).collect();
            assert!(!whole.is_empty(), "sync {sync}, seed {seed}");
            assert!(whole.contains(&old) || whole == [old.next()], "sync {sync}, seed {seed}: {whole:?}");
            attempt(&disk.crash(seed)).unwrap();
        }
    }
}
