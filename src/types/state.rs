//! The small state that a fold of the log keeps: per namespace the fingerprint, and the open gaps.

use super::{Lsn, Namespace};
use std::collections::BTreeMap;

/// What the log knows of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceState {
    /// Entities alive.
    pub alive: u64,
    /// Sum modulo 2^256 of the SHA-256 (as big-endian numbers) of the images of the living.
    pub sum: [u8; 32],
    /// The namespace held nothing when first seen (or was dropped since), so `alive` and `sum` are all of it.
    pub complete: bool,
}

/// An open entry of the gap ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Dense number in this log.
    pub id: u64,
    /// What is not proved.
    pub ns: Namespace,
    /// Why.
    pub cause: String,
    /// For a person.
    pub detail: String,
    /// The record that opened it.
    pub since: Lsn,
    /// Wall time of that record, ms since 1970.
    pub since_ms: i64,
}

/// Fold of a log up to some lsn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Namespaces seen.
    pub namespaces: BTreeMap<Namespace, NamespaceState>,
    /// Gaps open.
    pub gaps: BTreeMap<u64, Gap>,
}
