//! The part of a namespace's key space that a comparison is asked for, as people type it.
//!
//! The order is that of BSON comparison, as the store sorts `_id`s: by type first (`MinKey`, null, numbers, strings, documents, binary,
//! object ids, booleans, dates, timestamps, `MaxKey`), numbers by value whatever their type.

use bson::{Bson, RawBson};

use crate::entity::{MAX_PLAIN, key_of};
use crate::types::EntityKey;

/// Where a part begins and where it ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    /// The first `_id` that belongs to it; `None`: from the first one that there is.
    pub from: Option<(RawBson, EntityKey)>,
    /// The first `_id` that no longer belongs to it; `None`: to the last one.
    pub to: Option<(RawBson, EntityKey)>,
}

impl Bounds {
    /// Reads bounds: Extended JSON (canonical, or relaxed), empty for none.
    ///
    /// # Errors
    /// What is wrong with which of them, for the person who typed it.
    pub fn parse(from: &str, to: &str) -> Result<Self, String> {
        let bounds = Self { from: bound("from", from)?, to: bound("to", to)? };
        if let (Some((_, from)), Some((_, to))) = (&bounds.from, &bounds.to)
            && from >= to
        {
            return Err("from, to: nothing lies between them; `from` is the first `_id` of the range, `to` the first one after it, \
                        in the order of BSON comparison"
                .to_owned());
        }
        Ok(bounds)
    }

    /// All of the namespace.
    pub fn is_all(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }
}

fn bound(name: &str, text: &str) -> Result<Option<(RawBson, EntityKey)>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |why: &str| {
        format!(
            "{name}: expected an `_id` as Extended JSON, for instance {{\"$oid\":\"…\"}}, {{\"$numberInt\":\"7\"}} or \"text\" (with its quotes): {why}"
        )
    };
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
    let value = Bson::try_from(value).map_err(|error| wrong(&error.to_string()))?;
    if matches!(value, Bson::Array(_) | Bson::RegularExpression(_) | Bson::Undefined) {
        return Err(wrong("no `_id` is an array, a regular expression or undefined"));
    }
    let id = RawBson::try_from(value).map_err(|error| wrong(&error.to_string()))?;
    let key = key_of(&id.as_raw_bson_ref()).map_err(|error| wrong(&error.to_string()))?;
    if key.as_bytes().len() > MAX_PLAIN {
        return Err(wrong("it is too long to be a bound (about a thousand bytes)"));
    }
    Ok(Some((id, key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_typed_values_in_the_order_of_the_store() {
        let key = |text: &str| bound("from", text).unwrap().unwrap().1;
        let ascending = [
            r#"{"$minKey":1}"#,
            "null",
            r#"{"$numberDouble":"-1.5"}"#,
            r#"{"$numberInt":"1"}"#,
            r#"{"$numberLong":"2"}"#,
            "3",
            r#""a""#,
            r#""b""#,
            r#"{"x":{"$numberInt":"1"}}"#,
            r#"{"$oid":"000000000000000000000001"}"#,
            "true",
            r#"{"$date":{"$numberLong":"5"}}"#,
            r#"{"$maxKey":1}"#,
        ];
        assert!(ascending.windows(2).all(|two| key(two[0]) < key(two[1])));
        assert_eq!(key(r#"{"$numberDouble":"2.0"}"#), key(r#"{"$numberLong":"2"}"#));
        assert!(Bounds::parse("", "").unwrap().is_all());
        assert!(!Bounds::parse("1", "").unwrap().is_all());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (from, to, part) in [
            ("abc", "", "from: expected an `_id` as Extended JSON"),
            ("", r#"{"$oid":"xyz"}"#, "to: expected"),
            ("[1]", "", "array"),
            ("2", r#"{"$numberLong":"2"}"#, "nothing lies between"),
            (r#""a""#, "5", "nothing lies between"),
        ] {
            let told = Bounds::parse(from, to).unwrap_err();
            assert!(told.contains(part), "{from} {to}: {told}");
        }
        assert!(Bounds::parse(&format!("\"{}\"", "x".repeat(2_000)), "").unwrap_err().contains("too long"));
    }
}
