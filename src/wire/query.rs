//! `OP_QUERY` and `OP_REPLY`: what drivers of before 2026 say hello with.
//!
//! `OP_QUERY`: `i32 flags, cstring db.$cmd, i32 skip, i32 return, document [, document]`.
//! `OP_REPLY`: `i32 flags, i64 cursor, i32 from, i32 count, documents…`.

use super::frame::{HEADER_LEN, Header, Message, document_len, opcode};
use super::msg::document;
use bson::raw::RawDocument;
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;

/// Where the documents of an `OP_REPLY` start.
const REPLY_DOCUMENTS: usize = HEADER_LEN + 20;

/// `QueryFailure` of the reply flags.
const QUERY_FAILURE: u32 = 2;

/// A parsed `OP_QUERY`.
#[derive(Clone, Debug)]
pub struct OpQuery {
    message: Message,
    collection: Range<usize>,
    document: Range<usize>,
}

impl OpQuery {
    /// Reads it. `None`: it is no well-framed `OP_QUERY`.
    pub fn parse(message: Message) -> Option<Self> {
        if message.header.opcode != opcode::QUERY {
            return None;
        }
        let start = HEADER_LEN + 4;
        let len = message.bytes.get(start..)?.iter().position(|b| *b == 0)?;
        let collection = start..start + len;
        std::str::from_utf8(message.bytes.get(collection.clone())?).ok()?;
        let at = collection.end + 9;
        let size = document_len(message.bytes.get(at..)?)?;
        RawDocument::from_bytes(message.bytes.get(at..at + size)?).ok()?;
        Some(Self { message, collection, document: at..at + size })
    }

    /// `db.collection`; commands go to `db.$cmd`.
    pub fn collection(&self) -> &str {
        self.message.bytes.get(self.collection.clone()).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }

    /// The database.
    pub fn db(&self) -> &str {
        self.collection().split_once('.').map_or("", |(db, _)| db)
    }

    /// Whether it carries a command.
    pub fn is_command(&self) -> bool {
        self.collection().ends_with(".$cmd")
    }

    /// The command document; what stands inside `$query` where a driver wraps it.
    pub fn body(&self) -> &RawDocument {
        let outer = document(self.message.bytes.get(self.document.clone()).unwrap_or_default());
        match outer.iter().next() {
            Some(Ok((key, value))) if matches!(key.as_str(), "$query" | "query") => {
                value.as_document().unwrap_or(outer)
            }
            _ => outer,
        }
    }

    /// The command's name.
    pub fn command(&self) -> &str {
        match self.body().iter().next() {
            Some(Ok((key, _))) => key.as_str(),
            _ => "",
        }
    }

    /// The message's number.
    pub fn request_id(&self) -> i32 {
        self.message.header.request_id
    }

    /// All bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.message.bytes
    }

    /// The same query with another command document (unwrapped).
    pub fn with_body(&self, body: &RawDocument) -> Bytes {
        let mut out = BytesMut::with_capacity(self.message.bytes.len());
        out.extend_from_slice(self.message.bytes.get(..self.document.start).unwrap_or_default());
        out.extend_from_slice(body.as_bytes());
        finish(out, self.request_id(), 0, opcode::QUERY)
    }
}

/// A parsed `OP_REPLY` with its first document.
#[derive(Clone, Debug)]
pub struct OpReply {
    message: Message,
    document: Range<usize>,
}

impl OpReply {
    /// Reads it. `None`: it is no well-framed `OP_REPLY` with a document.
    pub fn parse(message: Message) -> Option<Self> {
        if message.header.opcode != opcode::REPLY {
            return None;
        }
        let size = document_len(message.bytes.get(REPLY_DOCUMENTS..)?)?;
        let document = REPLY_DOCUMENTS..REPLY_DOCUMENTS + size;
        RawDocument::from_bytes(message.bytes.get(document.clone())?).ok()?;
        Some(Self { message, document })
    }

