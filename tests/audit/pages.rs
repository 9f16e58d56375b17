//! The reference pages of the record and the manifest name exactly the fields that the exporter writes, in their order.

use crate::export::{self, export};
use bson::RawBson;
use bytes::Bytes;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tidelog::disk::Disk as _;
use tidelog::format::jsonl::{Bson, Lines};
use tidelog::types::{Body, Change, Control, EntityKey, Epoch, Hlc, Image, LogId, Lsn, Namespace, Op, Record, Seq};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docs").join(name);
    fs::read_to_string(path).expect("a page")
}

/// The rows of the table that begins with `| head |`, cell by cell.
fn rows(page: &str, head: &str) -> Vec<Vec<String>> {
    let (_, table) = page.split_once(&format!("| {head} |")).expect("the table");
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn first_column(page: &str, head: &str) -> Vec<String> {
    rows(page, head).iter().flat_map(|row| quoted(&row[0])).collect()
}

fn keys(value: &Value) -> Vec<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

fn line(body: Body) -> Value {
    let record = Record { lsn: Lsn(1), hlc: Hlc(1), wall_ms: 0, continued: false, body };
    let mut out = Vec::new();
    Lines::new(LogId([1; 16]), Bson::Always).line(&mut out, &record);
    serde_json::from_slice(&out).expect("json")
}

#[test]
fn the_page_of_the_record() {
    let image = Image::new(Bytes::copy_from_slice(bson::rawdoc! { "_id": 1 }.as_bytes()));
    // Has no exact text, so that `id_bson` is there.
    let id = RawBson::Double(f64::from_bits(0x7ff8_0000_0000_0001));
    let change = Change {
        before_sha: Some(image.sha()),
        before: Some(image.clone()),
        after: Some(image),
        ..Change::new(Namespace::new("d", "c"), id, EntityKey([1].as_slice().into()), (Epoch(1), Seq(1)), Op::Update)
    };
    let line = line(Body::Change(Box::new(change)));
    assert_eq!(first_column(&page("record.md"), "field"), keys(&line));
    let origin = rows(&page("record.md"), "field").iter().find(|row| row[0] == "`origin`").expect("origin")[1].clone();
    for field in keys(&line["origin"]) {
        assert!(origin.contains(&format!("\"{field}\"")), "origin.{field} is not told");
    }
}

#[test]
fn the_page_tells_each_control_record() {
    let (ns, to, options) = (Namespace::new("d", "c"), Namespace::new("d", "e"), "{}".to_owned());
    let facts = [
        Control::Started { version: "1".into() },
        Control::Opened { ns: ns.clone(), complete: true },
        Control::Completed { ns: ns.clone() },
        Control::Reconciled { ns: ns.clone(), whole: true, entities: 1, differing: 0, repaired: 0 },
        Control::Node { process: String::new(), term: 1, rbid: 1, epoch: Epoch(1), unproven: Lsn(0) },
        Control::Create { ns: ns.clone(), options: options.clone() },
        Control::CollMod { ns: ns.clone(), options },
        Control::Drop { ns: ns.clone() },
        Control::DropDatabase { db: "d".into() },
        Control::Rename { from: ns.clone(), to },
        Control::GapOpened { id: 1, ns, cause: "out".into(), detail: String::new() },
        Control::GapClosed { id: 1 },
    ];
    let page = page("record.md");
    let told: Vec<(String, Vec<String>)> =
        rows(&page, "`control`").iter().map(|row| (quoted(&row[0]).remove(0), quoted(&row[1]))).collect();
    let written = facts.into_iter().map(|fact| {
        let line = line(Body::Control(fact));
        let common = ["log", "lsn", "control", "hlc", "wall", "continued"];
        let fields = keys(&line).into_iter().filter(|key| !common.contains(&key.as_str())).collect();
        (line["control"].as_str().expect("text").to_owned(), fields)
    });
    assert_eq!(told, written.collect::<Vec<_>>());
}

#[test]
fn the_page_of_the_manifest() {
    let bytes = export().read(&export::dir().join("window-0000000004/manifest.json")).expect("read");
    let manifest: Value = serde_json::from_slice(&bytes).expect("json");
    let page = page("manifest.md");
    assert_eq!(first_column(&page, "field"), keys(&manifest));
    for part in ["files", "namespaces", "gaps", "reconciled"] {
        assert_eq!(first_column(&page, &format!("in `{part}`")), keys(&manifest[part][0]), "{part}");
    }
}
