//! Which part of a window a record is in.

use crate::types::{Body, Record};
use sha2::{Digest as _, Sha256};

/// The part, from 0, of a record in a window of `parts`: the first eight bytes (a big-endian number) of the SHA-256 of the
/// namespace's name, a zero byte and the entity key, modulo `parts`. All records of an entity are in one part, and the same
/// one for ever. Control records, which are about no entity, are in part 0.
pub fn part_of(record: &Record, parts: u32) -> u32 {
    let Body::Change(change) = &record.body else { return 0 };
    if parts <= 1 {
        return 0;
    }
    let mut hash = Sha256::new();
    hash.update(change.ns.as_str().as_bytes());
    hash.update([0]);
    hash.update(change.key.as_bytes());
    let first = hash.finalize().iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    u32::try_from(first % u64::from(parts)).unwrap_or(0)
}
