//! `verify`: read what the store has; where it differs from the index, append an *observed* record.
//!
//! Also what falls out of it: a write whose connection broke, a command that ran alone because it could not be tied to
//! entities. Always under the guards of what is read.

use bson::RawBson;
use bson::raw::{RawBsonRef, RawDocument};
use bytes::Bytes;
use tracing::warn;

use super::compare::{Cause, Step};
use super::error::CaptureError;
use super::intent::{Scope, Slot};
use super::observe::{IMAGE_BUDGET, Seen, Target, stored_key};
use super::piece::{Cx, Hold, PieceError};
use super::write::Came;
use super::{Capture, Session, unchanged};
use crate::changelog::Durable;
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::store::Upstream;
use crate::types::{Body, Draft, Found, Image, Namespace, Op};
use crate::wire::msg::OpMsg;

/// Records of a namespace's verify that are handed to the committer at once.
const BATCH: usize = 500;

/// Times that the entities of a broken write are read again before they are left to later looks.
const TRIES: usize = 3;

/// A message that is to be alone in its namespaces.
pub(crate) struct Alone<'a> {
    pub namespaces: &'a [Namespace],
    pub cause: Cause,
    pub forward: Bytes,
    /// The client's own bound on its command.
    pub limit: Option<tokio::time::Instant>,
}

