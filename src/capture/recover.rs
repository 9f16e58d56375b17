//! After a crash: `verify` of what open intents name, and the second look.
//!
//! A write that a killed sidecar had sent is not cancelled by the lost connection (WIRE.md 8): it may land after the first
//! look. So every entity of an open intent is read twice, at the start and after a bounded time; and at each later touch
//! the comparison with the index finds what both missed. The intents stay on disk until the second look has succeeded.

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
use crate::types::Namespace;

/// A second look that is due.
#[derive(Debug)]
pub(crate) struct Look {
    pub due: Instant,
    pub scope: Scope,
    /// The slot that still names the scope; none after a restart, where the files of the dead process do.
    pub slot: Option<Slot>,
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
        let scopes = self.intents.left_behind()?;
        let found = scopes.len();
        for scope in scopes {
            metrics::INTENTS_RECOVERED.inc();
            self.verify_scope(&scope).await?;
            let look = Look { due: Instant::now() + self.second_look, scope, slot: None };
            let _closed = self.looks.send(look);
        }
        if found == 0 {
            self.intents.clear()?;
        } else {
            info!(intents = found, "verified what the last process left open");
        }
        Ok(found)
    }

    /// Carries out second looks until the capture is dropped or `stop` ends. `recovered`: what [`recover`](Self::recover) gave.
    pub async fn looks(self: Arc<Self>, recovered: usize, stop: impl Future<Output = ()>) {
        let Some(mut looks) = self.looks_out.lock().take() else { return };
        let mut recovered = recovered;
        tokio::pin!(stop);
        loop {
            let look = tokio::select! {
                look = looks.recv() => look,
                () = &mut stop => return,
            };
            let Some(mut look) = look else { return };
            tokio::select! {
                () = self.look(&mut look) => {}
                () = &mut stop => return,
            }
            let closed = if let Some(slot) = &mut look.slot {
                slot.close()
            } else {
                recovered = recovered.saturating_sub(1);
                if recovered == 0 { self.intents.clear() } else { Ok(()) }
            };
            if let Err(error) = closed {
                warn!(%error, "an intent stays open: the next start verifies once too often");
            }
        }
    }

    async fn look(&self, look: &mut Look) {
        tokio::time::sleep_until(look.due).await;
        while let Err(error) = self.verify_scope(&look.scope).await {
            metrics::VERIFY_FAILURES.inc();
            warn!(%error, "second look failed, trying again");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn verify_scope(&self, scope: &Scope) -> Result<(), CaptureError> {
        match scope {
            Scope::Entities(groups) => {
                for (ns, ids) in groups {
                    self.verify_ids(ns, ids).await?;
                }
            }
            Scope::Namespaces(namespaces) => {
                for ns in namespaces {
                    self.verify_whole(ns).await?;
                }
            }
            Scope::Database(db) => {
                let mut namespaces =
                    self.privileged.collections(db).await.map_err(|e| CaptureError::Store(e.to_string()))?;
                namespaces.extend(self.index.state().namespaces.into_keys().filter(|ns| ns.db() == db));
                namespaces.sort();
                namespaces.dedup();
                for ns in &namespaces {
                    self.verify_whole(ns).await?;
                }
            }
        }
        Ok(())
    }

    async fn verify_ids(&self, ns: &Namespace, ids: &[bson::RawBson]) -> Result<(), CaptureError> {
        if self.namespace(ns).await?.excluded {
            return Ok(());
        }
        let mut targets = Vec::with_capacity(ids.len());
        for id in ids {
            targets.push(Target::new(ns, id.as_raw_bson_ref())?);
        }
        targets.sort_by(|a, b| a.key.cmp(&b.key));
        targets.dedup_by(|a, b| a.key == b.key);
        let _shared = self.ns_guards.shared(ns).await;
        let keys = targets.iter().map(|t| t.key.clone()).collect();
        let _guard = self.guards.lock(ns, keys).await;
        let mut drafts = Vec::new();
        let verified = self.verify_targets(&targets, &Cause::default(), &mut drafts).await;
        let _durable = self.enqueue(drafts).wait().await?;
        verified
    }

    async fn verify_whole(&self, ns: &Namespace) -> Result<(), CaptureError> {
        if self.namespace(ns).await?.excluded {
            return Ok(());
        }
        let _hold = Hold::exclusive(self.ns_guards.exclusive(std::slice::from_ref(ns)).await);
        let _durable = self.verify_namespace(ns, &Cause::default()).await?;
        Ok(())
    }
}
