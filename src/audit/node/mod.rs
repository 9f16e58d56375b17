//! The watch over the node: who it is, how far the log is proved, and what to do when it is another than before.
//!
//! Promises: the [`Horizon`](crate::changelog::Horizon) passes a record only when the store can no longer take its write back ([`proof`]); when the node's
//! process, term or rollback id is new, everything after the horizon is verified, the corrections stand in the log, a `node`
//! record ends them, and no window ends in between; the epoch follows the term.
//!
//! Does not: hold up writes. A write that meets a change which the store lost finds it by its own read (*exact*: the image before
//! is read), so it stands in the log before it; what nobody touches is found here.
//!
//! # Decisions
//! - One raw connection, without credentials (`hello` needs none): also a store that tells no process id is known by that
//!   connection, and counts as another when it breaks.
//! - Looks come each 50 ms while there is something to prove or somebody asks, else twice a second. They go on during a
//!   correction, which may take long, since writes need the epoch.
//! - At a start nothing is proved past the last window. If the node is the one of the log's last `node` record, nothing was lost and the
//!   ordinary proof goes on; otherwise everything after the last window is verified.
//! - All writes that were under way when the change was seen have ended ([`Capture::quiet`](crate::capture::Capture::quiet)) before the end of what is
//!   verified is fixed: their records may speak of the process before.
//! - A member that is no longer primary corrects as well, under the epoch that it had: its records up to then may have been rolled back,
//!   and waiting for it to be primary again would keep the others of that time from being exported.

mod correct;
mod look;
mod proof;
mod watch;

pub use watch::{NodeFacts, Settings, Watch};
