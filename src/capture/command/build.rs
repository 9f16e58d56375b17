//! Commands that we send: the injected reads, and the client's statements rebuilt (narrowed, or a part of a batch).
//!
//! Promises: an injected command carries the client's API version fields (else `APIMismatchError`), reads `local`, and
//! names no session of the client (reads outside a session are legal on its connection and cannot disturb it). A rebuilt
//! write keeps every field of the client's command but the statements, and names its statement ids, so that a retry
//! through any sidecar hits the same history.

use bson::raw::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, cstr};

use super::filter;
use super::{Command, Modify, Statement, Verb, body_without};
use crate::capture::error::ShapeError;
use crate::types::Namespace;

/// The stable API fields of the client's command, to be copied into ours.
const API_FIELDS: [&str; 3] = ["apiVersion", "apiStrict", "apiDeprecationErrors"];

/// A command body with its document sequences.
#[derive(Debug)]
pub(crate) struct Request {
    pub body: RawDocumentBuf,
    pub sequences: Vec<(&'static str, Vec<RawDocumentBuf>)>,
}

impl Request {
    fn plain(body: RawDocumentBuf) -> Self {
        Self { body, sequences: Vec::new() }
    }
}

fn api_fields(client: &RawDocument, out: &mut RawDocumentBuf) {
    for element in client.iter_elements().flatten() {
        if API_FIELDS.contains(&element.key().as_str())
            && let Ok(value) = element.value()
        {
            out.append(element.key(), value);
        }
    }
}

fn read_concern_local(out: &mut RawDocumentBuf) {
    let mut concern = RawDocumentBuf::new();
    concern.append(cstr!("level"), "local");
    out.append(cstr!("readConcern"), &*concern);
}

/// `find` of whole documents by `_id`.
pub(crate) fn find_images(ns: &Namespace, ids: &[RawBsonRef<'_>], client: &RawDocument) -> Request {
    let mut condition = RawDocumentBuf::new();
    match ids {
        [one] => condition.append(cstr!("$eq"), *one),
        many => condition.append(cstr!("$in"), filter::array(many)),
    }
    let mut by_id = RawDocumentBuf::new();
    by_id.append(cstr!("_id"), &*condition);
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("find"), ns.collection());
    body.append(cstr!("filter"), &*by_id);
    if ids.len() == 1 {
        body.append(cstr!("limit"), 1);
        body.append(cstr!("singleBatch"), true);
    } else {
        body.append(cstr!("batchSize"), i32::try_from(ids.len()).unwrap_or(i32::MAX).max(1));
    }
    read_concern_local(&mut body);
    api_fields(client, &mut body);
    body.append(cstr!("$db"), ns.db());
    Request::plain(body)
}

/// The next batch of a cursor of ours.
pub(crate) fn get_more(ns: &Namespace, cursor: i64, client: &RawDocument) -> Request {
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("getMore"), cursor);
    body.append(cstr!("collection"), ns.collection());
    api_fields(client, &mut body);
    body.append(cstr!("$db"), ns.db());
    Request::plain(body)
}

/// Gives a cursor of ours back.
pub(crate) fn kill_cursor(ns: &Namespace, cursor: i64, client: &RawDocument) -> Request {
    let mut cursors = RawArrayBuf::new();
    cursors.push(cursor);
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("killCursors"), ns.collection());
    body.append(cstr!("cursors"), cursors);
    api_fields(client, &mut body);
    body.append(cstr!("$db"), ns.db());
    Request::plain(body)
}

/// `find` of the `_id`s that a statement would touch.
pub(crate) fn find_ids(ns: &Namespace, modify: &Modify<'_>, command: &Command<'_>) -> Request {
    let mut projection = RawDocumentBuf::new();
    projection.append(cstr!("_id"), 1);
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("find"), ns.collection());
    body.append(cstr!("filter"), modify.filter);
    body.append(cstr!("projection"), &*projection);
    if let Some(sort) = modify.sort {
        body.append(cstr!("sort"), sort);
    }
    if let Some(hint) = modify.hint {
        body.append(cstr!("hint"), hint);
    }
    if let Some(collation) = modify.collation {
        body.append(cstr!("collation"), collation);
    }
    if let Some(vars) = command.let_vars {
        body.append(cstr!("let"), vars);
    }
    if modify.multi {
        body.append(cstr!("batchSize"), 10_000);
    } else {
        body.append(cstr!("limit"), 1);
        body.append(cstr!("singleBatch"), true);
    }
    read_concern_local(&mut body);
    api_fields(command.body, &mut body);
    body.append(cstr!("$db"), ns.db());
    Request::plain(body)
}

