//! Named checkpoints of those who read windows: `DATA/consumers/<name>.json`, each a small JSON file, replaced as a whole.
//!
//! # Invariants
//! 1. A checkpoint names the last window that its consumer is done with. It never names one that is not there to be read, and goes
//!    back only when that is said, and to where windows still are.
//! 2. What it needs (the windows after it) is not removed: whoever removes windows decides under the same lock ([`Consumers::reading`]).
//! 3. A file that cannot be read holds back everything until a person sets or drops it; it does not keep the sidecar from starting.
//!
//! A consumer of a sink reads that sink's windows. One without a sink reads windows as such, wherever they are.

use super::ledger::Windows;
use crate::disk::Disk;
use crate::types::{LogId, WindowId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The greatest number of consumers: each has its series in the metrics.
pub const MAX_CONSUMERS: usize = 256;
/// The greatest length of a name.
const MAX_NAME: usize = 64;
/// The greatest length of a note, in bytes.
const MAX_NOTE: usize = 256;
const SUFFIX: &str = ".json";

/// A checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumer {
    /// The sink that it reads; empty: windows as such.
    pub sink: String,
    /// The last window that it is done with; zero: none.
    pub window: WindowId,
    /// When it last moved (or was made), ms since 1970.
    pub moved_ms: i64,
    /// For people.
    pub note: String,
    /// Why its file cannot be read; empty: it can.
    pub damage: String,
}

/// Where a consumer is to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Before the oldest window that is there.
    Oldest,
    /// After the newest.
    Now,
    /// It is done with this window.
    Done(WindowId),
}

/// What is asked of a consumer; what is `None` stays, or for a new one is: no sink, no note, the oldest window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The sink that it reads. It cannot be changed.
    pub sink: Option<String>,
    /// Where it is to stand.
    pub mark: Option<Mark>,
    /// For people.
    pub note: Option<String>,
    /// It may go back.
    pub back: bool,
}

/// The windows that a consumer of a sink could read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The first.
    pub first: WindowId,
    /// The last; zero: there is none yet.
    pub last: WindowId,
}

/// Why a consumer is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// A name that cannot be one.
    #[error(
        "a consumer's name: found `{0}`, expected 1 to 64 of a-z, 0-9, `-`, `_` and `.`, the first a letter or a digit"
    )]
    Name(String),
    /// A note that is too long.
    #[error("note: found {0} bytes, expected at most {MAX_NOTE} without control characters")]
    Note(usize),
    /// There is no such consumer.
    #[error("there is no consumer `{0}`; `tidelog consumers list` shows all")]
    Unknown(String),
    /// There is no such sink.
    #[error("sink: there is no sink `{0}`")]
    Sink(String),
    /// It reads another sink.
    #[error("consumer `{name}` reads {}: drop it first, or take another name", place(sink))]
    OtherSink {
        /// Its name.
        name: String,
        /// The sink.
        sink: String,
    },
    /// The window is not there yet.
    #[error("window {asked} is not there yet: the last of {} is {last}", place(sink))]
    Ahead {
        /// What was asked for.
        asked: WindowId,
        /// The sink.
        sink: String,
        /// The last window there.
        last: WindowId,
    },
    /// It would go back.
    #[error("consumer `{name}` is done with window {at}: to read again from {} on, say `back`", .asked.next())]
    Back {
        /// Its name.
        name: String,
        /// Where it is.
        at: WindowId,
        /// What was asked for.
        asked: WindowId,
    },
    /// The windows that it would read are gone.
    #[error("window {} is no longer there: the oldest of {} is {first}", .asked.next(), place(sink))]
    Gone {
        /// What was asked for.
        asked: WindowId,
        /// The sink.
        sink: String,
        /// The first window there.
        first: WindowId,
    },
    /// There are too many.
    #[error("there are {MAX_CONSUMERS} consumers, which is the most: drop one")]
    TooMany,
    /// The system refused.
    #[error("consumers: {0}")]
    Io(#[from] io::Error),
}

