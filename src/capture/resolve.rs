//! A statement whose entities must be found first: by any filter, multi, under a collation, an upsert.
//!
//! Find the `_id`s with the statement's own filter, sort, hint, collation and variables; guard them; run the statement
//! narrowed to them. What matched at the find and no longer matches at the write just counts less; a single statement that
//! lost its document this way looks again. Promises: a narrowed statement can neither insert nor touch an entity that is
//! not guarded.

use bson::RawBson;
use bson::raw::{RawBsonRef, RawDocument};

use super::Capture;
use super::command::build::{self, Narrowed};
use super::command::filter::narrow;
use super::command::merge::{count, is_ok};
use super::command::{Action, Command, Modify, Statement, Verb};
use super::error::CaptureError;
use super::observe::{ReadError, Reader, Target, encode};
use super::piece::{Aim, Cx, Hold, Piece, PieceError, Style};
use super::write::{Came, is_clean, original, shape};
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::types::Op;
use crate::wire::msg::OpMsg;

/// Entities of a multi statement that are worked off at once.
const CHUNK: usize = 500;

/// Looks for a single statement's document before the namespace is taken exclusively.
const ATTEMPTS: usize = 3;

impl Capture {
    /// Runs one statement. `whole`: it is all of its command.
    pub(crate) async fn single(&self, cx: &mut Cx<'_>, index: usize, whole: bool) -> Result<Came, PieceError> {
        let command = cx.command;
        let Some(statement) = command.statements.get(index) else {
            return Err(CaptureError::Answer("no such statement".to_owned()).into());
        };
        let Action::Modify(modify) = &statement.action else {
            return Err(CaptureError::Answer("an insert needs no looking".to_owned()).into());
        };
        let collated = modify.collation.is_some() || self.is_collated(&statement.ns);
        for _ in 0..if collated { 0 } else { ATTEMPTS } {
            let ids = match self.find(cx, statement, modify).await {
                Ok(ids) => ids,
                Err(ReadError::Capture(error)) => return Err(error.into()),
                Err(_) => break,
            };
            if ids.is_empty() && modify.upsert {
                break;
            }
            if modify.multi && !ids.is_empty() {
                return self.chunks(cx, statement, modify, ids, whole).await;
            }
            let aims = aims(cx.command, statement, modify, &ids)?;
            let forward = narrowed(cx.command, statement, modify, &ids, whole)?;
            let hold = self.guard(&aims, cx.limit).await?;
            let done = self.run(cx, Piece { aims, forward, style: Style::Reads }, hold).await?;
            let lost = !ids.is_empty() && is_clean(done.reply.body()) && matched(done.reply.body()) == 0;
            if !lost {
                return Ok(done.into());
            }
            metrics::RESOLVE_RETRIES.inc();
        }
        self.exclusive(cx, statement, modify, whole).await
    }

