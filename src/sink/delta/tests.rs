//! The rules of the sink, over the `file:` store: twice is once; strangers and differences stop the sink; what others commit is let
//! stand. Other people's readers and real servers: `tests/e2e/test_delta.py`.

use super::*;
use crate::config::{Format, SinkKind};
use crate::disk::OsDisk;
use crate::format::Form;
use crate::sink::Class;
use crate::types::{Body, Control, Hlc, Lsn, Record};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

const LOG: LogId = LogId([1; 16]);
const NOTHING: Position = Position { delivered: None, closed: WindowId(99) };

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("table").join(name)
    }

    fn made(&self, name: &'static str, log: LogId) -> Delta {
        let url = format!("file://{}", self.at("").display());
        let config = SinkConfig { kind: SinkKind::Delta, format: Format::Parquet, url, ..SinkConfig::default() };
        Delta::new(&Setting { name, log, disk: Arc::new(OsDisk) }, &config).unwrap()
    }

    fn open(&self, known: Position) -> Result<Delta, SinkError> {
        let mut sink = self.made("lake", LOG);
        sink.open(known).map(|()| sink)
    }

    /// The commits, each with its actions.
    fn commits(&self) -> Vec<Vec<Value>> {
        let text = |version| fs::read_to_string(self.at(&format!("_delta_log/{version:020}.json"))).ok();
        let parse = |text: String| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (0..).map_while(text).map(parse).collect()
    }

    /// Somebody else's commit, with the next version.
    fn foreign(&self, actions: &[Value]) {
        let text = actions.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        fs::write(self.at(&format!("_delta_log/{:020}.json", self.commits().len())), text).unwrap();
    }

    /// Windows with their manifest, as the commits tell.
    fn windows(&self) -> Vec<u64> {
        let app = format!("tidelog:{LOG}:lake");
        let all = self.commits().into_iter().flatten();
        all.filter(|a| a["txn"]["appId"] == app.as_str()).map(|a| a["txn"]["version"].as_u64().unwrap()).collect()
    }
}

fn content(id: u64) -> Vec<u8> {
    let form = Form { format: Format::Parquet, ..Form::default() };
    let (mut encoder, mut out) = (form.encoder(LOG).unwrap(), Vec::new());
    for lsn in [2 * id - 1, 2 * id] {
        let body = Body::Control(Control::Started { version: format!("{id}") });
        let record = Record { lsn: Lsn(lsn), hlc: Hlc(lsn), wall_ms: 1_764_000_000_007, continued: false, body };
        encoder.append(&mut out, &record).unwrap();
    }
    encoder.end(&mut out).unwrap();
    out
}

fn begin(sink: &mut Delta, id: u64, amendment: u32) -> Result<Vec<SealedFile>, SinkError> {
    sink.begin(&Opening { window: WindowId(id), amendment, files: vec!["records.parquet".into()] })?;
    let content = content(id);
    content.chunks(1 << 10).try_for_each(|bytes| sink.write(0, Chunk { bytes, rows: &[] }))?;
    sink.seal()?;
    let (bytes, sha256) = (content.len() as u64, Digest::of(&content));
    Ok(vec![SealedFile { name: "records.parquet".into(), bytes, records: 2, sha256 }])
}

fn manifest(id: u64, label: &str) -> Vec<u8> {
    json!({"window": id, "label": label}).to_string().into_bytes()
}

fn deliver(sink: &mut Delta, id: u64) -> Result<Digest, SinkError> {
    let files = begin(sink, id, 0)?;
    sink.finish(&files, &manifest(id, "same"))?;
    Ok(Digest::of(&manifest(id, "same")))
}

fn refused(done: Result<impl std::fmt::Debug, SinkError>, expected: &str) {
    let error = done.unwrap_err();
    assert!(error.to_string().contains(expected) && error.class() == Class::Permanent, "{error:?}");
}

