//! The words of the domain: numbers, names, images, changes, records. No I/O, no async, no clock.
//!
//! Everything here is a plain value that other modules pass around. Invariants stand on the fields.

mod gap;
mod ids;
mod image;
mod record;
mod state;

pub use gap::{remedy, stays};
pub use ids::{EntityKey, Epoch, Hlc, LogId, Lsn, Namespace, Seq, WindowId};
pub use image::{Digest, Image};
pub use record::{Body, Change, Committed, Control, Draft, Found, Op, Origin, Record, RetryId, TxnPart};
pub use state::{Gap, LogState, NamespaceState};
