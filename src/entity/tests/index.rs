//! The index against its model: live, staged, replayed, rebuilt, after a crash.

use super::super::IndexError;
use super::super::index::{Entry, Index, IndexOptions};
use super::super::indexer::Indexer;
use super::support::{Deed, LOG, Model, any_deed, dump, key, ns, open};
use crate::types::{Body, Digest, Epoch, LogId, Lsn, Seq};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

const E1: Epoch = Epoch(1);

fn write(ns: usize, key: u8, to: impl Into<Option<u8>>) -> Deed {
    Deed::Write { ns, key, to: to.into() }
}

fn model_of(deeds: &[Deed]) -> Model {
    let mut model = Model::default();
    for deed in deeds {
        model.record(deed, E1);
    }
    model
}

/// Copies what the system has of the folder: what a killed process leaves behind.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if let Err(e) = std::fs::copy(entry.path(), to) {
            assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{e}"); // The engine's workers clean up.
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Live in groups, with a kill somewhere, replayed; and rebuilt in other groups: all say what the model says.
    #[test]
    fn live_killed_replayed_and_rebuilt_are_the_model(
        deeds in prop::collection::vec((any_deed(), 0_u8..40), 1..120),
        cut in any::<prop::sample::Index>(), group in 1_usize..9,
    ) {
        let mut model = Model::default();
        let mut epoch = E1;
        for (deed, luck) in &deeds {
            if *luck == 0 {
                epoch = Epoch(epoch.0 + 1);
            }
            model.record(deed, epoch);
        }
        prop_assume!(!model.log.is_empty());
        let tail = Lsn(u64::try_from(model.log.len()).unwrap());
        let dir = tempfile::tempdir().unwrap();

        let live = open(&dir.path().join("live"), tail);
        let cut = cut.index(model.log.len());
        model.log[..cut].chunks(group).for_each(|g| live.apply(g).unwrap());
        copy(&dir.path().join("live"), &dir.path().join("killed"));
        model.log[cut..].chunks(group).for_each(|g| live.apply(g).unwrap());
        model.check(&live);

        let killed = open(&dir.path().join("killed"), tail);
        prop_assert!(killed.applied().0 <= u64::try_from(cut).unwrap());
        killed.apply(&model.log).unwrap(); // From the start: what is applied is skipped.
        model.check(&killed);
        prop_assert_eq!(dump(&killed), dump(&live));

        let rebuilt = open(&dir.path().join("rebuilt"), tail);
        rebuilt.apply(&model.log).unwrap();
        prop_assert_eq!(dump(&rebuilt), dump(&live));
        let all = dump(&live);
        drop(live);
        prop_assert_eq!(dump(&open(&dir.path().join("live"), tail)), all);
    }
}

#[test]
fn a_rename_cut_in_the_middle_is_done_again() {
    // Rows under the new name are there, the lsn is not: what a kill between the two leaves.
    let dir = tempfile::tempdir().unwrap();
    let model =
        model_of(&[write(0, 1, 1), write(0, 2, 2), write(1, 2, 3), write(1, 3, 3), Deed::Rename { from: 0, to: 1 }]);
    let index = open(dir.path(), Lsn(5));
    index.apply(&model.log[..4]).unwrap();
    index.move_entities(&ns("a.x"), &ns("a.y"), Lsn(5)).unwrap();
    assert_eq!(index.applied(), Lsn(4));
    drop(index);
    let index = open(dir.path(), Lsn(5));
    index.apply(&model.log[4..]).unwrap();
    model.check(&index);
}

