//! Entities: the canonical [key](key_of) of an `_id`, the [guards](Guards), and the [index](Index) that tells for each entity its
//! last `(epoch, seq)` and image.
//!
//! The index is derived from the log: deleting it and replaying the log gives the same index.

mod guard;
mod key;
mod number;
mod queue;

pub use guard::{EntityGuard, Guards, NsGuard, NsGuards};
pub use key::{KeyError, MAX_DEPTH, MAX_PLAIN, key_of};
