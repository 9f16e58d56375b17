//! OP_MSG, as small as it can be: built once, patched for each operation.
//!
//! A [`Template`] is a whole message in which certain int64 values stand as marks; [`Template::patch`] writes over them in
//! place, so that an operation costs the generator a copy of eight bytes and two system calls.

use crate::Fallible;
use bson::{RawDocument, RawDocumentBuf};

/// Bytes of a message header.
pub(crate) const HEADER: usize = 16;
/// Bytes of header, flag bits and the kind byte of the first section.
const BODY_AT: usize = 21;
const OP_MSG: i32 = 2013;
/// Longer replies than this are nothing that the bench asked for.
const MAX_REPLY: usize = 48_000_000;

/// A prebuilt message and the places in it that change.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    /// Offsets of the values that stand for an `_id`, and by how much each is above the first.
    ids: Vec<(usize, i64)>,
    /// Offsets of the values that must differ from request to request.
    fresh: Vec<usize>,
}

/// Stands where an `_id` (or a group number) will be written; the document number `i` of a batch carries `ID_MARK + i`.
pub(crate) const ID_MARK: i64 = 0x5EED_1D00_0000_0000;
/// Stands where the request's number will be written: `txnNumber`, and the field by which a replacement differs.
pub(crate) const FRESH_MARK: i64 = 0x5EED_7C00_0000_0000;

impl Template {
    /// Builds the message from its body and, where there is one, a document sequence.
    pub(crate) fn new(body: &RawDocument, sequence: Option<(&str, &[RawDocumentBuf])>) -> Fallible<Self> {
        let bytes = encode(1, body, sequence)?;
        let batch = sequence.map_or(1, |(_, documents)| documents.len().max(1));
        let mut ids = Vec::with_capacity(batch);
        let mut fresh = Vec::new();
        for (at, window) in bytes.windows(8).enumerate() {
            let value = i64::from_le_bytes(window.try_into()?);
            if value == FRESH_MARK {
                fresh.push(at);
            } else if (ID_MARK..ID_MARK + i64::try_from(batch)?).contains(&value) {
                ids.push((at, value - ID_MARK));
            }
        }
        Ok(Self { bytes, ids, fresh })
    }

    /// Writes `first_id`, `first_id + 1`, … over the marks and the request's number over its header and the
    /// other marks.
    pub(crate) fn patch(&mut self, request: i32, first_id: i64) {
        put(&mut self.bytes, 4, &request.to_le_bytes());
        for &(at, above) in &self.ids {
            put(&mut self.bytes, at, &(first_id + above).to_le_bytes());
        }
        for &at in &self.fresh {
            put(&mut self.bytes, at, &i64::from(request).to_le_bytes());
        }
    }

    /// The message.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// One OP_MSG.
pub(crate) fn encode(
    request: i32,
    body: &RawDocument,
    sequence: Option<(&str, &[RawDocumentBuf])>,
) -> Fallible<Vec<u8>> {
    let mut out = vec![0; 4];
    for word in [request, 0, OP_MSG, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.push(0);
    out.extend_from_slice(body.as_bytes());
    if let Some((name, documents)) = sequence {
        let documents_len: usize = documents.iter().map(|d| d.as_bytes().len()).sum();
        let size = 4 + name.len() + 1 + documents_len;
        out.push(1);
        out.extend_from_slice(&i32::try_from(size)?.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        for document in documents {
            out.extend_from_slice(document.as_bytes());
        }
    }
    let len = i32::try_from(out.len())?;
    put(&mut out, 0, &len.to_le_bytes());
    Ok(out)
}

/// The length of the message whose first bytes are `bytes`; `None`: too short to know.
pub(crate) fn message_len(bytes: &[u8]) -> Fallible<Option<usize>> {
    let Some(prefix) = bytes.get(..4) else { return Ok(None) };
    let len = usize::try_from(i32::from_le_bytes(prefix.try_into()?))?;
    if !(HEADER..=MAX_REPLY).contains(&len) {
        return Err(format!("a reply says that it is {len} bytes long").into());
    }
    Ok(Some(len))
}

/// The body of an OP_MSG reply.
pub(crate) fn body(message: &[u8]) -> Fallible<&RawDocument> {
    let rest = message.get(BODY_AT..).ok_or("a reply without a body")?;
    let prefix = rest.get(..4).ok_or("a reply without a body")?;
    let len = usize::try_from(i32::from_le_bytes(prefix.try_into()?))?;
    let bytes = rest.get(..len).ok_or("a reply's body is cut")?;
    Ok(RawDocument::from_bytes(bytes)?)
}

/// Which request a reply answers.
pub(crate) fn response_to(message: &[u8]) -> Option<i32> {
    let word = message.get(8..12)?;
    Some(i32::from_le_bytes(word.try_into().ok()?))
}
