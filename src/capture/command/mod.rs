//! A client's write command, taken apart without copying: verb, statements, and what applies to all of them.
//!
//! Knows the five write commands in the shapes of WIRE.md 4.1 and 4.2, with document sequences or arrays in the body.
//! Strict: whatever it does not know is a [`ShapeError`], and the command then goes to the store whole.

pub(super) mod build;
pub(super) mod filter;
pub(super) mod merge;

use bson::raw::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf};
use bytes::Bytes;

use crate::capture::cursors::batch_size;
use crate::capture::error::ShapeError;
use crate::types::Namespace;
use crate::wire::msg::{OpMsg, document};

/// Which write command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Insert,
    Update,
    Delete,
    FindAndModify,
    BulkWrite,
}

impl Verb {
    /// The name of the statements' array, where there is one.
    pub(crate) fn array(self) -> Option<&'static str> {
        match self {
            Self::Insert => Some("documents"),
            Self::Update => Some("updates"),
            Self::Delete => Some("deletes"),
            Self::BulkWrite => Some("ops"),
            Self::FindAndModify => None,
        }
    }
}

/// What one statement does.
#[derive(Clone, Debug)]
pub(crate) enum Action<'m> {
    Insert { doc: Bytes },
    Modify(Modify<'m>),
}

/// An update or delete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Modify<'m> {
    /// The predicate.
    pub filter: &'m RawDocument,
    /// The key under which the predicate stands: `q`, `filter` or `query`.
    pub filter_key: &'static str,
    /// `None`: a delete.
    pub update: Option<RawBsonRef<'m>>,
    pub multi: bool,
    pub upsert: bool,
    pub collation: Option<&'m RawDocument>,
    pub hint: Option<RawBsonRef<'m>>,
    pub sort: Option<&'m RawDocument>,
}

impl Modify<'_> {
    /// The update is a whole document that takes the old one's place.
    pub(crate) fn is_replacement(&self) -> bool {
        let Some(RawBsonRef::Document(doc)) = self.update else { return false };
        let first = doc.iter_elements().next().and_then(Result::ok);
        first.is_none_or(|e| !e.key().as_str().starts_with('$'))
    }
}

/// One statement of a command.
#[derive(Clone, Debug)]
pub(crate) struct Statement<'m> {
    /// Position in the command.
    pub index: usize,
    pub ns: Namespace,
    /// The statement as the client wrote it (for `findAndModify`: the body).
    pub raw: &'m RawDocument,
    pub action: Action<'m>,
}

/// A whole command.
#[derive(Debug)]
pub(crate) struct Command<'m> {
    pub verb: Verb,
    /// For `bulkWrite`: `admin.$cmd.bulkWrite`.
    pub ns: Namespace,
    pub body: &'m RawDocument,
    pub statements: Vec<Statement<'m>>,
    /// `bulkWrite` only.
    pub ns_info: Vec<&'m RawDocument>,
    pub ordered: bool,
    pub let_vars: Option<&'m RawDocument>,
    pub lsid: Option<[u8; 16]>,
    pub txn_number: Option<i64>,
    /// First statement id, or the explicit list.
    pub stmt_ids: StmtIds,
    pub comment: Option<RawBsonRef<'m>>,
    /// `writeConcern.w` is 0.
    pub unacknowledged: bool,
    /// `bulkWrite` only.
    pub errors_only: bool,
    /// `bulkWrite` only: results in a page of the reply.
    pub batch_size: Option<usize>,
}

/// Statement ids of a retryable write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StmtIds {
    From(i32),
    List(Vec<i32>),
}

impl StmtIds {
    pub(crate) fn of(&self, index: usize) -> i32 {
        let position = i32::try_from(index).unwrap_or(i32::MAX);
        match self {
            Self::From(first) => first.saturating_add(position),
            Self::List(list) => list.get(index).copied().unwrap_or(position),
        }
    }
}

/// The documents that a command's statements stand in, shared with the message.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    statements: Vec<Bytes>,
    ns_info: Vec<Bytes>,
}

