//! The table: each metric once. [`TABLE`] lists them all; a test holds the two together. Those of `verify` and its callers have a
//! page of their own.

use super::Family::{Counter as C, Gauge as G, Histogram as H};
use super::Unit::{Bytes, Count, Flag, Lsn, Seconds, State};
use super::audit;
use super::retention;
use super::{Counter, Family, Gauge, Histogram};

/// Bounds for times: 50 µs to 30 s, in microseconds.
const TIMES: &[u64] = &[
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000, 30_000_000,
];
/// Bounds for numbers of records.
const SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384];

// proxy

/// Client connections open now.
pub static CONNECTIONS: Gauge = Gauge::new("tidelog_connections", Count, "Client connections open now.");
/// Client connections accepted.
pub static CONNECTIONS_ACCEPTED: Counter =
    Counter::new("tidelog_connections_accepted_total", Count, "Client connections accepted.");
/// Client connections closed before their first message, by reason.
pub static CONNECTIONS_REFUSED: Counter = Counter::new(
    "tidelog_connections_refused_total",
    Count,
    "Client connections closed before their first message, by reason.",
)
.by("reason", &["limit", "draining", "upstream", "other"]);
/// Client connections ended, by who or what ended them.
pub static CONNECTIONS_CLOSED: Counter =
    Counter::new("tidelog_connections_closed_total", Count, "Client connections ended, by who or what ended them.")
        .by("reason", &["client", "upstream", "protocol", "idle", "limit", "drain", "internal", "other"]);
/// Message bytes held in memory for all connections.
pub static INFLIGHT_BYTES: Gauge =
    Gauge::new("tidelog_inflight_bytes", Bytes, "Message bytes held in memory for all connections.");
/// Times a connection waited because the limit of bytes in flight was reached.
pub static INFLIGHT_WAITS: Counter = Counter::new(
    "tidelog_inflight_waits_total",
    Count,
    "Times a connection waited because the limit of bytes in flight was reached.",
);
/// Client messages, by class.
pub static MESSAGES: Counter = Counter::new("tidelog_messages_total", Count, "Client messages, by class.").by(
    "class",
    &["pass", "hello", "auth", "write", "aggregate", "ddl", "transaction", "cut", "refused", "malformed", "other"],
);
/// Bytes exchanged with clients.
pub static CLIENT_BYTES: Counter = Counter::new("tidelog_client_bytes_total", Bytes, "Bytes exchanged with clients.")
    .by("direction", &["received", "sent"]);
/// Bytes exchanged with the node.
pub static UPSTREAM_BYTES: Counter =
    Counter::new("tidelog_upstream_bytes_total", Bytes, "Bytes exchanged with the node.")
        .by("direction", &["received", "sent"]);
/// Commands answered with an error of the sidecar, by reason.
pub static COMMANDS_REFUSED: Counter =
    Counter::new("tidelog_commands_refused_total", Count, "Commands answered with an error of the sidecar, by reason.")
        .by(
            "reason",
            &[
                "transaction",
                "unsupported",
                "legacy",
                "malformed",
                "too_large",
                "log",
                "disk",
                "draining",
                "upstream",
                "other",
            ],
        );
/// Hosts in hello replies that the advertise table does not name: a driver could go around the sidecar.
pub static UNKNOWN_HOSTS: Counter = Counter::new(
    "tidelog_unknown_hosts_total",
    Count,
    "Hosts in hello replies that the advertise table does not name: a driver could go around the sidecar.",
);
/// The node answered the last look.
pub static UPSTREAM_UP: Gauge = Gauge::new("tidelog_upstream_up", Flag, "The node answered the last look.");
/// Connections made to the node, by result.
pub static UPSTREAM_CONNECTS: Counter =
    Counter::new("tidelog_upstream_connects_total", Count, "Connections made to the node, by result.")
        .by("result", &["ok", "failed"]);
/// The sidecar is ending: it accepts no connections and lets commands in flight end.
pub static DRAINING: Gauge = Gauge::new(
    "tidelog_draining",
    Flag,
    "The sidecar is ending: it accepts no connections and lets commands in flight end.",
);
// capture

