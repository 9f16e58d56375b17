//! A write command outside a transaction, from the message to the reply.
//!
//! The command is cut into pieces (see the decisions in [`super`]); each piece is a round of the movement in `piece`; the
//! replies of several pieces become one. A command that cannot be taken apart goes to the store whole, alone in its
//! namespaces, and they are verified unless the store did nothing.

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::command::build;
use super::command::filter::literal_id;
use super::command::merge::{Merged, error_count, is_ok};
use super::command::{self, Action, Command, Statement, Verb, comment};
use super::compare::Cause;
use super::error::{CaptureError, ShapeError};
use super::namespace::NsInfo;
use super::observe::{Target, encode};
use super::piece::{Aim, Cx, Done, Piece, PieceError, Style, with_number};
use super::txn::limit_of;
use super::verify::Alone;
use super::{Capture, Outcome, Session};
use crate::changelog::Durable;
use crate::entity::key_of;
use crate::store::Upstream;
use crate::types::{EntityKey, Found, Image, Namespace, Op};
use crate::wire::command::WriteKind;
use crate::wire::msg::{OpMsg, document, flag};

/// Statements that travel together at most. Inserts need no reads and may be as many as a command can hold.
const GROUP: usize = 1_000;

/// A part of a command that is worked off at once.
#[derive(Debug)]
pub(crate) enum Work {
    /// Statements that name different entities.
    Group(Vec<usize>),
    /// A statement whose entities must be found.
    Single(usize),
}

/// Statements that name their entities, made ready to go.
pub(crate) struct Ready<'c, 'm> {
    pub statements: Vec<&'c Statement<'m>>,
    pub aims: Vec<Aim>,
    /// The statements' bytes, as they are to be sent.
    pub docs: Vec<Bytes>,
    pub style: Style,
    /// A document got its `_id` here.
    pub given: bool,
}

/// What one part came to.
pub(crate) struct Came {
    pub replies: Vec<OpMsg>,
    /// The replies show more than the client asked for.
    pub all_shown: bool,
    pub durable: Durable,
}

impl From<Done> for Came {
    fn from(done: Done) -> Self {
        Self { replies: vec![done.reply], all_shown: false, durable: done.durable }
    }
}

impl Capture {
    /// Carries a client's write command through.
    ///
    /// # Errors
    /// [`CaptureError::Refused`]: nothing was forwarded, the client gets the error. Any other: close the client's connection
    /// without an answer; what reached the store is (or will be) in the log.
    pub async fn write(
        &self,
        session: &mut Session,
        upstream: &mut Upstream,
        kind: WriteKind,
        message: &OpMsg,
    ) -> Result<Outcome, CaptureError> {
        let retryable = message.body().get("txnNumber").is_ok_and(|n| n.is_some());
        self.admit(retryable)?;
        self.epochs.known().await;
        let _room = self.log.reserve(u64::try_from(message.bytes().len()).unwrap_or(u64::MAX)).await?;
        let verb = verb(kind);
        if is_stray(message.body()) {
            return self.opaque(session, upstream, verb, message).await;
        }
        let Ok(parts) = command::parts(verb, message) else {
            return self.opaque(session, upstream, verb, message).await;
        };
        let Ok(command) = command::parse(verb, message, &parts) else {
            return self.opaque(session, upstream, verb, message).await;
        };
        let (comment, traceparent) = comment(&command);
        let cause = Cause {
            origin: session.origin.clone(),
            comment,
            traceparent,
            correlation: correlation(session, message),
            lsid: command.lsid,
            txn_number: command.txn_number,
            operation_time: None,
            found: Found::Touch,
        };
        let limit = limit_of(message.body());
        let mut cx = Cx { session, upstream, command: &command, message, cause, limit };
        let outcome = match self.work_off(&mut cx).await {
            Err(PieceError::Capture(error)) => Err(error),
            Err(PieceError::TooLarge) => Err(CaptureError::Answer("one document is larger than the budget".to_owned())),
            Ok(outcome) => Ok(outcome),
        };
        self.newer_number(session, message.body()).await;
        outcome
    }

