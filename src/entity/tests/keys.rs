//! Keys against the model: equal where it says equal, sorted as it sorts.

use super::super::key::{KeyError, MAX_DEPTH, MAX_PLAIN, key_of};
use super::bson_order::compare;
use crate::types::EntityKey;
use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, RawBson, RawDocumentBuf, Timestamp, bson, doc};
use proptest::prelude::*;
use std::cmp::Ordering;

fn key(value: &Bson) -> EntityKey {
    let raw = RawBson::try_from(value.clone()).unwrap();
    key_of(&raw.as_raw_bson_ref()).unwrap()
}

/// A decimal128 from its parts.
fn decimal(negative: bool, coefficient: u128, exponent: i32) -> Decimal128 {
    let biased = u128::try_from(exponent + 6176).unwrap();
    Decimal128::from_bytes(((u128::from(negative) << 127) | (biased << 113) | coefficient).to_le_bytes())
}

fn any_number() -> impl Strategy<Value = Bson> {
    let near = prop_oneof![
        -3_i64..4,
        (0_u32..63, -2_i64..3).prop_map(|(bit, off)| (1_i64 << bit).wrapping_add(off)),
        any::<i64>()
    ];
    let doubles = prop_oneof![
        near.clone().prop_map(|v| v.to_string().parse::<f64>().unwrap()),
        (-40_i64..40, 0_i32..12)
            .prop_map(|(v, p)| v.to_string().parse::<f64>().unwrap() / f64::from(2_i32.pow(p.unsigned_abs()))),
        (-40_i64..40, -12_i32..12).prop_map(|(v, p)| format!("{v}e{p}").parse::<f64>().unwrap()),
        any::<f64>(),
        Just(-0.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(f64::MIN_POSITIVE),
        Just(5e-324),
        Just(f64::MAX),
    ];
    let decimals = prop_oneof![
        (any::<bool>(), 0_u128..2000, -4_i32..4).prop_map(|(n, c, e)| decimal(n, c, e)),
        (near.clone(), 0_u32..15).prop_map(|(v, zeros)| {
            let zeros = i32::try_from(zeros).unwrap();
            decimal(v < 0, u128::from(v.unsigned_abs()) * 10_u128.pow(zeros.unsigned_abs()), -zeros)
        }),
        (any::<bool>(), 0_u128..10_u128.pow(34), -60_i32..60).prop_map(|(n, c, e)| decimal(n, c, e)),
        (any::<bool>(), 0_u128..20, -400_i32..400).prop_map(|(n, c, e)| decimal(n, c, e)),
        any::<[u8; 16]>()
            .prop_filter("exponents for which the model is quick", |b| {
                (5900..6400).contains(&((u128::from_le_bytes(*b) >> 113) & 0x3fff)) || b[15] & 0x78 == 0x78
            })
            .prop_map(Decimal128::from_bytes),
    ];
    prop_oneof![
        (-3_i32..4).prop_map(Bson::Int32),
        near.prop_map(Bson::Int64),
        doubles.prop_map(Bson::Double),
        decimals.prop_map(Bson::Decimal128),
    ]
}

fn leaf() -> impl Strategy<Value = Bson> {
    let text = prop::collection::vec(prop_oneof![Just('a'), Just('b'), Just('\0'), Just('\u{1}'), Just('é')], 0..4)
        .prop_map(|chars| chars.into_iter().collect::<String>());
    let bytes = prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(255)], 0..3);
    prop_oneof![
        4 => any_number(),
        2 => text.clone().prop_map(Bson::String),
        1 => text.clone().prop_map(Bson::Symbol),
        1 => text.prop_map(Bson::JavaScriptCode),
        1 => Just(Bson::Null),
        1 => Just(Bson::MinKey),
        1 => Just(Bson::MaxKey),
        1 => Just(Bson::Undefined),
        1 => any::<bool>().prop_map(Bson::Boolean),
        1 => (-2_i64..3).prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
        1 => (0_u32..2, 0_u32..2).prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
        1 => (0_u8..3).prop_map(|b| Bson::ObjectId(ObjectId::from_bytes([b; 12]))),
        2 => (bytes, prop_oneof![Just(BinarySubtype::Generic), Just(BinarySubtype::BinaryOld), Just(BinarySubtype::UuidOld), Just(BinarySubtype::Uuid)])
            .prop_map(|(bytes, subtype)| Bson::Binary(Binary { subtype, bytes })),
        1 => ("[ab]{0,2}", "[ims]{0,1}").prop_map(|(pattern, options)| Bson::RegularExpression(bson::Regex {
            pattern: pattern.try_into().unwrap(), options: options.try_into().unwrap() })),
    ]
}

