//! Taking windows out of the store again, the oldest first.

use super::super::{Opening, Shelf, Shelved, SinkError};
use super::{LATEST, MANIFEST, Object};
use crate::types::WindowId;
use std::collections::BTreeMap;

impl Shelf for Object {
    fn first(&self) -> Option<WindowId> {
        self.first
    }

    fn survey(&mut self) -> Result<Vec<Shelved>, SinkError> {
        let Some(first) = self.first else { return Ok(Vec::new()) };
        // A removal that was cut: there is never more than one.
        self.take_away(WindowId(first.0.saturating_sub(1)))?;
        self.shelved(first)
    }

    fn remove_first(&mut self, window: WindowId) -> Result<(), SinkError> {
        let path = self.remote.path(LATEST);
        let latest = self.latest()?.filter(|latest| self.first == Some(window) && window < latest.window);
        let Some(mut latest) = latest else { return Err(SinkError::NotProved { path: self.remote.shown(&path) }) };
        latest.first = Some(window.next());
        self.remote.put(&path, latest.text(self.log).into_bytes())?;
        self.first = latest.first;
        self.take_away(window)
    }
}

impl Object {
    /// The first window: as `_latest.json` says; if it does not, the first that is there.
    pub(super) fn find_first(&self) -> Result<Option<WindowId>, SinkError> {
        match self.latest()?.and_then(|latest| latest.first) {
            Some(first) => Ok(Some(first)),
            None => Ok(self.shelved(WindowId::ZERO)?.first().map(|shelved| shelved.window)),
        }
    }

    /// The windows from `from` on that have a manifest.
    fn shelved(&self, from: WindowId) -> Result<Vec<Shelved>, SinkError> {
        let mut found: BTreeMap<WindowId, (u64, bool)> = BTreeMap::new();
        self.remote.each_from(from, |window, is_manifest, bytes| {
            let (sum, is_there) = found.entry(window).or_default();
            *sum += bytes;
            *is_there |= is_manifest;
        })?;
        let whole = found.into_iter().filter(|(_, (_, is_there))| *is_there);
        Ok(whole.map(|(window, (bytes, _))| Shelved { window, bytes }).collect())
    }

    /// Removes a window and its amendments: the manifests first, so that no list shows what is no longer whole. The highest
    /// amendment goes first, so that a cut leaves none that the next try would not find.
    fn take_away(&self, window: WindowId) -> Result<(), SinkError> {
        if window == WindowId::ZERO {
            return Ok(());
        }
        let folder = |amendment| Opening { window, amendment, files: Vec::new() }.folder();
        let mut folders = vec![(folder(0), self.remote.list(&folder(0))?)];
        for number in 1.. {
            let objects = self.remote.list(&folder(number))?;
            if objects.is_empty() {
                break;
            }
            folders.insert(1, (folder(number), objects));
        }
        for (folder, objects) in &folders {
            let manifest = self.remote.path(&format!("{folder}/{MANIFEST}"));
            if objects.iter().any(|object| object.location == manifest) {
                self.remote.remove(&manifest)?;
            }
        }
        for (folder, objects) in &folders {
            let manifest = self.remote.path(&format!("{folder}/{MANIFEST}"));
            for object in objects.iter().filter(|object| object.location != manifest) {
                self.remote.remove(&object.location)?;
            }
        }
        Ok(())
    }
}