    async fn work_off(&self, cx: &mut Cx<'_>) -> Result<Outcome, PieceError> {
        let namespaces: BTreeSet<Namespace> = cx.command.statements.iter().map(|s| s.ns.clone()).collect();
        let mut plain = true;
        let mut infos = Vec::new();
        for ns in namespaces {
            let info = self.namespace(&ns).await?;
            plain &= info.excluded;
            infos.push((ns, info));
        }
        let response_to = cx.message.request_id();
        if plain {
            let reply = self.forward(cx, original(cx.command, cx.message)?).await?;
            let durable = self.log.nothing_to_log().map_err(CaptureError::from)?;
            return Ok(Outcome { reply: answer(&reply, response_to), durable });
        }
        let mut queue = cut(cx.command, &infos);
        let mut whole = queue.len() == 1;
        let (mut merged, mut last) = (Merged::default(), None);
        while let Some(work) = queue.pop_front() {
            let came = match &work {
                Work::Group(indices) => self.group(cx, indices, whole).await,
                Work::Single(index) => self.single(cx, *index, whole).await,
            };
            let came = match (came, work) {
                (Err(PieceError::TooLarge), Work::Group(indices)) if indices.len() > 1 => {
                    whole = false;
                    let (a, b) = indices.split_at(indices.len() / 2);
                    queue.push_front(Work::Group(b.to_vec()));
                    queue.push_front(Work::Group(a.to_vec()));
                    continue;
                }
                (came, work) => (came?, work),
            };
            let (came, work) = came;
            if let (true, false, [reply]) = (whole, came.all_shown, came.replies.as_slice()) {
                return Ok(Outcome { reply: answer(reply, response_to), durable: came.durable });
            }
            let places = match work {
                Work::Group(indices) => indices,
                Work::Single(index) => vec![index],
            };
            for (chunk, reply) in came.replies.iter().enumerate() {
                merged.add(reply.body(), &places, chunk > 0).map_err(shape)?;
            }
            last = came.replies.into_iter().next_back();
            if merged.is_fatal() || (cx.command.ordered && merged.has_failed()) {
                break;
            }
        }
        let last = last.ok_or_else(|| CaptureError::Answer("a command without statements".to_owned()))?;
        let durable = self.log.nothing_to_log().map_err(CaptureError::from)?;
        let reply = match cx.command.verb {
            Verb::FindAndModify => answer(&last, response_to),
            _ => with_number(
                last.with_body(&merged.finish(cx.command, &self.cursors).map_err(shape)?, 0),
                8,
                response_to,
            ),
        };
        Ok(Outcome { reply, durable })
    }

    /// Statements that name their entities.
    async fn group(&self, cx: &mut Cx<'_>, indices: &[usize], whole: bool) -> Result<Came, PieceError> {
        let Ready { statements, mut aims, docs, style, given } = self.ready(cx.command, indices).map_err(shape)?;
        let forward = if whole && !given {
            original(cx.command, cx.message)?
        } else {
            let docs = docs.into_iter().map(|d| document(&d).to_owned()).collect();
            encode(&build::part(cx.command, &statements, docs, !whole).map_err(shape)?, 0)
        };
        if let ([statement], [aim], true) = (statements.as_slice(), aims.as_slice(), whole)
            && let Some(came) = self.swap(cx, statement, aim).await?
        {
            return Ok(came);
        }
        aims.sort_by(|a, b| (&a.target.ns, &a.target.key).cmp(&(&b.target.ns, &b.target.key)));
        let hold = self.guard(&aims, cx.limit).await?;
        Ok(self.run(cx, Piece { aims, forward, style }, hold).await?.into())
    }

