//! The gap ledger's other half: what a gap covers is compared with the store, and the gap is closed when that proved it.
//!
//! Promises: a gap closes only after every namespace that it covers was walked whole, beginning after the last command that could
//! have made it had ended ([`Capture::close_gap`](crate::capture::Capture::close_gap)). Gaps of collections that are not recorded stay
//! for as long as the collection is what it is.

use std::collections::BTreeSet;
use std::time::Duration;
use tracing::{info, warn};

use super::snapshot::passing;
use super::walk::Walk;
use super::{AGAIN, KeepError, Keeper};
use crate::capture::range::Mode;
use crate::capture::{Scope, covers};
use crate::metrics;
use crate::types::{Found, Gap, Namespace, stays};

/// How often the ledger is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// How often, in looks, a collection that is not recorded is asked for what it is.
const ASK_EVERY: u32 = 200;

impl Keeper {
    /// Closes what can be closed, for as long as the sidecar runs.
    pub(super) async fn gaps(&self) {
        let mut round = 0_u32;
        loop {
            for gap in self.index.gaps().into_values() {
                if stays(&gap.cause) && !round.is_multiple_of(ASK_EVERY) {
                    continue;
                }
                if let Err(error) = self.prove(&gap).await {
                    metrics::VERIFY_FAILURES.inc();
                    warn!(gap = gap.id, ns = %gap.ns, %error, "the gap stays open for now");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            round = round.wrapping_add(1);
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn prove(&self, gap: &Gap) -> Result<(), KeepError> {
        let Some(mark) = self.capture.gap_mark(gap) else { return Ok(()) };
        if stays(&gap.cause) && self.is_special(&gap.ns).await? {
            return Ok(());
        }
        let found = match gap.cause.as_str() {
            "out" | "merge" | "mapReduce" => Found::Aggregation,
            "stream" => Found::CatchUp,
            _ => Found::Recovery,
        };
        for ns in self.covered(&gap.ns).await? {
            if !self.compare_whole(&ns, found, "gap").await? {
                return Ok(());
            }
        }
        if self.capture.close_gap(gap, mark).await? {
            info!(gap = gap.id, ns = %gap.ns, cause = gap.cause, "a gap is closed: what it covered is proved");
        }
        Ok(())
    }

    /// It is of a kind that is not recorded.
    async fn is_special(&self, ns: &Namespace) -> Result<bool, KeepError> {
        let listed = self.node.listing(ns.db()).await?;
        Ok(listed.iter().any(|one| one.ns == *ns && !one.plain))
    }

    /// The namespaces that a gap covers: those of the store and those that the log knows.
    pub(super) async fn covered(&self, gap: &Namespace) -> Result<BTreeSet<Namespace>, KeepError> {
        let known = self.index.state().namespaces.into_keys();
        let mut all: BTreeSet<Namespace> = known.filter(|ns| covers(gap, ns)).collect();
        let databases = match (gap.as_str(), gap.collection()) {
            ("*.*", _) => self.node.databases().await?,
            (_, "*") => vec![gap.db().to_owned()],
            _ => {
                all.insert(gap.clone());
                Vec::new()
            }
        };
        for db in databases {
            all.extend(self.node.listing(&db).await?.into_iter().filter(|one| one.plain).map(|one| one.ns));
        }
        all.retain(|ns| !passing(ns));
        Ok(all)
    }

    /// Walks a namespace whole and appends what differs; one that the log did not hold whole is complete then. `false`: it was
    /// dropped, renamed over or the like meanwhile.
    pub(super) async fn compare_whole(&self, ns: &Namespace, found: Found, why: &str) -> Result<bool, KeepError> {
        let emptied = self.capture.emptied(ns);
        let Some(mut range) = self.capture.range(ns, found, Mode::Append, None).await? else { return Ok(true) };
        metrics::VERIFY_RUNS.inc_for(why);
        let mut walk = Walk::new(self.options.pace);
        while walk.next(self, &mut range).await?.is_some() {}
        if walk.unproven > 0 {
            self.capture.verify(&Scope::Namespaces(vec![ns.clone()]), found).await?;
        }
        if walk.appended > 0 {
            info!(%ns, appended = walk.appended, entities = walk.entities, why, "the log had not known all of a namespace");
        }
        Ok(self.capture.complete(ns, emptied).await?)
    }
}
