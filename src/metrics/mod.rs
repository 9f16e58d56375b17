//! The one table of all metrics: name, kind, unit, label, help, and the cells that hold the values.
//!
//! Promises: every metric of the process stands in [`TABLE`]; a metric's series are fixed at compile time (a label has a
//! closed set of values), so neither a client nor a namespace can make the number of series grow (`namespaces` tells the one
//! exception, and its bound); to count costs one
//! atomic addition and never blocks, allocates or fails.
//!
//! Does not: push anywhere, keep history, or read a clock.
//!
//! # Decisions
//!
//! Plain statics instead of the `metrics` facade: there is no recorder to install first (a count made before the wiring
//! is not lost), no lookup by name on the write path, and the table that people read is the table that counts.

mod audit;
mod cell;
mod consumers;
mod namespaces;
mod render;
mod retention;
mod sink;
mod table;

pub use audit::*;
pub use cell::{Counter, Def, Family, Gauge, Held, Histogram, Unit};
pub use consumers::{CONSUMERS, ConsumerLag, ConsumerLags};
pub use namespaces::{COMPARISONS, Comparisons, LastComparison};
pub use render::{reference_page, render};
pub use retention::*;
pub use sink::sink_name;
pub use table::*;
