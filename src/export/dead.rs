//! The dead letters of one sink: records that its form or its server refuses, each alone. `DATA/dead/<sink>.json`.
//!
//! A letter points into the log, which holds the record itself. Its window goes on without it and says so in the manifest;
//! once the cause is mended, a retry delivers the missing records of a window in an *amendment* of that window.
//!
//! # Invariants
//! 1. A letter is durable before the manifest of the window that lacks the record.
//! 2. Which records a window lacks never changes, whatever becomes of the letters: delivering it again gives the same bytes.
//! 3. Amendments of a window are numbered 1, 2 …; what is in one is durable here before it is begun, and does not change.
//!
//! The file is replaced as a whole: letters are rare, and there are at most [`MAX_LETTERS`] of them; past that the sink stops,
//! for then it is not single records that are wrong.

use super::checkpoint::CheckpointError;
use crate::disk::Disk;
use crate::types::{Body, Digest, Image, LogId, Lsn, Record, WindowId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The greatest number of letters of a sink that are not dropped or delivered.
pub const MAX_LETTERS: usize = 10_000;
/// The greatest number of records that one window may lack.
pub const MAX_OF_WINDOW: usize = 1_000;

/// Where a record was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It cannot be written in the sink's form, or is larger than the sink may get.
    Serialization,
    /// The sink's server refused it.
    Delivery,
}

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "amendment")]
pub enum State {
    /// The record is missing at the sink.
    Waiting,
    /// Somebody asked for it again: it goes out in this amendment of its window.
    Asked(u32),
    /// It is at the sink, in this amendment.
    Delivered(u32),
    /// Somebody said that it is to stay missing.
    Dropped,
}

/// What a manifest says of a record that its window lacks: all but the contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its number in the log.
    pub lsn: u64,
    /// The entity's namespace.
    pub ns: String,
    /// The entity's key, hex.
    pub key: String,
    /// The entity's count.
    pub epoch: u32,
    /// The entity's count.
    pub seq: u64,
    /// `insert` and the like.
    pub op: String,
    /// SHA-256 of the image before.
    pub before_sha256: Option<String>,
    /// SHA-256 of the image after.
    pub after_sha256: Option<String>,
}

impl Missing {
    /// What is told of a change; `None`: it is a control record, which no sink may refuse.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let Body::Change(change) = &record.body else { return None };
        let before = change.before_sha.or_else(|| change.before.as_ref().map(Image::sha));
        Some(Self {
            lsn: record.lsn.0,
            ns: change.ns.as_str().to_owned(),
            key: hex::encode(change.key.as_bytes()),
            epoch: change.epoch.0,
            seq: change.seq.0,
            op: change.op.name().to_owned(),
            before_sha256: before.map(|sha| sha.to_string()),
            after_sha256: change.after.as_ref().map(|image| image.sha().to_string()),
        })
    }
}

/// A record that is, or was, missing at the sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The record, without contents.
    pub record: Missing,
    /// Its window.
    pub window: u64,
    /// Where it was refused.
    pub stage: Stage,
    /// Why, the last time. No contents of documents.
    pub reason: String,
    /// When it was first refused, ms since 1970.
    pub first_ms: i64,
    /// When it was last refused.
    pub last_ms: i64,
    /// How often.
    pub attempts: u32,
    /// What became of it.
    pub state: State,
}

impl Letter {
    /// Its window lacks the record, and it may still come.
    pub fn is_missing(&self) -> bool {
        matches!(self.state, State::Waiting | State::Asked(_))
    }
}

/// A refusal, as it happens.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) record: Missing,
    pub(super) stage: Stage,
    pub(super) reason: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    log: String,
    letters: Vec<Letter>,
    /// Window → SHA-256 of its newest manifest, the amendments' included; of windows that lack records.
    manifests: BTreeMap<u64, String>,
    crc32c: u32,
}

