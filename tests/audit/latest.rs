//! Latest files: what they hold, and every way of spoiling them; *resealed*, so that only their own rule can tell.

use crate::export::{self, export_as};
use crate::forge::Forge;
use serde_json::{Value, json};
use tidelog::audit::{Finding, Kind, verify};
use tidelog::config::{Compression, SinkConfig};
use tidelog::disk::FaultDisk;

const FILE: &str = "latest.jsonl";

fn export() -> FaultDisk {
    export_as(false, &|config| config.latest = true)
}

fn finding(disk: &FaultDisk) -> Option<Finding> {
    verify(disk, export::dir(), &mut |_| {}).expect("readable").finding
}

fn edit(forge: &Forge, window: u64, edit: impl Fn(&mut Vec<String>)) {
    let text = String::from_utf8(forge.read(window, FILE)).expect("utf-8");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    edit(&mut lines);
    let count = lines.len();
    forge.write(window, FILE, lines.into_iter().map(|line| line + "\n").collect::<String>().as_bytes());
    forge.edit_manifest(window, |m| m["files"][1]["records"] = json!(count));
    forge.reseal_files();
}

#[test]
fn they_hold_the_last_changes_and_nothing_else() {
    let forge = Forge(export());
    let lsns = |window: u64| -> Vec<u64> {
        let text = String::from_utf8(forge.read(window, FILE)).expect("utf-8");
        let line = |line: &str| serde_json::from_str::<Value>(line).expect("json")["lsn"].as_u64().expect("a number");
        text.lines().map(line).collect()
    };
    // Inserted and deleted again is deleted; a rename stands at its place.
    assert_eq!((lsns(1), lsns(2)), (vec![3, 4], vec![5, 6, 7, 8, 10]));
    assert_eq!((lsns(3), lsns(4)), (vec![11, 12], vec![15, 16]));
    let manifest: Value = serde_json::from_slice(&forge.read(2, "manifest.json")).expect("json");
    assert_eq!((&manifest["records"], &manifest["files"][0]["records"]), (&json!(6), &json!(6)));
    assert_eq!((&manifest["files"][1]["role"], &manifest["files"][1]["records"]), (&json!("latest"), &json!(5)));
    assert_eq!(manifest["files"][0].get("role"), None);
}

#[test]
fn every_form_of_them_holds() {
    let forms: [&dyn Fn(&mut SinkConfig); 3] =
        [&|_| {}, &|config| (config.compression, config.parts) = (Compression::Zstd, 4), &|config| config.bson = true];
    for (number, form) in forms.iter().enumerate() {
        for odd in [false, true].into_iter().take(1 + usize::from(number == 1)) {
            let disk = export_as(odd, &|config| {
                form(config);
                config.latest = true;
            });
            let verdict = verify(&disk, export::dir(), &mut |_| {}).expect("readable");
            assert!(verdict.holds() && verdict.latest == verdict.windows && verdict.unread == 0, "{verdict}");
            assert!(verdict.to_string().contains("hold exactly the last changes"), "{verdict}");
        }
    }
}

#[test]
fn what_is_spoiled_is_found() {
    let good = export();
    let spoiled = |what: &str, kind: Kind, spoil: &dyn Fn(&Forge)| {
        let forge = Forge(good.kill());
        spoil(&forge);
        let found = finding(&forge.0);
        assert_eq!(found.as_ref().map(|f| f.kind), Some(kind), "{what}: {found:?}");
        found
    };
    let found = spoiled("a line is gone", Kind::Latest, &|f| edit(f, 2, |l| drop(l.remove(1))));
    assert_eq!(found.and_then(|f| Some((f.window, f.file?, f.line?))), Some((2, FILE.to_owned(), 2)));
    spoiled("the last line is gone", Kind::Latest, &|f| edit(f, 2, |l| drop(l.pop())));
    spoiled("all are gone", Kind::Latest, &|f| edit(f, 4, Vec::clear));
    spoiled("an earlier change", Kind::Latest, &|f| {
        let history = String::from_utf8(f.read(2, "records.jsonl")).expect("utf-8");
        let earlier = history.lines().nth(4).expect("a line").to_owned();
        edit(f, 2, |l| l[4].clone_from(&earlier));
    });
    spoiled("an earlier change too", Kind::Latest, &|f| {
        let history = String::from_utf8(f.read(2, "records.jsonl")).expect("utf-8");
        let earlier = history.lines().nth(4).expect("a line").to_owned();
        edit(f, 2, |l| l.insert(4, earlier.clone()));
    });
    spoiled("a rename is gone", Kind::Latest, &|f| edit(f, 3, |l| drop(l.remove(0))));
    spoiled("another control record", Kind::Latest, &|f| {
        let history = String::from_utf8(f.read(3, "records.jsonl")).expect("utf-8");
        let gap = history.lines().nth(3).expect("a line").to_owned();
        edit(f, 3, |l| l.push(gap.clone()));
    });
    spoiled("two lines swapped", Kind::Latest, &|f| edit(f, 2, |l| l.swap(0, 1)));
    spoiled("a line twice", Kind::Latest, &|f| edit(f, 2, |l| l.insert(1, l[1].clone())));
    spoiled("another client", Kind::Latest, &|f| edit(f, 2, |l| l[0] = l[0].replace("127.0.0.1", "127.0.0.2")));
    spoiled("another value", Kind::Latest, &|f| edit(f, 2, |l| l[0] = l[0].replace("blue", "grey")));
    spoiled("a line cut short", Kind::LineForm, &|f| edit(f, 2, |l| l[0].truncate(40)));
    spoiled("a byte", Kind::Latest, &|f| {
        let text = String::from_utf8(f.read(2, FILE)).expect("utf-8");
        f.write(2, FILE, text.replacen("127.0.0.1", "127.0.0.2", 1).as_bytes());
    });
    spoiled("a byte after the end", Kind::LineForm, &|f| {
        let bytes = [f.read(2, FILE), b" ".to_vec()].concat();
        f.write(2, FILE, &bytes);
    });
    spoiled("the file is gone", Kind::FileMissing, &|f| f.remove(2, FILE));
    spoiled("its entry is gone", Kind::FileExtra, &|f| {
        f.edit_manifest(4, |m| drop(m["files"].as_array_mut().expect("files").pop()));
    });
    spoiled("another hash", Kind::FileHash, &|f| f.edit_manifest(4, |m| m["files"][1]["sha256"] = json!("00")));
    spoiled("other lines", Kind::Counts, &|f| f.edit_manifest(4, |m| m["files"][1]["records"] = json!(9)));
    spoiled("another role", Kind::ManifestForm, &|f| f.edit_manifest(4, |m| m["files"][1]["role"] = json!("newest")));
    spoiled("no role", Kind::ManifestForm, &|f| {
        f.edit_manifest(4, |m| drop(m["files"][1].as_object_mut().expect("a file").remove("role")));
    });
    spoiled("roles swapped", Kind::ManifestForm, &|f| {
        f.edit_manifest(4, |m| m["files"].as_array_mut().expect("files").swap(0, 1));
    });
}
