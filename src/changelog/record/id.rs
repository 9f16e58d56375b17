//! A BSON value alone: its type byte, then its value bytes as they stand in a document.

use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

/// A document around one value with an empty name: length, type, name's NUL before it; NUL after it.
const BEFORE_VALUE: usize = 6;

/// Type byte and value bytes of an `_id`; the common types need no allocation.
#[derive(Clone, Debug)]
pub(super) enum IdBytes {
    ObjectId([u8; 13]),
    Int32([u8; 5]),
    Int64([u8; 9]),
    Other(Vec<u8>),
    None,
}

impl IdBytes {
    pub(super) fn of(value: &RawBson) -> Self {
        match value {
            RawBson::ObjectId(oid) => Self::ObjectId(tagged(0x07, &oid.bytes())),
            RawBson::Int32(n) => Self::Int32(tagged(0x10, &n.to_le_bytes())),
            RawBson::Int64(n) => Self::Int64(tagged(0x12, &n.to_le_bytes())),
            other => {
                let mut document = RawDocumentBuf::new();
                document.append(bson::raw::cstr!(""), other.as_raw_bson_ref());
                let bytes = document.as_bytes();
                let mut out = Vec::with_capacity(bytes.len());
                out.extend(bytes.get(4));
                out.extend_from_slice(bytes.get(BEFORE_VALUE..bytes.len().saturating_sub(1)).unwrap_or_default());
                Self::Other(out)
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::ObjectId(bytes) => bytes,
            Self::Int32(bytes) => bytes,
            Self::Int64(bytes) => bytes,
            Self::Other(bytes) => bytes,
            Self::None => &[],
        }
    }
}

fn tagged<const N: usize>(kind: u8, value: &[u8]) -> [u8; N] {
    let mut out = [kind; N];
    out.iter_mut().skip(1).zip(value).for_each(|(to, from)| *to = *from);
    out
}

/// The value, if `bytes` are exactly one.
pub(super) fn from_bytes(bytes: &[u8]) -> Option<RawBson> {
    let (kind, value) = bytes.split_first()?;
    match (kind, <[u8; 12]>::try_from(value)) {
        (0x07, Ok(oid)) => return Some(RawBson::ObjectId(bson::oid::ObjectId::from_bytes(oid))),
        (0x07, Err(_)) => return None,
        _ => {}
    }
    let len = i32::try_from(BEFORE_VALUE + value.len() + 1).ok()?;
    let mut document = Vec::with_capacity(BEFORE_VALUE + value.len() + 1);
    document.extend_from_slice(&len.to_le_bytes());
    document.extend_from_slice(&[*kind, 0]);
    document.extend_from_slice(value);
    document.push(0);
    let document = RawDocument::from_bytes(&document).ok()?;
    let mut elements = document.iter();
    let (_, first): (_, RawBsonRef<'_>) = elements.next()?.ok()?;
    elements.next().is_none().then(|| RawBson::from(first))
}
