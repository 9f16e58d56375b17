//! From events to verifies: whose they are, what explains them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use tracing::info;

use super::snapshot::passing;
use super::{KeepError, Keeper};
use crate::entity::key_of;
use crate::metrics;
use crate::store::{Event, Ttl, dates};
use crate::types::{EntityKey, Found, Image, Namespace};
use crate::wire::msg::document;
use bson::RawBson;

/// Entities that are verified together.
const CHUNK: usize = 500;
/// How long the indexes of a collection are remembered.
const INDEXES: Duration = Duration::from_secs(30);
/// How much earlier than its date says a document may be deleted, for clocks that differ.
const EARLY_MS: i64 = 1_000;

/// An entity that somebody changed.
#[derive(Debug)]
struct Hint {
    id: RawBson,
    deleted: bool,
    time: u64,
}

/// Hints not followed yet, and what is known for judging them.
#[derive(Debug)]
pub(super) struct Hints {
    /// Up to this time nobody followed the stream.
    before: u64,
    waiting: BTreeMap<Namespace, HashMap<EntityKey, Hint>>,
    indexes: HashMap<Namespace, (Instant, Vec<Ttl>)>,
}

impl Hints {
    pub(super) fn new(before: u64) -> Self {
        Self { before, waiting: BTreeMap::new(), indexes: HashMap::new() }
    }
}

impl Keeper {
    /// Judges events in their order and follows the hints; everything they lead to is durable then.
    pub(super) async fn take_hints(&self, hints: &mut Hints, events: Vec<Event>) -> Result<(), KeepError> {
        for event in events {
            match event.kind.as_str() {
                "insert" | "update" | "replace" | "delete" => self.hint(hints, event),
                "drop" | "rename" | "dropDatabase" | "create" | "modify" => {
                    self.follow_hints(hints).await?;
                    self.command(hints, &event).await?;
                }
                _ => {}
            }
        }
        self.follow_hints(hints).await
    }

    fn hint(&self, hints: &mut Hints, event: Event) {
        let Event { kind, ns, id: Some(id), time, txn, .. } = event else { return };
        if passing(&ns) {
            return;
        }
        let Ok(key) = key_of(&id.as_raw_bson_ref()) else { return };
        let own = match &txn {
            Some(id) => self.capture.is_own_transaction(id),
            None => self.capture.is_own_change(&ns, &key, time),
        };
        metrics::FOLLOWER_EVENTS.inc_for(if own { "own" } else { "foreign" });
        if !own {
            hints.waiting.entry(ns).or_default().insert(key, Hint { id, deleted: kind == "delete", time });
        }
    }

    async fn follow_hints(&self, hints: &mut Hints) -> Result<(), KeepError> {
        for (ns, entities) in std::mem::take(&mut hints.waiting) {
            metrics::VERIFY_RUNS.inc_for("follower");
            let mut by_cause: BTreeMap<Found, Vec<(EntityKey, RawBson)>> = BTreeMap::new();
            for (key, hint) in entities {
                let found = self.cause(hints, &ns, &key, &hint).await?;
                by_cause.entry(found).or_default().push((key, hint.id));
            }
            for (found, entities) in by_cause {
                for chunk in entities.chunks(CHUNK) {
                    let ids: Vec<RawBson> = chunk.iter().map(|(_, id)| id.clone()).collect();
                    self.capture.verify_entities(&ns, &ids, found).await?;
                    self.capture.forget_own(&ns, chunk.iter().map(|(key, _)| key));
                }
            }
        }
        Ok(())
    }

    /// What explains a change that is not ours.
    async fn cause(&self, hints: &mut Hints, ns: &Namespace, key: &EntityKey, hint: &Hint) -> Result<Found, KeepError> {
        if hint.deleted && self.has_expired(hints, ns, key, hint.time).await? {
            return Ok(Found::Ttl);
        }
        if hint.time <= hints.before {
            return Ok(Found::CatchUp);
        }
        let aggregates = |cause: &str| matches!(cause, "out" | "merge" | "mapReduce");
        let gap = || self.index.gaps().values().any(|gap| gap.ns == *ns && aggregates(&gap.cause));
        let aggregation = self.capture.is_aggregating(ns) || gap();
        Ok(if aggregation { Found::Aggregation } else { Found::Bypass })
    }

