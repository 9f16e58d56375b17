//! The walk over BSON bytes. `None` everywhere means: not BSON, or too deep; the caller then takes back what was written.

use super::{MAX_DEPTH, decimal, text};
use std::collections::HashSet;

/// Up to here duplicate keys are looked for pair by pair, beyond with a set.
const FEW_KEYS: usize = 24;
const CANONICAL_NAN: u64 = 0x7ff8_0000_0000_0000;

pub(super) struct Writer<'o> {
    pub(super) out: &'o mut Vec<u8>,
    pub(super) exact: bool,
}

/// What is left of a document's bytes.
struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(i32::from_le_bytes(self.array()?)).ok()
    }

    fn cstring(&mut self) -> Option<&'b [u8]> {
        let end = self.0.iter().position(|b| *b == 0)?;
        let taken = self.take(end)?;
        self.take(1)?;
        Some(taken)
    }

    fn string(&mut self) -> Option<&'b [u8]> {
        let length = self.length()?;
        let (last, taken) = self.take(length)?.split_last()?;
        (*last == 0).then_some(taken)
    }

    /// The elements of an embedded document, its length and final zero taken off.
    fn embedded(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(i32::from_le_bytes(*self.0.first_chunk()?)).ok()?;
        elements(self.take(length)?)
    }
}

/// The elements inside a whole document's bytes.
fn elements(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (end, inside) = rest.split_last()?;
    (usize::try_from(i32::from_le_bytes(*length)).ok()? == bytes.len() && *end == 0).then_some(inside)
}