#[test]
fn a_window_is_one_commit() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    let sha = deliver(&mut sink, 7).unwrap();
    deliver(&mut sink, 8).unwrap();
    let commits = lab.commits();
    assert_eq!(commits.len(), 3);
    assert_eq!(commits[0][1]["protocol"], json!({"minReaderVersion": 1, "minWriterVersion": 2}));
    let about: Value = serde_json::from_str(commits[1][0]["commitInfo"]["userMetadata"].as_str().unwrap()).unwrap();
    assert_eq!((about["window"].as_u64(), about["manifest_sha256"].as_str()), (Some(7), Some(&*sha.to_string())));
    let told = fs::read(lab.at(about["manifest"].as_str().unwrap())).unwrap();
    assert_eq!(told, manifest(7, "same"));
    let add = &commits[1][2]["add"];
    assert_eq!(fs::read(lab.at(add["path"].as_str().unwrap())).unwrap(), content(7));
    let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
    let wall = "2025-11-24T16:00:00.007Z";
    let expected = json!({
        "numRecords": 2,
        "minValues": {"lsn": 13, "wall": wall},
        "maxValues": {"lsn": 14, "wall": wall},
        "nullCount": {"lsn": 0, "wall": 0, "ns": 2, "key": 2},
    });
    assert_eq!(stats, expected);
}

#[test]
fn twice_is_once() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    let sha = deliver(&mut sink, 1).unwrap();
    deliver(&mut sink, 2).unwrap();
    deliver(&mut sink, 1).unwrap();
    // The checkpoint was lost, or is behind.
    for known in [NOTHING, Position { delivered: Some((WindowId(1), sha)), ..NOTHING }] {
        let mut sink = lab.open(known).unwrap();
        deliver(&mut sink, 1).unwrap();
        deliver(&mut sink, 2).unwrap();
    }
    assert_eq!(lab.windows(), [1, 2]);
    assert_eq!(fs::read_dir(lab.at("window-0000000001")).unwrap().count(), 1);
}

#[test]
fn what_differs_stops_the_sink() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    let sha = deliver(&mut sink, 1).unwrap();
    let files = begin(&mut sink, 1, 0).unwrap();
    refused(sink.finish(&files, &manifest(1, "other")), "window-0000000001.manifest.json");
    // The commit tells another manifest than the one that lies there.
    let path = lab.at("_tidelog/window-0000000001.manifest.json");
    fs::write(&path, manifest(1, "other")).unwrap();
    let files = begin(&mut sink, 1, 0).unwrap();
    refused(sink.finish(&files, &manifest(1, "other")), "window 1");
    let known = Position { delivered: Some((WindowId(1), sha)), ..NOTHING };
    refused(lab.open(known), "window 1");
    fs::remove_file(&path).unwrap();
    refused(lab.open(known), "its manifest is not there");
    refused(deliver(&mut sink, 1), "its manifest is not there");
    assert_eq!(lab.commits().len(), 2);
}

#[test]
fn a_table_that_does_not_fit_what_is_known() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    let sha = deliver(&mut sink, 1).unwrap();
    let two = Position { delivered: Some((WindowId(2), sha)), ..NOTHING };
    refused(lab.open(two), "the table has windows up to 1, but 2 was delivered");
    assert!(matches!(lab.open(Position { closed: WindowId(0), ..NOTHING }), Err(SinkError::Ahead { .. })));
    let gone = Lab::new().open(two).unwrap_err();
    assert!(gone.to_string().contains("there is no table") && gone.class() == Class::Transient, "{gone}");
    // Its log was removed, while it was open and while not.
    fs::remove_dir_all(lab.at("_delta_log")).unwrap();
    let gone = deliver(&mut sink, 2).unwrap_err();
    assert!(gone.to_string().contains("removed or made anew"), "{gone}");
    refused(lab.open(NOTHING), "holds manifests of one");
    assert!(fs::metadata(lab.at("_delta_log")).is_err() && fs::metadata(lab.at("window-0000000002")).is_err());
}

