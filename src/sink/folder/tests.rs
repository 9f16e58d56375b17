//! Delivered twice is delivered once; strangers and differences stop the sink; a cut or a failure at any sync leaves either
//! no window or a whole one.

use super::*;
use crate::disk::FaultDisk;
use crate::sink::Class;

const LOG: LogId = LogId([1; 16]);
const NOTHING: Position = Position { delivered: None, closed: WindowId(9) };

fn dir() -> &'static Path {
    Path::new("/out/export")
}

fn open(disk: &FaultDisk, known: Position) -> Result<Folder, SinkError> {
    let mut folder = Folder::new(Arc::new(disk.clone()), dir(), LOG);
    folder.open(known).map(|()| folder)
}

fn begin(folder: &mut Folder, id: u64, content: &[u8]) -> Result<(), SinkError> {
    folder.begin(&Opening { window: WindowId(id), amendment: 0, files: vec!["records.jsonl".into()] })?;
    folder.write(0, Chunk { bytes: content, rows: &[] })
}

fn deliver(folder: &mut Folder, id: u64, content: &[u8]) -> Result<Digest, SinkError> {
    begin(folder, id, content)?;
    folder.seal()?;
    let (bytes, sha256) = (content.len() as u64, Digest::of(content));
    let manifest = format!("{id} {sha256}");
    let sealed = SealedFile { name: "records.jsonl".into(), bytes, records: 1, sha256 };
    folder.finish(&[sealed], manifest.as_bytes())?;
    Ok(Digest::of(manifest.as_bytes()))
}

fn content(disk: &FaultDisk, id: u64) -> Vec<u8> {
    disk.read(&dir().join(format!("window-{id:010}/records.jsonl"))).expect("read")
}

#[test]
fn twice_is_once() {
    let disk = FaultDisk::new();
    let mut folder = open(&disk, NOTHING).expect("open");
    let sha = deliver(&mut folder, 1, b"one\n").expect("deliver");
    assert_eq!(deliver(&mut folder, 1, b"one\n").expect("again"), sha);
    let known = Position { delivered: Some((WindowId(1), sha)), ..NOTHING };
    let after = disk.crash(0);
    open(&after, known).expect("open again");
    assert_eq!(content(&after, 1), b"one\n");
    assert_eq!(after.list(&dir().join("window-0000000001")).expect("list"), ["manifest.json", "records.jsonl"]);
}

#[test]
fn what_differs_is_never_overwritten() {
    let disk = FaultDisk::new();
    let mut folder = open(&disk, NOTHING).expect("open");
    deliver(&mut folder, 1, b"one\n").expect("deliver");
    let error = deliver(&mut folder, 1, b"two\n").expect_err("differs");
    assert!(matches!(error, SinkError::Conflict { .. }) && error.class() == Class::Permanent);
    assert_eq!(content(&disk, 1), b"one\n");
    // The manifest is right, the file beside it is not.
    disk.replace(&dir().join("window-0000000001/records.jsonl"), b"bad\n").expect("edit");
    assert!(matches!(deliver(&mut folder, 1, b"one\n"), Err(SinkError::Conflict { .. })));
    let other = Position { delivered: Some((WindowId(1), Digest([0; 32]))), ..NOTHING };
    assert!(matches!(open(&disk, other), Err(SinkError::Conflict { .. })));
    let behind = Position { delivered: None, closed: WindowId(0) };
    assert!(matches!(open(&disk, behind), Err(SinkError::Ahead { .. })));
}

#[test]
fn strangers_are_noticed() {
    let disk = FaultDisk::new();
    deliver(&mut open(&disk, NOTHING).expect("open"), 1, b"one\n").expect("deliver");
    let stranger = Folder::new(Arc::new(disk.clone()), dir(), LogId([2; 16])).open(NOTHING);
    assert!(matches!(stranger, Err(SinkError::Foreign { .. })));
    disk.remove(&dir().join(MARK)).expect("remove");
    assert!(matches!(open(&disk, NOTHING), Err(SinkError::Unmarked { .. })));
    let known = Position { delivered: Some((WindowId(1), Digest([0; 32]))), ..NOTHING };
    assert!(matches!(open(&FaultDisk::new(), known), Err(SinkError::Vanished { .. })));
}

#[test]
fn leftovers_are_cleaned() {
    let disk = FaultDisk::new();
    let mut folder = open(&disk, NOTHING).expect("open");
    begin(&mut folder, 1, b"half").expect("write");
    assert_eq!(disk.list(&dir().join("window-0000000001")).expect("list").len(), 1);
    let mut folder = open(&disk, NOTHING).expect("open");
    assert!(disk.list(&dir().join("window-0000000001")).expect("list").is_empty());
    deliver(&mut folder, 1, b"one\n").expect("deliver");
}

#[test]
fn a_full_disk_is_transient() {
    let disk = FaultDisk::new();
    let mut folder = open(&disk, NOTHING).expect("open");
    disk.set_capacity(0);
    assert_eq!(deliver(&mut folder, 1, b"one\n").expect_err("full").class(), Class::Transient);
    disk.set_capacity(1 << 30);
    deliver(&mut folder, 1, b"one\n").expect("room again");
}

/// Either nothing was promised, or what was promised is there.
fn check(after: &FaultDisk, promised: Option<Digest>, what: &str) {
    let manifest = dir().join("window-0000000001/manifest.json");
    if after.exists(&manifest).expect("exists") {
        assert_eq!(content(after, 1), b"one\n", "{what}: a manifest without its file");
    } else {
        assert_eq!(promised, None, "{what}: a promised window is gone");
    }
}

#[test]
fn a_cut_at_every_sync() {
    for stop in 1.. {
        let disk = FaultDisk::new();
        disk.stop_at(stop);
        let promised = open(&disk, NOTHING).and_then(|mut folder| deliver(&mut folder, 1, b"one\n")).ok();
        for seed in 0..10 {
            let after = disk.crash(seed);
            check(&after, promised, &format!("stop {stop} seed {seed}"));
            let mut folder = open(&after, NOTHING).expect("opens after a crash");
            let again = deliver(&mut folder, 1, b"one\n").expect("delivers after a crash");
            assert!(promised.is_none_or(|sha| sha == again));
            check(&after.crash(0), Some(again), "after the second try");
        }
        if promised.is_some() {
            return;
        }
    }
}

#[test]
fn a_failure_at_every_sync() {
    for fail in 1.. {
        let disk = FaultDisk::new();
        disk.fail_at(fail);
        let attempt = || open(&disk, NOTHING).and_then(|mut folder| deliver(&mut folder, 1, b"one\n"));
        if attempt().is_ok() {
            return;
        }
        let sha = attempt().expect("the second try");
        check(&disk.crash(0), Some(sha), &format!("failed sync {fail}"));
    }
}
