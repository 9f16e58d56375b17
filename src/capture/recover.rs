//! After a crash: `verify` of what open intents name, and the second look.
//!
//! A write that a killed sidecar had sent is not cancelled by the lost connection (WIRE.md 8): it may land after the first
//! look. So every entity of an open intent is read twice, at the start and after a bounded time; and at each later touch
//! the comparison with the index finds what both missed. The intents stay on disk until the second look has succeeded.

use bson::RawBson;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Capture;
use super::compare::Cause;
use super::error::CaptureError;
use super::intent::{Scope, Slot};
use super::observe::Target;
use super::piece::Hold;
use crate::metrics;
use crate::types::{Control, Found, Lsn, Namespace};

/// A second look that is due.
#[derive(Debug)]
pub(crate) struct Look {
    pub due: Instant,
    pub scopes: Entered,
    /// The slot that still names them.
    pub slot: Option<Slot>,
    /// After a restart: the slots of the dead process that do.
    pub files: Vec<String>,
}

/// What second looks that are due name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unsettled(Arc<parking_lot::Mutex<BTreeMap<u64, Arc<Vec<Scope>>>>>);

/// Scopes that are unsettled as long as this lives.
#[derive(Debug)]
pub(crate) struct Entered {
    of: Unsettled,
    number: u64,
    scopes: Arc<Vec<Scope>>,
}

impl Unsettled {
    pub(crate) fn enter(&self, scopes: Vec<Scope>) -> Entered {
        let scopes = Arc::new(scopes);
        let mut entered = self.0.lock();
        let number = entered.last_key_value().map_or(0, |(last, _)| last + 1);
        entered.insert(number, Arc::clone(&scopes));
        Entered { of: self.clone(), number, scopes }
    }
}

impl std::ops::Deref for Entered {
    type Target = [Scope];

    fn deref(&self) -> &[Scope] {
        &self.scopes
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.of.0.lock().remove(&self.number);
    }
}

/// Pause between tries of a look that failed.
const AGAIN: Duration = Duration::from_secs(2);

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
        // What was under way longer ago than the second look waits has had it now.
        let bound_ms = i64::try_from(self.second_look.as_millis()).unwrap_or(i64::MAX);
        let now_ms = self.clock.wall_ms();
        let (old, young): (Vec<_>, Vec<_>) = left.into_iter().partition(|l| now_ms - l.written_ms >= bound_ms);
        self.intents.remove(&old.into_iter().map(|l| l.name).collect::<Vec<_>>())?;
        if !young.is_empty() {
            let scopes = merged(young.iter().map(|l| &l.scope));
            let files = young.into_iter().map(|l| l.name).collect();
            let scopes = self.unsettled.enter(scopes);
            let look = Look { due: Instant::now() + self.second_look, scopes, slot: None, files };
            let _closed = self.looks.send(look);
        }
        if found > 0 {
            info!(intents = found, "verified what the last process left open");
        }
        Ok(found + commits)
    }

    /// Carries out second looks until the capture is dropped or `stop` ends.
    pub async fn looks(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let Some(mut looks) = self.looks_out.lock().take() else { return };
        tokio::pin!(stop);
        loop {
            let look = tokio::select! {
                biased;
                () = &mut stop => return,
                look = looks.recv() => look,
            };
            let Some(mut look) = look else { return };
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = self.look(&mut look) => {}
            }
            let closed = look.slot.as_mut().map_or(Ok(()), Slot::close);
            let closed = closed.and_then(|()| self.intents.remove(&look.files));
            if let Err(error) = closed {
                warn!(%error, "an intent stays open: the next start verifies once too often");
            }
        }
    }

    async fn look(&self, look: &mut Look) {
        tokio::time::sleep_until(look.due).await;
        for scope in look.scopes.iter() {
            while let Err(error) = self.verify(scope, Found::Recovery).await {
                metrics::VERIFY_FAILURES.inc();
                warn!(%error, "second look failed, trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
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

    /// What writes of unknown outcome may have changed. Their process being gone, reading it once tells what came of them.
    pub fn unsettled(&self) -> Vec<Scope> {
        let all: Vec<Arc<Vec<Scope>>> = self.unsettled.0.lock().values().cloned().collect();
        merged(all.iter().flat_map(|scopes| scopes.iter()))
    }

    /// What was learnt of namespaces is asked anew: the store may have lost it.
    pub fn forget_namespaces(&self) {
        self.namespaces.forget(|_| true);
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
        let _shared = self.ns_guards.shared(ns).await;
        let keys = targets.iter().map(|t| t.key.clone()).collect();
        let _guard = self.guards.lock(ns, keys).await;
        let mut drafts = Vec::new();
        let verified = self.verify_targets(&targets, cause, &mut drafts).await;
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

/// The same entities, each once.
fn merged<'s>(scopes: impl Iterator<Item = &'s Scope>) -> Vec<Scope> {
    let mut entities = BTreeMap::<Namespace, Vec<RawBson>>::new();
    let (mut namespaces, mut databases) = (BTreeSet::new(), BTreeSet::new());
    for scope in scopes {
        match scope {
            Scope::Entities(groups) => {
                for (ns, ids) in groups {
                    entities.entry(ns.clone()).or_default().extend(ids.iter().cloned());
                }
            }
            Scope::Namespaces(names) => namespaces.extend(names.iter().cloned()),
            Scope::Database(db) => {
                databases.insert(db.clone());
            }
        }
    }
    let mut out: Vec<Scope> = databases.into_iter().map(Scope::Database).collect();
    out.push(Scope::Namespaces(namespaces.into_iter().collect()));
    out.push(Scope::Entities(entities));
    out
}
