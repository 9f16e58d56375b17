//! Windows as folders of a local file system: `window-0000000001/records.jsonl`, `manifest.json`.
//!
//! # How a window becomes durable
//! 1. Its folder is made (anew if it has no manifest), and the export folder synced.
//! 2. Each file is written as `name.tmp` and fsynced.
//! 3. If a manifest is there already it must be the same, byte for byte, and so must the files; otherwise the sink stops.
//!    The same: all that follows is done again, since a sync may have failed the last time.
//! 4. The files get their names, the folder is synced; then the manifest the same way. Without it the window does not exist.
//! 5. The manifest is read back and compared, and the lengths of the files. `_latest.json` is replaced.
//!
//! How a window goes again: see [`Shelf`].
//!
//! `tidelog.json` at the top says whose folder this is, so that an empty mount point or another log's folder is noticed
//! before anything is written.

use super::latest::{LATEST, Latest};
use super::staging::Staging;
use super::staging::TEMPORARY;
use super::{Chunk, Opening, Position, SealedFile, Shelf, Sink, SinkError};
use crate::disk::Disk;
use crate::types::{Digest, LogId, WindowId};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MARK: &str = "tidelog.json";
const MANIFEST: &str = "manifest.json";
const AMENDMENT: &str = ".amendment-";

/// An export folder.
#[derive(Debug)]
pub struct Folder {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    log: LogId,
    /// The window that was begun, and its folder.
    window: WindowId,
    begun: PathBuf,
    amendment: u32,
    staged: Vec<Staging>,
    /// The first window that is there.
    first: Option<WindowId>,
}

impl Sink for Folder {
    fn open(&mut self, known: Position) -> Result<(), SinkError> {
        self.staged.clear();
        self.mark(known)?;
        let windows = self.windows()?;
        for window in &windows {
            self.look(*window, known)?;
        }
        self.first = self.first_of(&windows)?;
        self.clear()
    }

