//! Brings closed windows to one sink, in order, each exactly once.
//!
//! One [`Worker::step`] delivers one window: read its records → enrich → bytes → the sink → manifest → checkpoint.
//! A step that fails leaves nothing that the next one could not do again.

use super::checkpoint::{self, Checkpoint};
use super::consumers::Consumers;
use super::dead::{Amendment, DeadLetters, Missing, Refusal, Stage};
use super::error::ExportError;
use super::ledger::{Window, Windows};
use super::manifest::{Counts, Delivered, Events, FileEntry, FormEntry, Manifest, SelectionEntry};
use super::newest::Newest;
use super::pace::{Pace, Underway};
use super::start;
use super::tidy::{Retained, Tidied, Tidy};
use super::writing::{Stop, Writing};
use crate::changelog::{Changelog, LogError, Reader};
use crate::config::SinkConfig;
use crate::disk::Disk;
use crate::enrich::Enrichment;
use crate::format::jsonl::{Bson, control_words};
use crate::format::{Form, FormatError};
use crate::metrics;
use crate::sink::{self, Opening, Position, SealedFile, Setting, Sink, SinkError};
use crate::types::{Body, Control, Digest, LogId, LogState, Lsn, Record, WindowId};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// While nothing is written, a wish to stop is looked for after so many records.
const STOP_RECORDS: u64 = 4096;

/// What a worker reads from and writes to.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) log: Arc<Changelog>,
    pub(super) log_id: LogId,
    pub(super) windows: Arc<Windows>,
    pub(super) consumers: Arc<Consumers>,
    /// `DATA/checkpoints`.
    pub(super) checkpoints: PathBuf,
    /// `DATA/dead`.
    pub(super) dead: PathBuf,
    /// `DATA/tmp`.
    pub(super) tmp: PathBuf,
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
    /// There is more to do at once: a record was refused, and its window is to be delivered without it; or a window was removed.
    Again,
    /// There is none to deliver.
    Nothing,
    /// It was told to stop.
    Stopped,
}

/// The delivery to one sink.
#[derive(Debug)]
pub(super) struct Worker {
    sources: Sources,
    options: SinkOptions,
    form: Form,
    enrichment: Enrichment,
    sink: Option<Box<dyn Sink>>,
    position: Option<Checkpoint>,
    /// It is known where it begins.
    begun: bool,
    letters: Arc<Mutex<DeadLetters>>,
    pace: Pace,
    underway: Arc<Underway>,
    tidy: Tidy,
    /// At the end of the last window delivered.
    state: LogState,
    stop: Stop,
}

/// What is to be delivered.
struct Job {
    window: Window,
    /// It is not the window, but records that it lacks.
    amendment: Option<Amendment>,
}

impl Job {
    fn opening(&self, form: Form, latest: bool) -> Opening {
        let history = (0..form.parts).map(|part| form.file_name(part));
        let latest = (0..form.parts).filter(|_| latest).map(|part| form.latest_name(part));
        let files = history.chain(latest).collect();
        let amendment = self.amendment.as_ref().map_or(0, |a| a.number);
        Opening { window: self.window.id, amendment, files }
    }
}

/// What was written of it.
struct Written {
    content: (Counts, Events),
    /// The history's parts, then those of the last changes.
    files: Vec<SealedFile>,
    missing: Vec<Missing>,
}

impl Worker {
    /// Reads the sink's checkpoint and the state there. A new sink begins where its settings say.
    pub(super) fn new(sources: Sources, options: SinkOptions, stop: Arc<AtomicBool>) -> Result<Self, ExportError> {
        let known = checkpoint::load(&*sources.disk, &sources.checkpoints, options.name, sources.log_id)?;
        let closed = sources.windows.last();
        let (position, begun) = match known.map_or_else(|| start::begin(&sources, &options, closed), |at| Ok(Some(at)))
        {
            Ok(position) => (position, true),
            // The others go on; it is looked at again like any sink that needs a person.
            Err(ExportError::Start { .. } | ExportError::Trimmed { .. }) => (None, false),
            Err(error) => return Err(error),
        };
        let delivered = position.map_or(WindowId::ZERO, |p| p.window);
        if delivered > closed {
            return Err(ExportError::Ahead { sink: options.name.to_owned(), delivered, closed });
        }
        let state = start::state_at(&sources, delivered)?;
        let letters = DeadLetters::open(Arc::clone(&sources.disk), &sources.dead, options.name, sources.log_id)?;
        let (form, letters) = (Form::of(&options.config), Arc::new(Mutex::new(letters)));
        let (enrichment, pace) = (Enrichment::default(), Pace::new(options.config.bytes_per_second));
        let (consumers, windows) = (Arc::clone(&sources.consumers), Arc::clone(&sources.windows));
        let tidy = Tidy::new(options.name, &options.config, consumers, windows);
        let (sink, underway, stop) = (None, Arc::default(), Stop(stop));
        Ok(Self {
            sources,
            options,
            form,
            enrichment,
            sink,
            position,
            begun,
            letters,
            pace,
            underway,
            tidy,
            state,
            stop,
        })
    }

