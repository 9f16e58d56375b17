//! The folders inside `log.data`.

use std::path::{Path, PathBuf};

/// The data folder of one sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// At this path.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The changelog's segments.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The entity index; derived, from the log and its [snapshot](Self::index_snapshots); may be deleted while no sidecar runs.
    pub fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    /// Copies of the entity index, which stand for the records that retention removed from the log.
    pub fn index_snapshots(&self) -> PathBuf {
        self.0.join("index-snapshot")
    }

    /// What is under way, for the next process.
    pub fn intents(&self) -> PathBuf {
        self.0.join("intents")
    }

    /// The window ledger.
    pub fn windows(&self) -> PathBuf {
        self.0.join("windows")
    }

    /// The sinks' checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// How far the first reads of namespaces and the change stream are.
    pub fn progress(&self) -> PathBuf {
        self.0.join("progress")
    }
}
