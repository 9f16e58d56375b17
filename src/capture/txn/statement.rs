//! A write command inside a transaction.
//!
//! The command is cut as outside one, but a statement by a filter goes as it is: what its find saw, inside the same snapshot, is what
//! it touches. Only a single statement is narrowed, since the store may choose among several.

use bson::RawBson;
use bson::raw::RawBsonRef;
use bytes::Bytes;
use std::collections::BTreeSet;
use tokio::time::timeout;

use super::read::{CHUNK, granted, unreadable};
use super::{Stop, Tx, fields};
use crate::capture::Capture;
use crate::capture::command::build;
use crate::capture::command::merge::{Merged, is_ok};
use crate::capture::command::{self, Action, Command, Modify, Statement, Verb, comment};
use crate::capture::error::CaptureError;
use crate::capture::observe::{ReadError, Reader, Seen, Target, encode, take};
use crate::capture::piece::{Aim, Style};
use crate::capture::resolve::{aims, narrowed, upserted, whole_statement};
use crate::capture::unchanged;
use crate::capture::write::{Work, correlation, cut, is_clean, mentioned, shape, verb};
use crate::metrics;
use crate::types::{Change, Epoch, Image, Namespace, Op, Seq};
use crate::wire::WriteKind;
use crate::wire::msg::OpMsg;

/// Bytes of images before that wait in memory for the reply.
const HELD_BYTES: usize = 8 << 20;

/// A command taken apart.
struct Taken<'a> {
    command: Command<'a>,
    /// The client's message without the fields of a first command.
    bare: &'a OpMsg,
    comment: String,
    traceparent: String,
    correlation: u64,
}

/// Entities touched for the first time, with their images before.
#[derive(Default)]
struct New {
    changes: Vec<Change>,
    bytes: usize,
}

impl Capture {
    /// Carries a write command of an open transaction through.
    pub(super) async fn statement(&self, tx: &mut Tx<'_>, kind: WriteKind) -> Result<OpMsg, Stop> {
        let verb = verb(kind);
        let bare = if tx.first { reparse(fields::not_first(tx.message).map_err(shape)?)? } else { tx.message.clone() };
        let Ok(parts) = command::parts(verb, &bare) else { return self.unread(tx, verb).await };
        let Ok(mut command) = command::parse(verb, &bare, &parts) else { return self.unread(tx, verb).await };
        let (comment, traceparent) = comment(&command);
        // Statement ids are for retries outside transactions.
        command.txn_number = None;
        let correlation = correlation(tx.session, tx.message);
        let taken = Taken { command, bare: &bare, comment, traceparent, correlation };
        let mut infos = Vec::new();
        let namespaces: BTreeSet<Namespace> = taken.command.statements.iter().map(|s| s.ns.clone()).collect();
        for ns in namespaces {
            let known = timeout(self.transactions.limits.wait, self.namespace(&ns)).await;
            infos.push((ns, known.map_err(|_late| Stop::Blocked)??));
        }
        if infos.iter().all(|(_, info)| info.excluded) {
            return tx.pass().await;
        }
        for (ns, _) in infos.iter().filter(|(_, info)| !info.excluded) {
            self.enter(tx, ns);
        }
        let mut queue = cut(&taken.command, &infos);
        let bulk = taken.command.verb == Verb::BulkWrite;
        let whole = queue.len() == 1 && !(bulk && matches!(queue.front(), Some(Work::Single(_))));
        let (mut merged, mut last) = (Merged::default(), None);
        while let Some(work) = queue.pop_front() {
            let reply = match &work {
                Work::Group(indices) => self.group_joined(tx, &taken, indices, whole).await?,
                Work::Single(index) => self.single_joined(tx, &taken, *index, whole).await?,
            };
            if whole {
                return Ok(reply);
            }
            let places = match work {
                Work::Group(indices) => indices,
                Work::Single(index) => vec![index],
            };
            merged.add(reply.body(), &places, false).map_err(shape)?;
            last = Some(reply);
            // An error has ended the transaction.
            if merged.is_fatal() || merged.has_failed() {
                break;
            }
        }
        let last = last.ok_or_else(|| CaptureError::Answer("a command without statements".to_owned()))?;
        if taken.command.verb == Verb::FindAndModify {
            return Ok(last);
        }
        let body = merged.finish(&taken.command, &self.cursors).map_err(shape)?;
        reparse(last.with_body(&body, 0))
    }

