//! `OP_MSG`, read without copying: every part is a slice of the message's own bytes.
//!
//! `u32 flags | sections | [u32 crc32c]`; a section is `0 document` (exactly one) or
//! `1 i32 size, cstring id, documents…` (any number; mongod takes two). Documents are checked for their frame (length
//! and end) here; what is inside them is checked when it is read.

use super::frame::{HEADER_LEN, Limits, Message, document_len, i32_le, opcode, u32_le};
use bson::raw::{RawDocument, RawDocumentBuf};
use bytes::Bytes;
use std::ops::Range;
use std::sync::LazyLock;

/// Flag bits.
pub mod flag {
    /// A CRC-32C follows the sections.
    pub const CHECKSUM: u32 = 1;
    /// In a request: no reply is wanted. In a reply: another one follows without a request.
    pub const MORE_TO_COME: u32 = 2;
    /// The client takes several replies.
    pub const EXHAUST_ALLOWED: u32 = 1 << 16;
    /// Bits 0–15 must be understood; these of them are.
    pub(super) const UNKNOWN_REQUIRED: u32 = 0xffff & !(CHECKSUM | MORE_TO_COME);
}

/// Most document sequences in one message (mongod's own limit).
const MAX_SEQUENCES: usize = 2;

/// What is wrong with an `OP_MSG`. [`code`](Self::code) is mongod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MsgError {
    /// The message has another opcode.
    #[error("not an OP_MSG: opcode {0}")]
    Opcode(i32),
    /// It ends within a section.
    #[error("OP_MSG is truncated or a length in it is wrong, at byte {at}")]
    Truncated {
        /// Offset in the message.
        at: usize,
    },
    /// No section of kind 0.
    #[error("OP_MSG has no body section")]
    NoBody,
    /// Two sections of kind 0.
    #[error("OP_MSG has more than one body section")]
    TwoBodies,
    /// Two sequences with one name.
    #[error("OP_MSG has a document sequence twice")]
    DuplicateSequence,
    /// More sequences than mongod takes.
    #[error("OP_MSG has more than 2 document sequences")]
    TooManySequences,
    /// A required flag bit that is not known.
    #[error("OP_MSG has unknown required flag bits: {0:#x}")]
    UnknownFlags(u32),
    /// A section kind that is not known.
    #[error("OP_MSG has an unknown section kind {0}")]
    UnknownSection(u8),
    /// The checksum does not fit the bytes.
    #[error("OP_MSG checksum does not fit its bytes")]
    Checksum,
}

impl MsgError {
    /// The error code that mongod gives for it.
    pub fn code(self) -> i32 {
        match self {
            Self::NoBody => 40587,
            Self::TwoBodies => 40430,
            Self::DuplicateSequence => 40431,
            Self::TooManySequences => 233,
            Self::UnknownFlags(_) => 223,
            Self::UnknownSection(_) => 40432,
            Self::Opcode(_) | Self::Truncated { .. } | Self::Checksum => 17,
        }
    }

    /// The name of [`code`](Self::code).
    pub fn code_name(self) -> &'static str {
        match self {
            Self::NoBody => "Location40587",
            Self::TwoBodies => "Location40430",
            Self::DuplicateSequence => "Location40431",
            Self::TooManySequences => "TooManyDocumentSequences",
            Self::UnknownFlags(_) => "IllegalOpMsgFlag",
            Self::UnknownSection(_) => "Location40432",
            Self::Opcode(_) | Self::Truncated { .. } | Self::Checksum => "ProtocolError",
        }
    }
}

/// One document sequence.
#[derive(Clone, Debug)]
struct Sequence {
    id: Range<usize>,
    documents: Range<usize>,
}

/// A parsed `OP_MSG`. Clones are cheap and share the bytes.
///
/// Invariants: `body` is the frame of one BSON document; each sequence is a run of such frames; ids are UTF-8; the checksum,
/// where there was one, fitted.
#[derive(Clone, Debug)]
pub struct OpMsg {
    message: Message,
    flags: u32,
    body: Range<usize>,
    sequences: Vec<Sequence>,
}

