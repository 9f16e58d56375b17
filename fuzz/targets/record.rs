//! The payload of a frame: read or refused; what is read can be written and read again, and the short looks (stamp, head)
//! agree with the long one.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidelog::changelog::record::{self, HeadBody};
use tidelog::types::{Body, Record};

/// As bytes, since a NaN as `_id` is not equal to itself.
fn encoded(record: &Record, synced: tidelog::types::Lsn) -> Vec<u8> {
    let mut out = Vec::new();
    record::encode(&mut out, record, synced, &record::size(&record.body));
    out
}

fuzz_target!(|data: &[u8]| {
    let stamp = record::stamp(data);
    let head = record::head(data);
    let Ok(read) = record::decode(data) else { return };
    let stamp = stamp.expect("a record that is read has a stamp");
    assert_eq!((stamp.lsn, stamp.hlc, stamp.wall_ms), (read.lsn, read.hlc, read.wall_ms));
    assert_eq!(stamp.continued, read.continued);
    let head = head.expect("a record that is read has a head");
    match (&head.body, &read.body) {
        (HeadBody::Change { ns, op, .. }, Body::Change(change)) => assert_eq!((ns, *op), (&change.ns, change.op)),
        (HeadBody::Control(told), Body::Control(fact)) => assert_eq!(told, fact),
        _ => panic!("head and record are of different kinds"),
    }
    let written = encoded(&read, stamp.synced);
    let shared = record::decode_shared(&Bytes::copy_from_slice(data)).expect("read the other way");
    assert_eq!(written, encoded(&shared, stamp.synced));
    let again = record::decode(&written).expect("what was written is read");
    assert_eq!(written, encoded(&again, stamp.synced), "written otherwise at the second time");
});
