//! Reopen gives the same; torn ends are cut, damage is named; a crash at every sync keeps what was acknowledged.

use super::*;
use crate::disk::FaultDisk;
use crate::format::jsonl::Bson;
use crate::types::{Gap, Hlc, Namespace, NamespaceState};
use proptest::prelude::*;

const LOG: LogId = LogId([7; 16]);

fn dir() -> &'static Path {
    Path::new("/data/windows")
}

fn window(id: u64) -> Window {
    let (first, last) = (Lsn(id * 10 - 9), Lsn(id * 10));
    let clocks = Clocks { first_hlc: Hlc(first.0), last_hlc: Hlc(last.0), first_wall_ms: -1, last_wall_ms: 5 };
    let state = NamespaceState { alive: id, sum: [3; 32], complete: id.is_multiple_of(2) };
    Window {
        id: WindowId(id),
        cause: Cause::Cut,
        label: id.is_multiple_of(2).then(|| "month-end".to_owned()),
        bson: Bson::Always,
        first,
        last,
        log_bytes: 17,
        closed_ms: 9,
        clocks: Some(clocks),
        changed: vec![(Namespace::new("db", &format!("c{}", id % 3)), state)],
        gaps: vec![Gap {
            id: 1,
            ns: Namespace::from_full("db.*"),
            cause: "out".into(),
            detail: String::new(),
            since: Lsn(2),
            since_ms: 3,
        }],
    }
}

fn open(disk: &FaultDisk) -> Result<Ledger, LedgerError> {
    Ledger::open(disk, dir(), LOG)
}

fn filled(count: u64) -> FaultDisk {
    let disk = FaultDisk::new();
    let mut ledger = open(&disk).expect("open");
    for id in 1..=count {
        ledger.append(window(id)).expect("append");
    }
    disk
}

#[test]
fn reopen_gives_the_same() {
    let disk = filled(5);
    let ledger = open(&disk).expect("open");
    assert_eq!(ledger.last(), Some(&window(5)));
    assert_eq!(ledger.state().namespaces.len(), 3);
    assert_eq!(ledger.state().namespaces[&Namespace::new("db", "c2")].alive, 5);
    for id in 1..=5 {
        assert_eq!(ledger.windows().get(WindowId(id)).expect("read"), Some(window(id)));
    }
    assert_eq!(ledger.windows().get(WindowId(6)).expect("read"), None);
    assert_eq!(ledger.windows().get(WindowId::ZERO).expect("read"), None);
}

#[test]
fn windows_follow_each_other() {
    let mut ledger = open(&filled(1)).expect("open");
    for wrong in [window(1), window(3), Window { first: Lsn(12), ..window(2) }, Window { last: Lsn(3), ..window(2) }] {
        assert!(matches!(ledger.append(wrong), Err(LedgerError::Order { .. })));
    }
    let empty = Window { last: Lsn(10), clocks: None, ..window(2) };
    assert_eq!(empty.records(), 0);
    ledger.append(empty).expect("an empty window follows");
}

#[test]
fn a_torn_end_is_cut_and_damage_is_named() {
    let disk = filled(3);
    let path = dir().join("ledger.tdw");
    let whole = disk.read(&path).expect("read");
    let second = 28 + (whole.len() - 28) / 3;
    for cut in [1, 5, 11, 40] {
        let torn = disk.kill();
        torn.replace(&path, &whole[..whole.len() - cut]).expect("write");
        let mut ledger = open(&torn).expect("open");
        assert_eq!(ledger.windows().last(), WindowId(2), "cut {cut}");
        ledger.append(window(3)).expect("append");
        assert_eq!(open(&torn).expect("open").last(), Some(&window(3)));
    }
    let mut bad = whole.clone();
    bad[second + 20] ^= 1;
    let broken = disk.kill();
    broken.replace(&path, &bad).expect("write");
    assert!(matches!(open(&broken), Err(LedgerError::Damaged { .. })));
    assert!(matches!(Ledger::open(&disk, dir(), LogId([8; 16])), Err(LedgerError::Foreign { .. })));
}

#[test]
fn a_full_disk_is_tried_again_and_a_failed_sync_poisons() {
    let disk = filled(1);
    let mut ledger = open(&disk).expect("open");
    disk.set_capacity(0);
    assert!(matches!(ledger.append(window(2)), Err(LedgerError::Io(_))));
    disk.set_capacity(1 << 40);
    ledger.append(window(2)).expect("room again");
    disk.fail_at(disk.syncs() + 1);
    assert!(matches!(ledger.append(window(3)), Err(LedgerError::Poisoned(_))));
    assert!(matches!(ledger.append(window(3)), Err(LedgerError::Poisoned(_))));
    // The frame is in memory only; opening writes it again, so it outlives the next power cut.
    let again = open(&disk.kill()).expect("open").windows().last();
    assert!(again == WindowId(3) || again == WindowId(2));
}

#[test]
fn a_cut_at_every_sync_keeps_what_was_acknowledged() {
    for stop in 1.. {
        let disk = FaultDisk::new();
        disk.stop_at(stop);
        let mut acknowledged = 0;
        if let Ok(mut ledger) = open(&disk) {
            while acknowledged < 4 && ledger.append(window(acknowledged + 1)).is_ok() {
                acknowledged += 1;
            }
        }
        for seed in 0..20 {
            let after = disk.crash(seed);
            let mut ledger = open(&after).expect("opens after a crash");
            let kept = ledger.windows().last().0;
            assert!(
                kept == acknowledged || kept == acknowledged + 1,
                "stop {stop} seed {seed}: {kept} of {acknowledged}"
            );
            ledger.append(window(kept + 1)).expect("goes on");
        }
        if acknowledged == 4 {
            return;
        }
    }
}

proptest! {
    #[test]
    fn decoding_never_panics(bytes: Vec<u8>) {
        let _ = Window::decode(&bytes);
    }

    #[test]
    fn a_body_reads_back(id in 1u64..1000, cut in 0usize..50) {
        let body = window(id).encode();
        prop_assert_eq!(Window::decode(&body), Some(window(id)));
        prop_assert_eq!(Window::decode(&body[..body.len() - 1 - cut]), None);
    }
}

#[test]
fn golden_bytes() {
    let body = window(2).encode();
    assert_eq!(hex::encode(&body[..10]), "05070200000000000000", "cause, flags, number");
    assert_eq!(crate::types::Digest::of(&body).to_string(), GOLDEN, "a changed layout needs a new magic");
}

const GOLDEN: &str = "a10fcc68ec48a7e6025a3b66f7a68e574fb4953bca162cfbd6a84ab03455d0fe";
