//! Intents: what a killed process leaves behind about the writes that were under way.
//!
//! One *slot* file per client connection, written in place before the forward and overwritten by the next. It
//! must survive the process (it lies in the page cache), not the machine, so it is never synced: two microseconds.
//!
//! Promises: after `kill -9` each write that may have reached the store, and has no durable record yet, stands in a slot. A
//! half-written slot cannot be: it is written before the forward, so its write never left.
//!
//! # Layout of a slot
//!
//! ```text
//! u32 length of what follows the checksum, 0: free
//! u32 CRC32C of it
//! u8  version 1 · u8 scope (0 entities, 1 namespace, 2 database) · i64 when it was written, ms since 1970
//! u32 number of groups; each: u16 length, namespace (or database) · u32 number of ids; each: u8 type, u32 length, value
//! ```
//! All numbers are little-endian.

use bson::RawBson;
use bson::raw::{RawDocument, RawDocumentBuf};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

use super::observe::Target;
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile};
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::types::Namespace;

/// A slot could not be written or read.
#[derive(Debug, Error)]
pub enum IntentError {
    /// The file system refused.
    #[error("intents: {0}")]
    Disk(#[from] std::io::Error),
    /// The slot is larger than its format can say.
    #[error("intents: {what} is too long")]
    TooLong {
        /// What is.
        what: &'static str,
    },
}

/// What an intent left behind says may have changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    /// These entities.
    Entities(BTreeMap<Namespace, Vec<RawBson>>),
    /// Anything in these namespaces.
    Namespaces(Vec<Namespace>),
    /// Anything in a database.
    Database(String),
}

/// An intent of a dead process.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// Its file.
    pub name: String,
    /// What may have changed.
    pub scope: Scope,
    /// When it was written, milliseconds since 1970.
    pub written_ms: i64,
}

/// All slots of this process, and those that dead ones left.
#[derive(Debug)]
pub struct Intents {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    clock: Arc<Clock>,
    /// Distinguishes the slots of this process from older ones.
    generation: u64,
    next: AtomicU64,
    free: Mutex<Vec<(String, Box<dyn DiskFile>)>>,
}

/// Entities in an intent up to which it may stay behind after its records are durable.
const FEW: usize = 16;

/// The slot of one connection. Dropped without [`close`](Slot::close), an open intent stays on disk for the next start.
#[derive(Debug)]
pub struct Slot {
    home: Arc<Intents>,
    /// With its name.
    file: Option<(String, Box<dyn DiskFile>)>,
    open: bool,
    /// What stands in the file names a few entities only: it costs a restart less than clearing it costs each write.
    cheap: bool,
    /// Something stands in the file.
    written: bool,
}

const HEAD: usize = 8;

impl Intents {
    /// Opens the folder; slots found there belong to dead processes and are left alone until they are [removed](Self::remove).
    ///
    /// # Errors
    /// When the folder cannot be made or listed.
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf, clock: Arc<Clock>) -> Result<Arc<Self>, IntentError> {
        disk.create_dir_all(&dir)?;
        let generations = disk.list(&dir)?.into_iter().filter_map(|name| generation_of(&name));
        let generation = generations.max().map_or(1, |g| g + 1);
        let (next, free) = (AtomicU64::new(1), Mutex::new(Vec::new()));
        Ok(Arc::new(Self { disk, dir, clock, generation, next, free }))
    }

    /// The open intents of dead processes.
    ///
    /// # Errors
    /// When a slot cannot be read.
    pub fn left_behind(&self) -> Result<Vec<Left>, IntentError> {
        let mut out = Vec::new();
        for name in self.disk.list(&self.dir)? {
            if generation_of(&name).is_some_and(|g| g < self.generation) {
                match decode(&self.disk.read(&self.dir.join(&name))?) {
                    Some((scope, written_ms)) => out.push(Left { name, scope, written_ms }),
                    None => self.disk.remove(&self.dir.join(&name))?,
                }
            }
        }
        Ok(out)
    }

    /// Removes slots of dead processes and [those left](Slot::leave): what they named has been verified, for the last time.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(&self, names: &[String]) -> Result<(), IntentError> {
        for name in names {
            self.disk.remove(&self.dir.join(name))?;
        }
        Ok(())
    }

    /// A free slot.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn slot(self: &Arc<Self>) -> Result<Slot, IntentError> {
        let file = self.free.lock().pop();
        let file = if let Some(file) = file {
            file
        } else {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let name = format!("g{}-{number}.slot", self.generation);
            let made = self.disk.create_new(&self.dir.join(&name))?;
            (name, made)
        };
        Ok(Slot { home: self.clone(), file: Some(file), open: false, cheap: false, written: false })
    }
}

