//! What a window says of itself: `manifest.json`, written last; without it the window does not exist.
//!
//! Promises: the same window gives the same bytes (nothing in it depends on when, where or how often it was exported); each
//! manifest holds the SHA-256 of the one before, so the newest one vouches for all. `deploy/docs/manifest.md` names the
//! fields.

use super::dead::Missing;
use super::ledger::Window;
use crate::config::{Compression, Envelope, Format, NamespacePattern, SinkConfig};
use crate::format::Form;
use crate::format::ejson::text;
use crate::format::jsonl::control_words;
use crate::types::{Body, Control, Gap, Hlc, LogId, LogState, Record, remedy};
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the manifest's and the lines' form.
pub const FORMAT: u32 = 1;

/// The fields of `manifest.json`, in their order.
#[derive(Clone, Debug, Serialize)]
pub struct Manifest {
    format: u32,
    log: String,
    window: u64,
    /// Which amendment of the window this is; absent: the window itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    amendment: Option<u32>,
    cause: &'static str,
    label: Option<String>,
    records: u64,
    first_lsn: u64,
    last_lsn: u64,
    first_hlc: Option<String>,
    last_hlc: Option<String>,
    first_wall: Option<String>,
    last_wall: Option<String>,
    counts: Counts,
    files: Vec<FileEntry>,
    namespaces: Vec<NamespaceEntry>,
    gaps: Vec<GapEntry>,
    reconciled: Vec<ReconciledEntry>,
    /// Of a sink in another form than lines of our own records in one file.
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<FormEntry>,
    /// Of a sink that does not get all namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    selection: Option<SelectionEntry>,
    /// Records that the window lacks, because the sink refused each of them alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<Missing>,
    previous_manifest_sha256: Option<String>,
}

/// How the files of a window are written.
#[derive(Clone, Debug, Serialize)]
pub struct FormEntry {
    /// `jsonl` or `parquet`.
    pub format: Format,
    /// `tidelog` or `debezium`.
    pub envelope: Envelope,
    /// `none` or `zstd`.
    pub compression: Compression,
    /// Files of records.
    pub parts: u32,
}

impl FormEntry {
    /// Of a form; `None`: the plain one.
    pub fn of(form: Form) -> Option<Self> {
        let Form { format, envelope, compression, parts, .. } = form;
        let plain =
            format == Format::Jsonl && envelope == Envelope::Tidelog && compression == Compression::None && parts == 1;
        (!plain).then_some(Self { format, envelope, compression, parts })
    }
}

/// Which namespaces a sink gets.
#[derive(Clone, Debug, Serialize)]
pub struct SelectionEntry {
    /// These; empty: all.
    pub namespaces: Vec<NamespacePattern>,
    /// But not these.
    pub exclude: Vec<NamespacePattern>,
}

impl SelectionEntry {
    /// Of a sink; `None`: it gets all.
    pub fn of(config: &SinkConfig) -> Option<Self> {
        let (namespaces, exclude) = (config.namespaces.clone(), config.exclude.clone());
        config.selects().then_some(Self { namespaces, exclude })
    }
}

/// What depends on the sink.
#[derive(Clone, Debug, Default)]
pub struct Delivered {
    /// Its form, if it is not the plain one.
    pub form: Option<FormEntry>,
    /// Its selection, if it does not get all.
    pub selection: Option<SelectionEntry>,
    /// The files of the window.
    pub files: Vec<FileEntry>,
    /// Records that are missing.
    pub missing: Vec<Missing>,
    /// Which amendment it is, if it is one.
    pub amendment: Option<u32>,
    /// SHA-256 of the manifest before; of an amendment, that of the window or of its amendment before.
    pub previous: Option<String>,
}

/// A file of the window.
#[derive(Clone, Debug, Serialize)]
pub struct FileEntry {
    /// Its name beside the manifest.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Lines in it.
    pub records: u64,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// `latest`: the last changes of the window's entities, which the history holds too. Absent: the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize)]
struct NamespaceEntry {
    ns: String,
    alive: u64,
    fingerprint: String,
    complete: bool,
}

#[derive(Clone, Debug, Serialize)]
struct GapEntry {
    id: u64,
    ns: String,
    cause: String,
    detail: String,
    since_lsn: u64,
    since: String,
    until_lsn: Option<u64>,
    until: Option<String>,
    remedy: &'static str,
}

/// A comparison of log and store that ended in the window.
#[derive(Clone, Debug, Serialize)]
struct ReconciledEntry {
    ns: String,
    lsn: u64,
    whole: bool,
    entities: u64,
    differing: u64,
    repaired: u64,
}

/// What else a window tells, out of its control records: gaps that closed in it, comparisons that ended in it.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// Gaps open at the place reached.
    open: BTreeMap<u64, Gap>,
    closed: Vec<GapEntry>,
    reconciled: Vec<ReconciledEntry>,
}

