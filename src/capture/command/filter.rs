//! What a filter says about `_id`, and how it is narrowed to ids that were found.
//!
//! Promises: a *literal* `_id` names at most one entity under the simple collation; a narrowed filter matches only what
//! the original matches (the original predicate stays in it), at the root level, so that `$near`, `$text` and the
//! positional operator keep working (WIRE.md 9.3).
//!
//! Does not: read the store, know collations.

use bson::raw::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, cstr};

use crate::capture::error::ShapeError;

/// The value of a top-level equality on `_id`, if the filter has exactly one and it is a literal.
pub(crate) fn literal_id(filter: &RawDocument) -> Option<RawBsonRef<'_>> {
    let mut found = None;
    for element in filter.iter_elements() {
        let element = element.ok()?;
        if element.key() != cstr!("_id") {
            continue;
        }
        if found.is_some() {
            return None;
        }
        found = Some(element.value().ok()?);
    }
    match found? {
        RawBsonRef::Document(doc) => literal_document(doc),
        RawBsonRef::RegularExpression(_) | RawBsonRef::Array(_) | RawBsonRef::Undefined => None,
        value => Some(value),
    }
}

/// A subdocument is a literal unless its first key is an operator; `{$eq: literal}` counts as its operand.
fn literal_document(doc: &RawDocument) -> Option<RawBsonRef<'_>> {
    let mut elements = doc.iter_elements();
    let Some(first) = elements.next() else {
        return Some(RawBsonRef::Document(doc));
    };
    let first = first.ok()?;
    if !first.key().as_str().starts_with('$') {
        return Some(RawBsonRef::Document(doc));
    }
    if first.key() != cstr!("$eq") || elements.next().is_some() {
        return None;
    }
    match first.value().ok()? {
        RawBsonRef::Array(_) | RawBsonRef::RegularExpression(_) | RawBsonRef::Undefined => None,
        value => Some(value),
    }
}

/// The filter, so narrowed that it can only match the entities in `ids`.
pub(crate) fn narrow(filter: &RawDocument, ids: &[RawBsonRef<'_>]) -> Result<RawDocumentBuf, ShapeError> {
    let condition = condition(ids);
    let (mut has_id, mut has_and) = (false, false);
    for element in filter.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        has_id |= element.key() == cstr!("_id");
        has_and |= element.key() == cstr!("$and");
    }
    let mut out = RawDocumentBuf::new();
    if !has_id {
        copy(filter, &mut out)?;
        out.append(cstr!("_id"), condition.as_raw_bson_ref());
        return Ok(out);
    }
    let mut extra = RawDocumentBuf::new();
    extra.append(cstr!("_id"), condition.as_raw_bson_ref());
    for element in filter.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        let value = element.value().map_err(ShapeError::bson)?;
        match value {
            RawBsonRef::Array(array) if element.key() == cstr!("$and") => {
                let mut all = RawArrayBuf::new();
                for item in array {
                    all.push(item.map_err(ShapeError::bson)?);
                }
                all.push(&*extra);
                out.append(cstr!("$and"), all);
            }
            value => out.append(element.key(), value),
        }
    }
    if !has_and {
        let mut all = RawArrayBuf::new();
        all.push(&*extra);
        out.append(cstr!("$and"), all);
    }
    Ok(out)
}

/// `value` for one id, `{$in: [...]}` for several. One id that is a document stands behind `$eq`, as everywhere.
fn condition(ids: &[RawBsonRef<'_>]) -> bson::RawBson {
    let mut operator = RawDocumentBuf::new();
    if let [one] = ids {
        operator.append(cstr!("$eq"), *one);
    } else {
        operator.append(cstr!("$in"), array(ids));
    }
    bson::RawBson::Document(operator)
}

/// A BSON array of the ids.
pub(crate) fn array(ids: &[RawBsonRef<'_>]) -> RawArrayBuf {
    let mut out = RawArrayBuf::new();
    for id in ids {
        out.push(*id);
    }
    out
}

/// Appends every element of `from`.
pub(crate) fn copy(from: &RawDocument, to: &mut RawDocumentBuf) -> Result<(), ShapeError> {
    for element in from.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        to.append(element.key(), element.value().map_err(ShapeError::bson)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn literals_are_found() {
        assert_eq!(literal_id(&rawdoc! {"_id": 1, "a": 2}), Some(RawBsonRef::Int32(1)));
        assert_eq!(literal_id(&rawdoc! {"_id": {"$eq": "x"}}), Some(RawBsonRef::String("x")));
        assert!(literal_id(&rawdoc! {"_id": {"a": 1}}).is_some());
        assert!(literal_id(&rawdoc! {"_id": {}}).is_some());
        assert!(literal_id(&rawdoc! {"_id": null}).is_some());
    }

    #[test]
    fn operators_are_not_literals() {
        for filter in [rawdoc! {"_id": {"$gt": 1}}, rawdoc! {"_id": {"$eq": 1, "$gt": 0}}, rawdoc! {"a": 1}, rawdoc! {}]
        {
            assert_eq!(literal_id(&filter), None);
        }
    }

    #[test]
    fn narrowing_keeps_the_predicate() {
        let ids = [RawBsonRef::Int32(1), RawBsonRef::Int32(2)];
        assert_eq!(narrow(&rawdoc! {"a": 1}, &ids).unwrap(), rawdoc! {"a": 1, "_id": {"$in": [1, 2]}});
        assert_eq!(
            narrow(&rawdoc! {"_id": {"$gt": 0}}, &ids[..1]).unwrap(),
            rawdoc! {"_id": {"$gt": 0}, "$and": [{"_id": {"$eq": 1}}]}
        );
        assert_eq!(
            narrow(&rawdoc! {"_id": {"$gt": 0}, "$and": [{"b": 1}]}, &ids[..1]).unwrap(),
            rawdoc! {"_id": {"$gt": 0}, "$and": [{"b": 1}, {"_id": {"$eq": 1}}]}
        );
    }
}