    pub(super) fn position(&self) -> Option<Checkpoint> {
        self.position
    }

    pub(super) fn options(&self) -> &SinkOptions {
        &self.options
    }

    pub(super) fn letters(&self) -> Arc<Mutex<DeadLetters>> {
        Arc::clone(&self.letters)
    }

    pub(super) fn underway(&self) -> Arc<Underway> {
        Arc::clone(&self.underway)
    }

    pub(super) fn retained(&self) -> Arc<Mutex<Retained>> {
        self.tidy.live()
    }

    /// Delivers the next closed window, or an amendment that was asked for, if there is one. After an error the sink is opened
    /// and checked anew.
    pub(super) fn step(&mut self, now_ms: i64) -> Result<Progress, ExportError> {
        let result = self.deliver(now_ms);
        self.underway.end();
        if result.is_err() {
            self.sink = None;
        }
        match result {
            Err(ExportError::Sink(SinkError::Record { lsn, reason })) => self.refused(lsn, reason, now_ms),
            result => result,
        }
    }

    /// The next thing to deliver.
    fn job(&self) -> Result<Option<Job>, ExportError> {
        if let Some(amendment) = self.letters.lock().asked() {
            let window = self.sources.windows.get(amendment.window)?;
            return Ok(window.map(|window| Job { window, amendment: Some(amendment) }));
        }
        let next = self.position.map_or(WindowId::ZERO, |p| p.window).next();
        Ok(self.sources.windows.get(next)?.map(|window| Job { window, amendment: None }))
    }

    fn deliver(&mut self, now_ms: i64) -> Result<Progress, ExportError> {
        if self.stop.wished() {
            return Ok(Progress::Stopped);
        }
        if !self.begun {
            self.position = start::begin(&self.sources, &self.options, self.sources.windows.last())?;
            self.state = start::state_at(&self.sources, self.position.map_or(WindowId::ZERO, |at| at.window))?;
            self.begun = true;
        }
        let mut sink = self.opened()?;
        let delivered = self.position.map_or(WindowId::ZERO, |p| p.window);
        let tidied = self.tidy.step(&mut *sink, &self.letters, delivered, now_ms);
        if tidied == Tidied::Broken {
            return Ok(Progress::Again);
        }
        let Some(job) = self.job()? else {
            self.sink = Some(sink);
            return Ok(if tidied == Tidied::Removed { Progress::Again } else { Progress::Nothing });
        };
        let begun = Instant::now();
        let Some(written) = self.write(&mut *sink, &job, now_ms)? else { return Ok(Progress::Stopped) };
        if job.amendment.is_some() && !written.missing.is_empty() {
            // Some were refused again, and wait again: what is left of the amendment is begun anew.
            return Ok(Progress::Again);
        }
        let (records, bytes) = (sum(self.history(&written), |f| f.records), sum(&written.files, |f| f.bytes));
        match &job.amendment {
            None => self.finish(&mut *sink, &job.window, written)?,
            Some(amendment) => self.amend(&mut *sink, &job.window, amendment, written)?,
        }
        self.sink = Some(sink);
        let name = self.options.name;
        metrics::EXPORT_SECONDS.observe(begun.elapsed());
        metrics::WINDOWS_EXPORTED.inc_for(name);
        metrics::EXPORTED_RECORDS.add_for(name, records);
        metrics::EXPORTED_BYTES.add_for(name, bytes);
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
        self.tidy.opened(&mut *sink);
        Ok(sink)
    }

