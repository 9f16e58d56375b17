//! What becomes of files: merged into others whose rows are the same, or taken out of the table.

use super::log::Commit;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The fate of each file that a commit names.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// No longer in the table (or not all its rows): the commit that did it, and its operation.
    out: HashMap<String, (u64, String)>,
    /// Of those the ones whose rows the commit put into other files.
    merged: HashMap<String, u64>,
    merges: BTreeMap<u64, Merge>,
    /// Size and rows.
    told: HashMap<String, (u64, Option<u64>)>,
}

/// What a commit that merges files made of them.
#[derive(Debug, Default)]
struct Merge {
    into: Vec<String>,
    /// Rows before and after, where they are told and not the same.
    uneven: Option<(u64, u64)>,
}

impl Ledger {
    /// Takes a commit in.
    pub(super) fn take(&mut self, commit: &Commit) {
        let merged: Vec<&str> = commit.removes.iter().filter(|r| !r.data_change).map(|r| r.path.as_str()).collect();
        let before = self.rows(&merged);
        for remove in &commit.removes {
            self.put_out(&remove.path, commit);
        }
        for path in &merged {
            self.merged.insert((*path).to_owned(), commit.version);
        }
        for add in &commit.adds {
            self.out.remove(&add.path);
            self.merged.remove(&add.path);
            let whole = add.deletion_vector.is_none();
            self.told.insert(add.path.clone(), (add.size, add.rows().filter(|_| whole)));
            if !whole {
                self.put_out(&add.path, commit);
            }
        }
        if !merged.is_empty() {
            let into: Vec<String> = commit.adds.iter().filter(|a| !a.data_change).map(|a| a.path.clone()).collect();
            let after = self.rows(&into.iter().map(String::as_str).collect::<Vec<_>>());
            let uneven = before.zip(after).filter(|(before, after)| before != after);
            self.merges.insert(commit.version, Merge { into, uneven });
        }
    }

    fn put_out(&mut self, path: &str, commit: &Commit) {
        self.merged.remove(path);
        self.out.insert(path.to_owned(), (commit.version, commit.operation.clone()));
    }

    /// Rows of files together; `None`: not told of each.
    fn rows(&self, paths: &[&str]) -> Option<u64> {
        paths.iter().map(|path| self.told.get(*path)?.1).sum()
    }

    /// The commit that put the rows of a file into others.
    pub(super) fn is_merged(&self, path: &str) -> bool {
        self.merged.contains_key(path)
    }

    /// What took rows of a file out of the table, if something did. `seen`: the merges on the way.
    pub(super) fn lost(&self, path: &str, seen: &mut BTreeSet<u64>) -> Option<String> {
        let (version, operation) = self.out.get(path)?;
        let told = || Some(format!("commit {version} ({operation}) took rows of it out of the table"));
        let Some(merge) = self.merged.get(path) else { return told() };
        if !seen.insert(*merge) {
            return None;
        }
        let merge = self.merges.get(merge)?;
        if let Some((before, after)) = merge.uneven {
            return Some(format!("commit {version} ({operation}) made {after} rows of {before}"));
        }
        if merge.into.is_empty() { told() } else { merge.into.iter().find_map(|path| self.lost(path, seen)) }
    }

    /// The files of the table that these merges made: path and size.
    pub(super) fn made<'l>(&'l self, merges: &'l BTreeSet<u64>) -> impl Iterator<Item = (&'l str, u64)> {
        let into = merges.iter().filter_map(|version| self.merges.get(version)).flat_map(|merge| &merge.into);
        into.filter(|path| !self.out.contains_key(*path))
            .filter_map(|path| Some((path.as_str(), self.told.get(path)?.0)))
    }
}
