//! Which records of a window are the last word on their entity: what stands in its latest files.
//!
//! # What stands there
//! In the order of the log: each `drop`, `dropDatabase` and `rename`; and of each entity that the window changes its last
//! change, unless a later drop of the window took it away (a rename drops what its new name held). A rename cuts an entity's life
//! in two: what was changed under a name before and after it has one record on either side, since the first went elsewhere.
//! Whoever applies the latest files window by window, in this order, has at each window's end what the whole history gives.
//!
//! # How it is found, with bounded memory
//! Two passes over the window. The first, which writes the history, gives each change here: 16 bytes of a SHA-256 over
//! namespace, stretch (between drops and renames) and key, and its lsn. [`ENTRIES`] of these are held, 24 bytes each; when they
//! are that many they are sorted and all but the last of each entity fall out; if more than half stay they go as one sorted
//! run to the end of a scratch file in `DATA/tmp`. [`Newest::settle`] merges the runs into one bit for each record of the
//! window. The second pass reads the log again and asks for the bit. So memory is 24 MiB, a bit for each record, and a few words
//! for each namespace and each drop or rename of the window; 10,000,000 entities need 240 MB of scratch space.
//!
//! Promises: it depends on the records alone, so the same window gives the same files. The scratch file holds no document and is
//! never synced: nobody reads it after a crash.
//!
//! Does not: know records that the sink refused: what is not in the history's files is not in these either.

use crate::disk::{Disk, DiskFile};
use crate::types::{Body, Change, Control, Lsn, Namespace, Record};
use sha2::{Digest as _, Sha256};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Changes held at once.
const ENTRIES: usize = 1 << 20;
/// Bytes of an entry in the scratch file: entity, lsn.
const ENTRY_BYTES: usize = 24;
/// Entries that are read or written at once.
const PIECE: usize = 2048;

/// An entity in one stretch of its namespace, and a change of it.
type Entry = ([u8; 16], u64);
/// A namespace from its drop, rename or first change (0) on.
type Stretch = (Namespace, u64);

/// How the life of namespaces is cut by drops and renames.
#[derive(Debug, Default)]
struct Stretches {
    /// Where the present one of a namespace began; absent: before the window.
    since: BTreeMap<Namespace, u64>,
    /// The same for all namespaces of a database.
    since_of_db: BTreeMap<String, u64>,
    seen: BTreeSet<Namespace>,
    /// What renames brought into a namespace and nothing has dropped since.
    moved: BTreeMap<Namespace, Vec<Stretch>>,
    /// What was dropped.
    ended: BTreeSet<Stretch>,
}

impl Stretches {
    fn of(&self, ns: &Namespace) -> u64 {
        let own = self.since.get(ns).copied().unwrap_or(0);
        own.max(self.since_of_db.get(ns.db()).copied().unwrap_or(0))
    }

    fn see(&mut self, ns: &Namespace) {
        if !self.seen.contains(ns) {
            self.seen.insert(ns.clone());
        }
    }

    /// Takes a control record in; tells whether it empties or moves namespaces.
    fn control(&mut self, lsn: Lsn, fact: &Control) -> bool {
        match fact {
            Control::Drop { ns } => {
                self.end(ns);
                self.since.insert(ns.clone(), lsn.0);
            }
            Control::DropDatabase { db } => {
                let all: BTreeSet<_> = self.seen.iter().chain(self.moved.keys()).filter(|ns| ns.db() == db).collect();
                for ns in all.into_iter().cloned().collect::<Vec<_>>() {
                    self.end(&ns);
                }
                self.since_of_db.insert(db.clone(), lsn.0);
            }
            Control::Rename { from, to } => {
                self.end(to);
                let mut moved = self.moved.remove(from).unwrap_or_default();
                moved.push((from.clone(), self.of(from)));
                self.moved.insert(to.clone(), moved);
                self.since.insert(from.clone(), lsn.0);
                self.since.insert(to.clone(), lsn.0);
            }
            _ => return false,
        }
        true
    }

