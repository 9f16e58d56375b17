//! How an index comes to be: opened, found good, or thrown away and made anew, from a snapshot or from the log's first record.

use super::error::IndexError;
use super::index::{Folded, Index, IndexOptions, Progress};
use super::overlay::Overlay;
use super::row::{self, NamespaceRow, Row};
use super::rows::{Engine, Rows};
use super::snapshot::{Kind, SnapshotError, Snapshots};
use crate::metrics::INDEX_REBUILDS;
use crate::types::{LogId, Lsn, Namespace};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use parking_lot::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// The folder inside the index's folder; its name is the version of the rows' layout.
const LAYOUT: &str = "v1";
/// A row of `meta` that stands there while a snapshot is loaded.
const LOADING: &str = "loading";
/// Rows of a snapshot that are written together.
const LOAD_ROWS: usize = 4_096;
const DAMAGED: IndexError = IndexError::Damaged { what: "meta" };
/// How much of the newest rows the engine keeps in memory before it writes a table, in bytes.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// How long the engine's journal may grow, in bytes (its least).
const JOURNAL_BYTES: u64 = 64 << 20;

/// What an index belongs to, and what it may be made from.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    /// The log.
    pub log: LogId,
    /// The first record that the log still has (or will have).
    pub first: Lsn,
    /// Its last durable record.
    pub tail: Lsn,
    /// Copies of the index; `None`: there are none.
    pub snapshots: Option<&'a Snapshots>,
}

impl Basis<'_> {
    /// What stands at `lsn` can be brought up to the log's tail by the records that the log has.
    fn reaches(&self, lsn: Lsn) -> bool {
        lsn.next() >= self.first && lsn <= self.tail
    }

    /// The log has its first record, or will have it.
    fn is_whole_log(&self) -> bool {
        self.first <= Lsn(1)
    }

    fn has_no_copies(&self) -> bool {
        self.snapshots.is_none_or(|snapshots| snapshots.list().is_ok_and(|copies| copies.is_empty()))
    }
}

/// From where an index is made anew.
enum Origin {
    /// From the log's first record.
    Log,
    /// From these copies, the first that can be loaded.
    Copies(Vec<Lsn>),
}

impl Index {
    /// [`Index::open_over`] for a log of which nothing was ever removed.
    ///
    /// # Errors
    /// As [`Index::open_over`].
    pub fn open(dir: &Path, log: LogId, tail: Lsn, options: &IndexOptions) -> Result<Self, IndexError> {
        Self::open_over(dir, &Basis { log, first: Lsn(1), tail, snapshots: None }, options)
    }

    /// Opens the index in `dir`. Where there is none, or where it is of another log, ahead of the log's tail, behind its first
    /// record, or damaged, it is made from the newest [snapshot](Snapshots) that fits, or empty if the log has all its records. The
    /// caller then applies the records after [`Index::applied`].
    ///
    /// # Errors
    /// Another process has it open, the folder cannot be used, or [`IndexError::Lost`]: then what is there is left as it is.
    pub fn open_over(dir: &Path, basis: &Basis<'_>, options: &IndexOptions) -> Result<Self, IndexError> {
        let path = dir.join(LAYOUT);
        let (reason, fresh) = match Self::load(&path, options) {
            Ok((index, Some(found))) if found == basis.log && basis.reaches(index.applied()) => {
                return Ok(index.announced());
            }
            Ok((index, None)) if index.applied() == Lsn::ZERO && basis.is_whole_log() && basis.has_no_copies() => {
                return index.claim(basis.log);
            }
            Ok((index, None)) if index.applied() == Lsn::ZERO => ("it is empty".to_owned(), true),
            Ok((index, Some(found))) if found == basis.log => {
                let at = index.applied();
                (format!("it is at record {at}, the log has {} to {}", basis.first, basis.tail), false)
            }
            Ok(_) => ("it belongs to another log".to_owned(), false),
            Err(error @ (IndexError::Locked { .. } | IndexError::Folder { .. })) => return Err(error),
            Err(error) => (error.to_string(), false),
        };
        let origin = Self::origin(basis, &reason)?;
        if !fresh {
            tracing::warn!(path = %path.display(), %reason, "the entity index is thrown away and made anew");
            INDEX_REBUILDS.inc();
        }
        if let Origin::Copies(copies) = &origin {
            for lsn in copies {
                wipe(&path)?;
                match Self::from_copy(&path, basis, *lsn, options) {
                    Ok(index) => return Ok(index.announced()),
                    Err(error) => tracing::warn!(%error, "a snapshot of the entity index cannot be loaded"),
                }
            }
            if !basis.is_whole_log() {
                let snapshots =
                    "the one that was whole a moment ago cannot be loaded; the log line before this one says why";
                return Err(lost(basis, &reason, snapshots.to_owned()));
            }
        }
        wipe(&path)?;
        Self::load(&path, options)?.0.claim(basis.log)
    }