impl Events {
    /// Before the window's first record; `state` is that at the end of the window before.
    pub fn new(state: &LogState) -> Self {
        Self { open: state.gaps.clone(), ..Self::default() }
    }

    /// Takes the next record in.
    pub fn add(&mut self, record: &Record) {
        let Body::Control(fact) = &record.body else { return };
        match fact {
            Control::GapOpened { id, ns, cause, detail } => {
                let (ns, cause, detail) = (ns.clone(), cause.clone(), detail.clone());
                let gap = Gap { id: *id, ns, cause, detail, since: record.lsn, since_ms: record.wall_ms };
                self.open.insert(*id, gap);
            }
            Control::GapClosed { id } => {
                if let Some(closed) = self.open.remove(id) {
                    let (until_lsn, until) = (Some(record.lsn.0), Some(wall(record.wall_ms)));
                    self.closed.push(GapEntry { until_lsn, until, ..gap(&closed) });
                }
            }
            Control::Reconciled { ns, whole, entities, differing, repaired } => {
                self.reconciled.push(ReconciledEntry {
                    ns: ns.as_str().to_owned(),
                    lsn: record.lsn.0,
                    whole: *whole,
                    entities: *entities,
                    differing: *differing,
                    repaired: *repaired,
                });
            }
            _ => {}
        }
    }
}

/// Records by namespace (or database; empty: the whole log) and by operation or control word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<String, BTreeMap<&'static str, u64>>);

impl Counts {
    /// Takes one record in.
    pub fn add(&mut self, record: &Record) {
        let (word, about) = match &record.body {
            Body::Change(change) => (change.op.name(), change.ns.as_str()),
            Body::Control(fact) => control_words(fact),
        };
        if let Some(known) = self.0.get_mut(about) {
            *known.entry(word).or_default() += 1;
        } else {
            self.0.entry(about.to_owned()).or_default().insert(word, 1);
        }
    }
}

impl Manifest {
    /// Puts together what the ledger says of a window, the state at its end, what its records held, and what was
    /// delivered.
    pub fn new(
        log: LogId,
        window: &Window,
        state: &LogState,
        (counts, events): (Counts, Events),
        delivered: Delivered,
    ) -> Self {
        let clocks = window.clocks.as_ref();
        Self {
            format: FORMAT,
            log: log.to_string(),
            window: window.id.0,
            amendment: delivered.amendment,
            cause: window.cause.name(),
            label: window.label.clone(),
            records: delivered.files.iter().filter(|file| file.role.is_none()).map(|file| file.records).sum(),
            first_lsn: window.first.0,
            last_lsn: window.last.0,
            first_hlc: clocks.map(|c| hlc(c.first_hlc)),
            last_hlc: clocks.map(|c| hlc(c.last_hlc)),
            first_wall: clocks.map(|c| wall(c.first_wall_ms)),
            last_wall: clocks.map(|c| wall(c.last_wall_ms)),
            counts,
            files: delivered.files,
            namespaces: namespaces(state),
            gaps: events.closed.into_iter().chain(state.gaps.values().map(gap)).collect(),
            reconciled: events.reconciled,
            form: delivered.form,
            selection: delivered.selection,
            missing: delivered.missing,
            previous_manifest_sha256: delivered.previous,
        }
    }

    /// The bytes of `manifest.json`: JSON, indented by two, with a newline at the end.
    ///
    /// # Errors
    /// None that can happen: the fields are strings, numbers and maps with text keys.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

fn namespaces(state: &LogState) -> Vec<NamespaceEntry> {
    let entry = |(ns, state): (&crate::types::Namespace, &crate::types::NamespaceState)| NamespaceEntry {
        ns: ns.as_str().to_owned(),
        alive: state.alive,
        fingerprint: hex::encode(state.sum),
        complete: state.complete,
    };
    state.namespaces.iter().map(entry).collect()
}

fn gap(gap: &Gap) -> GapEntry {
    GapEntry {
        id: gap.id,
        ns: gap.ns.as_str().to_owned(),
        cause: gap.cause.clone(),
        detail: gap.detail.clone(),
        since_lsn: gap.since.0,
        since: wall(gap.since_ms),
        until_lsn: None,
        until: None,
        remedy: remedy(&gap.cause),
    }
}

/// Decimal text: 64 bits do not survive every JSON reader.
fn hlc(hlc: Hlc) -> String {
    hlc.0.to_string()
}

/// A wall time as it stands in the records.
pub(super) fn wall(ms: i64) -> String {
    let mut out = Vec::with_capacity(26);
    text::wall(&mut out, ms);
    String::from_utf8_lossy(&out).trim_matches('"').to_owned()
}