impl OpMsg {
    /// A message of our own making; `None`: it is none.
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        let message = Message::from_bytes(bytes, Limits { max_message: u32::MAX }).ok()??;
        Self::parse(message).ok()
    }

    /// Reads the sections and checks the checksum, where there is one.
    ///
    /// # Errors
    /// See [`MsgError`].
    pub fn parse(message: Message) -> Result<Self, MsgError> {
        if message.header.opcode != opcode::MSG {
            return Err(MsgError::Opcode(message.header.opcode));
        }
        let bytes: &[u8] = &message.bytes;
        let flags = bytes.get(HEADER_LEN..).and_then(u32_le).ok_or(MsgError::Truncated { at: HEADER_LEN })?;
        if flags & flag::UNKNOWN_REQUIRED != 0 {
            return Err(MsgError::UnknownFlags(flags & flag::UNKNOWN_REQUIRED));
        }
        let end = check_crc(bytes, flags)?;
        let mut body = None;
        let mut sequences: Vec<Sequence> = Vec::new();
        let mut at = HEADER_LEN + 4;
        while at < end {
            let kind = bytes.get(at).copied().unwrap_or_default();
            let rest = bytes.get(at + 1..end).unwrap_or_default();
            match kind {
                0 => {
                    let len = document_frame(rest).ok_or(MsgError::Truncated { at })?;
                    if body.replace(at + 1..at + 1 + len).is_some() {
                        return Err(MsgError::TwoBodies);
                    }
                    at += 1 + len;
                }
                1 => {
                    if sequences.len() == MAX_SEQUENCES {
                        return Err(MsgError::TooManySequences);
                    }
                    let sequence = sequence(bytes, at + 1, end)?;
                    if sequences.iter().any(|s| bytes.get(s.id.clone()) == bytes.get(sequence.id.clone())) {
                        return Err(MsgError::DuplicateSequence);
                    }
                    at = sequence.documents.end;
                    sequences.push(sequence);
                }
                other => return Err(MsgError::UnknownSection(other)),
            }
        }
        let body = body.ok_or(MsgError::NoBody)?;
        Ok(Self { message, flags, body, sequences })
    }

    /// The sender's number of this message.
    pub fn request_id(&self) -> i32 {
        self.message.header.request_id
    }

    /// What this message answers; 0 in a request.
    pub fn response_to(&self) -> i32 {
        self.message.header.response_to
    }

    /// The flag bits, see [`flag`].
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// [`flag::MORE_TO_COME`].
    pub fn more_to_come(&self) -> bool {
        self.flags & flag::MORE_TO_COME != 0
    }

    /// All bytes of the message.
    pub fn bytes(&self) -> &Bytes {
        &self.message.bytes
    }

    /// The body document.
    pub fn body(&self) -> &RawDocument {
        document(self.message.bytes.get(self.body.clone()).unwrap_or_default())
    }

    /// The bytes of the body document, shared.
    pub fn body_bytes(&self) -> Bytes {
        self.message.bytes.slice(self.body.clone())
    }

    /// The command: the first key of the body, and its value where that is a string (a collection, mostly).
    pub fn command(&self) -> (&str, Option<&str>) {
        match self.body().iter().next() {
            Some(Ok((name, value))) => (name.as_str(), value.as_str()),
            _ => ("", None),
        }
    }

    /// `$db`.
    pub fn db(&self) -> Option<&str> {
        self.body().get_str("$db").ok()
    }

    /// Names of the document sequences, in order.
    pub fn sequence_ids(&self) -> impl Iterator<Item = &str> {
        self.sequences.iter().map(|s| self.id_of(s))
    }

    /// The documents of `field` (`documents`, `updates`, `deletes`, `ops`, `nsInfo`): from the sequence of that name or,
    /// where there is none, from the array in the body. `None`: neither is there, or the array holds something that is not a
    /// document. Each is a shared slice of this message.
    pub fn documents(&self, field: &str) -> Option<Vec<Bytes>> {
        if let Some(sequence) = self.sequences.iter().find(|s| self.id_of(s) == field) {
            return Some(self.split(sequence));
        }
        let array = self.body().get_array(field).ok()?;
        let share = |doc: &RawDocument| self.message.bytes.slice_ref(doc.as_bytes());
        array.into_iter().map(|item| item.ok()?.as_document().map(share)).collect()
    }

    fn id_of(&self, sequence: &Sequence) -> &str {
        self.message.bytes.get(sequence.id.clone()).and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default()
    }

    fn split(&self, sequence: &Sequence) -> Vec<Bytes> {
        let mut rest = self.message.bytes.slice(sequence.documents.clone());
        let mut out = Vec::new();
        while let Some(len) = document_len(&rest) {
            out.push(rest.split_to(len));
        }
        out
    }
}