    /// Makes the statements of a group ready.
    pub(crate) fn ready<'c, 'm>(
        &self,
        command: &'c Command<'m>,
        indices: &[usize],
    ) -> Result<Ready<'c, 'm>, ShapeError> {
        let statements: Vec<&'c Statement<'m>> = indices.iter().filter_map(|i| command.statements.get(*i)).collect();
        let mut aims = Vec::with_capacity(statements.len());
        let mut docs = Vec::with_capacity(statements.len());
        let (mut inserts, mut deletes, mut given) = (true, true, false);
        for (position, statement) in statements.iter().enumerate() {
            if self.is_excluded(&statement.ns) {
                docs.push(Bytes::copy_from_slice(statement.raw.as_bytes()));
                continue;
            }
            let aimed = aim(command, statement, position)?;
            inserts &= matches!(statement.action, Action::Insert { .. });
            deletes &= matches!(&statement.action, Action::Modify(m) if m.update.is_none() && command.verb != Verb::FindAndModify);
            given |= aimed.given;
            docs.push(aimed.raw);
            aims.extend(aimed.aim);
        }
        let style = match (inserts, deletes) {
            (true, _) => Style::Inserts,
            (_, true) => Style::Deletes,
            _ => Style::Reads,
        };
        Ok(Ready { statements, aims, docs, style, given })
    }

    /// A command that we cannot take apart: the store judges it, alone in the namespaces that it may mean.
    pub(crate) async fn opaque(
        &self,
        session: &mut Session,
        upstream: &mut Upstream,
        verb: Verb,
        message: &OpMsg,
    ) -> Result<Outcome, CaptureError> {
        let namespaces = mentioned(verb, message);
        let cause =
            Cause { origin: session.origin.clone(), correlation: correlation(session, message), ..Cause::default() };
        let body = message.body();
        let unacknowledged =
            body.get_document("writeConcern").is_ok_and(|c| command::number(c.get("w").ok().flatten()) == Some(0));
        let skip: &[&str] = if unacknowledged { &["writeConcern"] } else { &[] };
        let body = command::body_without(body, skip).map_err(shape)?;
        let forward = message.with_body(&body, 0);
        let alone = Alone { namespaces: &namespaces, cause, forward, limit: limit_of(message.body()) };
        let (reply, durable) = self.alone(session, upstream, alone).await?;
        Ok(Outcome { reply: answer(&reply, message.request_id()), durable })
    }
}

/// Fields of a transaction without one. No store takes them; on reads of ours they would be refused there, beside a write that
/// was not.
fn is_stray(body: &RawDocument) -> bool {
    ["autocommit", "startTransaction"].iter().any(|key| body.get(key).is_ok_and(|value| value.is_some()))
}

/// A shape that broke after it had been accepted.
pub(crate) fn shape(error: ShapeError) -> CaptureError {
    error.into()
}

pub(crate) fn verb(kind: WriteKind) -> Verb {
    match kind {
        WriteKind::Insert => Verb::Insert,
        WriteKind::Update => Verb::Update,
        WriteKind::Delete => Verb::Delete,
        WriteKind::FindAndModify => Verb::FindAndModify,
        WriteKind::BulkWrite => Verb::BulkWrite,
    }
}

pub(crate) fn correlation(session: &Session, message: &OpMsg) -> u64 {
    let id = u32::from_le_bytes(message.request_id().to_le_bytes());
    session.origin.connection << 32 | u64::from(id)
}

/// The namespaces that a malformed command may mean.
pub(crate) fn mentioned(verb: Verb, message: &OpMsg) -> Vec<Namespace> {
    let db = message.db().unwrap_or_default();
    let mut out = BTreeSet::new();
    if verb == Verb::BulkWrite {
        for info in message.documents("nsInfo").unwrap_or_default() {
            out.extend(document(&info).get_str("ns").ok().map(Namespace::from_full));
        }
    } else if let Some(collection) = message.command().1 {
        out.insert(Namespace::new(db, collection));
    }
    out.into_iter().collect()
}

/// The client's message as it is, but acknowledged and without a checksum.
pub(crate) fn original(command: &Command<'_>, message: &OpMsg) -> Result<Bytes, CaptureError> {
    if command.unacknowledged {
        let body = build::acknowledged(command, message.body()).map_err(shape)?;
        return Ok(message.with_body(&body, 0));
    }
    if message.flags() & (flag::CHECKSUM | flag::MORE_TO_COME) != 0 {
        return Ok(message.with_body(message.body(), 0));
    }
    Ok(Bytes::from(BytesMut::from(&message.bytes()[..])))
}

