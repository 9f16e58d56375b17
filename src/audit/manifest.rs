//! Reading a manifest: its fields, and that it is in the form in which the exporter writes it.

use super::line::Change;
use super::{Kind, Wrong, expect, wrong};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The fields of a manifest, format 1.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) log: String,
    pub(super) window: u64,
    /// Absent: the window itself.
    pub(super) amendment: Option<u32>,
    pub(super) cause: String,
    #[serde(rename = "label")]
    pub(super) _label: Option<String>,
    pub(super) records: u64,
    pub(super) first_lsn: u64,
    pub(super) last_lsn: u64,
    pub(super) first_hlc: Option<String>,
    pub(super) last_hlc: Option<String>,
    pub(super) first_wall: Option<String>,
    pub(super) last_wall: Option<String>,
    pub(super) counts: BTreeMap<String, BTreeMap<String, u64>>,
    pub(super) files: Vec<File>,
    pub(super) namespaces: Vec<NamespaceEntry>,
    pub(super) gaps: Vec<GapEntry>,
    /// Absent in manifests of the first versions, which also told open gaps only.
    pub(super) reconciled: Option<Vec<Reconciled>>,
    /// Absent: lines of our own records in one file.
    pub(super) form: Option<Form>,
    /// Absent: all namespaces.
    pub(super) selection: Option<Selection>,
    /// Records that the window lacks.
    #[serde(default)]
    pub(super) missing: Vec<Missing>,
    pub(super) previous_manifest_sha256: Option<String>,
}

/// A record that a window lacks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Missing {
    pub(super) lsn: u64,
    ns: String,
    key: String,
    epoch: u32,
    seq: u64,
    op: String,
    before_sha256: Option<String>,
    after_sha256: Option<String>,
}

impl Missing {
    /// The change, without its images.
    pub(super) fn change(&self) -> Result<Change, Wrong> {
        let form = |e: hex::FromHexError| Wrong { kind: Kind::ManifestForm, what: format!("missing: {e}") };
        let sha = |text: &Option<String>| -> Result<Option<[u8; 32]>, Wrong> {
            let Some(text) = text else { return Ok(None) };
            let mut sha = [0; 32];
            hex::decode_to_slice(text, &mut sha).map_err(form)?;
            Ok(Some(sha))
        };
        Ok(Change {
            ns: self.ns.clone(),
            key: hex::decode(&self.key).map_err(form)?,
            epoch: self.epoch,
            seq: self.seq,
            op: self.op.clone(),
            before: sha(&self.before_sha256)?,
            after: sha(&self.after_sha256)?,
        })
    }
}

/// How the files are written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    pub(super) format: String,
    pub(super) envelope: String,
    #[serde(rename = "compression")]
    pub(super) _compression: String,
    pub(super) parts: usize,
}

/// Which namespaces the sink gets.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    #[serde(rename = "namespaces")]
    pub(super) _namespaces: Vec<String>,
    #[serde(rename = "exclude")]
    pub(super) _exclude: Vec<String>,
}

impl Manifest {
    /// The files hold every record of the window.
    pub(super) fn is_whole(&self) -> bool {
        self.selection.is_none() && self.form.as_ref().is_none_or(|form| form.envelope == "tidelog")
    }

    /// The audit reads what is in the files: lines, or (where this program can) rows.
    pub(super) fn is_read(&self) -> bool {
        self.form.as_ref().is_none_or(|form| {
            let known = form.format == "jsonl" || form.format == "parquet" && cfg!(feature = "parquet");
            known && ["tidelog", "debezium"].contains(&form.envelope.as_str())
        })
    }

    /// The files hold changes in Debezium's envelope, and no control records.
    pub(super) fn is_enveloped(&self) -> bool {
        self.form.as_ref().is_some_and(|form| form.envelope == "debezium")
    }

    /// The files are read from their end, so their bytes are proved before.
    pub(super) fn is_table(&self) -> bool {
        self.form.as_ref().is_some_and(|form| form.format == "parquet")
    }

    /// Of `files` those with all records, and those with the last changes.
    pub(super) fn parts(&self) -> (&[File], &[File]) {
        let history = self.files.iter().take_while(|file| file.role.is_none()).count();
        self.files.split_at_checked(history).unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) records: u64,
    pub(super) sha256: String,
    /// `latest`; absent: the history.
    pub(super) role: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamespaceEntry {
    pub(super) ns: String,
    pub(super) alive: u64,
    pub(super) fingerprint: String,
    pub(super) complete: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GapEntry {
    pub(super) id: u64,
    pub(super) ns: String,
    pub(super) cause: String,
    pub(super) detail: String,
    pub(super) since_lsn: u64,
    pub(super) since: String,
    /// Where it closed, inside this window.
    pub(super) until_lsn: Option<u64>,
    pub(super) until: Option<String>,
    /// Absent in manifests of the first versions.
    #[serde(rename = "remedy")]
    pub(super) _remedy: Option<String>,
}

/// A comparison of log and store that ended in the window.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reconciled {
    pub(super) ns: String,
    pub(super) lsn: u64,
    pub(super) whole: bool,
    pub(super) entities: u64,
    pub(super) differing: u64,
    pub(super) repaired: u64,
}

/// Reads the bytes of a manifest.
pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, Wrong> {
    let form = |e: serde_json::Error| Wrong { kind: Kind::ManifestForm, what: e.to_string() };
    let tree: serde_json::Value = serde_json::from_slice(bytes).map_err(form)?;
    let mut again = serde_json::to_vec_pretty(&tree).map_err(form)?;
    again.push(b'\n');
    expect(again == bytes, Kind::ManifestForm, || "spaces or line ends are not as the exporter writes them".into())?;
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(form)?;
    if manifest.format != 1 {
        return wrong(Kind::ManifestForm, format!("format {}, this program knows 1", manifest.format));
    }
    let parts = manifest.form.as_ref().map_or(1, |form| form.parts);
    let (history, latest) = manifest.parts();
    let files = (history.len(), latest.len());
    let fits = files.0 == parts && (files.1 == 0 || files.1 == parts && manifest.amendment.is_none());
    expect(fits, Kind::ManifestForm, || format!("{} files and {} of last changes, {parts} parts", files.0, files.1))?;
    let role = latest.iter().find(|file| file.role.as_deref() != Some("latest"));
    expect(role.is_none(), Kind::ManifestForm, || "a file's role is not \"latest\", or it stands elsewhere".into())?;
    let causes = ["size", "count", "age", "idle", "cut", "marker", "schedule"];
    expect(causes.contains(&manifest.cause.as_str()), Kind::ManifestForm, || format!("cause {:?}", manifest.cause))?;
    Ok(manifest)
}
