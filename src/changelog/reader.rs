//! Reading durable records: in order, or one at its place.

use super::error::LogError;
use super::frame::{self, FRAME_HEAD_BYTES, Parsed};
use super::record::{self, Head, Stamp};
use super::segment::{self, Frames, HEADER_BYTES, Step};
use super::shared::Shared;
use crate::disk::DiskFile;
use crate::types::{Committed, Lsn, Record};
use bytes::Bytes;
use std::sync::Arc;

/// How much of a frame is read before its length is known.
const GUESS_BYTES: usize = 4096;

/// A record's [`Head`] and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordHead {
    /// What it says, in short.
    pub head: Head,
    /// Offset of its frame in its segment, in bytes.
    pub offset: u64,
    /// Bytes of its frame.
    pub bytes: u64,
}

/// Reads durable records in order and follows the live tail. Checks each checksum.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    next: Lsn,
    open: Option<Open>,
}

/// The segment being read.
#[derive(Debug)]
struct Open {
    first: Lsn,
    file: Box<dyn DiskFile>,
    frames: Frames,
}

/// An intact frame with the number that was asked for.
struct Found {
    segment: Lsn,
    offset: u64,
    payload: Bytes,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, from: Lsn) -> Self {
        Self { shared, next: from.max(Lsn(1)), open: None }
    }

    /// The number of the record that comes next.
    pub fn position(&self) -> Lsn {
        self.next
    }

    /// The next record; `None`: it is not durable yet (ask again after [`Changelog::subscribe`](super::Changelog::subscribe)
    /// told of it). Its images are slices of the read buffer, not copies.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Trimmed`], [`LogError::Io`]. The reader stays where it is.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator that ended must not go on; this one follows the tail"
    )]
    pub fn next(&mut self) -> Result<Option<Record>, LogError> {
        let Some(found) = self.find()? else { return Ok(None) };
        self.decoded(&found, record::decode_shared(&found.payload)).map(Some)
    }

    /// As [`next`](Self::next), with the record's place.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_committed(&mut self) -> Result<Option<Committed>, LogError> {
        let Some(found) = self.find()? else { return Ok(None) };
        let record = self.decoded(&found, record::decode_shared(&found.payload))?;
        Ok(Some(Committed { record: Arc::new(record), offset: found.offset }))
    }

    /// As [`next`](Self::next), but only what a record says in short.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_head(&mut self) -> Result<Option<RecordHead>, LogError> {
        let Some(found) = self.find()? else { return Ok(None) };
        let head = self.decoded(&found, record::head(&found.payload))?;
        let bytes = (FRAME_HEAD_BYTES + found.payload.len()) as u64;
        Ok(Some(RecordHead { head, offset: found.offset, bytes }))
    }

    /// Steps over a decoded record, or says where the bytes are that are none.
    fn decoded<T>(&mut self, found: &Found, result: Result<T, record::RecordError>) -> Result<T, LogError> {
        match result {
            Ok(value) => {
                self.next = self.next.next();
                Ok(value)
            }
            Err(error) => {
                self.open = None;
                Err(LogError::undecodable(segment::name(found.segment), found.offset, &error))
            }
        }
    }

    /// The frame of the next record, if it is durable.
    fn find(&mut self) -> Result<Option<Found>, LogError> {
        if self.next > self.shared.tail() {
            return Ok(None);
        }
        let result = self.find_durable();
        if result.is_err() {
            self.open = None;
        }
        result.map(Some)
    }

    fn find_durable(&mut self) -> Result<Found, LogError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.enter()?,
        };
        loop {
            let read = |offset: u64, buf: &mut [u8]| open.file.read_at(offset, buf);
            match open.frames.step(&read).map_err(LogError::io("read a segment"))? {
                Step::Frame { stamp, .. } if stamp.lsn < self.next => {}
                Step::Frame { offset, stamp, payload } if stamp.lsn == self.next => {
                    let segment = open.first;
                    self.open = Some(open);
                    return Ok(Found { segment, offset, payload });
                }
                Step::Frame { offset, stamp, .. } => {
                    let fact = format!("record {} stands where {} should", stamp.lsn, self.next);
                    return Err(LogError::damaged(segment::name(open.first), offset, fact));
                }
                Step::Bad { offset, fact } => return Err(LogError::damaged(segment::name(open.first), offset, fact)),
                Step::End => open = self.go_on(open)?,
            }
        }
    }

    /// Opens the segment that holds the next record.
    fn enter(&self) -> Result<Open, LogError> {
        let place = self.shared.place(self.next)?;
        let file = self.shared.open(place.first)?;
        Ok(Open { first: place.first, file, frames: Frames::new(HEADER_BYTES as u64, place.bytes) })
    }

    /// At the end of what was known of a segment: there is more of it now, or the next one.
    fn go_on(&self, mut open: Open) -> Result<Open, LogError> {
        let end = open.frames.offset();
        let ends_early = || {
            let fact = format!("record {} is not there", self.next);
            LogError::damaged(segment::name(open.first), end, fact)
        };
        match self.shared.place_of(open.first) {
            Some(place) if place.bytes > end => {
                open.frames.limit = place.bytes;
                Ok(open)
            }
            Some(place) if place.following == Some(self.next) => self.enter(),
            Some(_) => Err(ends_early()),
            // Retention removed it under us; what comes next may still be there.
            None => self.enter(),
        }
    }
}

/// Reads one record at its place.
pub(super) fn read_at(shared: &Shared, lsn: Lsn, offset: u64) -> Result<Record, LogError> {
    let not_there = |fact: &str| LogError::NotThere { lsn, offset, fact: fact.to_owned() };
    if lsn > shared.tail() || lsn == Lsn::ZERO {
        return Err(not_there("it is not durable yet"));
    }
    let place = shared.place(lsn)?;
    if offset < HEADER_BYTES as u64 || offset >= place.bytes {
        return Err(not_there("the segment does not reach there"));
    }
    let file = shared.file(place.first)?;
    let name = || segment::name(place.first);
    let payload = read_frame(&*file, offset, place.bytes, &name)?;
    let stamp: Stamp = record::stamp(&payload).map_err(|e| LogError::undecodable(name(), offset, &e))?;
    if stamp.lsn != lsn {
        return Err(not_there(&format!("record {} is there", stamp.lsn)));
    }
    record::decode_shared(&payload).map_err(|e| LogError::undecodable(name(), offset, &e))
}

fn read_frame(file: &dyn DiskFile, offset: u64, end: u64, name: &dyn Fn() -> String) -> Result<Bytes, LogError> {
    let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(GUESS_BYTES)];
    let mut have = 0;
    loop {
        let room = bytes.get_mut(have..).unwrap_or_default();
        have += file.read_at(offset + have as u64, room).map_err(LogError::io("read a segment"))?;
        let fact = match frame::parse(bytes.get(..have).unwrap_or_default()) {
            Parsed::Frame(payload) => {
                let end = FRAME_HEAD_BYTES + payload.len();
                return Ok(Bytes::from(bytes).slice(FRAME_HEAD_BYTES..end));
            }
            Parsed::Needs(needs) if have == bytes.len() && needs <= left && needs > have => {
                bytes.resize(needs, 0);
                continue;
            }
            Parsed::Needs(_) => "the frame ends early".to_owned(),
            Parsed::Bad(bad) => bad.to_string(),
        };
        return Err(LogError::damaged(name(), offset, fact));
    }
}
