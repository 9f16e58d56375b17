//! What closes a gap: one table, by cause.

/// For a person: what closes a gap of this cause, and who does it.
pub fn remedy(cause: &str) -> &'static str {
    match cause {
        "capped" | "timeseries" => {
            "none while the collection is what it is: writes to it are not recorded; keep what must be recorded in a plain collection"
        }
        "stream" => "everything is being compared with the store; the gap closes when that has ended",
        _ => "the namespace is being compared with the store; the gap closes when that has ended",
    }
}

/// Only another kind of collection would close it.
pub fn stays(cause: &str) -> bool {
    matches!(cause, "capped" | "timeseries")
}
