//! Windows of the log, cut once, written as files that explain themselves, delivered to sinks exactly once.
//!
//! Follow a record: the `cutter` closes a window over it → the [`ledger`] makes that durable → a `worker` per sink writes the
//! window in the sink's [`Form`](crate::format::Form), ends it with a [`manifest`] → the sink proves it durable → the [`checkpoint`] moves.
//!
//! Promises: what a window holds is fixed when it is closed, so exporting it again gives the same bytes; a kill at any moment
//! neither loses nor doubles a window; a sink that fails holds up nobody but itself.

pub mod checkpoint;
pub mod consumers;
mod cut;
mod cutter;
pub mod dead;
mod error;
mod event;
mod handle;
mod held;
mod hold;
pub mod ledger;
pub mod manifest;
mod newest;
mod pace;
mod retain;
mod start;
mod status;
mod threads;
mod tidy;
mod worker;
mod writing;

pub use cutter::Limits;
pub use error::ExportError;
pub use event::{Markers, Schedule};
pub use handle::{ExportOptions, Exporter, ExporterHandle};
pub use hold::Holder;
pub use pace::Delivering;
pub use retain::{Held, WindowHolder};
pub use status::{Circuit, SinkStatus, Status};
pub use tidy::Retained;
pub use worker::SinkOptions;

#[cfg(test)]
mod tests;
