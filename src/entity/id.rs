//! Back from a key to an `_id`: [`id_of`], for an entity whose images the log no longer has.
//!
//! Promises: what it gives has exactly that key, so the store finds the entity by it. It need not be the `_id` as it was written: of
//! the types that hold a number, the plainest that holds it is taken, and a Symbol comes back as a String.
//!
//! Does not: find an `_id` behind the hash of a long key, nor of the types that nobody uses for one (`DBPointer`, code with scope).

#![expect(clippy::big_endian_bytes, reason = "keys are bytes that sort as the values do")]

use super::key::{MAX_DEPTH, MAX_PLAIN, key_of};
use super::number;
use crate::types::EntityKey;
use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, RawArrayBuf, RawBson, RawDocumentBuf, Timestamp};

/// An `_id` with this key; `None`: it cannot be told.
pub fn id_of(key: &EntityKey) -> Option<RawBson> {
    if key.as_bytes().len() > MAX_PLAIN {
        return None;
    }
    let rest = &mut key.as_bytes();
    let class = byte(rest)?;
    let id = value(class, rest, 0)?;
    let same = key_of(&id.as_raw_bson_ref()).is_ok_and(|again| again == *key);
    (same && rest.is_empty()).then_some(id)
}

fn value(class: u8, rest: &mut &[u8], depth: usize) -> Option<RawBson> {
    Some(match class {
        1 => RawBson::MinKey,
        2 => RawBson::Undefined,
        7 => RawBson::Null,
        12 => number::value(rest)?,
        17 => RawBson::String(text(rest)?),
        22 => RawBson::Document(document(rest, depth + 1)?),
        27 => RawBson::Array(array(rest, depth + 1)?),
        32 => binary(rest)?,
        37 => RawBson::ObjectId(ObjectId::from_bytes(take(rest)?)),
        42 => RawBson::Boolean(byte(rest)? == 1),
        47 => {
            let ms = u64::from_be_bytes(take(rest)?) ^ (1 << 63);
            RawBson::DateTime(DateTime::from_millis(ms.cast_signed()))
        }
        49 => {
            let (time, increment) = (u32::from_be_bytes(take(rest)?), u32::from_be_bytes(take(rest)?));
            RawBson::Timestamp(Timestamp { time, increment })
        }
        62 => RawBson::JavaScriptCode(text(rest)?),
        129 => RawBson::MaxKey,
        _ => return None,
    })
}

fn document(rest: &mut &[u8], depth: usize) -> Option<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    loop {
        match byte(rest)? {
            0 => return Some(out),
            _ if depth > MAX_DEPTH => return None,
            class => {
                let name = bson::raw::CString::try_from(name(rest)?).ok()?;
                let value = value(class, rest, depth)?;
                out.append(name, value);
            }
        }
    }
}

fn array(rest: &mut &[u8], depth: usize) -> Option<RawArrayBuf> {
    let mut out = RawArrayBuf::new();
    loop {
        match byte(rest)? {
            0 => return Some(out),
            _ if depth > MAX_DEPTH => return None,
            class => out.push(value(class, rest, depth)?),
        }
    }
}

fn binary(rest: &mut &[u8]) -> Option<RawBson> {
    let length = usize::try_from(u32::from_be_bytes(take(rest)?)).ok()?;
    let subtype = BinarySubtype::from(byte(rest)?);
    let inner = if subtype == BinarySubtype::BinaryOld { 4 } else { 0 };
    let (bytes, after) = rest.split_at_checked(length.checked_sub(inner)?)?;
    *rest = after;
    Some(RawBson::Binary(Binary { subtype, bytes: bytes.to_vec() }))
}

/// Up to the zero that ends it.
fn name(rest: &mut &[u8]) -> Option<String> {
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (name, after) = rest.split_at_checked(end)?;
    *rest = after.get(1..)?;
    String::from_utf8(name.to_vec()).ok()
}

