//! A BSON number as an exact decimal, and its canonical bytes: equal numbers have equal bytes, whatever their BSON type, and
//! the bytes sort as the numbers do.
//!
//! ```text
//! class    1 byte: 0 NaN, 1 -infinity, 2 negative, 3 zero, 4 positive, 5 +infinity (only 2 and 4 have more)
//! exponent 2 bytes, big end first: e + 0x8000, where |value| = 0.d1d2d3… × 10^e and d1 ≠ 0
//! digits   1 byte for each two: 1 + 10·d1 + d2 …, an odd last one is filled with 0; no trailing zeros
//! end      0
//! ```
//! Of a negative number all bytes after the class are inverted. Every int32, int64, double and decimal128 is a finite decimal (a
//! double has at most 767 significant digits), so nothing is rounded: the double 0.1 is not the decimal 0.1, exactly as
//! the store compares them (`mongo/base/compare_numbers.h`: `compareDecimalToDouble` looks at the inexact flag).

use bson::{Decimal128, RawBson};
use std::fmt::Write as _;

const NAN: u8 = 0;
const NEGATIVE_INFINITY: u8 = 1;
const NEGATIVE: u8 = 2;
const ZERO: u8 = 3;
const POSITIVE: u8 = 4;
const POSITIVE_INFINITY: u8 = 5;

/// The largest coefficient of a decimal128; what is above it counts as zero (IEEE 754-2008, 3.5.2).
const MAX_COEFFICIENT: u128 = 10_u128.pow(34) - 1;

/// From here on a double's integer value no longer fits 127 bits.
const TWO_127: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;

/// Appends an int32 or int64.
pub(super) fn integer(out: &mut Vec<u8>, value: i64) {
    scaled(out, value < 0, u128::from(value.unsigned_abs()), 0);
}

/// Appends a double.
pub(super) fn double(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.push(NAN);
    } else if value.is_infinite() {
        out.push(if value < 0.0 { NEGATIVE_INFINITY } else { POSITIVE_INFINITY });
    } else if value.fract() == 0.0 && value.abs() < TWO_127 {
        scaled(out, value < 0.0, whole(value.abs()), 0);
    } else {
        // One digit, a point and 766 more are exact for every double.
        let mut text = String::with_capacity(800);
        if write!(text, "{:.766e}", value.abs()).is_err() {
            return; // Writing to a String does not fail.
        }
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_digit).map(|d| d - b'0').collect();
        finite(out, value < 0.0, &digits, exponent.parse::<i32>().unwrap_or(0) + 1);
    }
}

/// Appends a decimal128 (binary integer encoding, as BSON has it).
pub(super) fn decimal(out: &mut Vec<u8>, value: Decimal128) {
    let bits = u128::from_le_bytes(value.bytes());
    let negative = bits >> 127 == 1;
    let top = (bits >> 122) & 0x1f;
    if top == 0x1f {
        out.push(NAN);
    } else if top == 0x1e {
        out.push(if negative { NEGATIVE_INFINITY } else { POSITIVE_INFINITY });
    } else if top >> 3 == 3 {
        out.push(ZERO); // The long form holds only coefficients above the maximum.
    } else {
        let coefficient = bits & ((1 << 113) - 1);
        let biased = i32::try_from((bits >> 113) & 0x3fff).unwrap_or(0);
        let coefficient = if coefficient > MAX_COEFFICIENT { 0 } else { coefficient };
        scaled(out, negative, coefficient, biased - 6176);
    }
}

/// An integral, non-negative double below 2^127 as an integer, bit by bit (a cast would be checked by nobody).
fn whole(value: f64) -> u128 {
    let bits = value.to_bits();
    let exponent = (bits >> 52) & 0x7ff;
    if exponent == 0 {
        return 0;
    }
    let mantissa = u128::from((bits & ((1 << 52) - 1)) | (1 << 52));
    if exponent >= 1075 { mantissa << (exponent - 1075) } else { mantissa >> (1075 - exponent) }
}

