//! The closed segments, for those who decide what may go: [`Changelog::trim`] removes whole ones.

use super::error::LogError;
use super::log::Changelog;
use super::segment::{self, HEADER_BYTES, Header};
use crate::types::Lsn;

/// A segment that no record is added to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first record.
    pub first: Lsn,
    /// Its last record.
    pub last: Lsn,
    /// Its bytes.
    pub bytes: u64,
    /// When it ended, milliseconds since 1970 by the sidecar's clock: none of its records is younger.
    pub ended_ms: i64,
}

/// The log by segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    /// The closed ones, oldest first.
    pub closed: Vec<Extent>,
    /// Bytes of the one that is written to.
    pub open_bytes: u64,
}

impl Changelog {
    /// The log by segments. Reads the header of each: when a segment ended is when the one after it was begun. Blocks on the disk.
    ///
    /// # Errors
    /// A header that is not what it was, or what the system said.
    pub fn extents(&self) -> Result<Extents, LogError> {
        let segments = self.shared.segments();
        let mut closed = Vec::with_capacity(segments.len());
        for (&(first, bytes), &(next, _)) in segments.iter().zip(segments.iter().skip(1)) {
            let ended_ms = self.begun_ms(next)?;
            closed.push(Extent { first, last: Lsn(next.0.saturating_sub(1)), bytes, ended_ms });
        }
        Ok(Extents { closed, open_bytes: segments.last().map_or(0, |(_, bytes)| *bytes) })
    }

    fn begun_ms(&self, first: Lsn) -> Result<i64, LogError> {
        let mut head = [0; HEADER_BYTES];
        let file = self.shared.open(first)?;
        let got = file.read_at(0, &mut head).map_err(LogError::io("read a segment"))?;
        let header = Header::decode(head.get(..got).unwrap_or_default());
        let header = header.map_err(|error| Header::told(error, &segment::name(first)))?;
        Ok(header.created_ms)
    }
}
