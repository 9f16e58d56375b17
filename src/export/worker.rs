//! Brings closed windows to one sink, in order, each exactly once.
//!
//! One [`Worker::step`] delivers one window: read its records → enrich → bytes → the sink → manifest → checkpoint.
//! A step that fails leaves nothing that the next one could not do again.

use super::checkpoint::{self, Checkpoint};
use super::error::ExportError;
use super::ledger::{Window, Windows};
use super::manifest::{Counts, Delivered, Events, FileEntry, FormEntry, Manifest, SelectionEntry};
use super::writing::{Stop, Writing};
use crate::changelog::Changelog;
use crate::config::{Envelope, Format, SinkConfig, Start};
use crate::disk::Disk;
use crate::enrich::Enrichment;
use crate::format::Form;
use crate::format::jsonl::Bson;
use crate::metrics;
use crate::sink::{self, Opening, Position, SealedFile, Setting, Sink};
use crate::types::{Body, Digest, LogId, LogState, Lsn, Record, WindowId};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

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

/// A sink's name, which is its metric label and the name of its checkpoint, and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkOptions {
    /// The name.
    pub name: &'static str,
    /// The settings.
    pub config: SinkConfig,
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

/// What was written of a window.
type Written = ((Counts, Events), Vec<SealedFile>);

/// The delivery to one sink.
#[derive(Debug)]
pub(super) struct Worker {
    sources: Sources,
    options: SinkOptions,
    form: Form,
    enrichment: Enrichment,
    sink: Option<Box<dyn Sink>>,
    position: Option<Checkpoint>,
    /// At the end of the last window delivered.
    state: LogState,
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Reads the sink's checkpoint and the state there. A new sink begins where its settings say.
    pub(super) fn new(sources: Sources, options: SinkOptions, stop: Arc<AtomicBool>) -> Result<Self, ExportError> {
        let known = checkpoint::load(&*sources.disk, &sources.checkpoints, options.name, sources.log_id)?;
        let closed = sources.windows.last();
        let position = match known {
            Some(at) => Some(at),
            None => begin(&sources, &options, closed)?,
        };
        let delivered = position.map_or(WindowId::ZERO, |p| p.window);
        if delivered > closed {
            return Err(ExportError::Ahead { sink: options.name.to_owned(), delivered, closed });
        }
        let mut state = LogState::default();
        for id in 1..=delivered.0 {
            if let Some(window) = sources.windows.get(WindowId(id))? {
                window.fold(&mut state);
            }
        }
        let form = Form::of(&options.config);
        let enrichment = Enrichment::default();
        Ok(Self { sources, options, form, enrichment, sink: None, position, state, stop })
    }

    pub(super) fn position(&self) -> Option<Checkpoint> {
        self.position
    }

    pub(super) fn options(&self) -> &SinkOptions {
        &self.options
    }

    /// Delivers the next closed window, if there is one. After an error the sink is opened and checked anew.
    pub(super) fn step(&mut self) -> Result<Progress, ExportError> {
        let result = self.deliver();
        if result.is_err() {
            self.sink = None;
        }
        result
    }

    fn deliver(&mut self) -> Result<Progress, ExportError> {
        let stop = Stop(Arc::clone(&self.stop));
        if stop.wished() {
            return Ok(Progress::Stopped);
        }
        let mut sink = self.opened()?;
        let delivered = self.position.map_or(WindowId::ZERO, |p| p.window);
        let Some(window) = self.sources.windows.get(delivered.next())? else {
            self.sink = Some(sink);
            return Ok(Progress::Nothing);
        };
        let begun = Instant::now();
        let Some((content, files)) = self.write(&mut *sink, &window, &stop)? else { return Ok(Progress::Stopped) };
        let mut state = self.state.clone();
        window.fold(&mut state);
        self.finish(&mut *sink, &window, &state, content, &files)?;
        (self.state, self.sink) = (state, Some(sink));
        let name = self.options.name;
        metrics::EXPORT_SECONDS.observe(begun.elapsed());
        metrics::WINDOWS_EXPORTED.inc_for(name);
        metrics::EXPORTED_RECORDS.add_for(name, files.iter().map(|file| file.records).sum());
        metrics::EXPORTED_BYTES.add_for(name, files.iter().map(|file| file.bytes).sum());
        metrics::CHECKPOINT_LSN.set_for(name, window.last.0);
        Ok(Progress::Delivered)
    }

    /// The sink, opened.
    fn opened(&mut self) -> Result<Box<dyn Sink>, ExportError> {
        if let Some(sink) = self.sink.take() {
            return Ok(sink);
        }
        let delivered = self.position.and_then(|p| Some((p.window, p.manifest?)));
        let known = Position { delivered, closed: self.sources.windows.last() };
        let (name, log, disk) = (self.options.name, self.sources.log_id, Arc::clone(&self.sources.disk));
        let mut sink = sink::build(Setting { name, log, disk }, &self.options.config)?;
        sink.open(known)?;
        Ok(sink)
    }

