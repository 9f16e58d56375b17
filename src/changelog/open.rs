//! Taking a log over: lock, look, mend what may be mended, start the committer.

use super::commit::{Committer, Group, Observer};
use super::error::LogError;
use super::identity::{Identity, Left};
use super::log::{Changelog, Durability, LogOptions, Opened};
use super::recover::{self, Found, Survey, Truncation};
use super::roll::Tail;
use super::segment::{self, Header};
use super::shared::{Map, Shared};
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile, Lock};
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::types::{Epoch, Hlc, LogId, Lsn};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

const LOCK_NAME: &str = "LOCK";

/// How much of a tail is written anew at once.
const REWRITE_BYTES: usize = 1024 * 1024;

/// A log that is ready to be written to.
struct Ready {
    identity: Identity,
    map: Map,
    tail: Tail,
    last_hlc: Hlc,
    truncated: Option<Truncation>,
    clean: bool,
}

/// A log that is ready, and the right to write it.
struct Owned {
    ready: Ready,
    lock: Lock,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: &LogOptions,
    clock: Arc<Clock>,
    observer: Observer,
) -> Result<(Changelog, Committer, Opened), LogError> {
    make_folder(&*disk, &dir).map_err(LogError::io("make the log's folder"))?;
    let lock = disk.lock(&dir.join(LOCK_NAME)).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => LogError::Locked { source: Arc::new(e) },
        _ => LogError::io("lock the log")(e),
    })?;
    let ready = match recover::survey(&*disk, &dir)? {
        Found::Nothing { husk } => begin(&*disk, &dir, options, husk, clock.wall_ms())?,
        Found::Log(survey) => take_over(&*disk, &dir, options, *survey)?,
    };
    clock.restore(ready.last_hlc);
    let shared = Arc::new(Shared::new(disk, dir, ready.map.clone(), options.min_free_bytes));
    Ok(assemble(shared, options, clock, observer, Owned { ready, lock }))
}

/// Starts the committer's thread.
pub(super) fn start(log: &Changelog, committer: Committer) -> Result<(), LogError> {
    let thread = std::thread::Builder::new().name("committer".to_owned()).spawn(move || committer.run());
    *log.committer.lock() = Some(thread.map_err(LogError::io("start the committer's thread"))?);
    Ok(())
}

/// Makes the folder, level by level, each one durable before the next: so whenever this is cut, at most the lowest level that
/// is there may not be durable, and its parent is synced here too.
fn make_folder(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for level in dir.ancestors().filter(|level| !level.as_os_str().is_empty()) {
        if disk.exists(level)? {
            if let Err(error) = disk.sync_dir(above(level))
                && error.kind() != io::ErrorKind::PermissionDenied
            {
                return Err(error);
            }
            break;
        }
        missing.push(level);
    }
    for level in missing.into_iter().rev() {
        disk.create_dir_all(level)?;
        disk.sync_dir(above(level))?;
    }
    Ok(())
}

fn above(dir: &Path) -> &Path {
    dir.parent().unwrap_or(dir)
}

fn left(durability: Durability) -> Left {
    if durability == Durability::Always { Left::Synced } else { Left::Unsynced }
}

/// A new log: the first segment, then the file that says there is a log.
fn begin(
    disk: &dyn Disk,
    dir: &Path,
    options: &LogOptions,
    husk: Option<String>,
    created_ms: i64,
) -> Result<Ready, LogError> {
    if let Some(name) = husk {
        disk.remove(&dir.join(name)).map_err(LogError::io("remove a first segment that was never used"))?;
    }
    let first = Lsn(1);
    let identity = Identity {
        log_id: LogId(uuid::Uuid::new_v4().into_bytes()),
        epoch: Epoch(1),
        first,
        left: left(options.durability),
    };
    let header = Header {
        log_id: identity.log_id,
        epoch: identity.epoch,
        first,
        created_ms,
        previous_bytes: 0,
        previous_hlc: Hlc(0),
        previous_first: Lsn::ZERO,
    };
    let tail = Tail::create(disk, dir, &header, options.segment_bytes)?;
    identity.save(disk, dir)?;
    let map = Map { segments: BTreeMap::from([(first, tail.written())]), tail: Lsn::ZERO };
    Ok(Ready { identity, map, tail, last_hlc: Hlc(0), truncated: None, clean: true })
}