    /// The document that the log knows was due to be deleted.
    async fn has_expired(
        &self,
        hints: &mut Hints,
        ns: &Namespace,
        key: &EntityKey,
        time: u64,
    ) -> Result<bool, KeepError> {
        let fresh = hints.indexes.get(ns).is_some_and(|(at, _)| at.elapsed() < INDEXES);
        if !fresh {
            // A collection that is gone has none.
            let found = self.node.ttl_indexes(ns).await.unwrap_or_default();
            hints.indexes.insert(ns.clone(), (Instant::now(), found));
        }
        let Some((_, indexes)) = hints.indexes.get(ns).filter(|(_, indexes)| !indexes.is_empty()) else {
            return Ok(false);
        };
        let Some(image) = self.capture.last_image(ns, key)? else { return Ok(false) };
        let now_ms = i64::try_from(time >> 32).unwrap_or(0).saturating_mul(1_000).saturating_add(999);
        Ok(indexes.iter().any(|index| due(&image, index).is_some_and(|at| at <= now_ms + EARLY_MS)))
    }

    /// A command on a collection that is not ours.
    async fn command(&self, hints: &mut Hints, event: &Event) -> Result<(), KeepError> {
        let Event { kind, ns, to, time, .. } = event;
        let own =
            self.capture.is_own_ddl(ns, *time) || to.as_ref().is_some_and(|to| self.capture.is_own_ddl(to, *time));
        metrics::FOLLOWER_EVENTS.inc_for(if own { "own" } else { "command" });
        if own {
            return Ok(());
        }
        hints.indexes.remove(ns);
        let found = if *time <= hints.before { Found::CatchUp } else { Found::Bypass };
        match (kind.as_str(), to) {
            ("create", _) if !passing(ns) && !ns.collection().is_empty() => {
                self.capture.meet(ns).await?;
            }
            ("modify", _) => self.capture.modified_by_others(ns, extended(event)).await?,
            ("drop", _) if !passing(ns) => self.moved(ns, found).await?,
            ("dropDatabase", _) => {
                let known = self.index.state().namespaces.into_keys();
                for ns in known.filter(|known| known.db() == ns.db()) {
                    self.moved(&ns, found).await?;
                }
            }
            // The end of an `$out`; ours has a gap, which is closed by its own verify.
            ("rename", Some(to)) if passing(ns) && self.capture.is_aggregating(to) => {}
            ("rename", Some(to)) if passing(ns) => self.moved(to, Found::Aggregation).await?,
            ("rename", Some(to)) => {
                self.moved(ns, found).await?;
                self.moved(to, found).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A collection that somebody else dropped, or put another in its place.
    async fn moved(&self, ns: &Namespace, found: Found) -> Result<(), KeepError> {
        if self.capture.dropped_by_others(ns).await? {
            self.compare_whole(ns, found, "follower").await?;
        } else {
            info!(%ns, "dropped by another client");
        }
        Ok(())
    }
}

fn extended(event: &Event) -> String {
    let whole = bson::Document::try_from(&*event.description).unwrap_or_default();
    bson::Bson::Document(whole).into_canonical_extjson().to_string()
}

/// When an index lets a document expire, ms since 1970: the earliest of the dates that its field holds.
fn due(image: &Image, index: &Ttl) -> Option<i64> {
    let mut steps = index.field.split('.');
    let mut value = document(image.bytes()).get(steps.next()?).ok()??;
    for step in steps {
        value = value.as_document()?.get(step).ok()??;
    }
    let earliest = dates(value).into_iter().min()?;
    Some(earliest.saturating_add(index.after_seconds.saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn a_document_is_due_at_its_earliest_date() {
        let date = bson::DateTime::from_millis;
        let image = |doc: bson::RawDocumentBuf| Image::new(doc.into_bytes().into());
        let index = |field: &str| Ttl { field: field.into(), after_seconds: 2 };
        let one = image(rawdoc! {"_id": 1, "at": date(5_000), "in": {"at": date(1_000)}, "text": "x"});
        let due_of = |field: &str| due(&one, &index(field));
        assert_eq!((due_of("at"), due_of("in.at")), (Some(7_000), Some(3_000)));
        assert_eq!((due_of("text"), due_of("none"), due_of("text.at")), (None, None, None));
    }
}
