//! One piece of a command: the movement itself. Guard → intent → *before* → forward → *after* → records → release →
//! durable.
//!
//! Promises: whatever the store did to the piece's entities is in the log before this returns; if the connection breaks,
//! the entities are verified while the guards are still held. Reads cost no round trip where the piece is one entity.

use bson::raw::{RawBsonRef, RawDocument};
use bytes::Bytes;
use std::collections::{BTreeSet, HashSet};
use thiserror::Error;

use super::command::build;
use super::command::merge::{count, error_count, is_ok};
use super::command::{Command, Verb, number};
use super::compare::{Cause, Step};
use super::error::CaptureError;
use super::observe::{ReadError, Reader, Seen, Target, Via, encode, refusal, take};
use super::told::Told;
use super::{Capture, Session, unchanged};
use crate::changelog::Durable;
use crate::entity::{EntityGuard, NsGuard};
use crate::mutants::{Mutant, mutated};
use crate::store::Upstream;
use crate::types::{Draft, Image, Op};
use crate::wire::msg::OpMsg;

/// What a piece needs from its command.
pub(crate) struct Cx<'a> {
    pub session: &'a mut Session,
    pub upstream: &'a mut Upstream,
    pub command: &'a Command<'a>,
    pub message: &'a OpMsg,
    pub cause: Cause,
    /// The client's own bound on its command.
    pub limit: Option<tokio::time::Instant>,
}

/// An entity of a piece, with what is known about its statement.
#[derive(Debug)]
pub(crate) struct Aim {
    pub target: Target,
    pub op: Op,
    pub stmt_id: i32,
    /// For an insert: position in the piece, and the image if the request proves it.
    pub insert: Option<(usize, Option<Image>)>,
}

/// How a piece learns what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Success proves that there was nothing before, and what there is now.
    Inserts,
    /// All were found, and as many are gone when the reply says so.
    Deletes,
    /// Read before and after.
    Reads,
}

/// A piece of a command.
#[derive(Debug)]
pub(crate) struct Piece {
    pub aims: Vec<Aim>,
    pub forward: Bytes,
    pub style: Style,
}

/// The guards under which a piece runs: its entities with their namespaces shared, or its namespaces exclusively.
pub(crate) struct Hold {
    _namespaces: NsGuard,
    entities: Option<EntityGuard>,
}

impl Hold {
    /// These entities.
    pub(crate) fn entities(namespaces: NsGuard, entities: EntityGuard) -> Self {
        Self { _namespaces: namespaces, entities: Some(entities) }
    }

    /// Nobody else writes in these namespaces.
    pub(crate) fn exclusive(namespaces: NsGuard) -> Self {
        Self { _namespaces: namespaces, entities: None }
    }
}

/// What came of a piece.
pub(crate) struct Done {
    pub reply: OpMsg,
    pub durable: Durable,
}