    fn end(&mut self, ns: &Namespace) {
        let own = (ns.clone(), self.of(ns));
        self.ended.extend(self.moved.remove(ns).unwrap_or_default());
        self.ended.insert(own);
    }
}

/// Gathers the changes of a window in the first pass.
#[derive(Debug)]
pub(super) struct Newest {
    disk: Arc<dyn Disk>,
    scratch: PathBuf,
    first: Lsn,
    last: Lsn,
    stretches: Stretches,
    entries: Vec<Entry>,
    most: usize,
    /// The scratch file and where in it each run ends, once there is one.
    spilled: Option<(Box<dyn DiskFile>, Vec<u64>)>,
}

impl Newest {
    /// For the records `first` to `last`; `scratch` is the sink's own scratch file, in a folder of ours.
    pub(super) fn begin(disk: Arc<dyn Disk>, scratch: PathBuf, first: Lsn, last: Lsn) -> io::Result<Self> {
        let this = Self {
            disk,
            scratch,
            first,
            last,
            stretches: Stretches::default(),
            entries: Vec::new(),
            most: ENTRIES,
            spilled: None,
        };
        this.sweep()?;
        Ok(this)
    }

    /// Takes the next record in.
    pub(super) fn add(&mut self, record: &Record) -> io::Result<()> {
        match &record.body {
            Body::Control(fact) => {
                self.stretches.control(record.lsn, fact);
            }
            Body::Change(change) => {
                self.stretches.see(&change.ns);
                self.entries.push((entity(change, self.stretches.of(&change.ns)), record.lsn.0));
                if self.entries.len() >= self.most {
                    self.squeeze();
                    if self.entries.len() > self.most / 2 {
                        self.spill()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// All records of the window were given: which of them stand in the latest files.
    pub(super) fn settle(mut self) -> io::Result<Chosen> {
        let mut bits = Bits::new(self.first, self.last);
        if self.spilled.is_some() {
            self.spill()?;
        }
        if let Some((file, ends)) = self.spilled.take() {
            merge(&*file, &ends, &mut bits)?;
            drop(file);
            self.sweep()?;
        } else {
            self.squeeze();
            self.entries.iter().for_each(|(_, lsn)| bits.set(*lsn));
        }
        let ended = std::mem::take(&mut self.stretches.ended);
        Ok(Chosen { bits, ended, stretches: Stretches::default() })
    }

    /// Of each entity only the last change stays; what stays is in order.
    fn squeeze(&mut self) {
        self.entries.sort_unstable();
        self.entries.reverse();
        self.entries.dedup_by_key(|(entity, _)| *entity);
        self.entries.reverse();
    }

    /// Writes what is held as a run.
    fn spill(&mut self) -> io::Result<()> {
        self.squeeze();
        if self.spilled.is_none() {
            self.disk.create_dir_all(self.scratch.parent().unwrap_or(Path::new("/")))?;
            self.spilled = Some((self.disk.create_new(&self.scratch)?, Vec::new()));
        }
        let Some((file, ends)) = &mut self.spilled else { return Ok(()) };
        let mut piece = Vec::with_capacity(PIECE * ENTRY_BYTES);
        for entries in self.entries.chunks(PIECE) {
            piece.clear();
            for (entity, lsn) in entries {
                piece.extend_from_slice(entity);
                piece.extend_from_slice(&lsn.to_le_bytes());
            }
            file.append(&piece)?;
        }
        let begin = ends.last().copied().unwrap_or(0);
        ends.push(begin + (self.entries.len() * ENTRY_BYTES) as u64);
        self.entries.clear();
        Ok(())
    }

    fn sweep(&self) -> io::Result<()> {
        if self.disk.exists(&self.scratch)? { self.disk.remove(&self.scratch) } else { Ok(()) }
    }
}

/// 16 bytes that no two entities and stretches of a window share.
fn entity(change: &Change, stretch: u64) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(change.ns.as_str().as_bytes());
    hash.update([0]);
    hash.update(stretch.to_le_bytes());
    hash.update(change.key.as_bytes());
    let mut short = [0; 16];
    short.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    short
}

/// A sorted run being read.
struct Run<'f> {
    file: &'f dyn DiskFile,
    at: u64,
    end: u64,
    /// Entries read, the next one last.
    ready: Vec<Entry>,
}

impl Run<'_> {
    fn next(&mut self, most: usize) -> io::Result<Option<Entry>> {
        if self.ready.is_empty() && self.at < self.end {
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let mut bytes = vec![0; left.min(most * ENTRY_BYTES)];
            if self.file.read_at(self.at, &mut bytes)? < bytes.len() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the scratch file of a latest file is short"));
            }
            self.at += bytes.len() as u64;
            self.ready.extend(bytes.chunks_exact(ENTRY_BYTES).rev().filter_map(parse));
        }
        Ok(self.ready.pop())
    }
}

fn parse(bytes: &[u8]) -> Option<Entry> {
    let (entity, lsn) = bytes.split_first_chunk::<16>()?;
    Some((*entity, u64::from_le_bytes(*lsn.first_chunk()?)))
}

/// Sets the bit of each entity's last change in all runs.
fn merge(file: &dyn DiskFile, ends: &[u64], bits: &mut Bits) -> io::Result<()> {
    let begins = std::iter::once(0).chain(ends.iter().copied());
    let mut runs: Vec<_> = begins.zip(ends).map(|(at, end)| Run { file, at, end: *end, ready: Vec::new() }).collect();
    // All runs together hold no more than a full buffer did.
    let most = (ENTRIES / 2 / runs.len().max(1)).clamp(16, PIECE);
    let mut heads = BinaryHeap::new();
    for (number, run) in runs.iter_mut().enumerate() {
        heads.extend(run.next(most)?.map(|entry| Reverse((entry, number))));
    }
    let mut held: Option<Entry> = None;
    while let Some(Reverse((entry, number))) = heads.pop() {
        if let Some((_, lsn)) = held.filter(|(entity, _)| *entity != entry.0) {
            bits.set(lsn);
        }
        held = Some(entry);
        if let Some(run) = runs.get_mut(number) {
            heads.extend(run.next(most)?.map(|entry| Reverse((entry, number))));
        }
    }
    if let Some((_, lsn)) = held {
        bits.set(lsn);
    }
    Ok(())
}

/// One bit for each record of a window.
#[derive(Debug)]
struct Bits {
    first: u64,
    words: Vec<u64>,
}

impl Bits {
    fn new(first: Lsn, last: Lsn) -> Self {
        let records = (last.0 + 1).saturating_sub(first.0);
        Self { first: first.0, words: vec![0; usize::try_from(records.div_ceil(64)).unwrap_or(0)] }
    }

