//! The committer: one OS thread that gives numbers, encodes, writes, syncs, and only then lets anyone say "ok".
//!
//! A group is what is in the queue when the thread comes back from the last sync, up to [`GROUP_BYTES`]. Its order:
//! number and encode → one write → fdatasync → readers may see it → observer → waiters.

use super::error::LogError;
use super::frame::{self, FRAME_HEAD_BYTES};
use super::identity::{Identity, Left};
use super::log::Durability;
use super::record::{self, Sized};
use super::roll::Tail;
use super::shared::Shared;
use super::stream::Streamed;
use crate::clock::Clock;
use crate::disk::Lock;
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::types::{Body, Committed, Draft, Hlc, Lsn, Record};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A group is settled when it has this many bytes, also with more in the queue; the buffer is written out at this size
/// within a batch that is larger.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// How often the free space is looked at.
const SPACE_EVERY: Duration = Duration::from_secs(1);

/// Proof that everything that a reply speaks of is in the log, by the log's durability. Only the committer makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a client gets its ok only through this"]
pub struct Durable {
    first: Lsn,
    last: Lsn,
}

impl Durable {
    pub(super) fn of(first: Lsn, last: Lsn) -> Self {
        Self { first, last }
    }

    /// Number of the first record of the append; greater than [`last`](Self::last) when it had none.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// Number of the last record of the append, or the log's tail when it had none.
    pub fn last(&self) -> Lsn {
        self.last
    }
}

/// What the queue carries.
pub(super) enum Message {
    Append(Append),
    /// A batch that is read while it is written.
    Stream(Streamed),
    /// Everything before it must reach the disk, whatever the durability.
    Sync(oneshot::Sender<Result<Durable, LogError>>),
    Stop,
}

/// One call of `append`.
pub(super) struct Append {
    pub(super) drafts: Vec<Draft>,
    /// Of each draft, worked out on the caller's thread.
    pub(super) sizes: Vec<Sized>,
    pub(super) bytes: u64,
    pub(super) done: oneshot::Sender<Result<Durable, LogError>>,
}

/// Called with each group once it is durable, before its waiters wake.
pub type Observer = Box<dyn FnMut(&[Committed]) + Send>;

struct Waiter {
    done: oneshot::Sender<Result<Durable, LogError>>,
    durable: Durable,
    bytes: u64,
}

/// The committer's own state.
pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: flume::Receiver<Message>,
    pub(super) clock: Arc<Clock>,
    pub(super) durability: Durability,
    pub(super) identity: Arc<Mutex<Identity>>,
    pub(super) observer: Observer,
    pub(super) tail: Tail,
    /// Number of the last record that was given one.
    pub(super) last: Lsn,
    pub(super) last_hlc: Hlc,
    /// Every record up to this one is durable.
    pub(super) synced: Lsn,
    /// When the oldest bytes that are written and not synced were written.
    pub(super) dirty_since: Option<Instant>,
    pub(super) group: Group,
    pub(super) space_looked_at: Instant,
    /// Held as long as the thread lives.
    pub(super) _lock: Lock,
}

/// The group under way.
#[derive(Default)]
pub(super) struct Group {
    buffer: Vec<u8>,
    records: Vec<Committed>,
    waiters: Vec<Waiter>,
    /// Someone asked for a sync, whatever the durability.
    must_sync: bool,
}

impl Committer {
    /// Runs until it is told to stop or nobody can append any more.
    pub(super) fn run(mut self) {
        let alarm = Alarm { shared: Arc::clone(&self.shared) };
        loop {
            match self.queue.recv_timeout(self.patience()) {
                Ok(message) => {
                    if self.gather(message) {
                        break;
                    }
                }
                Err(flume::RecvTimeoutError::Timeout) => {}
                Err(flume::RecvTimeoutError::Disconnected) => break,
            }
            self.sync_if_due();
            if self.space_looked_at.elapsed() >= SPACE_EVERY {
                self.shared.look_at_space();
                self.space_looked_at = Instant::now();
            }
        }
        self.finish();
        drop(alarm);
    }

    /// Waits for a message, for a runtime's task. `None`: nobody can append any more.
    #[cfg(feature = "model")]
    pub(super) fn wait(&self) -> impl Future<Output = Option<Message>> + Send + use<> {
        let queue = self.queue.clone();
        async move { queue.recv_async().await.ok() }
    }

