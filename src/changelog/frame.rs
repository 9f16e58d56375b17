//! The frame around each record: checksum, length, payload. Pure.
//!
//! `crc: u32 | len: u32 | payload[len]`, little-endian; `crc` is the CRC-32C (Castagnoli) of everything after itself.

/// Bytes before the payload.
pub const FRAME_HEAD_BYTES: usize = 8;

/// The longest payload: two images of 16 MiB and 16 KiB, an `_id` and its key, and room for the rest. A client's message
/// has at most 48 000 000 bytes.
pub const MAX_PAYLOAD_BYTES: usize = 128 * 1024 * 1024;

/// What stands at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole, intact frame; its payload.
    Frame(&'a [u8]),
    /// The bytes end within the frame; it needs this many in all.
    Needs(usize),
    /// No frame can start like this.
    Bad(BadFrame),
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// The length is not one that a frame can have.
    #[error("a frame of {0} bytes cannot be")]
    Length(usize),
    /// The checksum does not match.
    #[error("the checksum does not match")]
    Checksum,
}

/// Looks at the frame at the beginning of `bytes`. Allocates nothing.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((head, rest)) = bytes.split_at_checked(FRAME_HEAD_BYTES) else { return Parsed::Needs(FRAME_HEAD_BYTES) };
    let (crc, len) = (u32_at(head, 0), u32_at(head, 4));
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if !(super::record::STAMP_BYTES..=MAX_PAYLOAD_BYTES).contains(&len) {
        return Parsed::Bad(BadFrame::Length(len));
    }
    let Some(payload) = rest.get(..len) else { return Parsed::Needs(FRAME_HEAD_BYTES + len) };
    let covered = bytes.get(4..FRAME_HEAD_BYTES + len).unwrap_or_default();
    if crc32c::crc32c(covered) == crc { Parsed::Frame(payload) } else { Parsed::Bad(BadFrame::Checksum) }
}

/// Writes a frame at the end of `out`; `payload` writes its payload of exactly `payload_bytes` bytes, which must be at most
/// [`MAX_PAYLOAD_BYTES`].
pub fn push(out: &mut Vec<u8>, payload_bytes: usize, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.reserve(FRAME_HEAD_BYTES + payload_bytes);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&u32::try_from(payload_bytes).unwrap_or(u32::MAX).to_le_bytes());
    payload(out);
    debug_assert_eq!(out.len() - start, FRAME_HEAD_BYTES + payload_bytes, "the payload's size was told wrong");
    let crc = crc32c::crc32c(out.get(start + 4..).unwrap_or_default());
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// The little-endian number at `at`; zero beyond the end (callers have checked the length).
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
}

/// The little-endian number at `at`; zero beyond the end (callers have checked the length).
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c_over_length_and_payload() {
        // RFC 3720, B.4: CRC-32C of 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        let mut out = vec![9];
        push(&mut out, 40, |o| o.extend_from_slice(&[5; 40]));
        let frame = &out[1..];
        assert_eq!(u32_at(frame, 4), 40);
        assert_eq!(u32_at(frame, 0), crc32c::crc32c(&frame[4..]));
        assert_eq!(parse(frame), Parsed::Frame(&[5; 40]));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let mut frame = Vec::new();
        push(&mut frame, 50, |o| o.extend_from_slice(&[3; 50]));
        for cut in 0..frame.len() {
            assert!(matches!(parse(&frame[..cut]), Parsed::Needs(n) if n <= frame.len()), "cut at {cut}");
        }
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(parse(&bad), Parsed::Frame(_)), "bit {bit}");
        }
    }
}
