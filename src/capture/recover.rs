//! `verify` of a scope, and its first caller: after a crash, what open intents name.
//!
//! A write that a killed sidecar had sent may land after the first look: [`looks`](super::looks) come after it. The intents stay on
//! disk until the last of them has succeeded; at each later touch the comparison with the index finds what all missed.

use bson::RawBson;
use std::collections::HashSet;
use tracing::info;

use super::Capture;
use super::compare::Cause;
use super::error::CaptureError;
use super::intent::Scope;
use super::looks::merged;
use super::observe::Target;
use super::piece::Hold;
use crate::metrics;
use crate::types::{Control, EntityKey, Epoch, Found, Lsn, Namespace, Seq};

/// Entities that are guarded and read together.
const TOGETHER: usize = 256;

impl Capture {
    /// Verifies what intents of dead processes name. Call before any client is served; then [`looks`](Self::looks).
    /// Gives the number of intents found.
    ///
    /// # Errors
    /// When the store cannot be read: the sidecar must not serve.
    pub async fn recover(&self) -> Result<usize, CaptureError> {
        self.epochs.known().await;
        let commits = self.recover_commits().await?;
        let left = self.intents.left_behind()?;
        let found = left.len();
        metrics::INTENTS_RECOVERED.add(u64::try_from(found).unwrap_or(u64::MAX));
        for scope in merged(left.iter().map(|l| &l.scope)) {
            self.verify(&scope, Found::Recovery).await?;
        }
        // What was under way longer ago than the last look waits has had it now.
        let bound_ms = i64::try_from(self.looks.bound().as_millis()).unwrap_or(i64::MAX);
        let now_ms = self.clock.wall_ms();
        let (old, young): (Vec<_>, Vec<_>) = left.into_iter().partition(|l| now_ms - l.written_ms >= bound_ms);
        self.intents.remove(&old.into_iter().map(|l| l.name).collect::<Vec<_>>())?;
        if !young.is_empty() {
            let scopes = merged(young.iter().map(|l| &l.scope));
            self.looks.begin(scopes, young.into_iter().map(|l| l.name).collect());
        }
        if found > 0 {
            info!(intents = found, "verified what the last process left open");
        }
        Ok(found + commits)
    }

    /// Reads what `scope` names under its guards and appends *observed* records for what the log does not know, durable when
    /// this returns.
    ///
    /// # Errors
    /// The store cannot be read; what was found before is in the log.
    pub async fn verify(&self, scope: &Scope, found: Found) -> Result<(), CaptureError> {
        let cause = Cause { found, ..Cause::default() };
        match scope {
            Scope::Entities(groups) => {
                for (ns, ids) in groups {
                    self.verify_ids(ns, ids, &cause).await?;
                }
            }
            Scope::Namespaces(namespaces) => {
                for ns in namespaces {
                    self.verify_whole(ns, &cause).await?;
                }
            }
            Scope::Database(db) => {
                let mut namespaces =
                    self.privileged.collections(db).await.map_err(|e| CaptureError::Store(e.to_string()))?;
                namespaces.extend(self.index.state().namespaces.into_keys().filter(|ns| ns.db() == db));
                namespaces.sort();
                namespaces.dedup();
                for ns in &namespaces {
                    self.verify_whole(ns, &cause).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until every write that is under way now has handed its records to the log or failed, and tells the log's end then.
    /// Writes that begin meanwhile are not held up.
    ///
    /// # Errors
    /// The log failed.
    pub async fn quiet(&self) -> Result<Lsn, CaptureError> {
        self.ns_guards.landed().await;
        let _durable = self.enqueue(Vec::new()).wait().await?;
        Ok(self.log.tail())
    }

    /// The number of an entity's last change, staged ones included; `None`: there is no such entity.
    ///
    /// # Errors
    /// The index failed.
    pub fn last_number(&self, ns: &Namespace, key: &EntityKey) -> Result<Option<(Epoch, Seq)>, CaptureError> {
        let known = self.index.get(ns, key).map_err(|e| CaptureError::Index(e.to_string()))?;
        Ok(known.map(|known| (known.epoch, known.seq)))
    }

    /// What was learnt of namespaces is asked anew: the store may have lost it.
    pub fn forget_namespaces(&self) {
        self.namespaces.forget(|_| true);
    }

    /// The wall time of the log's records now, milliseconds since 1970.
    pub fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    /// Appends a fact about the log, durable and in the index when this returns; tells its number.
    ///
    /// # Errors
    /// The log or the index failed.
    pub async fn state(&self, control: Control) -> Result<Lsn, CaptureError> {
        Ok(self.control(vec![control]).await?.last())
    }

    async fn verify_ids(&self, ns: &Namespace, ids: &[RawBson], cause: &Cause) -> Result<(), CaptureError> {
        if self.namespace(ns).await?.excluded {
            return Ok(());
        }
        let targets = Target::all(ns, ids)?;
        for group in targets.chunks(TOGETHER) {
            let shared = self.ns_guards.shared(ns).await;
            let (guard, busy) = self.guards.try_lock(ns, group.iter().map(|t| t.key.clone()).collect());
            let busy: HashSet<EntityKey> = busy.into_iter().collect();
            let (waiting, free): (Vec<Target>, Vec<Target>) =
                group.iter().cloned().partition(|t| busy.contains(&t.key));
            self.verify_held(&free, cause).await?;
            drop((guard, shared));
            // One at a time: whoever waits for one entity must not keep others from theirs.
            for target in waiting {
                let _shared = self.ns_guards.shared(ns).await;
                let _guard = self.guards.lock(ns, vec![target.key.clone()]).await;
                self.verify_held(&[target], cause).await?;
            }
        }
        Ok(())
    }

    /// Entities whose guards are held.
    async fn verify_held(&self, targets: &[Target], cause: &Cause) -> Result<(), CaptureError> {
        let mut drafts = Vec::new();
        let verified = self.verify_targets(targets, cause, &mut drafts).await;
        // What has been staged must follow, whatever came after it.
        let _durable = self.enqueue(drafts).wait().await?;
        verified
    }

    async fn verify_whole(&self, ns: &Namespace, cause: &Cause) -> Result<(), CaptureError> {
        if self.namespace(ns).await?.excluded {
            return Ok(());
        }
        let _hold = Hold::exclusive(self.ns_guards.exclusive(std::slice::from_ref(ns)).await);
        let _durable = self.verify_namespace(ns, cause).await?;
        Ok(())
    }
}