/// Write commands captured, by command.
pub static WRITE_COMMANDS: Counter =
    Counter::new("tidelog_write_commands_total", Count, "Write commands captured, by command.")
        .by("command", &["insert", "update", "delete", "findAndModify", "bulkWrite", "other"]);
/// From a write command read to its reply ready, durability included.
pub static WRITE_SECONDS: Histogram = Histogram::new(
    "tidelog_write_seconds",
    Seconds,
    TIMES,
    "From a write command read to its reply ready, durability included.",
);
/// Change records appended, by operation.
pub static CHANGES: Counter = Counter::new("tidelog_changes_total", Count, "Change records appended, by operation.")
    .by("op", &["insert", "update", "replace", "delete", "observed"]);
/// Entities that a write command touched and left as they were.
pub static UNCHANGED: Counter =
    Counter::new("tidelog_unchanged_total", Count, "Entities that a write command touched and left as they were.");
/// Commands that the sidecar sent of its own, by purpose.
pub static INJECTED_COMMANDS: Counter =
    Counter::new("tidelog_injected_commands_total", Count, "Commands that the sidecar sent of its own, by purpose.")
        .by("purpose", &["resolve", "before", "after", "barrier", "probe", "verify", "other"]);
/// Statements worked off again because their entities had changed between resolve and guard.
pub static RESOLVE_RETRIES: Counter = Counter::new(
    "tidelog_resolve_retries_total",
    Count,
    "Statements worked off again because their entities had changed between resolve and guard.",
);
/// Time a write waited for the guards of its entities.
pub static GUARD_WAIT_SECONDS: Histogram =
    Histogram::new("tidelog_guard_wait_seconds", Seconds, TIMES, "Time a write waited for the guards of its entities.");
/// Entities guarded now.
pub static GUARDS_HELD: Gauge = Gauge::new("tidelog_guards_held", Count, "Entities guarded now.");
/// Writes waiting for a guard now.
pub static GUARD_WAITERS: Gauge = Gauge::new("tidelog_guard_waiters", Count, "Writes waiting for a guard now.");
/// Transactions that are open, or whose commit is of unknown outcome.
pub static TRANSACTIONS_OPEN: Gauge = Gauge::new(
    "tidelog_transactions_open",
    Count,
    "Transactions that are open, or whose commit is of unknown outcome.",
);
/// Transactions ended, by how.
pub static TRANSACTIONS_ENDED: Counter =
    Counter::new("tidelog_transactions_ended_total", Count, "Transactions ended, by how.")
        .by("how", &["commit", "abort", "error", "superseded", "expired", "killed", "blocked", "broken", "unknown"]);
/// Commits of unknown outcome that what the store has settled, by outcome.
pub static TRANSACTIONS_SETTLED: Counter = Counter::new(
    "tidelog_transactions_settled_total",
    Count,
    "Commits of unknown outcome that what the store has settled, by outcome.",
)
.by("outcome", &["committed", "aborted", "moved"]);
/// Writes that waited for an open transaction.
pub static TRANSACTION_WAITS: Counter =
    Counter::new("tidelog_transaction_waits_total", Count, "Writes outside a transaction that waited for an open one.");
/// Statements by a filter inside transactions whose entities were found first.
pub static RESOLVES_IN_TRANSACTIONS: Counter = Counter::new(
    "tidelog_transaction_resolves_total",
    Count,
    "Statements by a filter inside transactions whose entities were found first.",
);
/// Writes under way whose outcome is not yet in the log.
pub static INTENTS_OPEN: Gauge =
    Gauge::new("tidelog_intents_open", Count, "Writes under way whose outcome is not yet in the log.");
