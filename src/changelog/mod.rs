//! Durable order: every change and control fact, numbered, on disk before anyone says "ok". It does not know what a
//! change means: no index, no windows, no wire.
//!
//! A seam for tests stands behind the feature `model`: `Changelog::open_inline`, the committer without its thread.
//!
#![doc = include_str!("FORMAT.md")]

mod commit;
mod error;
mod evidence;
mod extent;
pub mod frame;
mod horizon;
mod identity;
#[cfg(feature = "model")]
mod inline;
mod inspect;
mod log;
mod open;
mod reader;
pub mod record;
mod recover;
mod roll;
pub mod segment;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

pub use commit::{Durable, Observer};
pub use error::LogError;
pub use extent::{Extent, Extents};
pub use horizon::Horizon;
#[cfg(feature = "model")]
pub use inline::Inline;
pub use inspect::Inspection;
pub use log::{Changelog, Durability, LogOptions, Opened, Reservation, Ticket};
pub use reader::{Reader, RecordHead};
pub use recover::Truncation;
pub use stream::Source;
