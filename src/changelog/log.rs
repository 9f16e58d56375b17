//! The log as its callers see it.

use super::commit::{Append, Durable, Message, Observer};
use super::error::LogError;
use super::frame::MAX_PAYLOAD_BYTES;
use super::identity::Identity;
use super::inspect::{self, Inspection};
use super::reader::{self, Reader};
use super::record::{self, Sized};
use super::recover::Truncation;
use super::shared::Shared;
use super::stream::{Source, Streamed};
use super::{open, segment};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::types::{Draft, Epoch, LogId, Lsn, Record};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// When a record counts as durable, which is when its client gets an ok.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After fdatasync. Neither a process nor a machine crash loses an acknowledged record.
    #[default]
    Always,
    /// After the write; fdatasync at most this many milliseconds later. A machine crash may lose the acknowledged records
    /// of that time; a process crash loses none.
    Interval(u64),
    /// After the write; when it reaches the disk is the system's business. A machine crash may lose what it has not
    /// written (30 s and more); a process crash loses none.
    Os,
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// A segment with this many bytes is followed by a new one. One batch may make it longer.
    pub segment_bytes: u64,
    /// When a record counts as durable.
    pub durability: Durability,
    /// How many bytes [`Changelog::reserve`] gives out at a time.
    pub queue_bytes: u64,
    /// With less free space than this, [`Changelog::writable`] says no. Must leave room for what is under way then, so take
    /// more than `queue_bytes`.
    pub min_free_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            durability: Durability::Always,
            queue_bytes: 256 << 20,
            min_free_bytes: 1 << 30,
        }
    }
}

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Identity of the log.
    pub log_id: LogId,
    /// The last record.
    pub tail: Lsn,
    /// First record that is still there (or will be the first).
    pub first: Lsn,
    /// Generation of the log: raised when acknowledged records may have been lost (the last owner died with a durability
    /// other than `always`), so that no `(epoch, seq)` is given twice.
    pub epoch: Epoch,
    /// The torn tail that was cut off, if there was one.
    pub truncated: Option<Truncation>,
    /// The last owner closed the log in order.
    pub clean: bool,
}

/// The unit that [`Changelog::reserve`] counts in: the semaphore's permits are 32-bit in one call.
const UNIT_BYTES: u64 = 1024;

/// A log that this process owns. Dropping it settles what is in the queue and gives the lock back.
#[derive(Debug)]
pub struct Changelog {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: flume::Sender<Message>,
    pub(super) room: Arc<Semaphore>,
    pub(super) room_units: u32,
    pub(super) identity: Arc<Mutex<Identity>>,
    pub(super) committer: Mutex<Option<JoinHandle<()>>>,
}

/// A place in the queue's memory, given back when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the room back"]
pub struct Reservation {
    _permit: OwnedSemaphorePermit,
}

/// An append under way. Dropping it does not take the append back.
#[derive(Debug)]
#[must_use = "only waiting tells whether the records are durable"]
pub struct Ticket {
    done: oneshot::Receiver<Result<Durable, LogError>>,
    shared: Arc<Shared>,
}

impl Ticket {
    /// Waits until the records are durable.
    ///
    /// # Errors
    /// The records are not (known to be) in the log: [`LogError::Poisoned`], [`LogError::TooLarge`], [`LogError::Closed`].
    pub async fn wait(self) -> Result<Durable, LogError> {
        if mutated(Mutant::AckBeforeDurable) {
            return self.shared.nothing_to_log();
        }
        match self.done.await {
            Ok(result) => result,
            Err(_dropped) => Err(self.shared.failure().unwrap_or(LogError::Closed)),
        }
    }

    /// As [`wait`](Self::wait), for a thread of its own; never to be called on a runtime's thread.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_blocking(self) -> Result<Durable, LogError> {
        match self.done.blocking_recv() {
            Ok(result) => result,
            Err(_dropped) => Err(self.shared.failure().unwrap_or(LogError::Closed)),
        }
    }
}