fn generation_of(name: &str) -> Option<u64> {
    name.strip_suffix(".slot")?.strip_prefix('g')?.split_once('-')?.0.parse().ok()
}

impl Slot {
    /// Writes down that these entities may change from now on.
    ///
    /// # Errors
    /// When the slot cannot be written; the write must then not be forwarded.
    pub(crate) fn entities(&mut self, targets: &[Target]) -> Result<(), IntentError> {
        let mut groups: Vec<(&str, Vec<&RawBson>)> = Vec::new();
        for target in targets {
            match groups.last_mut() {
                Some((ns, ids)) if *ns == target.ns.as_str() => ids.push(&target.id),
                _ => groups.push((target.ns.as_str(), vec![&target.id])),
            }
        }
        self.cheap = targets.len() <= FEW;
        self.write(0, &groups)
    }

    /// Writes down that anything in these namespaces may change.
    ///
    /// # Errors
    /// As [`entities`](Self::entities).
    pub fn namespaces(&mut self, namespaces: &[Namespace]) -> Result<(), IntentError> {
        let groups: Vec<_> = namespaces.iter().map(|ns| (ns.as_str(), Vec::new())).collect();
        self.cheap = false;
        self.write(1, &groups)
    }

    /// Writes down that anything in a database may change.
    ///
    /// # Errors
    /// As [`entities`](Self::entities).
    pub fn database(&mut self, db: &str) -> Result<(), IntentError> {
        self.cheap = false;
        self.write(2, &[(db, Vec::new())])
    }

    fn write(&mut self, scope: u8, groups: &[(&str, Vec<&RawBson>)]) -> Result<(), IntentError> {
        let mut out = vec![0; HEAD];
        out.extend([1, scope]);
        out.extend(self.home.clock.wall_ms().to_le_bytes());
        out.extend(u32_of(groups.len(), "the list of namespaces")?);
        for (name, ids) in groups {
            let len = u16::try_from(name.len()).map_err(|_large| IntentError::TooLong { what: "a namespace" })?;
            out.extend(len.to_le_bytes());
            out.extend(name.as_bytes());
            out.extend(u32_of(ids.len(), "the list of ids")?);
            for id in ids {
                put_id(id, &mut out)?;
            }
        }
        let payload = out.get(HEAD..).unwrap_or_default();
        let head = [u32_of(payload.len(), "an intent")?, crc32c::crc32c(payload).to_le_bytes()].concat();
        if let Some(slot) = out.get_mut(..HEAD) {
            slot.copy_from_slice(&head);
        }
        if let (false, Some((_, file))) = (mutated(Mutant::DropIntent), &self.file) {
            file.write_at(0, &out)?;
        }
        self.written = true;
        if !std::mem::replace(&mut self.open, true) {
            metrics::INTENTS_OPEN.inc();
        }
        Ok(())
    }

    /// Ends the intent: the records of the write are durable (or there are none). An intent of a few entities is left in
    /// the file, for the next one to overwrite: a start after a kill then verifies them once too often.
    ///
    /// # Errors
    /// When the slot cannot be written: the next start then verifies once too often.
    pub fn close(&mut self) -> Result<(), IntentError> {
        if !self.cheap {
            self.clear()?;
        }
        if std::mem::replace(&mut self.open, false) {
            metrics::INTENTS_OPEN.dec();
        }
        Ok(())
    }

    /// Gives the name of an open intent's file, which stays until it is [removed](Intents::remove): what it names is looked at
    /// again later. `None`: no intent is open.
    pub(crate) fn leave(mut self) -> Option<String> {
        if !std::mem::replace(&mut self.open, false) {
            return None;
        }
        metrics::INTENTS_OPEN.dec();
        self.file.take().map(|(name, _file)| name)
    }

    fn clear(&mut self) -> Result<(), IntentError> {
        if let (true, Some((_, file))) = (self.written, &self.file) {
            file.write_at(0, &[0; HEAD])?;
        }
        self.written = false;
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.open {
            metrics::INTENTS_OPEN.dec();
        } else if self.clear().is_ok() {
            self.home.free.lock().extend(self.file.take());
        }
    }
}

fn u32_of(n: usize, what: &'static str) -> Result<[u8; 4], IntentError> {
    u32::try_from(n).map(u32::to_le_bytes).map_err(|_large| IntentError::TooLong { what })
}

/// The element of a one-field document, without its name: type and value bytes.
fn put_id(id: &RawBson, out: &mut Vec<u8>) -> Result<(), IntentError> {
    let mut doc = RawDocumentBuf::new();
    doc.append(bson::raw::cstr!(""), id.as_raw_bson_ref());
    let bytes = doc.as_bytes();
    out.extend(bytes.get(4));
    let value = bytes.get(6..bytes.len().saturating_sub(1)).unwrap_or_default();
    out.extend(u32_of(value.len(), "an id")?);
    out.extend(value);
    Ok(())
}

