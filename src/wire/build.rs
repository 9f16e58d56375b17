//! `OP_MSG`, written.

use super::frame::{HEADER_LEN, Header, opcode};
use super::msg::{OpMsg, flag};
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bytes::{BufMut, Bytes, BytesMut};

/// Puts an `OP_MSG` together. Lengths are filled in by [`finish`](Self::finish); no checksum is written.
#[derive(Debug)]
pub struct Builder {
    buf: BytesMut,
    request_id: i32,
    response_to: i32,
}

impl Builder {
    /// A request with the sender's number and flags.
    pub fn request(request_id: i32, flags: u32) -> Self {
        Self::new(request_id, 0, flags)
    }

    /// A reply to `response_to`. Its own number is `request_id`.
    pub fn reply(request_id: i32, response_to: i32) -> Self {
        Self::new(request_id, response_to, 0)
    }

    /// All fields.
    pub fn new(request_id: i32, response_to: i32, flags: u32) -> Self {
        let mut buf = BytesMut::with_capacity(512);
        buf.put_bytes(0, HEADER_LEN);
        buf.put_u32_le(flags);
        Self { buf, request_id, response_to }
    }

    /// Adds the body section.
    #[must_use]
    pub fn body(mut self, document: &RawDocument) -> Self {
        self.buf.put_u8(0);
        self.buf.extend_from_slice(document.as_bytes());
        self
    }

    /// Adds a document sequence.
    #[must_use]
    pub fn sequence<I>(mut self, id: &str, documents: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        self.buf.put_u8(1);
        let at = self.buf.len();
        self.buf.put_u32_le(0);
        self.buf.extend_from_slice(id.as_bytes());
        self.buf.put_u8(0);
        for document in documents {
            self.buf.extend_from_slice(document.as_ref());
        }
        let size = u32::try_from(self.buf.len() - at).unwrap_or(u32::MAX);
        if let Some(slot) = self.buf.get_mut(at..at + 4) {
            slot.copy_from_slice(&size.to_le_bytes());
        }
        self
    }

    /// The whole message. Its length is the caller's to keep within the store's limit.
    pub fn finish(mut self) -> Bytes {
        let len = u32::try_from(self.buf.len()).unwrap_or(u32::MAX);
        let header = Header { len, request_id: self.request_id, response_to: self.response_to, opcode: opcode::MSG };
        if let Some(slot) = self.buf.get_mut(..HEADER_LEN) {
            slot.copy_from_slice(&header.encode());
        }
        self.buf.freeze()
    }
}

impl OpMsg {
    /// The same message with another body: same numbers and sequences, no checksum, `flags` as given.
    pub fn with_body(&self, body: &RawDocument, flags: u32) -> Bytes {
        let mut out = Builder::new(self.request_id(), self.response_to(), flags & !flag::CHECKSUM).body(body);
        for id in self.sequence_ids() {
            out = out.sequence(id, self.documents(id).unwrap_or_default());
        }
        out.finish()
    }
}

/// An unacknowledged write (`moreToCome`, `writeConcern.w: 0`) as one that is answered: `w` becomes 1, the flag goes. `None`: it
/// is one already. Some stores answer `moreToCome` all the same; so it never goes upstream.
///
/// # Errors
/// When the body is not well formed.
pub fn acknowledged(request: &OpMsg) -> bson::error::Result<Option<Bytes>> {
    let concern = request.body().get("writeConcern")?.and_then(RawBsonRef::as_document);
    let zero = match concern {
        Some(concern) => is_zero(concern.get("w")?),
        None => false,
    };
    if !zero && !request.more_to_come() {
        return Ok(None);
    }
    let mut body = without(request.body(), if zero { &["writeConcern"] } else { &[] })?;
    if let Some(concern) = concern.filter(|_| zero) {
        let mut changed = without(concern, &["w"])?;
        changed.append(cstr!("w"), 1);
        body.append(cstr!("writeConcern"), changed);
    }
    Ok(Some(request.with_body(&body, request.flags() & !flag::MORE_TO_COME)))
}

fn is_zero(value: Option<RawBsonRef<'_>>) -> bool {
    match value {
        Some(RawBsonRef::Int32(n)) => n == 0,
        Some(RawBsonRef::Int64(n)) => n == 0,
        Some(RawBsonRef::Double(n)) => n == 0.0,
        _ => false,
    }
}

/// Copies `document` without the fields that `drop` names.
///
/// # Errors
/// When the document is not well formed.
pub fn without(document: &RawDocument, drop: &[&str]) -> bson::error::Result<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    for element in document {
        let (key, value) = element?;
        if !drop.contains(&key.as_str()) {
            out.append(key, value);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Message};
    use super::*;
    use bson::rawdoc;

    fn parse(bytes: Bytes) -> OpMsg {
        OpMsg::parse(Message::from_bytes(bytes, Limits::default()).unwrap().unwrap()).unwrap()
    }

    #[test]
    fn an_unacknowledged_write_becomes_an_acknowledged_one() {
        let doc = rawdoc! { "_id": 1 };
        let body = rawdoc! { "insert": "c", "writeConcern": { "w": 0, "wtimeout": 5 }, "$db": "d" };
        let sent = Builder::request(4, flag::MORE_TO_COME).body(&body).sequence("documents", [doc.as_bytes()]).finish();
        let out = parse(acknowledged(&parse(sent)).unwrap().unwrap());
        assert_eq!((out.request_id(), out.flags()), (4, 0));
        assert_eq!(out.body(), &*rawdoc! { "insert": "c", "$db": "d", "writeConcern": { "wtimeout": 5, "w": 1 } });
        assert_eq!(out.documents("documents").unwrap(), [doc.as_bytes()]);
        let plain = Builder::request(4, 0).body(&rawdoc! { "insert": "c", "$db": "d" }).finish();
        assert!(acknowledged(&parse(plain)).unwrap().is_none());
    }
}