/// Finds the statements, in sequences or in the body.
pub(crate) fn parts(verb: Verb, message: &OpMsg) -> Result<Parts, ShapeError> {
    let Some(array) = verb.array() else {
        return match message.sequence_ids().next() {
            None => Ok(Parts::default()),
            Some(_) => Err(ShapeError::field("sequence", "this command has none")),
        };
    };
    if message.sequence_ids().any(|id| id != array && !(verb == Verb::BulkWrite && id == "nsInfo")) {
        return Err(ShapeError::field("sequence", "unknown identifier"));
    }
    let missing = || ShapeError::field(array, "missing, or an element is not a document");
    let statements = message.documents(array).ok_or_else(missing)?;
    let ns_info = if verb == Verb::BulkWrite { message.documents("nsInfo").ok_or_else(missing)? } else { Vec::new() };
    if statements.is_empty() {
        return Err(ShapeError::field(array, "is empty"));
    }
    Ok(Parts { statements, ns_info })
}

/// Takes a message apart.
pub(crate) fn parse<'m>(verb: Verb, message: &'m OpMsg, parts: &'m Parts) -> Result<Command<'m>, ShapeError> {
    let body = message.body();
    let db = body.get_str("$db").map_err(ShapeError::bson)?;
    let ns = match (verb, message.command().1) {
        (Verb::BulkWrite, _) => Namespace::from_full("admin.$cmd.bulkWrite"),
        (_, Some(collection)) if !collection.is_empty() => Namespace::new(db, collection),
        _ => return Err(ShapeError::field("collection", "is not a name")),
    };
    let mut command = Command {
        verb,
        ns,
        body,
        statements: Vec::new(),
        ns_info: parts.ns_info.iter().map(|b| document(b)).collect(),
        ordered: true,
        let_vars: None,
        lsid: None,
        txn_number: None,
        stmt_ids: StmtIds::From(0),
        comment: None,
        unacknowledged: false,
        errors_only: false,
        batch_size: None,
    };
    common_fields(&mut command)?;
    command.statements = statements(&command, parts)?;
    Ok(command)
}

