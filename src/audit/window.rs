//! The walk over the folder: windows in order, each manifest, each file, each line.

use super::amend;
use super::batch::Batch;
use super::begin;
use super::delta::Table;
use super::files::Lines;
use super::fold::Fold;
use super::line::Line;
use super::manifest::{self, File, Manifest, Missing};
use super::merge::{Broken, Merge, Place, Reading};
use super::newest::{Expected, Newest};
use super::{Finding, Kind, Stop, Verdict, Wrong, expect};
use crate::disk::Disk;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// An audit under way.
pub(super) struct Audit<'a> {
    pub(super) disk: &'a dyn Disk,
    /// What is read is a Delta table.
    pub(super) table: Option<&'a Table<'a>>,
    pub(super) dir: &'a Path,
    pub(super) fold: Fold,
    pub(super) batch: Batch,
    pub(super) verdict: Verdict,
    /// SHA-256 of the manifest before.
    pub(super) previous: Option<String>,
    /// The hybrid clock of the record before.
    pub(super) clock: u64,
}

/// Records by what they are about and by their word.
type Counts = BTreeMap<String, BTreeMap<String, u64>>;

/// What the lines of one window give.
#[derive(Default)]
struct Tally {
    records: u64,
    changes: u64,
    counts: Counts,
    /// hlc and wall time.
    first: Option<(String, String)>,
    last: Option<(String, String)>,
    continued: bool,
    /// The lsn that comes next, or later.
    next: u64,
    /// Records that the window lacks, met so far.
    skipped: usize,
    /// What its latest files must hold, if it has them.
    newest: Option<Newest>,
}

