//! What a table's transaction log says: its version, protocol, schema, and how far the applications have come.
//!
//! Source: the Delta protocol, "Delta Log Entries", "Checkpoints", "Last Checkpoint File". The newest complete checkpoint is read, and
//! the commits after it. V1 checkpoints, in one part or many, and V2 ones.
//!
//! Promises: nothing is guessed: a log with holes is an error.

use super::super::SinkError;
use super::super::object::remote::Remote;
use super::action::{self, Action, Protocol};
use super::checkpoint;
use crate::types::Digest;
use object_store::path::Path;
use serde_json::Value;
use std::collections::BTreeMap;

/// The log's folder.
pub(super) const FOLDER: &str = "_delta_log";
/// So many commits are read at once.
const AT_ONCE: usize = 32;

/// How far an application has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) version: i64,
    /// SHA-256 of the manifest, hex; `None`: the commit is behind a checkpoint.
    pub(super) sha: Option<String>,
}

/// A table at a version.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) version: u64,
    /// SHA-256 of the commit of that version; `None`: only its checkpoint is left.
    newest: Option<Digest>,
    pub(super) protocol: Option<Protocol>,
    pub(super) metadata: Option<Value>,
    /// Files were added, ever.
    pub(super) data: bool,
    pub(super) told: BTreeMap<String, Told>,
}

impl Table {
    /// Takes the actions of a commit or a checkpoint in.
    fn take(&mut self, actions: Vec<Action>) {
        let sha = actions.iter().filter_map(|a| a.commit_info.as_ref()).find_map(action::manifest_sha);
        for action in actions {
            self.protocol = action.protocol.or(self.protocol.take());
            self.metadata = action.meta_data.or(self.metadata.take());
            self.data |= action.add.is_some();
            if let Some(txn) = action.txn {
                self.told.insert(txn.app_id, Told { version: txn.version, sha: sha.clone() });
            }
        }
    }

    /// Takes the commit of the next version in.
    pub(super) fn commit(&mut self, remote: &Remote, version: u64, text: &[u8]) -> Result<(), SinkError> {
        self.take(parse(remote, &commit_name(version), text)?);
        (self.version, self.newest) = (version, Some(Digest::of(text)));
        Ok(())
    }

    /// Reads what was committed since.
    pub(super) fn advance(&mut self, remote: &Remote) -> Result<(), SinkError> {
        while let Some(text) = remote.get(&path(remote, &commit_name(self.version + 1)))? {
            self.commit(remote, self.version + 1, &text)?;
        }
        Ok(())
    }

    /// Whether the log still has the commit up to which it was read: a table that was removed or made anew has not.
    pub(super) fn stands(&self, remote: &Remote) -> Result<bool, SinkError> {
        let Some(newest) = self.newest else { return Ok(true) };
        let found = remote.get(&path(remote, &commit_name(self.version)))?;
        Ok(found.as_deref().map(Digest::of) == Some(newest))
    }
}

pub(super) fn path(remote: &Remote, name: &str) -> Path {
    remote.path(&format!("{FOLDER}/{name}"))
}

/// The name of a commit.
pub(super) fn commit_name(version: u64) -> String {
    format!("{version:020}.json")
}

/// A file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Commit,
    /// One of so many parts, and whether it is Parquet.
    Checkpoint(u64, bool),
}

fn kind(name: &str) -> Option<(u64, Kind)> {
    let (version, rest) = name.split_once('.')?;
    let version = (version.len() == 20).then(|| version.parse().ok())??;
    let parts: Vec<_> = rest.split('.').collect();
    let kind = match *parts.as_slice() {
        ["json"] => Kind::Commit,
        ["checkpoint", "parquet"] | ["checkpoint", _, "parquet"] => Kind::Checkpoint(1, true),
        ["checkpoint", _, "json"] => Kind::Checkpoint(1, false),
        ["checkpoint", _, of, "parquet"] => Kind::Checkpoint(of.parse().ok()?, true),
        _ => return None,
    };
    Some((version, kind))
}

