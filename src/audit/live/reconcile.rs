//! Comparisons of log and store: report first, repair on demand, whole or by sample, asked for or scheduled.
//!
//! Promises: no false alarms under load: what looks different is read again under the entity's guard before it is told. Each
//! namespace that was compared has a `reconciled` record with its counts, which the next manifest lists.
//!
//! # Decisions
//! - A sample is ranges of the key space drawn at random, each compared from both sides; single documents drawn from one side
//!   would never find what only the other side has.
//! - Of a namespace whose first read has not ended, documents that the log lacks are not told: it has not come to them yet.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

use super::bounds::Bounds;
use super::walk::Walk;
use super::{KeepError, Keeper};
use crate::capture::range::{Difference, Done, Mode, Range, Side};
use crate::metrics;
use crate::types::{Control, Found, Namespace};

/// Rows of the index between two places of a sample.
const ROWS: usize = 1_000;
/// Differences that a report names; all are counted.
const NAMED: usize = 1_000;

/// What is to be compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Only this namespace; `None`: all.
    pub ns: Option<Namespace>,
    /// Only this part of it.
    pub bounds: Bounds,
    /// Append *observed* records for what differs.
    pub repair: bool,
    /// The part of each namespace, of 100.
    pub sample_percent: u64,
}

/// What a comparison of one namespace came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// The namespace.
    pub ns: String,
    /// All of it, not a sample or a range.
    pub whole: bool,
    /// A range of it.
    pub range: bool,
    /// Its first read has not ended.
    pub partial: bool,
    /// Entities compared.
    pub entities: u64,
    /// The log has them, the store does not.
    pub log_only: u64,
    /// The store has them, the log does not.
    pub store_only: u64,
    /// Both have them, with different images.
    pub images: u64,
    /// Differences put right.
    pub repaired: u64,
    /// Entities that the log holds alive at the end.
    pub alive: u64,
    /// The fingerprint of their images, hex.
    pub fingerprint: String,
}

impl Compared {
    /// All differences.
    pub fn differing(&self) -> u64 {
        self.log_only + self.store_only + self.images
    }
}

/// A comparison, under way or ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Its number in this process, from 1; 0: there was none yet.
    pub run: u64,
    /// It has ended.
    pub ended: bool,
    /// Why it did not come to its end; empty: it did, or goes on.
    pub error: String,
    /// Namespaces to compare.
    pub namespaces: u64,
    /// Those compared, and the one under way.
    pub compared: Vec<Compared>,
    /// The first differences: namespace, `_id` as canonical Extended JSON, side.
    pub differences: Vec<(String, String, Side)>,
}

impl Keeper {
    /// Begins a comparison; gives its number.
    ///
    /// # Errors
    /// One is under way, or the node is not the primary: the log beside the primary is the one to compare.
    pub fn reconcile(self: &Arc<Self>, request: Request) -> Result<u64, String> {
        if !self.capture.epochs().leads() {
            return Err(
                "the node is not the primary: compare with the log of the sidecar beside the primary".to_owned()
            );
        }
        let run = self.board.begin_report()?;
        let (keeper, stop) = (Arc::clone(self), self.stop.clone());
        tokio::spawn(async move {
            let error = tokio::select! {
                done = keeper.compare_all(&request) => done.err().map(|e| e.to_string()).unwrap_or_default(),
                () = stop.cancelled() => "the sidecar is ending".to_owned(),
            };
            if !error.is_empty() {
                warn!(run, error, "a comparison of log and store did not come to its end");
            }
            keeper.board.with_report(|report| (report.ended, report.error) = (true, error));
        });
        Ok(run)
    }

    /// Begins one each time the interval is over.
    pub(super) async fn schedule(self: &Arc<Self>) {
        let interval = self.options.reconcile_every;
        if interval == Duration::ZERO {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(interval).await;
            let sample_percent = self.options.sample_percent;
            if let Err(why) =
                self.reconcile(Request { ns: None, bounds: Bounds::default(), repair: false, sample_percent })
            {
                info!(why, "a scheduled comparison is left out");
            }
        }
    }

    async fn compare_all(&self, request: &Request) -> Result<(), KeepError> {
        let namespaces = match &request.ns {
            Some(ns) => BTreeSet::from([ns.clone()]),
            None => self.covered(&Namespace::from_full("*.*")).await?,
        };
        self.board.with_report(|report| report.namespaces = namespaces.len() as u64);
        let (mut differing, mut repaired) = (0, 0);
        for ns in namespaces {
            let Some(compared) = self.compare_one(&ns, request).await? else { continue };
            differing += compared.differing();
            repaired += compared.repaired;
        }
        metrics::RECONCILE_DIFFERING.set(differing - repaired);
        metrics::RECONCILE_RUNS.inc();
        info!(differing, repaired, "log and store are compared");
        Ok(())
    }

