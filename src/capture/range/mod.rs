//! Range verify: a namespace, page by page in `_id` order, against the index, while clients write.
//!
//! Promises: every document that is there from the beginning to the end is compared once, and everything that the index holds
//! alive and the walk did not show is read by its `_id`; what differs is appended as *observed* (or told, see [`Mode`]). A writer
//! never waits for a page; only for the comparison of its entity, which reads no documents unless it was just written. Memory:
//! one page. A walk can be left at any page and taken up again from its [`State`], also by another process.
//!
//! How a page is exact without guards: a [`Watch`](crate::entity::Watch) is opened, the page is read, then the guards of its
//! entities are taken. Nobody held an entity that the watch has not seen from before the read until now, so the image read is
//! compared with the index as if the guard had been held. Entities that were touched or are busy are read again under their guard.
//!
//! # Decisions
//! - The walk gives `_id`s only (an index scan); documents are read by `_id`, page by page. A range query would read a page in
//!   one go, but queries do not compare across types, know no order for `NaN`, and on the test store cost as much as all that follows.
//! - What the index holds alive and the walk did not show is never taken for gone because of its place: it is read. Only under
//!   the exclusive guard, where nothing can come between, the place decides (for keys that sort as the store sorts).
//! - Entities whose record is younger than the walk are not read again at its end: a write through the sidecar has proved them.
//! - In a collection with a default collation the store's order is not that of the keys: what is missing is then looked for in a
//!   second walk, over the index.

mod absent;
mod page;
mod state;

use bson::RawBson;
use bson::raw::RawBsonRef;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;

use super::Capture;
use super::compare::{Cause, stored_id};
use super::error::CaptureError;
use super::observe::Target;
use crate::entity::key_of;
use crate::store::Scan;
use crate::types::{EntityKey, Found, Lsn, Namespace};
pub use state::State;

/// What is done about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is appended as *observed*.
    Append,
    /// It is read again under the entity's guard, then told.
    Report,
    /// As [`Mode::Report`], and appended.
    Repair,
}

/// Which side lacks what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The log has a document that the store lacks.
    LogOnly,
    /// The store has a document that the log lacks.
    StoreOnly,
    /// Both have it, with different images.
    Images,
}

impl Side {
    /// The word used in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogOnly => "logOnly",
            Self::StoreOnly => "storeOnly",
            Self::Images => "images",
        }
    }
}

/// An entity of which log and store say different things.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Its `_id`.
    pub id: RawBson,
    /// Its key.
    pub key: EntityKey,
    /// Who lacks what.
    pub side: Side,
}

/// How much is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Documents of a page.
    pub documents: usize,
    /// Bytes of documents in memory at the same time (one document may be larger).
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { documents: 1_000, bytes: 8 << 20 }
    }
}

/// What a page came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// Entities compared.
    pub entities: u64,
    /// Bytes of documents read.
    pub bytes: u64,
    /// Records appended.
    pub appended: u64,
    /// What differs, unless the mode is [`Mode::Append`].
    pub differences: Vec<Difference>,
    /// Entities that could not be read since no record tells their `_id` any more. The namespace is then not proved.
    pub unproven: u64,
}

/// A walk under way.
#[derive(Debug)]
pub struct Range {
    pub(super) ns: Namespace,
    pub(super) cause: Cause,
    pub(super) mode: Mode,
    /// The caller holds the namespace's exclusive guard.
    pub(super) alone: bool,
    pub(super) collated: bool,
    /// Documents that the log lacks are not told: its first read of the namespace has not ended.
    pub(super) partial: bool,
    /// Where it ends; `None`: where the namespace does.
    pub(super) until: Option<Until>,
    pub(super) state: State,
    /// Documents that were within the bytes allowed the last time.
    pub(super) fits: AtomicUsize,
    /// The open walk; the lock only makes it shareable, nobody contends.
    pub(super) ids: Option<Mutex<Box<dyn Scan>>>,
}

/// The end of a walk.
#[derive(Clone, Debug)]
pub(super) enum Until {
    /// The last key that belongs to it.
    Last(EntityKey),
    /// The first one that does not.
    First(EntityKey),
}

impl Until {
    fn key(&self) -> &EntityKey {
        match self {
            Self::Last(key) | Self::First(key) => key,
        }
    }

    /// The walk ends before this key.
    fn is_before(&self, key: &EntityKey) -> bool {
        match self {
            Self::Last(last) => key > last,
            Self::First(first) => key >= first,
        }
    }
}

impl Range {
    /// How far it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Everything has been compared.
    pub fn is_ended(&self) -> bool {
        self.state.ended
    }

    /// The namespace.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// It can only be walked whole.
    pub fn is_always_whole(&self) -> bool {
        self.collated
    }

    /// Documents that the log lacks are not told.
    #[must_use]
    pub fn partial(self, partial: bool) -> Self {
        Self { partial, ..self }
    }

    /// Only entities after the one named `after` (with the key given), up to `until`. Not in a collection with a default collation, which
    /// is always walked whole.
    #[must_use]
    pub fn between(mut self, after: Option<(RawBson, EntityKey)>, until: Option<EntityKey>) -> Self {
        if !self.collated {
            (self.state.after, self.state.upper) = after.unzip();
            self.until = until.map(Until::Last);
        }
        self
    }

    /// As [`between`](Self::between), `end` itself left out.
    #[must_use]
    pub fn before(self, after: Option<(RawBson, EntityKey)>, end: Option<EntityKey>) -> Self {
        let until = end.filter(|_| !self.collated).map(Until::First);
        Self { until, ..self.between(after, None) }
    }

