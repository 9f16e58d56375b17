//! Reading the commits of a table's transaction log, as far as the audit must know them.
//!
//! Source: the Delta protocol, "Delta Log Entries", "Actions", <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>.

use super::super::window::at;
use super::super::{Kind, Stop, Wrong, expect};
use crate::disk::Disk;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::path::Path;

/// The log's folder.
pub(super) const FOLDER: &str = "_delta_log";

/// A line of a commit. Others than these fields are of no matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Action {
    txn: Option<Txn>,
    add: Option<Add>,
    remove: Option<Remove>,
    commit_info: Option<Value>,
}

/// How far an application has come.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
}

/// A file that a commit adds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    pub(super) path: String,
    pub(super) size: u64,
    /// False: its rows were in the table before.
    pub(super) data_change: bool,
    stats: Option<String>,
    /// There: some of its rows are deleted.
    pub(super) deletion_vector: Option<IgnoredAny>,
}

impl Add {
    /// The rows that its statistics tell.
    pub(super) fn rows(&self) -> Option<u64> {
        serde_json::from_str::<Value>(self.stats.as_deref()?).ok()?.get("numRecords")?.as_u64()
    }
}

/// A file that a commit takes out of the table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub(super) path: String,
    /// False: its rows are in files that the same commit adds.
    pub(super) data_change: bool,
}

/// A commit.
#[derive(Debug, Default)]
pub(super) struct Commit {
    pub(super) version: u64,
    /// As its writer names it.
    pub(super) operation: String,
    /// The transaction of a sink of ours.
    pub(super) txn: Option<Txn>,
    /// What a sink of ours tells of the window.
    pub(super) about: Option<Value>,
    pub(super) adds: Vec<Add>,
    pub(super) removes: Vec<Remove>,
}

/// The name of a commit, from the table's folder on.
pub(super) fn name(version: u64) -> String {
    format!("{FOLDER}/{version:020}.json")
}

/// Hands over the commits that are there, in order. Tells whether there were others before, behind a checkpoint.
pub(super) fn read(disk: &dyn Disk, root: &Path, each: &mut dyn FnMut(Commit)) -> Result<bool, Stop> {
    let names = disk.list(&root.join(FOLDER))?;
    let versions: Vec<u64> = names.iter().filter_map(|name| version_of(name.strip_suffix(".json")?)).collect();
    let checkpoint = names.iter().filter(|name| name.contains(".checkpoint.")).filter_map(|name| name.get(..20));
    let checkpoint = checkpoint.filter_map(version_of).max();
    let first = versions.first().copied().unwrap_or(0);
    let known = first == 0 || checkpoint.is_some_and(|version| version + 1 >= first);
    let lost = |version: u64, what: &str| Wrong { kind: Kind::Commit, what: format!("{}: {what}", name(version)) };
    if !known {
        return Err(at(0, None, None)(lost(first - 1, "it is not there, and no checkpoint is")));
    }
    for (expected, version) in (first..).zip(versions) {
        let there = expected == version;
        expect(there, Kind::Commit, || format!("{}: it is not there", name(expected))).map_err(at(0, None, None))?;
        let text = disk.read(&root.join(name(version)))?;
        each(parse(version, &text).map_err(|e| at(0, None, None)(lost(version, &e.to_string())))?);
    }
    Ok(first > 0)
}

fn version_of(digits: &str) -> Option<u64> {
    (digits.len() == 20).then(|| digits.parse().ok())?
}

fn parse(version: u64, text: &[u8]) -> serde_json::Result<Commit> {
    let mut commit = Commit { version, ..Commit::default() };
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let action: Action = serde_json::from_slice(line)?;
        commit.txn = action.txn.filter(|txn| txn.app_id.starts_with("tidelog:")).or(commit.txn.take());
        commit.adds.extend(action.add);
        commit.removes.extend(action.remove);
        if let Some(info) = action.commit_info {
            let text = |name: &str| info.get(name).and_then(Value::as_str);
            text("operation").unwrap_or("an operation without a name").clone_into(&mut commit.operation);
            let about = text("userMetadata").and_then(|text| serde_json::from_str::<Value>(text).ok());
            commit.about = about.filter(|about| about.get("manifest_sha256").is_some());
        }
    }
    Ok(commit)
}
