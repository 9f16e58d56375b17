//! States become records: what the index knew, what was there before, what is there after.
//!
//! Promises: per entity the records made here continue its chain: `before` is what the log last said, seq goes up by one.
//! A state that the log does not know is first written down as *observed*. Equal states make no record, unless the
//! store's reply says that something was changed in between: then an *observed* record of the same state tells of it.

use bson::RawBson;
use bson::raw::RawDocument;
use std::sync::Arc;

use super::Capture;
use super::error::CaptureError;
use super::observe::Target;
use crate::changelog::LogError;
use crate::entity::Entry;
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::types::{
    Body, Change, Digest, Draft, EntityKey, Epoch, Found, Image, Lsn, Namespace, Op, Origin, Record, RetryId, Seq,
};
use crate::wire::msg::document;

/// What the records of one client command have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cause {
    pub origin: Arc<Origin>,
    pub comment: String,
    pub traceparent: String,
    pub correlation: u64,
    pub lsid: Option<[u8; 16]>,
    pub txn_number: Option<i64>,
    pub operation_time: Option<u64>,
    /// Why states that the log does not know are found.
    pub found: Found,
}

/// The state of one entity around a write.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub ns: &'a Namespace,
    pub key: &'a EntityKey,
    /// Used when neither image tells the stored `_id`.
    pub id: &'a RawBson,
    pub before: Option<Image>,
    pub after: Option<Image>,
    /// The word for a change that neither makes nor deletes the entity.
    pub op: Op,
    pub stmt_id: i32,
    /// The store may have changed it and somebody else back: it has a record of its own even if both images are the same.
    pub hidden: bool,
}

impl<'a> Step<'a> {
    pub(crate) fn observed(target: &'a Target, now: Option<Image>) -> Self {
        let Target { ns, key, id } = target;
        Self { ns, key, id, before: now.clone(), after: now, op: Op::Observed, stmt_id: 0, hidden: false }
    }
}

impl Capture {
    /// [`compare`](Self::compare) for what was only looked at. An entity of a commit that is not settled is left to it: it is
    /// settled as a whole.
    pub(crate) fn compare_looked(
        &self,
        step: &Step<'_>,
        cause: &Cause,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), CaptureError> {
        if self.marks.is_unsettled(step.ns, step.key) {
            return Ok(());
        }
        self.compare(step, cause, drafts)
    }

    /// Appends to `drafts` what the step proves, and stages the entity's new state in the index. Under the entity's guard.
    pub(crate) fn compare(&self, step: &Step<'_>, cause: &Cause, drafts: &mut Vec<Draft>) -> Result<(), CaptureError> {
        let known = self.index.get(step.ns, step.key).map_err(|e| CaptureError::Index(e.to_string()))?;
        let known_sha = known.as_ref().filter(|e| e.alive).map(|e| e.sha);
        let (mut before, after_sha) = (step.before.clone(), step.after.as_ref().map(Image::sha));
        let mut before_sha = before.as_ref().map(Image::sha);
        if mutated(Mutant::SkipBefore) {
            before = known.as_ref().filter(|e| e.alive).map(|e| self.logged_image(e)).transpose()?.flatten();
            before_sha = known_sha;
        }
        let hidden = step.hidden && before_sha == after_sha;
        if known_sha == before_sha && before_sha == after_sha && !hidden {
            return Ok(());
        }
        let (epoch, Seq(next)) = Entry::next(known.as_ref(), self.epochs.current());
        let mut seq = next - 1;
        if known_sha != before_sha {
            seq += 1;
            let known_image = match known.as_ref().filter(|e| e.alive) {
                Some(entry) => self.logged_image(entry)?,
                None => None,
            };
            let change =
                Self::change(step, cause, Op::Observed, (epoch, seq), (known_image, known_sha, before.clone()));
            drafts.push(change);
        }
        if before_sha != after_sha {
            seq += 1;
            let op = match (&before, &step.after) {
                (None, _) => Op::Insert,
                (_, None) => Op::Delete,
                _ => step.op,
            };
            drafts.push(Self::change(step, cause, op, (epoch, seq), (before, before_sha, step.after.clone())));
        } else if hidden {
            seq += 1;
            drafts.push(Self::change(
                step,
                cause,
                Op::Observed,
                (epoch, seq),
                (before, before_sha, step.after.clone()),
            ));
        } else if known_sha == before_sha {
            metrics::UNCHANGED.inc();
        }
        if !mutated(Mutant::ForgetStage) {
            self.index.stage(step.ns, step.key, Entry::staged(epoch, Seq(seq), after_sha));
        }
        Ok(())
    }

    fn change(
        step: &Step<'_>,
        cause: &Cause,
        op: Op,
        (epoch, seq): (Epoch, u64),
        (before, before_sha, after): (Option<Image>, Option<Digest>, Option<Image>),
    ) -> Draft {
        let id = after.as_ref().or(before.as_ref()).and_then(stored_id).unwrap_or_else(|| step.id.clone());
        let found = (op == Op::Observed).then_some(cause.found);
        let retry = match (cause.lsid, cause.txn_number) {
            (Some(lsid), Some(txn_number)) if op != Op::Observed => {
                Some(RetryId { lsid, txn_number, stmt_id: step.stmt_id })
            }
            _ => None,
        };
        metrics::CHANGES.inc_for(op.name());
        if found == Some(Found::StoreLoss) {
            metrics::NODE_LOST.inc();
        }
        let change = Change {
            ns: step.ns.clone(),
            id,
            key: step.key.clone(),
            epoch,
            seq: Seq(seq),
            op,
            before,
            before_sha,
            after,
            operation_time: cause.operation_time,
            retry,
            txn: None,
            found,
            origin: cause.origin.clone(),
            comment: cause.comment.clone(),
            traceparent: cause.traceparent.clone(),
            correlation: cause.correlation,
        };
        Draft { body: Body::Change(Box::new(change)), continued: false }
    }

    /// The image that the log last wrote for an entity; `None` when its record is still under way, or no longer kept.
    pub(crate) fn logged_image(&self, entry: &Entry) -> Result<Option<Image>, CaptureError> {
        if entry.lsn == Lsn::ZERO {
            return Ok(None);
        }
        match self.log.read_at(entry.lsn, entry.offset) {
            Ok(Record { body: Body::Change(change), .. }) => Ok(change.after.filter(|image| image.sha() == entry.sha)),
            Ok(_) | Err(LogError::Trimmed { .. } | LogError::NotThere { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// `_id` as it stands in an image.
pub(crate) fn stored_id(image: &Image) -> Option<RawBson> {
    let doc: &RawDocument = document(image.bytes());
    doc.get("_id").ok().flatten().map(RawBson::from)
}
