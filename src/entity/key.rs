//! The canonical form of an `_id`: [`key_of`].
//!
//! # Invariants
//! - Two `_id`s have equal keys if and only if the store takes them for one `_id` under the simple collation: numbers compare by value
//!   across int32, int64, double and decimal128 (also inside embedded documents), `-0.0` is 0, all NaN are one, Symbol is
//!   String; all other types are apart. Field order and names count, binary subtypes count, names of array elements do not.
//! - Keys of at most [`MAX_PLAIN`] bytes sort as the store sorts the `_id`s. A longer one is its first [`MAX_PLAIN`] bytes and the
//!   SHA-256 of all of it: still one key per `_id`, in the right place but for its neighbours with the same beginning.
//! - A malformed or too deep `_id` is an error, never a wrong key; nothing recurses deeper than [`MAX_DEPTH`].
//!
//! # Layout
//! A value is its class byte (the store's order of types, plus 2) and its payload:
//!
//! ```text
//! MinKey 1 · undefined 2 · null 7 · MaxKey 129    nothing
//! number 12                    see `number`
//! string, symbol 17 · code 62  the bytes, 00 as 00 FF, then 00 00
//! document 22                  for each field: class, name 00, payload; then 00
//! array 27                     for each element: class, payload; then 00
//! binary 32                    length (4 bytes), subtype, bytes
//! ObjectId 37                  12 bytes
//! boolean 42                   0 or 1
//! date 47                      milliseconds, 8 bytes, sign flipped
//! timestamp 49                 seconds, increment
//! regex 52                     pattern 00 options 00
//! DBPointer 57                 its BSON bytes
//! code with scope 67           code as a string, scope as a document without its class
//! ```
//! All integers have their big end first.

#![expect(clippy::big_endian_bytes, reason = "keys are bytes that sort as the values do")]

use super::number;
use crate::types::EntityKey;
use bson::spec::BinarySubtype;
use bson::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf};
use sha2::{Digest as _, Sha256};

/// The longest key that is kept whole.
pub const MAX_PLAIN: usize = 1024;

/// The deepest nesting of an `_id`, that of the store (`BSONDepth`).
pub const MAX_DEPTH: usize = 200;

/// Why an `_id` has no key. The class is *client*: the store would refuse the document as well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are no BSON.
    #[error("_id is malformed BSON: {detail}")]
    Malformed {
        /// What the parser said; no document contents.
        detail: String,
    },
    /// Documents or arrays in one another beyond [`MAX_DEPTH`].
    #[error("_id is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

impl From<bson::error::Error> for KeyError {
    fn from(error: bson::error::Error) -> Self {
        Self::Malformed { detail: error.to_string() }
    }
}

/// The canonical form of an `_id`.
///
/// # Errors
/// [`KeyError`] where the value is malformed or too deep.
pub fn key_of(id: &RawBsonRef<'_>) -> Result<EntityKey, KeyError> {
    let mut out = Vec::with_capacity(32);
    out.push(class(id));
    payload(&mut out, id, 0)?;
    if out.len() > MAX_PLAIN {
        let whole: [u8; 32] = Sha256::digest(&out).into();
        out.truncate(MAX_PLAIN);
        out.extend_from_slice(&whole);
    }
    Ok(EntityKey(out.into()))
}

/// The store's order of types (`canonicalizeBSONType`), plus 2.
fn class(value: &RawBsonRef<'_>) -> u8 {
    match value {
        RawBsonRef::MinKey => 1,
        RawBsonRef::Undefined => 2,
        RawBsonRef::Null => 7,
        RawBsonRef::Double(_) | RawBsonRef::Int32(_) | RawBsonRef::Int64(_) | RawBsonRef::Decimal128(_) => 12,
        RawBsonRef::String(_) | RawBsonRef::Symbol(_) => 17,
        RawBsonRef::Document(_) => 22,
        RawBsonRef::Array(_) => 27,
        RawBsonRef::Binary(_) => 32,
        RawBsonRef::ObjectId(_) => 37,
        RawBsonRef::Boolean(_) => 42,
        RawBsonRef::DateTime(_) => 47,
        RawBsonRef::Timestamp(_) => 49,
        RawBsonRef::RegularExpression(_) => 52,
        RawBsonRef::DbPointer(_) => 57,
        RawBsonRef::JavaScriptCode(_) => 62,
        RawBsonRef::JavaScriptCodeWithScope(_) => 67,
        RawBsonRef::MaxKey => 129,
    }
}

fn payload(out: &mut Vec<u8>, value: &RawBsonRef<'_>, depth: usize) -> Result<(), KeyError> {
    match value {
        RawBsonRef::MinKey | RawBsonRef::MaxKey | RawBsonRef::Null | RawBsonRef::Undefined => {}
        RawBsonRef::Int32(v) => number::integer(out, i64::from(*v)),
        RawBsonRef::Int64(v) => number::integer(out, *v),
        RawBsonRef::Double(v) => number::double(out, *v),
        RawBsonRef::Decimal128(v) => number::decimal(out, *v),
        RawBsonRef::String(v) | RawBsonRef::Symbol(v) | RawBsonRef::JavaScriptCode(v) => text(out, v),
        RawBsonRef::Document(v) => document(out, v, depth + 1)?,
        RawBsonRef::Array(v) => array(out, v, depth + 1)?,
        RawBsonRef::Binary(v) => {
            let inner = if v.subtype == BinarySubtype::BinaryOld { 4 } else { 0 };
            out.extend(u32::try_from(v.bytes.len() + inner).unwrap_or(u32::MAX).to_be_bytes());
            out.push(v.subtype.into());
            out.extend_from_slice(v.bytes);
        }
        RawBsonRef::ObjectId(v) => out.extend(v.bytes()),
        RawBsonRef::Boolean(v) => out.push(u8::from(*v)),
        RawBsonRef::DateTime(v) => {
            let mut ms = v.timestamp_millis().to_be_bytes();
            if let Some(first) = ms.first_mut() {
                *first ^= 0x80;
            }
            out.extend(ms);
        }
        RawBsonRef::Timestamp(v) => {
            out.extend(v.time.to_be_bytes());
            out.extend(v.increment.to_be_bytes());
        }
        RawBsonRef::RegularExpression(v) => {
            name(out, v.pattern.as_str());
            name(out, v.options.as_str());
        }
        RawBsonRef::DbPointer(_) => {
            let mut doc = RawDocumentBuf::new();
            doc.append(bson::raw::cstr!(""), *value);
            out.extend_from_slice(doc.as_bytes().get(6..).unwrap_or(&[]));
        }
        RawBsonRef::JavaScriptCodeWithScope(v) => {
            text(out, v.code);
            document(out, v.scope, depth + 1)?;
        }
    }
    Ok(())
}

fn document(out: &mut Vec<u8>, doc: &RawDocument, depth: usize) -> Result<(), KeyError> {
    if depth > MAX_DEPTH {
        return Err(KeyError::TooDeep);
    }
    for field in doc {
        let (field, value) = field?;
        out.push(class(&value));
        name(out, field.as_str());
        payload(out, &value, depth)?;
    }
    out.push(0);
    Ok(())
}

fn array(out: &mut Vec<u8>, array: &RawArray, depth: usize) -> Result<(), KeyError> {
    if depth > MAX_DEPTH {
        return Err(KeyError::TooDeep);
    }
    for value in array {
        let value = value?;
        out.push(class(&value));
        payload(out, &value, depth)?;
    }
    out.push(0);
    Ok(())
}

/// A name that cannot hold a zero byte.
fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

/// A string that can.
fn text(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}
