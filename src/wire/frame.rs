//! The 16-byte header, and cutting whole messages out of a byte stream.
//!
//! A length prefix is only ever compared with a limit; memory is taken as bytes arrive.

use bytes::{Bytes, BytesMut};

/// Bytes of a message header.
pub const HEADER_LEN: usize = 16;

/// The largest message that mongod takes (`MaxMessageSizeBytes`).
pub const MAX_MESSAGE_BYTES: u32 = 48_000_000;

/// Opcodes of the protocol, also those that only legacy drivers send.
pub mod opcode {
    /// Reply to `OP_QUERY`.
    pub const REPLY: i32 = 1;
    /// Legacy update (removed in 5.1).
    pub const UPDATE: i32 = 2001;
    /// Legacy insert (removed in 5.1).
    pub const INSERT: i32 = 2002;
    /// Legacy query; today only for hello.
    pub const QUERY: i32 = 2004;
    /// Legacy `getMore` (removed in 5.1).
    pub const GET_MORE: i32 = 2005;
    /// Legacy delete (removed in 5.1).
    pub const DELETE: i32 = 2006;
    /// Legacy `killCursors` (removed in 5.1).
    pub const KILL_CURSORS: i32 = 2007;
    /// Internal command protocol (removed in 4.2).
    pub const COMMAND: i32 = 2010;
    /// A compressed message.
    pub const COMPRESSED: i32 = 2012;
    /// The protocol of today.
    pub const MSG: i32 = 2013;
}

/// What is wrong with a frame. There is no reply to such bytes: where the next message starts is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header says less than a header's length.
    #[error("message length {len} is below the 16 bytes of a header")]
    TooShort {
        /// What the header says.
        len: i32,
    },
    /// The header says more than the limit.
    #[error("message length {len} is above the limit of {max} bytes")]
    TooLong {
        /// What the header says.
        len: u32,
        /// The limit.
        max: u32,
    },
}

/// Bounds for messages of one direction of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message, header included, in bytes.
    pub max_message: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_message: MAX_MESSAGE_BYTES }
    }
}

/// The header of a message. `len` is known to be within the limits it was parsed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole message, header included.
    pub len: u32,
    /// The sender's number of this message.
    pub request_id: i32,
    /// The `request_id` that this message answers; 0 in requests.
    pub response_to: i32,
    /// See [`opcode`].
    pub opcode: i32,
}

impl Header {
    /// Reads a header. `Ok(None)`: fewer than 16 bytes are there.
    ///
    /// # Errors
    /// When the length is below 16 or above `limits`.
    pub fn parse(bytes: &[u8], limits: Limits) -> Result<Option<Self>, FrameError> {
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let [len, request_id, response_to, opcode] =
            [0, 4, 8, 12].map(|at| head.get(at..).and_then(i32_le).unwrap_or_default());
        let Ok(size) = u32::try_from(len) else { return Err(FrameError::TooShort { len }) };
        if size < 16 {
            return Err(FrameError::TooShort { len });
        }
        if size > limits.max_message {
            return Err(FrameError::TooLong { len: size, max: limits.max_message });
        }
        Ok(Some(Self { len: size, request_id, response_to, opcode }))
    }

    /// The 16 bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let words = [
            self.len.to_le_bytes(),
            self.request_id.to_le_bytes(),
            self.response_to.to_le_bytes(),
            self.opcode.to_le_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(words.as_flattened()) {
            *to = *from;
        }
        out
    }

    /// `len` as a `usize`.
    pub fn size(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }
}

/// A whole message: its header, and all of its bytes (header included).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The parsed header.
    pub header: Header,
    /// All bytes; `bytes.len() == header.size()`.
    pub bytes: Bytes,
}

impl Message {
    /// Takes the bytes of exactly one message.
    ///
    /// # Errors
    /// When the header is out of `limits`. `Ok(None)`: the length does not fit the bytes.
    pub fn from_bytes(bytes: Bytes, limits: Limits) -> Result<Option<Self>, FrameError> {
        let Some(header) = Header::parse(&bytes, limits)? else { return Ok(None) };
        Ok((header.size() == bytes.len()).then_some(Self { header, bytes }))
    }

    /// Cuts the first whole message off `buf`. `Ok(None)`: more bytes must come.
    ///
    /// # Errors
    /// When the header is out of `limits`.
    pub fn take(buf: &mut BytesMut, limits: Limits) -> Result<Option<Self>, FrameError> {
        let Some(header) = Header::parse(buf, limits)? else { return Ok(None) };
        if buf.len() < header.size() {
            return Ok(None);
        }
        Ok(Some(Self { header, bytes: buf.split_to(header.size()).freeze() }))
    }
}

/// The little-endian `i32` at the start of `bytes`.
pub(crate) fn i32_le(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk::<4>().map(|b| i32::from_le_bytes(*b))
}

/// The little-endian `u32` at the start of `bytes`.
pub(crate) fn u32_le(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))
}

/// Length of the BSON document at the start of `bytes`, if it lies wholly within them.
pub(crate) fn document_len(bytes: &[u8]) -> Option<usize> {
    let len = usize::try_from(i32_le(bytes)?).ok()?;
    (len >= 5 && len <= bytes.len()).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(len: i32) -> Vec<u8> {
        let mut out = len.to_le_bytes().to_vec();
        out.extend([7, 0, 0, 0, 9, 0, 0, 0, 0xdd, 0x07, 0, 0]);
        out
    }

    #[test]
    fn golden_header() {
        let parsed = Header::parse(&header(17), Limits::default()).unwrap().unwrap();
        assert_eq!(parsed, Header { len: 17, request_id: 7, response_to: 9, opcode: opcode::MSG });
        assert_eq!(parsed.encode().as_slice(), header(17));
    }

    #[test]
    fn limits_hold_before_anything_is_read() {
        let limits = Limits { max_message: 100 };
        assert_eq!(Header::parse(&header(15), limits), Err(FrameError::TooShort { len: 15 }));
        assert_eq!(Header::parse(&header(-1), limits), Err(FrameError::TooShort { len: -1 }));
        assert_eq!(Header::parse(&header(101), limits), Err(FrameError::TooLong { len: 101, max: 100 }));
        assert_eq!(Header::parse(header(100).split_at(15).0, limits), Ok(None));
    }

    #[test]
    fn messages_are_cut_one_by_one() {
        let mut buf = BytesMut::new();
        buf.extend_from_slice(&header(18));
        buf.extend_from_slice(&[1]);
        assert_eq!(Message::take(&mut buf, Limits::default()), Ok(None));
        buf.extend_from_slice(&[2]);
        buf.extend_from_slice(&header(16));
        let first = Message::take(&mut buf, Limits::default()).unwrap().unwrap();
        assert_eq!((first.bytes.len(), first.bytes.last()), (18, Some(&2)));
        assert_eq!(Message::take(&mut buf, Limits::default()).unwrap().unwrap().bytes.len(), 16);
        assert!(buf.is_empty());
    }
}