    fn place(&self, lsn: u64) -> Option<(usize, u64)> {
        let at = lsn.checked_sub(self.first)?;
        Some((usize::try_from(at / 64).ok()?, 1 << (at % 64)))
    }

    fn set(&mut self, lsn: u64) {
        if let Some((word, bit)) = self.place(lsn)
            && let Some(word) = self.words.get_mut(word)
        {
            *word |= bit;
        }
    }

    fn has(&self, lsn: u64) -> bool {
        self.place(lsn).is_some_and(|(word, bit)| self.words.get(word).is_some_and(|word| word & bit != 0))
    }
}

/// What the first pass found: tells in the second which records are to be written.
#[derive(Debug)]
pub(super) struct Chosen {
    bits: Bits,
    ended: BTreeSet<Stretch>,
    stretches: Stretches,
}

impl Chosen {
    /// Whether it stands in the latest files. Records come in order, those of control all of them.
    pub(super) fn takes(&mut self, record: &Record) -> bool {
        match &record.body {
            Body::Control(fact) => self.stretches.control(record.lsn, fact),
            Body::Change(change) => {
                let stretch = || (change.ns.clone(), self.stretches.of(&change.ns));
                self.bits.has(record.lsn.0) && (self.ended.is_empty() || !self.ended.contains(&stretch()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
