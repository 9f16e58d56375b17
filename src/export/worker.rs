//! Brings closed windows to one sink, in order, each exactly once.
//!
//! One [`Worker::step`] delivers one window: read its records → lines → manifest → the sink proves it durable → checkpoint.
//! A step that fails leaves nothing that the next one could not do again.

use super::checkpoint::{self, Checkpoint};
use super::error::ExportError;
use super::jsonl::Lines;
use super::ledger::{Window, Windows};
use super::manifest::{Counts, Events, FileEntry, Manifest};
use crate::changelog::Changelog;
use crate::disk::Disk;
use crate::metrics;
use crate::sink::{Folder, Position, SealedFile};
use crate::types::{LogId, LogState, Lsn, WindowId};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The file of a window that holds its records.
const RECORDS: &str = "records.jsonl";
/// Lines are handed to the sink in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;

/// What a worker reads from and writes to.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) log: Arc<Changelog>,
    pub(super) log_id: LogId,
    pub(super) windows: Arc<Windows>,
    /// `DATA/checkpoints`.
    pub(super) checkpoints: PathBuf,
}

/// A sink's name, which is its metric label and the name of its checkpoint, and its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkOptions {
    /// The name.
    pub name: &'static str,
    /// The folder.
    pub dir: PathBuf,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// A window is at the sink.
    Delivered,
    /// There is none to deliver.
    Nothing,
    /// It was told to stop.
    Stopped,
}

/// The delivery to one sink.
#[derive(Debug)]
pub(super) struct Worker {
    sources: Sources,
    sink: SinkOptions,
    folder: Option<Folder>,
    position: Option<Checkpoint>,
    /// At the end of the last window delivered.
    state: LogState,
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Reads the sink's checkpoint and the state there.
    pub(super) fn new(sources: Sources, sink: SinkOptions, stop: Arc<AtomicBool>) -> Result<Self, ExportError> {
        let position = checkpoint::load(&*sources.disk, &sources.checkpoints, sink.name, sources.log_id)?;
        let delivered = position.map_or(WindowId::ZERO, |p| p.window);
        let closed = sources.windows.last();
        if delivered > closed {
            return Err(ExportError::Ahead { sink: sink.name.to_owned(), delivered, closed });
        }
        let mut state = LogState::default();
        for id in 1..=delivered.0 {
            if let Some(window) = sources.windows.get(WindowId(id))? {
                window.fold(&mut state);
            }
        }
        Ok(Self { sources, sink, folder: None, position, state, stop })
    }

    pub(super) fn position(&self) -> Option<Checkpoint> {
        self.position
    }

    pub(super) fn sink(&self) -> &SinkOptions {
        &self.sink
    }

    /// Delivers the next closed window, if there is one. After an error the folder is opened and checked anew.
    pub(super) fn step(&mut self) -> Result<Progress, ExportError> {
        let result = self.deliver();
        if result.is_err() {
            self.folder = None;
        }
        result
    }

    fn deliver(&mut self) -> Result<Progress, ExportError> {
        if self.stop.load(Ordering::Acquire) {
            return Ok(Progress::Stopped);
        }
        self.open()?;
        let delivered = self.position.map_or(WindowId::ZERO, |p| p.window);
        let Some(window) = self.sources.windows.get(delivered.next())? else { return Ok(Progress::Nothing) };
        let begun = Instant::now();
        let Some((counts, events, sealed)) = self.write(&window)? else { return Ok(Progress::Stopped) };
        let mut state = self.state.clone();
        window.fold(&mut state);
        self.finish(&window, &state, (counts, events), &sealed)?;
        self.state = state;
        metrics::EXPORT_SECONDS.observe(begun.elapsed());
        metrics::WINDOWS_EXPORTED.inc_for(self.sink.name);
        metrics::EXPORTED_RECORDS.add_for(self.sink.name, window.records());
        metrics::EXPORTED_BYTES.add_for(self.sink.name, sealed.bytes);
        metrics::CHECKPOINT_LSN.set_for(self.sink.name, window.last.0);
        Ok(Progress::Delivered)
    }

    fn open(&mut self) -> Result<(), ExportError> {
        if self.folder.is_none() {
            let delivered = self.position.map(|p| (p.window, p.manifest));
            let known = Position { delivered, closed: self.sources.windows.last() };
            let disk = Arc::clone(&self.sources.disk);
            self.folder = Some(Folder::open(disk, &self.sink.dir, self.sources.log_id, known)?);
        }
        Ok(())
    }

    fn folder(&self) -> Result<&Folder, ExportError> {
        self.folder.as_ref().ok_or_else(|| ExportError::Stopped("the folder is not open".into()))
    }

    /// Writes the window's lines; `None`: told to stop.
    fn write(&self, window: &Window) -> Result<Option<(Counts, Events, SealedFile)>, ExportError> {
        let mut file = self.folder()?.stage(window.id, RECORDS)?;
        let mut reader = self.sources.log.reader(window.first);
        let mut lines = Lines::new(self.sources.log_id, window.bson);
        let mut events = Events::new(&self.state);
        let (mut counts, mut piece) = (Counts::default(), Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4));
        for lsn in window.first.0..=window.last.0 {
            let record = reader.next()?.filter(|r| r.lsn.0 == lsn);
            let record = record.ok_or(ExportError::Missing { window: window.id, lsn: Lsn(lsn) })?;
            counts.add(&record);
            events.add(&record);
            lines.append(&mut piece, &record);
            if piece.len() >= PIECE_BYTES {
                file.write(&piece)?;
                piece.clear();
                if self.stop.load(Ordering::Acquire) {
                    return Ok(None);
                }
            }
        }
        file.write(&piece)?;
        Ok(Some((counts, events, file.seal()?)))
    }

    fn finish(
        &mut self,
        window: &Window,
        state: &LogState,
        (counts, events): (Counts, Events),
        sealed: &SealedFile,
    ) -> Result<(), ExportError> {
        let entry = FileEntry {
            name: sealed.name.clone(),
            bytes: sealed.bytes,
            records: window.records(),
            sha256: sealed.sha256.to_string(),
        };
        let previous = self.position.map(|p| p.manifest);
        let bytes =
            Manifest::new(self.sources.log_id, window, state, (counts, events, vec![entry]), previous).to_bytes()?;
        let manifest = self.folder()?.finish(window.id, std::slice::from_ref(sealed), &bytes)?;
        let at = Checkpoint { window: window.id, last: window.last, manifest };
        checkpoint::store(&*self.sources.disk, &self.sources.checkpoints, self.sink.name, self.sources.log_id, &at)?;
        self.position = Some(at);
        Ok(())
    }
}
