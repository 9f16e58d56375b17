//! Starts and stops the export, and answers for it: one thread cuts, one thread for each sink delivers.

use super::checkpoint::CheckpointError;
use super::consumers::Consumers;
use super::cut::{Cutting, Request, Wanted};
use super::cutter::Limits;
use super::dead::Letter;
use super::error::{ExportError, MAX_LABEL_BYTES};
use super::event::{Markers, Schedule};
use super::ledger::{Ledger, Window, Windows};
use super::status::{CutterLive, SinkLive, SinkSeat, Status};
use super::threads;
use super::worker::{SinkOptions, Sources, Worker};
use crate::changelog::{Changelog, Horizon};
use crate::clock::Clock;
use crate::config::{SinkConfig, SinkKind};
use crate::disk::Disk;
use crate::format::jsonl::Bson;
use crate::metrics;
use crate::types::{Lsn, WindowId};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use tokio::sync::{oneshot, watch};

/// How the export is to be done.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// DATA: `windows/` and `checkpoints/` lie in it.
    pub data: PathBuf,
    /// When windows close.
    pub limits: Limits,
    /// Documents that close windows.
    pub markers: Markers,
    /// Times at which windows close.
    pub schedule: Option<Schedule>,
    /// How lines of windows closed from now on carry images.
    pub bson: Bson,
    /// Where windows go.
    pub sinks: Vec<SinkOptions>,
    /// Bounds of the wait after a failed delivery, ms: the first, and the greatest. A sink that needs a person is looked at again
    /// each time the greatest has passed.
    pub retry_ms: (u64, u64),
    /// Which records may be in a window at all.
    pub horizon: Arc<Horizon>,
}

impl ExportOptions {
    /// Defaults, with one folder, and no horizon.
    pub fn folder(data: PathBuf, dir: PathBuf) -> Self {
        let sinks = vec![SinkOptions { name: "folder", config: SinkConfig { dir, ..SinkConfig::default() } }];
        Self {
            data,
            limits: Limits::default(),
            markers: Markers::default(),
            schedule: None,
            bson: Bson::default(),
            sinks,
            retry_ms: (200, 30_000),
            horizon: Horizon::open(),
        }
    }
}

/// What the threads and the handle share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) log: Arc<Changelog>,
    pub(super) clock: Arc<Clock>,
    pub(super) windows: Arc<Windows>,
    pub(super) consumers: Arc<Consumers>,
    pub(super) cutter: CutterLive,
    pub(super) sinks: Vec<SinkSeat>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) retry_ms: (u64, u64),
    pub(super) horizon: Arc<Horizon>,
    /// Counts wake-ups, so that none is missed.
    bell: Mutex<u64>,
    rung: Condvar,
}

impl Shared {
    /// Wakes the workers: there is a window, or an end.
    pub(super) fn wake(&self) {
        *self.bell.lock() += 1;
        self.rung.notify_all();
    }

    /// Waits for a wake-up after the one numbered `heard`, at most so long; tells the newest number.
    pub(super) fn wait(&self, heard: u64, at_most: std::time::Duration) -> u64 {
        let mut bell = self.bell.lock();
        if *bell == heard {
            self.rung.wait_for(&mut bell, at_most);
        }
        *bell
    }
}