fn common_fields(command: &mut Command<'_>) -> Result<(), ShapeError> {
    for element in command.body.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        let key = element.key().as_str();
        let value = element.value().map_err(ShapeError::bson)?;
        match (key, value) {
            ("ordered", RawBsonRef::Boolean(b)) => command.ordered = b,
            ("let", RawBsonRef::Document(d)) => command.let_vars = Some(d),
            ("lsid", RawBsonRef::Document(d)) => command.lsid = session_id(d),
            ("txnNumber", RawBsonRef::Int64(n)) => command.txn_number = Some(n),
            ("stmtId", RawBsonRef::Int32(n)) => command.stmt_ids = StmtIds::From(n),
            ("stmtIds", RawBsonRef::Array(a)) => command.stmt_ids = StmtIds::List(integers(a)),
            ("comment", value) => command.comment = Some(value),
            ("errorsOnly", RawBsonRef::Boolean(b)) => command.errors_only = b,
            ("cursor", RawBsonRef::Document(d)) => command.batch_size = batch_size(d),
            ("writeConcern", RawBsonRef::Document(d)) => {
                command.unacknowledged = matches!(number(d.get("w").ok().flatten()), Some(0));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The 16 bytes of `lsid.id`.
fn session_id(lsid: &RawDocument) -> Option<[u8; 16]> {
    lsid.get_binary("id").ok().and_then(|b| b.bytes.try_into().ok())
}

fn integers(array: &RawArray) -> Vec<i32> {
    let numbers = array.into_iter().filter_map(|v| number(v.ok()));
    numbers.map(|n| i32::try_from(n).unwrap_or(-1)).collect()
}

/// Any number as an integer; a double only when it is whole.
pub(crate) fn number(value: Option<RawBsonRef<'_>>) -> Option<i64> {
    match value? {
        RawBsonRef::Int32(n) => Some(n.into()),
        RawBsonRef::Int64(n) => Some(n),
        #[allow(clippy::cast_possible_truncation, reason = "the guard admits whole numbers of 32 bits only")]
        RawBsonRef::Double(d) if d.fract() == 0.0 && d.abs() <= f64::from(i32::MAX) => Some(d as i64),
        _ => None,
    }
}

fn statements<'m>(command: &Command<'m>, parts: &'m Parts) -> Result<Vec<Statement<'m>>, ShapeError> {
    if command.verb == Verb::FindAndModify {
        let action = Action::Modify(modify(command.body, "query", &FIND_AND_MODIFY)?);
        return Ok(vec![Statement { index: 0, ns: command.ns.clone(), raw: command.body, action }]);
    }
    let mut out = Vec::with_capacity(parts.statements.len());
    for (index, bytes) in parts.statements.iter().enumerate() {
        let raw = document(bytes);
        let (ns, action) = match command.verb {
            Verb::Insert => (command.ns.clone(), Action::Insert { doc: bytes.clone() }),
            Verb::Update => (command.ns.clone(), Action::Modify(modify(raw, "q", &UPDATE)?)),
            Verb::Delete => (command.ns.clone(), Action::Modify(modify(raw, "q", &DELETE)?)),
            Verb::BulkWrite => bulk_op(command, bytes)?,
            Verb::FindAndModify => continue,
        };
        out.push(Statement { index, ns, raw, action });
    }
    Ok(out)
}

fn bulk_op<'m>(command: &Command<'m>, bytes: &'m Bytes) -> Result<(Namespace, Action<'m>), ShapeError> {
    let op = document(bytes);
    let first = op.iter_elements().next().ok_or_else(|| ShapeError::field("ops", "an operation is empty"))?;
    let first = first.map_err(ShapeError::bson)?;
    let position = number(first.value().ok()).and_then(|n| usize::try_from(n).ok());
    let info = position.and_then(|n| command.ns_info.get(n));
    let info = info.ok_or_else(|| ShapeError::field("nsInfo", "an operation names an entry that is not there"))?;
    let ns = Namespace::from_full(info.get_str("ns").map_err(ShapeError::bson)?);
    let action = match first.key().as_str() {
        "insert" => {
            let doc = op.get_document("document").map_err(ShapeError::bson)?;
            Action::Insert { doc: bytes.slice_ref(doc.as_bytes()) }
        }
        "update" => Action::Modify(modify(op, "filter", &BULK_UPDATE)?),
        "delete" => Action::Modify(modify(op, "filter", &BULK_DELETE)?),
        _ => return Err(ShapeError::field("ops", "unknown operation")),
    };
    Ok((ns, action))
}

/// Which fields a statement may have.
struct Shape {
    known: &'static [&'static str],
    /// The field that holds the update; none for deletes.
    update: Option<&'static str>,
    /// Fields that are not this statement's own are let through (a `findAndModify` body has the command's).
    open: bool,
}

const UPDATE: Shape = Shape { known: &["arrayFilters", "c"], update: Some("u"), open: false };
const DELETE: Shape = Shape { known: &["limit"], update: None, open: false };
const BULK_UPDATE: Shape =
    Shape { known: &["update", "arrayFilters", "constants"], update: Some("updateMods"), open: false };
const BULK_DELETE: Shape = Shape { known: &["delete"], update: None, open: false };
const FIND_AND_MODIFY: Shape = Shape { known: &[], update: Some("update"), open: true };

fn modify<'m>(doc: &'m RawDocument, filter_key: &'static str, shape: &Shape) -> Result<Modify<'m>, ShapeError> {
    let (mut filter, mut remove, mut limit) = (None, false, None);
    let mut out = Modify {
        filter: document(&[]),
        filter_key,
        update: None,
        multi: false,
        upsert: false,
        collation: None,
        hint: None,
        sort: None,
    };
    for element in doc.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        let name = element.key().as_str();
        let value = element.value().map_err(ShapeError::bson)?;
        match (name, value) {
            (name, RawBsonRef::Document(d)) if name == filter_key => filter = Some(d),
            // A filter of another type is the store's to refuse: without one, every document would match.
            (name, _) if name == filter_key => return Err(ShapeError::field(name, "is not a document")),
            (name, value) if Some(name) == shape.update => out.update = Some(value),
            ("multi", RawBsonRef::Boolean(b)) if !shape.open => out.multi = b,
            ("upsert", value) if shape.update.is_some() => out.upsert = truth(name, value)?,
            ("remove", value) if shape.open => remove = truth(name, value)?,
            ("limit", value) if shape.known.contains(&"limit") => limit = number(Some(value)),
            ("collation", RawBsonRef::Document(d)) => out.collation = Some(d),
            ("hint", value @ (RawBsonRef::String(_) | RawBsonRef::Document(_))) => out.hint = Some(value),
            ("sort", RawBsonRef::Document(d)) => out.sort = Some(d),
            (name, _) if shape.known.contains(&name) || shape.open => {}
            _ => return Err(ShapeError::field(name, "unknown, or not of the documented type")),
        }
    }
    out.filter = match filter {
        Some(filter) => filter,
        None if shape.open => out.filter,
        None => return Err(ShapeError::field(filter_key, "missing")),
    };
    finish(out, shape, remove, limit)
}