/// An existing log: leftovers go, the torn tail goes, and what stays is made durable before anyone may rely on it.
fn take_over(disk: &dyn Disk, dir: &Path, options: &LogOptions, survey: Survey) -> Result<Ready, LogError> {
    let mend = LogError::io("take the log over");
    let mut identity = survey.identity;
    let Some((first, written)) = survey.segments.last_key_value().map(|(f, w)| (*f, *w)) else {
        return Err(LogError::Missing { file: segment::name(identity.first), fact: "no segment is left".to_owned() });
    };
    let clean = matches!(identity.left, Left::Closed(_));
    let mended = || {
        for name in &survey.leftovers {
            disk.remove(&dir.join(name))?;
        }
        let mut file = disk.open_rw(&dir.join(segment::name(first)))?;
        if survey.torn.is_some() {
            file.truncate(written)?;
        }
        if !clean {
            rewrite(&*file, survey.unsynced_from, written)?;
        }
        file.sync_all()?;
        disk.sync_dir(dir)?;
        Ok(file)
    };
    let file = mended().map_err(mend)?;
    if let Some(torn) = &survey.torn {
        metrics::LOG_CUT_BYTES.add(torn.bytes);
        tracing::warn!(
            segment = torn.segment,
            offset = torn.offset,
            bytes = torn.bytes,
            fact = torn.fact,
            "torn tail cut off"
        );
    }
    if identity.left == Left::Unsynced && !mutated(Mutant::KeepEpoch) {
        identity.epoch = Epoch(identity.epoch.0.saturating_add(1));
    }
    identity.left = left(options.durability);
    identity.save(disk, dir)?;
    let tail = Tail::reopen(file, first, written, options.segment_bytes);
    let map = Map { segments: survey.segments, tail: survey.tail };
    Ok(Ready { identity, map, tail, last_hlc: survey.last_hlc, truncated: survey.torn, clean })
}

/// Writes bytes that may never have been durable once more. Had their sync failed, the system would take them for clean and
/// the next sync would say ok without writing them.
fn rewrite(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut chunk = Vec::new();
    let mut at = from;
    while at < to {
        chunk.resize(usize::try_from(to - at).unwrap_or(REWRITE_BYTES).min(REWRITE_BYTES), 0);
        let got = file.read_at(at, &mut chunk)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(at, chunk.get(..got).unwrap_or_default())?;
        at += got as u64;
    }
    Ok(())
}

fn assemble(
    shared: Arc<Shared>,
    options: &LogOptions,
    clock: Arc<Clock>,
    observer: Observer,
    Owned { ready, lock }: Owned,
) -> (Changelog, Committer, Opened) {
    let last = ready.map.tail;
    let opened = Opened {
        log_id: ready.identity.log_id,
        tail: last,
        first: ready.identity.first,
        epoch: ready.identity.epoch,
        truncated: ready.truncated,
        clean: ready.clean,
    };
    shared.look_at_space();
    shared.count();
    metrics::LOG_TAIL_LSN.set(last.0);
    metrics::LOG_POISONED.set_flag(false);
    let (sender, queue) = flume::unbounded();
    let identity = Arc::new(Mutex::new(ready.identity));
    let committer = Committer {
        shared: Arc::clone(&shared),
        queue,
        clock,
        durability: options.durability,
        identity: Arc::clone(&identity),
        observer,
        tail: ready.tail,
        last,
        last_hlc: ready.last_hlc,
        synced: last,
        dirty_since: None,
        group: Group::default(),
        space_looked_at: Instant::now(),
        _lock: lock,
    };
    let room_units = u32::try_from(options.queue_bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 1).max(1);
    let room = Arc::new(Semaphore::new(usize::try_from(room_units).unwrap_or(usize::MAX >> 4)));
    let log = Changelog { shared, queue: sender, room, room_units, identity, committer: Mutex::new(None) };
    (log, committer, opened)
}
