//! One statement on one entity, as `findAndModify`: the store itself gives *before*, atomically, in the write's own reply.
//!
//! ```text
//! update by modifiers   findAndModify new:false + find after     2 ops, 1 round trip
//! replacement           findAndModify new:false                  1 op; after is the request
//! delete                findAndModify remove                     1 op
//! findAndModify         as it is, and the image it does not give 1 or 2 ops
//! ```
//!
//! Promises: the client gets the reply of its own command (WIRE.md 9.4 lists the differences). A statement that `findAndModify`
//! refuses for what it says has changed nothing: the client's own command then goes the long way, and the store words the error. Any
//! other error (a fail-over, an interruption, a time limit) leaves open what was done: it is told as it is, nothing is sent twice. Of `opTime` and `electionId`, which
//! `findAndModify` does not tell, the term and the election are those of the last plain reply, the time is the reply's
//! `operationTime`.

use bson::oid::ObjectId;
use bson::raw::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::command::build;
use super::command::merge::{count, is_ok};
use super::command::{Action, Command, Modify, Statement, Verb, number};
use super::compare::Step;
use super::error::{CaptureError, ShapeError};
use super::observe::{Seen, Target, Via, encode, take};
use super::piece::{Aim, Cx, PieceError, with_number};
use super::told::Told;
use super::write::{Came, has_empty_timestamp, original, shape};
use super::{Capture, unchanged};
use crate::changelog::Durable;
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::types::{Image, Op};
use crate::wire::build::Builder;
use crate::wire::msg::{OpMsg, document};

/// What the store adds to the replies of plain writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trailer {
    /// Absent on a standalone.
    election: Option<(ObjectId, i64)>,
}

/// The last trailer seen; none before the first plain reply.
#[derive(Debug, Default)]
pub(crate) struct Trailers(Mutex<Option<Trailer>>);

impl Trailers {
    /// Looks at the reply of a plain insert, update or delete.
    pub(crate) fn learn(&self, reply: &RawDocument) {
        if !is_ok(reply) || reply.get("n").ok().flatten().is_none() {
            return;
        }
        let term = reply.get_document("opTime").ok().and_then(|t| t.get_i64("t").ok());
        let election = reply.get_object_id("electionId").ok().zip(term);
        *self.0.lock() = Some(Trailer { election });
    }
}

/// Fields of the client's body that `findAndModify` has as well.
const SHARED: [&str; 14] = [
    "$db",
    "lsid",
    "txnNumber",
    "$clusterTime",
    "writeConcern",
    "maxTimeMS",
    "comment",
    "let",
    "bypassDocumentValidation",
    "bypassEmptyTsReplacement",
    "apiVersion",
    "apiStrict",
    "apiDeprecationErrors",
    "$readPreference",
];

/// Fields of a statement that `findAndModify` has as well, under the same name.
const OPTIONS: [&str; 5] = ["upsert", "arrayFilters", "collation", "hint", "sort"];

/// Whether a command can go as `findAndModify`.
fn fits<'s, 'm>(command: &Command<'_>, statement: &'s Statement<'m>) -> Option<&'s Modify<'m>> {
    let Action::Modify(modify) = &statement.action else { return None };
    let plain = matches!(command.verb, Verb::Update | Verb::Delete) && command.statements.len() == 1;
    let known = command.body.iter_elements().flatten().skip(1).all(|e| {
        let key = e.key().as_str();
        SHARED.contains(&key) || key == "ordered" || Some(key) == command.verb.array()
    });
    let statement_known = statement.raw.iter_elements().flatten().all(|e| {
        let key = e.key().as_str();
        OPTIONS.contains(&key) || ["q", "u", "multi", "limit"].contains(&key)
    });
    // `update` takes a Boolean only, `findAndModify` numbers as well.
    let upsert = statement.raw.get("upsert").ok().flatten();
    let statement_known = statement_known && matches!(upsert, None | Some(RawBsonRef::Boolean(_)));
    let concern = command.body.get("writeConcern").ok().flatten().is_none() || !command.unacknowledged;
    (plain && known && statement_known && concern && !modify.multi).then_some(modify)
}

fn find_and_modify(cx: &Cx<'_>, statement: &Statement<'_>, modify: &Modify<'_>) -> Result<build::Request, ShapeError> {
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("findAndModify"), statement.ns.collection());
    body.append(cstr!("query"), modify.filter);
    match modify.update {
        Some(update) => body.append(cstr!("update"), update),
        None => body.append(cstr!("remove"), true),
    }
    for element in statement.raw.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        if OPTIONS.contains(&element.key().as_str()) {
            body.append(element.key(), element.value().map_err(ShapeError::bson)?);
        }
    }
    for element in cx.command.body.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        if SHARED.contains(&element.key().as_str()) {
            body.append(element.key(), element.value().map_err(ShapeError::bson)?);
        }
    }
    Ok(build::Request { body, sequences: Vec::new() })
}

