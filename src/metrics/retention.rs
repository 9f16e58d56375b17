//! The retention of windows: those rows of the one table.

use super::Unit::{Bytes, Count};
use super::{Counter, Gauge};

/// Windows that retention removed from the sink.
pub static WINDOWS_REMOVED: Counter =
    Counter::new("tidelog_windows_removed_total", Count, "Windows that retention removed from the sink.").by_sink();
/// Windows at the sink that are past their bounds and that somebody holds.
pub static WINDOWS_HELD: Gauge = Gauge::new(
    "tidelog_windows_held",
    Count,
    "Windows at the sink that are past their bounds and that a consumer or a dead letter holds.",
)
.by_sink();
/// Bytes of the windows at the sink, where retention is set.
pub static KEPT_BYTES: Gauge =
    Gauge::new("tidelog_kept_bytes", Bytes, "Bytes of the windows at the sink, where retention is set; else 0.")
        .by_sink();