    /// A command that cannot be taken apart: the store judges it.
    async fn unread(&self, tx: &mut Tx<'_>, verb: Verb) -> Result<OpMsg, Stop> {
        let reply = tx.pass().await?;
        if !unchanged(reply.body()) {
            for ns in mentioned(verb, tx.message) {
                self.enter(tx, &ns);
                tx.state.blind.insert(ns);
            }
        }
        Ok(reply)
    }

    /// Statements that name their entities.
    async fn group_joined(
        &self,
        tx: &mut Tx<'_>,
        taken: &Taken<'_>,
        indices: &[usize],
        whole: bool,
    ) -> Result<OpMsg, Stop> {
        let command = &taken.command;
        let ready = self.ready(command, indices).map_err(shape)?;
        let whole = whole && !ready.given;
        let message = tx.message;
        let piece = |first: bool| -> Result<Bytes, Stop> {
            if whole {
                let message = if first { message } else { taken.bare };
                return Ok(message.with_body(message.body(), 0));
            }
            let docs = ready.docs.iter().map(|d| crate::wire::msg::document(d).to_owned()).collect();
            let part = build::part(command, &ready.statements, docs, !whole).map_err(shape)?;
            let bytes = encode(&part, 0);
            if first { Ok(fields::first(&reparse(bytes)?, message.body()).map_err(shape)?) } else { Ok(bytes) }
        };
        let entities = ready.aims.iter().map(|a| (a.target.ns.clone(), a.target.key.clone())).collect();
        let _hold = self.hold_joined(entities).await?;
        if ready.style == Style::Inserts {
            let new = self.untouched(tx, &ready.aims);
            let reply = tx.forward(piece(tx.first)?).await?;
            if is_clean(reply.body()) && !unchanged(reply.body()) {
                let mut made = New::default();
                for aim in new {
                    made.add(entry(tx, taken, aim, None));
                }
                self.touch(tx, made)?;
            }
            return Ok(reply);
        }
        if self.may_read_all(tx, &ready.aims).await? {
            return self.observed(tx, taken, &ready.aims, piece(false)?).await;
        }
        let reply = tx.forward(piece(tx.first)?).await?;
        blind(tx, &reply, ready.aims.iter().map(|a| &a.target.ns));
        Ok(reply)
    }

