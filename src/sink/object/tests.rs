//! The rules of the folder sink, over the `file:` store: twice is once; strangers and differences stop the sink; what an earlier try
//! left is no window. Real servers: `tests/e2e/test_object.py`.

use super::*;
use crate::config::SinkKind;
use crate::disk::OsDisk;
use crate::sink::Class;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

const LOG: LogId = LogId([1; 16]);
const NOTHING: Position = Position { delivered: None, closed: WindowId(9) };
const FILE: &str = "window-0000000001/records.jsonl";

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("prefix").join(name)
    }

    fn config(&self) -> SinkConfig {
        let url = format!("file://{}", self.at("").display());
        SinkConfig { kind: SinkKind::Object, url, ..SinkConfig::default() }
    }

    fn made(&self, log: LogId) -> Object {
        let at = Setting { name: "lake", log, disk: Arc::new(OsDisk) };
        Object::new(&at, &self.config()).unwrap()
    }

    fn open(&self, known: Position) -> Result<Object, SinkError> {
        let mut sink = self.made(LOG);
        sink.open(known).map(|()| sink)
    }

    fn latest(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.at(LATEST)).unwrap()).unwrap()
    }
}

fn begin(sink: &mut Object, id: u64, content: &[u8]) -> Result<(), SinkError> {
    sink.begin(&Opening { window: WindowId(id), amendment: 0, files: vec!["records.jsonl".into()] })?;
    content.chunks(1 << 20).try_for_each(|bytes| sink.write(0, Chunk { bytes, rows: &[] }))
}

fn deliver(sink: &mut Object, id: u64, content: &[u8]) -> Result<Digest, SinkError> {
    begin(sink, id, content)?;
    sink.seal()?;
    let (bytes, sha256) = (content.len() as u64, Digest::of(content));
    let manifest = format!("{id} {sha256}");
    let sealed = SealedFile { name: "records.jsonl".into(), bytes, records: 1, sha256 };
    sink.finish(&[sealed], manifest.as_bytes())?;
    Ok(Digest::of(manifest.as_bytes()))
}

#[test]
fn twice_is_once() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    let sha = deliver(&mut sink, 1, b"one\n").unwrap();
    deliver(&mut sink, 2, b"two\n").unwrap();
    assert_eq!(deliver(&mut sink, 1, b"one\n").unwrap(), sha);
    assert_eq!(lab.latest()["window"], 2, "set back by a window that came again");
    lab.open(Position { delivered: Some((WindowId(1), sha)), ..NOTHING }).unwrap();
    assert_eq!(fs::read(lab.at(FILE)).unwrap(), b"one\n");
}

#[test]
fn large_files_go_in_parts() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    let content: Vec<u8> = (0..20_000_003u32).flat_map(|n| u8::try_from(n % 251)).collect();
    deliver(&mut sink, 1, &content).unwrap();
    assert!(fs::read(lab.at(FILE)).unwrap() == content);
    deliver(&mut sink, 2, b"").unwrap();
    assert_eq!(fs::read(lab.at("window-0000000002/records.jsonl")).unwrap(), b"");
}

#[test]
fn what_differs_is_never_overwritten() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    deliver(&mut sink, 1, b"one\n").unwrap();
    let error = deliver(&mut sink, 1, b"two\n").unwrap_err();
    assert!(matches!(error, SinkError::Conflict { .. }) && error.class() == Class::Permanent, "{error}");
    assert_eq!(fs::read(lab.at(FILE)).unwrap(), b"one\n");
    // The manifest is right, the file beside it is not.
    fs::write(lab.at(FILE), b"bad\n").unwrap();
    assert!(matches!(deliver(&mut sink, 1, b"one\n"), Err(SinkError::Conflict { .. })));
    assert_eq!(fs::read(lab.at(FILE)).unwrap(), b"bad\n");
    fs::remove_file(lab.at(FILE)).unwrap();
    assert!(matches!(deliver(&mut sink, 1, b"one\n"), Err(SinkError::Conflict { .. })));
    let other = Position { delivered: Some((WindowId(1), Digest([0; 32]))), ..NOTHING };
    assert!(matches!(lab.open(other), Err(SinkError::Conflict { .. })));
    let behind = Position { delivered: None, closed: WindowId(0) };
    assert!(matches!(lab.open(behind), Err(SinkError::Ahead { .. })));
}

/// A manifest that came between the look and the write: the same is taken for our own, another stops the sink.
#[test]
fn somebody_was_quicker() {
    for (other, theirs) in [(&b"one\n"[..], "the same"), (b"two\n", "another")] {
        let lab = Lab::new();
        let mut sink = lab.open(NOTHING).unwrap();
        begin(&mut sink, 1, b"one\n").unwrap();
        sink.seal().unwrap();
        deliver(&mut lab.open(NOTHING).unwrap(), 1, other).unwrap();
        let sha256 = Digest::of(b"one\n");
        let sealed = SealedFile { name: "records.jsonl".into(), bytes: 4, records: 1, sha256 };
        let done = sink.finish(&[sealed], format!("1 {sha256}").as_bytes());
        match theirs {
            "the same" => done.unwrap(),
            _ => assert!(matches!(done, Err(SinkError::Conflict { .. })), "{done:?}"),
        }
    }
}