impl Audit<'_> {
    pub(super) fn run(&mut self, progress: &mut dyn FnMut(&Verdict)) -> Result<(), Stop> {
        let names = self.disk.list(self.dir)?;
        let (amendments, mut windows): (Vec<&String>, Vec<&String>) =
            names.iter().filter(|name| name.starts_with("window-")).partition(|name| name.contains(".amendment-"));
        let mark = names.iter().any(|name| name == "tidelog.json");
        if windows.is_empty() && !mark {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no windows here: is this an export folder, or a table of a Delta sink?",
            )
            .into());
        }
        let told = begin::told(self.disk, self.dir)?;
        if let Some((first, _)) = &told {
            // What stands before the first is being removed.
            windows.retain(|name| id_of(name).is_none_or(|id| id >= *first));
        }
        let first = match &told {
            Some((first, log)) => self.begins_at(*first, log, windows.first())?,
            None => self.begins(windows.first())?,
        };
        if let Err(missing) = Self::places(first, &windows) {
            // Of a table: why the window is not there.
            self.table.map_or(Ok(()), |table| table.commits(None))?;
            return Err(missing);
        }
        for (number, name) in (first..).zip(&windows) {
            let dir = self.dir.join(name);
            self.table.map_or(Ok(()), |table| table.commits(Some(number)))?;
            if !self.disk.exists(&dir.join("manifest.json"))? {
                if number + 1 == first + windows.len() as u64 {
                    self.verdict.unfinished = Some(number);
                    break;
                }
                let what = "it has no manifest, but later windows are there".to_owned();
                return Err(at(number, None, None)(Wrong { kind: Kind::WindowMissing, what }));
            }
            let missing = self.window(number, &dir)?;
            amend::check(self, number, missing, &amendments)?;
            progress(&self.verdict);
        }
        self.table.map_or(Ok(()), Table::end)?;
        if mark && !self.verdict.log.is_empty() { self.mark() } else { Ok(()) }
    }

    /// Names must be those of windows `first`, `first` + 1 …
    fn places(first: u64, windows: &[&String]) -> Result<(), Stop> {
        for (number, name) in (first..).zip(windows) {
            if **name == format!("window-{number:010}") {
                continue;
            }
            let (kind, what) = match id_of(name) {
                Some(id) if id > number => (Kind::WindowMissing, format!("it is not there, but {name} is")),
                _ => (Kind::WindowExtra, format!("{name} is not the name of a window")),
            };
            return Err(at(number, None, None)(Wrong { kind, what }));
        }
        Ok(())
    }

    fn mark(&self) -> Result<(), Stop> {
        let text = self.disk.read(&self.dir.join("tidelog.json"))?;
        let log = serde_json::from_slice::<serde_json::Value>(&text).ok();
        let log = log.as_ref().and_then(|v| v.get("log")?.as_str()).unwrap_or("(unreadable)");
        let what = || format!("it says log {log}, the windows are of {}", self.verdict.log);
        expect(log == self.verdict.log, Kind::Mark, what).map_err(at(0, Some("tidelog.json"), None))
    }

    /// Checks a window; tells what it lacks.
    fn window(&mut self, number: u64, dir: &Path) -> Result<Vec<Missing>, Stop> {
        let in_manifest = || at(number, Some("manifest.json"), None);
        let bytes = self.disk.read(&dir.join("manifest.json"))?;
        let manifest = manifest::parse(&bytes).map_err(in_manifest())?;
        self.identity(number, &manifest).map_err(in_manifest())?;
        let sha = hex::encode(Sha256::digest(&bytes));
        self.committed(number, dir, (&bytes, &sha), &manifest)?;
        self.files(number, dir, &manifest)?;
        let newest = (!manifest.parts().1.is_empty()).then(Newest::default);
        let mut tally = Tally { newest, ..Tally::default() };
        if self.lacks(dir, &manifest)? {
            self.merged(number, dir, &manifest, &mut tally)?;
        } else if manifest.is_read() {
            if manifest.is_table() {
                self.bytes(number, dir, &manifest)?;
            }
            self.lines(number, dir, &manifest, &mut tally)?;
            self.skip(&manifest, &mut tally, u64::MAX).map_err(in_manifest())?;
            self.totals(&manifest, &tally).map_err(in_manifest())?;
            if let Some(newest) = tally.newest.take() {
                self.latest(number, dir, &manifest, newest.settle())?;
            }
        } else {
            self.bytes(number, dir, &manifest)?;
            tally.records = manifest.records;
            self.verdict.unread += 1;
        }
        let verdict = &mut self.verdict;
        verdict.log = manifest.log;
        verdict.windows += 1;
        verdict.records += tally.records;
        verdict.changes += tally.changes;
        verdict.last_lsn = manifest.last_lsn;
        verdict.last_manifest_sha256.clone_from(&sha);
        self.previous = Some(sha);
        Ok(manifest.missing)
    }

    /// Of a table: the commit says of the manifest and the files what they are.
    pub(super) fn committed(
        &mut self,
        number: u64,
        dir: &Path,
        (bytes, sha): (&[u8], &str),
        manifest: &Manifest,
    ) -> Result<(), Stop> {
        let Some(table) = self.table else { return Ok(()) };
        self.verdict.cleaned += u64::from(table.is_cleaned(dir) && manifest.amendment.is_none());
        table.check(dir, bytes, sha, manifest).map_err(at(number, None, None))
    }

    /// A file is gone because OPTIMIZE put its rows into others.
    fn gone(&self, dir: &Path, file: &File) -> io::Result<bool> {
        self.table.map_or(Ok(false), |table| table.gone(dir, &file.name))
    }

    /// Some of the files are gone.
    pub(super) fn lacks(&self, dir: &Path, manifest: &Manifest) -> io::Result<bool> {
        manifest.files.iter().try_fold(false, |lacks, file| Ok(lacks || self.gone(dir, file)?))
    }

    /// A window whose files are gone: what is left of them is proved, and the fold goes on from the manifest's totals.
    fn merged(&mut self, number: u64, dir: &Path, manifest: &Manifest, tally: &mut Tally) -> Result<(), Stop> {
        self.bytes(number, dir, manifest)?;
        tally.records = manifest.records;
        tally.changes = changes_of(&manifest.counts).values().flat_map(BTreeMap::values).sum();
        self.verdict.merged += 1;
        self.fold.resume(&manifest.namespaces, &manifest.gaps);
        Ok(())
    }

    /// The files are those of the manifest.
    pub(super) fn files(&self, number: u64, dir: &Path, manifest: &Manifest) -> Result<(), Stop> {
        let names = self.disk.list(dir)?;
        let known = |name: &String| name == "manifest.json" || manifest.files.iter().any(|f| f.name == *name);
        if let Some(extra) = names.iter().find(|name| !known(name)) {
            let what = "the manifest does not name it".to_owned();
            return Err(at(number, Some(extra), None)(Wrong { kind: Kind::FileExtra, what }));
        }
        for file in &manifest.files {
            if !names.contains(&file.name) && !self.gone(dir, file)? {
                let what = "the manifest names it, it is not there".to_owned();
                return Err(at(number, Some(&file.name), None)(Wrong { kind: Kind::FileMissing, what }));
            }
        }
        Ok(())
    }

    fn identity(&self, number: u64, manifest: &Manifest) -> Result<(), Wrong> {
        let found = manifest.window;
        let same = found == number && manifest.amendment.is_none();
        expect(same, Kind::ManifestIdentity, || format!("it says window {found}"))?;
        let ours = &self.verdict.log;
        let same = ours.is_empty() || manifest.log == *ours;
        expect(same, Kind::ManifestIdentity, || {
            format!("it is of log {}, the windows before of {ours}", manifest.log)
        })?;
        let show = |sha: &Option<String>| sha.clone().unwrap_or_else(|| "none".into());
        expect(manifest.previous_manifest_sha256 == self.previous, Kind::ManifestChain, || {
            let told = show(&manifest.previous_manifest_sha256);
            format!("it says that the manifest before has SHA-256 {told}, it has {}", show(&self.previous))
        })?;
        let next = self.verdict.last_lsn + 1;
        let (first, last) = (manifest.first_lsn, manifest.last_lsn);
        let range = last + 1 - first.min(last + 1);
        let told = manifest.records + manifest.missing.len() as u64;
        let range = first == next && if manifest.is_whole() { range == told } else { range >= told };
        expect(range, Kind::Lsn, || format!("lsn {first} to {last}, {} records, after {}", manifest.records, next - 1))
    }

    /// Reads the lines of the history in the order of the log.
    fn lines(&mut self, number: u64, dir: &Path, manifest: &Manifest, tally: &mut Tally) -> Result<(), Stop> {
        let reading = Reading { prints: tally.newest.is_some(), envelope: manifest.is_enveloped() };
        if manifest.is_enveloped() {
            self.fold.loosen(&manifest.counts);
            self.verdict.changes_only += 1;
        }
        self.stream((number, dir), manifest.parts().0, reading, &mut |this, line| this.line(line, manifest, tally))
    }

    /// Reads the latest files and compares them with what the history gave.
    fn latest(&mut self, number: u64, dir: &Path, manifest: &Manifest, mut expected: Expected) -> Result<(), Stop> {
        let files = manifest.parts().1;
        let reading = Reading { prints: true, envelope: manifest.is_enveloped() };
        self.stream((number, dir), files, reading, &mut |_, line| expected.line(&line))?;
        expected.end().map_err(at(number, files.first().map(|file| file.name.as_str()), None))?;
        self.verdict.latest += 1;
        Ok(())
    }

    /// Reads files that belong together, line by line in the order of the log, and proves their bytes.
    fn stream(
        &mut self,
        (number, dir): (u64, &Path),
        files: &[File],
        reading: Reading,
        each: &mut dyn FnMut(&mut Self, Line) -> Result<(), Wrong>,
    ) -> Result<(), Stop> {
        let name = |file: usize| files.get(file).map(|f| f.name.as_str());
        let broken = |broken: Broken| match broken {
            Broken::At(place, wrong) => Ok((place, wrong)),
            Broken::Io(error) => Err(Stop::Io(error)),
        };
        let mut merge = match Merge::open(self.disk, dir, files, reading).map_err(broken) {
            Ok(merge) => merge,
            Err(found) => return Err(self.spoiled(number, dir, files, found?)?),
        };
        let mut found = None;
        loop {
            let (place, line) = match merge.next().map_err(broken) {
                Ok(None) => break,
                Ok(Some(next)) => next,
                Err(spoiled) => {
                    found = Some(spoiled?);
                    break;
                }
            };
            if let Err(wrong) = each(self, line) {
                found = Some((place, wrong));
                break;
            }
        }
        if let Some(found) = found {
            return Err(self.spoiled(number, dir, files, found)?);
        }
        for ((file, found), at_file) in files.iter().zip(merge.finish()?).zip(0..) {
            let here = || at(number, name(at_file), None);
            let records = || format!("{} lines, the manifest says {}", found.lines, file.records);
            expect(found.lines == file.records, Kind::Counts, records).map_err(here())?;
            if let Some((length, sha)) = found.bytes {
                same_bytes(file, length, &sha).map_err(here())?;
            }
        }
        Ok(())
    }

    /// A finding in a line, and whether its file is as it was written.
    fn spoiled(
        &self,
        number: u64,
        dir: &Path,
        files: &[File],
        (place, mut wrong): (Place, Wrong),
    ) -> Result<Stop, Stop> {
        let Some(file) = files.get(place.0) else { return Ok(at(number, None, None)(wrong)) };
        let (length, sha) = whole(self.disk, &dir.join(&file.name))?;
        let same = length == file.bytes && sha == file.sha256;
        let file_is = if same { "is what the manifest says" } else { "has other bytes than the manifest says" };
        wrong.what = format!("{} (the file {file_is})", wrong.what);
        Ok(at(number, Some(&file.name), Some(place.1).filter(|line| *line > 0))(wrong))
    }

    /// Files whose contents are not read here: only their bytes are proved.
    pub(super) fn bytes(&self, number: u64, dir: &Path, manifest: &Manifest) -> Result<(), Stop> {
        for file in &manifest.files {
            if self.gone(dir, file)? {
                continue;
            }
            let (length, sha) = whole(self.disk, &dir.join(&file.name))?;
            same_bytes(file, length, &sha).map_err(at(number, Some(&file.name), None))?;
        }
        Ok(())
    }

    fn line(&mut self, line: Line, manifest: &Manifest, tally: &mut Tally) -> Result<(), Wrong> {
        expect(line.log == manifest.log, Kind::LineForm, || format!("it is of log {}", line.log))?;
        self.skip(manifest, tally, line.lsn)?;
        let (next, found) = (tally.next.max(manifest.first_lsn), line.lsn);
        let fits = if manifest.is_whole() { found == next } else { found >= next };
        expect(fits, Kind::Lsn, || format!("lsn {found} where {next} belongs"))?;
        expect(found <= manifest.last_lsn, Kind::Lsn, || format!("the window ends with lsn {}", manifest.last_lsn))?;
        tally.next = found + 1;
        let before = self.clock;
        let hlc = line.hlc.parse::<u64>();
        let hlc = hlc.map_err(|e| Wrong { kind: Kind::LineForm, what: format!("hlc: {e}") })?;
        expect(hlc >= before, Kind::Clock, || format!("the clock goes back from {before} to {hlc}"))?;
        self.clock = hlc;
        let clocks = (line.hlc.clone(), line.wall.clone());
        tally.first.get_or_insert_with(|| clocks.clone());
        tally.last = Some(clocks);
        if let Some(newest) = &mut tally.newest {
            newest.line(&line)?;
        }
        tally.records += 1;
        tally.continued = line.continued;
        // Of a selection, some changes of a transaction may be elsewhere.
        if manifest.is_whole() && manifest.missing.is_empty() {
            self.batch.line(line.txn.clone(), line.continued)?;
        }
        if let Some(word) = line.control.clone() {
            let about = [&line.ns, &line.db, &line.from].into_iter().flatten().next().cloned().unwrap_or_default();
            tally.add(about, word.clone());
            return self.fold.control(&word, line);
        }
        tally.changes += 1;
        let change = line.change()?;
        tally.add(change.ns.clone(), change.op.clone());
        self.fold.change(change)
    }

    /// What the window lacks before the record `lsn` stands in its manifest, without its contents.
    fn skip(&mut self, manifest: &Manifest, tally: &mut Tally, lsn: u64) -> Result<(), Wrong> {
        while let Some(missing) = manifest.missing.get(tally.skipped).filter(|missing| missing.lsn < lsn) {
            let next = tally.next.max(manifest.first_lsn);
            let fits = if manifest.is_whole() { missing.lsn == next } else { missing.lsn >= next };
            expect(fits, Kind::Lsn, || format!("missing: lsn {} where {next} belongs", missing.lsn))?;
            tally.next = missing.lsn + 1;
            tally.skipped += 1;
            tally.continued = false;
            self.fold.change(missing.change()?)?;
        }
        Ok(())
    }

    fn totals(&mut self, manifest: &Manifest, tally: &Tally) -> Result<(), Wrong> {
        let selected = !manifest.is_whole() || !manifest.missing.is_empty();
        expect(selected || !tally.continued, Kind::Batch, || "its last record says that its batch goes on".into())?;
        let (told, found) = (manifest.records, tally.records);
        expect(told == found, Kind::Counts, || format!("{found} records, the manifest says {told}"))?;
        if manifest.is_enveloped() {
            let changes = changes_of(&manifest.counts);
            expect(changes == tally.counts, Kind::Counts, || "the counts are not those of the lines".into())?;
            self.fold.join(&manifest.namespaces, &manifest.gaps, manifest.first_lsn);
            return self.fold.check_changes(&manifest.namespaces);
        }
        expect(manifest.counts == tally.counts, Kind::Counts, || "the counts are not those of the lines".into())?;
        let ours = |clocks: &Option<(String, String)>| clocks.clone().unzip();
        let first = (manifest.first_hlc.clone(), manifest.first_wall.clone());
        let last = (manifest.last_hlc.clone(), manifest.last_wall.clone());
        let same = selected || first == ours(&tally.first) && last == ours(&tally.last);
        expect(same, Kind::Clock, || "the clocks are not those of the first and the last line".into())?;
        self.fold.join(&manifest.namespaces, &manifest.gaps, manifest.first_lsn);
        self.fold.check_namespaces(&manifest.namespaces)?;
        self.fold.check_events(&manifest.gaps, manifest.reconciled.as_deref())
    }
}

