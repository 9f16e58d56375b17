//! What the committer, the readers and the callers of one log share.

use super::error::LogError;
use super::segment;
use crate::disk::{Disk, DiskFile};
use crate::metrics;
use crate::types::Lsn;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// How many segments stay open for reading at a place.
const OPEN_FILES: usize = 8;

/// The segments, and how far they hold records that readers may see.
#[derive(Clone, Debug, Default)]
pub(super) struct Map {
    /// First lsn → bytes that hold settled records (for all but the last: the whole file).
    pub(super) segments: BTreeMap<Lsn, u64>,
    /// The last settled record.
    pub(super) tail: Lsn,
}

/// A segment that holds some record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) first: Lsn,
    pub(super) bytes: u64,
    /// First record of the next segment, where there is one.
    pub(super) following: Option<Lsn>,
}

/// Why writes are not taken, where they are not.
#[derive(Debug, Default)]
struct Health {
    failure: OnceLock<LogError>,
    low: AtomicBool,
    free_bytes: AtomicU64,
}

/// The state of one open log.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    min_free_bytes: u64,
    map: RwLock<Map>,
    tail: watch::Sender<Lsn>,
    health: Health,
    files: Mutex<VecDeque<(Lsn, Arc<dyn DiskFile>)>>,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, map: Map, min_free_bytes: u64) -> Self {
        let tail = watch::Sender::new(map.tail);
        let files = Mutex::new(VecDeque::new());
        Self { disk, dir, min_free_bytes, map: RwLock::new(map), tail, health: Health::default(), files }
    }

    pub(super) fn tail(&self) -> Lsn {
        *self.tail.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Lsn> {
        self.tail.subscribe()
    }

    pub(super) fn first(&self) -> Lsn {
        self.map.read().segments.first_key_value().map_or(Lsn::ZERO, |(first, _)| *first)
    }

    /// All segments with the bytes that readers may see.
    pub(super) fn segments(&self) -> Vec<(Lsn, u64)> {
        self.map.read().segments.iter().map(|(first, bytes)| (*first, *bytes)).collect()
    }

    /// Lets readers see the records up to `tail`, which end at `bytes` in the segment `first`.
    pub(super) fn publish(&self, first: Lsn, bytes: u64, tail: Lsn) {
        {
            let mut map = self.map.write();
            map.segments.insert(first, bytes);
            map.tail = tail;
        }
        self.tail.send_replace(tail);
        metrics::LOG_TAIL_LSN.set(tail.0);
    }

    /// Takes a segment that retention removes out of the map.
    pub(super) fn forget(&self, first: Lsn) {
        self.map.write().segments.remove(&first);
        self.files.lock().retain(|(of, _)| *of != first);
        self.count();
    }

    /// Tells the metrics how much there is.
    pub(super) fn count(&self) {
        let map = self.map.read();
        metrics::LOG_SEGMENTS.set(map.segments.len() as u64);
        metrics::LOG_BYTES.set(map.segments.values().sum());
        metrics::LOG_FIRST_LSN.set(map.segments.first_key_value().map_or(0, |(first, _)| first.0));
    }

    /// The segment that holds `lsn`.
    pub(super) fn place(&self, lsn: Lsn) -> Result<Place, LogError> {
        let map = self.map.read();
        let first = map.segments.first_key_value().map_or(Lsn::ZERO, |(first, _)| *first);
        let found = map.segments.range(..=lsn).next_back();
        let (first, bytes) = found.ok_or(LogError::Trimmed { lsn, first })?;
        let following = map.segments.range((Excluded(*first), Unbounded)).next().map(|(next, _)| *next);
        Ok(Place { first: *first, bytes: *bytes, following })
    }

    /// Bytes of the segment `first` that readers may see now, and the segment after it.
    pub(super) fn place_of(&self, first: Lsn) -> Option<Place> {
        let map = self.map.read();
        let mut from = map.segments.range((Included(first), Unbounded));
        let (_, bytes) = from.next().filter(|(found, _)| **found == first)?;
        Some(Place { first, bytes: *bytes, following: from.next().map(|(next, _)| *next) })
    }

    /// An open segment for reading at a place.
    pub(super) fn file(&self, first: Lsn) -> Result<Arc<dyn DiskFile>, LogError> {
        let mut files = self.files.lock();
        if let Some((_, file)) = files.iter().find(|(of, _)| *of == first) {
            return Ok(Arc::clone(file));
        }
        let file: Arc<dyn DiskFile> = Arc::from(self.open(first)?);
        files.push_back((first, Arc::clone(&file)));
        if files.len() > OPEN_FILES {
            files.pop_front();
        }
        Ok(file)
    }

    /// Opens a segment for reading.
    pub(super) fn open(&self, first: Lsn) -> Result<Box<dyn DiskFile>, LogError> {
        self.disk.open_read(&self.dir.join(segment::name(first))).map_err(LogError::io("open a segment"))
    }

    /// Writes are refused from now on; the first cause stays.
    pub(super) fn poison(&self, cause: &str) {
        if self.health.failure.set(LogError::Poisoned { cause: cause.into() }).is_ok() {
            metrics::LOG_POISONED.set_flag(true);
            tracing::error!(dir = %self.dir.display(), cause, "the changelog is poisoned: no write is acknowledged until a restart");
        }
    }

    pub(super) fn close(&self) {
        let _already_failed = self.health.failure.set(LogError::Closed);
    }

    /// Why nothing can be appended, if so.
    pub(super) fn failure(&self) -> Option<LogError> {
        self.health.failure.get().cloned()
    }

    /// Looks at the free space.
    pub(super) fn look_at_space(&self) {
        match self.disk.free_bytes(&self.dir) {
            Ok(free) => {
                let low = free < self.min_free_bytes;
                self.health.free_bytes.store(free, Ordering::Relaxed);
                if self.health.low.swap(low, Ordering::Relaxed) != low {
                    tracing::warn!(dir = %self.dir.display(), free, min = self.min_free_bytes, low, "free space of the changelog");
                }
                metrics::DISK_FREE_BYTES.set(free);
                metrics::DISK_LOW.set_flag(low);
            }
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot tell the free space of the changelog");
            }
        }
    }

    pub(super) fn writable(&self) -> Result<(), LogError> {
        if let Some(failure) = self.health.failure.get() {
            return Err(failure.clone());
        }
        if self.health.low.load(Ordering::Relaxed) {
            let free_bytes = self.health.free_bytes.load(Ordering::Relaxed);
            return Err(LogError::DiskFull { dir: self.dir.clone(), free_bytes, min_free_bytes: self.min_free_bytes });
        }
        Ok(())
    }
}