    /// The document.
    pub fn body(&self) -> &RawDocument {
        document(self.message.bytes.get(self.document.clone()).unwrap_or_default())
    }

    /// The same reply with another document.
    pub fn with_body(&self, body: &RawDocument) -> Bytes {
        let mut out = BytesMut::with_capacity(self.message.bytes.len());
        out.extend_from_slice(self.message.bytes.get(..REPLY_DOCUMENTS).unwrap_or_default());
        out.extend_from_slice(body.as_bytes());
        let header = self.message.header;
        finish(out, header.request_id, header.response_to, opcode::REPLY)
    }
}

/// An `OP_REPLY` of our own with one document; `failed` sets `QueryFailure`.
pub fn reply(request_id: i32, response_to: i32, body: &RawDocument, failed: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(REPLY_DOCUMENTS + body.as_bytes().len());
    out.put_bytes(0, HEADER_LEN);
    out.put_u32_le(if failed { QUERY_FAILURE } else { 0 });
    out.put_u64_le(0);
    out.put_u32_le(0);
    out.put_u32_le(1);
    out.extend_from_slice(body.as_bytes());
    finish(out, request_id, response_to, opcode::REPLY)
}

fn finish(mut out: BytesMut, request_id: i32, response_to: i32, opcode: i32) -> Bytes {
    let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let header = Header { len, request_id, response_to, opcode };
    if let Some(slot) = out.get_mut(..HEADER_LEN) {
        slot.copy_from_slice(&header.encode());
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::*;
    use bson::rawdoc;

    fn message(bytes: impl Into<Bytes>) -> Message {
        Message::from_bytes(bytes.into(), Limits::default()).unwrap().unwrap()
    }

    fn query(collection: &str, body: &RawDocument) -> Bytes {
        let mut out = BytesMut::new();
        out.put_bytes(0, HEADER_LEN);
        out.put_u32_le(4);
        out.extend_from_slice(collection.as_bytes());
        out.put_u8(0);
        out.put_u32_le(0);
        out.put_i32_le(-1);
        out.extend_from_slice(body.as_bytes());
        finish(out, 3, 0, opcode::QUERY)
    }

    #[test]
    fn query_plain_and_wrapped() {
        let plain = OpQuery::parse(message(query("admin.$cmd", &rawdoc! { "isMaster": 1 }))).unwrap();
        assert_eq!((plain.command(), plain.db(), plain.is_command()), ("isMaster", "admin", true));
        let wrapped = rawdoc! { "$query": { "ismaster": 1 }, "$readPreference": { "mode": "primary" } };
        let wrapped = OpQuery::parse(message(query("admin.$cmd", &wrapped))).unwrap();
        assert_eq!(wrapped.command(), "ismaster");
        let again = OpQuery::parse(message(plain.with_body(&rawdoc! { "hello": 1 }))).unwrap();
        assert_eq!((again.command(), again.request_id()), ("hello", 3));
        assert!(!OpQuery::parse(message(query("d.c", &rawdoc! {}))).unwrap().is_command());
    }

    #[test]
    fn reply_keeps_its_head() {
        let first = OpReply::parse(message(reply(9, 3, &rawdoc! { "ok": 1.0 }, false))).unwrap();
        let again = OpReply::parse(message(first.with_body(&rawdoc! { "ok": 1.0, "me": "a" }))).unwrap();
        assert_eq!(again.body().get_str("me").unwrap(), "a");
        assert_eq!((again.message.header.request_id, again.message.header.response_to), (9, 3));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_answer(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..120), reply in proptest::bool::ANY) {
            let len = u32::try_from(tail.len() + 16).unwrap();
            let opcode = if reply { opcode::REPLY } else { opcode::QUERY };
            let mut bytes = Header { len, request_id: 1, response_to: 0, opcode }.encode().to_vec();
            bytes.extend(tail);
            let _ = OpQuery::parse(message(bytes.clone())).map(|q| q.command().len());
            let _ = OpReply::parse(message(bytes)).map(|r| r.body().iter().count());
        }
    }
}
