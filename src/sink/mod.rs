//! Where windows go. A sink takes the files of a window, then its manifest, and says ok only when all of it is durable and
//! was read back.
//!
//! Promises: delivering a window again changes nothing; what is there and differs is never overwritten, it stops the sink.
//!
//! # Decisions
//! One sink, [`Folder`], as a plain struct: a trait comes with the second one.

mod error;
mod folder;
mod staging;

pub use error::{Class, SinkError};
pub use folder::{Folder, Position};
pub use staging::{SealedFile, Staging};