#[test]
fn a_big_rename_goes_in_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    for n in 0..6 {
        model.record(&write(0, n, 1), E1);
    }
    let index = open(dir.path(), Lsn(1_000_000));
    index.apply(&model.log).unwrap();
    // Many more entities than the model's keys, straight into the log.
    let mut lsn = Lsn(6);
    for chunk in 0..10_u32 {
        let group: Vec<_> = (0..1000_u32)
            .map(|n| {
                lsn = lsn.next();
                let mut record = (*model.log[0].record).clone();
                record.lsn = lsn;
                if let Body::Change(change) = &mut record.body {
                    change.key = crate::types::EntityKey(Arc::from((chunk * 1000 + n).to_le_bytes()));
                }
                crate::types::Committed { record: Arc::new(record), offset: 0 }
            })
            .collect();
        index.apply(&group).unwrap();
    }
    let mut rename = (*model.record(&Deed::Rename { from: 0, to: 2 }, E1).unwrap().record).clone();
    rename.lsn = lsn.next();
    index.apply(&[crate::types::Committed { record: Arc::new(rename), offset: 0 }]).unwrap();
    let alive = |name| index.scan(&ns(name), None, usize::MAX).unwrap().iter().filter(|(_, e)| e.alive).count();
    assert_eq!((alive("a.x"), alive("b.x")), (0, 10_006));
    assert_eq!(index.state().namespaces[&ns("b.x")].alive, 10_006);
}

#[test]
fn a_staged_entry_is_seen_until_its_record_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), Lsn(9));
    let model = model_of(&[write(0, 1, 1), write(0, 1, 2)]);
    let (name, k) = (ns("a.x"), key(1));
    let sha = |n: usize| match &model.log[n].record.body {
        Body::Change(change) => change.after.as_ref().unwrap().sha(),
        Body::Control(_) => unreachable!(),
    };
    assert_eq!(index.get(&name, &k).unwrap(), None);
    assert_eq!(Entry::next(None, E1), (E1, Seq(1)));
    let first = Entry::staged(E1, Seq(1), Some(sha(0)));
    index.stage(&name, &k, first);
    assert_eq!(index.get(&name, &k).unwrap(), Some(first));
    assert_eq!(Entry::next(Some(&first), E1), (E1, Seq(2)));
    let second = Entry::staged(E1, Seq(2), Some(sha(1)));
    index.stage(&name, &k, second);
    index.apply(&model.log[..1]).unwrap();
    assert_eq!(
        (index.get(&name, &k).unwrap(), index.staged()),
        (Some(second), 1),
        "the first record does not bring the past back"
    );
    index.apply(&model.log[1..]).unwrap();
    let applied = index.get(&name, &k).unwrap().unwrap();
    assert_eq!((applied.seq, applied.lsn, applied.offset, index.staged()), (Seq(2), Lsn(2), 200, 0));
    model.check(&index);
}

#[test]
fn numbers_go_on_after_death_and_begin_anew_in_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), Lsn(9));
    let model = model_of(&[write(0, 1, 1), write(0, 1, 2), Deed::Drop { ns: 0 }]);
    index.apply(&model.log).unwrap();
    let entry = index.get(&ns("a.x"), &key(1)).unwrap().unwrap();
    assert_eq!((entry.alive, entry.sha, entry.seq), (false, Digest([0; 32]), Seq(2)));
    assert_eq!(Entry::next(Some(&entry), E1), (E1, Seq(3)));
    assert_eq!(Entry::next(Some(&entry), Epoch(2)), (Epoch(2), Seq(1)));
    assert!(index.known(&ns("a.x")).unwrap().complete);
}

#[test]
fn another_log_or_one_that_is_behind_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let model = model_of(&[write(0, 1, 1), write(0, 2, 2)]);
    open(dir.path(), Lsn(2)).apply(&model.log).unwrap();
    assert_eq!(open(dir.path(), Lsn(2)).applied(), Lsn(2));
    assert_eq!(open(dir.path(), Lsn(1)).applied(), Lsn(0), "ahead of the log");
    open(dir.path(), Lsn(2)).apply(&model.log).unwrap();
    let other = Index::open(dir.path(), LogId([8; 16]), Lsn(2), &IndexOptions::default()).unwrap();
    assert_eq!((other.applied(), other.get(&ns("a.x"), &key(1)).unwrap()), (Lsn(0), None));
}

