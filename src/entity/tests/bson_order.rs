//! A model of the store's comparison of values, written without a look at the keys: exact rational arithmetic on big
//! integers, types in the store's order, documents field by field (type, name, value).

use bson::spec::BinarySubtype;
use bson::{Bson, Decimal128};
use std::cmp::Ordering;

/// `±m × 2^two × 10^ten`, or one of the values outside the line.
#[derive(Clone, Copy, Debug)]
enum Number {
    Nan,
    Infinite { negative: bool },
    Finite { negative: bool, m: u128, two: i32, ten: i32 },
}

fn number(value: &Bson) -> Option<Number> {
    Some(match value {
        Bson::Int32(v) => Number::Finite { negative: *v < 0, m: v.unsigned_abs().into(), two: 0, ten: 0 },
        Bson::Int64(v) => Number::Finite { negative: *v < 0, m: v.unsigned_abs().into(), two: 0, ten: 0 },
        Bson::Double(v) if v.is_nan() => Number::Nan,
        Bson::Double(v) if v.is_infinite() => Number::Infinite { negative: *v < 0.0 },
        Bson::Double(v) => {
            let bits = v.to_bits();
            let (exponent, fraction) = (i32::try_from((bits >> 52) & 0x7ff).unwrap(), bits & ((1 << 52) - 1));
            let (m, two) = if exponent == 0 { (fraction, -1074) } else { (fraction | (1 << 52), exponent - 1075) };
            Number::Finite { negative: bits >> 63 == 1, m: m.into(), two, ten: 0 }
        }
        Bson::Decimal128(v) => decimal_number(*v),
        _ => return None,
    })
}

fn decimal_number(value: Decimal128) -> Number {
    let bits = u128::from_le_bytes(value.bytes());
    let negative = bits >> 127 == 1;
    if (bits >> 122) & 0b11111 == 0b11111 {
        return Number::Nan;
    }
    if (bits >> 122) & 0b11111 == 0b11110 {
        return Number::Infinite { negative };
    }
    let long = (bits >> 125) & 0b11 == 0b11;
    let (exponent, m) = if long {
        ((bits >> 111) & 0x3fff, (0b100 << 111) | (bits & ((1 << 111) - 1)))
    } else {
        ((bits >> 113) & 0x3fff, bits & ((1 << 113) - 1))
    };
    let m = if m >= 10_u128.pow(34) { 0 } else { m };
    Number::Finite { negative, m, two: 0, ten: i32::try_from(exponent).unwrap() - 6176 }
}

/// A natural number, small end first.
type Big = Vec<u32>;

fn times(big: &mut Big, factor: u32) {
    let mut carry = 0_u64;
    for limb in big.iter_mut() {
        let product = u64::from(*limb) * u64::from(factor) + carry;
        *limb = u32::try_from(product & 0xffff_ffff).unwrap();
        carry = product >> 32;
    }
    if carry > 0 {
        big.push(u32::try_from(carry).unwrap());
    }
}

fn big(m: u128, twos: i32, tens: i32) -> Big {
    let mut out: Big = (0..4).map(|i| u32::try_from((m >> (32 * i)) & 0xffff_ffff).unwrap()).collect();
    (0..twos).for_each(|_| times(&mut out, 2));
    (0..tens).for_each(|_| times(&mut out, 10));
    while out.last() == Some(&0) {
        out.pop();
    }
    out
}

fn compare_numbers(a: Number, b: Number) -> Ordering {
    /// NaN, -inf, finite, +inf.
    fn rank(n: Number) -> u8 {
        match n {
            Number::Nan => 0,
            Number::Infinite { negative: true } => 1,
            Number::Finite { .. } => 2,
            Number::Infinite { negative: false } => 3,
        }
    }
    let (
        Number::Finite { negative: an, m: am, two: a2, ten: a10 },
        Number::Finite { negative: bn, m: bm, two: b2, ten: b10 },
    ) = (a, b)
    else {
        return rank(a).cmp(&rank(b));
    };
    let sign = |negative: bool, m: u128| {
        if m == 0 {
            0
        } else if negative {
            -1
        } else {
            1
        }
    };
    let (a_sign, b_sign) = (sign(an, am), sign(bn, bm));
    if a_sign != b_sign || a_sign == 0 {
        return a_sign.cmp(&b_sign);
    }
    let (two, ten) = (a2.min(b2), a10.min(b10));
    let (a, b) = (big(am, a2 - two, a10 - ten), big(bm, b2 - two, b10 - ten));
    let size = a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev()));
    if a_sign < 0 { size.reverse() } else { size }
}

