//! The documents of a page: read, guard, compare; what was touched meanwhile is read again under its guard.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::{Difference, Done, Limits, Mode, Range, Side};
use crate::capture::Capture;
use crate::capture::compare::{Step, stored_id};
use crate::capture::error::CaptureError;
use crate::capture::observe::{Seen, Target};
use crate::entity::MarkOwner;
use crate::metrics;
use crate::types::{Draft, EntityKey, Image};

/// Entities that are guarded and read together when a page's own read does not count.
const AGAIN: usize = 256;

impl Capture {
    /// Compares entities that the walk has shown.
    pub(super) async fn compare_listed(
        &self,
        range: &Range,
        targets: &[Target],
        limits: Limits,
        done: &mut Done,
    ) -> Result<(), CaptureError> {
        let mut rest = targets;
        while !rest.is_empty() {
            let size = range.fits.load(Ordering::Relaxed);
            let (chunk, after) = rest.split_at(size.clamp(1, rest.len()));
            if self.compare_chunk(range, chunk, limits, done).await? {
                rest = after;
                // Slowly up again: what was read in vain is read twice.
                range.fits.store(size.saturating_add(size / 8), Ordering::Relaxed);
            } else {
                range.fits.store((chunk.len() / 4).max(1), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// One read. `false`: the documents are more than may be in memory.
    async fn compare_chunk(
        &self,
        range: &Range,
        chunk: &[Target],
        limits: Limits,
        done: &mut Done,
    ) -> Result<bool, CaptureError> {
        let watch = self.guards.watch(&range.ns);
        let Some(seen) = self.images_within(chunk, limits.bytes).await? else { return Ok(false) };
        note(chunk.len(), &seen, done);
        let (mut drafts, mut again) = (Vec::new(), Vec::new());
        if range.alone {
            let compared = self.compare_free(range, chunk, &seen, &mut drafts, &mut again);
            return self.append(drafts, compared, done).await.map(|()| true);
        }
        let shared = self.ns_guards.shared(&range.ns).await;
        let (guard, busy) = self.guards.try_lock(&range.ns, chunk.iter().map(|t| t.key.clone()).collect());
        let busy: HashSet<EntityKey> = busy.into_iter().collect();
        let is_free =
            |t: &Target| !busy.contains(&t.key) && !watch.touched(&t.key) && self.unsettled_owner(t).is_none();
        let (free, touched): (Vec<Target>, Vec<Target>) = chunk.iter().cloned().partition(is_free);
        let compared = self.compare_free(range, &free, &seen, &mut drafts, &mut again);
        // Whatever has been staged must follow, whatever came after it.
        let ticket = self.enqueue(std::mem::take(&mut drafts));
        drop((guard, watch, shared));
        done.appended += compared?;
        let _durable = ticket.wait().await?;
        again.extend(touched);
        self.compare_guarded(range, &again, limits, done).await.map(|()| true)
    }

    /// Entities of which the image read counts. Where a difference is to be told, it is looked at once more.
    fn compare_free(
        &self,
        range: &Range,
        targets: &[Target],
        seen: &Seen,
        drafts: &mut Vec<Draft>,
        again: &mut Vec<Target>,
    ) -> Result<u64, CaptureError> {
        for target in targets {
            let now = seen.get(&(target.ns.clone(), target.key.clone())).cloned();
            if range.mode == Mode::Append {
                self.compare_looked(&Step::observed(target, now), &range.cause, drafts)?;
            } else if self.side(target, now.as_ref())?.is_some() {
                again.push(target.clone());
            }
        }
        Ok(drafts.len() as u64)
    }

    /// Reads entities under their guards and settles them; takes the guards itself unless the caller is alone.
    pub(in crate::capture) async fn compare_guarded(
        &self,
        range: &Range,
        targets: &[Target],
        limits: Limits,
        done: &mut Done,
    ) -> Result<(), CaptureError> {
        for group in targets.chunks(AGAIN) {
            if range.alone {
                self.settle(range, group, limits, done).await?;
                continue;
            }
            let shared = self.ns_guards.shared(&range.ns).await;
            let (guard, busy) = self.guards.try_lock(&range.ns, group.iter().map(|t| t.key.clone()).collect());
            let busy: HashSet<EntityKey> = busy.into_iter().collect();
            let waits = |t: &Target| busy.contains(&t.key) || self.unsettled_owner(t).is_some();
            let (waiting, free): (Vec<Target>, Vec<Target>) = group.iter().cloned().partition(waits);
            self.settle(range, &free, limits, done).await?;
            drop((guard, shared));
            // One at a time: whoever waits for one entity must not keep others from theirs.
            for target in &waiting {
                self.settle_waiting(range, target, limits, done).await?;
            }
        }
        Ok(())
    }

    /// One entity, after whoever has it. What the store shows of a commit of unknown outcome is not told as anybody's
    /// change: it is settled first.
    async fn settle_waiting(
        &self,
        range: &Range,
        target: &Target,
        limits: Limits,
        done: &mut Done,
    ) -> Result<(), CaptureError> {
        loop {
            let shared = self.ns_guards.shared(&range.ns).await;
            let guard = self.guards.lock(&range.ns, vec![target.key.clone()]).await;
            let Some(owner) = self.unsettled_owner(target) else {
                return self.settle(range, std::slice::from_ref(target), limits, done).await;
            };
            drop((guard, shared));
            owner.lifted().await;
        }
    }

    /// The transaction of unknown outcome that may have changed the entity.
    fn unsettled_owner(&self, target: &Target) -> Option<MarkOwner> {
        let hash = self.marks.hash(&target.ns, &target.key);
        self.marks.owner_of(std::iter::once(hash), MarkOwner::is_unsettled)
    }

    /// Reads guarded entities and does with their differences what the mode says.
    async fn settle(
        &self,
        range: &Range,
        targets: &[Target],
        limits: Limits,
        done: &mut Done,
    ) -> Result<(), CaptureError> {
        let (mut size, mut rest) = (targets.len(), targets);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(size.clamp(1, rest.len()));
            let Some(seen) = self.images_within(chunk, limits.bytes).await? else {
                size = (chunk.len() / 8).max(1);
                continue;
            };
            note(0, &seen, done);
            let mut drafts = Vec::new();
            let settled = self.settle_seen(range, chunk, &seen, &mut drafts, &mut done.differences);
            self.append(drafts, settled, done).await?;
            rest = after;
        }
        Ok(())
    }

    fn settle_seen(
        &self,
        range: &Range,
        targets: &[Target],
        seen: &Seen,
        drafts: &mut Vec<Draft>,
        told: &mut Vec<Difference>,
    ) -> Result<u64, CaptureError> {
        for target in targets {
            let now = seen.get(&(target.ns.clone(), target.key.clone())).cloned();
            if range.mode != Mode::Append {
                let Some(side) = self.side(target, now.as_ref())? else { continue };
                if range.partial && side == Side::StoreOnly {
                    continue;
                }
                let id = now.as_ref().and_then(stored_id).unwrap_or_else(|| target.id.clone());
                told.push(Difference { id, key: target.key.clone(), side });
            }
            if range.mode != Mode::Report {
                self.compare_looked(&Step::observed(target, now), &range.cause, drafts)?;
            }
        }
        Ok(drafts.len() as u64)
    }

    /// Appends what has been staged, also when the comparison broke off, and waits until it is durable.
    pub(super) async fn append(
        &self,
        drafts: Vec<Draft>,
        compared: Result<u64, CaptureError>,
        done: &mut Done,
    ) -> Result<(), CaptureError> {
        let ticket = self.enqueue(drafts);
        done.appended += compared?;
        let _durable = ticket.wait().await?;
        Ok(())
    }

    /// What log and store say differently of an entity.
    fn side(&self, target: &Target, now: Option<&Image>) -> Result<Option<Side>, CaptureError> {
        if self.marks.is_unsettled(&target.ns, &target.key) {
            return Ok(None);
        }
        let known = self.index.get(&target.ns, &target.key).map_err(|e| CaptureError::Index(e.to_string()))?;
        Ok(match (known.filter(|e| e.alive).map(|e| e.sha), now.map(Image::sha)) {
            (log, store) if log == store => None,
            (Some(_), None) => Some(Side::LogOnly),
            (None, _) => Some(Side::StoreOnly),
            (Some(_), Some(_)) => Some(Side::Images),
        })
    }
}

/// Counts what was read.
fn note(entities: usize, seen: &Seen, done: &mut Done) {
    let entities = u64::try_from(entities).unwrap_or(u64::MAX);
    metrics::VERIFY_ENTITIES.add(entities);
    done.entities += entities;
    done.bytes += seen.values().map(|image| image.bytes().len() as u64).sum::<u64>();
}
