//! The offline audit: an export that holds, and every way of spoiling it that we could think of, each with the word that
//! it must be told with. *Resealed*: whoever spoiled it also mended the hashes, counts and chain around it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

#[cfg(feature = "delta")]
mod delta;
mod envelope;
mod export;
mod forge;
mod latest;
mod pages;
#[cfg(feature = "parquet")]
mod tables;

use export::export;
use forge::{Forge, rehash};
use serde_json::{Value, json};
use tidelog::audit::{Finding, Kind, verify};
use tidelog::disk::{Disk as _, FaultDisk};

fn finding(disk: &FaultDisk) -> Option<Finding> {
    verify(disk, export::dir(), &mut |_| {}).expect("readable").finding
}

/// What is done to it, the word that it must be told with, and how it is done.
type Spoiled<'a> = (&'a str, Kind, &'a dyn Fn(&Forge));

/// Spoils a copy of a good export and expects the word.
fn table(rows: &[Spoiled<'_>]) {
    let good = export();
    for (what, kind, spoil) in rows {
        let forge = Forge(good.kill());
        spoil(&forge);
        let found = finding(&forge.0);
        assert_eq!(found.as_ref().map(|f| f.kind), Some(*kind), "{what}: {found:?}");
    }
}

#[test]
fn a_good_export_holds() {
    let disk = export();
    let mut steps = 0;
    let verdict = verify(&disk, export::dir(), &mut |_| steps += 1).expect("readable");
    assert!(verdict.holds(), "{verdict}");
    assert_eq!((verdict.windows, verdict.records, verdict.changes, steps), (4, 19, 11, 4));
    let alive: Vec<_> = verdict.namespaces.iter().map(|n| (n.ns.as_str(), n.alive, n.complete)).collect();
    assert_eq!(alive, [("shop.archive", 4, true), ("shop.orders", 1, true), ("shop.stock", 1, false)]);
    assert_eq!(verdict.gaps.len(), 1);
    let text = verdict.to_string();
    assert!(text.contains("4 windows, 19 records") && text.contains("it holds") && text.contains("gap 1"), "{text}");
    let json = serde_json::to_value(&verdict).expect("json");
    assert_eq!((&json["finding"], &json["windows"]), (&Value::Null, &json!(4)));
}

#[test]
fn an_export_of_odd_documents_holds() {
    let verdict = verify(&export::export_odd(), export::dir(), &mut |_| {}).expect("readable");
    assert!(verdict.holds(), "{verdict}");
    assert_eq!((verdict.windows, verdict.changes, verdict.namespaces[0].alive), (3, 14, 0));
}

#[test]
fn an_empty_place_is_no_export() {
    assert!(verify(&FaultDisk::new(), std::path::Path::new("/"), &mut |_| {}).is_err());
}

#[test]
fn a_window_under_way_is_told() {
    let forge = Forge(export().kill());
    forge.remove(4, "manifest.json");
    let verdict = verify(&forge.0, export::dir(), &mut |_| {}).expect("readable");
    assert!(verdict.holds() && verdict.unfinished == Some(4) && verdict.windows == 3);
}

/// Windows that are removed while the audit reads are none that are missing; what `_latest.json` still promises is.
#[test]
fn windows_that_retention_removes_meanwhile() {
    let audit = |moves: &dyn Fn(&Forge, u64)| {
        let forge = Forge(export().kill());
        verify(&forge.0, export::dir(), &mut |so_far| moves(&forge, so_far.windows)).expect("readable")
    };
    let latest = |forge: &Forge, first: u64| {
        let mut told: Value =
            serde_json::from_slice(&forge.0.read(&export::dir().join("_latest.json")).expect("read")).expect("json");
        told["first_window"] = json!(first);
        forge.write_raw("_latest.json", told.to_string().as_bytes());
    };
    let removed = audit(&|forge, seen| {
        if seen == 1 && forge.0.exists(&Forge::path(2, "manifest.json")).expect("exists") {
            latest(forge, 3);
            forge.remove_window(1);
            forge.remove_window(2);
        }
    });
    assert!(removed.holds() && removed.first_window == 3 && removed.windows == 2, "{removed}");
    let lost = audit(&|forge, seen| {
        if seen == 1 {
            forge.remove_window(2);
        }
    });
    assert_eq!(lost.finding.map(|f| (f.kind, f.window)), Some((Kind::WindowMissing, 2)));
}

#[test]
fn windows_and_files() {
    table(&[
        ("a window is gone", Kind::WindowMissing, &|f| f.remove_window(2)),
        ("the first window is gone", Kind::WindowMissing, &|f| f.remove_window(1)),
        ("a later window", Kind::WindowMissing, &|f| f.write_raw("window-0000000009/manifest.json", b"{}")),
        ("a window named wrongly", Kind::WindowExtra, &|f| f.write_raw("window-0000000001-copy/manifest.json", b"{}")),
        ("a window without manifest", Kind::WindowMissing, &|f| f.remove(2, "manifest.json")),
        ("the records are gone", Kind::FileMissing, &|f| f.remove(2, "records.jsonl")),
        ("one more file", Kind::FileExtra, &|f| f.write_raw("window-0000000002/more.jsonl", b"")),
        ("a byte of a field that no rule covers", Kind::FileHash, &|f| f.replace(2, "127.0.0.1", "127.0.0.2")),
        ("another log's mark", Kind::Mark, &|f| f.write_raw("tidelog.json", b"{\"format\":1,\"log\":\"00\"}")),
        ("windows swapped", Kind::ManifestIdentity, &|f| f.swap_windows(2, 3)),
    ]);
}

#[test]
fn manifests() {
    table(&[
        ("a space", Kind::ManifestForm, &|f| f.edit_manifest_text(1, |t| format!("{t} "))),
        ("not JSON", Kind::ManifestForm, &|f| f.edit_manifest_text(1, |t| t.replace('{', "["))),
        ("one more field", Kind::ManifestForm, &|f| f.edit_manifest(4, |m| m["more"] = json!(1))),
        ("a cause that is none", Kind::ManifestForm, &|f| f.edit_manifest(4, |m| m["cause"] = json!("whim"))),
        ("another label", Kind::ManifestChain, &|f| f.edit_manifest(2, |m| m["label"] = json!("other"))),
        ("another hash before", Kind::ManifestChain, &|f| {
            f.edit_manifest(4, |m| m["previous_manifest_sha256"] = json!("00"));
        }),
        ("no hash before", Kind::ManifestChain, &|f| {
            f.edit_manifest(4, |m| m["previous_manifest_sha256"] = Value::Null);
        }),
        ("another window", Kind::ManifestIdentity, &|f| f.edit_manifest(4, |m| m["window"] = json!(5))),
        ("another log", Kind::ManifestIdentity, &|f| f.edit_manifest(4, |m| m["log"] = json!("00"))),
        ("another range", Kind::Lsn, &|f| f.edit_manifest(4, |m| m["last_lsn"] = json!(99))),
        ("another count", Kind::Counts, &|f| f.edit_manifest(4, |m| m["counts"]["shop.orders"]["insert"] = json!(9))),
        ("other lines", Kind::Counts, &|f| f.edit_manifest(4, |m| m["files"][0]["records"] = json!(9))),
        ("another hash", Kind::FileHash, &|f| f.edit_manifest(4, |m| m["files"][0]["sha256"] = json!("00"))),
        ("other bytes", Kind::FileHash, &|f| f.edit_manifest(4, |m| m["files"][0]["bytes"] = json!(1))),
        ("another clock", Kind::Clock, &|f| f.edit_manifest(4, |m| m["first_hlc"] = json!("5"))),
        ("another time", Kind::Clock, &|f| f.edit_manifest(4, |m| m["last_wall"] = json!("2020-01-01T00:00:00.000Z"))),
        ("more alive", Kind::Fingerprint, &|f| f.edit_manifest(4, |m| m["namespaces"][0]["alive"] = json!(9))),
        ("another fingerprint", Kind::Fingerprint, &|f| {
            f.edit_manifest(4, |m| m["namespaces"][0]["fingerprint"] = json!("0".repeat(64)));
        }),
        ("complete after all", Kind::Namespaces, &|f| {
            f.edit_manifest(4, |m| m["namespaces"][2]["complete"] = json!(true));
        }),
        ("a namespace is gone", Kind::Namespaces, &|f| {
            f.edit_manifest(4, |m| drop(m["namespaces"].as_array_mut().expect("array").pop()));
        }),
        ("a gap is gone", Kind::Gaps, &|f| f.edit_manifest(4, |m| m["gaps"] = json!([]))),
        ("a gap that closed is open", Kind::Gaps, &|f| f.edit_manifest(4, |m| m["gaps"][0]["until_lsn"] = Value::Null)),
        ("a gap closed later", Kind::Gaps, &|f| f.edit_manifest(4, |m| m["gaps"][0]["until_lsn"] = json!(19))),
        ("a comparison is gone", Kind::Gaps, &|f| f.edit_manifest(4, |m| m["reconciled"] = json!([]))),
        ("a comparison found nothing", Kind::Gaps, &|f| {
            f.edit_manifest(4, |m| m["reconciled"][0]["differing"] = json!(0));
        }),
        ("a gap began later", Kind::Gaps, &|f| f.edit_manifest(4, |m| m["gaps"][0]["since_lsn"] = json!(15))),
    ]);
}

#[test]
fn lines() {
    table(&[
        ("a line is gone", Kind::Lsn, &|f| f.edit_lines(2, |l| drop(l.remove(1)))),
        ("the last line is gone", Kind::Counts, &|f| f.edit_lines(2, |l| drop(l.pop()))),
        ("a line twice", Kind::Lsn, &|f| f.edit_lines(2, |l| l.insert(1, l[1].clone()))),
        ("one line more", Kind::Lsn, &|f| f.edit_lines(1, |l| l.push(l[0].clone()))),
        ("two lines swapped", Kind::Lsn, &|f| f.edit_lines(2, |l| l.swap(0, 1))),
        ("no newline at the end", Kind::LineForm, &|f| f.edit_bytes(2, |b| b.truncate(b.len() - 1))),
        ("a line cut short", Kind::LineForm, &|f| f.edit_lines(2, |l| l[0].truncate(40))),
        ("a field more", Kind::LineForm, &|f| f.edit_line(2, 0, |l| l["more"] = json!(1))),
        ("another log", Kind::LineForm, &|f| f.edit_line(2, 0, |l| l["log"] = json!("00"))),
        ("another text", Kind::ImageHash, &|f| f.replace(2, "blue", "grey")),
        ("another number", Kind::ImageHash, &|f| f.edit_line(2, 0, |l| l["after"]["n"] = json!({"$numberInt": "7"}))),
        ("another hash", Kind::ImageHash, &|f| f.edit_line(2, 0, |l| l["after_sha256"] = json!("00".repeat(32)))),
        ("no image", Kind::ImageHash, &|f| f.edit_line(2, 0, |l| l["after"] = Value::Null)),
    ]);
}

#[test]
fn resealed() {
    let hashed = |f: &Forge, window: u64, line: usize, edit: &dyn Fn(&mut Value)| {
        f.edit_line(window, line, |l| {
            edit(l);
            rehash(l);
        });
        f.reseal();
    };
    table(&[
        ("two lines swapped", Kind::Lsn, &|f| (f.edit_lines(2, |l| l.swap(0, 1)), f.reseal()).1),
        ("the last window's line is gone", Kind::Lsn, &|f| (f.edit_lines(4, |l| drop(l.pop())), f.reseal()).1),
        ("another seq", Kind::Seq, &|f| hashed(f, 2, 0, &|l| l["seq"] = json!(9))),
        ("a seq again", Kind::Seq, &|f| hashed(f, 2, 2, &|l| l["seq"] = json!(1))),
        ("another epoch that goes on", Kind::Seq, &|f| hashed(f, 2, 2, &|l| l["epoch"] = json!(2))),
        ("another namespace", Kind::Seq, &|f| hashed(f, 2, 2, &|l| l["ns"] = json!("shop.others"))),
        ("another hash of the change", Kind::ChangeHash, &|f| {
            f.edit_line(2, 0, |l| l["change_hash"] = json!("00".repeat(32)));
            f.reseal();
        }),
        ("the id of another", Kind::Id, &|f| hashed(f, 2, 0, &|l| l["id"] = json!({"$numberInt": "77"}))),
        ("another operation", Kind::Op, &|f| hashed(f, 2, 0, &|l| l["op"] = json!("update"))),
        ("another before", Kind::Chain, &|f| {
            hashed(f, 2, 2, &|l| {
                let other = l["after"].clone();
                l["before"] = other;
                l["before_sha256"] = l["after_sha256"].clone();
            });
        }),
        ("no before", Kind::Chain, &|f| {
            hashed(f, 2, 2, &|l| (l["before"], l["before_sha256"]) = (Value::Null, Value::Null));
        }),
        ("the clock goes back", Kind::Clock, &|f| hashed(f, 2, 1, &|l| l["hlc"] = json!("5"))),
        ("half of a transaction", Kind::Transaction, &|f| hashed(f, 2, 1, &|l| l["txn"] = Value::Null)),
        ("a transaction that begins in the middle", Kind::Transaction, &|f| {
            hashed(f, 2, 0, &|l| l["txn"]["index"] = json!(2));
        }),
        ("a transaction that is larger", Kind::Transaction, &|f| hashed(f, 2, 1, &|l| l["txn"]["count"] = json!(3))),
        ("two transactions mixed", Kind::Transaction, &|f| hashed(f, 2, 1, &|l| l["txn"]["txn_number"] = json!(9))),
        ("a transaction that is not joined", Kind::Transaction, &|f| {
            hashed(f, 2, 0, &|l| l["continued"] = json!(false));
        }),
        ("an update that changes nothing", Kind::Op, &|f| {
            hashed(f, 2, 2, &|l| (l["after"], l["after_sha256"]) = (l["before"].clone(), l["before_sha256"].clone()));
        }),
        ("observed without a word", Kind::Op, &|f| hashed(f, 2, 2, &|l| l["op"] = json!("observed"))),
        ("a batch that goes on", Kind::Batch, &|f| hashed(f, 1, 3, &|l| l["continued"] = json!(true))),
        ("another image, all hashes mended", Kind::Fingerprint, &|f| {
            f.edit_line(4, 0, |l| {
                let document = bson::doc! { "_id": 9, "text": "red", "n": 100 };
                l["after"] = bson::Bson::from(document.clone()).into_canonical();
                l["after_sha256"] = json!(forge::sha(&document.to_vec().expect("bson")));
                rehash(l);
            });
            f.reseal();
        }),
    ]);
}

trait Canonical {
    fn into_canonical(self) -> Value;
}

impl Canonical for bson::Bson {
    /// Canonical Extended JSON of the few types used here.
    fn into_canonical(self) -> Value {
        match self {
            Self::Document(d) => Value::Object(d.into_iter().map(|(k, v)| (k, v.into_canonical())).collect()),
            Self::Int32(n) => json!({ "$numberInt": n.to_string() }),
            Self::String(text) => json!(text),
            other => panic!("{other}"),
        }
    }
}