fn value() -> impl Strategy<Value = Bson> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(("[ab]{0,2}", inner.clone()), 0..4)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect::<Document>())),
            prop::collection::vec(inner, 0..4).prop_map(Bson::Array),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn numbers_sort_as_the_model_sorts(a in any_number(), b in any_number()) {
        prop_assert_eq!(key(&a).cmp(&key(&b)), compare(&a, &b), "{:?} {:?}", a, b);
    }

    #[test]
    fn values_sort_as_the_model_sorts(a in value(), b in value()) {
        prop_assert_eq!(key(&a).cmp(&key(&b)), compare(&a, &b), "{:?} {:?}", a, b);
    }

    #[test]
    fn a_number_equals_itself_in_every_type_that_holds_it(v in any::<i32>(), zeros in 0_i32..20) {
        let same = key(&Bson::Int32(v));
        prop_assert_eq!(&key(&Bson::Int64(v.into())), &same);
        prop_assert_eq!(&key(&Bson::Double(v.into())), &same);
        let scaled = u128::from(v.unsigned_abs()) * 10_u128.pow(zeros.unsigned_abs());
        prop_assert_eq!(&key(&Bson::Decimal128(decimal(v < 0, scaled, -zeros))), &same);
    }

    #[test]
    fn a_double_equals_its_exact_decimal_where_that_has_34_digits(m in 1_u64..(1 << 53), shift in 0_i32..14) {
        // m / 2^shift = m·5^shift / 10^shift
        let coefficient = u128::from(m) * 5_u128.pow(shift.unsigned_abs());
        prop_assume!(coefficient < 10_u128.pow(34));
        let double = m.to_string().parse::<f64>().unwrap() / f64::from(1_i32 << shift);
        prop_assert_eq!(key(&Bson::Double(double)), key(&Bson::Decimal128(decimal(false, coefficient, -shift))));
    }
}

#[test]
fn the_well_known_pairs() {
    let decimal = |s: &str| Bson::Decimal128(s.parse().unwrap());
    let two53 = 9_007_199_254_740_992_i64;
    let equal = [
        (Bson::Double(-0.0), Bson::Int32(0)),
        (decimal("-0E+3"), Bson::Double(0.0)),
        (Bson::Double(f64::NAN), decimal("NaN")),
        (Bson::Double(f64::from_bits(0xfff8_0000_0000_0001)), Bson::Double(f64::NAN)),
        (Bson::Double(f64::INFINITY), decimal("Infinity")),
        (Bson::Double(9_007_199_254_740_992.0), Bson::Int64(two53)),
        (Bson::Double(9_223_372_036_854_775_808.0), decimal("9223372036854775808")),
        (Bson::Double(0.5), decimal("0.50")),
        (Bson::Symbol("a".into()), Bson::String("a".into())),
        (bson!({"a": 1, "b": [1, 2]}), bson!({"a": 1.0, "b": [1_i64, 2.0]})),
    ];
    for (a, b) in equal {
        assert_eq!(key(&a), key(&b), "{a:?} {b:?}");
    }
    let apart = [
        (Bson::Int64(two53 + 1), Bson::Double(9_007_199_254_740_992.0)),
        (Bson::Int64(i64::MAX), Bson::Double(9_223_372_036_854_775_808.0)),
        (decimal("0.1"), Bson::Double(0.1)),
        (Bson::Int32(1), Bson::String("1".into())),
        (Bson::Int32(1), Bson::Boolean(true)),
        (bson!({"a": 1, "b": 2}), bson!({"b": 2, "a": 1})),
        (bson!({"a": 1}), bson!({"a": [1]})),
        (bson!([1]), bson!({"0": 1})),
        (bson!({}), bson!([])),
        (Bson::Null, Bson::Undefined),
    ];
    for (a, b) in apart {
        assert_ne!(key(&a), key(&b), "{a:?} {b:?}");
    }
}

