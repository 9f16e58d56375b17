//! The real capture, log and index as one process that can be killed: everything is dropped but the disk.

use crate::ledger::Ledger;
use crate::store::Store;
use crate::store::node::SimNode;
use crate::world::World;
use bytes::Bytes;
use parking_lot::Mutex;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidelog::capture::{Capture, CaptureError, Parts, Session, TransactionLimits, in_transaction};
use tidelog::changelog::{Changelog, Durability, Inline, LogOptions};
use tidelog::disk::{Disk, FaultDisk};
use tidelog::entity::Index;
use tidelog::store::Upstream;
use tidelog::types::{Committed, Lsn, Origin};
use tidelog::wire::command::classify;
use tidelog::wire::reply::Failure;
use tidelog::wire::{Header, Kind, Limits, Message, OpMsg};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// When entities of broken writes are looked at again: earlier than those that wait behind a transaction land.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// When a transaction is taken for dead: later than the store does.
const LIFETIME: Duration = Duration::from_secs(5);

/// When they are looked at for the third time: later than any late write lands.
pub(crate) const THIRD_LOOK: Duration = SECOND_LOOK.saturating_add(LIFETIME);

/// How the sidecar's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// Killed; what it wrote is in the page cache.
    Kill,
    /// The machine lost power; the number says what of the unsynced bytes is left.
    Power(u64),
}

/// A client's connection to the sidecar.
pub(crate) struct Conn {
    to: mpsc::Sender<Bytes>,
    from: mpsc::Receiver<Bytes>,
}

impl Conn {
    /// Sends a request and waits for its reply; `None`: the connection is gone.
    pub(crate) async fn ask(&mut self, request: Bytes) -> Option<OpMsg> {
        self.to.send(request).await.ok()?;
        let reply = self.from.recv().await?;
        Some(parse(reply))
    }
}

/// A message of our own making.
pub(crate) fn parse(bytes: Bytes) -> OpMsg {
    OpMsg::parse(Message::from_bytes(bytes, Limits::default()).unwrap().unwrap()).unwrap()
}

/// How the sidecar is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ways {
    pub(crate) durability: Durability,
    /// Log and store are compared while it runs.
    pub(crate) walks: bool,
    /// They cannot differ.
    pub(crate) strict: bool,
}

/// One process.
struct Process {
    capture: Arc<Capture>,
    log: Arc<Changelog>,
    index: Arc<Index>,
    serving: bool,
    tasks: Vec<AbortHandle>,
}

/// The machine with the sidecar on it.
pub(crate) struct Sidecar {
    world: Arc<World>,
    store: Arc<Store>,
    ledger: Arc<Ledger>,
    ways: Ways,
    disk: Mutex<FaultDisk>,
    process: Mutex<Option<Process>>,
    connections: Mutex<u64>,
    /// A fault of the disk is due.
    armed: AtomicBool,
}

impl Sidecar {
    pub(crate) fn new(world: Arc<World>, store: Arc<Store>, ledger: Arc<Ledger>, ways: Ways) -> Arc<Self> {
        Arc::new(Self {
            world,
            store,
            ledger,
            ways,
            disk: Mutex::default(),
            process: Mutex::default(),
            connections: Mutex::default(),
            armed: AtomicBool::new(false),
        })
    }

    /// The disk as it is now.
    pub(crate) fn disk(&self) -> FaultDisk {
        self.disk.lock().clone()
    }

    /// The log that is open.
    pub(crate) fn log(&self) -> Option<Arc<Changelog>> {
        self.process.lock().as_ref().map(|p| Arc::clone(&p.log))
    }

    /// The index that is open.
    pub(crate) fn index(&self) -> Option<Arc<Index>> {
        self.process.lock().as_ref().map(|p| Arc::clone(&p.index))
    }

    /// The capture that runs.
    pub(crate) fn capture(&self) -> Option<Arc<Capture>> {
        self.process.lock().as_ref().map(|p| Arc::clone(&p.capture))
    }