/// The table; `None`: there is none.
pub(super) fn read(remote: &Remote) -> Result<Option<Table>, SinkError> {
    let hint = remote.get(&path(remote, "_last_checkpoint"))?;
    let hint = hint.and_then(|text| serde_json::from_slice::<Value>(&text).ok()?.get("version")?.as_u64());
    let mut names = remote.names_after(FOLDER, &format!("{:020}.", hint.unwrap_or(0)))?;
    if hint.is_some() && newest_checkpoint(&names).is_none() {
        // The hint is wrong, or about a checkpoint that is gone.
        names = remote.names_after(FOLDER, "")?;
    }
    let files: Vec<_> = names.iter().filter_map(|name| kind(name)).collect();
    let mut table = Table::default();
    let mut next = 0;
    if let Some((version, checkpoint)) = newest_checkpoint(&names) {
        for name in checkpoint {
            let bytes = remote.get_all(&[path(remote, &name)])?.pop().unwrap_or_default();
            table.take(match kind(&name) {
                Some((_, Kind::Checkpoint(_, false))) => parse(remote, &name, &bytes)?,
                _ => checkpoint::actions(bytes).map_err(|why| broken(remote, &format!("{name}: {why}")))?,
            });
        }
        (table.version, next) = (version, version + 1);
    } else if files.is_empty() {
        return Ok(None);
    }
    let commits: Vec<_> = files.iter().filter(|(v, k)| *k == Kind::Commit && *v >= next).map(|(v, _)| *v).collect();
    for (expected, found) in (next..).zip(&commits) {
        if expected != *found {
            return Err(broken(remote, &format!("{} is not there", commit_name(expected))));
        }
    }
    for some in commits.chunks(AT_ONCE) {
        let paths: Vec<_> = some.iter().map(|version| path(remote, &commit_name(*version))).collect();
        for (version, text) in some.iter().zip(remote.get_all(&paths)?) {
            table.commit(remote, *version, &text)?;
        }
    }
    if table.newest.is_none() {
        table.newest = remote.get(&path(remote, &commit_name(table.version)))?.as_deref().map(Digest::of);
    }
    Ok(Some(table))
}

/// The newest checkpoint of which all parts are there: its version and names.
fn newest_checkpoint(names: &[String]) -> Option<(u64, Vec<String>)> {
    let mut found: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    for name in names {
        if let Some((version, Kind::Checkpoint(parts, _))) = kind(name) {
            found.entry((version, parts)).or_default().push(name.clone());
        }
    }
    // Of several in one part each is a whole one.
    let whole = found.into_iter().rev().find(|((_, parts), names)| *parts == 1 || names.len() as u64 == *parts);
    let ((version, parts), mut names) = whole?;
    names.truncate(usize::try_from(parts).unwrap_or(usize::MAX));
    Some((version, names))
}

fn parse(remote: &Remote, name: &str, text: &[u8]) -> Result<Vec<Action>, SinkError> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let parsed: Result<_, _> = lines.map(serde_json::from_slice).collect();
    parsed.map_err(|error| broken(remote, &format!("{name}: {error}")))
}

fn broken(remote: &Remote, what: &str) -> SinkError {
    let place = remote.url();
    SinkError::Refused(format!(
        "{}: the table's log ({FOLDER}) cannot be read: {what}; mend the table, or choose another `url`",
        place.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| format!("{:020}{name}", 7)).collect()
    }

    #[test]
    fn names_of_the_log() {
        let all =
            [".json", ".checkpoint.parquet", ".checkpoint.80a083e8-7026.json", ".checkpoint.80a083e8-7026.parquet"];
        let kinds: Vec<_> = names(&all).iter().map(|name| kind(name).unwrap().1).collect();
        let checkpoint = Kind::Checkpoint;
        assert_eq!(kinds, [Kind::Commit, checkpoint(1, true), checkpoint(1, false), checkpoint(1, true)]);
        let parts = ".checkpoint.0000000001.0000000003.parquet";
        assert_eq!(kind(&names(&[parts])[0]), Some((7, checkpoint(3, true))));
        for other in [".crc", ".json.tmp", ".00000000000000000009.compacted.json"] {
            assert_eq!(kind(&names(&[other])[0]), None, "{other}");
        }
        assert_eq!((kind("_last_checkpoint"), kind("7.json")), (None, None));
    }

    #[test]
    fn a_checkpoint_is_taken_when_it_is_whole() {
        let parts = names(&[".checkpoint.0000000001.0000000002.parquet", ".checkpoint.0000000002.0000000002.parquet"]);
        assert_eq!(newest_checkpoint(&parts), Some((7, parts.clone())));
        assert_eq!(newest_checkpoint(&parts[1..]), None);
        let several = names(&[".checkpoint.a.json", ".checkpoint.b.parquet"]);
        assert_eq!(newest_checkpoint(&several), Some((7, several[..1].to_vec())));
        let mut with_older = vec![format!("{:020}.checkpoint.parquet", 3)];
        with_older.extend(parts[1..].to_vec());
        assert_eq!(newest_checkpoint(&with_older), Some((3, with_older[..1].to_vec())));
    }
}
