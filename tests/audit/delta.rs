//! A Delta table made by the sink: it holds, and everything that only a table can have wrong is told.

use crate::export::export_as;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tidelog::audit::{Kind, Verdict, verify};
use tidelog::config::{Format, SinkConfig, SinkKind};
use tidelog::disk::OsDisk;

/// A table in a folder of its own.
struct Lake(tempfile::TempDir);

impl Lake {
    fn new(form: &dyn Fn(&mut SinkConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("file://{}", dir.path().display());
        export_as(false, &|config| {
            (config.kind, config.format, config.url) = (SinkKind::Delta, Format::Parquet, url.clone());
            form(config);
        });
        Self(dir)
    }

    fn copy(&self) -> Self {
        let copy = tempfile::tempdir().expect("a folder");
        copy_all(self.0.path(), copy.path());
        Self(copy)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn verdict(&self) -> Verdict {
        verify(&OsDisk, self.0.path(), &mut |_| {}).expect("readable")
    }

    fn commit(&self, version: u64) -> PathBuf {
        self.at(&format!("_delta_log/{version:020}.json"))
    }

    fn actions(&self, version: u64) -> Vec<Value> {
        let text = fs::read_to_string(self.commit(version)).expect("a commit");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn write(&self, version: u64, actions: &[Value]) {
        let text = actions.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        fs::write(self.commit(version), text).expect("written");
    }

    /// Edits the action of that name in a commit.
    fn edit(&self, version: u64, name: &str, edit: impl Fn(&mut Value)) {
        let mut actions = self.actions(version);
        edit(&mut actions.iter_mut().find(|action| action.get(name).is_some()).expect("an action")[name]);
        self.write(version, &actions);
    }

    fn about(&self, version: u64, name: &str, value: &Value) {
        self.edit(version, "commitInfo", |info| {
            let mut about: Value = serde_json::from_str(info["userMetadata"].as_str().expect("text")).expect("JSON");
            about[name] = value.clone();
            info["userMetadata"] = about.to_string().into();
        });
    }

    fn next(&self) -> u64 {
        (0..99).find(|version| fs::metadata(self.commit(*version)).is_err()).expect("a version")
    }

    /// The first file of a window.
    fn file(&self, window: u64) -> String {
        let actions = self.actions(window);
        actions[2]["add"]["path"].as_str().expect("a path").to_owned()
    }

    /// A commit that takes out the files of windows and adds one, with so many rows.
    fn rewrite(&self, windows: &[u64], change: bool, rows: u64) {
        let mut actions = vec![json!({"commitInfo": {"operation": if change { "DELETE" } else { "OPTIMIZE" }}})];
        for window in windows {
            actions.push(json!({"remove": {"path": self.file(*window), "dataChange": change}}));
        }
        let (path, stats) = (format!("part-{}.parquet", self.next()), format!("{{\"numRecords\":{rows}}}"));
        fs::write(self.at(&path), b"merged").expect("written");
        actions.push(json!({"add": {"path": path, "size": 6, "dataChange": change, "stats": stats}}));
        self.write(self.next(), &actions);
    }

    fn vacuum(&self, windows: &[u64]) {
        for window in windows {
            fs::remove_file(self.at(&self.file(*window))).expect("removed");
        }
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let (entry, to) = (entry.expect("an entry").path(), to.to_owned());
        let to = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() {
            fs::create_dir(&to).expect("made");
            copy_all(&entry, &to);
        } else {
            fs::copy(&entry, &to).expect("copied");
        }
    }
}

fn plain() -> Verdict {
    verify(&export_as(false, &|_| {}), crate::export::dir(), &mut |_| {}).expect("readable")
}

#[test]
fn a_table_holds() {
    let forms: [&dyn Fn(&mut SinkConfig); 2] = [&|_| {}, &|config| (config.parts, config.bson) = (3, true)];
    for form in forms {
        let (verdict, plain) = (Lake::new(form).verdict(), plain());
        assert!(verdict.holds() && verdict.unread + verdict.merged + verdict.cleaned == 0, "{verdict}");
        let same = |v: &Verdict| (v.windows, v.records, v.changes, v.last_lsn);
        assert_eq!(same(&verdict), same(&plain));
        assert_eq!((&verdict.namespaces, verdict.gaps.len()), (&plain.namespaces, plain.gaps.len()));
    }
}

/// What is not in the table: tries that were killed, before and after their manifest; commits of others.
#[test]
fn what_is_not_of_the_table() {
    let lake = Lake::new(&|_| {});
    for (name, text) in [
        ("window-0000000002/0123456789ab/records.parquet", "half"),
        ("window-0000000005/0123456789ab/records.parquet", "half"),
        ("_tidelog/window-0000000005.manifest.json", "{}"),
        ("_tidelog/window-0000000001.amendment-0001.manifest.json", "{}"),
        ("part-0.parquet", "of somebody else"),
    ] {
        fs::create_dir_all(lake.at(name).parent().expect("a folder")).expect("made");
        fs::write(lake.at(name), text).expect("written");
    }
    let add = json!({"add": {"path": "part-0.parquet", "size": 16, "dataChange": true}});
    lake.write(lake.next(), &[json!({"commitInfo": {"operation": "WRITE", "userMetadata": "mine"}}), add]);
    lake.write(lake.next(), &[json!({"remove": {"path": "part-0.parquet", "dataChange": true}})]);
    let verdict = lake.verdict();
    assert!(verdict.holds() && verdict.windows == 4 && verdict.unfinished.is_none(), "{verdict}");
}

/// What is done to it, the word and the window that it must be told with, and how it is done.
type Spoiled<'a> = (&'a str, Kind, u64, &'a dyn Fn(&Lake));

fn check(good: &Lake, rows: &[Spoiled<'_>]) {
    for (what, kind, window, spoil) in rows {
        let lake = good.copy();
        spoil(&lake);
        let found = lake.verdict().finding;
        assert_eq!(found.as_ref().map(|f| (f.kind, f.window)), Some((*kind, *window)), "{what}: {found:?}");
    }
}

#[test]
fn commits_that_do_not_fit() {
    let again = |lake: &Lake, window: u64| lake.write(lake.next(), &lake.actions(window));
    check(
        &Lake::new(&|_| {}),
        &[
            ("an add is gone", Kind::Commit, 2, &|l| l.write(2, &l.actions(2)[..2])),
            ("one more add", Kind::Commit, 2, &|l| {
                l.write(
                    2,
                    &[&l.actions(2)[..], &[json!({"add": {"path": "x", "size": 1, "dataChange": true}})]].concat(),
                );
            }),
            ("another size", Kind::Commit, 2, &|l| l.edit(2, "add", |add| add["size"] = json!(1))),
            ("other rows", Kind::Commit, 2, &|l| l.edit(2, "add", |add| add["stats"] = json!("{\"numRecords\":1}"))),
            ("another path", Kind::Commit, 2, &|l| l.edit(2, "add", |add| add["path"] = json!("x"))),
            ("rows deleted from it", Kind::Commit, 2, &|l| l.edit(2, "add", |add| add["deletionVector"] = json!({}))),
            ("another hash", Kind::Commit, 2, &|l| l.about(2, "manifest_sha256", &json!("00"))),
            ("another label", Kind::Commit, 2, &|l| l.about(2, "label", &json!("other"))),
            ("another range", Kind::Commit, 2, &|l| l.about(2, "last_lsn", &json!(99))),
            ("another log", Kind::Commit, 2, &|l| l.about(2, "log", &json!("00"))),
            ("a folder elsewhere", Kind::Commit, 2, &|l| l.about(2, "folder", &json!("window-0000000002/../x"))),
            ("another sink", Kind::Commit, 2, &|l| {
                l.edit(2, "txn", |txn| txn["appId"] = format!("{}2", txn["appId"].as_str().expect("text")).into());
            }),
            ("another version", Kind::Commit, 2, &|l| l.edit(2, "txn", |txn| txn["version"] = json!(3))),
            ("no transaction", Kind::Commit, 2, &|l| {
                let mut actions = l.actions(2);
                actions.remove(1);
                l.write(2, &actions);
            }),
            ("no userMetadata", Kind::Commit, 2, &|l| l.edit(2, "commitInfo", |info| *info = json!({}))),
            ("no userMetadata, the last", Kind::Commit, 4, &|l| l.edit(4, "commitInfo", |info| *info = json!({}))),
            ("a window twice", Kind::Commit, 2, &|l| again(l, 2)),
            ("the last window twice", Kind::Commit, 4, &|l| again(l, 4)),
            ("two windows in another order", Kind::Commit, 2, &|l| {
                let (two, three) = (l.actions(2), l.actions(3));
                l.write(2, &three);
                l.write(3, &two);
            }),
            ("a hole", Kind::WindowMissing, 2, &|l| l.write(2, &[json!({"commitInfo": {}})])),
            ("a commit is gone", Kind::Commit, 0, &|l| fs::remove_file(l.commit(2)).expect("removed")),
            ("the first commits are gone", Kind::Commit, 0, &|l| {
                (0..2).for_each(|version| fs::remove_file(l.commit(version)).expect("removed"));
            }),
            ("a commit that is no JSON", Kind::Commit, 0, &|l| fs::write(l.commit(2), b"{\n").expect("written")),
        ],
    );
}

#[test]
fn files_that_do_not_fit() {
    let manifest = |window: u64| format!("_tidelog/window-{window:010}.manifest.json");
    let good = Lake::new(&|_| {});
    check(
        &good,
        &[
            ("a byte of a file", Kind::FileHash, 3, &|l| {
                let mut bytes = fs::read(l.at(&l.file(3))).expect("a file");
                bytes[20] ^= 1;
                fs::write(l.at(&l.file(3)), bytes).expect("written");
            }),
            ("a file is gone", Kind::FileMissing, 3, &|l| l.vacuum(&[3])),
            ("a manifest is gone", Kind::FileMissing, 3, &|l| fs::remove_file(l.at(&manifest(3))).expect("removed")),
            ("the last manifest is gone", Kind::FileMissing, 4, &|l| {
                fs::remove_file(l.at(&manifest(4))).expect("removed");
            }),
            ("the last manifest is another", Kind::Commit, 4, &|l| {
                let text = fs::read_to_string(l.at(&manifest(4))).expect("a manifest");
                fs::write(l.at(&manifest(4)), text.replace("\"w3\"", "\"w4\"")).expect("written");
            }),
        ],
    );
    good.vacuum(&[3]);
    let told = good.verdict().finding.expect("a finding").to_string();
    assert!(told.contains(&good.file(3)), "{told}");
}

/// Merged: read as before while the files are there; gone with VACUUM: told, and what follows is held against the manifests' totals.
#[test]
fn files_that_were_merged() {
    let good = Lake::new(&|_| {});
    let rows = |windows: &[u64]| {
        windows
            .iter()
            .map(|w| good.actions(*w)[2]["add"]["stats"].as_str().expect("text").to_owned())
            .map(|stats| serde_json::from_str::<Value>(&stats).expect("JSON")["numRecords"].as_u64().expect("rows"))
            .sum::<u64>()
    };
    let plain = plain();
    for windows in [&[1, 2][..], &[1], &[2], &[3], &[1, 2, 3], &[1, 2, 3, 4], &[4]] {
        let lake = good.copy();
        lake.rewrite(windows, false, rows(windows));
        let verdict = lake.verdict();
        assert!(verdict.holds() && verdict.merged == 0, "{windows:?}: {verdict}");
        lake.vacuum(windows);
        let verdict = lake.verdict();
        assert!(verdict.holds() && verdict.merged == windows.len() as u64, "{windows:?}: {verdict}");
        assert_eq!((verdict.windows, verdict.records, verdict.changes), (4, plain.records, plain.changes));
        assert_eq!((&verdict.namespaces, &verdict.gaps), (&plain.namespaces, &plain.gaps));
        assert!(verdict.to_string().contains("were merged and removed"), "{verdict}");
    }
    let merged = |lake: &Lake| {
        lake.rewrite(&[1, 2], false, rows(&[1, 2]));
        lake.vacuum(&[1, 2]);
    };
    check(
        &good,
        &[
            ("a file beside them", Kind::FileMissing, 3, &|l| (merged(l), l.vacuum(&[3])).1),
            ("a later file", Kind::FileHash, 3, &|l| {
                merged(l);
                fs::write(l.at(&l.file(3)), b"x").expect("written");
            }),
            ("fewer rows", Kind::RowsRemoved, 1, &|l| l.rewrite(&[1, 2], false, rows(&[1, 2]) - 1)),
            ("the merged file is gone", Kind::FileMissing, 0, &|l| {
                l.rewrite(&[1, 2], false, rows(&[1, 2]));
                fs::remove_file(l.at("part-5.parquet")).expect("removed");
            }),
            ("rows deleted", Kind::RowsRemoved, 2, &|l| l.rewrite(&[2], true, 1)),
            ("rows deleted from the merged file", Kind::RowsRemoved, 1, &|l| {
                merged(l);
                l.write(6, &[json!({"remove": {"path": "part-5.parquet", "dataChange": true}})]);
            }),
            ("rows deleted by a vector", Kind::RowsRemoved, 2, &|l| {
                let mut add = l.actions(2)[2].clone();
                add["add"]["deletionVector"] = json!({"storageType": "u"});
                l.write(5, &[json!({"remove": {"path": l.file(2), "dataChange": true}}), add]);
            }),
        ],
    );
    // Taken out and put back.
    let lake = good.copy();
    lake.rewrite(&[2], true, 0);
    lake.write(6, &[lake.actions(2)[2].clone()]);
    assert!(lake.verdict().holds(), "{}", lake.verdict());
}

/// Commits that were cleaned away behind a checkpoint: the manifests tell which files are theirs.
#[test]
fn commits_behind_a_checkpoint() {
    let good = Lake::new(&|_| {});
    let files: Vec<String> = (0..5).map(|w| if w == 0 { String::new() } else { good.file(w) }).collect();
    fs::write(good.at(&format!("_delta_log/{:020}.checkpoint.parquet", 3)), b"").expect("written");
    (0..3).for_each(|version| fs::remove_file(good.commit(version)).expect("removed"));
    fs::create_dir_all(good.at("window-0000000002/000000000000")).expect("made");
    fs::write(good.at("window-0000000002/000000000000/records.parquet"), b"half").expect("written");
    let verdict = good.verdict();
    assert!(verdict.holds() && (verdict.cleaned, verdict.merged, verdict.windows) == (2, 0, 4), "{verdict}");
    assert!(verdict.to_string().contains("the commits of 2 windows are behind a checkpoint"), "{verdict}");
    check(
        &good,
        &[
            ("a file damaged", Kind::FileHash, 1, &|l| fs::write(l.at(&files[1]), b"x").expect("written")),
            ("a manifest damaged", Kind::ManifestForm, 1, &|l| {
                fs::write(l.at("_tidelog/window-0000000001.manifest.json"), b"{}").expect("written");
            }),
            ("a manifest gone", Kind::WindowMissing, 2, &|l| {
                fs::remove_file(l.at("_tidelog/window-0000000002.manifest.json")).expect("removed");
            }),
        ],
    );
    let lake = good.copy();
    fs::remove_file(lake.at(&files[1])).expect("removed");
    fs::create_dir_all(lake.at("window-0000000001/000000000000")).expect("made");
    fs::write(lake.at("window-0000000001/000000000000/records-0.parquet"), b"half").expect("written");
    let verdict = lake.verdict();
    assert!(verdict.holds() && (verdict.cleaned, verdict.merged) == (2, 1), "{verdict}");
}