fn place(sink: &str) -> String {
    if sink.is_empty() { "the log".to_owned() } else { format!("sink `{sink}`") }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    log: String,
    sink: String,
    window: u64,
    moved_ms: i64,
    note: String,
    crc32c: u32,
}

impl Stored {
    fn crc(&self) -> u32 {
        let words = (self.format, &self.log, &self.sink, self.window, self.moved_ms, &self.note);
        serde_json::to_vec(&words).map_or(0, |words| crc32c::crc32c(&words))
    }
}

/// All consumers of a log.
#[derive(Debug)]
pub struct Consumers {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    log: LogId,
    windows: Arc<Windows>,
    all: Mutex<BTreeMap<String, Consumer>>,
}

impl Consumers {
    /// Reads what stands in the folder `dir`.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, log: LogId, windows: Arc<Windows>) -> io::Result<Self> {
        let mut all = BTreeMap::new();
        let names = if disk.exists(dir)? { disk.list(dir)? } else { Vec::new() };
        for file in &names {
            let Some(name) = file.strip_suffix(SUFFIX).filter(|name| is_name(name)) else { continue };
            let read = read(&disk.read(&dir.join(file))?, log);
            let consumer = read.unwrap_or_else(|damage| {
                tracing::error!(
                    consumer = name,
                    damage,
                    "a consumer's checkpoint cannot be read: all windows are kept"
                );
                Consumer { damage, ..Consumer::default() }
            });
            all.insert(name.to_owned(), consumer);
        }
        Ok(Self { disk, dir: dir.to_owned(), log, windows, all: Mutex::new(all) })
    }

    /// All of them by name.
    pub fn all(&self) -> BTreeMap<String, Consumer> {
        self.all.lock().clone()
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<Consumer> {
        self.all.lock().get(name).cloned()
    }

    /// Those who need the log itself, each as people are told of it and with the first window whose records it has not read: the
    /// consumers without a sink.
    pub(super) fn holders(&self) -> Vec<(String, WindowId)> {
        let all = self.all.lock();
        let held = all.iter().filter(|(_, consumer)| consumer.sink.is_empty());
        held.map(|(name, consumer)| (format!("consumer {name}"), consumer.window.next())).collect()
    }

    /// Makes a decision about the windows of a sink while none of those who read them moves: it gets their names, and the last
    /// window that each is done with.
    pub(super) fn reading<T>(&self, sink: &str, decide: impl FnOnce(&[(String, WindowId)]) -> T) -> T {
        let all = self.all.lock();
        let reads = all.iter().filter(|(_, consumer)| consumer.sink.is_empty() || consumer.sink == sink);
        let reading: Vec<_> = reads.map(|(name, consumer)| (name.clone(), consumer.window)).collect();
        decide(&reading)
    }

    /// Makes a consumer or moves it; asked again for the same, nothing changes. `reach` tells what is at a sink; `None`: there is
    /// no such sink.
    ///
    /// # Errors
    /// As the variants say; then nothing changed.
    pub fn set(
        &self,
        name: &str,
        wish: Wish,
        reach: impl FnOnce(&str) -> Option<Reach>,
        now_ms: i64,
    ) -> Result<Consumer, ConsumerError> {
        if !is_name(name) {
            return Err(ConsumerError::Name(name.chars().take(MAX_NAME).collect()));
        }
        if let Some(note) = wish.note.as_ref().filter(|n| n.len() > MAX_NOTE || n.chars().any(char::is_control)) {
            return Err(ConsumerError::Note(note.len()));
        }
        let mut all = self.all.lock();
        let known = all.get(name);
        if known.is_none() && all.len() >= MAX_CONSUMERS {
            return Err(ConsumerError::TooMany);
        }
        let next = moved(name, known, wish, reach, now_ms)?;
        if known != Some(&next) {
            self.store(name, &next)?;
            all.insert(name.to_owned(), next.clone());
        }
        Ok(next)
    }

    /// Forgets a consumer: it holds nothing any more.
    ///
    /// # Errors
    /// There is none of that name, or what the system said.
    pub fn forget(&self, name: &str) -> Result<(), ConsumerError> {
        let mut all = self.all.lock();
        if !all.contains_key(name) {
            return Err(ConsumerError::Unknown(name.chars().take(MAX_NAME).collect()));
        }
        let path = self.path(name);
        if self.disk.exists(&path)? {
            self.disk.remove(&path)?;
        }
        self.disk.sync_dir(&self.dir)?;
        all.remove(name);
        Ok(())
    }

    /// When a window was closed, and its last record.
    pub(super) fn closed(&self, window: WindowId) -> Option<(i64, u64)> {
        self.windows.get(window).ok().flatten().map(|window| (window.closed_ms, window.last.0))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }

    fn store(&self, name: &str, consumer: &Consumer) -> Result<(), ConsumerError> {
        let Consumer { sink, window, moved_ms, note, damage: _ } = consumer.clone();
        let log = self.log.to_string();
        let mut stored = Stored { format: 1, log, sink, window: window.0, moved_ms, note, crc32c: 0 };
        stored.crc32c = stored.crc();
        let mut bytes = serde_json::to_vec_pretty(&stored).map_err(io::Error::from)?;
        bytes.push(b'\n');
        self.disk.make_dir(&self.dir)?;
        Ok(self.disk.replace(&self.path(name), &bytes)?)
    }
}