/// Up to two zeros; a zero inside is followed by FF.
fn text(rest: &mut &[u8]) -> Option<String> {
    let mut out = Vec::new();
    loop {
        match byte(rest)? {
            0 => match byte(rest)? {
                0 => return String::from_utf8(out).ok(),
                0xff => out.push(0),
                _ => return None,
            },
            byte => out.push(byte),
        }
    }
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    Some(*first)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawBsonRef, rawbson, rawdoc};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn leaf() -> impl Strategy<Value = RawBson> {
        prop_oneof![
            any::<i32>().prop_map(RawBson::Int32),
            any::<i64>().prop_map(RawBson::Int64),
            any::<f64>().prop_map(RawBson::Double),
            (any::<i64>(), -30_i32..30).prop_map(|(n, e)| RawBson::Decimal128(format!("{n}E{e}").parse().unwrap())),
            ".{0,12}".prop_map(RawBson::String),
            any::<[u8; 12]>().prop_map(|b| RawBson::ObjectId(ObjectId::from_bytes(b))),
            any::<bool>().prop_map(RawBson::Boolean),
            any::<i64>().prop_map(|ms| RawBson::DateTime(DateTime::from_millis(ms))),
            any::<(u32, u32)>().prop_map(|(time, increment)| RawBson::Timestamp(Timestamp { time, increment })),
            (prop::collection::vec(any::<u8>(), 0..20), any::<u8>())
                .prop_map(|(bytes, kind)| RawBson::Binary(Binary { subtype: kind.into(), bytes })),
            Just(RawBson::Null),
            Just(RawBson::MinKey),
            Just(RawBson::MaxKey),
        ]
    }

    fn any_id() -> impl Strategy<Value = RawBson> {
        leaf().prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(("[a-z]{0,4}", inner.clone()), 0..4).prop_map(|fields| {
                    let mut doc = RawDocumentBuf::new();
                    for (name, value) in fields {
                        doc.append(bson::raw::CString::try_from(name).unwrap(), value);
                    }
                    RawBson::Document(doc)
                }),
                prop::collection::vec(inner, 0..4).prop_map(|values| {
                    let mut array = RawArrayBuf::new();
                    for value in values {
                        array.push(value);
                    }
                    RawBson::Array(array)
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Every `_id` of these types whose key is kept whole is found again.
        #[test]
        fn what_comes_back_has_the_same_key(id in any_id()) {
            let key = key_of(&id.as_raw_bson_ref()).unwrap();
            prop_assume!(key.as_bytes().len() <= MAX_PLAIN);
            let back = id_of(&key);
            prop_assert!(back.is_some(), "{:?}", id);
            prop_assert_eq!(key_of(&back.unwrap().as_raw_bson_ref()).unwrap(), key);
        }

        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let key = EntityKey(Arc::from(bytes));
            if let Some(id) = id_of(&key) {
                prop_assert_eq!(key_of(&id.as_raw_bson_ref()).unwrap(), key);
            }
        }
    }

    #[test]
    fn usual_ids_come_back_as_they_were() {
        let oid = ObjectId::from_bytes([7; 12]);
        for id in [
            rawbson!(5),
            rawbson!(-7),
            rawbson!(3_000_000_000_i64),
            rawbson!(2.5),
            rawbson!("ACC-0007"),
            rawbson!("a\0b"),
            RawBson::ObjectId(oid),
            RawBson::Document(rawdoc! { "a": 1, "b": ["x", { "c": true }] }),
        ] {
            let key = key_of(&id.as_raw_bson_ref()).unwrap();
            assert_eq!(id_of(&key), Some(id));
        }
        let key = key_of(&RawBsonRef::Double(7.0)).unwrap();
        assert_eq!(id_of(&key), Some(RawBson::Int32(7)), "the plainest type that holds it");
        let long = RawBson::String("x".repeat(2_000));
        assert_eq!(id_of(&key_of(&long.as_raw_bson_ref()).unwrap()), None);
    }
}
