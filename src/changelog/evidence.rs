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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Body, Control, Hlc, Record};

    fn frame_of(lsn: u64, synced: u64) -> Vec<u8> {
        let body = Body::Control(Control::GapClosed { id: 1 });
        let record = Record { lsn: Lsn(lsn), hlc: Hlc(1), wall_ms: 0, continued: false, body };
        let size = record::size(&record.body);
        let mut out = Vec::new();
        frame::push(&mut out, size.bytes, |out| record::encode(out, &record, Lsn(synced), &size));
        out
    }

    fn found(bytes: &[u8], expected: u64) -> Option<Proof> {
        let read = |offset: u64, buf: &mut [u8]| {
            let from = &bytes[usize::try_from(offset).unwrap().min(bytes.len())..];
            let n = from.len().min(buf.len());
            buf[..n].copy_from_slice(&from[..n]);
            Ok(n)
        };
        find(0, bytes.len() as u64, Lsn(expected), &read).unwrap()
    }

    #[test]
    fn a_frame_is_found_wherever_it_lies() {
        let frame = frame_of(9, 7);
        let edge = WINDOW_BYTES;
        for before in [0, 1, 500, edge - frame.len(), edge - LEAST_BYTES, edge - 20, edge, edge + 3] {
            let bytes = [vec![0xab; before], frame.clone(), vec![0xcd; 10]].concat();
            let proof = Proof { offset: before as u64, lsn: Lsn(9) };
            assert_eq!(found(&bytes, 7), Some(proof), "{before}");
        }
    }

    #[test]
    fn only_a_writer_that_saw_it_durable_proves_anything() {
        assert_eq!(found(&frame_of(9, 6), 7), None, "it was written before 7 was durable");
        assert_eq!(found(&frame_of(6, 5), 7), None, "an older record");
        let mut spoilt = frame_of(9, 7);
        *spoilt.last_mut().unwrap() ^= 1;
        assert_eq!(found(&spoilt, 7), None, "the checksum does not match");
        assert_eq!(found(&[1, 2, 3], 1), None);
    }
}
