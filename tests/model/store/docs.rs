//! Documents of the simulated store: keys, the filters and the update operators that the model's clients use.

use bson::raw::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{Bson, Document, RawBson};
use bytes::Bytes;

/// An `_id` under comparison equality: 1 and 1L are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Int(i64),
    Text(String),
    Oid([u8; 12]),
}

impl Key {
    /// Of an `_id`.
    pub(crate) fn of(id: RawBsonRef<'_>) -> Self {
        match id {
            RawBsonRef::Int32(n) => Self::Int(i64::from(n)),
            RawBsonRef::Int64(n) => Self::Int(n),
            RawBsonRef::String(s) => Self::Text(s.to_owned()),
            RawBsonRef::ObjectId(oid) => Self::Oid(oid.bytes()),
            other => panic!("the model has no such _id: {other:?}"),
        }
    }

    /// Of a document.
    pub(crate) fn of_doc(doc: &RawDocument) -> Self {
        Self::of(doc.get("_id").unwrap().unwrap())
    }
}

/// A document's bytes as a document.
pub(crate) fn raw(bytes: &[u8]) -> &RawDocument {
    RawDocument::from_bytes(bytes).unwrap()
}

/// Whether a document matches a filter.
pub(crate) fn matches(doc: &RawDocument, filter: &RawDocument) -> bool {
    filter.iter_elements().all(|element| {
        let element = element.unwrap();
        let value = element.value().unwrap();
        match (element.key().as_str(), value) {
            ("$and", RawBsonRef::Array(all)) => {
                all.into_iter().all(|part| matches(doc, part.unwrap().as_document().unwrap()))
            }
            (field, value) => condition(doc.get(field).unwrap(), value),
        }
    })
}

fn condition(found: Option<RawBsonRef<'_>>, wanted: RawBsonRef<'_>) -> bool {
    let RawBsonRef::Document(doc) = wanted else { return found.is_some_and(|v| equal(v, wanted)) };
    doc.iter_elements().all(|element| {
        let element = element.unwrap();
        let value = element.value().unwrap();
        match (element.key().as_str(), value) {
            ("$eq", value) => found.is_some_and(|v| equal(v, value)),
            ("$in", RawBsonRef::Array(list)) => {
                found.is_some_and(|v| list.into_iter().any(|item| equal(v, item.unwrap())))
            }
            ("$gte", value) => found.and_then(number).is_some_and(|v| v >= number(value).unwrap()),
            (other, _) => panic!("the model's store knows no operator {other}"),
        }
    })
}

fn equal(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A document within a document.
pub(crate) fn document<'a>(of: &'a RawDocument, field: &str) -> Option<&'a RawDocument> {
    of.get(field).unwrap().and_then(RawBsonRef::as_document)
}

/// A number's value.
pub(crate) fn number(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(n) => Some(i64::from(n)),
        RawBsonRef::Int64(n) => Some(n),
        #[allow(clippy::cast_possible_truncation, reason = "the model's doubles are small whole numbers")]
        RawBsonRef::Double(n) => Some(n as i64),
        _ => None,
    }
}

/// The `_id` that a filter names by equality.
pub(crate) fn named_id(filter: &RawDocument) -> Option<RawBson> {
    match filter.get("_id").unwrap()? {
        RawBsonRef::Document(doc) => doc.get("$eq").unwrap().map(RawBson::from),
        literal => Some(literal.into()),
    }
}

/// What an update makes of a document; `None` as `before`: the upsert of nothing.
pub(crate) fn updated(before: Option<&RawDocument>, filter: &RawDocument, update: &RawDocument) -> Bytes {
    let operators = update.iter_elements().next().is_some_and(|e| e.unwrap().key().as_str().starts_with('$'));
    let mut doc = match before {
        Some(before) => Document::try_from(before).unwrap(),
        None => Document::new(),
    };
    let id = match before {
        Some(before) => RawBson::from(before.get("_id").unwrap().unwrap()),
        None => document(update, "$setOnInsert")
            .and_then(|fields| fields.get("_id").unwrap().map(RawBson::from))
            .or_else(|| named_id(filter))
            .unwrap_or_else(|| RawBson::ObjectId(bson::oid::ObjectId::new())),
    };
    if !operators {
        doc = Document::try_from(update).unwrap();
        doc.remove("_id");
    }
    if operators {
        for (operator, fields) in &Document::try_from(update).unwrap() {
            apply(operator, fields.as_document().unwrap(), before.is_none(), &mut doc);
        }
    }
    let mut out = RawDocumentBuf::new();
    out.append(bson::raw::cstr!("_id"), id);
    doc.remove("_id");
    let rest = RawDocumentBuf::try_from(&doc).unwrap();
    for element in rest.iter_elements() {
        let element = element.unwrap();
        out.append(element.key(), element.value().unwrap());
    }
    Bytes::from(out.into_bytes())
}

fn apply(operator: &str, fields: &Document, inserting: bool, doc: &mut Document) {
    for (field, value) in fields {
        match operator {
            "$set" => drop(doc.insert(field, value.clone())),
            "$setOnInsert" if inserting => drop(doc.insert(field, value.clone())),
            "$setOnInsert" => {}
            "$unset" => drop(doc.remove(field)),
            "$inc" => {
                let sum = doc.get_i32(field).unwrap_or(0) + value.as_i32().unwrap();
                doc.insert(field, Bson::Int32(sum));
            }
            other => panic!("the model's store knows no {other}"),
        }
    }
}

/// A document as the store keeps it: an `_id`, first.
pub(crate) fn stored(doc: &RawDocument) -> Bytes {
    let id = doc.get("_id").unwrap().map_or_else(|| RawBson::ObjectId(bson::oid::ObjectId::new()), RawBson::from);
    let mut out = RawDocumentBuf::new();
    out.append(bson::raw::cstr!("_id"), id);
    for element in doc.iter_elements() {
        let element = element.unwrap();
        if element.key().as_str() != "_id" {
            out.append(element.key(), element.value().unwrap());
        }
    }
    Bytes::from(out.into_bytes())
}

/// A BSON array of documents.
pub(crate) fn array(docs: impl IntoIterator<Item = RawDocumentBuf>) -> RawArrayBuf {
    let mut out = RawArrayBuf::new();
    for doc in docs {
        out.push(doc);
    }
    out
}
