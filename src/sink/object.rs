//! Windows as objects of a store: Amazon S3 and its kin, Google Cloud Storage, Azure Blob Storage.
//!
//! The layout is the folder's: `window-0000000001/records.jsonl`, `manifest.json`, the mark `tidelog.json`, `_latest.json`.
//!
//! # How a window becomes whole
//! 1. The mark is read: it must be this log's. The window's objects are listed. If its manifest is there, nothing of it is
//!    written again: all is compared. Else, what an earlier try left is removed or overwritten.
//! 2. Files go up in parts; the last request of each makes it visible as a whole.
//! 3. The lengths are looked at, then the manifest is written *if none is there*. If one is there, it must be the same byte for
//!    byte (the answer to an earlier try was lost), otherwise the sink stops. Without a manifest the window does not exist.
//! 4. The manifest is read back and compared. `_latest.json` is replaced.
//!
//! How a window goes again: see [`Shelf`].
//!
//! Does not: find parts that a killed process left behind in the store (the crate cannot list them; a rule of the bucket ends
//! them, see `deploy/docs/sinks-object.md`).

mod place;
pub(super) mod remote;
mod shelf;
mod trouble;
pub(super) mod upload;

use super::latest::{LATEST, Latest};
use super::{Chunk, Opening, Position, SealedFile, Setting, Shelf, Sink, SinkError};
use crate::config::SinkConfig;
use crate::types::{Digest, LogId, WindowId};
use object_store::ObjectMeta;
use object_store::path::Path;
use remote::Remote;
use upload::Uploads;

const MARK: &str = "tidelog.json";
const MANIFEST: &str = "manifest.json";

/// A prefix of a bucket.
#[derive(Debug)]
pub struct Object {
    log: LogId,
    remote: Remote,
    window: WindowId,
    /// The name of what was begun: the window, or an amendment of it.
    folder: String,
    amendment: u32,
    uploads: Uploads,
    /// The window's manifest is there already: all is compared, nothing written.
    there: bool,
    /// The first window that is there.
    first: Option<WindowId>,
}

impl Sink for Object {
    fn open(&mut self, known: Position) -> Result<(), SinkError> {
        self.mark(known)?;
        if let Some((window, sha)) = known.delivered {
            let path = self.remote.path(&format!("{}/{MANIFEST}", folder_name(window)));
            let found = self.remote.get(&path)?;
            if found.as_deref().map(Digest::of) != Some(sha) {
                return Err(SinkError::Conflict { window, path: self.remote.shown(&path) });
            }
        }
        if let Some(window) = self.remote.first_from(known.closed.next(), true)? {
            return Err(SinkError::Ahead { window, closed: known.closed });
        }
        self.first = self.find_first()?;
        Ok(())
    }

    fn begin(&mut self, opening: &Opening) -> Result<(), SinkError> {
        (self.window, self.folder, self.amendment) = (opening.window, opening.folder(), opening.amendment);
        // A bucket that was emptied or made anew: nothing must be written there.
        if !self.is_marked()? {
            let delivered = WindowId(self.window.0.saturating_sub(1));
            return Err(SinkError::Vanished { dir: self.remote.url(), delivered });
        }
        let found = self.remote.list(&self.folder)?;
        self.there = found.iter().any(|object| object.location == self.path(MANIFEST));
        let wanted: Vec<_> = opening.files.iter().map(|name| self.path(name)).collect();
        for object in found.iter().filter(|object| !self.there && !wanted.contains(&object.location)) {
            self.remote.remove(&object.location)?;
        }
        self.uploads = Uploads::begin(wanted.into_iter());
        Ok(())
    }

    fn write(&mut self, file: usize, chunk: Chunk<'_>) -> Result<(), SinkError> {
        if self.there { Ok(()) } else { self.uploads.write(&self.remote, file, chunk.bytes) }
    }

    fn seal(&mut self) -> Result<(), SinkError> {
        if self.there { Ok(()) } else { self.uploads.seal(&self.remote) }
    }

    fn finish(&mut self, files: &[SealedFile], manifest: &[u8]) -> Result<(), SinkError> {
        let path = self.path(MANIFEST);
        let found_there = self.there || {
            self.check_lengths(files)?;
            !self.remote.create(&path, manifest)?
        };
        // If somebody else was quicker, or the answer was lost, the files are looked at as closely as those of a window found.
        let found = self.remote.get(&path)?;
        match found {
            Some(found) if found == manifest => {}
            Some(_) => return Err(SinkError::Conflict { window: self.window, path: self.remote.shown(&path) }),
            None => return Err(SinkError::NotProved { path: self.remote.shown(&path) }),
        }
        if found_there {
            self.compare(files)?;
        }
        // An amendment is about the past: the newest window stays the newest.
        if self.amendment == 0 { self.point(manifest) } else { Ok(()) }
    }

