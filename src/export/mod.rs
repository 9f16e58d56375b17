//! Windows of the log, cut once, written as files that explain themselves, delivered to sinks exactly once.
//!
//! Follow a record: the `cutter` closes a window over it → the [`ledger`] makes that durable → a `worker` per sink writes the
//! window with [`jsonl`] and [`ejson`], ends it with a [`manifest`] → the sink proves it durable → the [`checkpoint`] moves.

pub mod checkpoint;
pub mod ejson;
pub mod jsonl;
pub mod ledger;
pub mod manifest;