    /// What one turn of [`run`](Self::run) does with a message. True: stop.
    #[cfg(feature = "model")]
    pub(super) fn turn(&mut self, message: Message) -> bool {
        let stop = self.gather(message);
        self.sync_if_due();
        self.shared.look_at_space();
        stop
    }

    fn patience(&self) -> Duration {
        match (self.durability, self.dirty_since) {
            (Durability::Interval(ms), Some(since)) => {
                Duration::from_millis(ms).saturating_sub(since.elapsed()).min(SPACE_EVERY)
            }
            _ => SPACE_EVERY,
        }
    }

    /// Takes one message and what else is in the queue, up to a group's size. True: stop.
    fn gather(&mut self, first: Message) -> bool {
        let mut message = Some(first);
        let mut stop = false;
        let mut waited = false;
        while let Some(next) = message {
            match next {
                Message::Append(append) => self.take(append),
                Message::Stream(streamed) => self.take_stream(streamed),
                Message::Sync(done) => {
                    self.group.must_sync = true;
                    let durable = Durable { first: self.last.next(), last: self.last };
                    self.group.waiters.push(Waiter { done, durable, bytes: 0 });
                }
                Message::Stop => {
                    stop = true;
                    break;
                }
            }
            message = if self.group.buffer.len() < GROUP_BYTES { self.queued(&mut waited) } else { None };
        }
        self.settle();
        stop
    }

    /// The next message, if there is one. Before a group is closed, those who are about to append get the core once: on few
    /// cores that makes fewer and larger groups, and where cores are free it costs nothing.
    fn queued(&self, waited: &mut bool) -> Option<Message> {
        if let Ok(message) = self.queue.try_recv() {
            return Some(message);
        }
        if std::mem::replace(waited, true) {
            return None;
        }
        std::thread::yield_now();
        self.queue.try_recv().ok()
    }

    /// Numbers and encodes one append.
    fn take(&mut self, append: Append) {
        let Append { drafts, sizes, bytes, done } = append;
        if !drafts.is_empty() {
            self.roll_if_full();
        }
        if let Some(failure) = self.shared.failure() {
            metrics::LOG_QUEUE_BYTES.sub(bytes);
            let _waiter_gone = done.send(Err(failure));
            return;
        }
        let first = self.last.next();
        let wall_ms = self.clock.wall_ms();
        let count = drafts.len();
        for (i, (draft, size)) in drafts.into_iter().zip(&sizes).enumerate() {
            // A batch never reaches over the end of its append.
            let continued = draft.continued && i + 1 < count;
            self.put(draft.body, continued, wall_ms, size);
        }
        self.group.waiters.push(Waiter { done, durable: Durable { first, last: self.last }, bytes });
    }

    /// Starts the next segment, if this one is full.
    pub(super) fn roll_if_full(&mut self) {
        if self.tail.is_full(self.group.buffer.len()) {
            self.settle();
            self.roll();
        }
    }

    fn put(&mut self, body: Body, continued: bool, wall_ms: i64, size: &Sized) {
        let record = self.numbered(body, continued, wall_ms);
        let offset = self.tail.written() + self.group.buffer.len() as u64;
        self.encode(&record, size);
        self.group.records.push(Committed { record: Arc::new(record), offset });
    }

    /// The next record.
    pub(super) fn numbered(&mut self, body: Body, continued: bool, wall_ms: i64) -> Record {
        self.last = self.last.next();
        // The clock was set to the log's last record; this keeps the order also if it should ever be set back.
        self.last_hlc = self.clock.tick().max(Hlc(self.last_hlc.0.saturating_add(1)));
        Record { lsn: self.last, hlc: self.last_hlc, wall_ms, continued, body }
    }

    /// Puts a record in the buffer, and a full buffer on the disk.
    pub(super) fn encode(&mut self, record: &Record, size: &Sized) {
        frame::push(&mut self.group.buffer, size.bytes, |out| record::encode(out, record, self.synced, size));
        if self.group.buffer.len() >= GROUP_BYTES {
            self.write_out();
        }
    }

    /// Drops what is in the buffer.
    pub(super) fn forget_buffer(&mut self) {
        self.group.buffer.clear();
    }