/// Intents of a process before this one, settled by verify at start.
pub static INTENTS_RECOVERED: Counter = Counter::new(
    "tidelog_intents_recovered_total",
    Count,
    "Intents of a process before this one, settled by verify at start.",
);
/// Write commands that ended in an error of the sidecar, by class.
pub static CAPTURE_ERRORS: Counter = Counter::new(
    "tidelog_capture_errors_total",
    Count,
    "Write commands that ended in an error of the sidecar, by class.",
)
.by("class", &["client", "retry", "fatal", "other"]);
/// The epoch that changes carry now.
pub static EPOCH: Gauge = Gauge::new("tidelog_epoch", Count, "The epoch that changes carry now.");
// clock

/// Cluster times too far ahead of the wall clock, not merged.
pub static CLOCK_REJECTED: Counter =
    Counter::new("tidelog_clock_rejected_total", Count, "Cluster times too far ahead of the wall clock, not merged.");
// log

/// Number of the last durable record.
pub static LOG_TAIL_LSN: Gauge = Gauge::new("tidelog_log_tail_lsn", Lsn, "Number of the last durable record.");
/// Number of the first record that the log still has.
pub static LOG_FIRST_LSN: Gauge =
    Gauge::new("tidelog_log_first_lsn", Lsn, "Number of the first record that the log still has.");
/// Records made durable, by kind.
pub static LOG_RECORDS: Counter = Counter::new("tidelog_log_records_total", Count, "Records made durable, by kind.")
    .by("kind", &["change", "control"]);
/// Bytes written to segments.
pub static LOG_APPENDED_BYTES: Counter =
    Counter::new("tidelog_log_appended_bytes_total", Bytes, "Bytes written to segments.");
/// Time of one sync of a segment.
pub static LOG_SYNC_SECONDS: Histogram =
    Histogram::new("tidelog_log_sync_seconds", Seconds, TIMES, "Time of one sync of a segment.");
/// Records made durable by one sync.
pub static LOG_GROUP_RECORDS: Histogram =
    Histogram::new("tidelog_log_group_records", Count, SIZES, "Records made durable by one sync.");
/// Bytes that wait for the committer.
pub static LOG_QUEUE_BYTES: Gauge = Gauge::new("tidelog_log_queue_bytes", Bytes, "Bytes that wait for the committer.");
/// Times a write waited because the committer's queue was full.
pub static LOG_QUEUE_WAITS: Counter = Counter::new(
    "tidelog_log_queue_waits_total",
    Count,
    "Times a write waited because the committer's queue was full.",
);
/// Segments on disk.
pub static LOG_SEGMENTS: Gauge = Gauge::new("tidelog_log_segments", Count, "Segments on disk.");
/// Bytes of all segments on disk.
pub static LOG_BYTES: Gauge = Gauge::new("tidelog_log_bytes", Bytes, "Bytes of all segments on disk.");
/// Bytes of segments that retention removed.
pub static LOG_REMOVED_BYTES: Counter =
    Counter::new("tidelog_log_removed_bytes_total", Bytes, "Bytes of segments that retention removed.");
/// Bytes of segments that the settings let go and that somebody still needs.
pub static RETENTION_HELD_BYTES: Gauge = Gauge::new(
    "tidelog_retention_held_bytes",
    Bytes,
    "Bytes of segments that the settings let go and that somebody still needs.",
);
/// A sync failed: no write is acknowledged until the sidecar is restarted.
pub static LOG_POISONED: Gauge =
    Gauge::new("tidelog_log_poisoned", Flag, "A sync failed: no write is acknowledged until the sidecar is restarted.");
/// Bytes of a torn tail cut off at start.
pub static LOG_CUT_BYTES: Counter =
    Counter::new("tidelog_log_cut_bytes_total", Bytes, "Bytes of a torn tail cut off at start.");
/// Free space where the log lies.
pub static DISK_FREE_BYTES: Gauge = Gauge::new("tidelog_disk_free_bytes", Bytes, "Free space where the log lies.");
/// Less space is free than the settings ask for: writes are refused before they are forwarded.
pub static DISK_LOW: Gauge = Gauge::new(
    "tidelog_disk_low",
    Flag,
    "Less space is free than the settings ask for: writes are refused before they are forwarded.",
);
// index

