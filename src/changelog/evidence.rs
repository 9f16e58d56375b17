//! Behind a bad frame: is there a good one that says the bad one had been durable?

use super::frame::{self, FRAME_HEAD_BYTES, Parsed, u32_at};
use super::record::{self, STAMP_BYTES};
use super::segment::ReadAt;
use crate::types::Lsn;
use std::io;

const WINDOW_BYTES: usize = 1024 * 1024;

/// The least that must be seen of a frame to judge whether it is worth a checksum.
const LEAST_BYTES: usize = FRAME_HEAD_BYTES + STAMP_BYTES;

/// A good frame behind a bad one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) offset: u64,
    pub(super) lsn: Lsn,
}

/// Looks at every offset of `[from, limit)` for an intact frame with a number from `expected` on whose writer knew that
/// `expected` was durable.
pub(super) fn find(from: u64, limit: u64, expected: Lsn, read: &ReadAt<'_>) -> io::Result<Option<Proof>> {
    let mut window = Vec::new();
    let mut start = from;
    while start < limit {
        let left = usize::try_from(limit - start).unwrap_or(usize::MAX);
        window.resize(left.min(WINDOW_BYTES), 0);
        let got = read(start, &mut window)?;
        window.truncate(got);
        if got < LEAST_BYTES {
            return Ok(None);
        }
        for (i, candidate) in window.windows(LEAST_BYTES).enumerate() {
            let offset = start + i as u64;
            if let Some((lsn, bytes)) = plausible(candidate, limit - offset, expected)
                && intact(offset, bytes, read)?
            {
                return Ok(Some(Proof { offset, lsn }));
            }
        }
        start += (got - LEAST_BYTES + 1) as u64;
    }
    Ok(None)
}

/// Whether these first bytes can be those of such a frame: its number and its length.
fn plausible(head: &[u8], left: u64, expected: Lsn) -> Option<(Lsn, usize)> {
    let len = usize::try_from(u32_at(head, 4)).ok()?;
    let bytes = len.checked_add(FRAME_HEAD_BYTES)?;
    if !(STAMP_BYTES..=frame::MAX_PAYLOAD_BYTES).contains(&len) || bytes as u64 > left {
        return None;
    }
    let stamp = record::stamp(head.get(FRAME_HEAD_BYTES..)?).ok()?;
    let most = expected.0.saturating_add(left / LEAST_BYTES as u64 + 1);
    let proves = stamp.kind != 0 && stamp.lsn >= expected && stamp.lsn.0 <= most && stamp.synced >= expected;
    proves.then_some((stamp.lsn, bytes))
}

fn intact(offset: u64, bytes: usize, read: &ReadAt<'_>) -> io::Result<bool> {
    let mut frame = vec![0; bytes];
    let got = read(offset, &mut frame)?;
    Ok(got == bytes && matches!(frame::parse(&frame), Parsed::Frame(_)))
}
