//! What a comparison of log and store says, as values.

use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileAsk {
    /// Only this namespace; empty: all.
    #[serde(default)]
    pub namespace: String,
    /// The first `_id` of a range of the namespace, as Extended JSON; empty: from its first one.
    #[serde(default)]
    pub from: String,
    /// The first `_id` after the range, as Extended JSON; empty: to the last one.
    #[serde(default)]
    pub to: String,
    /// Append *observed* records for what differs.
    #[serde(default)]
    pub repair: bool,
    /// The part of each namespace, of 100.
    #[serde(default = "whole")]
    pub sample: u64,
}

fn whole() -> u64 {
    100
}

/// Why a comparison does not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReconcileRefused {
    /// What is asked for makes no sense.
    Call(String),
    /// Not now.
    Busy(String),
}

/// The answer to the ask.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ReconcileBegun {
    /// The comparison's number.
    pub run: u64,
}

/// A comparison, under way or ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ReconcileReport {
    /// Its number in this process, from 1; 0: there was none yet.
    pub run: u64,
    /// It has ended.
    pub ended: bool,
    /// Why it did not come to its end; empty: it did, or goes on.
    pub error: String,
    /// Namespaces to compare.
    pub namespaces: u64,
    /// Entities compared.
    pub entities: u64,
    /// Of them, those of which log and store say different things.
    pub differing: u64,
    /// Of those, how many were put right.
    pub repaired: u64,
    /// By namespace, in order; the last may be under way.
    pub compared: Vec<ReconcileRow>,
    /// The first thousand differences.
    pub differences: Vec<DifferenceRow>,
}

/// What a comparison of one namespace came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ReconcileRow {
    /// The namespace.
    pub ns: String,
    /// All of it, not a sample or a range.
    pub whole: bool,
    /// A range of it.
    pub range: bool,
    /// Its first read has not ended: documents that the log lacks are not told.
    pub partial: bool,
    /// Entities compared.
    pub entities: u64,
    /// The log has them, the store does not.
    pub log_only: u64,
    /// The store has them, the log does not.
    pub store_only: u64,
    /// Both have them, with different images.
    pub images: u64,
    /// Differences put right.
    pub repaired: u64,
    /// Entities that the log holds alive at the end.
    pub alive: u64,
    /// The fingerprint of their images, hex; as in manifests.
    pub fingerprint: String,
}

/// An entity of which log and store say different things.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DifferenceRow {
    /// The namespace.
    pub ns: String,
    /// Its `_id`, canonical Extended JSON.
    pub id: String,
    /// `logOnly`: the store lacks it; `storeOnly`: the log lacks it; `images`: they differ.
    pub side: String,
}