/// Number of the last record in the entity index.
pub static INDEX_APPLIED_LSN: Gauge =
    Gauge::new("tidelog_index_applied_lsn", Lsn, "Number of the last record in the entity index.");
/// Entities staged in memory, not yet in the index.
pub static INDEX_OVERLAY_ENTRIES: Gauge =
    Gauge::new("tidelog_index_overlay_entries", Count, "Entities staged in memory, not yet in the index.");
/// Times the index was thrown away and made again, from its snapshot or from the log.
pub static INDEX_REBUILDS: Counter = Counter::new(
    "tidelog_index_rebuilds_total",
    Count,
    "Times the index was thrown away and made again, from its snapshot or from the log.",
);
/// The record that the newest durable copy of the index stands at; 0: there is none.
pub static INDEX_SNAPSHOT_LSN: Gauge = Gauge::new(
    "tidelog_index_snapshot_lsn",
    Lsn,
    "The record that the newest durable copy of the index stands at; 0: there is none.",
);
/// Bytes of the newest durable copy of the index.
pub static INDEX_SNAPSHOT_BYTES: Gauge =
    Gauge::new("tidelog_index_snapshot_bytes", Bytes, "Bytes of the newest durable copy of the index.");
/// How long the last copy of the index took, reading back included; 0: none since the start.
pub static INDEX_SNAPSHOT_SECONDS: Gauge = Gauge::new(
    "tidelog_index_snapshot_seconds",
    Seconds,
    "How long the last copy of the index took, reading back included; 0: none since the start.",
);
/// When the last copy of the index was made, since 1970; 0: none since the start.
pub static INDEX_SNAPSHOT_TIME: Gauge = Gauge::new(
    "tidelog_index_snapshot_timestamp_seconds",
    Seconds,
    "When the last copy of the index was made, since 1970; 0: none since the start.",
);
// gaps

/// Stretches of reality that the log does not prove now.
pub static GAPS_OPEN: Gauge =
    Gauge::new("tidelog_gaps_open", Count, "Stretches of reality that the log does not prove now.");
/// Gaps opened, by cause.
pub static GAPS_OPENED: Counter = Counter::new("tidelog_gaps_opened_total", Count, "Gaps opened, by cause.")
    .by("cause", &["out", "merge", "mapReduce", "ddl", "stream", "commit", "capped", "timeseries", "other"]);
// export

/// Windows closed, by cause.
pub static WINDOWS_CLOSED: Counter = Counter::new("tidelog_windows_closed_total", Count, "Windows closed, by cause.")
    .by("cause", &["size", "count", "age", "idle", "cut", "marker", "schedule", "other"]);
/// Windows that the sink proved durable.
pub static WINDOWS_EXPORTED: Counter =
    Counter::new("tidelog_windows_exported_total", Count, "Windows that the sink proved durable.").by_sink();
/// Records in exported windows.
pub static EXPORTED_RECORDS: Counter =
    Counter::new("tidelog_exported_records_total", Count, "Records in exported windows.").by_sink();
/// Bytes of exported windows.
pub static EXPORTED_BYTES: Counter =
    Counter::new("tidelog_exported_bytes_total", Bytes, "Bytes of exported windows.").by_sink();
/// From a window taken up to its checkpoint.
pub static EXPORT_SECONDS: Histogram =
    Histogram::new("tidelog_export_seconds", Seconds, TIMES, "From a window taken up to its checkpoint.");
/// The sink's durable position.
pub static CHECKPOINT_LSN: Gauge = Gauge::new("tidelog_checkpoint_lsn", Lsn, "The sink's durable position.").by_sink();
/// Durable records that the sink does not have yet.
pub static EXPORT_LAG_RECORDS: Gauge =
    Gauge::new("tidelog_export_lag_records", Count, "Durable records that the sink does not have yet.").by_sink();
