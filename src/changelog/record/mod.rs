//! One record as bytes: the payload of a frame. Pure; the layout is told in `FORMAT.md`.
//!
//! Promises: `decode(encode(r)) == r` for every record; [`decode()`] never panics and allocates no more than the bytes it was
//! given. It does not check checksums (the frame does) nor that an image is sound BSON.

mod decode;
mod encode;
mod fields;
mod id;

pub use decode::{Head, HeadBody, decode, decode_shared, head, stamp};
pub use encode::{Sized, encode, size};

use crate::types::{Hlc, Lsn};

/// Bytes of the fixed part that every payload starts with.
pub const STAMP_BYTES: usize = 34;

/// The fixed part that every record starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What kind of record: see `FORMAT.md`.
    pub kind: u8,
    /// More records of the same atomic batch follow.
    pub continued: bool,
    /// Its number.
    pub lsn: Lsn,
    /// Hybrid clock.
    pub hlc: Hlc,
    /// Wall time, milliseconds since 1970.
    pub wall_ms: i64,
    /// Every record up to this one was durable before this one was written. Less than `lsn`. So a bad frame with this
    /// number or a lower one, before a good frame, is damage and not a torn tail.
    pub synced: Lsn,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It ends within its fixed part or within a field.
    #[error("the record ends early, at byte {0}")]
    Short(usize),
    /// The kind is not one that this version knows.
    #[error("record kind {0} is not known to this version")]
    Kind(u8),
    /// Bits of the flags that no version sets.
    #[error("record flags {0:#04x} are not known to this version")]
    Flags(u8),
    /// A field that this version does not know and must not skip.
    #[error("field {0} is not known to this version")]
    Unknown(u8),
    /// Fields must ascend.
    #[error("field {0} is out of order")]
    Order(u8),
    /// A field that this kind needs is not there.
    #[error("field {0} is missing")]
    Missing(u8),
    /// A field's bytes are not what they should be.
    #[error("field {tag} is not {expected}")]
    Field {
        /// The field.
        tag: u8,
        /// What it should be.
        expected: &'static str,
    },
    /// An image without its hash, or a batch number that cannot be.
    #[error("{0}")]
    Inconsistent(&'static str),
}

#[cfg(test)]
mod tests;
