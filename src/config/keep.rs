//! Settings of those who keep the log true beside the writes: first read, follower, reconcile.

use serde::{Deserialize, Serialize};

/// The first read of namespaces that hold documents the log does not know.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// Namespaces are read; else they stay incomplete.
    pub enabled: bool,
    /// Documents a second that are read at most; 0: no bound.
    pub documents_per_second: u64,
    /// Bytes a second that are read at most; 0: no bound.
    pub bytes_per_second: u64,
}

/// The change stream, and what is done about changes made past the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FollowerConfig {
    /// The change stream is read, where the store has one.
    pub enabled: bool,
    /// How long an event waits for the sidecar's own record of the same change.
    pub wait_ms: u64,
    /// What happened while no sidecar ran and the stream does not tell is looked for by reading everything.
    pub catch_up: bool,
}

/// Comparisons of log and store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReconcileConfig {
    /// Time between scheduled runs; 0: none.
    pub interval_ms: u64,
    /// The part of each namespace that a scheduled run compares.
    pub sample_percent: u64,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { enabled: true, documents_per_second: 20_000, bytes_per_second: 32 << 20 }
    }
}

impl Default for FollowerConfig {
    fn default() -> Self {
        Self { enabled: true, wait_ms: 200, catch_up: true }
    }
}

impl Default for ReconcileConfig {
    fn default() -> Self {
        Self { interval_ms: 0, sample_percent: 100 }
    }
}