/// Age of the oldest record that the sink does not have yet; 0: it has all.
pub static EXPORT_LAG_SECONDS: Gauge = Gauge::new(
    "tidelog_export_lag_seconds",
    Seconds,
    "Age of the oldest record that the sink does not have yet; 0: it has all.",
)
.by_sink();
/// Durable records too young for a window.
pub static SETTLING_RECORDS: Gauge =
    Gauge::new("tidelog_settling_records", Count, "Durable records too young for a window.");
/// The last record that the store can no longer take back: windows close up to here.
pub static HORIZON_LSN: Gauge = Gauge::new(
    "tidelog_horizon_lsn",
    Lsn,
    "The last record that the store can no longer take back: windows close up to here.",
);
/// Deliveries that failed, by class.
pub static SINK_ERRORS: Counter = Counter::new("tidelog_sink_errors_total", Count, "Deliveries that failed, by class.")
    .by("class", &["transient", "permanent", "other"]);
/// Records that the sink refused, each alone, and that nobody dropped.
pub static DEAD_LETTERS: Gauge =
    Gauge::new("tidelog_dead_letters", Count, "Records that the sink refused, each alone, and that nobody dropped.")
        .by_sink();
/// The last delivery failed.
pub static SINK_FAILING: Gauge = Gauge::new("tidelog_sink_failing", Flag, "The last delivery failed.").by_sink();
/// Whether the sink is tried: 0 closed (it delivers), 1 half open (tried again), 2 open (left alone for a while), 3 stopped (a person is needed).
pub static SINK_CIRCUIT: Gauge = Gauge::new(
    "tidelog_sink_circuit",
    State,
    "Whether the sink is tried: 0 closed (it delivers), 1 half open (tried again), 2 open (left alone for a while), 3 stopped (a person is needed).",
)
.by_sink();
/// Failures since the last success.
pub static SINK_FAILURES: Gauge =
    Gauge::new("tidelog_sink_failures", Count, "Deliveries that failed since the last that went well.").by_sink();
// process

/// What /readyz says.
pub static READY: Gauge = Gauge::new("tidelog_ready", Flag, "What /readyz says.");
/// When the process started, since 1970.
pub static STARTED_SECONDS: Gauge =
    Gauge::new("tidelog_start_time_seconds", Seconds, "When the process started, since 1970.");
/// Requests to the admin address, by status class.
pub static ADMIN_REQUESTS: Counter =
    Counter::new("tidelog_admin_requests_total", Count, "Requests to the admin address, by status class.")
        .by("status", &["ok", "client", "server"]);