/// The store's reply under the client's number.
pub(crate) fn answer(reply: &OpMsg, response_to: i32) -> Bytes {
    let bytes =
        if reply.flags() & flag::CHECKSUM == 0 { reply.bytes().clone() } else { reply.with_body(reply.body(), 0) };
    with_number(bytes, 8, response_to)
}

/// Cuts a command into parts. Consecutive statements with literal, different `_id`s stay together.
pub(crate) fn cut(command: &Command<'_>, infos: &[(Namespace, Arc<NsInfo>)]) -> VecDeque<Work> {
    let mut out = VecDeque::new();
    let mut group: Vec<usize> = Vec::new();
    let mut taken = BTreeSet::new();
    let mut only_inserts = true;
    for statement in &command.statements {
        let info = infos.iter().find(|(ns, _)| *ns == statement.ns).map(|(_, info)| info);
        let collated = info.is_some_and(|info| info.collated);
        if info.is_some_and(|info| info.excluded) {
            group.push(statement.index);
            continue;
        }
        let insert = matches!(statement.action, Action::Insert { .. });
        let entity = match named(statement, collated) {
            Named::One(key) => Some((statement.ns.clone(), key)),
            Named::Nobody => None,
            Named::Search => {
                if !group.is_empty() {
                    out.push_back(Work::Group(std::mem::take(&mut group)));
                }
                taken.clear();
                only_inserts = true;
                out.push_back(Work::Single(statement.index));
                continue;
            }
        };
        let full = group.len() >= GROUP && !(only_inserts && insert);
        let again = entity.as_ref().is_some_and(|entity| taken.contains(entity));
        if (full || again) && !group.is_empty() {
            out.push_back(Work::Group(std::mem::take(&mut group)));
            taken.clear();
            only_inserts = true;
        }
        taken.extend(entity);
        only_inserts &= insert;
        group.push(statement.index);
    }
    if !group.is_empty() {
        out.push_back(Work::Group(group));
    }
    out
}

/// What a statement says about its entities.
enum Named {
    /// It is this one, or none.
    One(EntityKey),
    /// It names none: the store will make or refuse the `_id`.
    Nobody,
    /// They must be found.
    Search,
}

fn named(statement: &Statement<'_>, collated: bool) -> Named {
    match &statement.action {
        Action::Insert { doc } => {
            let id = document(doc).get("_id").ok().flatten();
            id.and_then(|id| key_of(&id).ok()).map_or(Named::Nobody, Named::One)
        }
        Action::Modify(modify) => {
            let simple = modify.collation.is_none() && !collated;
            let id = literal_id(modify.filter).filter(|id| simple || !has_text(id));
            let id = id.filter(|_| !(modify.multi && modify.upsert));
            id.and_then(|id| key_of(&id).ok()).map_or(Named::Search, Named::One)
        }
    }
}

/// A collation can only matter for strings.
fn has_text(id: &RawBsonRef<'_>) -> bool {
    matches!(id, RawBsonRef::String(_) | RawBsonRef::Symbol(_) | RawBsonRef::Document(_))
}

/// A statement made ready.
struct Aimed {
    aim: Option<Aim>,
    raw: Bytes,
    /// The document got its `_id` here.
    given: bool,
}

