//! What a store's reply says was done, beside what the images show.
//!
//! Promises: where the counts of a reply are more than what *before* and *after* can tell, somebody who writes past us came in
//! between. Nothing is concluded from an error or from the reply to a retry, which tells of the first try.

use bson::raw::RawDocument;

use super::command::merge::{count, is_ok};

/// How many documents a command met and how many of those it changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub met: usize,
    /// Zero also where the reply does not tell.
    pub changed: usize,
}

impl Told {
    /// Reads the counts of a reply to any write command (`n`, `nModified`, `upserted`, `lastErrorObject`, those of `bulkWrite`).
    pub(crate) fn by(reply: &RawDocument) -> Self {
        let has = |doc: &RawDocument, field: &str| doc.get(field).ok().flatten().is_some();
        if !is_ok(reply) || has(reply, "retriedStmtIds") || has(reply, "retriedStmtId") {
            return Self::default();
        }
        let sum = |fields: &[&str]| fields.iter().map(|field| count(reply, field)).sum::<i64>();
        let (met, changed) = if let Ok(modified) = reply.get_document("lastErrorObject") {
            let n = count(modified, "n");
            // Whether what was there already was changed is not told.
            let changed = has(modified, "upserted") || !has(modified, "updatedExisting");
            (n, if changed { n } else { 0 })
        } else if has(reply, "cursor") {
            let made = sum(&["nInserted", "nUpserted", "nDeleted"]);
            (made + count(reply, "nMatched"), made + count(reply, "nModified"))
        } else if has(reply, "nModified") {
            let made = reply.get_array("upserted").map_or(0, |list| list.into_iter().count());
            (count(reply, "n"), count(reply, "nModified") + i64::try_from(made).unwrap_or(0))
        } else {
            (count(reply, "n"), count(reply, "n"))
        };
        let [met, changed] = [met, changed].map(|n| usize::try_from(n).unwrap_or(0));
        Self { met, changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn told(reply: &bson::RawDocumentBuf) -> (usize, usize) {
        let Told { met, changed } = Told::by(reply);
        (met, changed)
    }

    #[test]
    fn each_kind_of_reply_tells() {
        assert_eq!(told(&rawdoc! { "n": 3, "nModified": 2, "ok": 1.0 }), (3, 2));
        assert_eq!(
            told(&rawdoc! { "n": 1, "nModified": 0, "upserted": [{ "index": 0, "_id": 1 }], "ok": 1.0 }),
            (1, 1)
        );
        assert_eq!(told(&rawdoc! { "n": 2, "ok": 1 }), (2, 2));
        let bulk = rawdoc! { "cursor": {}, "nInserted": 1, "nMatched": 4, "nModified": 2, "nUpserted": 1, "nDeleted": 3, "ok": 1.0 };
        assert_eq!(told(&bulk), (9, 7));
        assert_eq!(told(&rawdoc! { "lastErrorObject": { "n": 1, "updatedExisting": true }, "ok": 1.0 }), (1, 0));
        assert_eq!(
            told(&rawdoc! { "lastErrorObject": { "n": 1, "updatedExisting": false, "upserted": 7 }, "ok": 1.0 }),
            (1, 1)
        );
        assert_eq!(told(&rawdoc! { "lastErrorObject": { "n": 1 }, "ok": 1.0 }), (1, 1));
    }

    #[test]
    fn nothing_is_told_by_an_error_or_a_retry() {
        assert_eq!(told(&rawdoc! { "n": 3, "ok": 0.0 }), (0, 0));
        assert_eq!(told(&rawdoc! { "n": 1, "retriedStmtIds": [0], "ok": 1.0 }), (0, 0));
        assert_eq!(told(&rawdoc! { "lastErrorObject": { "n": 1 }, "retriedStmtId": 0, "ok": 1.0 }), (0, 0));
    }
}