    /// The log takes no more writes.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.process.lock().as_ref().is_some_and(|p| p.log.writable().is_err())
    }

    /// A process is there (it may not serve yet).
    pub(crate) fn is_alive(&self) -> bool {
        self.process.lock().is_some()
    }

    /// Starts a process; it serves once its recovery has ended.
    pub(crate) fn start(self: &Arc<Self>) {
        let clock = self.world.new_clock();
        let disk: Arc<dyn Disk> = Arc::new(self.disk());
        let (groups, applied) = mpsc::unbounded_channel::<Vec<Committed>>();
        let ledger = Arc::clone(&self.ledger);
        let observer = Box::new(move |group: &[Committed]| {
            ledger.published(group);
            groups.send(group.to_vec()).ok();
        });
        let options = LogOptions {
            durability: self.ways.durability,
            segment_bytes: 6_000,
            min_free_bytes: 0,
            ..LogOptions::default()
        };
        let log_dir = "/data/log".into();
        let opened = Changelog::open_inline(Arc::clone(&disk), log_dir, options, Arc::clone(&clock), observer);
        let (log, committer, opened) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.stillborn(&error.to_string()),
        };
        let (log, index) = (Arc::new(log), Arc::new(Index::in_memory()));
        let mut reader = log.reader(Lsn(1));
        while let Some(record) = reader.next_committed().unwrap() {
            index.apply(&[record]).unwrap();
        }
        let parts = Parts {
            log: Arc::clone(&log),
            index: Arc::clone(&index),
            privileged: Arc::new(SimNode(Arc::clone(&self.store))),
            clock,
            disk,
            intents: "/data/intents".into(),
            epoch: opened.epoch,
            second_look: SECOND_LOOK,
            transactions: TransactionLimits { lifetime: LIFETIME, wait: Duration::from_millis(300) },
        };
        let capture = match Capture::new(parts) {
            Ok(capture) => Arc::new(capture),
            Err(error) => return self.stillborn(&error.to_string()),
        };
        self.world.note(|| format!("sidecar starts at lsn {}, epoch {}", opened.tail.0, opened.epoch.0));
        let tasks = vec![
            tokio::spawn(Arc::clone(self).commit(committer)).abort_handle(),
            tokio::spawn(apply(Arc::clone(&self.world), Arc::clone(&index), applied)).abort_handle(),
            tokio::spawn(Arc::clone(self).recover(Arc::clone(&capture))).abort_handle(),
            tokio::spawn(Arc::clone(&capture).tend(std::future::pending())).abort_handle(),
        ];
        *self.process.lock() = Some(Process { capture, log, index, serving: false, tasks });
    }

    /// Lets the sync with this number fail, or the machine stop just before it.
    pub(crate) fn fault(&self, sync: u64, stop: bool) {
        self.armed.store(true, Ordering::Relaxed);
        if stop { self.disk().stop_at(sync) } else { self.disk().fail_at(sync) }
    }

    /// The disk fails no more.
    pub(crate) fn mend(&self) {
        self.fault(u64::MAX, false);
        self.fault(u64::MAX, true);
        self.armed.store(false, Ordering::Relaxed);
    }

    /// A start that failed; with a disk that fails that is as it should be.
    fn stillborn(&self, error: &str) {
        self.world.note(|| format!("sidecar does not start: {error}"));
        if !self.armed.swap(false, Ordering::Relaxed) {
            self.ledger.complain(&format!("the sidecar does not start: {error}"));
        }
        let left = self.disk().kill();
        *self.disk.lock() = left;
    }

    /// Ends the process now. What it does from here on reaches nothing.
    pub(crate) fn die(&self, death: Death) {
        let Some(process) = self.process.lock().take() else { return };
        let left = match death {
            Death::Kill => self.disk().kill(),
            Death::Power(seed) => self.disk().crash(seed),
        };
        *self.disk.lock() = left;
        self.armed.store(false, Ordering::Relaxed);
        process.tasks.iter().for_each(AbortHandle::abort);
        self.world.note(|| format!("sidecar dies: {death:?}"));
    }

    async fn commit(self: Arc<Self>, mut committer: Inline) {
        while committer.wait().await {
            self.world.hop().await;
            if committer.settle() {
                return;
            }
        }
    }

    async fn recover(self: Arc<Self>, capture: Arc<Capture>) {
        while let Err(error) = capture.recover().await {
            self.world.note(|| format!("recovery failed: {error}"));
            self.world.sleep_ms(100).await;
        }
        // As the node watch does with its first look.
        if let Err(error) = capture.ask_life().await {
            self.world.note(|| format!("the store's life is not known: {error}"));
        }
        if let Some(process) = &mut *self.process.lock() {
            process.serving = true;
        }
        self.world.note(|| "sidecar serves".to_owned());
        if self.ways.walks {
            let (world, ledger) = (Arc::clone(&self.world), Arc::clone(&self.ledger));
            let walks = tokio::spawn(crate::walk::walks(world, Arc::clone(&capture), ledger, self.ways.strict));
            if let Some(process) = &mut *self.process.lock() {
                process.tasks.push(walks.abort_handle());
            }
        }
        capture.looks(std::future::pending()).await;
    }

    /// A new client connection; `None`: nobody listens.
    pub(crate) fn connect(self: &Arc<Self>) -> Option<Conn> {
        let mut process = self.process.lock();
        let process = process.as_mut().filter(|p| p.serving)?;
        let number = {
            let mut connections = self.connections.lock();
            *connections += 1;
            *connections
        };
        let (to, requests) = mpsc::channel(1);
        let (replies, from) = mpsc::channel(1);
        let served = serve(Arc::clone(self), Arc::clone(&process.capture), number, requests, replies);
        process.tasks.retain(|t| !t.is_finished());
        process.tasks.push(tokio::spawn(served).abort_handle());
        Some(Conn { to, from })
    }
}

