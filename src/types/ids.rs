//! Numbers and names. Each is a newtype, so that an lsn is never taken for a seq.

use std::fmt;
use std::sync::Arc;

/// The dense number of a record in one log: 1, 2, 3 … `Lsn::ZERO` is "before the first record".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first record of a log.
    pub const ZERO: Self = Self(0);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who counts: within one epoch the [`Seq`] of an entity is dense. Starts at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// The number of a change of one entity within an [`Epoch`]: 1, 2, 3 …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// A hybrid logical clock reading: 48 bits of milliseconds since 1970 above 16 bits of counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Milliseconds since 1970.
    pub fn millis(self) -> u64 {
        self.0 >> 16
    }
}

/// The dense number of a window of one log: 1, 2, 3 …
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowId(pub u64);

impl WindowId {
    /// Before the first window of a log.
    pub const ZERO: Self = Self(0);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for WindowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of one log, drawn at random when its folder is first opened (a version 4 UUID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub [u8; 16]);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// `db.collection`. The database is what stands before the first dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Joins a database and a collection.
    pub fn new(db: &str, collection: &str) -> Self {
        Self(format!("{db}.{collection}").into())
    }

    /// Takes `db.collection` as it is written.
    pub fn from_full(full: &str) -> Self {
        Self(full.into())
    }

    /// The database.
    pub fn db(&self) -> &str {
        self.0.split_once('.').map_or(&*self.0, |(db, _)| db)
    }

    /// The collection; empty when there is no dot.
    pub fn collection(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, coll)| coll)
    }

    /// `db.collection`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The canonical form of an `_id` under BSON comparison equality: equal bytes if and only if the store takes the two
/// `_id`s for one (under the simple collation). Its layout is told in `entity/key`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityKey(pub Arc<[u8]>);

impl EntityKey {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