/// Views bytes that are the frame of a document; an empty document where they are not.
pub fn document(bytes: &[u8]) -> &RawDocument {
    static EMPTY: LazyLock<RawDocumentBuf> = LazyLock::new(RawDocumentBuf::new);
    RawDocument::from_bytes(bytes).unwrap_or(&EMPTY)
}

/// Length of the document frame (length, and a zero at the end) that starts `bytes`.
fn document_frame(bytes: &[u8]) -> Option<usize> {
    let len = document_len(bytes)?;
    (bytes.get(len - 1) == Some(&0)).then_some(len)
}

/// Verifies the checksum where there is one; gives the end of the sections.
fn check_crc(bytes: &[u8], flags: u32) -> Result<usize, MsgError> {
    if flags & flag::CHECKSUM == 0 {
        return Ok(bytes.len());
    }
    let (sections, crc) = bytes.split_last_chunk::<4>().ok_or(MsgError::Truncated { at: bytes.len() })?;
    if sections.len() < HEADER_LEN + 4 {
        return Err(MsgError::Truncated { at: sections.len() });
    }
    if crc32c::crc32c(sections) != u32::from_le_bytes(*crc) {
        return Err(MsgError::Checksum);
    }
    Ok(sections.len())
}

/// Reads the section of kind 1 whose size stands at `at`.
fn sequence(bytes: &[u8], at: usize, end: usize) -> Result<Sequence, MsgError> {
    let wrong = MsgError::Truncated { at };
    let rest = bytes.get(at..end).ok_or(wrong)?;
    let size = i32_le(rest).and_then(|size| usize::try_from(size).ok()).ok_or(wrong)?;
    let section = rest.get(4..size).ok_or(wrong)?;
    let id_len = section.iter().position(|b| *b == 0).ok_or(wrong)?;
    let id = at + 4..at + 4 + id_len;
    std::str::from_utf8(bytes.get(id.clone()).unwrap_or_default()).map_err(|_utf8| wrong)?;
    let documents = id.end + 1..at + size;
    let mut rest = bytes.get(documents.clone()).ok_or(wrong)?;
    while !rest.is_empty() {
        let len = document_frame(rest).ok_or(wrong)?;
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(Sequence { id, documents })
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, Limits};
    use super::*;
    use bson::rawdoc;

    fn message(bytes: impl Into<Bytes>) -> Message {
        Message::from_bytes(bytes.into(), Limits::default()).unwrap().unwrap()
    }

    /// `{ping: 1, $db: "a"}` as another implementation writes it.
    const PING: &[u8] =
        b"\x2d\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x18\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x02\0\0\0a\0\0";

    #[test]
    fn golden_bytes() {
        let mut golden = PING.to_vec();
        golden[0] = u8::try_from(golden.len()).unwrap();
        golden[21] = u8::try_from(golden.len() - 21).unwrap();
        let parsed = OpMsg::parse(message(golden.clone())).unwrap();
        assert_eq!((parsed.command(), parsed.db(), parsed.request_id()), (("ping", None), Some("a"), 1));
        let built = Builder::request(1, 0).body(&rawdoc! { "ping": 1, "$db": "a" }).finish();
        assert_eq!(built, golden);
    }

    #[test]
    fn sequences_before_and_after_the_body_and_arrays_in_it() {
        let docs = [rawdoc! { "_id": 1 }, rawdoc! { "_id": 2, "x": "y" }];
        let after = Builder::request(5, flag::MORE_TO_COME)
            .body(&rawdoc! { "insert": "c", "$db": "d" })
            .sequence("documents", docs.iter().map(|d| d.as_bytes()))
            .finish();
        let before = Builder::request(5, 0)
            .sequence("documents", docs.iter().map(|d| d.as_bytes()))
            .body(&rawdoc! { "insert": "c", "$db": "d" })
            .finish();
        let inside = Builder::request(5, 0)
            .body(&rawdoc! { "insert": "c", "documents": [docs[0].clone(), docs[1].clone()], "$db": "d" })
            .finish();
        for bytes in [after, before, inside] {
            let parsed = OpMsg::parse(message(bytes)).unwrap();
            let found = parsed.documents("documents").unwrap();
            assert_eq!(
                found.iter().map(|d| &d[..]).collect::<Vec<_>>(),
                docs.iter().map(|d| d.as_bytes()).collect::<Vec<_>>()
            );
            assert_eq!(parsed.command(), ("insert", Some("c")));
            assert!(parsed.documents("updates").is_none());
        }
    }

    #[test]
    fn checksum_is_verified() {
        let mut bytes = Builder::request(1, flag::CHECKSUM).body(&rawdoc! { "ping": 1, "$db": "a" }).finish().to_vec();
        let len = u32::try_from(bytes.len() + 4).unwrap();
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        assert_eq!(OpMsg::parse(message(bytes.clone())).unwrap().command().0, "ping");
        bytes[26] ^= 1;
        assert_eq!(OpMsg::parse(message(bytes)).unwrap_err(), MsgError::Checksum);
    }

    #[test]
    fn wrong_messages_are_told() {
        let doc = rawdoc! { "ping": 1 };
        let parse = |b: Bytes| OpMsg::parse(message(b)).unwrap_err();
        let none: [&[u8]; 0] = [];
        assert_eq!(parse(Builder::request(1, 0).sequence("a", none).finish()), MsgError::NoBody);
        assert_eq!(parse(Builder::request(1, 0).body(&doc).body(&doc).finish()), MsgError::TwoBodies);
        assert_eq!(parse(Builder::request(1, 8).body(&doc).finish()), MsgError::UnknownFlags(8));
        let twice = Builder::request(1, 0).body(&doc).sequence("a", none).sequence("a", none).finish();
        assert_eq!(parse(twice), MsgError::DuplicateSequence);
        let three =
            Builder::request(1, 0).body(&doc).sequence("a", none).sequence("b", none).sequence("c", none).finish();
        assert_eq!(parse(three), MsgError::TooManySequences);
        let mut kind = Builder::request(1, 0).body(&doc).finish().to_vec();
        kind[20] = 2;
        assert_eq!(parse(kind.into()), MsgError::UnknownSection(2));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_answer(mut tail in proptest::collection::vec(proptest::num::u8::ANY, 4..200), flags in 0_u8..8, kind in 0_u8..3) {
            tail[..4].copy_from_slice(&[flags & 3, 0, flags >> 2, 0]);
            if let Some(k) = tail.get_mut(4) { *k = kind; }
            let len = u32::try_from(tail.len() + 16).unwrap();
            let mut bytes = super::super::Header { len, request_id: 1, response_to: 0, opcode: opcode::MSG }.encode().to_vec();
            bytes.extend(tail);
            if let Ok(parsed) = OpMsg::parse(message(bytes)) {
                parsed.command();
                parsed.db();
                for id in parsed.sequence_ids() { parsed.documents(id); }
                parsed.documents("documents");
            }
        }

        #[test]
        fn a_flipped_byte_gives_an_answer(at in 16_usize..120, bit in 0_u8..8) {
            let docs = [rawdoc! { "_id": 1, "a": [1, 2] }, rawdoc! { "_id": 2, "x": "y" }];
            let mut bytes = Builder::request(5, 0).body(&rawdoc! { "insert": "c", "$db": "d" })
                .sequence("documents", docs.iter().map(|d| d.as_bytes())).finish().to_vec();
            if let Some(b) = bytes.get_mut(at) { *b ^= 1 << bit; }
            if let Ok(parsed) = OpMsg::parse(message(bytes)) { parsed.documents("documents"); parsed.command(); }
        }
    }
}