/// Reads a slot; `None`: free, or never wholly written (then its write was never forwarded).
fn decode(bytes: &[u8]) -> Option<(Scope, i64)> {
    let mut rest = bytes;
    let len = usize::try_from(u32_from(&mut rest)?).ok()?;
    let crc = u32_from(&mut rest)?;
    let mut rest = rest.get(..len).filter(|payload| !payload.is_empty() && crc32c::crc32c(payload) == crc)?;
    let &[1, scope] = rest.split_off(..2)? else { return None };
    let written_ms = i64::from_le_bytes(rest.split_off(..8)?.try_into().ok()?);
    let groups = u32_from(&mut rest)?;
    let mut entities = BTreeMap::<Namespace, Vec<RawBson>>::new();
    for _ in 0..groups {
        let len = u16::from_le_bytes(rest.split_off(..2)?.try_into().ok()?);
        let name = std::str::from_utf8(rest.split_off(..usize::from(len))?).ok()?;
        let ids = entities.entry(Namespace::from_full(name)).or_default();
        for _ in 0..u32_from(&mut rest)? {
            ids.push(id_from(&mut rest)?);
        }
    }
    let scope = match scope {
        0 => Scope::Entities(entities),
        1 => Scope::Namespaces(entities.into_keys().collect()),
        _ => Scope::Database(entities.into_keys().next()?.as_str().to_owned()),
    };
    Some((scope, written_ms))
}

fn u32_from(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?))
}

fn id_from(rest: &mut &[u8]) -> Option<RawBson> {
    let kind = *rest.split_off_first()?;
    let len = usize::try_from(u32_from(rest)?).ok()?;
    let value = rest.split_off(..len)?;
    let size = i32::try_from(value.len() + 7).ok()?;
    let doc = [&size.to_le_bytes()[..], &[kind, 0], value, &[0]].concat();
    let doc = RawDocument::from_bytes(&doc).ok()?;
    let element = doc.iter_elements().next()?.ok()?;
    Some(element.value().ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;
    use bson::raw::RawBsonRef;

    fn targets() -> Vec<Target> {
        let ns = Namespace::new("db", "a");
        let ids = [RawBsonRef::Int32(7), RawBsonRef::String("x"), RawBsonRef::Null];
        ids.into_iter().map(|id| Target::new(&ns, id).unwrap()).collect()
    }

    #[test]
    fn an_open_intent_is_found_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let first = Intents::open(disk.clone(), dir.path().join("intents"), Clock::manual(5)).unwrap();
        let mut open = first.slot().unwrap();
        open.entities(&targets()).unwrap();
        let mut closed = first.slot().unwrap();
        closed.namespaces(&[Namespace::new("db", "b")]).unwrap();
        closed.close().unwrap();
        assert!(first.left_behind().unwrap().is_empty());
        let second = Intents::open(disk, dir.path().join("intents"), Clock::manual(9)).unwrap();
        let ids = targets().into_iter().map(|t| t.id).collect();
        let scope = Scope::Entities([(Namespace::new("db", "a"), ids)].into());
        let left = second.left_behind().unwrap();
        assert_eq!(left, [Left { name: "g1-1.slot".to_owned(), scope, written_ms: 5 }]);
        second.remove(&[left[0].name.clone()]).unwrap();
        assert!(second.left_behind().unwrap().is_empty());
    }

    #[test]
    fn a_slot_that_is_left_stays_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let first = Intents::open(disk.clone(), dir.path().to_owned(), Clock::manual(5)).unwrap();
        let mut slot = first.slot().unwrap();
        slot.entities(&targets()).unwrap();
        let name = slot.leave().unwrap();
        let mut next = first.slot().unwrap();
        next.namespaces(&[Namespace::new("db", "b")]).unwrap();
        assert!(next.file.as_ref().is_some_and(|(other, _)| *other != name), "nobody writes over it");
        next.close().unwrap();
        assert!(next.leave().is_none(), "nothing is open in it");
        let second = Intents::open(disk, dir.path().to_owned(), Clock::manual(9)).unwrap();
        assert_eq!(second.left_behind().unwrap().into_iter().map(|l| l.name).collect::<Vec<_>>(), [name.as_str()]);
        first.remove(&[name]).unwrap();
        assert!(second.left_behind().unwrap().is_empty());
    }

    #[test]
    fn a_cut_slot_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let intents = Intents::open(disk.clone(), dir.path().to_owned(), Clock::manual(5)).unwrap();
        let mut slot = intents.slot().unwrap();
        slot.entities(&targets()).unwrap();
        let bytes = disk.read(&dir.path().join("g1-1.slot")).unwrap();
        assert!(decode(&bytes).is_some());
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None);
        }
    }
}
