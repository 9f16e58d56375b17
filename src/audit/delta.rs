//! A Delta Lake table read as the export folder that it is one of: windows and amendments of its commits, each with its manifest and its files.
//!
//! Promises: it shows what the commits say is in the table and nothing else (not what killed tries left), so that all rules of folders
//! hold for it; and it checks what only a table has: each window is committed once and in order by one sink of one log, and its commit
//! says of manifest and files what they are.
//!
//! Does not: read checkpoints, or the files that OPTIMIZE made. Where the files of a window were merged and removed, its manifest and its
//! commit are what is left of it; where its commit is behind a checkpoint too, its manifest.

mod ledger;
mod log;

use super::manifest::{self, Manifest};
use super::window::{at, id_of, whole};
use super::{Kind, Stop, Wrong, expect, wrong};
use crate::disk::{Disk, DiskFile, Lock};
use ledger::Ledger;
use log::{Add, Commit};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the manifests.
const MANIFESTS: &str = "_tidelog";
const ENDING: &str = ".manifest.json";

/// A table.
#[derive(Debug)]
pub(super) struct Table<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    folders: BTreeMap<String, Folder>,
    ledger: Ledger,
    /// `appId` of the windows' transactions.
    app: Option<String>,
    /// The window committed last.
    last: Option<u64>,
    /// What is wrong with the commits of a window.
    wrong: BTreeMap<u64, Wrong>,
}

/// A window or an amendment.
#[derive(Debug)]
struct Folder {
    /// Where its files are, from the table's folder on; `None`: nowhere.
    home: Option<String>,
    /// `None`: it was cleaned away behind a checkpoint.
    commit: Option<Told>,
}

/// What its commit says.
#[derive(Debug)]
struct Told {
    version: u64,
    about: Value,
    adds: Vec<Add>,
}

/// Opens `root` if it is a table.
pub(super) fn open<'a>(disk: &'a dyn Disk, root: &'a Path) -> Result<Option<Table<'a>>, Stop> {
    if !disk.exists(&root.join(log::FOLDER))? {
        return Ok(None);
    }
    let (folders, ledger, wrong) = (BTreeMap::new(), Ledger::default(), BTreeMap::new());
    let mut table = Table { disk, root, folders, ledger, app: None, last: None, wrong };
    if log::read(disk, root, &mut |commit| table.take(commit))? {
        table.behind_checkpoint()?;
    }
    table.manifests_are_there()?;
    Ok(Some(table))
}

