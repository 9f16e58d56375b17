//! Who waits for whom: guards for transactions, and writes that wait for transactions to end.

use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

use super::{MANY, Stop, Txn};
use crate::capture::Capture;
use crate::capture::command::number;
use crate::capture::error::CaptureError;
use crate::capture::piece::{Aim, Hold};
use crate::entity::{EntityHash, MarkOwner};
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::types::{EntityKey, Namespace};
use bson::raw::RawDocument;

/// The client's own bound on its command.
pub(crate) fn limit_of(body: &RawDocument) -> Option<Instant> {
    let ms = number(body.get("maxTimeMS").ok().flatten()).and_then(|ms| u64::try_from(ms).ok());
    ms.filter(|ms| *ms > 0).map(|ms| Instant::now() + Duration::from_millis(ms))
}

impl Capture {
    /// The guards of a write outside any transaction. What an open transaction has modified is locked in the store: such a
    /// write waits here, with nothing in its hands.
    ///
    /// # Errors
    /// [`CaptureError::Refused`]: the client's own limit is over; this piece was not forwarded.
    pub(crate) async fn guard(&self, aims: &[Aim], limit: Option<Instant>) -> Result<Hold, CaptureError> {
        let entities: Vec<_> = aims.iter().map(|a| (a.target.ns.clone(), a.target.key.clone())).collect();
        loop {
            let hold = self.hold(entities.clone()).await;
            let hashes = entities.iter().map(|(ns, key)| self.marks.hash(ns, key));
            let Some(owner) = self.marks.owner_of(hashes, |_| true) else { return Ok(hold) };
            drop(hold);
            await_end(&owner, limit).await?;
        }
    }

    /// As [`guard`](Self::guard), for a write that is alone in its namespaces.
    pub(crate) async fn guard_alone(
        &self,
        namespaces: &[Namespace],
        limit: Option<Instant>,
    ) -> Result<Hold, CaptureError> {
        loop {
            let hold = if mutated(Mutant::SharedAlone) {
                Hold::exclusive(self.ns_guards.shared_many(namespaces).await)
            } else {
                Hold::exclusive(self.ns_guards.exclusive(namespaces).await)
            };
            let Some(owner) = self.marks.owner_in(|ns| namespaces.contains(ns)) else { return Ok(hold) };
            drop(hold);
            await_end(&owner, limit).await?;
        }
    }

    /// As [`guard_alone`](Self::guard_alone), for a whole database.
    pub(crate) async fn guard_database(&self, db: &str, limit: Option<Instant>) -> Result<Hold, CaptureError> {
        loop {
            let hold = Hold::exclusive(self.ns_guards.database_exclusive(db).await);
            let Some(owner) = self.marks.owner_in(|ns| ns.db() == db) else { return Ok(hold) };
            drop(hold);
            await_end(&owner, limit).await?;
        }
    }

    /// Guards of entities, whoever has marked them.
    async fn hold(&self, entities: Vec<(Namespace, EntityKey)>) -> Hold {
        let namespaces: BTreeSet<Namespace> = entities.iter().map(|(ns, _)| ns.clone()).collect();
        let namespaces: Vec<Namespace> = namespaces.into_iter().collect();
        let shared = match namespaces.as_slice() {
            [one] => self.ns_guards.shared(one).await,
            many => self.ns_guards.shared_many(many).await,
        };
        let entities = if mutated(Mutant::NoGuards) { Vec::new() } else { entities };
        Hold::entities(shared, self.guards.lock_many(entities).await)
    }

    /// The guards of a statement in a transaction, for its round trip.
    pub(super) async fn hold_joined(&self, entities: Vec<(Namespace, EntityKey)>) -> Result<Hold, Stop> {
        let wait = self.transactions.limits.wait;
        let held = if entities.len() > MANY {
            let namespaces: BTreeSet<Namespace> = entities.into_iter().map(|(ns, _)| ns).collect();
            timeout(wait, self.hold_namespaces(&namespaces)).await
        } else {
            timeout(wait, self.hold(entities)).await
        };
        held.map_err(|_late| Stop::Blocked)
    }

    async fn hold_namespaces(&self, namespaces: &BTreeSet<Namespace>) -> Hold {
        let namespaces: Vec<Namespace> = namespaces.iter().cloned().collect();
        Hold::exclusive(self.ns_guards.exclusive(&namespaces).await)
    }

    /// The guards of a commit: of all that it changes, after every commit of unknown outcome before it on the same entities.
    pub(super) async fn hold_commit(&self, txn: &Txn, reach: &Reach) -> Result<Hold, Stop> {
        let end = Instant::now() + self.transactions.limits.wait;
        loop {
            let held = match reach {
                Reach::Entities(entities) => timeout_at(end, self.hold(entities.clone())).await,
                Reach::Namespaces(namespaces, _) => timeout_at(end, self.hold_namespaces(namespaces)).await,
            };
            let Ok(guards) = held else { return Err(Stop::Blocked) };
            let other = |owner: &MarkOwner| *owner != txn.owner && owner.is_unsettled();
            let earlier = match reach {
                Reach::Entities(entities) => {
                    self.marks.owner_of(entities.iter().map(|(ns, key)| self.marks.hash(ns, key)), other)
                }
                Reach::Namespaces(_, hashes) => self.marks.owner_of(hashes.iter().copied(), other),
            };
            let Some(earlier) = earlier else { return Ok(guards) };
            drop(guards);
            if timeout_at(end, earlier.lifted()).await.is_err() {
                return Err(Stop::Blocked);
            }
        }
    }
}

/// What a commit changes.
#[derive(Debug)]
pub(super) enum Reach {
    Entities(Vec<(Namespace, EntityKey)>),
    /// Too many, or some of them not known.
    Namespaces(BTreeSet<Namespace>, Vec<EntityHash>),
}

async fn await_end(owner: &MarkOwner, limit: Option<Instant>) -> Result<(), CaptureError> {
    metrics::TRANSACTION_WAITS.inc();
    let Some(limit) = limit else {
        owner.lifted().await;
        return Ok(());
    };
    timeout_at(limit, owner.lifted()).await.map_err(|_late| CaptureError::Refused {
        code: 50,
        code_name: "MaxTimeMSExpired",
        message: "operation exceeded time limit while it waited for an open transaction; it was not forwarded"
            .to_owned(),
        labels: &[],
    })
}
