//! The bson crate reads what we write: same bytes back, unless it was flagged.

use super::*;
use bson::{Bson, Document, RawDocumentBuf, doc, rawdoc};
use proptest::prelude::*;

fn text(bytes: &[u8]) -> (String, Fidelity) {
    let mut out = Vec::new();
    let fidelity = document(&mut out, bytes);
    (String::from_utf8(out).expect("utf-8"), fidelity)
}

fn back(text: &str) -> Vec<u8> {
    serde_json::from_str::<Document>(text).expect("extended json").to_vec().expect("bson")
}

fn leaf() -> impl Strategy<Value = Bson> {
    let decimal =
        any::<(u8, u64)>().prop_map(|(e, c)| format!("{c}E-{e}").parse().map_or(Bson::Null, Bson::Decimal128));
    prop_oneof![
        any::<f64>().prop_map(Bson::Double),
        any::<u64>().prop_map(|bits| Bson::Double(f64::from_bits(bits))),
        any::<String>().prop_map(Bson::String),
        any::<Vec<u8>>().prop_flat_map(|bytes| any::<u8>()
            .prop_map(move |s| Bson::Binary(bson::Binary { subtype: s.into(), bytes: bytes.clone() }))),
        any::<[u8; 12]>().prop_map(|b| Bson::ObjectId(bson::oid::ObjectId::from_bytes(b))),
        any::<bool>().prop_map(Bson::Boolean),
        any::<i64>().prop_map(|ms| Bson::DateTime(bson::DateTime::from_millis(ms))),
        Just(Bson::Null),
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<(u32, u32)>().prop_map(|(time, increment)| Bson::Timestamp(bson::Timestamp { time, increment })),
        decimal,
        "[a-z]{0,8}".prop_map(Bson::JavaScriptCode),
        ("[a-z]{0,8}", "[ilmsux]{0,3}").prop_map(|(p, o)| {
            let (pattern, options) = (p.try_into().expect("no zero"), o.try_into().expect("no zero"));
            Bson::RegularExpression(bson::Regex { pattern, options })
        }),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
        "[a-z]{0,8}".prop_map(Bson::Symbol),
        Just(Bson::Undefined),
    ]
}

fn tree() -> impl Strategy<Value = Bson> {
    let key = prop_oneof![8 => "[^\u{0}]{0,6}", 1 => Just("$oid".to_owned()), 1 => Just("$ref".to_owned())];
    leaf().prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Bson::Array),
            prop::collection::vec((key.clone(), inner.clone()), 0..6)
                .prop_map(|pairs| Bson::Document(pairs.into_iter().collect())),
            ("[a-z]{0,4}", prop::collection::vec(("[a-z]{1,3}", inner), 0..3)).prop_map(|(code, scope)| {
                Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                    code,
                    scope: scope.into_iter().collect(),
                })
            }),
        ]
    })
}

proptest! {
    #[test]
    fn exact_means_the_same_bytes(pairs in prop::collection::vec(("[^\u{0}]{0,6}", tree()), 0..8)) {
        let bytes = pairs.into_iter().collect::<Document>().to_vec().expect("bson");
        let (text, fidelity) = text(&bytes);
        prop_assert!(fidelity != Fidelity::Unwritable);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
        if fidelity == Fidelity::Exact {
            prop_assert_eq!(back(&text), bytes, "{}", text);
        }
    }

    #[test]
    fn any_bytes_give_valid_json(mut bytes: Vec<u8>, fix: bool) {
        if fix && bytes.len() >= 5 {
            let length = u32::try_from(bytes.len()).expect("small");
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            *bytes.last_mut().expect("not empty") = 0;
        }
        let (text, _) = text(&bytes);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
    }

    #[test]
    fn flipped_bits_are_never_taken_for_exact(pairs in prop::collection::vec(("[a-c]{0,2}", tree()), 1..5), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = pairs.into_iter().collect::<Document>().to_vec().expect("bson");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (text, fidelity) = text(&bytes);
        if fidelity == Fidelity::Exact {
            prop_assert_eq!(back(&text), bytes, "{}", text);
        }
    }
}