    fn shelf(&mut self) -> Option<&mut dyn Shelf> {
        Some(self)
    }
}

impl Object {
    /// The place that `config` names; nothing is connected to yet.
    ///
    /// # Errors
    /// [`SinkError::Refused`]: settings that cannot be used.
    pub fn new(at: &Setting, config: &SinkConfig) -> Result<Self, SinkError> {
        let remote = Remote::new(at, config)?;
        let (window, uploads) = (WindowId::ZERO, Uploads::default());
        Ok(Self {
            log: at.log,
            remote,
            window,
            folder: String::new(),
            amendment: 0,
            uploads,
            there: false,
            first: None,
        })
    }

    fn path(&self, name: &str) -> Path {
        self.remote.path(&format!("{}/{name}", self.folder))
    }

    fn mark(&self, known: Position) -> Result<(), SinkError> {
        if self.is_marked()? {
            return Ok(());
        }
        let dir = || self.remote.url();
        if let Some((delivered, _)) = known.delivered {
            return Err(SinkError::Vanished { dir: dir(), delivered });
        }
        if self.remote.first_from(WindowId::ZERO, false)?.is_some() {
            return Err(SinkError::Unmarked { dir: dir() });
        }
        self.remote.create(&self.remote.path(MARK), self.our_mark().as_bytes())?;
        if self.is_marked()? { Ok(()) } else { Err(SinkError::NotProved { path: dir().join(MARK) }) }
    }

    fn our_mark(&self) -> String {
        format!("{{\n  \"format\": 1,\n  \"log\": \"{}\"\n}}\n", self.log)
    }

    /// Whether the mark is there; another log's is an error.
    fn is_marked(&self) -> Result<bool, SinkError> {
        let Some(found) = self.remote.get(&self.remote.path(MARK))? else { return Ok(false) };
        if found == self.our_mark().as_bytes() {
            return Ok(true);
        }
        let told = serde_json::from_slice::<serde_json::Value>(&found).ok();
        let told = told.as_ref().and_then(|mark| mark.get("log")?.as_str());
        let found = told.unwrap_or("(tidelog.json cannot be read)").to_owned();
        Err(SinkError::Foreign { dir: self.remote.url(), found, ours: self.log })
    }

    /// All files have come up, and nothing else lies there.
    fn check_lengths(&self, files: &[SealedFile]) -> Result<(), SinkError> {
        let found = self.remote.list(&self.folder)?;
        let there = |path: &Path, bytes: u64| found.iter().any(|o: &ObjectMeta| o.location == *path && o.size == bytes);
        for file in files {
            let path = self.path(&file.name);
            if !there(&path, file.bytes) {
                return Err(SinkError::NotProved { path: self.remote.shown(&path) });
            }
        }
        Ok(())
    }

    /// The files of a window that has a manifest are what they would be if they were written now.
    fn compare(&self, files: &[SealedFile]) -> Result<(), SinkError> {
        for file in files {
            let path = self.path(&file.name);
            if self.remote.hash(&path)? != Some(file.sha256) {
                return Err(SinkError::Conflict { window: self.window, path: self.remote.shown(&path) });
            }
        }
        Ok(())
    }

    fn point(&mut self, manifest: &[u8]) -> Result<(), SinkError> {
        let first = self.first.map_or(self.window, |first| first.min(self.window));
        let found = if self.there { self.latest()? } else { None };
        if let Some(latest) = Latest::new(self.window, first, manifest).after(found) {
            self.remote.put(&self.remote.path(LATEST), latest.text(self.log).into_bytes())?;
        }
        self.first = Some(first);
        Ok(())
    }

    /// What `_latest.json` says.
    fn latest(&self) -> Result<Option<Latest>, SinkError> {
        let found = self.remote.get(&self.remote.path(LATEST))?;
        Ok(found.and_then(|found| Latest::read(&found, self.log)))
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.uploads.abort(&self.remote);
    }
}

fn folder_name(window: WindowId) -> String {
    format!("window-{:010}", window.0)
}

#[cfg(test)]
mod tests;