impl Capture {
    /// Reads `targets` through the privileged connection and writes down what the log does not know. Also after an error, what
    /// stands in `drafts` must be appended: it is staged.
    pub(crate) async fn verify_targets(
        &self,
        targets: &[Target],
        cause: &Cause,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), CaptureError> {
        metrics::VERIFY_RUNS.inc_for("recovery");
        metrics::VERIFY_ENTITIES.add(u64::try_from(targets.len()).unwrap_or(u64::MAX));
        for group in targets.chunk_by(|a, b| a.ns == b.ns) {
            let mut size = BATCH;
            let mut rest = group;
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(size.min(rest.len()));
                let Some(seen) = self.privileged_images(chunk).await? else {
                    size = (size / 8).max(1);
                    continue;
                };
                self.compare_seen(chunk, &seen, cause, drafts)?;
                rest = after;
            }
        }
        Ok(())
    }

    /// What the store has of these entities of one namespace, a few at a time where they are large.
    pub(crate) async fn look_at(&self, targets: &[Target]) -> Result<Seen, CaptureError> {
        let mut size = targets.len().max(1);
        let (mut seen, mut rest) = (Seen::new(), targets);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            match self.privileged_images(chunk).await? {
                Some(more) => {
                    seen.extend(more);
                    rest = after;
                }
                None => size = (size / 8).max(1),
            }
        }
        Ok(seen)
    }

    async fn privileged_images(&self, targets: &[Target]) -> Result<Option<Seen>, CaptureError> {
        self.images_within(targets, IMAGE_BUDGET).await
    }

    /// The images of entities of one namespace; `None`: they are more than `budget` bytes.
    pub(crate) async fn images_within(&self, targets: &[Target], budget: usize) -> Result<Option<Seen>, CaptureError> {
        let Some(first) = targets.first() else { return Ok(Some(Seen::new())) };
        let ids: Vec<RawBsonRef<'_>> = targets.iter().map(|t| t.id.as_raw_bson_ref()).collect();
        let docs = self.privileged.find_by_ids(&first.ns, &ids, budget).await;
        let Some(docs) = docs.map_err(|e| CaptureError::Store(e.to_string()))? else { return Ok(None) };
        let mut seen = Seen::new();
        for doc in docs {
            seen.insert((first.ns.clone(), stored_key(&doc)?), Image::new(Bytes::from(doc.into_bytes())));
        }
        Ok(Some(seen))
    }

    fn compare_seen(
        &self,
        targets: &[Target],
        seen: &Seen,
        cause: &Cause,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), CaptureError> {
        for target in targets {
            let now = seen.get(&(target.ns.clone(), target.key.clone())).cloned();
            self.compare_looked(&Step::observed(target, now), cause, drafts)?;
        }
        Ok(())
    }

    /// Reads a whole namespace against the index. Under its exclusive guard. Memory: one page.
    pub(crate) async fn verify_namespace(&self, ns: &Namespace, cause: &Cause) -> Result<Durable, CaptureError> {
        metrics::VERIFY_RUNS.inc_for("recovery");
        let _durable = self.enqueue(Vec::new()).wait().await?;
        let since = self.log.tail();
        self.index.wait_applied(since).await.map_err(|e| CaptureError::Index(e.to_string()))?;
        self.verify_alone(ns, cause, since).await?;
        Ok(self.log.nothing_to_log()?)
    }

    /// Takes operation and cluster time out of a reply.
    pub(crate) fn learn_clocks(&self, cx: &mut Cx<'_>, reply: &RawDocument) {
        self.trailers.learn(reply);
        self.learn_term(reply);
        if let Ok(time) = reply.get_timestamp("operationTime") {
            cx.cause.operation_time = Some(u64::from(time.time) << 32 | u64::from(time.increment));
        }
        if let Ok(time) = reply.get_document("$clusterTime").and_then(|d| d.get_timestamp("clusterTime")) {
            self.clock.observe_cluster_time(time.time, time.increment);
        }
    }

    /// The connection broke: verify the entities while they are guarded; look again later, since the write may still land.
    pub(crate) async fn settle_broken(&self, cx: &mut Cx<'_>, targets: Vec<Target>, hold: Hold) {
        if mutated(Mutant::LeaveBroken) {
            return;
        }
        let cause = Cause { found: Found::Recovery, ..cx.cause.clone() };
        for _ in 0..TRIES {
            let mut drafts = Vec::new();
            let verified = self.verify_targets(&targets, &cause, &mut drafts).await;
            // What has been staged must follow, whatever came after it.
            if let Err(error) = self.enqueue(drafts).wait().await {
                warn!(%error, "verify after a broken connection");
            }
            let Err(error) = verified else { break };
            warn!(%error, "verify after a broken connection");
        }
        let mut scope = std::collections::BTreeMap::<Namespace, Vec<RawBson>>::new();
        for target in targets {
            scope.entry(target.ns).or_default().push(target.id);
        }
        self.look_later(cx.session, Scope::Entities(scope));
        // Only now: whoever waits for the writes under way must then find this one among the unsettled.
        drop(hold);
    }

    /// As [`settle_broken`](Self::settle_broken), for whole namespaces.
    pub(crate) async fn settle_namespaces(&self, cx: &mut Cx<'_>, namespaces: Vec<Namespace>, hold: Hold) {
        self.settle_session(cx.session, &cx.cause, namespaces, hold).await;
    }

    async fn settle_session(&self, session: &mut Session, cause: &Cause, namespaces: Vec<Namespace>, hold: Hold) {
        let cause = Cause { found: Found::Recovery, ..cause.clone() };
        for ns in &namespaces {
            if let Err(error) = self.verify_namespace(ns, &cause).await {
                warn!(%error, "verify after a broken connection");
            }
        }
        self.look_later(session, Scope::Namespaces(namespaces));
        drop(hold);
    }

    /// Hands the session's open intent to the looks to come.
    pub(crate) fn look_later(&self, session: &mut Session, scope: Scope) {
        let file = session.slot.take().and_then(Slot::leave);
        self.looks.begin(vec![scope], file.into_iter().collect());
    }

    /// Forwards a message alone in `namespaces`, and verifies them unless the store did nothing.
    pub(crate) async fn alone(
        &self,
        session: &mut Session,
        upstream: &mut Upstream,
        alone: Alone<'_>,
    ) -> Result<(OpMsg, Durable), CaptureError> {
        let Alone { namespaces, cause, forward, limit } = alone;
        let hold = self.guard_alone(namespaces, limit).await?;
        session.slot()?.namespaces(namespaces)?;
        let id = upstream.next_id();
        let reply = match upstream.exchange(&super::piece::with_number(forward, 4, id)).await {
            Ok(reply) => reply,
            Err(error) => {
                self.settle_session(session, &cause, namespaces.to_vec(), hold).await;
                return Err(error.into());
            }
        };
        let durable = self.settle_alone(session, &cause, namespaces, &reply).await?;
        drop(hold);
        Ok((reply, durable))
    }

    async fn settle_alone(
        &self,
        session: &mut Session,
        cause: &Cause,
        namespaces: &[Namespace],
        reply: &OpMsg,
    ) -> Result<Durable, CaptureError> {
        let mut durable = self.log.nothing_to_log()?;
        if !unchanged(reply.body()) {
            for ns in namespaces {
                durable = match self.verify_namespace(ns, cause).await {
                    Ok(durable) => durable,
                    Err(error) => {
                        // What the store did is not known: it is read again later.
                        self.look_later(session, Scope::Namespaces(namespaces.to_vec()));
                        return Err(error);
                    }
                };
            }
        }
        session.close_slot()?;
        Ok(durable)
    }

    /// [`alone`](Self::alone), the guard already held.
    pub(crate) async fn alone_held(
        &self,
        cx: &mut Cx<'_>,
        namespaces: &[Namespace],
        forward: Bytes,
        hold: Hold,
    ) -> Result<Came, PieceError> {
        let reply = match self.forward(cx, forward).await {
            Ok(reply) => reply,
            Err(error) => {
                self.settle_namespaces(cx, namespaces.to_vec(), hold).await;
                return Err(error.into());
            }
        };
        self.after_alone(cx, namespaces, reply, hold).await
    }

    /// What [`alone`](Self::alone) does once the reply is there.
    pub(crate) async fn after_alone(
        &self,
        cx: &mut Cx<'_>,
        namespaces: &[Namespace],
        reply: OpMsg,
        hold: Hold,
    ) -> Result<Came, PieceError> {
        self.learn_clocks(cx, reply.body());
        let durable = self.settle_alone(cx.session, &cx.cause, namespaces, &reply).await?;
        drop(hold);
        Ok(Came { replies: vec![reply], all_shown: false, durable })
    }

    /// The record of an entity that an upsert made, alone in its namespace.
    pub(crate) async fn record_new(
        &self,
        cx: &mut Cx<'_>,
        target: &Target,
        op: Op,
        stmt_id: i32,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), CaptureError> {
        let seen = self.privileged_images(std::slice::from_ref(target)).await?.unwrap_or_default();
        let Target { ns, key, id } = target;
        let after = seen.get(&(ns.clone(), key.clone())).cloned();
        self.compare(&Step { ns, key, id, before: None, after, op, stmt_id, hidden: true }, &cx.cause, drafts)
    }

    /// Appends control records and waits until they are durable and in the index.
    pub(crate) async fn control(&self, controls: Vec<crate::types::Control>) -> Result<Durable, CaptureError> {
        let drafts = controls.into_iter().map(|c| Draft { body: Body::Control(c), continued: false }).collect();
        let durable = self.enqueue(drafts).wait().await?;
        let applied = self.index.wait_applied(self.log.tail()).await;
        applied.map_err(|e| CaptureError::Index(e.to_string()))?;
        Ok(durable)
    }
}
