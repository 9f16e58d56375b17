//! Small pieces of JSON text, appended to a byte buffer: strings, numbers, hex, base64, times. Pure and allocation-free.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Write as _;

/// The two digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0u8; 2]; 256];
    let mut i = 0;
    while i < 256 {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, within 256 and 16")]
        {
            table[i] = [digits[i >> 4], digits[i & 15]];
        }
        i += 1;
    }
    table
};

/// Appends lower-case hex.
pub(crate) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len() * 2, b'0');
    let room = out.get_mut(start..).unwrap_or_default();
    for (pair, byte) in room.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = HEX.get(usize::from(*byte)).copied().unwrap_or_default();
    }
}

/// Appends standard base64 with padding.
pub(crate) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = out.get_mut(start..).and_then(|room| STANDARD.encode_slice(bytes, room).ok()).unwrap_or(0);
    out.truncate(start + written);
}

/// Appends a decimal number.
pub(crate) fn unsigned(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + u8::try_from(n % 10).unwrap_or(0);
        used += 1;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or(&[]));
}

/// Appends a decimal number with its sign.
pub(crate) fn signed(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    unsigned(out, n.unsigned_abs());
}

/// Appends a number in exactly `width` digits (the higher digits are lost if it needs more).
pub(crate) fn padded(out: &mut Vec<u8>, n: u64, width: u32) {
    let mut scale = 10u64.pow(width.saturating_sub(1));
    while scale > 0 {
        out.push(b'0' + u8::try_from(n / scale % 10).unwrap_or(0));
        scale /= 10;
    }
}

/// Appends a double that reads back as the same bits: shortest round trip, `Infinity`, `-Infinity`, `NaN`, `-0.0`.
pub(crate) fn double(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"Infinity" } else { b"-Infinity" });
    } else if write!(out, "{value:?}").is_err() {
        // A Vec takes every write.
    }
}

/// How a byte stands inside a JSON string: 0 as itself, `u` as `\u00XX`, otherwise a backslash and that letter.
const ESCAPES: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut i = 0;
    while i < 32 {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, within 256")]
        {
            table[i] = b'u';
        }
        i += 1;
    }
    table[8] = b'b';
    table[9] = b't';
    table[10] = b'n';
    table[12] = b'f';
    table[13] = b'r';
    table[34] = b'"';
    table[92] = b'\\';
    table[127] = b'u';
    table
};

/// Each byte of eight is this one.
const fn eight(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Whether one of eight bytes has its high bit, or stands in [`ESCAPES`]. The subtraction borrows only above a byte that it
/// finds, so no bytes are taken for others ("Bit Twiddling Hacks", determine if a word has a zero byte).
fn is_special(word: u64) -> bool {
    let zero = |word: u64| word.wrapping_sub(eight(1)) & !word;
    let low = word.wrapping_sub(eight(32)) & !word;
    let found = word | low | zero(word ^ eight(b'"')) | zero(word ^ eight(b'\\')) | zero(word ^ eight(127));
    found & eight(0x80) != 0
}

/// ASCII that stands inside a JSON string as it is.
fn is_plain(bytes: &[u8]) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    match bytes.last_chunk::<8>() {
        // The last eight overlap the words.
        Some(last) => !words.iter().chain([last]).any(|word| is_special(u64::from_le_bytes(*word))),
        None => bytes.iter().all(|byte| byte.is_ascii() && escape(*byte) == 0),
    }
}

/// Appends a quoted JSON string, if these bytes are ASCII and stand in it as they are.
pub(crate) fn plain(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let is = is_plain(bytes);
    if is {
        out.reserve(bytes.len() + 2);
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    }
    is
}

/// Appends a quoted JSON string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    if plain(out, bytes) {
        return;
    }
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|b| escape(*b) != 0) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, after)) = tail.split_first() else { break };
        match escape(*byte) {
            b'u' => {
                out.extend_from_slice(b"\\u00");
                hex(out, &[*byte]);
            }
            letter => out.extend_from_slice(&[b'\\', letter]),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn escape(byte: u8) -> u8 {
    ESCAPES.get(usize::from(byte)).copied().unwrap_or(0)
}

/// Appends a quoted string, or `null` for an empty one ("not told").
pub(crate) fn told(out: &mut Vec<u8>, text: &str) {
    if text.is_empty() { out.extend_from_slice(b"null") } else { string(out, text) }
}

/// Appends a wall time as RFC 3339 in UTC with milliseconds, quoted. Years outside 0..=9999 stand as they are.
pub(crate) fn wall(out: &mut Vec<u8>, ms: i64) {
    let (days, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000).unsigned_abs());
    let (year, month, day) = civil(days);
    out.push(b'"');
    match u64::try_from(year) {
        Ok(year) if year <= 9999 => padded(out, year, 4),
        _ => signed(out, year),
    }
    let seconds = in_day / 1000;
    for (mark, part) in
        [(b'-', month), (b'-', day), (b'T', seconds / 3600), (b':', seconds / 60 % 60), (b':', seconds % 60)]
    {
        out.push(mark);
        padded(out, part, 2);
    }
    out.push(b'.');
    padded(out, in_day % 1000, 3);
    out.extend_from_slice(b"Z\"");
}

/// Days since 1970 to year, month, day of the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level
/// date algorithms").
fn civil(days: i64) -> (i64, u64, u64) {
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let doe = shifted.rem_euclid(146_097).unsigned_abs();
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = i64::try_from(yoe).unwrap_or(0) + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(f: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        f(&mut out);
        String::from_utf8(out).expect("utf-8")
    }

    #[test]
    fn numbers() {
        for n in [0, 7, 10, 99, u64::MAX] {
            assert_eq!(text(|o| unsigned(o, n)), n.to_string());
        }
        for n in [0, -1, i64::MIN, i64::MAX] {
            assert_eq!(text(|o| signed(o, n)), n.to_string());
        }
        assert_eq!(text(|o| padded(o, 42, 6)), "000042");
        assert_eq!(text(|o| double(o, -0.0)), "-0.0");
    }

    #[test]
    fn strings_read_back() {
        let all: String = (0u32..0x250).filter_map(char::from_u32).collect();
        assert_eq!(serde_json::from_str::<String>(&text(|o| string(o, &all))).expect("json"), all);
    }

    /// Every byte at every place of texts of up to three words.
    #[test]
    fn what_stands_as_it_is() {
        for length in 1..24 {
            for (at, byte) in (0..length).flat_map(|at| (0..=255u8).map(move |byte| (at, byte))) {
                let mut bytes = vec![b'a'; length];
                bytes[at] = byte;
                let expected = byte.is_ascii() && escape(byte) == 0;
                assert_eq!(is_plain(&bytes), expected, "{byte} at {at} of {length}");
                for other in bytes.iter_mut().filter(|other| **other == b'a') {
                    *other = b'!';
                }
                assert_eq!(is_plain(&bytes), expected, "{byte} at {at} of {length}");
            }
        }
        assert!(is_plain(b""));
    }

    #[test]
    fn times_agree_with_the_time_crate() {
        let format =
            time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        for ms in
            [0, 1, 951_782_400_000, 951_868_799_999, 1_764_015_525_123, -1, -62_167_219_200_000, 253_402_300_799_999]
        {
            let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).expect("in range");
            assert_eq!(text(|o| wall(o, ms)), format!("\"{}\"", at.format(format).expect("format")));
        }
    }

    #[test]
    fn base64_has_padding() {
        assert_eq!(text(|o| base64(o, b"")), "");
        assert_eq!(text(|o| base64(o, b"ab")), "YWI=");
    }
}