/// Applies groups to the index in its own time.
async fn apply(world: Arc<World>, index: Arc<Index>, mut groups: mpsc::UnboundedReceiver<Vec<Committed>>) {
    while let Some(group) = groups.recv().await {
        world.hop().await;
        index.apply(&group).unwrap();
    }
}

/// What the proxy does for one connection.
async fn serve(
    side: Arc<Sidecar>,
    capture: Arc<Capture>,
    number: u64,
    mut requests: mpsc::Receiver<Bytes>,
    replies: mpsc::Sender<Bytes>,
) {
    side.world.hop().await;
    let Some(stream) = side.store.connect() else { return };
    let port = u16::try_from(number % 60_000).unwrap() + 1;
    let mut upstream = Upstream::memory(stream, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Limits::default());
    let mut session = capture.session(Arc::new(Origin { connection: number, ..Origin::default() }));
    while let Some(bytes) = requests.recv().await {
        side.world.hop().await;
        match step(&capture, &mut session, &mut upstream, &parse(bytes)).await {
            Ok(reply) => {
                side.world.hop().await;
                if replies.send(reply).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                side.world.note(|| format!("sidecar closes connection {number}: {error}"));
                return;
            }
        }
    }
}

/// One request, as the proxy's session treats it.
async fn step(
    capture: &Capture,
    session: &mut Session,
    upstream: &mut Upstream,
    request: &OpMsg,
) -> Result<Bytes, CaptureError> {
    let header = Header::parse(request.bytes(), Limits::default()).unwrap().unwrap();
    let kind = classify(&header, request.bytes()).unwrap();
    let outcome = match kind {
        _ if in_transaction(request.body()) => capture.transact(session, upstream, kind, request).await,
        Kind::Write(kind) => capture.write(session, upstream, kind, request).await,
        _ => {
            upstream.send(request.bytes()).await?;
            return Ok(upstream.reply_to(request.request_id()).await?.bytes().clone());
        }
    };
    match outcome {
        Ok(outcome) => Ok(outcome.reply),
        Err(CaptureError::Refused { code, code_name, message, labels }) => {
            Ok(Failure { code, name: code_name, message, labels }.reply(request.request_id()))
        }
        Err(other) => Err(other),
    }
}