fn rank(value: &Bson) -> i32 {
    match value {
        Bson::MinKey => -1,
        Bson::Undefined => 0,
        Bson::Null => 5,
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => 10,
        Bson::String(_) | Bson::Symbol(_) => 15,
        Bson::Document(_) => 20,
        Bson::Array(_) => 25,
        Bson::Binary(_) => 30,
        Bson::ObjectId(_) => 35,
        Bson::Boolean(_) => 40,
        Bson::DateTime(_) => 45,
        Bson::Timestamp(_) => 47,
        Bson::RegularExpression(_) => 50,
        Bson::DbPointer(_) => 55,
        Bson::JavaScriptCode(_) => 60,
        Bson::JavaScriptCodeWithScope(_) => 65,
        Bson::MaxKey => 127,
    }
}

fn text(value: &Bson) -> Option<&[u8]> {
    match value {
        Bson::String(s) | Bson::Symbol(s) | Bson::JavaScriptCode(s) => Some(s.as_bytes()),
        _ => None,
    }
}

/// The store's order of two values.
pub(super) fn compare(a: &Bson, b: &Bson) -> Ordering {
    if rank(a) != rank(b) {
        return rank(a).cmp(&rank(b));
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return compare_numbers(a, b);
    }
    if let (Some(a), Some(b)) = (text(a), text(b)) {
        return a.cmp(b);
    }
    match (a, b) {
        (Bson::Document(a), Bson::Document(b)) => compare_documents(a, b),
        (Bson::Array(a), Bson::Array(b)) => {
            let first = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|o| o.is_ne());
            first.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Bson::Binary(a), Bson::Binary(b)) => {
            let size = |b: &bson::Binary| b.bytes.len() + if b.subtype == BinarySubtype::BinaryOld { 4 } else { 0 };
            let key = |b: &bson::Binary| (size(b), u8::from(b.subtype), b.bytes.clone());
            key(a).cmp(&key(b))
        }
        (Bson::ObjectId(a), Bson::ObjectId(b)) => a.bytes().cmp(&b.bytes()),
        (Bson::Boolean(a), Bson::Boolean(b)) => a.cmp(b),
        (Bson::DateTime(a), Bson::DateTime(b)) => a.timestamp_millis().cmp(&b.timestamp_millis()),
        (Bson::Timestamp(a), Bson::Timestamp(b)) => (a.time, a.increment).cmp(&(b.time, b.increment)),
        (Bson::RegularExpression(a), Bson::RegularExpression(b)) => {
            (a.pattern.as_str(), a.options.as_str()).cmp(&(b.pattern.as_str(), b.options.as_str()))
        }
        (Bson::JavaScriptCodeWithScope(a), Bson::JavaScriptCodeWithScope(b)) => {
            a.code.cmp(&b.code).then_with(|| compare_documents(&a.scope, &b.scope))
        }
        _ => Ordering::Equal,
    }
}

fn compare_documents(a: &bson::Document, b: &bson::Document) -> Ordering {
    for ((a_name, a), (b_name, b)) in a.iter().zip(b) {
        let order = rank(a).cmp(&rank(b)).then_with(|| a_name.cmp(b_name)).then_with(|| compare(a, b));
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

#[test]
fn the_model_knows_what_everybody_knows() {
    let decimal = |s: &str| Bson::Decimal128(s.parse().unwrap());
    assert_eq!(compare(&Bson::Int32(1), &Bson::Double(1.0)), Ordering::Equal);
    assert_eq!(compare(&Bson::Int64(1), &decimal("1.000")), Ordering::Equal);
    assert_eq!(compare(&decimal("0.1"), &Bson::Double(0.1)), Ordering::Less);
    assert_eq!(compare(&decimal("0.5"), &Bson::Double(0.5)), Ordering::Equal);
    assert_eq!(compare(&Bson::Int64((1 << 53) + 1), &Bson::Double(9_007_199_254_740_992.0)), Ordering::Greater);
    assert_eq!(compare(&decimal("-1E+3"), &Bson::Int32(-1000)), Ordering::Equal);
    assert_eq!(compare(&Bson::Double(f64::NAN), &Bson::Double(f64::NEG_INFINITY)), Ordering::Less);
}