    /// A multi statement, chunk by chunk.
    async fn chunks(
        &self,
        cx: &mut Cx<'_>,
        statement: &Statement<'_>,
        modify: &Modify<'_>,
        ids: Vec<RawBson>,
        whole: bool,
    ) -> Result<Came, PieceError> {
        let mut replies: Vec<OpMsg> = Vec::new();
        let mut rest = ids.as_slice();
        let mut size = CHUNK;
        let one = whole && ids.len() <= CHUNK;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            let aims = aims(cx.command, statement, modify, chunk)?;
            let forward = narrowed(cx.command, statement, modify, chunk, one)?;
            let style = if modify.update.is_none() { Style::Deletes } else { Style::Reads };
            let hold = self.guard(&aims, cx.limit).await?;
            match self.run(cx, Piece { aims, forward, style }, hold).await {
                Err(PieceError::TooLarge) if size > 1 => {
                    size = (size / 8).max(1);
                    continue;
                }
                done => replies.push(done?.reply),
            }
            rest = after;
            if replies.last().is_some_and(|reply| !is_clean(reply.body())) {
                break;
            }
        }
        let durable = self.log.nothing_to_log().map_err(CaptureError::from)?;
        Ok(Came { replies, all_shown: false, durable })
    }

    /// The statement alone in its namespace: nobody else can come between the find and the write.
    async fn exclusive(
        &self,
        cx: &mut Cx<'_>,
        statement: &Statement<'_>,
        modify: &Modify<'_>,
        whole: bool,
    ) -> Result<Came, PieceError> {
        let ns = &statement.ns;
        let hold = self.guard_alone(std::slice::from_ref(ns), cx.limit).await?;
        cx.session.slot()?.namespaces(std::slice::from_ref(ns)).map_err(CaptureError::from)?;
        let found = match self.find(cx, statement, modify).await {
            Ok(ids) if ids.is_empty() => Ok(ids),
            Ok(ids) => self.equals(cx, statement, modify, ids).await,
            refused => refused,
        };
        let ids = match found {
            Ok(ids) => ids,
            Err(ReadError::Capture(error)) => return Err(error.into()),
            Err(_) => {
                let forward = whole_statement(cx.command, cx.message, statement, whole)?;
                return self.alone_held(cx, std::slice::from_ref(ns), forward, hold).await;
            }
        };
        if ids.is_empty() {
            return self.upsert(cx, statement, modify, whole, hold).await;
        }
        let aims = aims(cx.command, statement, modify, &ids)?;
        let forward = narrowed(cx.command, statement, modify, &ids, whole)?;
        match self.run(cx, Piece { aims, forward: forward.clone(), style: Style::Reads }, hold).await {
            Err(PieceError::TooLarge) => {
                let hold = self.guard_alone(std::slice::from_ref(ns), cx.limit).await?;
                self.alone_held(cx, std::slice::from_ref(ns), forward, hold).await
            }
            done => Ok(done?.into()),
        }
    }

    /// Nothing matches: what the statement inserts is learnt from its reply.
    async fn upsert(
        &self,
        cx: &mut Cx<'_>,
        statement: &Statement<'_>,
        modify: &Modify<'_>,
        whole: bool,
        hold: Hold,
    ) -> Result<Came, PieceError> {
        let forward = if whole && cx.command.verb != Verb::BulkWrite {
            original(cx.command, cx.message)?
        } else {
            let docs = vec![statement.raw.to_owned()];
            encode(&build::part(cx.command, &[statement], docs, true).map_err(shape)?, 0)
        };
        let reply = match self.forward(cx, forward).await {
            Ok(reply) => reply,
            Err(error) => {
                self.settle_namespaces(cx, vec![statement.ns.clone()], hold).await;
                return Err(error.into());
            }
        };
        self.learn_clocks(cx, reply.body());
        let Some(id) = upserted(reply.body()) else {
            return self.after_alone(cx, std::slice::from_ref(&statement.ns), reply, hold).await;
        };
        let target = Target::new(&statement.ns, id)?;
        let mut drafts = Vec::new();
        let op = if modify.is_replacement() { Op::Replace } else { Op::Update };
        let stmt_id = cx.command.stmt_ids.of(statement.index);
        let recorded = self.record_new(cx, &target, op, stmt_id, &mut drafts).await;
        // Whatever has been staged must follow, whatever came after it.
        let ticket = self.enqueue(drafts);
        if let Err(error) = recorded {
            // What it made is not known: it is read again, now and later.
            self.settle_broken(cx, vec![target], hold).await;
            return Err(error.into());
        }
        drop(hold);
        let durable = ticket.wait().await.map_err(CaptureError::from)?;
        cx.session.close_slot()?;
        Ok(Came { replies: vec![reply], all_shown: true, durable })
    }

    async fn find(
        &self,
        cx: &mut Cx<'_>,
        statement: &Statement<'_>,
        modify: &Modify<'_>,
    ) -> Result<Vec<RawBson>, ReadError> {
        metrics::INJECTED_COMMANDS.add(1);
        let find = build::find_ids(&statement.ns, modify, cx.command);
        let Cx { upstream, command, .. } = cx;
        let mut reader = Reader { upstream, privileged: &*self.privileged, client: command.body };
        reader.ids(&statement.ns, &find).await
    }

    /// All `_id`s that the statement's collation takes for those found.
    async fn equals(
        &self,
        cx: &mut Cx<'_>,
        statement: &Statement<'_>,
        modify: &Modify<'_>,
        ids: Vec<RawBson>,
    ) -> Result<Vec<RawBson>, ReadError> {
        let refs: Vec<RawBsonRef<'_>> = ids.iter().map(RawBson::as_raw_bson_ref).collect();
        let find = build::find_equal_ids(&statement.ns, &refs, modify, cx.command);
        let Cx { upstream, command, .. } = cx;
        let mut reader = Reader { upstream, privileged: &*self.privileged, client: command.body };
        reader.ids(&statement.ns, &find).await
    }
}