#[test]
fn a_damaged_index_is_rebuilt_and_a_second_owner_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = model_of(&[write(0, 1, 1), write(0, 2, 2)]);
    let index = open(dir.path(), Lsn(2));
    index.apply(&model.log).unwrap();
    let second = Index::open(dir.path(), LOG, Lsn(2), &IndexOptions::default());
    assert!(matches!(second, Err(IndexError::Locked { .. })), "{second:?}");
    index.rows.put_meta("gnonsense", b"x").unwrap();
    drop(index);
    let index = open(dir.path(), Lsn(2));
    assert_eq!(index.applied(), Lsn(0));
    index.apply(&model.log).unwrap();
    model.check(&index);
}

#[test]
fn a_hole_stops_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let model = model_of(&[write(0, 1, 1), write(0, 2, 2), write(0, 3, 3)]);
    let index = open(dir.path(), Lsn(3));
    index.apply(&model.log[..1]).unwrap();
    let hole = index.apply(&model.log[2..]);
    assert!(matches!(hole, Err(IndexError::OutOfOrder { expected: Lsn(2), got: Lsn(3) })));
    assert!(matches!(index.get(&ns("a.x"), &key(1)), Err(IndexError::Stopped { .. })));
    assert!(matches!(index.apply(&model.log[1..]), Err(IndexError::Stopped { .. })));
}

#[tokio::test]
async fn the_indexer_applies_and_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let deeds: Vec<_> = (0..200_u8).map(|n| write(usize::from(n % 4), n % 6, n / 6 % 4)).collect();
    let model = model_of(&deeds);
    let tail = model.log.last().unwrap().record.lsn;
    let index = Arc::new(open(dir.path(), tail));
    let mut observer = Indexer::spawn(Arc::clone(&index)).unwrap();
    index.stage(&ns("a.x"), &key(0), Entry::staged(E1, Seq(1), None));
    let settled = tokio::spawn({
        let index = Arc::clone(&index);
        async move { index.settled(&ns("a.x"), &key(0)).await.unwrap().unwrap() }
    });
    let log = model.log.clone();
    std::thread::spawn(move || log.chunks(3).for_each(&mut observer));
    index.wait_applied(tail).await.unwrap();
    assert_ne!(settled.await.unwrap().lsn, Lsn::ZERO);
    model.check(&index);
}

#[tokio::test]
async fn who_waits_for_a_stopped_index_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let index = Arc::new(open(dir.path(), Lsn(9)));
    index.stage(&ns("a.x"), &key(1), Entry::staged(E1, Seq(1), None));
    let waits = tokio::spawn({
        let index = Arc::clone(&index);
        async move { (index.wait_applied(Lsn(3)).await, index.settled(&ns("a.x"), &key(1)).await) }
    });
    tokio::task::yield_now().await;
    let model = model_of(&[write(0, 1, 1), write(0, 2, 2)]);
    index.apply(&model.log[1..]).unwrap_err();
    let (wait, settled) = waits.await.unwrap();
    assert!(matches!((wait, settled), (Err(IndexError::Stopped { .. }), Err(IndexError::Stopped { .. }))));
}

#[test]
fn a_scan_shows_what_is_staged_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), Lsn(9));
    let model = model_of(&[write(0, 1, 1), write(0, 3, 1), write(0, 5, 1), write(1, 2, 1), write(3, 2, 1)]);
    index.apply(&model.log).unwrap();
    let name = ns("a.x");
    let staged = |seq| Entry::staged(E1, Seq(seq), Some(Digest([9; 32])));
    index.stage(&name, &key(0), staged(1));
    index.stage(&name, &key(3), staged(2));
    index.stage(&name, &key(4), staged(1));
    index.stage(&name, &key(6), staged(1));
    index.stage(&ns("a.y"), &key(4), staged(1));
    let all = index.scan(&name, None, 100).unwrap();
    let seen: Vec<_> = all.iter().map(|(k, e)| (k.as_bytes()[1], e.seq.0, e.lsn == Lsn::ZERO)).collect();
    assert_eq!(seen, [(0, 1, true), (1, 1, false), (3, 2, true), (4, 1, true), (5, 1, false), (6, 1, true)]);
    for limit in 1..8 {
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = index.scan(&name, after.as_ref(), limit).unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            paged.extend(page);
        }
        assert_eq!(paged, all, "in pages of {limit}");
    }
}