#[test]
fn strangers() {
    let lab = Lab::new();
    deliver(&mut lab.open(NOTHING).unwrap(), 1).unwrap();
    refused(lab.made("lake", LogId([2; 16])).open(NOTHING), "holds data of tidelog:01010101");
    refused(lab.made("other", LOG).open(NOTHING), "A sink cannot be renamed");
    let lab = Lab::new();
    lab.open(NOTHING).unwrap();
    // An empty table is anybody's, until somebody has put data into it.
    let mut sink = lab.open(NOTHING).unwrap();
    lab.foreign(&[json!({"add": {"path": "x.parquet"}})]);
    refused(deliver(&mut sink, 1), "somebody else");
    refused(lab.open(NOTHING), "somebody else");
    assert_eq!(lab.commits().len(), 2);
}

#[test]
fn what_others_commit_is_let_stand() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    deliver(&mut sink, 1).unwrap();
    for id in 2..5 {
        let files = begin(&mut sink, id, 0).unwrap();
        lab.foreign(&[
            json!({"commitInfo": {"operation": "VACUUM START"}}),
            json!({"txn": {"appId": "x", "version": 3}}),
        ]);
        sink.finish(&files, &manifest(id, "same")).unwrap();
    }
    assert_eq!((lab.windows(), lab.commits().len()), (vec![1, 2, 3, 4], 8));
    // Somebody asks for more than we do.
    lab.foreign(&[json!({"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}})]);
    refused(deliver(&mut sink, 5), "writer version 5");
    refused(lab.open(NOTHING), "writer version 5");
}

/// The answer to a commit was lost, or the commit of a killed process came late: it is found, and nothing is committed again.
#[test]
fn a_commit_that_came_late() {
    for label in ["same", "other"] {
        let lab = Lab::new();
        let mut early = lab.open(NOTHING).unwrap();
        let mut late = lab.open(NOTHING).unwrap();
        let files = begin(&mut early, 1, 0).unwrap();
        let late_files = begin(&mut late, 1, 0).unwrap();
        early.finish(&files, &manifest(1, label)).unwrap();
        let done = late.finish(&late_files, &manifest(1, "same"));
        match label {
            "same" => done.unwrap(),
            _ => refused(done, "window 1"),
        }
        assert_eq!(lab.windows(), [1]);
        let add = &lab.commits()[1][2]["add"];
        assert_eq!(fs::read(lab.at(add["path"].as_str().unwrap())).unwrap(), content(1));
    }
}

#[test]
fn tries_that_were_not_committed_leave_nothing() {
    let lab = Lab::new();
    for _ in 0..3 {
        begin(&mut lab.open(NOTHING).unwrap(), 1, 0).unwrap();
    }
    let files = || {
        let tries = fs::read_dir(lab.at("window-0000000001")).unwrap();
        tries.map(|entry| fs::read_dir(entry.unwrap().path()).unwrap().count()).sum::<usize>()
    };
    assert_eq!((files(), lab.windows()), (3, vec![]));
    deliver(&mut lab.open(NOTHING).unwrap(), 1).unwrap();
    assert_eq!((files(), lab.windows()), (1, vec![1]));
}

#[test]
fn amendments_have_transactions_of_their_own() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    deliver(&mut sink, 1).unwrap();
    deliver(&mut sink, 2).unwrap();
    for _ in 0..2 {
        for number in [1, 2] {
            let files = begin(&mut sink, 1, number).unwrap();
            sink.finish(&files, &manifest(1, &format!("{number}"))).unwrap();
        }
        sink = lab.open(NOTHING).unwrap();
    }
    let app = format!("tidelog:{LOG}:lake:amendments:1");
    let txns: Vec<_> = lab.commits().iter().skip(3).map(|commit| commit[1]["txn"].clone()).collect();
    let told: Vec<_> = txns.iter().map(|txn| (txn["appId"].as_str(), txn["version"].as_u64())).collect();
    assert_eq!(told, [(Some(app.as_str()), Some(1)), (Some(app.as_str()), Some(2))]);
    assert!(fs::metadata(lab.at("_tidelog/window-0000000001.amendment-0002.manifest.json")).is_ok());
    assert_eq!(lab.windows(), [1, 2]);
}

/// A table of an earlier version of this program gets the columns that it lacks; one that cannot take our files is refused.
#[test]
fn other_schemas() {
    let lab = Lab::new();
    lab.open(NOTHING).unwrap();
    let metadata = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut metadata = lab.commits()[0][2]["metaData"].clone();
        let mut schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
        change(schema["fields"].as_array_mut().unwrap());
        metadata["schemaString"] = schema.to_string().into();
        json!({"metaData": metadata})
    };
    lab.foreign(&[metadata(&|fields| fields.truncate(40))]);
    deliver(&mut lab.open(NOTHING).unwrap(), 1).unwrap();
    let commits = lab.commits();
    assert_eq!(commits[2][1]["metaData"], commits[0][2]["metaData"]);
    lab.foreign(&[metadata(&|fields| fields[1]["type"] = "string".into())]);
    refused(lab.open(NOTHING), "`lsn` is \"string\"");
}

/// Holes in the log, and what cannot be parsed.
#[test]
fn a_broken_log() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    for id in 1..4 {
        deliver(&mut sink, id).unwrap();
    }
    let path = lab.at("_delta_log/00000000000000000002.json");
    let kept = fs::read(&path).unwrap();
    fs::write(&path, b"{\"txn\":\n").unwrap();
    refused(lab.open(NOTHING), "00000000000000000002.json");
    fs::remove_file(&path).unwrap();
    refused(lab.open(NOTHING), "00000000000000000002.json is not there");
    fs::write(&path, kept).unwrap();
    lab.open(NOTHING).unwrap();
    // A hint at a checkpoint that is not there is only a hint.
    fs::write(lab.at("_delta_log/_last_checkpoint"), b"{\"version\":2,\"size\":1}").unwrap();
    lab.open(NOTHING).unwrap();
    assert_eq!(lab.windows(), [1, 2, 3]);
}

