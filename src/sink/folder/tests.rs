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

/// `_latest.json`: the first and the last window.
fn latest(disk: &FaultDisk) -> (u64, u64) {
    let told: serde_json::Value =
        serde_json::from_slice(&disk.read(&dir().join(LATEST)).expect("latest")).expect("json");
    (told["first_window"].as_u64().expect("first"), told["window"].as_u64().expect("window"))
}

/// A window's amendment, as small as can be.
fn amend(folder: &mut Folder, id: u64, number: u32) {
    folder
        .begin(&Opening { window: WindowId(id), amendment: number, files: vec!["records.jsonl".into()] })
        .expect("begin");
    folder.write(0, Chunk { bytes: b"late\n", rows: &[] }).expect("write");
    folder.seal().expect("seal");
    let sealed = SealedFile { name: "records.jsonl".into(), bytes: 5, records: 1, sha256: Digest::of(b"late\n") };
    folder.finish(&[sealed], b"amended").expect("finish");
}

/// Windows 1 to 3, the first with two amendments.
fn three(disk: &FaultDisk) -> (Folder, Position) {
    let mut folder = open(disk, NOTHING).expect("open");
    let mut sha = None;
    for id in 1..=3 {
        sha = Some(deliver(&mut folder, id, format!("{id}\n").as_bytes()).expect("deliver"));
    }
    amend(&mut folder, 1, 1);
    amend(&mut folder, 1, 2);
    (folder, Position { delivered: sha.map(|sha| (WindowId(3), sha)), ..NOTHING })
}

fn names(disk: &FaultDisk) -> Vec<String> {
    disk.list(dir()).expect("list").into_iter().filter(|name| name.starts_with("window-")).collect()
}

#[test]
fn the_first_window_goes_with_its_amendments() {
    let disk = FaultDisk::new();
    let (mut folder, known) = three(&disk);
    let sizes: Vec<_> = folder.survey().expect("survey").iter().map(|s| (s.window.0, s.bytes)).collect();
    // The manifest of a window has 66 bytes here, that of an amendment 7.
    assert_eq!(sizes, [(1, 2 + 66 + 2 * (5 + 7)), (2, 2 + 66), (3, 2 + 66)]);
    assert!(folder.remove_first(WindowId(2)).is_err(), "not the first");
    folder.remove_first(WindowId(1)).expect("remove");
    assert_eq!((names(&disk).len(), latest(&disk), Shelf::first(&folder)), (2, (2, 3), Some(WindowId(2))));
    folder.remove_first(WindowId(2)).expect("remove");
    assert!(folder.remove_first(WindowId(3)).is_err(), "the newest stays");
    let after = disk.crash(0);
    let mut folder = open(&after, known).expect("open");
    assert_eq!((names(&after), latest(&after)), (vec!["window-0000000003".to_owned()], (3, 3)));
    deliver(&mut folder, 4, b"4\n").expect("deliver");
    assert_eq!(latest(&after), (3, 4), "the first stays when the last moves");
    // The checkpoint was lost: all comes again, and is promised again.
    deliver(&mut folder, 1, b"1\n").expect("deliver");
    assert_eq!(latest(&after), (1, 4));
}

#[test]
fn an_older_latest_is_understood() {
    let disk = FaultDisk::new();
    let (_folder, known) = three(&disk);
    let text = String::from_utf8(disk.read(&dir().join(LATEST)).expect("latest")).expect("utf-8");
    disk.replace(&dir().join(LATEST), text.replace("  \"first_window\": 1,\n", "").as_bytes()).expect("write");
    let mut folder = open(&disk, known).expect("open");
    assert_eq!(Shelf::first(&folder), Some(WindowId(1)));
    folder.remove_first(WindowId(1)).expect("remove");
    assert_eq!(latest(&disk), (2, 3));
    disk.remove(&dir().join(LATEST)).expect("remove");
    assert!(folder.remove_first(WindowId(2)).is_err(), "nowhere to say it");
    assert_eq!(names(&disk).len(), 2);
}

/// What `_latest.json` promises is whole, whatever became of the window before it.
fn check_promised(after: &FaultDisk, what: &str) -> (u64, u64) {
    let (first, last) = latest(after);
    for id in first..=last {
        let window = dir().join(format!("window-{id:010}"));
        assert!(after.exists(&window.join(MANIFEST)).expect("exists"), "{what}: window {id} is promised and not there");
        assert_eq!(content(after, id), format!("{id}\n").as_bytes(), "{what}");
    }
    // A window that has its manifest has its files.
    for name in names(after) {
        let window = dir().join(&name);
        if after.exists(&window.join(MANIFEST)).expect("exists") {
            assert!(after.exists(&window.join("records.jsonl")).expect("exists"), "{what}: {name} has lost its file");
        }
    }
    (first, last)
}

#[test]
fn a_cut_at_every_sync_of_a_removal() {
    let disk = FaultDisk::new();
    let known = three(&disk).1;
    let before = disk.syncs();
    let mut removed = 0;
    for stop in 1.. {
        let disk = FaultDisk::new();
        let (mut folder, _) = three(&disk);
        disk.stop_at(before + stop);
        let done = folder.remove_first(WindowId(1)).is_ok();
        for seed in 0..12 {
            let what = format!("stop {stop} seed {seed}");
            let after = disk.crash(seed);
            let (first, _) = check_promised(&after, &what);
            assert!(!done || first == 2, "{what}: a removal was promised and is undone");
            let mut folder = open(&after, known).expect("opens after a crash");
            let told: Vec<_> = folder.survey().expect("survey").iter().map(|s| s.window.0).collect();
            assert_eq!(told, (first..=3).collect::<Vec<_>>(), "{what}");
            if first == 1 {
                folder.remove_first(WindowId(1)).expect("remove");
            } else {
                removed += 1;
            }
            assert_eq!(names(&after), ["window-0000000002", "window-0000000003"], "{what}: something is left");
            check_promised(&after.crash(0), &what);
        }
        if done {
            assert!(removed > 12, "no cut left anything to end");
            return;
        }
    }
}

#[test]
fn a_failure_at_every_sync_of_a_removal() {
    let disk = FaultDisk::new();
    let known = three(&disk).1;
    let before = disk.syncs();
    for fail in 1.. {
        let disk = FaultDisk::new();
        let (mut folder, _) = three(&disk);
        disk.fail_at(before + fail);
        if folder.remove_first(WindowId(1)).is_ok() {
            assert!(fail > 4, "only {fail} syncs");
            return;
        }
        let mut folder = open(&disk, known).expect("open");
        folder.survey().expect("survey");
        if Shelf::first(&folder) == Some(WindowId(1)) {
            folder.remove_first(WindowId(1)).expect("remove");
        }
        let after = disk.crash(0);
        check_promised(&after, &format!("failed sync {fail}"));
        // Folders whose going was not synced may be back, without manifests: the next start clears them.
        open(&after, known).expect("open");
        assert_eq!(names(&after), ["window-0000000002", "window-0000000003"], "failed sync {fail}");
    }
}
