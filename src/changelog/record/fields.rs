//! Names of kinds and fields. Numbers are for ever: a new meaning takes a new number.

/// Record kinds.
pub(super) mod kind {
    pub(crate) const CHANGE: u8 = 1;
    pub(crate) const OPENED: u8 = 16;
    pub(crate) const CREATE: u8 = 17;
    pub(crate) const DROP: u8 = 18;
    pub(crate) const DROP_DATABASE: u8 = 19;
    pub(crate) const RENAME: u8 = 20;
    pub(crate) const COLL_MOD: u8 = 21;
    pub(crate) const GAP_OPENED: u8 = 22;
    pub(crate) const GAP_CLOSED: u8 = 23;
    pub(crate) const STARTED: u8 = 24;
    pub(crate) const COMPLETED: u8 = 25;
    pub(crate) const RECONCILED: u8 = 26;
    pub(crate) const NODE: u8 = 27;
}

/// Field tags. From `SKIPPABLE` on a reader that does not know one skips it.
pub(super) mod tag {
    pub(crate) const NS: u8 = 1;
    pub(crate) const ID: u8 = 2;
    pub(crate) const KEY: u8 = 3;
    pub(crate) const COUNT: u8 = 4;
    pub(crate) const OPERATION_TIME: u8 = 5;
    pub(crate) const RETRY: u8 = 6;
    pub(crate) const CONNECTION: u8 = 7;
    pub(crate) const CLIENT: u8 = 8;
    pub(crate) const USER: u8 = 9;
    pub(crate) const MECHANISM: u8 = 10;
    pub(crate) const APP: u8 = 11;
    pub(crate) const DRIVER: u8 = 12;
    pub(crate) const COMMENT: u8 = 13;
    pub(crate) const TRACEPARENT: u8 = 14;
    pub(crate) const BEFORE_SHA: u8 = 15;
    pub(crate) const AFTER_SHA: u8 = 16;
    pub(crate) const BEFORE: u8 = 17;
    pub(crate) const AFTER: u8 = 18;
    pub(crate) const TXN: u8 = 19;
    pub(crate) const FOUND: u8 = 20;
    pub(crate) const COMPLETE: u8 = 32;
    pub(crate) const OPTIONS: u8 = 33;
    pub(crate) const DB: u8 = 34;
    pub(crate) const TO: u8 = 35;
    pub(crate) const GAP: u8 = 36;
    pub(crate) const CAUSE: u8 = 37;
    pub(crate) const DETAIL: u8 = 38;
    pub(crate) const VERSION: u8 = 39;
    pub(crate) const TALLY: u8 = 40;
    pub(crate) const PROCESS: u8 = 41;
    pub(crate) const TERM: u8 = 42;
    pub(crate) const SKIPPABLE: u8 = 128;
}

/// Bytes of a field before its value: tag and length.
pub(super) const FIELD_HEAD_BYTES: usize = 5;

/// Flag bit: more records of the same atomic batch follow.
pub(super) const CONTINUED: u8 = 1;

/// Bytes of the `COUNT` field: op u8, epoch u32, seq u64, correlation u64.
pub(super) const COUNT_BYTES: usize = 21;

/// Bytes of the `TXN` field: lsid, txnNumber i64, index u32, count u32.
pub(super) const TXN_BYTES: usize = 32;

/// Bytes of the `TALLY` field: whole u8, entities u64, differing u64, repaired u64.
pub(super) const TALLY_BYTES: usize = 25;

/// Bytes of the `TERM` field: term u64, rbid u64, epoch u32, unproven u64.
pub(super) const TERM_BYTES: usize = 28;

/// Bytes of the `RETRY` field: lsid, txnNumber i64, statement i32.
pub(super) const RETRY_BYTES: usize = 28;
