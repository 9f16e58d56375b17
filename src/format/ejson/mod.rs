//! BSON bytes to canonical Extended JSON v2, without a tree in between.
//!
//! Promises: what is written is valid JSON for every input. [`Fidelity::Exact`] is said only where a reader of canonical
//! Extended JSON gets the same bytes back; everything in doubt is [`Fidelity::Lossy`], and then the record carries the
//! bytes too.
//!
//! Lossy are: a key twice in one document, a key with a leading `$` (but for a `DBRef` in its own order), array keys that
//! are not 0, 1, 2 …, bytes that are not UTF-8, NaN with a payload, decimals that are not canonical, booleans that are
//! neither 0 nor 1, regular expression options out of order, the old binary subtype with a wrong inner length, and the
//! deprecated types that drivers turn into others (undefined, `DBPointer`, symbol).
//!
//! Does not: follow documents nested deeper than [`MAX_DEPTH`] (common JSON readers give up near 128 levels): those, and
//! bytes that are not BSON at all, are [`Fidelity::Unwritable`] and stand as `null`.

mod decimal;
mod element;
pub(crate) mod text;

/// Levels of documents and arrays that are written as text.
pub const MAX_DEPTH: u32 = 100;

/// What a reader of the text gets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// The same bytes.
    Exact,
    /// Something that reads well but may not be the same bytes.
    Lossy,
    /// `null`: too deep, or not BSON.
    Unwritable,
}

/// Appends a whole BSON document as Extended JSON.
pub fn document(out: &mut Vec<u8>, bytes: &[u8]) -> Fidelity {
    let start = out.len();
    let mut writer = element::Writer { out, exact: true };
    let result = writer.whole(bytes);
    let exact = writer.exact;
    settle(out, start, result.is_some(), exact)
}

/// Appends the value of the first element of a BSON document as Extended JSON: how a lone `_id` is written.
pub fn first_value(out: &mut Vec<u8>, bytes: &[u8]) -> Fidelity {
    let start = out.len();
    let mut writer = element::Writer { out, exact: true };
    let result = writer.first(bytes);
    let exact = writer.exact;
    settle(out, start, result.is_some(), exact)
}

fn settle(out: &mut Vec<u8>, start: usize, written: bool, exact: bool) -> Fidelity {
    match (written, exact) {
        (true, true) => Fidelity::Exact,
        (true, false) => Fidelity::Lossy,
        (false, _) => {
            out.truncate(start);
            out.extend_from_slice(b"null");
            Fidelity::Unwritable
        }
    }
}

#[cfg(test)]
mod tests;