/// Cross-field rules: those that the server itself enforces before it touches anything.
fn finish<'m>(mut out: Modify<'m>, shape: &Shape, remove: bool, limit: Option<i64>) -> Result<Modify<'m>, ShapeError> {
    if shape.known.contains(&"limit") {
        out.multi = match limit {
            Some(0) => true,
            Some(1) => false,
            _ => return Err(ShapeError::field("limit", "must be 0 or 1")),
        };
    }
    match (shape.update.is_some(), remove, out.update) {
        (true, false, Some(RawBsonRef::Document(_) | RawBsonRef::Array(_))) | (false, _, None) | (true, true, None) => {
        }
        _ => return Err(ShapeError::field("update", "missing, or not a document or pipeline")),
    }
    if out.multi && out.sort.is_some() {
        return Err(ShapeError::field("sort", "not with multi"));
    }
    if remove && out.upsert {
        return Err(ShapeError::field("upsert", "not with remove"));
    }
    Ok(out)
}

/// `true`, or any number that is not zero.
fn truth(name: &str, value: RawBsonRef<'_>) -> Result<bool, ShapeError> {
    match value {
        RawBsonRef::Boolean(b) => Ok(b),
        value => number(Some(value)).map(|n| n != 0).ok_or_else(|| ShapeError::field(name, "is not a boolean")),
    }
}

/// Bytes of a comment that are kept; the rest is cut, and `…` stands for it.
const COMMENT: usize = 4096;

fn bounded(mut text: String) -> String {
    if text.len() > COMMENT {
        let end = text.floor_char_boundary(COMMENT);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The command's comment as text, and the `traceparent` inside it (a string that is one, or a field of that name).
pub(crate) fn comment(command: &Command<'_>) -> (String, String) {
    let Some(value) = command.comment else { return (String::new(), String::new()) };
    let trace = match value {
        RawBsonRef::String(s) if is_traceparent(s) => s.to_owned(),
        RawBsonRef::Document(d) => d.get_str("traceparent").map(str::to_owned).unwrap_or_default(),
        _ => String::new(),
    };
    let text = match value {
        RawBsonRef::String(s) => s.to_owned(),
        other => extended_json(other),
    };
    (bounded(text), trace)
}

/// Canonical Extended JSON of a value; empty when it is not valid BSON.
pub(crate) fn extended_json(value: RawBsonRef<'_>) -> String {
    bson::Bson::try_from(value).map(|b| b.into_canonical_extjson().to_string()).unwrap_or_default()
}

/// W3C trace context: `version-traceid-parentid-flags`, lower-case hex, 2+32+16+2 digits.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let lengths: Vec<_> = parts.iter().map(|p| p.len()).collect();
    lengths == [2, 32, 16, 2] && parts.iter().all(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A copy of the client's body without the fields that `skip` names.
pub(crate) fn body_without(body: &RawDocument, skip: &[&str]) -> Result<RawDocumentBuf, ShapeError> {
    let mut out = RawDocumentBuf::new();
    for element in body.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        if !skip.contains(&element.key().as_str()) {
            out.append(element.key(), element.value().map_err(ShapeError::bson)?);
        }
    }
    Ok(out)
}