/// Which image the store is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Old,
    New,
    Removed,
}

/// One exchange.
struct Round<'r> {
    modify: &'r Modify<'r>,
    ask: Ask,
    request: Bytes,
    /// When the store refuses, the client's own command is to be sent instead.
    long_way: bool,
}

/// What is known of the entity.
enum Images {
    /// Around the change.
    Of { before: Option<Image>, after: Option<Image> },
    /// Nothing was changed now (no match, a refusal, an answer from the history of an earlier attempt).
    Now(Option<Image>),
}

/// What came back.
struct Swapped {
    images: Images,
    /// What `nModified` says.
    changed: bool,
    reply: OpMsg,
}

impl Capture {
    /// Runs the command as `findAndModify`, if it can. `None`: it cannot, or the store refused; nothing was changed.
    pub(crate) async fn swap(
        &self,
        cx: &mut Cx<'_>,
        statement: &Statement<'_>,
        aim: &Aim,
    ) -> Result<Option<Came>, PieceError> {
        if cx.session.via.get(&aim.target.ns) != Some(&Via::Upstream) {
            return Ok(None);
        }
        if cx.command.verb == Verb::FindAndModify {
            return self.swap_own(cx, statement, aim).await;
        }
        let trailer = *self.trailers.0.lock();
        let (Some(modify), Some(trailer)) = (fits(cx.command, statement), trailer) else { return Ok(None) };
        let request = find_and_modify(cx, statement, modify).map_err(shape)?;
        let ask = if modify.update.is_some() { Ask::Old } else { Ask::Removed };
        let round = Round { modify, ask, request: encode(&request, 0), long_way: true };
        let Some((swapped, durable)) = self.round(cx, aim, round).await? else { return Ok(None) };
        if !is_ok(swapped.reply.body()) {
            return Ok(Some(Came { replies: vec![swapped.reply], all_shown: false, durable }));
        }
        let body = translate(&swapped.reply, cx.command.verb, trailer, swapped.changed).map_err(shape)?;
        let message = Builder::reply(swapped.reply.request_id(), 0).body(&body).finish();
        let message =
            OpMsg::from_bytes(message).ok_or_else(|| CaptureError::Answer("a reply that does not fit".to_owned()))?;
        Ok(Some(Came { replies: vec![message], all_shown: false, durable }))
    }

    /// The client's own `findAndModify`: its reply has one image, unless it asks for some fields only.
    async fn swap_own(
        &self,
        cx: &mut Cx<'_>,
        statement: &Statement<'_>,
        aim: &Aim,
    ) -> Result<Option<Came>, PieceError> {
        let Action::Modify(modify) = &statement.action else { return Ok(None) };
        let set = |name: &str| cx.command.body.get(name).ok().flatten();
        let ask = match (modify.update, set("new")) {
            _ if set("fields").is_some() => return Ok(None),
            (None, _) => Ask::Removed,
            (Some(_), None | Some(RawBsonRef::Boolean(false))) => Ask::Old,
            (Some(_), Some(RawBsonRef::Boolean(true))) => Ask::New,
            _ => return Ok(None),
        };
        let request = original(cx.command, cx.message)?;
        let round = Round { modify, ask, request, long_way: false };
        let came = self.round(cx, aim, round).await?;
        Ok(came.map(|(swapped, durable)| Came { replies: vec![swapped.reply], all_shown: false, durable }))
    }

    /// Guard, intent, exchange, record.
    async fn round(
        &self,
        cx: &mut Cx<'_>,
        aim: &Aim,
        round: Round<'_>,
    ) -> Result<Option<(Swapped, Durable)>, PieceError> {
        let Target { ns, key, id } = &aim.target;
        let hold = self.guard(std::slice::from_ref(aim), cx.limit).await?;
        cx.session.slot()?.entities(std::slice::from_ref(&aim.target)).map_err(CaptureError::from)?;
        let swapped = match self.exchange(cx, &round, &aim.target).await {
            Ok(Some(swapped)) => swapped,
            Ok(None) => {
                drop(hold);
                cx.session.close_slot()?;
                return Ok(None);
            }
            Err(error) => {
                self.settle_broken(cx, vec![aim.target.clone()], hold).await;
                return Err(error.into());
            }
        };
        self.learn_clocks(cx, swapped.reply.body());
        let (before, after, op) = match &swapped.images {
            Images::Of { before, after } => (before.clone(), after.clone(), aim.op),
            Images::Now(now) => (now.clone(), now.clone(), Op::Observed),
        };
        let mut drafts = Vec::new();
        let told = Told::by(swapped.reply.body());
        let hidden = told.changed > 0 || (told.met > 0 && before.is_none() && after.is_none());
        let step = Step { ns, key, id, before, after, op, stmt_id: aim.stmt_id, hidden };
        self.compare(&step, &cx.cause, &mut drafts)?;
        let ticket = self.enqueue(drafts);
        drop(hold);
        let durable = ticket.wait().await.map_err(CaptureError::from)?;
        cx.session.close_slot()?;
        Ok(Some((swapped, durable)))
    }

