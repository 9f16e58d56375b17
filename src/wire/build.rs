//! `OP_MSG`, written.

use super::frame::{HEADER_LEN, Header, opcode};
use super::msg::{OpMsg, flag};
use bson::raw::{RawDocument, RawDocumentBuf};
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