/// `±coefficient × 10^exponent`.
fn scaled(out: &mut Vec<u8>, negative: bool, mut coefficient: u128, exponent: i32) {
    let mut digits = [0_u8; 39];
    let mut len = 0_i32;
    for digit in digits.iter_mut().rev() {
        if coefficient == 0 {
            break;
        }
        *digit = u8::try_from(coefficient % 10).unwrap_or(0);
        coefficient /= 10;
        len += 1;
    }
    let start = digits.len() - usize::try_from(len).unwrap_or(0);
    finite(out, negative, digits.get(start..).unwrap_or(&[]), exponent + len);
}

/// `±0.digits × 10^exponent`; leading zeros only where all are zero.
fn finite(out: &mut Vec<u8>, negative: bool, digits: &[u8], exponent: i32) {
    let end = digits.iter().rposition(|d| *d != 0).map_or(0, |last| last + 1);
    let digits = digits.get(..end).unwrap_or(&[]);
    if digits.is_empty() {
        out.push(ZERO);
        return;
    }
    out.push(if negative { NEGATIVE } else { POSITIVE });
    let flip = if negative { 0xff } else { 0 };
    let biased = u16::try_from(exponent + 0x8000).unwrap_or(0);
    #[expect(clippy::big_endian_bytes, reason = "bytes that sort as the number does")]
    out.extend(biased.to_be_bytes().map(|b| b ^ flip));
    for pair in digits.chunks(2) {
        let (tens, units) = (pair.first().unwrap_or(&0), pair.get(1).unwrap_or(&0));
        out.push((1 + 10 * tens + units) ^ flip);
    }
    out.push(flip);
}

/// A number with these bytes, which are taken off `rest`: of the plainest type that holds it.
pub(super) fn value(rest: &mut &[u8]) -> Option<RawBson> {
    let (class, after) = rest.split_first()?;
    *rest = after;
    let negative = match *class {
        NAN => return Some(RawBson::Double(f64::NAN)),
        NEGATIVE_INFINITY => return Some(RawBson::Double(f64::NEG_INFINITY)),
        POSITIVE_INFINITY => return Some(RawBson::Double(f64::INFINITY)),
        ZERO => return Some(RawBson::Int32(0)),
        class => class == NEGATIVE,
    };
    let flip = if negative { 0xff } else { 0 };
    let (exponent, after) = rest.split_first_chunk::<2>()?;
    #[expect(clippy::big_endian_bytes, reason = "bytes that sort as the number does")]
    let exponent = i32::from(u16::from_be_bytes(exponent.map(|b| b ^ flip))) - 0x8000;
    let end = after.iter().position(|byte| *byte == flip)?;
    let (pairs, after) = after.split_at_checked(end)?;
    *rest = after.get(1..)?;
    let mut digits = String::with_capacity(2 * pairs.len());
    for pair in pairs {
        write!(digits, "{:02}", (pair ^ flip).checked_sub(1)?).ok()?;
    }
    let digits = digits.trim_end_matches('0');
    let sign = if negative { "-" } else { "" };
    // |value| = 0.digits × 10^exponent: whole where there are no more digits than that.
    let zeros = usize::try_from(exponent).ok().and_then(|exponent| exponent.checked_sub(digits.len()));
    if let Some(zeros) = zeros.filter(|zeros| *zeros < 20)
        && let Ok(whole) = format!("{sign}{digits}{}", "0".repeat(zeros)).parse::<i64>()
    {
        return Some(i32::try_from(whole).map_or(RawBson::Int64(whole), RawBson::Int32));
    }
    let scaled = format!("{sign}0.{digits}E{exponent}");
    let float: f64 = scaled.parse().ok()?;
    let (mut canonical, mut wanted) = (Vec::new(), Vec::new());
    double(&mut canonical, float);
    finite(&mut wanted, negative, &digits.bytes().map(|d| d - b'0').collect::<Vec<_>>(), exponent);
    if float.is_finite() && canonical == wanted {
        return Some(RawBson::Double(float));
    }
    // Without a point, so that no zero before it counts as a digit.
    let decimal = format!("{sign}{digits}E{}", exponent - i32::try_from(digits.len()).ok()?);
    decimal.parse().ok().map(RawBson::Decimal128)
}