/// The running export.
#[derive(Debug)]
pub struct ExporterHandle {
    pub(super) shared: Arc<Shared>,
    requests: flume::Sender<Request>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Starts the export.
#[derive(Debug)]
pub struct Exporter;

impl Exporter {
    /// Opens ledger and checkpoints and starts the threads. Blocks while it reads the ledger.
    ///
    /// # Errors
    /// A ledger, checkpoint or log that do not belong together, or what the system said. A sink's folder is opened by its
    /// worker: an error there shows in [`ExporterHandle::status`].
    pub fn spawn(
        options: ExportOptions,
        log: Arc<Changelog>,
        disk: Arc<dyn Disk>,
        clock: Arc<Clock>,
    ) -> Result<ExporterHandle, ExportError> {
        let (shared, cutting, workers) = assemble(options, log, disk, clock)?;
        let (requests, inbox) = flume::unbounded();
        let handle = ExporterHandle { shared, requests, threads: Mutex::new(Vec::new()) };
        let mut threads = vec![threads::cut(Arc::clone(&handle.shared), cutting, inbox)?];
        for (seat, worker) in workers.into_iter().enumerate() {
            threads.push(threads::deliver(Arc::clone(&handle.shared), seat, worker)?);
        }
        *handle.threads.lock() = threads;
        Ok(handle)
    }
}

/// All parts, opened and at rest.
pub(super) fn assemble(
    options: ExportOptions,
    log: Arc<Changelog>,
    disk: Arc<dyn Disk>,
    clock: Arc<Clock>,
) -> Result<(Arc<Shared>, Cutting, Vec<Worker>), ExportError> {
    let log_id = log.log_id();
    let ledger = Ledger::open(&*disk, &options.data.join("windows"), log_id)?;
    let (windows, stop) = (ledger.windows(), Arc::new(AtomicBool::new(false)));
    let checkpoints = options.data.join("checkpoints");
    let (dead, tmp) = (options.data.join("dead"), options.data.join("tmp"));
    let consumers = options.data.join("consumers");
    let consumers = Consumers::open(Arc::clone(&disk), &consumers, log_id, Arc::clone(&windows));
    let consumers = Arc::new(consumers.map_err(CheckpointError::Io)?);
    let (for_workers, its_windows) = (Arc::clone(&consumers), Arc::clone(&windows));
    let sources = Sources {
        disk,
        log: Arc::clone(&log),
        log_id,
        windows: its_windows,
        consumers: for_workers,
        checkpoints,
        dead,
        tmp,
    };
    let (mut workers, mut sinks) = (Vec::new(), Vec::new());
    for sink in options.sinks {
        let worker = Worker::new(sources.clone(), sink, Arc::clone(&stop))?;
        let (name, config) = (worker.options().name, &worker.options().config);
        let (kind, place) = (config.kind.name(), place(config));
        let live = watch::Sender::new(SinkLive { position: worker.position(), ..SinkLive::default() });
        let (letters, underway, retained) = (worker.letters(), worker.underway(), worker.retained());
        let start = config.start;
        sinks.push(SinkSeat { name, kind, place, start, live, letters, underway, retained });
        workers.push(worker);
    }
    let (cutter, retry_ms, horizon) = (CutterLive::default(), options.retry_ms, options.horizon);
    let (bell, rung) = (Mutex::new(0), Condvar::new());
    let shared =
        Arc::new(Shared { log, clock, windows, consumers, cutter, sinks, stop, retry_ms, horizon, bell, rung });
    let wanted =
        Wanted { limits: options.limits, bson: options.bson, markers: options.markers, schedule: options.schedule };
    let cutting = Cutting::new(Arc::clone(&shared), ledger, wanted)?;
    Ok((shared, cutting, workers))
}

/// Where a sink is, for people.
fn place(config: &SinkConfig) -> String {
    match config.kind {
        SinkKind::Folder => config.dir.display().to_string(),
        SinkKind::Kafka => format!("{} {}", config.brokers, config.topic),
        // A query may hold a token.
        SinkKind::Object | SinkKind::Delta | SinkKind::Webhook => {
            config.url.split('?').next().unwrap_or_default().to_owned()
        }
    }
}

impl ExporterHandle {
    /// What its parts share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Closes a window that holds everything durable at this moment (as far as no earlier one does), once that has settled,
    /// and tells its number. Without a label, if there is nothing new, that is the last window; with one, an empty window
    /// carries the label.
    ///
    /// # Errors
    /// [`ExportError::Label`] for a label that is too long, [`ExportError::Stopped`] when no window can be closed any more.
    pub async fn cut(&self, label: Option<String>) -> Result<WindowId, ExportError> {
        let (reply, answer) = oneshot::channel();
        let label = label.filter(|text| !text.is_empty());
        if let Some(bytes) = label.as_ref().map(String::len).filter(|bytes| *bytes > MAX_LABEL_BYTES) {
            return Err(ExportError::Label { bytes });
        }
        let request = Request { label, target: self.shared.log.tail(), reply: Some(reply) };
        if self.requests.send(request).is_err() {
            return Err(self.stopped());
        }
        answer.await.map_err(|_dropped| self.stopped())
    }