#[test]
fn the_bytes_are_what_they_were() {
    // Golden: keys stand in logs and exports, so their layout never changes.
    let golden = [
        (Bson::Int32(1), "0c048001_0b_00"),
        (Bson::Double(-12.5), "0c027ffd_f2_cc_ff"),
        (Bson::Int32(0), "0c03"),
        (Bson::String("a\0b".into()), "11_61_00ff_62_0000"),
        (bson!({"x": 1, "y": [true]}), "16_0c7800_0480010b00_1b7900_2a01_00_00"),
        (Bson::ObjectId(ObjectId::from_bytes([7; 12])), "25_070707070707070707070707"),
        (Bson::DateTime(DateTime::from_millis(-1)), "2f_7fffffffffffffff"),
        (Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![9] }), "20_00000001_04_09"),
    ];
    for (value, hex) in golden {
        assert_eq!(hex::encode(key(&value).as_bytes()), hex.replace('_', ""), "{value:?}");
    }
}

#[test]
fn long_keys_are_cut_and_told_apart_by_their_hash() {
    let long = |n: usize, end: &str| Bson::String(format!("{}{end}", "x".repeat(n)));
    let (a, b) = (key(&long(5000, "a")), key(&long(5000, "b")));
    assert_eq!((a.as_bytes().len(), b.as_bytes().len()), (MAX_PLAIN + 32, MAX_PLAIN + 32));
    assert_ne!(a, b);
    assert_eq!(a, key(&long(5000, "a")));
    assert_eq!(a.cmp(&key(&Bson::String("y".into()))), Ordering::Less);
    assert_eq!(key(&long(MAX_PLAIN - 3, "")).as_bytes().len(), MAX_PLAIN);
}

#[test]
fn depth_is_bounded() {
    let nested = |levels: usize| {
        // Built from the inside out on bytes, so that the test itself does not recurse.
        let mut bytes = vec![5, 0, 0, 0, 0];
        for _ in 1..levels {
            let len = i32::try_from(bytes.len() + 8).unwrap();
            bytes = [&len.to_le_bytes(), b"\x03a\0".as_slice(), &bytes, b"\0"].concat();
        }
        RawBson::Document(RawDocumentBuf::from_bytes(bytes).unwrap())
    };
    assert!(key_of(&nested(MAX_DEPTH).as_raw_bson_ref()).is_ok());
    assert_eq!(key_of(&nested(MAX_DEPTH + 1).as_raw_bson_ref()), Err(KeyError::TooDeep));
    assert_eq!(key_of(&nested(5_000).as_raw_bson_ref()), Err(KeyError::TooDeep));
}

#[test]
fn malformed_bytes_are_an_error() {
    let mut bytes = bson::serialize_to_vec(&doc! {"a": "text"}).unwrap();
    bytes[7] = 0xff; // the string's length
    let raw = RawBson::Document(RawDocumentBuf::from_bytes(bytes).unwrap());
    assert!(matches!(key_of(&raw.as_raw_bson_ref()), Err(KeyError::Malformed { .. })));
}

#[test]
fn names_of_array_elements_do_not_count() {
    let with_name = |name: &[u8]| {
        let element = [b"\x10".as_slice(), name, b"\0", &7_i32.to_le_bytes()].concat();
        let len = i32::try_from(element.len() + 5).unwrap();
        let array = [&len.to_le_bytes(), element.as_slice(), b"\0"].concat();
        let outer = i32::try_from(array.len() + 8).unwrap();
        let doc = [&outer.to_le_bytes(), b"\x04a\0".as_slice(), &array, b"\0"].concat();
        key_of(&RawBson::Document(RawDocumentBuf::from_bytes(doc).unwrap()).as_raw_bson_ref()).unwrap()
    };
    assert_eq!(with_name(b"0"), with_name(b"zz"));
}