/// Why a piece was not carried through.
#[derive(Debug, Error)]
pub(crate) enum PieceError {
    /// Nothing was forwarded: the images would not fit.
    #[error("the piece is too large")]
    TooLarge,
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// What was seen around the forward.
struct Observation {
    /// `None`: not read.
    before: Option<Seen>,
    after: After,
    reply: OpMsg,
}

enum After {
    Read(Seen),
    /// The reply proves it.
    Gone,
    /// Only the store can tell: verify.
    Unknown,
    /// The store did nothing.
    Same,
}

impl Capture {
    /// Runs a piece under `hold`.
    pub(crate) async fn run(&self, cx: &mut Cx<'_>, piece: Piece, hold: Hold) -> Result<Done, PieceError> {
        let targets: Vec<Target> = piece.aims.iter().map(|a| a.target.clone()).collect();
        if hold.entities.is_some() {
            cx.session.slot()?.entities(&targets).map_err(CaptureError::from)?;
        }
        let seen = match piece.style {
            Style::Inserts => self.observe_inserts(cx, &piece).await,
            Style::Deletes | Style::Reads => self.observe_reads(cx, &piece, &targets).await,
        };
        let seen = match seen {
            Ok(seen) => seen,
            Err(PieceError::TooLarge) => {
                cx.session.close_slot()?;
                return Err(PieceError::TooLarge);
            }
            Err(PieceError::Capture(broken)) => {
                self.settle_broken(cx, targets, hold).await;
                return Err(broken.into());
            }
        };
        self.learn_clocks(cx, seen.reply.body());
        let mut drafts = Vec::new();
        let compared = if matches!(seen.after, After::Unknown) {
            self.verify_targets(&targets, &cx.cause, &mut drafts).await
        } else {
            self.compare_all(cx, &piece, &seen, &mut drafts)
        };
        // Whatever has been staged must follow, whatever came after it.
        let ticket = self.enqueue(drafts);
        if let Err(error) = compared {
            // What the store did is not known: it is read again, now and later, since nobody may touch these entities.
            self.settle_broken(cx, targets, hold).await;
            return Err(error.into());
        }
        drop(hold);
        let durable = ticket.wait().await.map_err(CaptureError::from)?;
        cx.session.close_slot()?;
        Ok(Done { reply: seen.reply, durable })
    }

    fn compare_all(
        &self,
        cx: &Cx<'_>,
        piece: &Piece,
        seen: &Observation,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), CaptureError> {
        let empty = Seen::new();
        let (before, after) = match (&seen.before, &seen.after) {
            (Some(before), After::Read(after)) => (before, after),
            (Some(before), After::Same) => (before, before),
            (None, After::Read(after)) => (&empty, after),
            (Some(before), _) => (before, &empty),
            (None, _) => return Ok(()),
        };
        let mut extra: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let deletes = piece.style == Style::Deletes || cx.command.verb == Verb::Delete;
        let differs = |at: &(_, _)| {
            let (before, after) = (before.get(at).map(Image::sha), after.get(at).map(Image::sha));
            before != after && !(deletes && after.is_some())
        };
        // Somebody who writes past us came in between: what was done came to nothing, and stands in the log all the same.
        let told = Told::by(seen.reply.body());
        let hidden = told.changed > extra.iter().filter(|at| differs(at)).count() || told.met > extra.len();
        for aim in &piece.aims {
            let Target { ns, key, id } = &aim.target;
            let at = (ns.clone(), key.clone());
            extra.remove(&at);
            let (before, after) = (before.get(&at).cloned(), after.get(&at).cloned());
            // A failed insert touched nothing: it says nothing about what was there before.
            if piece.style == Style::Inserts && after.is_none() {
                continue;
            }
            let step = Step { ns, key, id, before, after, op: aim.op, stmt_id: aim.stmt_id, hidden };
            self.compare(&step, &cx.cause, drafts)?;
        }
        // Under a collation the store may have taken another `_id` for an equal one.
        let (op, stmt_id) = piece.aims.first().map_or((Op::Update, 0), |a| (a.op, a.stmt_id));
        for at in extra {
            let (before, after) = (before.get(at).cloned(), after.get(at).cloned());
            let (ns, key, id) = (&at.0, &at.1, &bson::RawBson::Null);
            self.compare(&Step { ns, key, id, before, after, op, stmt_id, hidden: false }, &cx.cause, drafts)?;
        }
        Ok(())
    }

