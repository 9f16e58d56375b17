//! The metrics of `verify`, of who calls it, and of the watch over the node. They stand in the [table](super::TABLE) with all others.

use super::Unit::{Count, Flag};
use super::{Counter, Gauge};

/// Writes of unknown outcome whose entities are to be read again.
pub static LOOKS_WAITING: Gauge = Gauge::new(
    "tidelog_looks_waiting",
    Count,
    "Writes of unknown outcome whose entities are to be read again (those read together count as one).",
);
/// Looks at what writes of unknown outcome name that came to their end, by which one.
pub static LOOKS: Counter = Counter::new(
    "tidelog_looks_total",
    Count,
    "Later looks at what writes of unknown outcome name that came to their end, by which one.",
)
.by("look", &["second", "third"]);
/// Runs of verify, by what asked for them.
pub static VERIFY_RUNS: Counter =
    Counter::new("tidelog_verify_runs_total", Count, "Runs of verify, by what asked for them.")
        .by("cause", &["recovery", "snapshot", "catchUp", "gap", "follower", "reconcile", "other"]);
/// Entities read from the store and compared with the index by verify.
pub static VERIFY_ENTITIES: Counter = Counter::new(
    "tidelog_verify_entities_total",
    Count,
    "Entities read from the store and compared with the index by verify.",
);
/// Runs of verify that could not read the store; they are tried again.
pub static VERIFY_FAILURES: Counter = Counter::new(
    "tidelog_verify_failures_total",
    Count,
    "Runs of verify that could not read the store; they are tried again.",
);
/// Comparisons of log and store that came to their end.
pub static RECONCILE_RUNS: Counter =
    Counter::new("tidelog_reconcile_runs_total", Count, "Comparisons of log and store that came to their end.");
/// Entities compared by them.
pub static RECONCILE_ENTITIES: Counter =
    Counter::new("tidelog_reconcile_entities_total", Count, "Entities compared by comparisons of log and store.");
/// Differences between log and store that comparisons found, by side.
pub static RECONCILE_DIFFERENCES: Counter = Counter::new(
    "tidelog_reconcile_differences_total",
    Count,
    "Differences between log and store that comparisons found, by side.",
)
.by("side", &["logOnly", "storeOnly", "images"]);
/// Of them, those that were put right.
pub static RECONCILE_REPAIRED: Counter =
    Counter::new("tidelog_reconcile_repaired_total", Count, "Differences between log and store that were put right.");
/// Differences that the last comparison left as they were.
pub static RECONCILE_DIFFERING: Gauge = Gauge::new(
    "tidelog_reconcile_differing",
    Count,
    "Differences between log and store that the last comparison left as they were.",
);
/// The change stream is read.
pub static FOLLOWER_UP: Gauge = Gauge::new("tidelog_follower_up", Flag, "The change stream is read.");
/// Events of the change stream, by whose they are.
pub static FOLLOWER_EVENTS: Counter =
    Counter::new("tidelog_follower_events_total", Count, "Events of the change stream, by whose they are.")
        .by("whose", &["own", "foreign", "command"]);
/// Namespaces that the log does not hold whole yet: their first read waits or is under way.
pub static SNAPSHOT_WAITING: Gauge = Gauge::new(
    "tidelog_snapshot_waiting",
    Count,
    "Namespaces that the log does not hold whole yet: their first read waits or is under way.",
);
/// How much of the namespace under its first read has been read, of 100.
pub static SNAPSHOT_PERCENT: Gauge = Gauge::new(
    "tidelog_snapshot_percent",
    Count,
    "How much of the namespace under its first read has been read, of 100.",
);
/// Documents read by first reads of namespaces.
pub static SNAPSHOT_DOCUMENTS: Counter =
    Counter::new("tidelog_snapshot_documents_total", Count, "Documents read by first reads of namespaces.");
// node

/// The node was another than before, by what was new.
pub static NODE_CHANGES: Counter =
    Counter::new("tidelog_node_changes_total", Count, "The node was another than before, by what was new.")
        .by("kind", &["first", "process", "term", "rollback"]);
/// Records whose entities were read again because the node had changed.
pub static NODE_CHECKED: Counter = Counter::new(
    "tidelog_node_checked_total",
    Count,
    "Records whose entities were read again because the node had changed.",
);
/// Entities found changed when they were read again because the node had changed.
pub static NODE_LOST: Counter = Counter::new(
    "tidelog_node_lost_total",
    Count,
    "Entities found changed when they were read again because the node had changed.",
);
/// What the node may have lost is being read again: no window closes.
pub static NODE_CORRECTING: Gauge =
    Gauge::new("tidelog_node_correcting", Flag, "What the node may have lost is being read again: no window closes.");