    /// From where the index is made anew. Of a log that was trimmed every byte of a copy is read before anything is thrown away.
    fn origin(basis: &Basis<'_>, reason: &str) -> Result<Origin, IndexError> {
        let trimmed = !basis.is_whole_log();
        let (mut copies, mut wrong) = (Vec::new(), Vec::new());
        if let Some(snapshots) = basis.snapshots {
            let listed = snapshots.list().unwrap_or_else(|error| {
                wrong.push(error.to_string());
                Vec::new()
            });
            for lsn in listed {
                if !basis.reaches(lsn) {
                    wrong.push(format!("one stands at record {lsn}"));
                } else if let Err(error) = snapshots.check(basis.log, lsn) {
                    wrong.push(error.to_string());
                } else {
                    copies.push(lsn);
                }
            }
        }
        for wrong in &wrong {
            tracing::warn!(wrong, "a snapshot of the entity index cannot be used");
        }
        match (copies.is_empty(), trimmed) {
            (false, _) => Ok(Origin::Copies(copies)),
            (true, false) => Ok(Origin::Log),
            (true, true) if wrong.is_empty() => Err(lost(basis, reason, "there is none".to_owned())),
            (true, true) => Err(lost(basis, reason, wrong.join("; "))),
        }
    }

    /// An index in an empty folder, with the rows of a copy.
    fn from_copy(path: &Path, basis: &Basis<'_>, lsn: Lsn, options: &IndexOptions) -> Result<Self, SnapshotError> {
        let Some(snapshots) = basis.snapshots else { return Err(Box::new(DAMAGED).into()) };
        let began = std::time::Instant::now();
        let (index, _new) = Self::load(path, options).map_err(Box::new)?;
        // Cut in the middle, it has a row that no index has, and is thrown away.
        index.rows.put_meta(LOADING, b"").map_err(Box::new)?;
        let (mut meta, mut batch) = (Vec::new(), index.rows.batch());
        let whole = snapshots.read(basis.log, lsn, &mut |kind, key, value| {
            match kind {
                Kind::Meta => meta.push((key.to_vec(), value.to_vec())),
                Kind::Entity => batch.put(key.to_vec(), &Row::decode(value).ok_or(DAMAGED)?),
            }
            if batch.len() >= LOAD_ROWS {
                std::mem::replace(&mut batch, index.rows.batch()).commit("load a snapshot")?;
            }
            Ok(())
        })?;
        for (key, value) in meta {
            batch.meta(key, Some(value));
        }
        batch.meta(LOADING, None);
        batch.commit("load a snapshot").map_err(Box::new)?;
        drop(index);
        let (index, log) = Self::load(path, options).map_err(Box::new)?;
        if log != Some(basis.log) || index.applied() != lsn {
            return Err(Box::new(DAMAGED).into());
        }
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(lsn = lsn.0, entities = whole.entities, took_ms, "the entity index is made from its snapshot");
        Ok(index)
    }