    /// One namespace; `None`: it is not recorded.
    async fn compare_one(&self, ns: &Namespace, request: &Request) -> Result<Option<Compared>, KeepError> {
        let mode = if request.repair { Mode::Repair } else { Mode::Report };
        let bounded = !request.bounds.is_all();
        let Some(range) = self.capture.range(ns, Found::Reconcile, mode, None).await? else {
            return if bounded { Err(KeepError::NotRecorded { ns: ns.to_string() }) } else { Ok(None) };
        };
        if bounded && range.is_always_whole() {
            return Err(KeepError::Collated { ns: ns.to_string() });
        }
        metrics::VERIFY_RUNS.inc_for("reconcile");
        let partial = self.index.known(ns).is_none_or(|known| !known.complete);
        let range = range.partial(partial);
        let whole = !bounded && (request.sample_percent >= 100 || range.is_always_whole());
        let compared = Compared { ns: ns.to_string(), whole, range: bounded, partial, ..Compared::default() };
        self.board.with_report(|report| report.compared.push(compared));
        if bounded {
            self.compare_bounded(range, request).await?;
        } else if whole {
            self.compare_range(range, request).await?;
        } else {
            self.compare_sample(ns, mode, partial, request).await?;
        }
        Ok(Some(self.conclude(ns).await?))
    }

    /// From the first bound, itself included, to the second, itself left out.
    async fn compare_bounded(&self, range: Range, request: &Request) -> Result<(), KeepError> {
        let Bounds { from, to } = request.bounds.clone();
        if let Some((id, _)) = &from {
            let done = self.one(&range, id).await?;
            self.count(range.ns(), &done, request);
        }
        self.compare_range(range.before(from, to.map(|(_, key)| key)), request).await
    }

    async fn compare_sample(
        &self,
        ns: &Namespace,
        mode: Mode,
        partial: bool,
        request: &Request,
    ) -> Result<(), KeepError> {
        let random = RandomState::new();
        let (mut before, mut number) = (None, 0_u64);
        loop {
            let after = before.as_ref().map(|(_, key)| key);
            let next = self.capture.place_after(ns, after, ROWS)?;
            number += 1;
            // The last range, behind everything that the log knows, is small unless the log lacks much.
            if next.is_none() || random.hash_one(number) % 100 < request.sample_percent {
                let Some(range) = self.capture.range(ns, Found::Reconcile, mode, None).await? else { return Ok(()) };
                let until = next.as_ref().map(|(_, key)| key.clone());
                self.compare_range(range.partial(partial).between(before, until), request).await?;
            }
            if next.is_none() {
                return Ok(());
            }
            before = next;
        }
    }

    async fn compare_range(&self, mut range: Range, request: &Request) -> Result<(), KeepError> {
        let mut walk = Walk::new(self.options.pace);
        while let Some(done) = walk.next(self, &mut range).await? {
            self.count(range.ns(), &done, request);
        }
        Ok(())
    }

    fn count(&self, ns: &Namespace, done: &Done, request: &Request) {
        metrics::RECONCILE_ENTITIES.add(done.entities);
        for difference in &done.differences {
            metrics::RECONCILE_DIFFERENCES.inc_for(difference.side.name());
        }
        self.board.with_report(|report| {
            let room = NAMED.saturating_sub(report.differences.len());
            let named = |one: &Difference| (ns.to_string(), extended(&one.id), one.side);
            report.differences.extend(done.differences.iter().take(room).map(named));
            let Some(compared) = report.compared.last_mut() else { return };
            compared.entities += done.entities;
            for difference in &done.differences {
                *match difference.side {
                    Side::LogOnly => &mut compared.log_only,
                    Side::StoreOnly => &mut compared.store_only,
                    Side::Images => &mut compared.images,
                } += 1;
            }
            if request.repair {
                compared.repaired += done.differences.len() as u64;
            }
        });
    }

    /// The record of it, and what the log holds then.
    async fn conclude(&self, ns: &Namespace) -> Result<Compared, KeepError> {
        let report = self.board.report();
        let mut compared = report.compared.last().cloned().unwrap_or_default();
        metrics::RECONCILE_REPAIRED.add(compared.repaired);
        let (whole, entities) = (compared.whole && !compared.partial, compared.entities);
        let (differing, repaired) = (compared.differing(), compared.repaired);
        let fact = Control::Reconciled { ns: ns.clone(), whole, entities, differing, repaired };
        self.capture.state(fact).await?;
        if let Some(state) = self.index.state().namespaces.get(ns) {
            (compared.alive, compared.fingerprint) = (state.alive, hex::encode(state.sum));
        }
        let last = metrics::LastComparison {
            whole,
            entities,
            differing,
            repaired,
            alive: compared.alive,
            fingerprint: compared.fingerprint.clone(),
            ended_ms: self.capture.wall_ms(),
        };
        metrics::COMPARISONS.tell(ns.as_str(), last);
        self.board.with_report(|report| {
            if let Some(last) = report.compared.last_mut() {
                last.clone_from(&compared);
            }
        });
        Ok(compared)
    }
}

/// An `_id` as canonical Extended JSON.
fn extended(id: &bson::RawBson) -> String {
    bson::Bson::try_from(id.clone()).map(|id| id.into_canonical_extjson().to_string()).unwrap_or_default()
}
