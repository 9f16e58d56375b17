//! How an index comes to be: opened, found good, or thrown away and begun anew.

use super::error::IndexError;
use super::index::{Folded, Index, IndexOptions, Progress};
use super::overlay::Overlay;
use super::row::{self, NamespaceRow};
use super::rows::{Engine, Rows};
use crate::metrics::INDEX_REBUILDS;
use crate::types::{LogId, Lsn, Namespace};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use parking_lot::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// The folder inside the index's folder; its name is the version of the rows' layout.
const LAYOUT: &str = "v1";
/// How much of the newest rows the engine keeps in memory before it writes a table, in bytes.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// How long the engine's journal may grow, in bytes (its least).
const JOURNAL_BYTES: u64 = 64 << 20;

impl Index {
    /// Opens the index in `dir` of the log `log` whose last durable record is `tail`; makes an empty one where there is none, or where
    /// it is of another log, ahead of the tail, or damaged. The caller then applies the records after [`Index::applied`].
    ///
    /// # Errors
    /// Another process has it open, or the folder cannot be used.
    pub fn open(dir: &Path, log: LogId, tail: Lsn, options: &IndexOptions) -> Result<Self, IndexError> {
        let path = dir.join(LAYOUT);
        let reason = match Self::load(&path, options) {
            Ok((index, Some(found))) if found == log && index.applied() <= tail => return Ok(index.announced()),
            Ok((index, None)) if index.applied() == Lsn::ZERO => return index.claim(log),
            Ok((index, Some(found))) if found == log => {
                format!("it is at record {}, the log ends at {tail}", index.applied())
            }
            Ok(_) => "it belongs to another log".to_owned(),
            Err(error @ (IndexError::Locked { .. } | IndexError::Folder { .. })) => return Err(error),
            Err(error) => error.to_string(),
        };
        tracing::warn!(path = %path.display(), %reason, "the entity index is thrown away and rebuilt from the log");
        INDEX_REBUILDS.inc();
        wipe(&path)?;
        Self::load(&path, options)?.0.claim(log)
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

fn read_meta(meta: &Keyspace) -> Result<(Folded, Option<LogId>), IndexError> {
    const DAMAGED: IndexError = IndexError::Damaged { what: "meta" };
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