/// What a consumer comes to be by a wish.
fn moved(
    name: &str,
    known: Option<&Consumer>,
    wish: Wish,
    reach: impl FnOnce(&str) -> Option<Reach>,
    now_ms: i64,
) -> Result<Consumer, ConsumerError> {
    let known = known.filter(|known| known.damage.is_empty());
    let sink = wish.sink.or_else(|| known.map(|known| known.sink.clone())).unwrap_or_default();
    if let Some(other) = known.filter(|known| known.sink != sink) {
        return Err(ConsumerError::OtherSink { name: name.to_owned(), sink: other.sink.clone() });
    }
    let Some(Reach { first, last }) = reach(&sink) else { return Err(ConsumerError::Sink(sink)) };
    let before_first = WindowId(first.0.saturating_sub(1));
    let window = match (wish.mark, known) {
        (None, Some(known)) => known.window,
        (None | Some(Mark::Oldest), _) => before_first,
        (Some(Mark::Now), _) => last.max(before_first),
        (Some(Mark::Done(window)), _) => window,
    };
    if known.is_none_or(|known| known.window != window) {
        if window > last.max(before_first) {
            return Err(ConsumerError::Ahead { asked: window, sink, last });
        }
        if let Some(at) = known.map(|known| known.window).filter(|at| *at > window && !wish.back) {
            return Err(ConsumerError::Back { name: name.to_owned(), at, asked: window });
        }
        if window < before_first {
            return Err(ConsumerError::Gone { asked: window, sink, first });
        }
    }
    let moved_ms = known.filter(|known| known.window == window).map_or(now_ms, |known| known.moved_ms);
    let note = wish.note.or_else(|| known.map(|known| known.note.clone())).unwrap_or_default();
    Ok(Consumer { sink, window, moved_ms, note, damage: String::new() })
}

fn is_name(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    begins && name.len() <= MAX_NAME && name.chars().all(letters)
}

fn read(bytes: &[u8], log: LogId) -> Result<Consumer, String> {
    let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if stored.format != 1 || stored.crc() != stored.crc32c {
        return Err("its CRC is wrong".to_owned());
    }
    if stored.log != log.to_string() {
        return Err(format!("it belongs to log {}", stored.log));
    }
    let Stored { sink, window, moved_ms, note, .. } = stored;
    Ok(Consumer { sink, window: WindowId(window), moved_ms, note, damage: String::new() })
}

mod lag;
#[cfg(test)]
mod tests;

pub use lag::ConsumerStatus;