    async fn observe_inserts(&self, cx: &mut Cx<'_>, piece: &Piece) -> Result<Observation, PieceError> {
        let reply = self.forward(cx, piece.forward.clone()).await?;
        let Some(failed) = failed_inserts(reply.body(), cx.command) else {
            let after = if unchanged(reply.body()) { After::Same } else { After::Unknown };
            return Ok(Observation { before: None, after, reply });
        };
        let mut after = Seen::new();
        let mut rewritten = Vec::new();
        for aim in &piece.aims {
            let Some((position, image)) = &aim.insert else { continue };
            if failed.contains(*position, cx.command.ordered) {
                continue;
            }
            match image {
                Some(image) => {
                    after.insert((aim.target.ns.clone(), aim.target.key.clone()), image.clone());
                }
                None => rewritten.push(aim.target.clone()),
            }
        }
        if !rewritten.is_empty() {
            match self.read(cx, &rewritten).await {
                Ok(seen) => after.extend(seen),
                Err(ReadError::Capture(error)) => return Err(error.into()),
                Err(_) => return Ok(Observation { before: None, after: After::Unknown, reply }),
            }
        }
        Ok(Observation { before: None, after: After::Read(after), reply })
    }

    async fn observe_reads(
        &self,
        cx: &mut Cx<'_>,
        piece: &Piece,
        targets: &[Target],
    ) -> Result<Observation, PieceError> {
        if let [one] = targets
            && cx.session.via.get(&one.ns) == Some(&Via::Upstream)
        {
            return self.observe_one(cx, piece, one).await;
        }
        let before = match self.read(cx, targets).await {
            Ok(before) => before,
            Err(ReadError::TooLarge) => return Err(PieceError::TooLarge),
            Err(ReadError::Capture(error)) => return Err(error.into()),
            Err(ReadError::Refused { .. }) => return self.blind(cx, piece.forward.clone()).await,
        };
        let reply = self.forward(cx, piece.forward.clone()).await?;
        let after = match proven(&reply, piece.style, targets.len(), before.len()) {
            Some(after) => after,
            None => match self.read(cx, targets).await {
                Ok(seen) => After::Read(seen),
                Err(ReadError::Capture(error)) => return Err(error.into()),
                Err(_) => After::Unknown,
            },
        };
        Ok(Observation { before: Some(before), after, reply })
    }

    /// One entity: the reads ride in the same round trip.
    async fn observe_one(&self, cx: &mut Cx<'_>, piece: &Piece, target: &Target) -> Result<Observation, PieceError> {
        let ids = [target.id.as_raw_bson_ref()];
        let find = build::find_images(&target.ns, &ids, cx.command.body);
        let mut requests = vec![encode(&find, cx.upstream.next_id()), tagged(cx, piece.forward.clone())];
        if piece.style == Style::Reads {
            requests.push(encode(&find, cx.upstream.next_id()));
        }
        crate::metrics::INJECTED_COMMANDS.add(1);
        let replies = cx.upstream.pipeline(&requests).await.map_err(CaptureError::from)?;
        let mut replies = replies.into_iter();
        let (Some(first), Some(reply)) = (replies.next(), replies.next()) else {
            return Err(CaptureError::Answer("fewer replies than requests".to_owned()).into());
        };
        let mut before = Seen::new();
        if refusal(first.body()).is_some() || take(&target.ns, &first, "firstBatch", &mut before).is_err() {
            cx.session.via.remove(&target.ns);
            let after = if unchanged(reply.body()) { After::Same } else { After::Unknown };
            return Ok(Observation { before: None, after, reply });
        }
        let mut seen = Seen::new();
        let after = match (replies.next(), proven(&reply, piece.style, 1, before.len())) {
            (_, Some(after)) => after,
            (Some(last), None) => match take(&target.ns, &last, "firstBatch", &mut seen) {
                Ok(_) => After::Read(seen),
                Err(_) => After::Unknown,
            },
            (None, None) => {
                let again = encode(&find, cx.upstream.next_id());
                let last = cx.upstream.pipeline(&[again]).await.map_err(CaptureError::from)?.pop();
                match last.map(|last| take(&target.ns, &last, "firstBatch", &mut seen)) {
                    Some(Ok(_)) => After::Read(seen),
                    _ => After::Unknown,
                }
            }
        };
        Ok(Observation { before: Some(before), after, reply })
    }

