//! How far a walk is, in a form that another process can take up.

use bson::RawBson;
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;

use crate::types::{EntityKey, Lsn};

/// How far a walk is.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The last `_id` that the walk has shown.
    pub(super) after: Option<RawBson>,
    /// Everything up to this key has been looked for.
    pub(super) upper: Option<EntityKey>,
    /// The log's end when it began.
    pub(super) since: Lsn,
    /// All `_id`s of the store have been shown.
    pub(super) listed: bool,
    /// Everything has been compared.
    pub(super) ended: bool,
    /// Entities compared so far.
    pub(super) entities: u64,
}

impl State {
    pub(super) fn new(since: Lsn) -> Self {
        Self { after: None, upper: None, since, listed: false, ended: false, entities: 0 }
    }

    /// Entities compared so far.
    pub fn entities(&self) -> u64 {
        self.entities
    }

    /// Everything up to this key has been compared.
    pub fn upper(&self) -> Option<&EntityKey> {
        self.upper.as_ref()
    }

    /// As a BSON document.
    pub fn to_document(&self) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        if let Some(after) = &self.after {
            out.append(cstr!("after"), after.as_raw_bson_ref());
        }
        if let Some(upper) = &self.upper {
            let bytes = upper.as_bytes();
            out.append(
                cstr!("upper"),
                RawBsonRef::Binary(bson::raw::RawBinaryRef { subtype: BinarySubtype::Generic, bytes }),
            );
        }
        for (name, number) in [(cstr!("since"), self.since.0), (cstr!("entities"), self.entities)] {
            out.append(name, i64::try_from(number).unwrap_or(i64::MAX));
        }
        out.append(cstr!("listed"), self.listed);
        out.append(cstr!("ended"), self.ended);
        out
    }

    /// Reads it back; `None`: it is not one.
    pub fn from_document(doc: &RawDocument) -> Option<Self> {
        let number = |name: &str| doc.get_i64(name).ok().and_then(|n| u64::try_from(n).ok());
        Some(Self {
            after: doc.get("after").ok()?.map(RawBson::from),
            upper: doc.get_binary("upper").ok().map(|b| EntityKey(b.bytes.into())),
            since: Lsn(number("since")?),
            listed: doc.get_bool("listed").ok()?,
            ended: doc.get_bool("ended").ok()?,
            entities: number("entities")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_went() {
        let begun = State::new(Lsn(7));
        let upper = Some(EntityKey([37, 0, 255].as_slice().into()));
        let on = State { after: Some(RawBson::Double(2.5)), upper, listed: true, entities: 9, ..begun.clone() };
        for state in [begun, on] {
            assert_eq!(State::from_document(&state.to_document()), Some(state));
        }
        assert_eq!(State::from_document(&RawDocumentBuf::new()), None);
    }
}
