//! Entities: the canonical [key](key_of) of an `_id`, the [guards](Guards), and the [index](Index) that tells for each entity its
//! last `(epoch, seq)` and image.
//!
//! The index is derived from the log: deleting it and replaying the log gives the same index. Where retention removed the
//! beginning of the log, a [snapshot](Snapshots) of the index stands for it.
//!
//! A seam for tests stands behind the feature `model`: `Index::in_memory`, rows without the storage engine.

mod apply;
mod error;
mod flight;
mod guard;
mod id;
mod index;
mod indexer;
mod key;
mod marks;
mod number;
mod open;
mod overlay;
mod queue;
mod row;
mod rows;
mod snapshot;
mod watch;

pub use error::IndexError;
pub use guard::{EntityGuard, Guards, NsGuard, NsGuards};
pub use id::id_of;
pub use index::{Entry, Index, IndexOptions, Known, NodeSeen};
pub use indexer::{Indexer, Observer};
pub use key::{KeyError, MAX_DEPTH, MAX_PLAIN, key_of};
pub use marks::{EntityHash, MarkOwner, Marks};
pub use open::Basis;
pub use snapshot::{SnapshotError, Snapshots, View, Whole};
pub use watch::Watch;

#[cfg(test)]
mod tests;
