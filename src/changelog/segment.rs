//! One segment file: its name, its header, and walking its frames. The layout is told in `FORMAT.md`.
//!
//! Promises: nothing is allocated on the word of a length prefix beyond the bytes that are there.

use super::error::LogError;
use super::frame::{self, BadFrame, Parsed, u32_at, u64_at};
use super::record::{self, Stamp};
use crate::types::{Epoch, Hlc, LogId, Lsn, Record};
use bytes::{Bytes, BytesMut};
use std::io;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 76;

/// The version of the format that this program writes.
pub const VERSION: u16 = 1;

/// Numbers above this are no numbers of records (half a million years at a million a second).
const MAX_LSN: u64 = 1 << 62;

const MAGIC: &[u8; 8] = b"TIDELOG\n";

/// How much is read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The log it belongs to.
    pub log_id: LogId,
    /// Generation of the log when the segment was made.
    pub epoch: Epoch,
    /// Number of its first record.
    pub first: Lsn,
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
    /// Length of the segment before it in bytes; 0 for the first one of a log.
    pub previous_bytes: u64,
    /// Clock of the last record before it.
    pub previous_hlc: Hlc,
    /// Number of the first record of the segment before it; 0 for the first one of a log.
    pub previous_first: Lsn,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file is shorter than a header.
    #[error("the header ends early")]
    Short,
    /// Other magic bytes.
    #[error("this is no segment of a changelog")]
    Magic,
    /// The checksum does not match.
    #[error("the header's checksum does not match")]
    Checksum,
    /// A first record that cannot be.
    #[error("it says that it starts with record {0}")]
    First(Lsn),
    /// A version that we do not know.
    #[error("format version {0}")]
    Version(u16),
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(HEADER_BYTES).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&self.log_id.0);
        bytes.extend_from_slice(&self.first.0.to_le_bytes());
        bytes.extend_from_slice(&self.created_ms.to_le_bytes());
        bytes.extend_from_slice(&self.previous_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.previous_hlc.0.to_le_bytes());
        bytes.extend_from_slice(&self.previous_first.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let mut out = [0; HEADER_BYTES];
        debug_assert_eq!(bytes.len(), HEADER_BYTES);
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        out
    }

    /// Reads a header from the beginning of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it. The version is looked at only where the checksum holds.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(HeaderError::Short)?;
        if !bytes.starts_with(MAGIC) {
            return Err(HeaderError::Magic);
        }
        let covered = bytes.get(..HEADER_BYTES - 4).ok_or(HeaderError::Short)?;
        if crc32c::crc32c(covered) != u32_at(bytes, HEADER_BYTES - 4) {
            return Err(HeaderError::Checksum);
        }
        let version = u16::try_from(u32_at(bytes, 8) & 0xffff).unwrap_or(0);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let first = Lsn(u64_at(bytes, 32));
        if first == Lsn::ZERO || first.0 > MAX_LSN {
            return Err(HeaderError::First(first));
        }
        let log_id = bytes.get(16..).and_then(<[u8]>::first_chunk).copied().ok_or(HeaderError::Short)?;
        Ok(Self {
            log_id: LogId(log_id),
            epoch: Epoch(u32_at(bytes, 12)),
            first,
            created_ms: u64_at(bytes, 40).cast_signed(),
            previous_bytes: u64_at(bytes, 48),
            previous_hlc: Hlc(u64_at(bytes, 56)),
            previous_first: Lsn(u64_at(bytes, 64)),
        })
    }

    pub(super) fn told(error: HeaderError, name: &str) -> LogError {
        match error {
            HeaderError::Version(found) => LogError::Version { file: name.to_owned(), found, known: VERSION },
            other => LogError::damaged(name, 0, other.to_string()),
        }
    }
}

/// The file name of the segment whose first record is `first`: names sort as numbers do.
pub fn name(first: Lsn) -> String {
    format!("seg-{:020}.tdl", first.0)
}

/// The first lsn that a file name tells; `None`: not the name of a segment.
pub fn first_of(name: &str) -> Option<Lsn> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".tdl")?;
    let number = if digits.len() == 20 { digits.parse().ok()? } else { return None };
    Some(Lsn(number)).filter(|lsn| (1..=MAX_LSN).contains(&lsn.0))
}

/// Reads at an offset until the buffer is full or the file ends.
pub(super) type ReadAt<'a> = dyn Fn(u64, &mut [u8]) -> io::Result<usize> + 'a;

/// A walk over frames.
#[derive(Debug)]
pub(super) struct Frames {
    /// Offset in the file of the first byte in `buf`.
    offset: u64,
    buf: BytesMut,
    /// Nothing at or after this offset is looked at.
    pub(super) limit: u64,
}