/// An amendment that is to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Amendment {
    pub(super) window: WindowId,
    pub(super) number: u32,
    pub(super) records: BTreeSet<u64>,
    /// SHA-256 of the window's manifest, or of its amendment before.
    pub(super) previous: Option<String>,
}

/// All letters of a sink, by lsn.
#[derive(Debug)]
pub struct DeadLetters {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    log: LogId,
    letters: BTreeMap<u64, Letter>,
    manifests: BTreeMap<u64, String>,
}

impl DeadLetters {
    /// Reads the letters of the sink `name` in the folder `dir`.
    ///
    /// # Errors
    /// Damaged, foreign, or what the system said.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, name: &str, log: LogId) -> Result<Self, CheckpointError> {
        let path = dir.join(format!("{name}.json"));
        let mut this = Self { disk, path, log, letters: BTreeMap::new(), manifests: BTreeMap::new() };
        if this.disk.exists(&this.path)? {
            let damaged = |what: String| CheckpointError::Damaged { path: this.path.clone(), what };
            let bytes = this.disk.read(&this.path)?;
            let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
            if stored.format != 1 || crc(&stored) != stored.crc32c {
                return Err(damaged("its CRC is wrong".into()));
            }
            if stored.log != log.to_string() {
                return Err(CheckpointError::Foreign { path: this.path.clone(), found: stored.log, ours: log });
            }
            this.letters = stored.letters.into_iter().map(|letter| (letter.record.lsn, letter)).collect();
            this.manifests = stored.manifests;
        }
        Ok(this)
    }

    /// All of them, in the order of the log.
    pub fn letters(&self) -> impl Iterator<Item = &Letter> {
        self.letters.values()
    }

    /// Letters whose records are missing and that nobody dropped.
    pub fn waiting(&self) -> usize {
        self.letters.values().filter(|letter| letter.is_missing()).count()
    }

    /// The window of the oldest letter whose record is missing and that nobody dropped.
    pub(super) fn oldest_waiting(&self) -> Option<WindowId> {
        self.letters.values().filter(|letter| letter.is_missing()).map(|letter| WindowId(letter.window)).min()
    }

    /// Whether records that a window lacks may still come.
    pub(super) fn waits(&self, window: WindowId) -> bool {
        self.letters.values().any(|letter| letter.window == window.0 && letter.is_missing())
    }

    /// The records that a window lacks.
    pub(super) fn of(&self, window: WindowId) -> BTreeSet<u64> {
        self.letters.values().filter(|letter| letter.window == window.0).map(|letter| letter.record.lsn).collect()
    }

    /// Takes refusals down, durably. `false`: there would be too many.
    pub(super) fn refuse(
        &mut self,
        window: WindowId,
        refusals: Vec<Refusal>,
        now_ms: i64,
    ) -> Result<bool, CheckpointError> {
        let more = refusals.iter().filter(|refusal| !self.letters.contains_key(&refusal.record.lsn)).count();
        if self.of(window).len() + more > MAX_OF_WINDOW || self.waiting() + more > MAX_LETTERS {
            return Ok(false);
        }
        let before = self.letters.clone();
        for Refusal { record, stage, reason } in refusals {
            let fresh = || Letter {
                record: record.clone(),
                window: window.0,
                stage,
                reason: String::new(),
                first_ms: now_ms,
                last_ms: now_ms,
                attempts: 0,
                state: State::Waiting,
            };
            let letter = self.letters.entry(record.lsn).or_insert_with(fresh);
            (letter.stage, letter.reason, letter.last_ms) = (stage, reason, now_ms);
            (letter.attempts, letter.state) = (letter.attempts.saturating_add(1), State::Waiting);
        }
        self.store_or(before).map(|()| true)
    }

    /// A window that lacks records, or an amendment, is at the sink with this manifest.
    pub(super) fn delivered(&mut self, window: WindowId, number: u32, manifest: Digest) -> Result<(), CheckpointError> {
        let before = self.letters.clone();
        let known = self.manifests.insert(window.0, manifest.to_string());
        for letter in self.letters.values_mut().filter(|letter| letter.window == window.0) {
            if letter.state == State::Asked(number) {
                letter.state = State::Delivered(number);
            }
        }
        let stored = self.store_or(before);
        if stored.is_err() {
            match known {
                Some(sha) => self.manifests.insert(window.0, sha),
                None => self.manifests.remove(&window.0),
            };
        }
        stored
    }

    /// The records are to go out again; those that wait among these (none: all that wait). Tells how many.
    ///
    /// # Errors
    /// What the system said; then nothing changed.
    pub fn retry(&mut self, lsns: &BTreeSet<Lsn>) -> Result<usize, CheckpointError> {
        let numbers: BTreeMap<u64, u32> = self.letters.values().fold(BTreeMap::new(), |mut numbers, letter| {
            let last = numbers.entry(letter.window).or_default();
            if let State::Asked(number) | State::Delivered(number) = letter.state {
                *last = number.max(*last);
            }
            numbers
        });
        self.change(lsns, |letter| State::Asked(numbers.get(&letter.window).copied().unwrap_or(0) + 1))
    }

    /// The records are to stay missing; those that wait among these (none: all that wait). Tells how many.
    ///
    /// # Errors
    /// What the system said; then nothing changed.
    pub fn drop_letters(&mut self, lsns: &BTreeSet<Lsn>) -> Result<usize, CheckpointError> {
        self.change(lsns, |_| State::Dropped)
    }

    fn change(&mut self, lsns: &BTreeSet<Lsn>, to: impl Fn(&Letter) -> State) -> Result<usize, CheckpointError> {
        let before = self.letters.clone();
        let mut changed = 0;
        for (lsn, letter) in &mut self.letters {
            if letter.state == State::Waiting && (lsns.is_empty() || lsns.contains(&Lsn(*lsn))) {
                letter.state = to(letter);
                changed += 1;
            }
        }
        self.store_or(before).map(|()| changed)
    }

    /// The first amendment that somebody asked for, of a window whose manifest is at the sink.
    pub(super) fn asked(&self) -> Option<Amendment> {
        let asked = |letter: &&Letter| matches!(letter.state, State::Asked(_));
        let first = self.letters.values().filter(asked).find(|l| self.manifests.contains_key(&l.window))?;
        let State::Asked(number) = first.state else { return None };
        let same = |l: &&Letter| l.window == first.window && l.state == first.state;
        let records = self.letters.values().filter(same).map(|letter| letter.record.lsn).collect();
        let previous = self.manifests.get(&first.window).cloned();
        Some(Amendment { window: WindowId(first.window), number, records, previous })
    }

    fn store_or(&mut self, before: BTreeMap<u64, Letter>) -> Result<(), CheckpointError> {
        let stored = self.store();
        if stored.is_err() {
            self.letters = before;
        }
        stored
    }

    fn store(&self) -> Result<(), CheckpointError> {
        let letters = self.letters.values().cloned().collect();
        let (log, manifests) = (self.log.to_string(), self.manifests.clone());
        let mut stored = Stored { format: 1, log, letters, manifests, crc32c: 0 };
        stored.crc32c = crc(&stored);
        let mut bytes = serde_json::to_vec_pretty(&stored).map_err(io::Error::from)?;
        bytes.push(b'\n');
        self.disk.make_dir(self.path.parent().unwrap_or(Path::new("")))?;
        Ok(self.disk.replace(&self.path, &bytes)?)
    }
}

