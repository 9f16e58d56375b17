//! Any two values as `_id`s: a key for each or a clear error, the same at each look; and equal keys only where a
//! comparison of plain values agrees.
#![no_main]

use bson::{RawBsonRef, RawDocument};
use libfuzzer_sys::fuzz_target;
use tidelog::entity::key_of;

/// Whether two values of types that compare by their bytes are told apart by them. `None`: it is not that plain.
fn plainly_equal(a: &RawBsonRef<'_>, b: &RawBsonRef<'_>) -> Option<bool> {
    match (a, b) {
        (RawBsonRef::String(a), RawBsonRef::String(b)) => Some(a == b),
        (RawBsonRef::ObjectId(a), RawBsonRef::ObjectId(b)) => Some(a == b),
        (RawBsonRef::Int32(a), RawBsonRef::Int64(b)) | (RawBsonRef::Int64(b), RawBsonRef::Int32(a)) => {
            Some(i64::from(*a) == *b)
        }
        (RawBsonRef::Int64(a), RawBsonRef::Int64(b)) => Some(a == b),
        (RawBsonRef::Double(a), RawBsonRef::Double(b)) if !a.is_nan() && !b.is_nan() => Some(a == b),
        (RawBsonRef::Int32(a), RawBsonRef::Double(b)) | (RawBsonRef::Double(b), RawBsonRef::Int32(a)) => {
            Some(f64::from(*a) == *b)
        }
        (RawBsonRef::String(_), RawBsonRef::ObjectId(_) | RawBsonRef::Int32(_) | RawBsonRef::Int64(_)) => Some(false),
        (RawBsonRef::DateTime(a), RawBsonRef::DateTime(b)) => Some(a == b),
        (RawBsonRef::Timestamp(a), RawBsonRef::Timestamp(b)) => Some(a == b),
        (RawBsonRef::DateTime(_), RawBsonRef::Timestamp(_)) => Some(false),
        _ => None,
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(document) = RawDocument::from_bytes(data) else { return };
    let ids: Vec<_> = document.iter().map_while(Result::ok).take(8).map(|(_, id)| id).collect();
    let keys: Vec<_> = ids.iter().map(|id| key_of(id).ok()).collect();
    for (a, key_a) in ids.iter().zip(&keys) {
        assert_eq!(&key_of(a).ok(), key_a, "another key at a second look");
        for (b, key_b) in ids.iter().zip(&keys) {
            if let (Some(key_a), Some(key_b), Some(equal)) = (key_a, key_b, plainly_equal(a, b)) {
                assert_eq!(key_a == key_b, equal, "{a:?} and {b:?}");
            }
        }
    }
});