    /// Waits until every sink proved the window durable.
    ///
    /// # Errors
    /// [`ExportError::Stopped`] when a sink will not get it without a person. A sink that fails and tries again is waited for:
    /// bound the wait where somebody waits.
    pub async fn wait_exported(&self, window: WindowId) -> Result<(), ExportError> {
        for seat in &self.shared.sinks {
            let mut live = seat.live.subscribe();
            let there = |live: &SinkLive| live.position.is_some_and(|p| p.window >= window) || window == WindowId::ZERO;
            let seen = live.wait_for(|live| there(live) || live.stopped).await;
            let why = match seen {
                Ok(live) if there(&live) => continue,
                Ok(live) => live.error.clone(),
                Err(_closed) => "the sidecar is ending".to_owned(),
            };
            return Err(ExportError::Stopped(format!("sink {}: {why}", seat.name)));
        }
        Ok(())
    }

    /// Everything at this moment; sets the gauges of the metrics too.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// A closed window.
    ///
    /// # Errors
    /// A damaged ledger, or what the system said.
    pub fn window(&self, id: WindowId) -> Result<Option<Window>, ExportError> {
        Ok(self.shared.windows.get(id)?)
    }

    /// The newest closed windows, at most `count`, oldest first.
    ///
    /// # Errors
    /// As [`window`](Self::window).
    pub fn windows(&self, count: u64) -> Result<Vec<Window>, ExportError> {
        let last = self.shared.windows.last().0;
        let ids = last.saturating_sub(count) + 1..=last;
        ids.filter_map(|id| self.window(WindowId(id)).transpose()).collect()
    }

    /// The closed windows after `after`, up to `last`, oldest first.
    ///
    /// # Errors
    /// As [`window`](Self::window).
    pub fn windows_between(&self, after: u64, last: u64) -> Result<Vec<Window>, ExportError> {
        let last = last.min(self.shared.windows.last().0);
        let ids = after.saturating_add(1)..=last;
        ids.filter_map(|id| self.window(WindowId(id)).transpose()).collect()
    }

    /// The dead letters of a sink (empty: of all), with the sink's name.
    pub fn dead_letters(&self, sink: &str) -> Vec<(&'static str, Letter)> {
        let of = |seat: &SinkSeat| -> Vec<_> {
            seat.letters.lock().letters().map(|letter| (seat.name, letter.clone())).collect()
        };
        self.seats(sink).flat_map(of).collect()
    }

    /// Asks for records again that a sink (empty: any) refused: these, or all that wait. Tells how many.
    ///
    /// # Errors
    /// What the system said.
    pub fn retry_letters(&self, sink: &str, lsns: &BTreeSet<Lsn>) -> Result<usize, ExportError> {
        let mut changed = 0;
        for seat in self.seats(sink) {
            changed += seat.letters.lock().retry(lsns)?;
        }
        self.shared.wake();
        Ok(changed)
    }

    /// Lets records stay missing that a sink (empty: any) refused: these, or all that wait. Tells how many.
    ///
    /// # Errors
    /// What the system said.
    pub fn drop_letters(&self, sink: &str, lsns: &BTreeSet<Lsn>) -> Result<usize, ExportError> {
        let mut changed = 0;
        for seat in self.seats(sink) {
            let mut letters = seat.letters.lock();
            changed += letters.drop_letters(lsns)?;
            metrics::DEAD_LETTERS.set_for(seat.name, letters.waiting() as u64);
        }
        Ok(changed)
    }

    fn seats(&self, sink: &str) -> impl Iterator<Item = &SinkSeat> {
        self.shared.sinks.iter().filter(move |seat| sink.is_empty() || seat.name == sink)
    }

    /// Up to here every sink has the log.
    pub fn exported(&self) -> Lsn {
        let at = |seat: &SinkSeat| seat.live.borrow().position.map_or(Lsn::ZERO, |p| p.last);
        self.shared.sinks.iter().map(at).min().unwrap_or(Lsn::ZERO)
    }

    /// Ends the threads: a window being written is left and written again at the next start. To leave nothing behind,
    /// [`cut`](Self::cut) and [`wait_exported`](Self::wait_exported) first. Blocks until they ended.
    pub fn shutdown(&self) {
        self.shared.stop.store(true, std::sync::atomic::Ordering::Release);
        self.shared.wake();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the export ended in panic");
            }
        }
    }

    fn stopped(&self) -> ExportError {
        let why = self.shared.cutter.error.lock().clone();
        ExportError::Stopped(if why.is_empty() { "the sidecar is ending".to_owned() } else { why })
    }
}

impl Drop for ExporterHandle {
    fn drop(&mut self) {
        self.shutdown();
    }
}