    fn load(path: &Path, options: &IndexOptions) -> Result<(Self, Option<LogId>), IndexError> {
        std::fs::create_dir_all(path).map_err(|source| folder(path, "create", source))?;
        let db = Database::builder(path)
            .cache_size(options.cache_bytes)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(2)
            .open()
            .map_err(|source| opening(path, source))?;
        let rows = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let entities = db.keyspace("entities", rows).map_err(IndexError::engine("open entities"))?;
        let meta = db.keyspace("meta", rows).map_err(IndexError::engine("open meta"))?;
        let (folded, log) = read_meta(&meta)?;
        Ok((Self::over(Rows::Engine(Engine { db, entities, meta }), folded), log))
    }

    fn over(rows: Rows, folded: Folded) -> Self {
        let progress = watch::Sender::new(Progress { applied: folded.applied, stopped: None });
        let (overlay, folded, writer) = (Overlay::new(), RwLock::new(folded), Mutex::new(()));
        Self { rows, overlay, folded, writer, progress }
    }

    /// An empty index whose rows live in memory (feature `model`).
    #[cfg(feature = "model")]
    pub fn in_memory() -> Self {
        Self::over(Rows::Memory(std::sync::Arc::default()), Folded::default())
    }

    /// A new index becomes that of `log`.
    fn claim(self, log: LogId) -> Result<Self, IndexError> {
        self.rows.put_meta("log", &log.0)?;
        Ok(self.announced())
    }

    fn announced(self) -> Self {
        self.folded.read().show();
        self
    }
}

fn lost(basis: &Basis<'_>, reason: &str, snapshots: String) -> IndexError {
    let dir = basis.snapshots.map_or_else(PathBuf::new, |s| s.dir().to_owned());
    IndexError::Lost { reason: reason.to_owned(), first: basis.first, dir, snapshots }
}

fn read_meta(meta: &Keyspace) -> Result<(Folded, Option<LogId>), IndexError> {
    let mut folded = Folded::default();
    let mut log = None;
    for guard in meta.iter() {
        let (key, value) = guard.into_inner().map_err(IndexError::engine("read meta"))?;
        match &*key {
            b"log" => log = Some(LogId(value.as_ref().try_into().ok().ok_or(DAMAGED)?)),
            b"applied" => {
                let bytes = value.as_ref().try_into().ok().ok_or(DAMAGED)?;
                folded.applied = Lsn(u64::from_le_bytes(bytes));
            }
            b"node" => folded.node = Some(row::decode_node(&value).ok_or(DAMAGED)?),
            [b'g', ..] => {
                let gap = row::gap_id(&key).and_then(|id| row::decode_gap(id, &value)).ok_or(DAMAGED)?;
                folded.log.gaps.insert(gap.id, gap);
            }
            [b'n', name @ ..] => {
                let ns = Namespace::from_full(str::from_utf8(name).ok().ok_or(DAMAGED)?);
                let NamespaceRow { state, dropped } = NamespaceRow::decode(&value).ok_or(DAMAGED)?;
                folded.log.namespaces.insert(ns.clone(), state);
                if dropped > Lsn::ZERO {
                    folded.dropped.insert(ns, dropped);
                }
            }
            _ => return Err(DAMAGED),
        }
    }
    Ok((folded, log))
}

fn wipe(path: &Path) -> Result<(), IndexError> {
    std::fs::remove_dir_all(path).map_err(|source| folder(path, "remove", source))
}

fn folder(path: &Path, op: &'static str, source: std::io::Error) -> IndexError {
    IndexError::Folder { path: PathBuf::from(path), op, source }
}

/// Errors of opening that removing the folder would not cure are told apart from damage.
fn opening(path: &Path, source: fjall::Error) -> IndexError {
    match source {
        fjall::Error::Locked => IndexError::Locked { path: PathBuf::from(path) },
        fjall::Error::Io(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => folder(path, "open", source),
        source => IndexError::Engine { op: "open", source },
    }
}