/// A V2 checkpoint in JSON, and the commits before it gone: windows, protocol and schema are known from it.
#[test]
fn a_checkpoint_in_json() {
    let lab = Lab::new();
    let mut sink = lab.open(NOTHING).unwrap();
    let sha = (1..4).map(|id| deliver(&mut sink, id).unwrap()).last().unwrap();
    let commits = lab.commits();
    let mut actions = vec![json!({"checkpointMetadata": {"version": 2}})];
    actions.extend([commits[0][1].clone(), commits[0][2].clone(), commits[2][1].clone()]);
    actions.push(json!({"sidecar": {"path": "x.parquet", "sizeInBytes": 1, "modificationTime": 1}}));
    let text = actions.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    fs::write(lab.at("_delta_log/00000000000000000002.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json"), text)
        .unwrap();
    for version in 0..2 {
        fs::remove_file(lab.at(&format!("_delta_log/{version:020}.json"))).unwrap();
    }
    for hint in [&b"{\"version\":2,\"size\":5}"[..], b"{\"version\":", b"{\"version\":1}"] {
        fs::write(lab.at("_delta_log/_last_checkpoint"), hint).unwrap();
        let mut sink = lab.open(Position { delivered: Some((WindowId(3), sha)), ..NOTHING }).unwrap();
        deliver(&mut sink, 2).unwrap();
        assert!(fs::metadata(lab.at("_delta_log/00000000000000000004.json")).is_err());
    }
    deliver(&mut lab.open(NOTHING).unwrap(), 4).unwrap();
    assert!(fs::metadata(lab.at("_delta_log/00000000000000000004.json")).is_ok());
    fs::remove_file(lab.at("_delta_log/00000000000000000003.json")).unwrap();
    refused(lab.open(NOTHING), "00000000000000000003.json is not there");
}