impl Tally {
    fn add(&mut self, about: String, word: String) {
        *self.counts.entry(about).or_default().entry(word).or_default() += 1;
    }
}

/// Of counts those of changes.
fn changes_of(counts: &Counts) -> Counts {
    let words = ["insert", "update", "replace", "delete", "observed"];
    let of = |inner: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        inner.iter().filter(|(word, _)| words.contains(&word.as_str())).map(|(word, n)| (word.clone(), *n)).collect()
    };
    let all = counts.iter().map(|(about, inner)| (about.clone(), of(inner)));
    all.filter(|(_, inner)| !inner.is_empty()).collect()
}

/// Puts the place to what is wrong.
pub(super) fn at(window: u64, file: Option<&str>, line: Option<u64>) -> impl FnOnce(Wrong) -> Stop {
    let file = file.map(str::to_owned);
    move |Wrong { kind, what }| Stop::Wrong(Box::new(Finding { kind, window, file, line, what }))
}

/// The number in a window's name.
pub(super) fn id_of(name: &str) -> Option<u64> {
    name.strip_prefix("window-").filter(|digits| digits.len() >= 10)?.parse().ok()
}

/// Length and SHA-256 of a file.
pub(super) fn whole(disk: &dyn Disk, path: &Path) -> io::Result<(u64, String)> {
    Lines::open(disk, path)?.finish()
}

fn same_bytes(file: &File, length: u64, sha: &str) -> Result<(), Wrong> {
    expect(length == file.bytes && sha == file.sha256, Kind::FileHash, || {
        format!("{length} bytes with SHA-256 {sha}, the manifest says {} with {}", file.bytes, file.sha256)
    })
}