/// [`find_ids`] that is read and planned, and not run: only an error says anything.
pub(crate) fn try_find(ns: &Namespace, modify: &Modify<'_>, command: &Command<'_>) -> Result<Request, ShapeError> {
    let one = Modify { multi: false, ..*modify };
    let find = find_ids(ns, &one, command);
    let mut body = body_without(&find.body, &["limit"])?;
    body.append(cstr!("batchSize"), 0);
    Ok(Request::plain(body))
}

/// The `_id`s that the ids found can also mean under the statement's collation.
pub(crate) fn find_equal_ids(
    ns: &Namespace,
    ids: &[RawBsonRef<'_>],
    modify: &Modify<'_>,
    command: &Command<'_>,
) -> Request {
    let mut condition = RawDocumentBuf::new();
    condition.append(cstr!("$in"), filter::array(ids));
    let mut by_id = RawDocumentBuf::new();
    by_id.append(cstr!("_id"), &*condition);
    let equal = Modify { filter: &by_id, hint: None, sort: None, multi: true, ..*modify };
    find_ids(ns, &equal, command)
}

/// Changes that a statement undergoes before it is forwarded.
#[derive(Debug, Default)]
pub(crate) struct Narrowed {
    /// The predicate that takes the client's place.
    pub filter: Option<RawDocumentBuf>,
    /// The statement must not insert.
    pub strip_upsert: bool,
}

/// One statement with another predicate.
pub(crate) fn statement(
    modify: &Modify<'_>,
    raw: &RawDocument,
    change: &Narrowed,
) -> Result<RawDocumentBuf, ShapeError> {
    let mut out = RawDocumentBuf::new();
    let mut placed = false;
    for element in raw.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        let key = element.key().as_str();
        if change.strip_upsert && key == "upsert" {
            continue;
        }
        match &change.filter {
            Some(filter) if key == modify.filter_key => {
                out.append(element.key(), &**filter);
                placed = true;
            }
            _ => out.append(element.key(), element.value().map_err(ShapeError::bson)?),
        }
    }
    if let (Some(filter), false) = (&change.filter, placed) {
        out.append(cstr!("query"), &**filter);
    }
    Ok(out)
}

/// The client's command with only these statements in it; `docs` stand in for the statements' own bytes.
pub(crate) fn part(
    command: &Command<'_>,
    statements: &[&Statement<'_>],
    docs: Vec<RawDocumentBuf>,
    show_all: bool,
) -> Result<Request, ShapeError> {
    let Some(array) = command.verb.array() else {
        let body = docs.into_iter().next().unwrap_or_default();
        return Ok(Request::plain(acknowledged(command, &body)?));
    };
    let mut skip = vec![array, "nsInfo", "stmtId", "stmtIds"];
    if command.unacknowledged {
        skip.push("writeConcern");
    }
    if show_all && command.verb == Verb::BulkWrite {
        skip.extend(["errorsOnly", "cursor"]);
    }
    let mut body = body_without(command.body, &skip)?;
    if command.txn_number.is_some() {
        let mut ids = RawArrayBuf::new();
        for statement in statements {
            ids.push(command.stmt_ids.of(statement.index));
        }
        body.append(cstr!("stmtIds"), ids);
    }
    let mut sequences = vec![(array, docs)];
    if command.verb == Verb::BulkWrite {
        if show_all {
            body.append(cstr!("errorsOnly"), false);
        }
        sequences.push(("nsInfo", command.ns_info.iter().map(|d| (*d).to_owned()).collect()));
    }
    Ok(Request { body, sequences })
}

/// A body whose writes are acknowledged: `w: 0` has no reply to learn from.
pub(crate) fn acknowledged(command: &Command<'_>, body: &RawDocument) -> Result<RawDocumentBuf, ShapeError> {
    if command.unacknowledged { body_without(body, &["writeConcern"]) } else { Ok(body.to_owned()) }
}