fn aim(command: &Command<'_>, statement: &Statement<'_>, position: usize) -> Result<Aimed, ShapeError> {
    let stmt_id = command.stmt_ids.of(statement.index);
    match &statement.action {
        Action::Modify(modify) => {
            let op = if modify.is_replacement() { Op::Replace } else { Op::Update };
            let id = literal_id(modify.filter).ok_or_else(|| ShapeError::field("_id", "is not a literal"))?;
            let target = Target::new(&statement.ns, id).map_err(|e| ShapeError::Bson(e.to_string()))?;
            let raw = Bytes::copy_from_slice(statement.raw.as_bytes());
            Ok(Aimed { aim: Some(Aim { target, op, stmt_id, insert: None }), raw, given: false })
        }
        Action::Insert { doc } => {
            let (doc, given) = with_id(doc)?;
            let mut image = Some(stored(&doc)?);
            if has_empty_timestamp(document(&doc)) {
                image = None;
            }
            let id = document(&doc).get("_id").ok().flatten();
            let id = id.ok_or_else(|| ShapeError::field("_id", "cannot be read"))?;
            let aim = Target::new(&statement.ns, id).ok();
            let aim = aim.map(|target| Aim { target, op: Op::Insert, stmt_id, insert: Some((position, image)) });
            let raw = match (command.verb, given) {
                (Verb::BulkWrite, true) => bulk_insert(statement.raw, &doc)?,
                (Verb::BulkWrite, false) => Bytes::copy_from_slice(statement.raw.as_bytes()),
                _ => doc,
            };
            Ok(Aimed { aim, raw, given })
        }
    }
}

/// The document with an `_id`: a missing one gets an `ObjectId`, first.
fn with_id(doc: &Bytes) -> Result<(Bytes, bool), ShapeError> {
    let raw = document(doc);
    for element in raw.iter_elements() {
        if element.map_err(ShapeError::bson)?.key() == cstr!("_id") {
            return Ok((doc.clone(), false));
        }
    }
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("_id"), bson::oid::ObjectId::new());
    let (head, tail) = (out.as_bytes(), raw.as_bytes().get(4..).unwrap_or_default());
    let len =
        i32::try_from(head.len() - 1 + tail.len()).map_err(|_large| ShapeError::field("document", "too large"))?;
    let mut bytes = BytesMut::with_capacity(head.len() + tail.len());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(head.get(4..head.len() - 1).unwrap_or_default());
    bytes.extend_from_slice(tail);
    Ok((bytes.freeze(), true))
}

/// The document as the store keeps it: `_id` first (WIRE.md 4.4).
fn stored(doc: &Bytes) -> Result<Image, ShapeError> {
    let raw = document(doc);
    let first = raw.iter_elements().next().and_then(Result::ok);
    if first.is_some_and(|e| e.key() == cstr!("_id")) {
        return Ok(Image::new(doc.clone()));
    }
    let (mut id, mut others) = (BytesMut::new(), BytesMut::new());
    let mut at = 4;
    for element in raw.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        let end = at + 1 + element.key().as_str().len() + 1 + element.size();
        let part = doc.get(at..end).unwrap_or_default();
        if element.key() == cstr!("_id") {
            id.extend_from_slice(part);
        } else {
            others.extend_from_slice(part);
        }
        at = end;
    }
    let mut out = BytesMut::with_capacity(doc.len());
    out.extend_from_slice(doc.get(..4).unwrap_or_default());
    out.extend_from_slice(&id);
    out.extend_from_slice(&others);
    out.extend_from_slice(&[0]);
    Ok(Image::new(out.freeze()))
}

/// The store replaces a top-level `Timestamp(0, 0)` (not in `_id`) by its own clock.
pub(crate) fn has_empty_timestamp(doc: &RawDocument) -> bool {
    doc.iter_elements().flatten().any(|e| {
        e.key() != cstr!("_id") && matches!(e.value(), Ok(RawBsonRef::Timestamp(t)) if t.time == 0 && t.increment == 0)
    })
}

fn bulk_insert(op: &RawDocument, doc: &Bytes) -> Result<Bytes, ShapeError> {
    let mut out = RawDocumentBuf::new();
    for element in op.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        if element.key() == cstr!("document") {
            out.append(cstr!("document"), document(doc));
        } else {
            out.append(element.key(), element.value().map_err(ShapeError::bson)?);
        }
    }
    Ok(Bytes::from(out.into_bytes()))
}

/// `ok: 1` and nothing failed.
pub(crate) fn is_clean(reply: &RawDocument) -> bool {
    is_ok(reply) && error_count(reply) == 0
}