    /// It ends before this key.
    pub(super) fn is_beyond(&self, key: &EntityKey) -> bool {
        self.until.as_ref().is_some_and(|until| until.is_before(key))
    }
}

impl Capture {
    /// Begins a walk, or takes one up again where `state` says. `None`: writes to the namespace are not recorded.
    ///
    /// # Errors
    /// When the store or the log fails.
    pub async fn range(
        &self,
        ns: &Namespace,
        found: Found,
        mode: Mode,
        state: Option<State>,
    ) -> Result<Option<Range>, CaptureError> {
        let info = self.namespace(ns).await?;
        if info.excluded {
            return Ok(None);
        }
        let cause = Cause { found, ..Cause::default() };
        let mut range = self.new_range(ns, cause, mode, info.collated);
        if let Some(state) = state {
            range.state = state;
        }
        Ok(Some(range))
    }

    pub(super) fn new_range(&self, ns: &Namespace, cause: Cause, mode: Mode, collated: bool) -> Range {
        let state = State::new(self.log.tail());
        let (ns, fits) = (ns.clone(), AtomicUsize::new(usize::MAX));
        Range { ns, cause, mode, alone: false, collated, partial: false, until: None, state, fits, ids: None }
    }

    /// Compares the next page. After an error the same page may be tried again. Everything appended is durable when it returns.
    ///
    /// # Errors
    /// When the store or the log fails.
    pub async fn verify_page(&self, range: &mut Range, limits: Limits) -> Result<Done, CaptureError> {
        let mut done = Done::default();
        let stepped = if range.state.listed {
            self.absent_page(range, limits, &mut done).await
        } else {
            self.listed_page(range, limits, &mut done).await
        };
        if stepped.is_err() {
            // The walk is ahead of what was compared: it begins again after the last whole page.
            range.ids = None;
        }
        stepped.map(|()| {
            range.state.entities += done.entities;
            done
        })
    }

    /// Compares a single entity of the namespace of `range`, under its guard, wherever the walk is.
    ///
    /// # Errors
    /// As [`verify_page`](Self::verify_page).
    pub async fn verify_one(&self, range: &Range, id: &RawBson) -> Result<Done, CaptureError> {
        let mut target = Target::new(&range.ns, id.as_raw_bson_ref())?;
        let known = self.index.get(&range.ns, &target.key).map_err(|e| CaptureError::Index(e.to_string()))?;
        // It is told by the `_id` that it has, not by one of equal value.
        if let Some(entry) = known.filter(|entry| entry.alive && entry.lsn > Lsn::ZERO) {
            target.id = self.logged_image(&entry)?.as_ref().and_then(stored_id).unwrap_or(target.id);
        }
        let mut done = Done::default();
        self.compare_guarded(range, &[target], Limits::default(), &mut done).await?;
        done.entities = u64::from(done.bytes > 0 || !done.differences.is_empty());
        Ok(done)
    }

    async fn listed_page(&self, range: &mut Range, limits: Limits, done: &mut Done) -> Result<(), CaptureError> {
        let (targets, last) = self.list(range, limits.documents.max(1)).await?;
        self.compare_listed(range, &targets, limits, done).await?;
        let mut state = range.state.clone();
        if let Some(target) = targets.last() {
            state.after = Some(target.id.clone());
        }
        if !range.collated {
            let shown: HashSet<EntityKey> = targets.iter().map(|t| t.key.clone()).collect();
            let upper = shown.iter().max().max(range.state.upper.as_ref()).cloned();
            let bound = if last { range.until.as_ref().map(|until| until.key().clone()) } else { upper.clone() };
            if bound.is_some() || last {
                self.compare_absent(range, &shown, bound.as_ref(), limits, done).await?;
            }
            state.upper = upper;
            state.ended = last;
        }
        state.listed = last;
        range.state = state;
        Ok(())
    }

    /// The next `_id`s of the walk, and whether they are the last ones.
    async fn list(&self, range: &mut Range, limit: usize) -> Result<(Vec<Target>, bool), CaptureError> {
        let broken = |e: crate::store::PrivilegedError| CaptureError::Store(e.to_string());
        let scan = match &mut range.ids {
            Some(scan) => scan,
            none => {
                let after = range.state.after.as_ref().map(RawBson::as_raw_bson_ref);
                none.insert(Mutex::new(self.privileged.ids(&range.ns, after).await.map_err(broken)?))
            }
        };
        let mut targets = Vec::with_capacity(limit);
        while targets.len() < limit {
            let Some(doc) = scan.get_mut().next().await.map_err(broken)? else { return Ok((targets, true)) };
            let id = doc.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
            let key = key_of(&id).map_err(|e| CaptureError::Answer(e.to_string()))?;
            if range.until.as_ref().is_some_and(|until| until.is_before(&key)) {
                return Ok((targets, true));
            }
            targets.push(Target { ns: range.ns.clone(), key, id: RawBson::from(id) });
        }
        Ok((targets, false))
    }

    /// The whole namespace; the caller holds its exclusive guard. Gives the number of records appended.
    pub(super) async fn verify_alone(&self, ns: &Namespace, cause: &Cause, since: Lsn) -> Result<u64, CaptureError> {
        let mut range = self.new_range(ns, cause.clone(), Mode::Append, self.is_collated(ns));
        range.alone = true;
        range.state = State::new(since);
        let mut appended = 0;
        while !range.is_ended() {
            appended += self.verify_page(&mut range, Limits::default()).await?.appended;
        }
        Ok(appended)
    }
}
