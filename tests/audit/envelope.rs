//! Windows in Debezium's envelope: what is in them holds, and what is spoiled is found, *resealed*.

use crate::export::{self, export_as};
use crate::forge::Forge;
use serde_json::{Value, json};
use tidelog::audit::{Finding, Kind, verify};
use tidelog::config::{Compression, Envelope, SinkConfig};
use tidelog::disk::FaultDisk;

fn envelope(config: &mut SinkConfig) {
    config.envelope = Envelope::Debezium;
}

fn finding(disk: &FaultDisk) -> Option<Finding> {
    verify(disk, export::dir(), &mut |_| {}).expect("readable").finding
}

#[test]
fn they_hold() {
    let forms: [&dyn Fn(&mut SinkConfig); 3] =
        [&|_| {}, &|config| (config.compression, config.parts) = (Compression::Zstd, 3), &|config| config.bson = true];
    for form in forms {
        let disk = export_as(false, &|config| {
            envelope(config);
            form(config);
        });
        let verdict = verify(&disk, export::dir(), &mut |_| {}).expect("readable");
        assert!(verdict.holds(), "{verdict}");
        assert_eq!((verdict.windows, verdict.records, verdict.changes, verdict.unread), (4, 11, 11, 0));
        assert_eq!(verdict.changes_only, 4);
        let plain = verify(&export_as(false, &|_| {}), export::dir(), &mut |_| {}).expect("readable");
        assert_eq!(verdict.namespaces, plain.namespaces);
        assert!(verdict.to_string().contains("changes alone"), "{verdict}");
    }
}

#[test]
fn what_is_spoiled_is_found() {
    let good = export_as(false, &envelope);
    let line = |what: &str, kind: Kind, edit: &dyn Fn(&mut Value)| {
        let forge = Forge(good.kill());
        forge.edit_line(2, 2, edit);
        let found = finding(&forge.0);
        assert_eq!(found.as_ref().map(|f| f.window), Some(2), "{what}: {found:?}");
        forge.reseal();
        let found = finding(&forge.0);
        assert_eq!(found.as_ref().map(|f| (f.kind, f.window)), Some((kind, 2)), "{what}: {found:?}");
    };
    let set =
        |at: &'static str, to: Value| move |line: &mut Value| *line.pointer_mut(at).expect("a field") = to.clone();
    line("another image", Kind::ImageHash, &set("/after", json!("{\"_id\":{\"$numberInt\":\"1\"}}")));
    line("no image", Kind::ImageHash, &set("/after", Value::Null));
    line("no text", Kind::LineForm, &set("/after", json!("{")));
    line("another operation", Kind::Op, &set("/op", json!("c")));
    line("another operation of ours", Kind::Op, &set("/tidelog/op", json!("insert")));
    line("another replacement", Kind::ChangeHash, &set("/tidelog/op", json!("replace")));
    line("another number", Kind::LineForm, &set("/tidelog/lsn", json!(99)));
    line("another sequence", Kind::LineForm, &set("/source/sequence", json!("[\"99\"]")));
    line("another collection", Kind::ChangeHash, &set("/source/collection", json!("others")));
    line("another time", Kind::LineForm, &set("/ts_ms", json!(5)));
    line("another time in source", Kind::LineForm, &set("/source/ts_us", json!(5)));
    line("a first read", Kind::LineForm, &set("/source/snapshot", json!("true")));
    line("another seq", Kind::ChangeHash, &set("/tidelog/seq", json!(9)));
    line("another key", Kind::ChangeHash, &set("/tidelog/key", json!("00")));
    line("another id", Kind::Id, &set("/tidelog/id", json!({"$numberInt": "9"})));
    line("another hash", Kind::ImageHash, &set("/tidelog/after_sha256", json!("00".repeat(32))));
    line("another change hash", Kind::ChangeHash, &set("/tidelog/change_hash", json!("00".repeat(32))));
    line("the clock goes back", Kind::Clock, &set("/tidelog/hlc", json!("5")));
    line("another log", Kind::LineForm, &set("/tidelog/log", json!("00")));
    line("one more field", Kind::LineForm, &|line| line["tidelog"]["more"] = json!(1));
    line("session without number", Kind::LineForm, &set("/source/lsid", json!("x")));
}

#[test]
fn lines_and_manifests() {
    let good = export_as(false, &envelope);
    let spoiled = |what: &str, kind: Kind, spoil: &dyn Fn(&Forge)| {
        let forge = Forge(good.kill());
        spoil(&forge);
        forge.reseal();
        let found = finding(&forge.0);
        assert_eq!(found.as_ref().map(|f| f.kind), Some(kind), "{what}: {found:?}");
    };
    spoiled("a line is gone", Kind::Seq, &|f| f.edit_lines(2, |l| drop(l.remove(4))));
    spoiled("the last line is gone", Kind::Counts, &|f| f.edit_lines(2, |l| drop(l.pop())));
    spoiled("lines swapped", Kind::Lsn, &|f| f.edit_lines(2, |l| l.swap(0, 1)));
    spoiled("a line twice", Kind::Lsn, &|f| f.edit_lines(2, |l| l.insert(1, l[1].clone())));
    spoiled("another count", Kind::Counts, &|f| {
        f.edit_manifest(2, |m| m["counts"]["shop.orders"]["insert"] = json!(9));
    });
    spoiled("more alive", Kind::Fingerprint, &|f| f.edit_manifest(2, |m| m["namespaces"][0]["alive"] = json!(9)));
    spoiled("a namespace is gone", Kind::Namespaces, &|f| f.edit_manifest(2, |m| m["namespaces"] = json!([])));
}