    /// The store refuses the read: let it judge the write, and verify unless it did nothing.
    async fn blind(&self, cx: &mut Cx<'_>, forward: Bytes) -> Result<Observation, PieceError> {
        let reply = self.forward(cx, forward).await?;
        let after = if unchanged(reply.body()) { After::Same } else { After::Unknown };
        Ok(Observation { before: None, after, reply })
    }

    /// Forwards a message under a request id of ours and takes the reply.
    pub(crate) async fn forward(&self, cx: &mut Cx<'_>, message: Bytes) -> Result<OpMsg, CaptureError> {
        let message = tagged(cx, message);
        Ok(cx.upstream.exchange(&message).await?)
    }

    /// Reads images for the client of `cx`.
    async fn read(&self, cx: &mut Cx<'_>, targets: &[Target]) -> Result<Seen, ReadError> {
        let Cx { session, upstream, command, .. } = cx;
        let mut reader = Reader { upstream, privileged: &*self.privileged, client: command.body };
        reader.images(targets, &mut session.via).await
    }
}

fn tagged(cx: &mut Cx<'_>, message: Bytes) -> Bytes {
    with_number(message, 4, cx.upstream.next_id())
}

/// The message with a header field (4: requestID, 8: responseTo) replaced.
pub(crate) fn with_number(message: Bytes, at: usize, number: i32) -> Bytes {
    let mut bytes = match message.try_into_mut() {
        Ok(bytes) => bytes,
        Err(shared) => bytes::BytesMut::from(&shared[..]),
    };
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&number.to_le_bytes());
    }
    bytes.freeze()
}

/// What the reply alone proves about the state after. Only where all were found: whoever writes past us may bring one that is
/// deleted in the place of one that was found.
fn proven(reply: &OpMsg, style: Style, targets: usize, found: usize) -> Option<After> {
    let body = reply.body();
    if unchanged(body) {
        return Some(After::Same);
    }
    let all = found == targets && usize::try_from(count(body, "n").max(count(body, "nDeleted"))).ok() == Some(found);
    let all = all || mutated(Mutant::TrustCount);
    let clean = is_ok(body) && error_count(body) == 0 && body.get("retriedStmtIds").ok().flatten().is_none();
    (style == Style::Deletes && clean && all).then_some(After::Gone)
}

/// Which inserts of a piece did not happen.
pub(crate) struct Failed {
    first: Option<usize>,
    all: HashSet<usize>,
}

impl Failed {
    fn contains(&self, position: usize, ordered: bool) -> bool {
        if mutated(Mutant::TrustInserts) {
            return false;
        }
        if ordered { self.first.is_some_and(|first| position >= first) } else { self.all.contains(&position) }
    }
}

/// Reads the failures out of a reply; `None` when the reply does not tell them all (`ok: 0`, a retry, a cursor that goes on).
fn failed_inserts(reply: &RawDocument, command: &Command<'_>) -> Option<Failed> {
    let retried = reply.get_array("retriedStmtIds").is_ok() && !mutated(Mutant::IgnoreRetried);
    if !is_ok(reply) || retried {
        return None;
    }
    let mut all = HashSet::new();
    let mut note = |doc: &RawDocument, field: &str| {
        if let Some(index) = number(doc.get(field).ok().flatten()).and_then(|n| usize::try_from(n).ok()) {
            all.insert(index);
        }
    };
    if let Ok(errors) = reply.get_array("writeErrors") {
        errors.into_iter().flatten().filter_map(RawBsonRef::as_document).for_each(|e| note(e, "index"));
    }
    if let Ok(cursor) = reply.get_document("cursor") {
        let batch = cursor.get_array("firstBatch").ok()?;
        let results = batch.into_iter().flatten().filter_map(RawBsonRef::as_document);
        results.filter(|r| !is_ok(r)).for_each(|r| note(r, "idx"));
    }
    (all.len() == error_count(reply)).then(|| Failed { first: all.iter().min().copied(), all }).filter(|failed| {
        // An ordered batch stops at its first failure.
        !command.ordered || failed.all.len() <= 1
    })
}
