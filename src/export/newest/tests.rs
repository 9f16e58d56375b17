//! Against a naive fold: applying only what is chosen, window by window, gives the state of the whole history; with as few
//! entries in memory as can be, and with all of them.

use super::*;
use crate::disk::FaultDisk;
use crate::types::{EntityKey, Epoch, Hlc, Image, Op, Seq};
use bson::rawdoc;
use bytes::Bytes;
use proptest::prelude::*;

type State = BTreeMap<Namespace, BTreeMap<EntityKey, Image>>;

fn ns(number: u8) -> Namespace {
    let (db, collection) = [("a", "x"), ("a", "y"), ("b", "x")][usize::from(number % 3)];
    Namespace::new(db, collection)
}

fn change(ns: Namespace, key: u8, after: Option<u64>) -> Body {
    let image = |n: u64| Image::new(Bytes::copy_from_slice(rawdoc! { "n": n.cast_signed() }.as_bytes()));
    Body::Change(Box::new(Change {
        after: after.map(image),
        ..Change::new(
            ns,
            bson::RawBson::Int32(i32::from(key)),
            EntityKey([key].as_slice().into()),
            (Epoch(1), Seq(1)),
            Op::Observed,
        )
    }))
}

/// What happens: its kind, a namespace, another, a key.
type Step = (u8, u8, u8, u8);

fn record(lsn: u64, (kind, one, other, key): Step) -> Record {
    let body = match kind {
        0 => Body::Control(Control::Drop { ns: ns(one) }),
        1 => Body::Control(Control::DropDatabase { db: ns(one).db().to_owned() }),
        2 | 3 if one % 3 != other % 3 => Body::Control(Control::Rename { from: ns(one), to: ns(other) }),
        4 => Body::Control(Control::Completed { ns: ns(one) }),
        5..=8 => change(ns(one), key, None),
        _ => change(ns(one), key, Some(lsn)),
    };
    Record { lsn: Lsn(lsn), hlc: Hlc(lsn), wall_ms: 0, continued: false, body }
}

fn apply(state: &mut State, record: &Record) {
    match &record.body {
        Body::Control(Control::Drop { ns }) => drop(state.remove(ns)),
        Body::Control(Control::DropDatabase { db }) => state.retain(|ns, _| ns.db() != db),
        Body::Control(Control::Rename { from, to }) => {
            let moved = state.remove(from).unwrap_or_default();
            state.insert(to.clone(), moved);
        }
        Body::Control(_) => {}
        Body::Change(change) => {
            let entities = state.entry(change.ns.clone()).or_default();
            match &change.after {
                Some(image) => drop(entities.insert(change.key.clone(), image.clone())),
                None => drop(entities.remove(&change.key)),
            }
        }
    }
}

fn full(state: &State) -> State {
    state.iter().filter(|(_, entities)| !entities.is_empty()).map(|(ns, e)| (ns.clone(), e.clone())).collect()
}

/// The records of a window that are chosen when `most` entries are held at once.
fn chosen(disk: &FaultDisk, records: &[Record], most: usize) -> Vec<Record> {
    let (first, last) = (records[0].lsn, records[records.len() - 1].lsn);
    let path = PathBuf::from("/data/tmp/latest-x");
    let mut newest = Newest::begin(Arc::new(disk.clone()), path.clone(), first, last).expect("begin");
    newest.most = most;
    for record in records {
        newest.add(record).expect("add");
        assert!(newest.entries.len() <= most, "memory is bounded");
    }
    let mut chosen = newest.settle().expect("settle");
    assert!(!disk.exists(&path).expect("exists"), "nothing is left behind");
    records.iter().filter(|record| chosen.takes(record)).cloned().collect()
}

fn changes(records: &[Record]) -> Vec<(&Change, u64)> {
    fn change(record: &Record) -> Option<&Change> {
        if let Body::Change(change) = &record.body { Some(change) } else { None }
    }
    records.iter().filter_map(|record| Some((change(record)?, record.lsn.0))).collect()
}

proptest! {
    #[test]
    fn the_chosen_alone_give_the_state(steps in prop::collection::vec((0u8..40, 0u8..3, 0u8..3, 0u8..6), 1..300), size in 1usize..120) {
        let records: Vec<_> = (1..).zip(steps).map(|(lsn, step)| record(lsn, step)).collect();
        let (mut whole, mut latest) = (State::new(), State::new());
        let disk = FaultDisk::new();
        for window in records.chunks(size) {
            let few = chosen(&disk, window, 2);
            prop_assert_eq!(&few, &chosen(&disk, window, 1 << 20), "however much is held");
            prop_assert!(few.is_sorted_by_key(|record| record.lsn));
            for record in window {
                apply(&mut whole, record);
            }
            for record in &few {
                apply(&mut latest, record);
            }
            prop_assert_eq!(full(&whole), full(&latest));
            least(window, &few)?;
        }
    }
}

/// Between two drops or renames that touch a namespace there is one change of an entity at most, and none before a drop.
fn least(window: &[Record], few: &[Record]) -> Result<(), TestCaseError> {
    let cut = |record: &Record, ns: &Namespace| match &record.body {
        Body::Control(Control::Drop { ns: gone }) => gone == ns,
        Body::Control(Control::DropDatabase { db }) => db == ns.db(),
        Body::Control(Control::Rename { from, to }) => from == ns || to == ns,
        _ => false,
    };
    let few = changes(few);
    for (change, lsn) in &few {
        let later = || window.iter().filter(|record| record.lsn.0 > *lsn);
        let end = later().find(|record| cut(record, &change.ns));
        let until = end.map_or(u64::MAX, |record| record.lsn.0);
        let again = changes(window)
            .into_iter()
            .any(|(c, l)| l > *lsn && l < until && (&c.ns, &c.key) == (&change.ns, &change.key));
        prop_assert!(!again, "lsn {} is not the last", lsn);
        let moved =
            |record: &Record| matches!(&record.body, Body::Control(Control::Rename { from, .. }) if *from == change.ns);
        prop_assert!(end.is_none_or(moved), "lsn {} was dropped", lsn);
    }
    Ok(())
}

#[test]
fn many_runs_are_merged() {
    let records: Vec<_> =
        (1..=20_000u64).map(|lsn| record(lsn, (20, 0, 0, u8::try_from(lsn * 7 % 250).expect("small")))).collect();
    let few = chosen(&FaultDisk::new(), &records, 300);
    assert_eq!(few.iter().map(|r| r.lsn.0).collect::<Vec<_>>(), (19_751..=20_000).collect::<Vec<_>>());
}

#[test]
fn a_scratch_file_of_a_killed_process_is_removed() {
    let disk = FaultDisk::new();
    disk.create_dir_all(Path::new("/data/tmp")).expect("folder");
    drop(disk.create_new(Path::new("/data/tmp/latest-x")).expect("file"));
    let records: Vec<_> = (1..=50).map(|lsn| record(lsn, (20, 0, 0, u8::try_from(lsn).expect("small")))).collect();
    assert_eq!(chosen(&disk, &records, 10).len(), 50);
}

#[test]
fn a_full_disk_is_told() {
    let disk = FaultDisk::new();
    disk.create_dir_all(Path::new("/data/tmp")).expect("folder");
    disk.set_capacity(0);
    let path = PathBuf::from("/data/tmp/latest-x");
    let mut newest = Newest::begin(Arc::new(disk), path, Lsn(1), Lsn(50)).expect("begin");
    newest.most = 10;
    let failed = (1..=50).any(|lsn| newest.add(&record(lsn, (20, 0, 0, u8::try_from(lsn).expect("small")))).is_err());
    assert!(failed);
}