    /// Writes the records; `None`: told to stop.
    fn write(&self, sink: &mut dyn Sink, job: &Job, now_ms: i64) -> Result<Option<Written>, ExportError> {
        let window = &job.window;
        let bson = if window.bson == Bson::Always { Bson::Always } else { self.form.bson };
        let form = Form { bson, ..self.form };
        self.underway.begin(window.id, window.records());
        if !self.pace.wait(&self.stop) {
            return Ok(None);
        }
        let mut newest = self.newest(job)?;
        let opening = job.opening(form, newest.is_some());
        let mut writing = Writing::begin(sink, &self.pace, &opening, form, self.sources.log_id)?;
        let (mut content, mut missing) = ((Counts::default(), Events::new(&self.state)), Vec::new());
        let (dead, mut refusals) = (self.letters.lock().of(window.id), Vec::new());
        let mut reader = self.sources.log.reader(window.first);
        for lsn in window.first.0..=window.last.0 {
            self.underway.at(lsn - window.first.0);
            let record = next(&mut reader, window.id, lsn)?;
            let wanted = match &job.amendment {
                Some(amendment) => amendment.records.contains(&lsn),
                None => self.takes(&record),
            };
            if !wanted {
                continue;
            }
            if job.amendment.is_none() && dead.contains(&lsn) {
                missing.extend(Missing::of(&record));
                continue;
            }
            if let Some(refusal) = self.too_large(&record) {
                refusals.push(refusal);
                continue;
            }
            let record = self.enrichment.apply(record);
            match writing.take(&record, &self.stop) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(ExportError::Format(FormatError::Record { reason, .. })) if Missing::of(&record).is_some() => {
                    let stage = Stage::Serialization;
                    refusals.extend(Missing::of(&record).map(|record| Refusal { record, stage, reason }));
                    continue;
                }
                Err(error) => return Err(error),
            }
            content.0.add(&record);
            content.1.add(&record);
            newest.iter_mut().try_for_each(|newest| newest.add(&record)).map_err(SinkError::from)?;
        }
        let Some(files) = self.end(writing, newest, window)? else { return Ok(None) };
        missing.extend(refusals.iter().map(|refusal| refusal.record.clone()));
        missing.sort_by_key(|record| record.lsn);
        self.take_down(window.id, refusals, now_ms)?;
        Ok(Some(Written { content, files, missing }))
    }

    /// Where the last changes are found out, if the sink gets files of them.
    fn newest(&self, job: &Job) -> Result<Option<Newest>, ExportError> {
        if !self.options.config.latest || job.amendment.is_some() {
            return Ok(None);
        }
        let scratch = self.sources.tmp.join(format!("latest-{}", self.options.name));
        let (disk, window) = (Arc::clone(&self.sources.disk), &job.window);
        Ok(Some(Newest::begin(disk, scratch, window.first, window.last).map_err(SinkError::from)?))
    }

    /// Ends all files, those of the last changes after a second pass over the log; `None`: told to stop.
    fn end(
        &self,
        mut writing: Writing<'_>,
        newest: Option<Newest>,
        window: &Window,
    ) -> Result<Option<Vec<SealedFile>>, ExportError> {
        let Some(newest) = newest else { return writing.end().map(Some) };
        let mut chosen = newest.settle().map_err(SinkError::from)?;
        writing.turn()?;
        let mut reader = self.sources.log.reader(window.first);
        for lsn in window.first.0..=window.last.0 {
            let record = next(&mut reader, window.id, lsn)?;
            let wanted = self.takes(&record) && chosen.takes(&record);
            if wanted && !writing.take(&self.enrichment.apply(record), &self.stop)?
                || lsn % STOP_RECORDS == 0 && self.stop.wished()
            {
                return Ok(None);
            }
        }
        writing.end().map(Some)
    }

    fn history<'w>(&self, written: &'w Written) -> &'w [SealedFile] {
        written.files.get(..self.form.parts as usize).unwrap_or(&written.files)
    }

    fn too_large(&self, record: &Record) -> Option<Refusal> {
        let most = self.options.config.max_record_bytes;
        let Body::Change(change) = &record.body else { return None };
        let bytes: u64 = [&change.before, &change.after].into_iter().flatten().map(|i| i.bytes().len() as u64).sum();
        if most == 0 || bytes <= most {
            return None;
        }
        let reason = format!("its images have {bytes} bytes, `max_record_bytes` is {most}");
        Missing::of(record).map(|record| Refusal { record, stage: Stage::Serialization, reason })
    }

    /// The sink refuses one record: what it has of the window is given up, and the window goes out without it.
    fn refused(&self, lsn: Lsn, reason: String, now_ms: i64) -> Result<Progress, ExportError> {
        let Some(job) = self.job()? else { return Err(SinkError::Record { lsn, reason }.into()) };
        let record = self.sources.log.reader(lsn).next()?.and_then(|record| Missing::of(&record));
        let Some(record) = record else { return Err(SinkError::Record { lsn, reason }.into()) };
        tracing::warn!(
            sink = self.options.name,
            lsn = lsn.0,
            reason,
            "a record is refused and goes to the dead letters"
        );
        self.take_down(job.window.id, vec![Refusal { record, stage: Stage::Delivery, reason }], now_ms)?;
        Ok(Progress::Again)
    }

    fn take_down(&self, window: WindowId, refusals: Vec<Refusal>, now_ms: i64) -> Result<(), ExportError> {
        let Some(reason) = refusals.last().map(|refusal| refusal.reason.clone()) else { return Ok(()) };
        let mut letters = self.letters.lock();
        if !letters.refuse(window, refusals, now_ms)? {
            return Err(ExportError::Refused { window, reason });
        }
        metrics::DEAD_LETTERS.set_for(self.options.name, letters.waiting() as u64);
        Ok(())
    }

    fn takes(&self, record: &Record) -> bool {
        let config = &self.options.config;
        if !config.selects() {
            return true;
        }
        match &record.body {
            Body::Change(change) => config.takes(change.ns.as_str()),
            Body::Control(Control::Rename { from, to }) => config.takes(from.as_str()) || config.takes(to.as_str()),
            Body::Control(fact) => {
                let about = control_words(fact).1;
                about.is_empty() || config.takes(about)
            }
        }
    }

    fn finish(&mut self, sink: &mut dyn Sink, window: &Window, written: Written) -> Result<(), ExportError> {
        let mut state = self.state.clone();
        window.fold(&mut state);
        let previous = self.position.and_then(|p| p.manifest).map(|sha| sha.to_string());
        let lacking = !written.missing.is_empty();
        let (files, content, delivered) = self.told(written, None, previous);
        let seen = self.seen(&state);
        let manifest = Manifest::new(self.sources.log_id, window, &seen, content, delivered).to_bytes()?;
        sink.finish(&files, &manifest)?;
        self.tidy.delivered(window.id, length(&files, &manifest), false);
        let sha = Digest::of(&manifest);
        if lacking {
            self.letters.lock().delivered(window.id, 0, sha)?;
        }
        let at = Checkpoint { window: window.id, last: window.last, manifest: Some(sha) };
        let (disk, dir) = (&*self.sources.disk, &self.sources.checkpoints);
        checkpoint::store(disk, dir, self.options.name, self.sources.log_id, &at)?;
        (self.position, self.state) = (Some(at), state);
        metrics::CHECKPOINT_LSN.set_for(self.options.name, window.last.0);
        Ok(())
    }

    /// Ends an amendment. Its manifest names the window and hangs on that window's, so that the windows' own chain stands.
    fn amend(
        &mut self,
        sink: &mut dyn Sink,
        window: &Window,
        amendment: &Amendment,
        written: Written,
    ) -> Result<(), ExportError> {
        let (files, content, delivered) = self.told(written, Some(amendment.number), amendment.previous.clone());
        let nothing = LogState::default();
        let manifest = Manifest::new(self.sources.log_id, window, &nothing, content, delivered).to_bytes()?;
        sink.finish(&files, &manifest)?;
        self.tidy.delivered(window.id, length(&files, &manifest), true);
        let mut letters = self.letters.lock();
        letters.delivered(window.id, amendment.number, Digest::of(&manifest))?;
        metrics::DEAD_LETTERS.set_for(self.options.name, letters.waiting() as u64);
        Ok(())
    }

    /// What a manifest says beyond the window.
    fn told(
        &self,
        written: Written,
        amendment: Option<u32>,
        previous: Option<String>,
    ) -> (Vec<SealedFile>, (Counts, Events), Delivered) {
        let history = self.history(&written).len();
        let entry = |(number, file): (usize, &SealedFile)| FileEntry {
            name: file.name.clone(),
            bytes: file.bytes,
            records: file.records,
            sha256: file.sha256.to_string(),
            role: (number >= history).then_some("latest"),
        };
        let delivered = Delivered {
            form: FormEntry::of(self.form),
            selection: SelectionEntry::of(&self.options.config),
            files: written.files.iter().enumerate().map(entry).collect(),
            missing: written.missing,
            amendment,
            previous,
        };
        (written.files, written.content, delivered)
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
}

/// Bytes that it takes at the sink.
fn length(files: &[SealedFile], manifest: &[u8]) -> u64 {
    files.iter().map(|file| file.bytes).sum::<u64>() + manifest.len() as u64
}

fn sum(files: &[SealedFile], of: impl Fn(&SealedFile) -> u64) -> u64 {
    files.iter().map(of).sum()
}

/// The record that must come next.
fn next(reader: &mut Reader, window: WindowId, lsn: u64) -> Result<Record, ExportError> {
    let record = match reader.next() {
        Err(LogError::Trimmed { .. }) => None,
        read => read?.filter(|r| r.lsn.0 == lsn),
    };
    record.ok_or(ExportError::Missing { window, lsn: Lsn(lsn) })
}