impl Table<'_> {
    fn take(&mut self, commit: Commit) {
        self.ledger.take(&commit);
        if commit.txn.is_none() && commit.about.is_none() {
            return;
        }
        let of_txn = commit.txn.as_ref().and_then(|txn| u64::try_from(txn.version).ok());
        let window = commit.about.as_ref().and_then(|about| about.get("window")?.as_u64()).or(of_txn).unwrap_or(0);
        let version = commit.version;
        if let Err(mut wrong) = self.place(window, commit) {
            wrong.what = format!("{}: {}", log::name(version), wrong.what);
            self.wrong.entry(window).or_insert(wrong);
        }
    }

    /// Puts a window (an amendment) where its commit says that it is.
    fn place(&mut self, window: u64, commit: Commit) -> Result<(), Wrong> {
        let (Some(txn), Some(about)) = (&commit.txn, commit.about) else {
            return wrong(Kind::Commit, "it has a transaction of ours or our userMetadata, not both");
        };
        let text = |name: &str| about.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = about.get("amendment").and_then(Value::as_u64);
        let version = number.unwrap_or(window);
        let app = match number {
            None => Some(txn.app_id.as_str()),
            Some(_) => txn.app_id.strip_suffix(&format!(":amendments:{window}")),
        };
        let app = app.filter(|app| app.starts_with(&format!("tidelog:{}:", text("log"))));
        let same = app.is_some() && u64::try_from(txn.version) == Ok(version);
        let told = || format!("its transaction is {} of {}, not that of this window", txn.version, txn.app_id);
        expect(same, Kind::Commit, told)?;
        let known = self.app.get_or_insert_with(|| app.unwrap_or_default().to_owned());
        let other = || format!("it is of {}, the windows before of {known}", app.unwrap_or_default());
        expect(app == Some(known.as_str()), Kind::Commit, other)?;
        let name = folder_name(window, number);
        if let Some(before) = self.folders.get(&name).and_then(|folder| folder.commit.as_ref()) {
            return wrong(Kind::Commit, format!("{name} was committed before, with version {}", before.version));
        }
        let home = text("folder");
        let inside = home.strip_prefix(&format!("{name}/")).is_some_and(is_name);
        let fits = inside && text("manifest") == format!("{MANIFESTS}/{name}{ENDING}");
        expect(fits, Kind::Commit, || "its folder or its manifest is not one of this window".to_owned())?;
        let last = self.last.filter(|_| number.is_none());
        let (version, adds) = (commit.version, commit.adds);
        let folder = Folder { home: Some(home), commit: Some(Told { version, about, adds }) };
        self.folders.insert(name, folder);
        if number.is_none() {
            self.last = self.last.max(Some(window));
        }
        expect(commit.removes.is_empty(), Kind::Commit, || "it removes files".to_owned())?;
        let follows = last.is_none_or(|last| window > last);
        expect(follows, Kind::Commit, || format!("it comes after that of window {}", last.unwrap_or(0)))
    }

    /// Windows before the first one that a commit has, whose commits were cleaned away: as their manifests say.
    fn behind_checkpoint(&mut self) -> Result<(), Stop> {
        let first = self.folders.keys().filter_map(|name| id_of(name)).min();
        let path = self.root.join(MANIFESTS);
        let names = if self.disk.exists(&path)? { self.disk.list(&path)? } else { Vec::new() };
        for name in names.iter().filter_map(|name| name.strip_suffix(ENDING)) {
            if self.folders.contains_key(name) {
                continue;
            }
            let home = self.find(name)?;
            let amendment = name.contains(".amendment-") && home.is_some();
            if amendment || id_of(name).is_some_and(|id| first.is_none_or(|first| id < first)) {
                self.folders.insert(name.to_owned(), Folder { home, commit: None });
            }
        }
        Ok(())
    }

    /// The folder of the try whose files are those of the manifest; if there is none, one that has files of those names.
    fn find(&self, name: &str) -> Result<Option<String>, Stop> {
        let bytes = self.disk.read(&self.root.join(MANIFESTS).join(format!("{name}{ENDING}")))?;
        let dir = self.root.join(name);
        let Ok(manifest) = manifest::parse(&bytes) else { return Ok(None) };
        let tries = if self.disk.exists(&dir)? { self.disk.list(&dir)? } else { Vec::new() };
        let mut any = None;
        for found in tries {
            let home = dir.join(&found);
            let names = self.disk.list(&home)?;
            if !manifest.files.iter().all(|file| names.contains(&file.name)) {
                continue;
            }
            let home_name = format!("{name}/{found}");
            if self.has(&home, &manifest)? {
                return Ok(Some(home_name));
            }
            any.get_or_insert(home_name);
        }
        Ok(any)
    }

    fn has(&self, home: &Path, manifest: &Manifest) -> io::Result<bool> {
        for file in &manifest.files {
            if whole(self.disk, &home.join(&file.name))? != (file.bytes, file.sha256.clone()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn manifests_are_there(&mut self) -> io::Result<()> {
        for name in self.folders.keys() {
            let path = format!("{MANIFESTS}/{name}{ENDING}");
            let window = name.split('.').next().and_then(id_of).unwrap_or(0);
            if !self.disk.exists(&self.root.join(&path))? {
                let what = format!("{path}: its commit names it, it is not there");
                self.wrong.entry(window).or_insert(Wrong { kind: Kind::FileMissing, what });
            }
        }
        Ok(())
    }

    /// Nothing is wrong with the commits of this window; `None`: of any.
    pub(super) fn commits(&self, window: Option<u64>) -> Result<(), Stop> {
        let first = self.wrong.first_key_value().filter(|(first, _)| window.is_none_or(|window| **first <= window));
        first.map_or(Ok(()), |(window, Wrong { kind, what })| {
            Err(at(*window, None, None)(Wrong { kind: *kind, what: what.clone() }))
        })
    }

    /// The commit of a window (an amendment) says what its manifest is, and adds its files.
    pub(super) fn check(&self, dir: &Path, bytes: &[u8], sha: &str, manifest: &Manifest) -> Result<(), Wrong> {
        let Some(Folder { home: Some(home), commit: Some(told) }) = self.folder(dir) else { return Ok(()) };
        let here = |what: String| format!("{}: {what}", log::name(told.version));
        let of = |name: &str| told.about.get(name).cloned().unwrap_or_default();
        let found = of("manifest_sha256");
        expect(found == sha, Kind::Commit, || here(format!("its manifest_sha256 is {found}, the manifest has {sha}")))?;
        let tree: Value = serde_json::from_slice(bytes).unwrap_or_default();
        for name in ["log", "window", "amendment", "first_lsn", "last_lsn", "label"] {
            let same = of(name) == tree.get(name).cloned().unwrap_or_default();
            expect(same, Kind::Commit, || here(format!("its {name} is not the manifest's")))?;
        }
        for file in &manifest.files {
            let path = format!("{home}/{}", file.name);
            let Some(add) = told.adds.iter().find(|add| add.path == path) else {
                return wrong(Kind::Commit, here(format!("it does not add {path}")));
            };
            let same = add.size == file.bytes && add.rows() == Some(file.records) && add.data_change;
            let same = same && add.deletion_vector.is_none();
            expect(same, Kind::Commit, || {
                let rows = add.rows().map_or_else(|| "unknown".to_owned(), |rows| rows.to_string());
                let (size, bytes, records) = (add.size, file.bytes, file.records);
                here(format!("{path}: {size} bytes, rows {rows}; the manifest says {bytes} and {records}"))
            })?;
        }
        let (adds, files) = (told.adds.len(), manifest.files.len());
        expect(adds == files, Kind::Commit, || here(format!("it adds {adds} files, the manifest names {files}")))
    }

    /// A file that its manifest names is no longer there, because its rows were merged into others.
    pub(super) fn gone(&self, dir: &Path, name: &str) -> io::Result<bool> {
        let Some(folder) = self.folder(dir) else { return Ok(false) };
        let Some(home) = &folder.home else { return Ok(true) };
        let path = format!("{home}/{name}");
        Ok(self.ledger.is_merged(&path) && !self.disk.exists(&self.root.join(&path))?)
    }

    /// The commit of a window was cleaned away.
    pub(super) fn is_cleaned(&self, dir: &Path) -> bool {
        self.folder(dir).is_some_and(|folder| folder.commit.is_none())
    }

    /// At the end: all commits are right, and all rows that they added are in the table still.
    pub(super) fn end(&self) -> Result<(), Stop> {
        self.commits(None)?;
        let mut merges = BTreeSet::new();
        for (name, folder) in &self.folders {
            let window = name.split('.').next().and_then(id_of).unwrap_or(0);
            for add in folder.commit.iter().flat_map(|told| &told.adds) {
                if let Some(what) = self.ledger.lost(&add.path, &mut merges) {
                    return Err(at(window, Some(&add.path), None)(Wrong { kind: Kind::RowsRemoved, what }));
                }
            }
        }
        for (path, size) in self.ledger.made(&merges).filter(|(path, _)| !path.contains([':', '%'])) {
            let found = match self.disk.open_read(&self.root.join(path)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                file => Some(file?.len()?),
            };
            let what = || format!("files were merged into it; it has {found:?} bytes, its commit says {size}");
            expect(found == Some(size), Kind::FileMissing, what).map_err(at(0, Some(path), None))?;
        }
        Ok(())
    }

    /// Where a file of the view is, from the table's folder on.
    pub(super) fn shown(&self, window: u64, file: &str) -> Option<String> {
        let name = folder_name(window, None);
        let path = match file.split_once('/') {
            None => self.root.join(name).join(file),
            Some(_) => self.root.join(file),
        };
        let mapped = self.mapped(&path).ok()?;
        mapped.strip_prefix(self.root).ok()?.to_str().map(str::to_owned)
    }

    fn folder(&self, dir: &Path) -> Option<&Folder> {
        self.folders.get(dir.strip_prefix(self.root).ok()?.to_str()?)
    }

    fn mapped(&self, path: &Path) -> io::Result<PathBuf> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let inside = path.strip_prefix(self.root).ok().and_then(Path::to_str).ok_or_else(missing)?;
        let (name, file) = inside.split_once('/').ok_or_else(missing)?;
        let folder = self.folders.get(name).ok_or_else(missing)?;
        if file == "manifest.json" {
            return Ok(self.root.join(MANIFESTS).join(format!("{name}{ENDING}")));
        }
        let home = folder.home.as_ref().filter(|_| is_name(file)).ok_or_else(missing)?;
        Ok(self.root.join(home).join(file))
    }
}

/// A name that leads nowhere else.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('.') && !text.contains(['/', '\\'])
}