fn crc(stored: &Stored) -> u32 {
    let words = serde_json::to_vec(&(stored.format, &stored.log, &stored.letters, &stored.manifests));
    words.map_or(0, |words| crc32c::crc32c(&words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FaultDisk;

    fn refusal(lsn: u64, reason: &str) -> Refusal {
        let record = Missing {
            lsn,
            ns: "d.c".into(),
            key: "01".into(),
            epoch: 1,
            seq: 1,
            op: "insert".into(),
            before_sha256: None,
            after_sha256: Some("aa".into()),
        };
        Refusal { record, stage: Stage::Delivery, reason: reason.into() }
    }

    fn open(disk: &FaultDisk) -> DeadLetters {
        DeadLetters::open(Arc::new(disk.clone()), Path::new("/data/dead"), "lake", LogId([1; 16])).expect("open")
    }

    #[test]
    fn a_letter_goes_its_way_and_its_window_keeps_lacking_it() {
        let disk = FaultDisk::new();
        let mut letters = open(&disk);
        assert!(letters.refuse(WindowId(2), vec![refusal(5, "large"), refusal(7, "large")], 10).expect("store"));
        assert!(letters.refuse(WindowId(3), vec![refusal(9, "odd")], 20).expect("store"));
        assert_eq!(letters.retry(&BTreeSet::from([Lsn(5), Lsn(9), Lsn(11)])).expect("store"), 2);
        assert_eq!(letters.asked(), None, "no manifest of their windows is at the sink");
        letters.delivered(WindowId(2), 0, Digest([2; 32])).expect("store");
        let mut letters = open(&disk.crash(0));
        let asked = letters.asked().expect("asked");
        assert_eq!((asked.window, asked.number, asked.records), (WindowId(2), 1, BTreeSet::from([5])));
        assert_eq!(asked.previous, Some(Digest([2; 32]).to_string()));
        // Refused again: it waits, and counts the attempt.
        assert!(letters.refuse(WindowId(2), vec![refusal(5, "still large")], 30).expect("store"));
        let letter = letters.letters().next().expect("a letter").clone();
        assert_eq!((letter.attempts, letter.first_ms, letter.last_ms, letter.state), (2, 10, 30, State::Waiting));
        assert_eq!(letters.retry(&BTreeSet::new()).expect("store"), 2);
        letters.delivered(WindowId(2), 1, Digest([3; 32])).expect("store");
        assert_eq!(letters.of(WindowId(2)), BTreeSet::from([5, 7]), "the window itself does not change");
        assert_eq!(
            letters.drop_letters(&BTreeSet::new()).expect("store"),
            0,
            "none waits: one was asked for in window 3"
        );
        assert_eq!(letters.waiting(), 1);
    }

    #[test]
    fn too_many_are_no_single_records() {
        let mut letters = open(&FaultDisk::new());
        let many = |from: u64| (from..from + 1_000).map(|lsn| refusal(lsn, "x")).collect();
        assert!(letters.refuse(WindowId(1), many(1), 0).expect("store"));
        assert!(!letters.refuse(WindowId(1), vec![refusal(5_000, "x")], 0).expect("store"));
        assert!(letters.refuse(WindowId(1), vec![refusal(3, "again")], 0).expect("store"), "no new one");
    }

    #[test]
    fn damage_and_a_full_disk_are_told() {
        let disk = FaultDisk::new();
        let mut letters = open(&disk);
        assert!(letters.refuse(WindowId(1), vec![refusal(1, "x")], 0).expect("store"));
        disk.set_capacity(0);
        assert!(letters.refuse(WindowId(1), vec![refusal(2, "x")], 0).is_err());
        assert_eq!(letters.of(WindowId(1)).len(), 1, "what is not durable is not known");
        disk.set_capacity(1 << 20);
        let path = Path::new("/data/dead/lake.json");
        let text =
            String::from_utf8(disk.read(path).expect("read")).expect("utf-8").replace("\"lsn\": 1", "\"lsn\": 2");
        disk.replace(path, text.as_bytes()).expect("write");
        let again = DeadLetters::open(Arc::new(disk), Path::new("/data/dead"), "lake", LogId([1; 16]));
        assert!(matches!(again, Err(CheckpointError::Damaged { .. })));
    }
}