/// All metrics, in the order of the reference page.
pub const TABLE: &[Family] = &[
    // proxy
    G(&CONNECTIONS),
    C(&CONNECTIONS_ACCEPTED),
    C(&CONNECTIONS_REFUSED),
    C(&CONNECTIONS_CLOSED),
    G(&INFLIGHT_BYTES),
    C(&INFLIGHT_WAITS),
    C(&MESSAGES),
    C(&CLIENT_BYTES),
    C(&UPSTREAM_BYTES),
    C(&COMMANDS_REFUSED),
    C(&UNKNOWN_HOSTS),
    G(&UPSTREAM_UP),
    C(&UPSTREAM_CONNECTS),
    G(&DRAINING),
    // capture
    C(&WRITE_COMMANDS),
    H(&WRITE_SECONDS),
    C(&CHANGES),
    C(&UNCHANGED),
    C(&INJECTED_COMMANDS),
    C(&RESOLVE_RETRIES),
    H(&GUARD_WAIT_SECONDS),
    G(&GUARDS_HELD),
    G(&GUARD_WAITERS),
    G(&TRANSACTIONS_OPEN),
    C(&TRANSACTIONS_ENDED),
    C(&TRANSACTIONS_SETTLED),
    C(&TRANSACTION_WAITS),
    C(&RESOLVES_IN_TRANSACTIONS),
    G(&INTENTS_OPEN),
    C(&INTENTS_RECOVERED),
    G(&audit::LOOKS_WAITING),
    C(&audit::LOOKS),
    C(&audit::VERIFY_RUNS),
    C(&audit::VERIFY_ENTITIES),
    C(&audit::VERIFY_FAILURES),
    C(&audit::RECONCILE_RUNS),
    C(&audit::RECONCILE_ENTITIES),
    C(&audit::RECONCILE_DIFFERENCES),
    C(&audit::RECONCILE_REPAIRED),
    G(&audit::RECONCILE_DIFFERING),
    G(&audit::FOLLOWER_UP),
    C(&audit::FOLLOWER_EVENTS),
    G(&audit::SNAPSHOT_WAITING),
    G(&audit::SNAPSHOT_PERCENT),
    C(&audit::SNAPSHOT_DOCUMENTS),
    C(&CAPTURE_ERRORS),
    G(&EPOCH),
    // node
    C(&audit::NODE_CHANGES),
    C(&audit::NODE_CHECKED),
    C(&audit::NODE_LOST),
    G(&audit::NODE_CORRECTING),
    // clock
    C(&CLOCK_REJECTED),
    // log
    G(&LOG_TAIL_LSN),
    G(&LOG_FIRST_LSN),
    C(&LOG_RECORDS),
    C(&LOG_APPENDED_BYTES),
    H(&LOG_SYNC_SECONDS),
    H(&LOG_GROUP_RECORDS),
    G(&LOG_QUEUE_BYTES),
    C(&LOG_QUEUE_WAITS),
    G(&LOG_SEGMENTS),
    G(&LOG_BYTES),
    C(&LOG_REMOVED_BYTES),
    G(&RETENTION_HELD_BYTES),
    G(&LOG_POISONED),
    C(&LOG_CUT_BYTES),
    G(&DISK_FREE_BYTES),
    G(&DISK_LOW),
    // index
    G(&INDEX_APPLIED_LSN),
    G(&INDEX_OVERLAY_ENTRIES),
    C(&INDEX_REBUILDS),
    G(&INDEX_SNAPSHOT_LSN),
    G(&INDEX_SNAPSHOT_BYTES),
    G(&INDEX_SNAPSHOT_SECONDS),
    G(&INDEX_SNAPSHOT_TIME),
    // gaps
    G(&GAPS_OPEN),
    C(&GAPS_OPENED),
    // export
    C(&WINDOWS_CLOSED),
    C(&WINDOWS_EXPORTED),
    C(&EXPORTED_RECORDS),
    C(&EXPORTED_BYTES),
    H(&EXPORT_SECONDS),
    G(&CHECKPOINT_LSN),
    G(&EXPORT_LAG_RECORDS),
    G(&EXPORT_LAG_SECONDS),
    G(&SETTLING_RECORDS),
    G(&HORIZON_LSN),
    C(&SINK_ERRORS),
    G(&DEAD_LETTERS),
    G(&SINK_FAILING),
    G(&SINK_CIRCUIT),
    G(&SINK_FAILURES),
    C(&retention::WINDOWS_REMOVED),
    G(&retention::WINDOWS_HELD),
    G(&retention::KEPT_BYTES),
    // process
    G(&READY),
    G(&STARTED_SECONDS),
    C(&ADMIN_REQUESTS),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_static_stands_in_the_table_once() {
        let source = [include_str!("table.rs"), include_str!("audit.rs"), include_str!("retention.rs")].concat();
        let statics = source.lines().filter(|l| l.starts_with("pub static ")).count();
        let names: BTreeSet<_> = TABLE.iter().map(|f| f.def().name).collect();
        assert_eq!((statics, TABLE.len()), (names.len(), names.len()));
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for family in TABLE {
            let def = family.def();
            assert!(def.name.starts_with("tidelog_") && def.help.ends_with('.'), "{}", def.name);
            assert_eq!(def.name.ends_with("_total"), family.kind() == "counter", "{}", def.name);
            assert_eq!(def.name.contains("bytes"), def.unit == Bytes, "{}", def.name);
            assert_eq!(def.name.contains("seconds"), def.unit == Seconds, "{}", def.name);
            assert!(!def.help.contains(['"', '\\', '|', '\n']), "{}", def.name);
        }
    }
}
