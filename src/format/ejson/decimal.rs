//! Decimal128 bits to the text of Extended JSON, and whether that text gives the same bits back.
//!
//! The format is IEEE 754-2008 decimal128 with a binary integer coefficient; the text follows the "to string" rules of
//! the BSON decimal128 specification.

use super::text;

const BIAS: i32 = 6176;
/// 10^34 - 1, the largest coefficient.
const MAX: u128 = 9_999_999_999_999_999_999_999_999_999_999_999;
const INFINITY: u128 = 0b11110 << 122;
const NAN: u128 = 0b11111 << 122;
const SIGN: u128 = 1 << 127;

/// Appends the text of `bytes` (little-endian, as in BSON), unquoted. Returns whether the text gives these bits back:
/// payloads of NaN, bits beside an infinity and coefficients that are too large do not survive.
pub(super) fn append(out: &mut Vec<u8>, bytes: [u8; 16]) -> bool {
    let bits = u128::from_le_bytes(bytes);
    let negative = bits & SIGN != 0;
    let magnitude = bits & !SIGN;
    if magnitude & NAN == NAN {
        out.extend_from_slice(b"NaN");
        return bits == NAN;
    }
    if negative {
        out.push(b'-');
    }
    if magnitude & INFINITY == INFINITY {
        out.extend_from_slice(b"Infinity");
        return magnitude == INFINITY;
    }
    // Two leading ones after the sign: a second layout whose coefficients all exceed MAX, so they stand for zero.
    let second = magnitude >> 125 == 0b11;
    let (raw_exponent, coefficient) =
        if second { (magnitude >> 111 & 0x3fff, 0) } else { (magnitude >> 113, magnitude & ((1 << 113) - 1)) };
    let fits = !second && coefficient <= MAX;
    finite(out, if fits { coefficient } else { 0 }, i32::try_from(raw_exponent).unwrap_or(0) - BIAS);
    fits
}

fn finite(out: &mut Vec<u8>, coefficient: u128, exponent: i32) {
    let mut buffer = [b'0'; 40];
    let digits = decimal(&mut buffer, coefficient);
    let count = i32::try_from(digits.len()).unwrap_or(0);
    let adjusted = exponent + count - 1;
    if exponent > 0 || adjusted < -6 {
        let (first, rest) = digits.split_at(1);
        out.extend_from_slice(first);
        if !rest.is_empty() {
            out.push(b'.');
            out.extend_from_slice(rest);
        }
        out.push(b'E');
        if adjusted >= 0 {
            out.push(b'+');
        }
        text::signed(out, i64::from(adjusted));
    } else if exponent == 0 {
        out.extend_from_slice(digits);
    } else if count > -exponent {
        let (whole, part) = digits.split_at(usize::try_from(count + exponent).unwrap_or(0));
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(part);
    } else {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + usize::try_from(-exponent - count).unwrap_or(0), b'0');
        out.extend_from_slice(digits);
    }
}

/// The decimal digits of `n`, at least one.
fn decimal(buffer: &mut [u8; 40], mut n: u128) -> &[u8] {
    let mut used = 0;
    for slot in buffer.iter_mut().rev() {
        *slot = b'0' + u8::try_from(n % 10).unwrap_or(0);
        used += 1;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    buffer.get(40 - used..).unwrap_or(b"0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(bits: u128) -> Result<(), TestCaseError> {
        let bytes = bits.to_le_bytes();
        let mut out = Vec::new();
        let exact = append(&mut out, bytes);
        let text = String::from_utf8(out).expect("utf-8");
        if exact {
            let back: bson::Decimal128 = text.parse().expect("the bson crate reads it");
            prop_assert_eq!(back.bytes(), bytes, "{}", text);
            prop_assert_eq!(text, bson::Decimal128::from_bytes(bytes).to_string());
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bits(bits: u128) { check(bits)?; }

        #[test]
        fn numbers(sign: bool, exponent in 0u128..=12287, coefficient in 0..=MAX, shift in 0u32..113) {
            check(u128::from(sign) << 127 | exponent << 113 | coefficient >> shift)?;
        }
    }

    #[test]
    fn known_texts() {
        for text in [
            "0",
            "-0",
            "0.1",
            "1.50",
            "-1E+3",
            "1E-7",
            "0.000001",
            "9.999999999999999999999999999999999E+6144",
            "Infinity",
            "-Infinity",
            "NaN",
            "0E+6111",
            "0E-6176",
        ] {
            let bytes = text.parse::<bson::Decimal128>().expect("decimal").bytes();
            let mut out = Vec::new();
            assert!(append(&mut out, bytes), "{text}");
            assert_eq!(String::from_utf8(out).expect("utf-8"), text);
        }
    }

    #[test]
    fn what_does_not_survive_is_told() {
        for bits in [NAN | SIGN, NAN | 1, NAN | 1 << 121, INFINITY | 1, 3u128 << 125, MAX + 1] {
            assert!(!append(&mut Vec::new(), bits.to_le_bytes()), "{bits:032x}");
        }
    }
}