    /// Hands the buffer to the disk.
    pub(super) fn write_out(&mut self) {
        if !self.group.buffer.is_empty() && self.shared.failure().is_none() {
            if let Err(error) = self.tail.append(&self.group.buffer) {
                self.shared.poison(&error.to_string());
            } else {
                self.dirty_since.get_or_insert_with(Instant::now);
                metrics::LOG_APPENDED_BYTES.add(self.group.buffer.len() as u64);
            }
        }
        self.group.buffer.clear();
        self.group.buffer.shrink_to(GROUP_BYTES + FRAME_HEAD_BYTES);
    }

    /// Makes the group durable, lets readers and the observer see it, wakes its waiters.
    pub(super) fn settle(&mut self) {
        self.write_out();
        self.sync_group();
        if let Some(failure) = self.shared.failure() {
            for waiter in self.group.waiters.drain(..) {
                metrics::LOG_QUEUE_BYTES.sub(waiter.bytes);
                let _waiter_gone = waiter.done.send(Err(failure.clone()));
            }
            self.group.records.clear();
            return;
        }
        if !self.group.records.is_empty() {
            self.shared.publish(self.tail.first(), self.tail.written(), self.last);
            self.count();
            (self.observer)(&self.group.records);
            self.group.records.clear();
        }
        for waiter in self.group.waiters.drain(..) {
            metrics::LOG_QUEUE_BYTES.sub(waiter.bytes);
            let _waiter_gone = waiter.done.send(Ok(waiter.durable));
        }
    }

    /// What the durability asks for before anyone hears of the group.
    pub(super) fn sync_group(&mut self) {
        if std::mem::take(&mut self.group.must_sync) || self.durability == Durability::Always {
            self.sync();
        }
    }

    fn count(&self) {
        let changes = self.group.records.iter().filter(|c| matches!(c.record.body, Body::Change(_))).count() as u64;
        let all = self.group.records.len() as u64;
        metrics::LOG_RECORDS.add_for("change", changes);
        metrics::LOG_RECORDS.add_for("control", all - changes);
        metrics::LOG_GROUP_RECORDS.observe_value(all);
        self.shared.count();
    }

    /// fdatasync; a failure poisons the log.
    fn sync(&mut self) {
        if self.shared.failure().is_some() || self.dirty_since.is_none() {
            return;
        }
        let started = Instant::now();
        match if mutated(Mutant::SkipSync) { Ok(()) } else { self.tail.sync() } {
            Ok(()) => {
                self.synced = self.last;
                self.dirty_since = None;
                metrics::LOG_SYNC_SECONDS.observe(started.elapsed());
            }
            Err(error) => self.shared.poison(&error.to_string()),
        }
    }

    fn sync_if_due(&mut self) {
        if let (Durability::Interval(ms), Some(since)) = (self.durability, self.dirty_since)
            && since.elapsed() >= Duration::from_millis(ms)
        {
            self.sync();
        }
    }

    /// Starts the next segment. What is in the one before is made durable first, whatever the durability: only the last
    /// segment may ever have a torn tail.
    fn roll(&mut self) {
        self.sync();
        if self.shared.failure().is_some() || self.tail.is_empty() {
            return;
        }
        let identity = *self.identity.lock();
        match self.tail.next(&self.shared, &identity, self.last, self.last_hlc, self.clock.wall_ms()) {
            Ok(tail) => {
                self.tail = tail;
                self.shared.publish(self.tail.first(), self.tail.written(), self.last);
                self.shared.count();
            }
            Err(error) => self.shared.poison(&error.to_string()),
        }
    }

    /// Syncs what is left and writes down that the log was closed in order.
    pub(super) fn finish(&mut self) {
        self.sync();
        if self.shared.failure().is_none() {
            let mut identity = self.identity.lock();
            let closed = Identity { left: Left::Closed(self.last), ..*identity };
            match closed.save(&*self.shared.disk, &self.shared.dir) {
                Ok(()) => *identity = closed,
                Err(error) => self.shared.poison(&error.to_string()),
            }
        }
        self.shared.close();
    }
}

/// Poisons the log should the committer's thread end in a way that nobody foresaw (a panic in the observer).
struct Alarm {
    shared: Arc<Shared>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.shared.failure().is_none() {
            self.shared.poison("the committer's thread died");
        }
    }
}

impl Shared {
    /// See [`Changelog::nothing_to_log`](super::Changelog::nothing_to_log).
    pub(super) fn nothing_to_log(&self) -> Result<Durable, LogError> {
        let tail = self.tail();
        self.failure().map_or(Ok(Durable { first: tail.next(), last: tail }), Err)
    }
}