#[test]
fn every_plain_type_is_exact() {
    let oid = bson::oid::ObjectId::from_bytes([7; 12]);
    let document = doc! {
        "double": 1.5, "whole": 3.0, "minus": -0.0, "huge": 1e300, "inf": f64::INFINITY, "nan": f64::NAN, "string": "a\"\\\n\u{0}\u{7f}é😀",
        "doc": { "a": { "b": [1, [2, "x"], {}] } }, "oid": oid, "yes": true, "date": bson::DateTime::from_millis(-5), "null": null,
        "int": 1, "long": 1i64, "ts": bson::Timestamp { time: u32::MAX, increment: 1 }, "min": Bson::MinKey, "max": Bson::MaxKey,
        "dec": "1.50".parse::<bson::Decimal128>().expect("decimal"), "code": Bson::JavaScriptCode("x()".into()),
        "uuid": bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![1; 16] },
        "old": bson::Binary { subtype: bson::spec::BinarySubtype::BinaryOld, bytes: vec![1, 2] },
        "ref": { "$ref": "c", "$id": oid, "$db": "d" },
    };
    let bytes = document.to_vec().expect("bson");
    let (text, fidelity) = text(&bytes);
    assert_eq!(fidelity, Fidelity::Exact, "{text}");
    assert_eq!(back(&text), bytes);
}

#[test]
fn what_is_lossy_is_flagged() {
    let raw = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = vec![0; 4];
        f(&mut bytes);
        bytes.push(0);
        let length = u32::try_from(bytes.len()).expect("small");
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let twice = raw(&|b| b.extend_from_slice(b"\x0aa\0\x0aa\0"));
    let bad_text = raw(&|b| b.extend_from_slice(b"\x02a\0\x02\0\0\0\xff\0"));
    let bad_bool = raw(&|b| b.extend_from_slice(b"\x08a\0\x02"));
    let array_keys = raw(&|b| b.extend_from_slice(b"\x04a\0\x08\0\0\0\x0a1\0\0"));
    let payload = rawdoc! { "a": f64::from_bits(0x7ff8_0000_0000_0001) }.into_bytes();
    let dollar = rawdoc! { "a": { "$numberInt": "1" } }.into_bytes();
    let options = doc! { "a": bson::Regex { pattern: bson::cstr!("x").into(), options: bson::cstr!("mi").into() } };
    let many: Vec<u8> = raw(&|b| {
        for i in 0..40 {
            b.push(0x0a);
            b.extend_from_slice(format!("k{}", i % 39).as_bytes());
            b.push(0);
        }
    });
    for bytes in [twice, bad_text, bad_bool, array_keys, payload, dollar, options.to_vec().expect("bson"), many] {
        assert_eq!(text(&bytes).1, Fidelity::Lossy, "{}", text(&bytes).0);
    }
}

#[test]
fn too_deep_stands_as_null() {
    let mut deep = RawDocumentBuf::new();
    for level in 1..=MAX_DEPTH {
        let (text, fidelity) = text(deep.as_bytes());
        assert_eq!(fidelity, Fidelity::Exact, "{level}");
        assert!(serde_json::from_str::<Document>(&text).is_ok());
        deep = rawdoc! { "a": deep };
    }
    assert_eq!(text(deep.as_bytes()), ("null".to_owned(), Fidelity::Unwritable));
}

#[test]
fn a_lone_value() {
    let mut out = Vec::new();
    assert_eq!(first_value(&mut out, rawdoc! { "_id": 1 }.as_bytes()), Fidelity::Exact);
    assert_eq!(out, br#"{"$numberInt":"1"}"#);
    assert_eq!(first_value(&mut out, b"\x05\0\0\0\0"), Fidelity::Unwritable);
}
