//! Where the windows of a folder begin: with the first of the log, where the sink began, or where retention left off.

use super::manifest;
use super::window::{Audit, at, id_of};
use super::{Kind, Stop, Wrong, expect};
use crate::disk::Disk;
use std::io;
use std::path::Path;

/// The first window that `_latest.json` names, and the log that it names; `None`: it does not say.
pub(super) fn told(disk: &dyn Disk, dir: &Path) -> io::Result<Option<(u64, String)>> {
    let path = dir.join("_latest.json");
    if !disk.exists(&path)? {
        return Ok(None);
    }
    let Ok(told) = serde_json::from_slice::<serde_json::Value>(&disk.read(&path)?) else { return Ok(None) };
    let log = told.get("log").and_then(|log| log.as_str()).unwrap_or_default().to_owned();
    Ok(told.get("first_window").and_then(serde_json::Value::as_u64).map(|first| (first, log)))
}

impl Audit<'_> {
    /// The first window that is to be there: 1, or where the sink began, whose manifest then names none before it.
    pub(super) fn begins(&mut self, first: Option<&&String>) -> Result<u64, Stop> {
        let Some((name, id)) = first.and_then(|name| Some((name, id_of(name)?))).filter(|(_, id)| *id > 1) else {
            return Ok(1);
        };
        let path = self.dir.join(name).join("manifest.json");
        if !self.disk.exists(&path)? {
            return Ok(1);
        }
        let manifest = manifest::parse(&self.disk.read(&path)?).map_err(at(id, Some("manifest.json"), None))?;
        if manifest.previous_manifest_sha256.is_some() || manifest.first_lsn == 0 {
            return Ok(1);
        }
        self.fold.begin_late();
        self.verdict.last_lsn = manifest.first_lsn - 1;
        self.verdict.first_window = id;
        Ok(id)
    }

    /// The first window is told: what was before it is taken from its manifest, the hash of the manifest before it included.
    pub(super) fn begins_at(&mut self, told: u64, log: &str, first: Option<&&String>) -> Result<u64, Stop> {
        let told = told.max(1);
        let missing = || Wrong { kind: Kind::WindowMissing, what: "_latest.json names it as the first".to_owned() };
        let Some(name) = first else { return Err(at(told, None, None)(missing())) };
        let path = self.dir.join(name).join("manifest.json");
        if told == 1 || id_of(name) != Some(told) || !self.disk.exists(&path)? {
            return Ok(told);
        }
        let here = || at(told, Some("manifest.json"), None);
        let manifest = manifest::parse(&self.disk.read(&path)?).map_err(here())?;
        expect(manifest.log == log, Kind::Mark, || format!("_latest.json is of log {log}")).map_err(here())?;
        expect(manifest.first_lsn > 0, Kind::Lsn, || "first_lsn 0".to_owned()).map_err(here())?;
        self.fold.begin_late();
        self.verdict.last_lsn = manifest.first_lsn - 1;
        self.verdict.first_window = told;
        self.previous = manifest.previous_manifest_sha256;
        Ok(told)
    }
}