    /// What stands there without a manifest is removed: it is no window.
    fn begin(&mut self, opening: &Opening) -> Result<(), SinkError> {
        self.window = opening.window;
        self.begun = self.dir.join(opening.folder());
        self.amendment = opening.amendment;
        let dir = self.begun.clone();
        // A volume that went away leaves an empty mount point: nothing must be written there.
        if !self.disk.exists(&self.dir.join(MARK))? {
            let delivered = WindowId(self.window.0.saturating_sub(1));
            return Err(SinkError::Vanished { dir: self.dir.clone(), delivered });
        }
        if !self.disk.exists(&dir.join(MANIFEST))? {
            self.disk.remove_dir_all(&dir)?;
        }
        self.disk.make_dir(&dir)?;
        let staged = opening.files.iter().map(|name| Staging::new(&*self.disk, &dir, name));
        self.staged = staged.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn write(&mut self, file: usize, chunk: Chunk<'_>) -> Result<(), SinkError> {
        let staging = self.staged.get_mut(file).ok_or(SinkError::Order("a file that was not begun"))?;
        staging.write(chunk.bytes)
    }

    fn seal(&mut self) -> Result<(), SinkError> {
        self.staged.drain(..).try_for_each(Staging::seal)
    }

    fn finish(&mut self, files: &[SealedFile], manifest: &[u8]) -> Result<(), SinkError> {
        let window = self.window;
        let dir = self.begun.clone();
        self.check_same(window, &dir, files, manifest)?;
        for file in files {
            self.disk.rename(&dir.join(format!("{}{TEMPORARY}", file.name)), &dir.join(&file.name))?;
        }
        self.disk.sync_dir(&dir)?;
        self.disk.replace(&dir.join(MANIFEST), manifest)?;
        self.disk.sync_dir(&self.dir)?;
        self.prove(&dir, files, manifest)?;
        // An amendment is about the past: the newest window stays the newest.
        if self.amendment == 0 { self.point(manifest) } else { Ok(()) }
    }

    fn shelf(&mut self) -> Option<&mut dyn Shelf> {
        Some(self)
    }
}

impl Folder {
    /// The export folder `dir` of `log`; nothing is opened yet.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, log: LogId) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            log,
            window: WindowId::ZERO,
            begun: PathBuf::new(),
            amendment: 0,
            staged: Vec::new(),
            first: None,
        }
    }

    fn prove(&self, dir: &Path, files: &[SealedFile], manifest: &[u8]) -> Result<(), SinkError> {
        for file in files {
            let path = dir.join(&file.name);
            if self.disk.open_read(&path)?.len()? != file.bytes {
                return Err(SinkError::NotProved { path });
            }
        }
        let path = dir.join(MANIFEST);
        if self.disk.read(&path)? == manifest { Ok(()) } else { Err(SinkError::NotProved { path }) }
    }

    /// Lets `_latest.json` name this window, unless it names a later one.
    fn point(&mut self, manifest: &[u8]) -> Result<(), SinkError> {
        let first = self.first.map_or(self.window, |first| first.min(self.window));
        let latest = Latest::new(self.window, first, manifest).after(self.latest()?);
        if let Some(latest) = latest {
            self.disk.replace(&self.dir.join(LATEST), latest.text(self.log).as_bytes())?;
        }
        self.first = Some(first);
        Ok(())
    }

    /// What `_latest.json` says.
    fn latest(&self) -> Result<Option<Latest>, SinkError> {
        let path = self.dir.join(LATEST);
        Ok(if self.disk.exists(&path)? { Latest::read(&self.disk.read(&path)?, self.log) } else { None })
    }

    /// A window that has a manifest must be the one that is about to be delivered.
    fn check_same(&self, window: WindowId, dir: &Path, files: &[SealedFile], manifest: &[u8]) -> Result<(), SinkError> {
        let path = dir.join(MANIFEST);
        if !self.disk.exists(&path)? {
            return Ok(());
        }
        if self.disk.read(&path)? != manifest {
            return Err(SinkError::Conflict { window, path });
        }
        for file in files {
            let path = dir.join(&file.name);
            if !self.disk.exists(&path)? || self.hash(&path)? != file.sha256 {
                return Err(SinkError::Conflict { window, path });
            }
        }
        Ok(())
    }

    fn hash(&self, path: &Path) -> Result<Digest, SinkError> {
        let file = self.disk.open_read(path)?;
        let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; 1 << 18], 0u64);
        loop {
            let got = file.read_at(at, &mut buffer)?;
            if got == 0 {
                return Ok(Digest(hash.finalize().into()));
            }
            hash.update(buffer.get(..got).unwrap_or_default());
            at += got as u64;
        }
    }

    fn mark(&self, known: Position) -> Result<(), SinkError> {
        let path = self.dir.join(MARK);
        let ours = format!("{{\n  \"format\": 1,\n  \"log\": \"{}\"\n}}\n", self.log);
        if self.disk.exists(&path)? {
            let found = self.disk.read(&path)?;
            if found != ours.as_bytes() {
                let told = serde_json::from_slice::<serde_json::Value>(&found).ok();
                let told = told.as_ref().and_then(|mark| mark.get("log")?.as_str());
                let found = told.unwrap_or("(tidelog.json cannot be read)").to_owned();
                return Err(SinkError::Foreign { dir: self.dir.clone(), found, ours: self.log });
            }
        } else if let Some((delivered, _)) = known.delivered {
            return Err(SinkError::Vanished { dir: self.dir.clone(), delivered });
        } else {
            self.disk.make_dir(&self.dir)?;
            if !self.windows()?.is_empty() {
                return Err(SinkError::Unmarked { dir: self.dir.clone() });
            }
        }
        if known.delivered.is_none() {
            // Again, even if it is there: a sync may have failed after it was made.
            self.disk.replace(&path, ours.as_bytes())?;
        }
        Ok(())
    }

    /// Checks one window found at the start.
    fn look(&self, window: WindowId, known: Position) -> Result<(), SinkError> {
        let (delivered, sha) = known.delivered.map_or((WindowId::ZERO, None), |(id, sha)| (id, Some(sha)));
        if window < delivered {
            return Ok(());
        }
        let dir = self.window_dir(window);
        for name in self.disk.list(&dir)?.iter().filter(|name| name.ends_with(TEMPORARY)) {
            self.disk.remove(&dir.join(name))?;
        }
        let path = dir.join(MANIFEST);
        if !self.disk.exists(&path)? {
            return Ok(());
        }
        if window > known.closed {
            return Err(SinkError::Ahead { window, closed: known.closed });
        }
        if window == delivered && sha != Some(Digest::of(&self.disk.read(&path)?)) {
            return Err(SinkError::Conflict { window, path });
        }
        Ok(())
    }

    /// Windows found, in order.
    fn windows(&self) -> Result<Vec<WindowId>, SinkError> {
        let number = |name: &String| name.strip_prefix("window-")?.parse().ok().map(WindowId);
        Ok(self.disk.list(&self.dir)?.iter().filter_map(number).collect())
    }

    fn window_dir(&self, window: WindowId) -> PathBuf {
        self.dir.join(format!("window-{:010}", window.0))
    }
}

/// The window that a folder is of, or an amendment of.
fn number_of(name: &str) -> Option<WindowId> {
    let number = name.strip_prefix("window-")?;
    number.split(AMENDMENT).next().unwrap_or(number).parse().ok().map(WindowId)
}

mod shelf;
#[cfg(test)]
mod tests;
