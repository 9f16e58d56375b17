//! Windows of the log, cut once, written as files that explain themselves, delivered to sinks exactly once.
//!
//! Follow a record: the `cutter` closes a window over it → the [`ledger`] makes that durable → a `worker` per sink writes the
//! window in the sink's [`Form`](crate::format::Form), ends it with a [`manifest`] → the sink proves it durable → the [`checkpoint`] moves.
//!
//! Promises: what a window holds is fixed when it is closed, so exporting it again gives the same bytes; a kill at any moment
//! neither loses nor doubles a window; a sink that fails holds up nobody but itself.

pub mod checkpoint;
mod cut;
mod cutter;
pub mod dead;
mod error;
mod event;
mod handle;
pub mod ledger;
pub mod manifest;
mod newest;
mod status;
mod threads;
mod worker;
mod writing;

pub use cutter::Limits;
pub use error::ExportError;
pub use event::{Markers, Schedule};
pub use handle::{ExportOptions, Exporter, ExporterHandle};
pub use status::{SinkStatus, Status};
pub use worker::SinkOptions;

#[cfg(test)]
mod tests;
