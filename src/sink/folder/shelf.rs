//! Taking windows out of the folder again, the oldest first.

use super::super::{Shelf, Shelved, SinkError};
use super::{AMENDMENT, Folder, LATEST, MANIFEST};
use crate::types::WindowId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

impl Shelf for Folder {
    fn first(&self) -> Option<WindowId> {
        self.first
    }

    fn survey(&mut self) -> Result<Vec<Shelved>, SinkError> {
        let Some(first) = self.first else { return Ok(Vec::new()) };
        // A removal that was cut: there is never more than one.
        self.take_away(WindowId(first.0.saturating_sub(1)))?;
        let mut found: BTreeMap<WindowId, (u64, bool)> = BTreeMap::new();
        for name in self.disk.list(&self.dir)? {
            let Some(window) = super::number_of(&name).filter(|window| *window >= first) else { continue };
            let dir = self.dir.join(&name);
            let whole = !name.contains(AMENDMENT) && self.disk.exists(&dir.join(MANIFEST))?;
            let (bytes, is_there) = found.entry(window).or_default();
            *bytes += self.bytes_of(&dir)?;
            *is_there |= whole;
        }
        let whole = found.into_iter().filter(|(_, (_, is_there))| *is_there);
        Ok(whole.map(|(window, (bytes, _))| Shelved { window, bytes }).collect())
    }

    fn remove_first(&mut self, window: WindowId) -> Result<(), SinkError> {
        let path = self.dir.join(LATEST);
        let latest = self.latest()?.filter(|latest| self.first == Some(window) && window < latest.window);
        let Some(mut latest) = latest else { return Err(SinkError::NotProved { path }) };
        latest.first = Some(window.next());
        self.disk.replace(&path, latest.text(self.log).as_bytes())?;
        self.first = latest.first;
        self.take_away(window)
    }
}

impl Folder {
    /// The first window: as `_latest.json` says; if it does not, the first that is there.
    pub(super) fn first_of(&self, windows: &[WindowId]) -> Result<Option<WindowId>, SinkError> {
        if let Some(first) = self.latest()?.and_then(|latest| latest.first) {
            return Ok(Some(first));
        }
        for window in windows {
            if self.disk.exists(&self.window_dir(*window).join(MANIFEST))? {
                return Ok(Some(*window));
            }
        }
        Ok(None)
    }

    /// Removes what is left, without a manifest, of windows before the first.
    pub(super) fn clear(&self) -> Result<(), SinkError> {
        let first = self.first.unwrap_or(WindowId::ZERO);
        let before = |name: &String| super::number_of(name).is_some_and(|window| window < first);
        let mut removed = false;
        for name in self.disk.list(&self.dir)?.iter().filter(|name| before(name)) {
            let dir = self.dir.join(name);
            if !self.disk.exists(&dir.join(MANIFEST))? {
                self.disk.remove_dir_all(&dir)?;
                removed = true;
            }
        }
        if removed { Ok(self.disk.sync_dir(&self.dir)?) } else { Ok(()) }
    }

    /// Removes a window and its amendments: the manifests first, so that no list shows what is no longer whole.
    fn take_away(&self, window: WindowId) -> Result<(), SinkError> {
        let mut dirs = self.amendments(window)?;
        if self.disk.exists(&self.window_dir(window))? {
            dirs.insert(0, self.window_dir(window));
        }
        if dirs.is_empty() {
            return Ok(());
        }
        for dir in &dirs {
            let manifest = dir.join(MANIFEST);
            if self.disk.exists(&manifest)? {
                self.disk.remove(&manifest)?;
            }
            // Also if it was gone: the sync of an earlier try may not have come.
            self.disk.sync_dir(dir)?;
        }
        for dir in &dirs {
            self.disk.remove_dir_all(dir)?;
        }
        Ok(self.disk.sync_dir(&self.dir)?)
    }

    fn amendments(&self, window: WindowId) -> Result<Vec<PathBuf>, SinkError> {
        let prefix = format!("window-{:010}{AMENDMENT}", window.0);
        let names = self.disk.list(&self.dir)?;
        Ok(names.iter().filter(|name| name.starts_with(&prefix)).map(|name| self.dir.join(name)).collect())
    }

    fn bytes_of(&self, dir: &Path) -> Result<u64, SinkError> {
        let mut bytes = 0;
        for name in self.disk.list(dir)? {
            bytes += self.disk.open_read(&dir.join(name))?.len()?;
        }
        Ok(bytes)
    }
}
