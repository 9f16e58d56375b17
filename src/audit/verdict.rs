//! What the audit says, for people and for programs.

use serde::Serialize;
use std::fmt;

/// What is wrong, in one word that scripts may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `tidelog.json` is not that of the windows' log.
    Mark,
    /// A window between others is not there.
    WindowMissing,
    /// A folder that is named like a window but cannot be one.
    WindowExtra,
    /// The manifest is not in the form in which the exporter writes it.
    ManifestForm,
    /// The manifest is of another window or another log.
    ManifestIdentity,
    /// The manifest before has another hash.
    ManifestChain,
    /// A file of the manifest is not there.
    FileMissing,
    /// A file that the manifest does not name.
    FileExtra,
    /// A file has other bytes than the manifest says.
    FileHash,
    /// A line is not a record.
    LineForm,
    /// lsn is not dense, or not the manifest's range.
    Lsn,
    /// The clock goes back, or is not the manifest's.
    Clock,
    /// A batch goes over the end of the window.
    Batch,
    /// The changes of a transaction do not stand together, or not all of them.
    Transaction,
    /// The entity's number is not the next one.
    Seq,
    /// `before` is not what was there.
    Chain,
    /// The operation does not fit what it did.
    Op,
    /// An image is not what its hash says.
    ImageHash,
    /// The record's id is not its image's.
    Id,
    /// The change hash is wrong.
    ChangeHash,
    /// The numbers of records are not the manifest's.
    Counts,
    /// The state at the window's end is not the manifest's.
    Fingerprint,
    /// The namespaces of the manifest are not those seen.
    Namespaces,
    /// The open gaps of the manifest are not those seen.
    Gaps,
    /// A latest file does not hold the last changes of the window, and nothing else.
    Latest,
    /// A commit of a Delta table is not there, or does not say what the window is.
    Commit,
    /// Rows of a window were taken out of a Delta table.
    RowsRemoved,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = serde_json::to_value(self).ok();
        f.write_str(word.as_ref().and_then(|w| w.as_str()).unwrap_or("?"))
    }
}

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In one word.
    pub kind: Kind,
    /// In which window; 0: none of them.
    pub window: u64,
    /// In which file, if in one.
    pub file: Option<String>,
    /// In which of its lines, from 1, if in one.
    pub line: Option<u64>,
    /// What was found and what was expected. No document contents.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "window {}", self.window)?;
        if let Some(file) = &self.file {
            write!(f, ", {file}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}: {}", self.kind, self.what)
    }
}

/// A namespace at the end of what was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamespaceTold {
    /// Its name.
    pub ns: String,
    /// Entities alive.
    pub alive: u64,
    /// Sum modulo 2^256 of the SHA-256 of their images, 64 hex digits.
    pub fingerprint: String,
    /// The windows hold all of it.
    pub complete: bool,
}

/// A gap open at the end of what was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GapTold {
    /// Its number.
    pub id: u64,
    /// What is not proved.
    pub ns: String,
    /// Why.
    pub cause: String,
    /// The record that opened it.
    pub since_lsn: u64,
}

/// What the audit found: how much holds, and the first thing that does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The log; empty: no window was read.
    pub log: String,
    /// The first window, if the sink began later than the log or windows before it were removed; else 0.
    pub first_window: u64,
    /// Windows that hold.
    pub windows: u64,
    /// Records in them.
    pub records: u64,
    /// Of those, changes of entities; the others are control records.
    pub changes: u64,
    /// The last record of the last window that holds.
    pub last_lsn: u64,
    /// SHA-256 of the last manifest that holds: it vouches for all before it.
    pub last_manifest_sha256: String,
    /// Records that windows lack because the sink refused them, and that no amendment brought: the dead letters.
    pub missing: u64,
    /// Records that amendments brought.
    pub amended: u64,
    /// Windows whose files are in a form that the audit does not read: only their bytes and manifests are proved.
    pub unread: u64,
    /// Windows of a Delta table whose files are gone because their rows were merged into others: only their manifests and commits
    /// are proved, and the state after them is taken from their manifests.
    pub merged: u64,
    /// Windows of a Delta table whose commits were cleaned away behind a checkpoint.
    pub cleaned: u64,
    /// Windows whose latest files hold exactly the last changes of their history.
    pub latest: u64,
    /// Windows whose files have changes alone (Debezium's envelope): control records are not in them.
    pub changes_only: u64,
    /// A window at the end has no manifest: it was never finished, or is being written now.
    pub unfinished: Option<u64>,
    /// The state at the end.
    pub namespaces: Vec<NamespaceTold>,
    /// Stretches that the log itself says it does not prove.
    pub gaps: Vec<GapTold>,
    /// The first thing that is wrong.
    pub finding: Option<Finding>,
}

impl Verdict {
    /// Nothing wrong was found.
    pub fn holds(&self) -> bool {
        self.finding.is_none()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let controls = self.records.saturating_sub(self.changes);
        writeln!(f, "log {}", if self.log.is_empty() { "-" } else { &self.log })?;
        writeln!(
            f,
            "{} windows, {} records (up to lsn {}): {} changes, {controls} control records",
            self.windows, self.records, self.last_lsn, self.changes
        )?;
        if self.first_window > 1 {
            writeln!(
                f,
                "they begin with window {}: the state before it is taken from its manifest",
                self.first_window
            )?;
        }
        let width = self.namespaces.iter().map(|n| n.ns.chars().count()).max().unwrap_or(0);
        for n in &self.namespaces {
            let part = if n.complete { "" } else { "  (incomplete: it held documents before the log began)" };
            writeln!(f, "  {:width$}  {:>10} alive  {}{part}", n.ns, n.alive, n.fingerprint)?;
        }
        for gap in &self.gaps {
            writeln!(f, "  gap {}: {} is not proved since lsn {} ({})", gap.id, gap.ns, gap.since_lsn, gap.cause)?;
        }
        if let Some(window) = self.unfinished {
            writeln!(f, "window {window} has no manifest yet and was not looked at")?;
        }
        if self.missing + self.amended > 0 {
            writeln!(f, "{} records are missing (dead letters), {} came in amendments", self.missing, self.amended)?;
        }
        if self.unread > 0 {
            writeln!(
                f,
                "of {} windows only the manifests and the files' bytes were proved: what is in such files is not read here",
                self.unread
            )?;
        }
        if self.merged > 0 {
            writeln!(
                f,
                "the files of {} windows were merged and removed (OPTIMIZE, VACUUM): their manifests were proved, what was in the files was not; the state after them is taken from their manifests",
                self.merged
            )?;
        }
        if self.cleaned > 0 {
            writeln!(
                f,
                "the commits of {} windows are behind a checkpoint: what they said is not proved",
                self.cleaned
            )?;
        }
        if self.changes_only > 0 {
            writeln!(
                f,
                "the files of {} windows have changes alone: gaps are not proved, nor is the state of a namespace once one was dropped or renamed",
                self.changes_only
            )?;
        }
        if self.latest > 0 {
            writeln!(f, "the latest files of {} windows hold exactly the last changes", self.latest)?;
        }
        match &self.finding {
            None => writeln!(
                f,
                "it holds; the last manifest is {}",
                if self.last_manifest_sha256.is_empty() { "-" } else { &self.last_manifest_sha256 }
            ),
            Some(finding) => writeln!(f, "it does not hold: {finding}"),
        }
    }
}