fn folder_name(window: u64, amendment: Option<u64>) -> String {
    let amendment = amendment.map(|number| format!(".amendment-{number:04}")).unwrap_or_default();
    format!("window-{window:010}{amendment}")
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

/// What an export folder would have.
impl Disk for Table<'_> {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if dir == self.root {
            return Ok(self.folders.keys().cloned().collect());
        }
        let Some(folder) = self.folder(dir) else { return Err(io::ErrorKind::NotFound.into()) };
        let mut names = vec!["manifest.json".to_owned()];
        match (&folder.home, &folder.commit) {
            (None, _) => {}
            (Some(home), None) => names.extend(self.disk.list(&self.root.join(home))?),
            (Some(_), Some(told)) => {
                for add in &told.adds {
                    if self.disk.exists(&self.root.join(&add.path))? {
                        names.extend(add.path.rsplit('/').next().map(str::to_owned));
                    }
                }
            }
        }
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.mapped(path).map_or(Ok(false), |path| self.disk.exists(&path))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(&self.mapped(path)?)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open_read(&self.mapped(path)?)
    }

    fn create_new(&self, _path: &Path) -> io::Result<Box<dyn DiskFile>> {
        read_only()
    }

    fn open_rw(&self, _path: &Path) -> io::Result<Box<dyn DiskFile>> {
        read_only()
    }

    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove_dir_all(&self, _dir: &Path) -> io::Result<()> {
        read_only()
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        read_only()
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        read_only()
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        read_only()
    }

    fn lock(&self, _path: &Path) -> io::Result<Lock> {
        read_only()
    }
}
