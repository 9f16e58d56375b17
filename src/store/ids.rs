//! The `_id`s of a collection in the store's own order, and how to go on after one of them.
//!
//! Promises: every `_id` that is there from the beginning of the walk to its end is given once. It is an index walk: no
//! document is read. One that comes or goes meanwhile may or may not be given.
//!
//! # Decisions
//! Queries compare within one type only, so "after this `_id`" is: greater within its type, or of a type that sorts later. `NaN`
//! is greater than nothing for a query and less than every number in the order: after it come all numbers.

use bson::Bson;
use bson::raw::{RawBsonRef, RawDocumentBuf};
use bson::{Document, doc};

use super::node::{Answer, Scan};
use super::privileged::PrivilegedError;
use crate::types::Namespace;

/// Types that sort together, in the order of the store: numbers of `$type`. An `_id` is never an array, a regular expression or
/// undefined.
const ORDER: [&[i32]; 14] =
    [&[-1], &[10], &[1, 16, 18, 19], &[2, 14], &[3], &[5], &[7], &[8], &[9], &[17], &[12], &[13], &[15], &[127]];

/// `_id`s that are fetched together.
const BATCH: u32 = 2_000;

/// The filter for all `_id`s after `last`.
pub(super) fn after(last: RawBsonRef<'_>) -> Document {
    let number = i32::from(last.element_type() as u8);
    let number = match number {
        255 => -1,
        n => n,
    };
    let place = ORDER.iter().position(|types| types.contains(&number));
    let later: Vec<i32> =
        ORDER.iter().skip(place.map_or(0, |p| p + 1)).flat_map(|types| types.iter().copied()).collect();
    let within = match last {
        RawBsonRef::MinKey | RawBsonRef::Null | RawBsonRef::MaxKey => None,
        RawBsonRef::Double(n) if n.is_nan() => Some(doc! {"$gte": f64::NEG_INFINITY}),
        other => Bson::try_from(other).ok().map(|value| doc! {"$gt": value}),
    };
    let mut any: Vec<Document> = within.into_iter().map(|range| doc! {"_id": range}).collect();
    if !later.is_empty() {
        any.push(doc! {"_id": {"$type": later}});
    }
    match any.len() {
        0 => doc! {"_id": {"$type": 127, "$lt": Bson::MaxKey}},
        1 => any.pop().unwrap_or_default(),
        _ => doc! {"$or": any},
    }
}

/// Opens the walk.
pub(super) async fn walk(
    collection: &mongodb::Collection<RawDocumentBuf>,
    ns: &Namespace,
    last: Option<RawBsonRef<'_>>,
) -> Result<Walk, PrivilegedError> {
    let filter = last.map_or_else(Document::new, after);
    let find = collection.find(filter).projection(doc! {"_id": 1}).sort(doc! {"_id": 1}).batch_size(BATCH);
    let cursor = find.await.map_err(PrivilegedError::new("find", ns))?;
    Ok(Walk { cursor, ns: ns.clone() })
}

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk {
    cursor: mongodb::Cursor<RawDocumentBuf>,
    ns: Namespace,
}

impl Scan for Walk {
    fn next(&mut self) -> Answer<'_, Option<RawDocumentBuf>> {
        Box::pin(async {
            let more = self.cursor.advance().await.map_err(PrivilegedError::new("getMore", &self.ns))?;
            Ok(more.then(|| self.cursor.current().to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(last: RawBsonRef<'_>) -> String {
        after(last).to_string()
    }

    #[test]
    fn after_a_value_come_the_greater_ones_and_the_later_types() {
        let text = filter(RawBsonRef::String("m"));
        assert!(text.contains(r#""$gt": "m""#) && text.contains("[3, 5, 7,"), "{text}");
        assert!(!text.contains("16"), "numbers sort before strings: {text}");
        let number = filter(RawBsonRef::Int64(9));
        assert!(number.contains("[2, 14, 3,") && !number.contains("[1, 16"), "{number}");
    }

    #[test]
    fn values_that_queries_compare_in_their_own_way() {
        assert!(filter(RawBsonRef::Double(f64::NAN)).contains("$gte"));
        assert!(
            !filter(RawBsonRef::Null).contains("$gt"),
            "nothing is greater than null, but all that follows is wanted"
        );
        assert!(filter(RawBsonRef::MinKey).contains("[10, 1, 16"));
        assert!(!filter(RawBsonRef::MaxKey).contains("$or"));
    }
}