    async fn may_read_all(&self, tx: &mut Tx<'_>, aims: &[Aim]) -> Result<bool, Stop> {
        for group in aims.chunk_by(|a, b| a.target.ns == b.target.ns) {
            if let Some(first) = group.first()
                && !self.may_read(tx, &first.target).await?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what is touched for the first time, forwards, and notes it, unless the reply proves that nothing was done.
    async fn observed(&self, tx: &mut Tx<'_>, taken: &Taken<'_>, aims: &[Aim], bare: Bytes) -> Result<OpMsg, Stop> {
        let new = self.untouched(tx, aims);
        let mut made = New::default();
        let reply = if let [aim] = new.as_slice() {
            let Target { ns, key, id } = &aim.target;
            let find = tx.joined(&build::find_images(ns, &[id.as_raw_bson_ref()], tx.message.body()))?;
            let number = tx.upstream.next_id();
            let requests = [find, crate::capture::piece::with_number(bare, 4, number)];
            let replies = tx.upstream.pipeline(&requests).await.map_err(CaptureError::from)?;
            let mut replies = replies.into_iter();
            let (Some(first), Some(reply)) = (replies.next(), replies.next()) else {
                return Err(CaptureError::Answer("fewer replies than requests".to_owned()).into());
            };
            let first = granted(first)?;
            let mut seen = Seen::new();
            take(ns, &first, "firstBatch", &mut seen).map_err(unreadable)?;
            made.add(entry(tx, taken, aim, seen.remove(&(ns.clone(), key.clone()))));
            reply
        } else {
            for group in new.chunk_by(|a, b| a.target.ns == b.target.ns) {
                for chunk in group.chunks(CHUNK) {
                    self.before(tx, taken, chunk, &mut made).await?;
                }
            }
            let piece = if tx.first { fields::first(&reparse(bare)?, tx.message.body()).map_err(shape)? } else { bare };
            tx.forward(piece).await?
        };
        if !unchanged(reply.body()) {
            self.touch(tx, made)?;
        }
        Ok(reply)
    }

    /// Images before of a chunk of one namespace.
    async fn before(&self, tx: &mut Tx<'_>, taken: &Taken<'_>, chunk: &[&Aim], made: &mut New) -> Result<(), Stop> {
        let Some(first) = chunk.first() else { return Ok(()) };
        let ids: Vec<RawBsonRef<'_>> = chunk.iter().map(|a| a.target.id.as_raw_bson_ref()).collect();
        let mut batches = Vec::new();
        let mut found = Seen::new();
        let mut bytes = 0;
        tx.images(&first.target.ns, &ids, &mut |seen| {
            bytes += seen.values().map(|image| image.bytes().len()).sum::<usize>();
            found.extend(seen);
            if bytes > HELD_BYTES {
                bytes = 0;
                batches.push(std::mem::take(&mut found));
            }
            Ok(())
        })
        .await?;
        batches.push(found);
        let mut left: Vec<&Aim> = chunk.to_vec();
        for mut seen in batches {
            left.retain(|aim| {
                let image = seen.remove(&(aim.target.ns.clone(), aim.target.key.clone()));
                let there = image.is_some();
                if there {
                    made.add(entry(tx, taken, aim, image));
                }
                !there
            });
            // What does not fit is noted before its reply: at worst someone waits for a transaction that did not change it.
            if made.bytes > HELD_BYTES {
                self.touch(tx, std::mem::take(made))?;
            }
        }
        for aim in left {
            made.add(entry(tx, taken, aim, None));
        }
        Ok(())
    }

    /// Those that the transaction has not touched yet.
    fn untouched<'x>(&self, tx: &Tx<'_>, aims: &'x [Aim]) -> Vec<&'x Aim> {
        let touched = |aim: &Aim| {
            let hash = self.marks.hash(&aim.target.ns, &aim.target.key);
            self.marks.owner_of(std::iter::once(hash), |owner| *owner == tx.txn.owner).is_some()
        };
        aims.iter().filter(|aim| !touched(aim)).collect()
    }

    fn touch(&self, tx: &mut Tx<'_>, new: New) -> Result<(), Stop> {
        for change in new.changes {
            let hash = self.marks.hash(&change.ns, &change.key);
            tx.state.touched.push(change)?;
            self.marks.place(&tx.txn.owner, hash);
        }
        Ok(())
    }

    /// One statement by a filter.
    async fn single_joined(
        &self,
        tx: &mut Tx<'_>,
        taken: &Taken<'_>,
        index: usize,
        whole: bool,
    ) -> Result<OpMsg, Stop> {
        let command = &taken.command;
        let statement = command.statements.get(index);
        let statement = statement.ok_or_else(|| CaptureError::Answer("no such statement".to_owned()))?;
        let Action::Modify(modify) = &statement.action else {
            return Err(CaptureError::Answer("an insert needs no looking".to_owned()).into());
        };
        let collated = modify.collation.is_some() || self.is_collated(&statement.ns);
        let as_it_is = whole_statement(command, taken.bare, statement, whole)?;
        if !self.is_accepted(tx, command, statement, modify).await? {
            let piece = if tx.first { with_start(tx, as_it_is)? } else { as_it_is };
            let reply = tx.forward(piece).await?;
            blind(tx, &reply, std::iter::once(&statement.ns));
            return Ok(reply);
        }
        let wide = Modify { multi: modify.multi || collated, sort: modify.sort.filter(|_| !collated), ..*modify };
        metrics::RESOLVES_IN_TRANSACTIONS.inc();
        let ids = tx.ids(&statement.ns, &build::find_ids(&statement.ns, &wide, command)).await?;
        let aims = aims(command, statement, modify, &ids)?;
        let piece = match ids.as_slice() {
            [_] if !modify.multi && !collated => narrowed(command, statement, modify, &ids, whole)?,
            _ => as_it_is,
        };
        let entities = aims.iter().map(|a| (a.target.ns.clone(), a.target.key.clone())).collect();
        let hold = self.hold_joined(entities).await?;
        let reply = self.observed(tx, taken, &aims, piece).await?;
        if let (Some(id), true) = (upserted(reply.body()), ids.is_empty()) {
            self.made(tx, taken, statement, modify, id)?;
        } else if ids.is_empty() {
            blind(tx, &reply, std::iter::once(&statement.ns));
        }
        drop(hold);
        Ok(reply)
    }

    /// An upsert found nothing and inserted.
    fn made(
        &self,
        tx: &mut Tx<'_>,
        taken: &Taken<'_>,
        statement: &Statement<'_>,
        modify: &Modify<'_>,
        id: RawBsonRef<'_>,
    ) -> Result<(), Stop> {
        let aims = aims(&taken.command, statement, modify, &[RawBson::from(id)])?;
        let mut made = New::default();
        for aim in self.untouched(tx, &aims) {
            made.add(entry(tx, taken, aim, None));
        }
        self.touch(tx, made)
    }

    /// Tries a statement's filter outside the transaction, without running it: an error inside would end the transaction
    /// with another answer than the statement's own.
    async fn is_accepted(
        &self,
        tx: &mut Tx<'_>,
        command: &Command<'_>,
        statement: &Statement<'_>,
        modify: &Modify<'_>,
    ) -> Result<bool, Stop> {
        metrics::INJECTED_COMMANDS.inc();
        let find = build::try_find(&statement.ns, modify, command).map_err(shape)?;
        let mut reader = Reader { upstream: &mut *tx.upstream, privileged: &*self.privileged, client: command.body };
        match reader.ids(&statement.ns, &find).await {
            Ok(_) => Ok(true),
            Err(ReadError::Capture(error)) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }
}

impl New {
    fn add(&mut self, change: Change) {
        self.bytes += change.before.as_ref().map_or(0, |image| image.bytes().len()) + 256;
        self.changes.push(change);
    }
}

/// What is noted of an entity at its first touch.
fn entry(tx: &Tx<'_>, taken: &Taken<'_>, aim: &Aim, before: Option<Image>) -> Change {
    let Target { ns, key, id } = &aim.target;
    let stored = before.as_ref().and_then(crate::capture::compare::stored_id);
    Change {
        before_sha: before.as_ref().map(Image::sha),
        before,
        origin: tx.session.origin.clone(),
        comment: taken.comment.clone(),
        traceparent: taken.traceparent.clone(),
        correlation: taken.correlation,
        ..Change::new(
            ns.clone(),
            stored.unwrap_or_else(|| id.clone()),
            key.clone(),
            (Epoch(0), Seq(0)),
            if aim.op == Op::Insert { Op::Update } else { aim.op },
        )
    }
}

/// Only the store can tell what a statement did in these namespaces.
fn blind<'n>(tx: &mut Tx<'_>, reply: &OpMsg, namespaces: impl Iterator<Item = &'n Namespace>) {
    if !unchanged(reply.body()) && is_ok(reply.body()) {
        tx.state.blind.extend(namespaces.cloned());
    }
}

fn with_start(tx: &Tx<'_>, piece: Bytes) -> Result<Bytes, Stop> {
    Ok(fields::first(&reparse(piece)?, tx.message.body()).map_err(shape)?)
}

/// Bytes of our own making, as a message.
fn reparse(bytes: Bytes) -> Result<OpMsg, Stop> {
    Ok(OpMsg::from_bytes(bytes).ok_or_else(|| CaptureError::Answer("a message that does not fit".to_owned()))?)
}