    async fn exchange(
        &self,
        cx: &mut Cx<'_>,
        round: &Round<'_>,
        target: &Target,
    ) -> Result<Option<Swapped>, CaptureError> {
        let Round { modify, ask, request, long_way } = round;
        let find = build::find_images(&target.ns, &[target.id.as_raw_bson_ref()], cx.command.body);
        let mut requests = vec![with_number(request.clone(), 4, cx.upstream.next_id())];
        let other = match ask {
            Ask::New => Some(0),
            Ask::Old if !modify.is_replacement() => Some(1),
            Ask::Old | Ask::Removed => None,
        };
        if let Some(place) = other {
            requests.insert(place, encode(&find, cx.upstream.next_id()));
            metrics::INJECTED_COMMANDS.inc();
        }
        let mut replies = cx.upstream.pipeline(&requests).await?;
        let along = other.map(|place| replies.remove(place));
        let reply = replies.pop().ok_or_else(|| CaptureError::Answer("no reply".to_owned()))?;
        if *long_way && is_refusal(reply.body()) {
            return Ok(None);
        }
        let retried = reply.body().get("retriedStmtId").ok().flatten().is_some() && !mutated(Mutant::IgnoreRetried);
        let value = match reply.body().get("value") {
            Ok(Some(RawBsonRef::Document(doc))) => Some(Image::new(reply.bytes().slice_ref(doc.as_bytes()))),
            _ => None,
        };
        let matched = reply.body().get_document("lastErrorObject").is_ok_and(|last| count(last, "n") > 0);
        if !is_ok(reply.body()) || retried || !matched {
            // Nothing was done now, or nobody knows; what is there is nobody's change.
            let along = along.filter(|_| *ask == Ask::Old);
            let now = self.read_now(cx, &find, target, along).await?;
            return Ok(Some(Swapped { images: Images::Now(now), changed: retried, reply }));
        }
        let (before, after) = match ask {
            Ask::Removed => (value, None),
            Ask::New => (self.read_now(cx, &find, target, along).await?, value),
            Ask::Old => {
                let whole = match (modify.update, &value) {
                    (Some(RawBsonRef::Document(update)), Some(before)) if modify.is_replacement() => {
                        replaced(before, update)
                    }
                    _ => None,
                };
                match whole {
                    Some(after) => (value, Some(after)),
                    None => (value, self.read_now(cx, &find, target, along).await?),
                }
            }
        };
        let changed = before.as_ref().map(Image::sha) != after.as_ref().map(Image::sha);
        Ok(Some(Swapped { images: Images::Of { before, after }, changed, reply }))
    }

    /// The entity's image: from the reply that came along, or from a read of its own.
    async fn read_now(
        &self,
        cx: &mut Cx<'_>,
        find: &build::Request,
        target: &Target,
        along: Option<OpMsg>,
    ) -> Result<Option<Image>, CaptureError> {
        let reply = match along {
            Some(reply) => reply,
            None => super::observe::ask(cx.upstream, find).await?,
        };
        let mut seen = Seen::new();
        take(&target.ns, &reply, "firstBatch", &mut seen).map_err(|e| CaptureError::Answer(e.to_string()))?;
        Ok(seen.into_values().next())
    }
}

/// Codes below 10,000 with which a store refuses a statement for what it says or for the document that it meets, beside those of
/// commands that did not run at all: `PathNotViable`, fields and `_id`s that may not be, `ImmutableField`,
/// `DocumentValidationFailure` (mongod's `error_codes.yml`).
const OF_STATEMENTS: [i64; 8] = [28, 53, 54, 55, 56, 57, 66, 121];

/// From this number on codes are those of failed assertions, while a statement is worked out …
const ASSERTIONS: i64 = 10_000;

/// … but for these, which are of old: fail-overs, interruptions, a stale routing table.
const NO_ASSERTIONS: [i64; 8] = [10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436];

/// The reply is an error that proves that the statement has changed nothing.
fn is_refusal(reply: &RawDocument) -> bool {
    let code = number(reply.get("code").ok().flatten()).unwrap_or(0);
    let of_statement = OF_STATEMENTS.contains(&code) || (code >= ASSERTIONS && !NO_ASSERTIONS.contains(&code));
    !is_ok(reply) && (unchanged(reply) || of_statement)
}