/// What [`Frames::step`] found.
#[derive(Debug)]
pub(super) enum Step {
    /// A whole, intact frame.
    Frame {
        /// Of the frame in the file.
        offset: u64,
        stamp: Stamp,
        payload: Bytes,
    },
    /// The limit, between two frames.
    End,
    /// What stands here is no whole frame of a record.
    Bad { offset: u64, fact: String },
}

impl Frames {
    /// Starts at `offset` and looks at nothing from `limit` on.
    pub(super) fn new(offset: u64, limit: u64) -> Self {
        Self { offset, buf: BytesMut::new(), limit }
    }

    /// Where the next frame starts.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame. After `Bad` it stays where it is.
    pub(super) fn step(&mut self, read: &ReadAt<'_>) -> io::Result<Step> {
        let mut needs = frame::FRAME_HEAD_BYTES;
        loop {
            if self.offset >= self.limit {
                return Ok(Step::End);
            }
            if !self.fill(needs, read)? {
                return Ok(self.bad("the frame ends early"));
            }
            let len = match frame::parse(&self.buf) {
                Parsed::Needs(more) => {
                    needs = more;
                    continue;
                }
                Parsed::Bad(BadFrame::Length(len)) => return Ok(self.bad(&BadFrame::Length(len).to_string())),
                Parsed::Bad(bad) => return Ok(self.bad(&bad.to_string())),
                Parsed::Frame(payload) => match record::stamp(payload) {
                    Ok(stamp) => (stamp, payload.len()),
                    Err(e) => return Ok(self.bad(&e.to_string())),
                },
            };
            let (stamp, payload_bytes) = len;
            let offset = self.offset;
            let whole = frame::FRAME_HEAD_BYTES + payload_bytes;
            let payload = self.buf.split_to(whole).freeze().slice(frame::FRAME_HEAD_BYTES..);
            self.offset += whole as u64;
            return Ok(Step::Frame { offset, stamp, payload });
        }
    }

    fn bad(&self, fact: &str) -> Step {
        Step::Bad { offset: self.offset, fact: fact.to_owned() }
    }

    /// Sees to it that `needs` bytes are in the buffer; false: they are not there before the limit.
    fn fill(&mut self, needs: usize, read: &ReadAt<'_>) -> io::Result<bool> {
        if self.buf.len() >= needs {
            return Ok(true);
        }
        let left = usize::try_from(self.limit - self.offset).unwrap_or(usize::MAX);
        if needs > left {
            return Ok(false);
        }
        let have = self.buf.len();
        let want = needs.max(CHUNK_BYTES).min(left);
        self.buf.resize(want, 0);
        let got = read(self.offset + have as u64, self.buf.get_mut(have..).unwrap_or_default());
        self.buf.truncate(have + got.as_ref().map_or(0, |n| *n));
        got?;
        Ok(self.buf.len() >= needs)
    }
}

/// What [`scan`] found in the bytes of one segment.
#[derive(Debug)]
pub struct Scan {
    /// The header.
    pub header: Header,
    /// Its intact records from the start, with dense numbers.
    pub records: Vec<Record>,
    /// Offset after the last of them.
    pub end: u64,
    /// What is wrong at `end`; `None`: the bytes end there.
    pub bad: Option<String>,
}

/// Walks a whole segment in memory: for tools and fuzzing. Never panics, whatever the bytes.
///
/// # Errors
/// The header is not sound.
pub fn scan(bytes: &[u8]) -> Result<Scan, HeaderError> {
    let header = Header::decode(bytes)?;
    let read = |offset: u64, buf: &mut [u8]| {
        let from = usize::try_from(offset).ok().and_then(|o| bytes.get(o..)).unwrap_or_default();
        let n = from.len().min(buf.len());
        buf.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        Ok(n)
    };
    let mut frames = Frames::new(HEADER_BYTES as u64, bytes.len() as u64);
    let mut found = Scan { header, records: Vec::new(), end: HEADER_BYTES as u64, bad: None };
    let mut expected = header.first;
    loop {
        match frames.step(&read) {
            Ok(Step::Frame { stamp, payload, .. }) => {
                if stamp.lsn != expected {
                    found.bad = Some(format!("record {} stands where {expected} should", stamp.lsn));
                    return Ok(found);
                }
                match record::decode_shared(&payload) {
                    Ok(record) => found.records.push(record),
                    Err(e) => {
                        found.bad = Some(e.to_string());
                        return Ok(found);
                    }
                }
                expected = expected.next();
                found.end = frames.offset();
            }
            Ok(Step::End) => return Ok(found),
            Ok(Step::Bad { fact, .. }) => {
                found.bad = Some(fact);
                return Ok(found);
            }
            Err(e) => {
                found.bad = Some(e.to_string());
                return Ok(found);
            }
        }
    }
}