pub(crate) fn aims(
    command: &Command<'_>,
    statement: &Statement<'_>,
    modify: &Modify<'_>,
    ids: &[RawBson],
) -> Result<Vec<Aim>, CaptureError> {
    let op = if modify.is_replacement() { Op::Replace } else { Op::Update };
    let stmt_id = command.stmt_ids.of(statement.index);
    let mut out = Vec::with_capacity(ids.len());
    for id in ids {
        let target = Target::new(&statement.ns, id.as_raw_bson_ref())?;
        out.push(Aim { target, op, stmt_id, insert: None });
    }
    out.sort_by(|a, b| a.target.key.cmp(&b.target.key));
    out.dedup_by(|a, b| a.target.key == b.target.key);
    Ok(out)
}

/// The statement, so that it can only touch `ids`, as a command of its own.
pub(crate) fn narrowed(
    command: &Command<'_>,
    statement: &Statement<'_>,
    modify: &Modify<'_>,
    ids: &[RawBson],
    whole: bool,
) -> Result<bytes::Bytes, CaptureError> {
    let refs: Vec<RawBsonRef<'_>> = ids.iter().map(RawBson::as_raw_bson_ref).collect();
    let mut change = Narrowed { filter: Some(narrow(modify.filter, &refs).map_err(shape)?), strip_upsert: true };
    if mutated(Mutant::NoNarrowing) {
        change.filter = None;
    }
    let doc = build::statement(modify, statement.raw, &change).map_err(shape)?;
    let request = build::part(command, &[statement], vec![doc], !whole).map_err(shape)?;
    Ok(encode(&request, 0))
}

pub(crate) fn whole_statement(
    command: &Command<'_>,
    message: &OpMsg,
    statement: &Statement<'_>,
    whole: bool,
) -> Result<bytes::Bytes, CaptureError> {
    if whole {
        return original(command, message);
    }
    let request = build::part(command, &[statement], vec![statement.raw.to_owned()], true).map_err(shape)?;
    Ok(encode(&request, 0))
}

/// How many documents the statement matched.
fn matched(reply: &RawDocument) -> i64 {
    if let Ok(last) = reply.get_document("lastErrorObject") {
        return count(last, "n");
    }
    if reply.get_document("cursor").is_ok() {
        return count(reply, "nMatched") + count(reply, "nDeleted") + count(reply, "nUpserted");
    }
    count(reply, "n")
}

/// The `_id` that an upsert made.
pub(crate) fn upserted(reply: &RawDocument) -> Option<RawBsonRef<'_>> {
    if !is_ok(reply) || reply.get_array("retriedStmtIds").is_ok() || reply.get("retriedStmtId").ok().flatten().is_some()
    {
        return None;
    }
    if let Ok(last) = reply.get_document("lastErrorObject") {
        return last.get("upserted").ok().flatten();
    }
    if let Ok(list) = reply.get_array("upserted") {
        return list.into_iter().next()?.ok()?.as_document()?.get("_id").ok().flatten();
    }
    let batch = reply.get_document("cursor").ok()?.get_array("firstBatch").ok()?;
    let first = batch.into_iter().next()?.ok()?.as_document()?;
    first.get_document("upserted").ok()?.get("_id").ok().flatten()
}