impl Changelog {
    /// Opens the log in `dir`, making it if there is none: takes the lock, checks all headers and the whole last segment,
    /// cuts a torn tail, and starts the committer. `observer` is called on the committer's thread with each group once it
    /// is durable and before its waiters wake. Blocks.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Damaged`], [`LogError::Missing`], [`LogError::Version`], [`LogError::Io`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: LogOptions,
        clock: Arc<Clock>,
        observer: Observer,
    ) -> Result<(Self, Opened), LogError> {
        let (log, committer, opened) = open::open(disk, dir, &options, clock, observer)?;
        open::start(&log, committer)?;
        Ok((log, opened))
    }

    /// Looks at a log without owning it: no lock, nothing is changed; a live writer and a torn tail are no hindrance.
    ///
    /// # Errors
    /// As [`open`](Self::open), without the lock; [`LogError::Missing`] when there is no log.
    pub fn inspect(disk: Arc<dyn Disk>, dir: &Path) -> Result<Inspection, LogError> {
        inspect::inspect(disk, dir)
    }

    /// Puts records in the queue, in the order of calls, and never blocks. Drafts of one call stand together in the log;
    /// those joined by `continued` are in it all or not at all (the last draft of a call always ends its batch). An empty
    /// call is a barrier: it is done when everything before it is durable.
    pub fn append(&self, drafts: Vec<Draft>) -> Ticket {
        let (done, waiting) = oneshot::channel();
        let sizes: Vec<Sized> = drafts.iter().map(|d| record::size(&d.body)).collect();
        if let Some(large) = sizes.iter().find(|s| s.bytes > MAX_PAYLOAD_BYTES) {
            let error = LogError::TooLarge { bytes: large.bytes as u64, max: MAX_PAYLOAD_BYTES as u64 };
            let _the_receiver_is_ours = done.send(Err(error));
            return Ticket { done: waiting, shared: Arc::clone(&self.shared) };
        }
        let bytes = sizes.iter().map(|s| s.bytes as u64).sum();
        metrics::LOG_QUEUE_BYTES.add(bytes);
        if self.queue.send(Message::Append(Append { drafts, sizes, bytes, done })).is_err() {
            metrics::LOG_QUEUE_BYTES.sub(bytes);
        }
        Ticket { done: waiting, shared: Arc::clone(&self.shared) }
    }

    /// As [`append`](Self::append) for one batch that may be larger than memory: its drafts come one by one from `source`, on
    /// the committer's thread, and are in the log all or not at all. Meanwhile everybody else's append waits.
    pub fn append_stream(&self, source: Source) -> Ticket {
        let (done, waiting) = oneshot::channel();
        let _closed_drops_the_sender = self.queue.send(Message::Stream(Streamed { source, done }));
        Ticket { done: waiting, shared: Arc::clone(&self.shared) }
    }

    /// A barrier that is done when everything before it has reached the disk by fdatasync, whatever the durability. With
    /// `always` it costs nothing.
    pub fn sync(&self) -> Ticket {
        let (done, waiting) = oneshot::channel();
        let _closed_drops_the_sender = self.queue.send(Message::Sync(done));
        Ticket { done: waiting, shared: Arc::clone(&self.shared) }
    }

    /// Waits until there is room in memory for `bytes` (more than the whole queue counts as the whole queue). Take it
    /// before forwarding a write, keep it until its ticket is done.
    ///
    /// # Errors
    /// The log is poisoned or closed.
    pub async fn reserve(&self, bytes: u64) -> Result<Reservation, LogError> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.room_units);
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        let permit = if let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(units) {
            permit
        } else {
            metrics::LOG_QUEUE_WAITS.inc();
            let waited = Arc::clone(&self.room).acquire_many_owned(units).await;
            waited.map_err(|_closed| LogError::Closed)?
        };
        self.shared.failure().map_or(Ok(Reservation { _permit: permit }), Err)
    }

    /// Whether a write may be forwarded: cheap, ask before each.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], [`LogError::Closed`], [`LogError::DiskFull`].
    pub fn writable(&self) -> Result<(), LogError> {
        self.shared.writable()
    }

    /// The proof for a reply to a write that changed nothing. Where the state that it found may rest on records that are
    /// still in the queue (the retry of a write under way), wait for an empty [`append`](Self::append) instead.
    ///
    /// # Errors
    /// The log is poisoned or closed.
    pub fn nothing_to_log(&self) -> Result<Durable, LogError> {
        self.shared.nothing_to_log()
    }

    /// The last durable record.
    pub fn tail(&self) -> Lsn {
        self.shared.tail()
    }

    /// The first record that is still there (or will be the first).
    pub fn first(&self) -> Lsn {
        self.shared.first()
    }

    /// Follows [`tail`](Self::tail).
    pub fn subscribe(&self) -> watch::Receiver<Lsn> {
        self.shared.subscribe()
    }

    /// Identity of the log.
    pub fn log_id(&self) -> LogId {
        self.identity.lock().log_id
    }

    /// Reads durable records in order, beginning with `from`. Blocks on the disk, not for new records.
    pub fn reader(&self, from: Lsn) -> Reader {
        Reader::new(Arc::clone(&self.shared), from)
    }

    /// Reads the record `lsn`, whose frame is at `offset` of its segment (as [`Committed`](crate::types::Committed) tells).
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`LogError::NotThere`], [`LogError::Trimmed`], [`LogError::Damaged`], [`LogError::Io`].
    pub fn read_at(&self, lsn: Lsn, offset: u64) -> Result<Record, LogError> {
        reader::read_at(&self.shared, lsn, offset)
    }

    /// Removes whole segments of which every record is at or below `up_to`, never the last one; says what the log starts
    /// with now. Blocks.
    ///
    /// # Errors
    /// What the disk said; a later call or the next start goes on.
    pub fn trim(&self, up_to: Lsn) -> Result<Lsn, LogError> {
        let mut identity = self.identity.lock();
        let segments = self.shared.segments();
        let going: Vec<Lsn> = segments
            .iter()
            .zip(segments.iter().skip(1))
            .take_while(|(_, (next, _))| next.0 <= up_to.0.saturating_add(1))
            .map(|((first, _), _)| *first)
            .collect();
        let Some((first, _)) = segments.get(going.len()).filter(|_| !going.is_empty()) else {
            return Ok(self.shared.first());
        };
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        // First what the log starts with: a cut after this is finished by the next start.
        let trimmed = Identity { first: *first, ..*identity };
        trimmed.save(&*self.shared.disk, &self.shared.dir)?;
        *identity = trimmed;
        for segment in going {
            metrics::LOG_REMOVED_BYTES.add(self.shared.place_of(segment).map_or(0, |place| place.bytes));
            self.shared.forget(segment);
            let path = self.shared.dir.join(segment::name(segment));
            self.shared.disk.remove(&path).map_err(LogError::io("remove a segment"))?;
        }
        self.shared.disk.sync_dir(&self.shared.dir).map_err(LogError::io("remove a segment"))?;
        Ok(*first)
    }

    /// Goes up to `epoch` as the log's generation (never down): durable before it returns. Blocks.
    ///
    /// # Errors
    /// What the disk said; the generation is then what it was.
    pub fn raise_epoch(&self, epoch: Epoch) -> Result<(), LogError> {
        let mut identity = self.identity.lock();
        if epoch > identity.epoch {
            let raised = Identity { epoch, ..*identity };
            raised.save(&*self.shared.disk, &self.shared.dir)?;
            *identity = raised;
        }
        Ok(())
    }

    /// Settles what is in the queue, syncs, marks the log as closed and gives the lock back. Blocks; a second call does
    /// nothing.
    ///
    /// # Errors
    /// [`LogError::Poisoned`]: not everything in the queue became durable.
    pub fn close(&self) -> Result<(), LogError> {
        if let Some(committer) = self.committer.lock().take() {
            let _already_gone = self.queue.send(Message::Stop);
            if committer.join().is_err() {
                self.shared.poison("the committer's thread panicked");
            }
            self.room.close();
        }
        match self.shared.failure() {
            Some(LogError::Closed) | None => Ok(()),
            Some(failure) => Err(failure),
        }
    }
}

impl Drop for Changelog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the changelog was not closed in order");
        }
    }
}