#[test]
fn strangers_are_noticed() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    let sha = deliver(&mut sink, 1, b"one\n").unwrap();
    assert!(matches!(lab.made(LogId([2; 16])).open(NOTHING), Err(SinkError::Foreign { .. })));
    fs::remove_file(lab.at(MARK)).unwrap();
    assert!(matches!(lab.open(NOTHING), Err(SinkError::Unmarked { .. })));
    assert!(matches!(deliver(&mut sink, 2, b"two\n"), Err(SinkError::Vanished { .. })));
    assert!(fs::metadata(lab.at("window-0000000002")).is_err(), "written into a place without a mark");
    let known = Position { delivered: Some((WindowId(1), sha)), ..NOTHING };
    assert!(matches!(Lab::new().open(known), Err(SinkError::Vanished { .. })));
}

#[test]
fn leftovers_are_no_window() {
    let lab = Lab::new();
    deliver(&mut lab.open(NOTHING).unwrap(), 1, b"one\n").unwrap();
    fs::remove_file(lab.at("window-0000000001/manifest.json")).unwrap();
    fs::write(lab.at(FILE), b"an earlier try\n").unwrap();
    fs::write(lab.at("window-0000000001/records-0000-of-0002.jsonl"), b"of other settings\n").unwrap();
    let mut sink = lab.open(Position { closed: WindowId(0), ..NOTHING }).unwrap();
    deliver(&mut sink, 1, b"one\n").unwrap();
    let names = fs::read_dir(lab.at("window-0000000001")).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["manifest.json", "records.jsonl"]);
    assert_eq!(fs::read(lab.at(FILE)).unwrap(), b"one\n");
}

#[test]
fn settings_that_cannot_be_used() {
    let lab = Lab::new();
    let at = Setting { name: "lake", log: LOG, disk: Arc::new(OsDisk) };
    for (url, option, expected) in [
        ("bucket/prefix", None, "expected s3://"),
        ("ftp://host/x", None, "expected s3://"),
        ("http://host/x", None, "expected s3://"),
        ("s3://bucket/x?sig=SECRET", None, "belong into the environment"),
        ("s3://bucket/x", Some(("aws_regoin", "SECRET")), "`aws_regoin` is no option"),
        ("file:///x", Some(("aws_region", "SECRET")), "`aws_region` is no option"),
    ] {
        let options = option.into_iter().map(|(name, value): (&str, &str)| (name.into(), value.into())).collect();
        let config = SinkConfig { url: url.into(), options, ..lab.config() };
        let error = Object::new(&at, &config).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(expected) && told.contains("sinks.lake") && !told.contains("SECRET"), "{told}");
        assert_eq!(error.class(), Class::Permanent);
    }
}

#[test]
fn credentials_are_not_shown() {
    let at = Setting { name: "lake", log: LOG, disk: Arc::new(OsDisk) };
    let secret = [("aws_secret_access_key", "SECRET"), ("aws_access_key_id", "KEYNAME")];
    let options = secret.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let config = SinkConfig { url: "s3://bucket/x".into(), options, ..SinkConfig::default() };
    let shown = format!("{:?}", Object::new(&at, &config).unwrap());
    assert!(!shown.contains("SECRET"), "{shown}");
}

fn amend(sink: &mut Object, id: u64, number: u32) {
    sink.begin(&Opening { window: WindowId(id), amendment: number, files: vec!["records.jsonl".into()] }).unwrap();
    sink.write(0, Chunk { bytes: b"late\n", rows: &[] }).unwrap();
    sink.seal().unwrap();
    let sealed = SealedFile { name: "records.jsonl".into(), bytes: 5, records: 1, sha256: Digest::of(b"late\n") };
    sink.finish(&[sealed], b"amended").unwrap();
}

fn left(lab: &Lab) -> Vec<String> {
    let files = |dir: PathBuf| fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let windows = files(lab.at("")).filter(|name| name.starts_with("window-"));
    let mut all: Vec<_> = windows.flat_map(|w| files(lab.at(&w)).map(move |file| format!("{w}/{file}"))).collect();
    all.sort();
    all
}

#[test]
fn the_first_window_goes_and_a_removal_that_was_cut_is_ended() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    for id in 1..=3 {
        deliver(&mut sink, id, format!("{id}\n").as_bytes()).unwrap();
    }
    amend(&mut sink, 1, 1);
    amend(&mut sink, 1, 2);
    let sizes: Vec<_> = sink.survey().unwrap().iter().map(|s| (s.window.0, s.bytes)).collect();
    assert_eq!(sizes, [(1, 68 + 2 * 12), (2, 68), (3, 68)]);
    assert!(sink.remove_first(WindowId(2)).is_err(), "not the first");
    let files = ["window-0000000001", "window-0000000001.amendment-0001", "window-0000000001.amendment-0002"];
    let kept: Vec<_> = files.iter().map(|name| (name, fs::read(lab.at(name).join("records.jsonl")).unwrap())).collect();
    sink.remove_first(WindowId(1)).unwrap();
    assert_eq!((lab.latest()["first_window"].as_u64(), left(&lab).len()), (Some(2), 4));
    // As if it had been cut before the files went, and before the last amendment went.
    for gone in [0, 1] {
        for (name, content) in kept.iter().skip(gone) {
            fs::create_dir_all(lab.at(name)).unwrap();
            fs::write(lab.at(name).join("records.jsonl"), content).unwrap();
        }
        let mut sink = lab.open(NOTHING).unwrap();
        assert_eq!(Shelf::first(&sink), Some(WindowId(2)));
        assert_eq!(sink.survey().unwrap().len(), 2);
        assert_eq!(left(&lab).len(), 4, "something is left");
    }
    sink.remove_first(WindowId(2)).unwrap();
    assert!(sink.remove_first(WindowId(3)).is_err(), "the newest stays");
    fs::remove_file(lab.at(LATEST)).unwrap();
    assert_eq!(Shelf::first(&lab.open(NOTHING).unwrap()), Some(WindowId(3)), "found without _latest.json");
}
