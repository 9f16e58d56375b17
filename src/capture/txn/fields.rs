//! The fields that make a command part of a transaction (WIRE.md 6), read from the client's and put on ours.

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};

use crate::capture::command::body_without;
use crate::capture::command::build::Request;
use crate::capture::error::ShapeError;
use crate::wire::msg::OpMsg;
use bytes::Bytes;

/// Only the first command of a transaction has these.
pub(super) const START: [&str; 2] = ["startTransaction", "readConcern"];

/// Fields that every command of a transaction has.
const MEMBER: [&str; 4] = ["lsid", "txnNumber", "autocommit", "$clusterTime"];

/// Which transaction a command belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ident {
    /// The whole `lsid`, BSON.
    pub lsid: Vec<u8>,
    /// `lsid.id`.
    pub id: [u8; 16],
    pub number: i64,
    pub start: bool,
}

impl Ident {
    /// `None`: it lacks a session, a number or `autocommit: false`, which no store accepts.
    pub(super) fn of(body: &RawDocument) -> Option<Self> {
        if !matches!(body.get_bool("autocommit"), Ok(false)) {
            return None;
        }
        let lsid = body.get_document("lsid").ok()?;
        let id = lsid.get_binary("id").ok()?.bytes.try_into().ok()?;
        let number = body.get_i64("txnNumber").ok()?;
        let start = matches!(body.get_bool("startTransaction"), Ok(true));
        Some(Self { lsid: lsid.as_bytes().to_vec(), id, number, start })
    }
}

/// Whether a command stands inside a transaction.
pub fn in_transaction(body: &RawDocument) -> bool {
    matches!(body.get_bool("startTransaction"), Ok(true)) || matches!(body.get_bool("autocommit"), Ok(false))
}

fn copy(from: &RawDocument, keys: &[&str], out: &mut RawDocumentBuf) {
    for element in from.iter_elements().flatten() {
        if keys.contains(&element.key().as_str())
            && let Ok(value) = element.value()
        {
            out.append(element.key(), value);
        }
    }
}

/// Makes a read of ours a part of the client's transaction. `start`: it is the first of it; `client` then still has the
/// fields for that.
pub(super) fn joined(request: &Request, client: &RawDocument, start: bool) -> Result<Request, ShapeError> {
    let mut body = body_without(&request.body, &["readConcern"])?;
    copy(client, &MEMBER, &mut body);
    if start {
        copy(client, &START, &mut body);
    }
    Ok(Request { body, sequences: Vec::new() })
}

/// A message of the client without the fields of a first command: one of ours went first.
pub(super) fn not_first(message: &OpMsg) -> Result<Bytes, ShapeError> {
    Ok(message.with_body(&body_without(message.body(), &START)?, 0))
}

/// A piece of the client's first command that goes first after all.
pub(super) fn first(piece: &OpMsg, client: &RawDocument) -> Result<Bytes, ShapeError> {
    let mut body = body_without(piece.body(), &START)?;
    copy(client, &START, &mut body);
    Ok(piece.with_body(&body, 0))
}

/// `abortTransaction` for the transaction of `body`.
pub fn abort_transaction(body: &RawDocument) -> RawDocumentBuf {
    let mut abort = RawDocumentBuf::new();
    abort.append(cstr!("abortTransaction"), 1);
    copy(body, &MEMBER, &mut abort);
    if body.get("autocommit").ok().flatten().is_none() {
        abort.append(cstr!("autocommit"), RawBsonRef::Boolean(false));
    }
    copy(body, &["apiVersion", "apiStrict", "apiDeprecationErrors"], &mut abort);
    abort
}

/// The reply bears this label.
pub(super) fn has_label(reply: &RawDocument, label: &str) -> bool {
    let labels = reply.get_array("errorLabels");
    labels.is_ok_and(|labels| labels.into_iter().flatten().any(|l| l.as_str() == Some(label)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Binary, rawdoc, spec::BinarySubtype};

    fn lsid() -> RawDocumentBuf {
        rawdoc! { "id": Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] } }
    }

    #[test]
    fn a_command_tells_its_transaction() {
        let body = rawdoc! { "find": "c", "lsid": lsid(), "txnNumber": 4_i64, "autocommit": false };
        let ident = Ident::of(&body).unwrap();
        assert_eq!((ident.id, ident.number, ident.start), ([7; 16], 4, false));
        assert!(in_transaction(&body));
        assert!(!in_transaction(&rawdoc! { "insert": "c", "lsid": lsid(), "txnNumber": 4_i64 }));
        assert_eq!(Ident::of(&rawdoc! { "find": "c", "lsid": lsid(), "txnNumber": 4, "autocommit": false }), None);
    }

    #[test]
    fn a_read_of_ours_joins() {
        let read = Request {
            body: rawdoc! { "find": "c", "readConcern": { "level": "local" }, "$db": "d" },
            sequences: vec![],
        };
        let client = rawdoc! {
            "insert": "c", "lsid": lsid(), "txnNumber": 4_i64, "autocommit": false, "startTransaction": true,
            "readConcern": { "level": "snapshot" },
        };
        let first = joined(&read, &client, true).unwrap().body;
        assert_eq!(first.get_document("readConcern").unwrap().get_str("level").unwrap(), "snapshot");
        assert!(first.get_bool("startTransaction").unwrap());
        let later = joined(&read, &client, false).unwrap().body;
        assert!(later.get("readConcern").unwrap().is_none() && later.get("startTransaction").unwrap().is_none());
        assert_eq!(Ident::of(&later).unwrap().number, 4);
    }

    #[test]
    fn an_abort_names_the_transaction() {
        let body =
            rawdoc! { "insert": "c", "lsid": lsid(), "txnNumber": 4_i64, "autocommit": false, "apiVersion": "1" };
        let expected = rawdoc! { "abortTransaction": 1, "lsid": lsid(), "txnNumber": 4_i64, "autocommit": false, "apiVersion": "1" };
        assert_eq!(abort_transaction(&body), expected);
    }
}
