//! Every record comes back as it was; no bytes make the decoder panic.

use super::fields::tag;
use super::*;
use crate::changelog::tests::support::{bodies, body_strategy, change};
use crate::types::{Body, Record};
use proptest::prelude::*;

fn record(body: Body) -> Record {
    Record { lsn: Lsn(7), hlc: Hlc(99 << 16), wall_ms: -5, continued: true, body }
}

fn bytes_of(record: &Record) -> Vec<u8> {
    let sized = size(&record.body);
    let mut out = Vec::new();
    encode(&mut out, record, Lsn(record.lsn.0 - 1), &sized);
    assert_eq!(out.len(), sized.bytes);
    out
}

#[test]
fn every_kind_of_record_comes_back() {
    for body in bodies() {
        let record = record(body);
        let bytes = bytes_of(&record);
        assert_eq!(decode(&bytes).unwrap(), record);
        let stamp = stamp(&bytes).unwrap();
        assert_eq!((stamp.lsn, stamp.synced, stamp.continued), (Lsn(7), Lsn(6), true));
    }
}

#[test]
fn the_head_agrees_with_the_record() {
    for body in bodies() {
        let record = record(body);
        match (head(&bytes_of(&record)).unwrap().body, &record.body) {
            (HeadBody::Control(head), Body::Control(whole)) => assert_eq!(&head, whole),
            (HeadBody::Change { ns, op, before_sha, after_sha, image_bytes }, Body::Change(whole)) => {
                assert_eq!((&ns, op, before_sha), (&whole.ns, whole.op, whole.before_sha));
                assert_eq!(after_sha, whole.after.as_ref().map(crate::types::Image::sha));
                let images = [&whole.before, &whole.after].into_iter().flatten();
                assert_eq!(image_bytes, images.map(|i| i.bytes().len() as u64).sum::<u64>());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn images_are_slices_of_the_payload() {
    let payload = bytes::Bytes::from(bytes_of(&record(Body::Change(Box::new(change(1, 300))))));
    let Body::Change(decoded) = decode_shared(&payload).unwrap().body else { panic!() };
    let image = decoded.after.unwrap();
    assert!(payload.as_ptr_range().contains(&image.bytes().as_ptr()));
}

#[test]
fn a_cut_record_is_never_taken_for_the_whole() {
    for body in bodies() {
        let whole = record(body);
        let bytes = bytes_of(&whole);
        for cut in 0..bytes.len() {
            // Cut between two fields it may read as a shorter record: the frame's length and checksum exclude that.
            assert!(decode(&bytes[..cut]).map_or(true, |other| other != whole), "cut at {cut}");
        }
    }
}

#[test]
fn unknown_fields_stop_or_are_skipped_by_their_number() {
    let good = record(Body::Control(crate::types::Control::GapClosed { id: 3 }));
    let bytes = bytes_of(&good);
    let with = |tag: u8| [bytes.as_slice(), &[tag, 2, 0, 0, 0, 8, 8]].concat();
    assert_eq!(decode(&with(tag::SKIPPABLE)).unwrap(), good);
    assert_eq!(decode(&with(tag::SKIPPABLE - 1)), Err(RecordError::Unknown(127)));
    assert_eq!(decode(&with(tag::GAP)), Err(RecordError::Order(tag::GAP)));
    let mut kind = bytes.clone();
    kind[0] = 99;
    assert_eq!(decode(&kind), Err(RecordError::Kind(99)));
    let mut flags = bytes;
    flags[1] = 2;
    assert_eq!(decode(&flags), Err(RecordError::Flags(2)));
}

#[test]
fn ids_of_every_type_come_back() {
    use bson::{RawBson, rawdoc};
    let document = rawdoc! {
        "double": -0.0, "string": "a\u{0}b", "document": { "a": 1, "a": 2 }, "array": [1, "x"], "bool": true, "null": null,
        "i32": -1, "i64": i64::MIN, "oid": bson::oid::ObjectId::from_bytes([7; 12]), "date": bson::DateTime::from_millis(-1),
        "timestamp": bson::Timestamp { time: 1, increment: 2 }, "symbol": RawBson::Symbol("s".into()),
        "min": RawBson::MinKey, "max": RawBson::MaxKey, "undefined": RawBson::Undefined,
        "binary": bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![1; 16] },
        "old": bson::Binary { subtype: bson::spec::BinarySubtype::BinaryOld, bytes: vec![1; 5] },
        "decimal": bson::Decimal128::from_bytes([3; 16]), "code": RawBson::JavaScriptCode("f()".into()),
    };
    for element in &document {
        let (name, value) = element.unwrap();
        let value = RawBson::from(value);
        let bytes = id::IdBytes::of(&value).as_bytes().to_vec();
        assert_eq!(bytes[0], value.element_type() as u8, "{name}");
        let again = id::from_bytes(&bytes).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(again, value, "{name}");
        assert!(id::from_bytes(&[bytes.as_slice(), b"x"].concat()).is_none(), "{name}: bytes too many");
        assert_eq!(id::IdBytes::of(&again).as_bytes(), bytes, "{name}");
    }
}

proptest! {
    #[test]
    fn any_record_comes_back(body in body_strategy(), lsn in 1..u64::MAX, hlc: u64, wall_ms: i64, continued: bool) {
        let record = Record { lsn: Lsn(lsn), hlc: Hlc(hlc), wall_ms, continued, body };
        let bytes = bytes_of(&record);
        prop_assert_eq!(decode(&bytes).unwrap(), record);
    }

    #[test]
    fn spoilt_bytes_never_panic(body in body_strategy(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut bytes = bytes_of(&record(body));
        let place = at.index(bytes.len());
        bytes[place] = byte;
        let _any = decode(&bytes);
        let _any = head(&bytes);
        bytes.truncate(cut.index(bytes.len() + 1));
        let _any = decode(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        let _any = decode(&bytes);
        let _any = head(&bytes);
        let _any = crate::changelog::segment::scan(&bytes);
    }
}