    /// Writes the window's records; `None`: told to stop.
    fn write(&self, sink: &mut dyn Sink, window: &Window, stop: &Stop) -> Result<Option<Written>, ExportError> {
        let bson = if window.bson == Bson::Always { Bson::Always } else { self.form.bson };
        let form = Form { bson, ..self.form };
        let files = (0..form.parts).map(|part| form.file_name(part)).collect();
        let opening = Opening { window: window.id, files };
        let mut writing = Writing::begin(sink, &opening, form, self.sources.log_id)?;
        let (mut counts, mut events) = (Counts::default(), Events::new(&self.state));
        let mut reader = self.sources.log.reader(window.first);
        for lsn in window.first.0..=window.last.0 {
            let record = reader.next()?.filter(|r| r.lsn.0 == lsn);
            let record = record.ok_or(ExportError::Missing { window: window.id, lsn: Lsn(lsn) })?;
            if !self.takes(&record) {
                continue;
            }
            counts.add(&record);
            events.add(&record);
            let record = self.enrichment.apply(record);
            if !writing.take(&record, stop)? {
                return Ok(None);
            }
        }
        Ok(Some(((counts, events), writing.end()?)))
    }

    fn takes(&self, record: &Record) -> bool {
        let config = &self.options.config;
        if !config.selects() {
            return true;
        }
        match &record.body {
            Body::Change(change) => config.takes(change.ns.as_str()),
            Body::Control(fact) => {
                let about = crate::format::jsonl::control_words(fact).1;
                about.is_empty() || config.takes(about)
            }
        }
    }

    fn finish(
        &mut self,
        sink: &mut dyn Sink,
        window: &Window,
        state: &LogState,
        content: (Counts, Events),
        files: &[SealedFile],
    ) -> Result<(), ExportError> {
        let entry = |file: &SealedFile| FileEntry {
            name: file.name.clone(),
            bytes: file.bytes,
            records: file.records,
            sha256: file.sha256.to_string(),
        };
        let delivered = Delivered {
            form: self.form_entry(),
            selection: self.selection_entry(),
            files: files.iter().map(entry).collect(),
            previous: self.position.and_then(|p| p.manifest),
        };
        let state = self.seen(state);
        let manifest = Manifest::new(self.sources.log_id, window, &state, content, delivered).to_bytes()?;
        sink.finish(files, &manifest)?;
        let at = Checkpoint { window: window.id, last: window.last, manifest: Some(Digest::of(&manifest)) };
        let (disk, dir) = (&*self.sources.disk, &self.sources.checkpoints);
        checkpoint::store(disk, dir, self.options.name, self.sources.log_id, &at)?;
        self.position = Some(at);
        Ok(())
    }

    /// The state, of the namespaces that the sink gets.
    fn seen(&self, state: &LogState) -> LogState {
        let config = &self.options.config;
        let mut seen = state.clone();
        if config.selects() {
            seen.namespaces.retain(|ns, _| config.takes(ns.as_str()));
            seen.gaps.retain(|_, gap| config.takes(gap.ns.as_str()));
        }
        seen
    }

    fn form_entry(&self) -> Option<FormEntry> {
        let Form { format, envelope, compression, parts, .. } = self.form;
        let plain = format == Format::Jsonl
            && envelope == Envelope::Tidelog
            && compression == crate::config::Compression::None
            && parts == 1;
        (!plain).then_some(FormEntry { format, envelope, compression, parts })
    }

    fn selection_entry(&self) -> Option<SelectionEntry> {
        let config = &self.options.config;
        let (namespaces, exclude) = (config.namespaces.clone(), config.exclude.clone());
        config.selects().then_some(SelectionEntry { namespaces, exclude })
    }
}

/// Where a new sink begins: before the first window, or after one that it will not get. What was found is made durable, so
/// that `now` is asked once.
fn begin(sources: &Sources, options: &SinkOptions, closed: WindowId) -> Result<Option<Checkpoint>, ExportError> {
    let before = match options.config.start {
        Start::Oldest => WindowId::ZERO,
        Start::Now => closed,
        Start::Window(first) => WindowId(first - 1),
    };
    if before > closed {
        return Err(ExportError::Start { sink: options.name.to_owned(), first: before.next(), closed });
    }
    let Some(window) = sources.windows.get(before)? else { return Ok(None) };
    let at = Checkpoint { window: before, last: window.last, manifest: None };
    checkpoint::store(&*sources.disk, &sources.checkpoints, options.name, sources.log_id, &at)?;
    Ok(Some(at))
}