/// The reply of the client's own command.
fn translate(reply: &OpMsg, verb: Verb, trailer: Trailer, changed: bool) -> Result<RawDocumentBuf, ShapeError> {
    let from = reply.body();
    let last = from.get_document("lastErrorObject").map_err(ShapeError::bson)?;
    let n = i32::try_from(count(last, "n")).unwrap_or(1);
    let mut out = RawDocumentBuf::new();
    if let Some((election, _)) = trailer.election {
        out.append(cstr!("electionId"), election);
    }
    if let (Some((_, term)), Ok(time)) = (trailer.election, from.get_timestamp("operationTime")) {
        let mut stamp = RawDocumentBuf::new();
        stamp.append(cstr!("ts"), time);
        stamp.append(cstr!("t"), term);
        out.append(cstr!("opTime"), &*stamp);
    }
    out.append(cstr!("n"), n);
    if verb == Verb::Update {
        let upserted = last.get("upserted").ok().flatten();
        if let Some(id) = upserted {
            let mut entry = RawDocumentBuf::new();
            entry.append(cstr!("index"), 0);
            entry.append(cstr!("_id"), id);
            let mut all = RawArrayBuf::new();
            all.push(&*entry);
            out.append(cstr!("upserted"), all);
        }
        let modified = changed && n > 0 && upserted.is_none();
        out.append(cstr!("nModified"), i32::from(modified));
    }
    for element in from.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        let value = element.value().map_err(ShapeError::bson)?;
        match element.key().as_str() {
            "retriedStmtId" => {
                let mut ids = RawArrayBuf::new();
                ids.push(value);
                out.append(cstr!("retriedStmtIds"), ids);
            }
            "lastErrorObject" | "value" | "electionId" | "opTime" => {}
            _ => out.append(element.key(), value),
        }
    }
    Ok(out)
}

/// The document that a replacement leaves: the stored `_id`, then the request's fields. `None`: only the store can tell
/// (it fills in an empty timestamp; the request spells the `_id` in another way).
pub(crate) fn replaced(before: &Image, update: &RawDocument) -> Option<Image> {
    if has_empty_timestamp(update) {
        return None;
    }
    let stored = first_element(before.bytes())?;
    let bytes = update.as_bytes();
    let mut elements = update.iter_elements();
    let first = elements.next().and_then(Result::ok);
    if first.is_some_and(|e| e.key() == cstr!("_id")) {
        return (first_element(bytes)? == stored).then(|| Image::new(Bytes::copy_from_slice(bytes)));
    }
    if update.iter_elements().any(|e| !matches!(e, Ok(e) if e.key() != cstr!("_id"))) {
        return None;
    }
    let mut out = BytesMut::with_capacity(bytes.len() + stored.len());
    out.extend_from_slice(&i32::try_from(bytes.len() + stored.len()).ok()?.to_le_bytes());
    out.extend_from_slice(stored);
    out.extend_from_slice(bytes.get(4..)?);
    Some(Image::new(out.freeze()))
}

/// The bytes of a document's first element, if that is `_id`.
fn first_element(bytes: &[u8]) -> Option<&[u8]> {
    let first = document(bytes).iter_elements().next()?.ok()?;
    (first.key() == cstr!("_id")).then_some(())?;
    bytes.get(4..4 + 1 + first.key().as_str().len() + 1 + first.size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn image(doc: &RawDocument) -> Image {
        Image::new(Bytes::copy_from_slice(doc.as_bytes()))
    }

    #[test]
    fn a_replacement_keeps_the_stored_id() {
        let before = image(&rawdoc! {"_id": 1_i64, "a": 1});
        let after = replaced(&before, &rawdoc! {"b": "x"}).unwrap();
        assert_eq!(after, image(&rawdoc! {"_id": 1_i64, "b": "x"}));
        let same = replaced(&before, &rawdoc! {"_id": 1_i64, "b": "x"}).unwrap();
        assert_eq!(same, after);
    }

    #[test]
    fn what_only_the_store_can_tell_is_left_to_it() {
        let before = image(&rawdoc! {"_id": 1_i64, "a": 1});
        let empty = bson::Timestamp { time: 0, increment: 0 };
        for update in [rawdoc! {"_id": 1_i32}, rawdoc! {"b": 1, "_id": 1_i64}, rawdoc! {"t": empty}] {
            assert_eq!(replaced(&before, &update), None);
        }
        assert!(replaced(&before, &rawdoc! {"t": {"t": empty}}).is_some());
    }
}