impl Writer<'_> {
    pub(super) fn whole(&mut self, bytes: &[u8]) -> Option<()> {
        self.object(elements(bytes)?, 1)
    }

    pub(super) fn first(&mut self, bytes: &[u8]) -> Option<()> {
        let mut input = Input(elements(bytes)?);
        let [kind] = input.array()?;
        input.cstring()?;
        self.value(kind, &mut input, 0)
    }

    fn put(&mut self, piece: &[u8]) {
        self.out.extend_from_slice(piece);
    }

    fn object(&mut self, inside: &[u8], depth: u32) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut input = Input(inside);
        let mut keys = Keys::default();
        self.out.push(b'{');
        let mut index = 0usize;
        while !input.0.is_empty() {
            if index > 0 {
                self.out.push(b',');
            }
            let [kind] = input.array()?;
            let key = input.cstring()?;
            self.exact &= keys.fresh(key) && (key.first() != Some(&b'$') || reference(index, key, kind));
            self.text(key);
            self.out.push(b':');
            self.value(kind, &mut input, depth)?;
            index += 1;
        }
        self.out.push(b'}');
        Some(())
    }

    fn array(&mut self, inside: &[u8], depth: u32) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut input = Input(inside);
        let mut expected = Vec::with_capacity(8);
        let mut index = 0u64;
        self.out.push(b'[');
        while !input.0.is_empty() {
            if index > 0 {
                self.out.push(b',');
            }
            let [kind] = input.array()?;
            let key = input.cstring()?;
            expected.clear();
            text::unsigned(&mut expected, index);
            self.exact &= key == expected;
            self.value(kind, &mut input, depth)?;
            index += 1;
        }
        self.out.push(b']');
        Some(())
    }

    fn value(&mut self, kind: u8, input: &mut Input<'_>, depth: u32) -> Option<()> {
        match kind {
            0x01 => self.double(f64::from_le_bytes(input.array()?)),
            0x02 => self.text(input.string()?),
            0x03 => self.object(input.embedded()?, depth + 1)?,
            0x04 => self.array(input.embedded()?, depth + 1)?,
            0x05 => self.binary(input)?,
            0x07 => self.oid(&input.array::<12>()?),
            0x08 => self.boolean(input)?,
            0x09 => {
                self.put(b"{\"$date\":{\"$numberLong\":\"");
                text::signed(self.out, i64::from_le_bytes(input.array()?));
                self.put(b"\"}}");
            }
            0x0a => self.put(b"null"),
            0x0b => self.regex(input)?,
            0x0d => self.code(input.string()?),
            0x0f => self.code_with_scope(input, depth)?,
            0x10 => self.number(b"{\"$numberInt\":\"", i64::from(i32::from_le_bytes(input.array()?))),
            0x11 => {
                let (increment, time) = (input.u32()?, input.u32()?);
                self.put(b"{\"$timestamp\":{\"t\":");
                text::unsigned(self.out, u64::from(time));
                self.put(b",\"i\":");
                text::unsigned(self.out, u64::from(increment));
                self.put(b"}}");
            }
            0x12 => self.number(b"{\"$numberLong\":\"", i64::from_le_bytes(input.array()?)),
            0x13 => {
                self.put(b"{\"$numberDecimal\":\"");
                self.exact &= decimal::append(self.out, input.array()?);
                self.put(b"\"}");
            }
            0xff => self.put(b"{\"$minKey\":1}"),
            0x7f => self.put(b"{\"$maxKey\":1}"),
            _ => self.deprecated(kind, input)?,
        }
        Some(())
    }

    fn deprecated(&mut self, kind: u8, input: &mut Input<'_>) -> Option<()> {
        self.exact = false;
        match kind {
            0x06 => self.put(b"{\"$undefined\":true}"),
            0x0c => {
                self.put(b"{\"$dbPointer\":{\"$ref\":");
                self.text(input.string()?);
                self.put(b",\"$id\":");
                self.oid(&input.array::<12>()?);
                self.put(b"}}");
            }
            0x0e => {
                self.put(b"{\"$symbol\":");
                self.text(input.string()?);
                self.out.push(b'}');
            }
            _ => return None,
        }
        Some(())
    }

    /// A string as stored; what is not UTF-8 is shown with replacement characters.
    fn text(&mut self, bytes: &[u8]) {
        if text::plain(self.out, bytes) {
            return;
        }
        if let Ok(valid) = std::str::from_utf8(bytes) {
            text::string(self.out, valid);
        } else {
            self.exact = false;
            text::string(self.out, &String::from_utf8_lossy(bytes));
        }
    }

    fn number(&mut self, opening: &[u8], n: i64) {
        self.put(opening);
        text::signed(self.out, n);
        self.put(b"\"}");
    }

    fn double(&mut self, value: f64) {
        self.exact &= !value.is_nan() || value.to_bits() == CANONICAL_NAN;
        self.put(b"{\"$numberDouble\":\"");
        text::double(self.out, value);
        self.put(b"\"}");
    }

    fn oid(&mut self, bytes: &[u8]) {
        self.put(b"{\"$oid\":\"");
        text::hex(self.out, bytes);
        self.put(b"\"}");
    }

    fn boolean(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [byte] = input.array()?;
        self.exact &= byte < 2;
        self.put(if byte == 0 { b"false" } else { b"true" });
        Some(())
    }

    fn binary(&mut self, input: &mut Input<'_>) -> Option<()> {
        let length = input.length()?;
        let [subtype] = input.array()?;
        let mut data = input.take(length)?;
        if subtype == 2 {
            // The old subtype repeats the length inside; Extended JSON leaves it out.
            match data.split_first_chunk::<4>() {
                Some((inner, rest)) if usize::try_from(i32::from_le_bytes(*inner)) == Ok(rest.len()) => data = rest,
                _ => self.exact = false,
            }
        }
        self.put(b"{\"$binary\":{\"base64\":\"");
        text::base64(self.out, data);
        self.put(b"\",\"subType\":\"");
        text::hex(self.out, &[subtype]);
        self.put(b"\"}}");
        Some(())
    }

    fn regex(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (pattern, options) = (input.cstring()?, input.cstring()?);
        let in_order = options.iter().zip(options.iter().skip(1)).all(|(a, b)| a < b);
        self.exact &= in_order && options.iter().all(|o| b"ilmsux".contains(o));
        self.put(b"{\"$regularExpression\":{\"pattern\":");
        self.text(pattern);
        self.put(b",\"options\":");
        self.text(options);
        self.put(b"}}");
        Some(())
    }

    fn code(&mut self, code: &[u8]) {
        self.put(b"{\"$code\":");
        self.text(code);
        self.out.push(b'}');
    }

    fn code_with_scope(&mut self, input: &mut Input<'_>, depth: u32) -> Option<()> {
        let length = input.length()?;
        let mut inside = Input(input.take(length.checked_sub(4)?)?);
        self.put(b"{\"$code\":");
        self.text(inside.string()?);
        self.put(b",\"$scope\":");
        self.object(inside.embedded()?, depth + 1)?;
        self.out.push(b'}');
        inside.0.is_empty().then_some(())
    }
}

/// Whether a `$` key is part of a `DBRef` as every driver writes it: `$ref`, `$id`, `$db`, in this order.
fn reference(index: usize, key: &[u8], kind: u8) -> bool {
    matches!((index, key, kind), (0, b"$ref", 0x02) | (1, b"$id", _) | (2, b"$db", 0x02))
}

/// The keys of one document seen so far.
#[derive(Default)]
struct Keys<'b> {
    few: [&'b [u8]; FEW_KEYS],
    count: usize,
    many: HashSet<&'b [u8]>,
}

impl<'b> Keys<'b> {
    /// Takes the key in; false if it was there already.
    fn fresh(&mut self, key: &'b [u8]) -> bool {
        let known = self.few.get(..self.count).unwrap_or(&self.few);
        if known.contains(&key) {
            return false;
        }
        if let Some(slot) = self.few.get_mut(self.count) {
            *slot = key;
            self.count += 1;
            return true;
        }
        self.many.insert(key)
    }
}
