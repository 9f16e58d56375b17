//! The bytes on disk, as version 1 wrote them. A change here is a change of the format: it needs a new version and a reader
//! for this one.

use super::support::{bodies, full_change};
use crate::changelog::frame;
use crate::changelog::identity::{Identity, Left};
use crate::changelog::record;
use crate::changelog::segment::{self, Header};
use crate::types::{Epoch, Hlc, LogId, Lsn, Record};

/// One segment with a record of every kind, in hexadecimal, 32 bytes a line.
const SEGMENT: &str = include_str!("golden-v1.hex");

fn header() -> Header {
    Header {
        log_id: LogId(*b"0123456789abcdef"),
        epoch: Epoch(2),
        first: Lsn(4711),
        created_ms: 1_700_000_000_000,
        previous_bytes: 268_435_999,
        previous_hlc: Hlc(0x018b_cfe5_6800_0003),
        previous_first: Lsn(1000),
    }
}

fn records() -> Vec<Record> {
    let numbered = bodies().into_iter().zip(0..);
    numbered
        .map(|(body, i)| Record {
            lsn: Lsn(4711 + i),
            hlc: Hlc(0x018b_cfe5_6800_0004 + i),
            wall_ms: 1_700_000_000_123,
            continued: i % 2 == 0,
            body,
        })
        .collect()
}

fn written() -> Vec<u8> {
    let mut out = header().encode().to_vec();
    for record in records() {
        let size = record::size(&record.body);
        frame::push(&mut out, size.bytes, |out| record::encode(out, &record, Lsn(4710), &size));
    }
    out
}

fn fixture() -> Vec<u8> {
    hex::decode(SEGMENT.split_whitespace().collect::<String>()).unwrap()
}

#[test]
fn a_segment_is_written_as_version_1_wrote_it() {
    let lines: Vec<String> = written().chunks(32).map(hex::encode).collect();
    let expected: Vec<&str> = SEGMENT.split_whitespace().collect();
    assert_eq!(lines, expected);
}

#[test]
fn version_1_is_read_back() {
    let scan = segment::scan(&fixture()).unwrap();
    assert_eq!(scan.header, header());
    assert_eq!(scan.records, records());
    assert_eq!((scan.bad, scan.end), (None, fixture().len() as u64));
}

#[test]
fn the_fixed_places_are_where_the_format_page_says() {
    let bytes = fixture();
    assert_eq!(&bytes[..8], b"TIDELOG\n");
    assert_eq!(&bytes[8..12], [1, 0, 76, 0]);
    assert_eq!(&bytes[16..32], b"0123456789abcdef");
    assert_eq!(bytes[32..40], 4711_u64.to_le_bytes());
    assert_eq!(bytes[72..76], crc32c::crc32c(&bytes[..72]).to_le_bytes());
    let frame = &bytes[76..];
    let len = usize::try_from(u32::from_le_bytes(frame[4..8].try_into().unwrap())).unwrap();
    assert_eq!(frame[..4], crc32c::crc32c(&frame[4..8 + len]).to_le_bytes());
    assert_eq!(frame[8..10], [1, 1], "a change, continued");
    assert_eq!(frame[10..18], 4711_u64.to_le_bytes());
    assert_eq!(frame[34..42], 4710_u64.to_le_bytes(), "synced");
    assert_eq!(&frame[42..47], [1, 11, 0, 0, 0], "namespace");
    assert_eq!(&frame[47..58], b"shop.orders");
    assert_eq!(&frame[58..64], [2, 10, 0, 0, 0, 2], "_id: a string");
    let after = full_change().after.unwrap();
    assert_eq!(&frame[8 + len - after.bytes().len()..8 + len], after.bytes(), "the image after stands last");
}

#[test]
fn the_identity_file_is_written_as_version_1_wrote_it() {
    let identity = Identity {
        log_id: LogId(*b"0123456789abcdef"),
        epoch: Epoch(2),
        first: Lsn(1000),
        left: Left::Closed(Lsn(4722)),
    };
    let golden = "544944454c4f47490100020002000000303132333435363738396162636465\
                  66e80300000000000072120000000000000000000050228509";
    assert_eq!(hex::encode(identity.encode()), golden);
    assert_eq!(Identity::decode(&identity.encode()).unwrap(), identity);
    for left in [Left::Synced, Left::Unsynced] {
        let identity = Identity { left, ..identity };
        assert_eq!(Identity::decode(&identity.encode()).unwrap(), identity);
    }
    for bit in 0..56 * 8 {
        let mut bytes = identity.encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        Identity::decode(&bytes).unwrap_err();
    }
}
