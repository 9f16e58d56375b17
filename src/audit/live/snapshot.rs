//! The first read: namespaces that held documents before the sidecar came are brought into the log, once, while clients write.
//!
//! Promises: a namespace is told complete (`completed`) only after every document of it was compared and the namespace was not
//! emptied, dropped or renamed over meanwhile; a kill at any point costs at most the last half second of reading; nothing is
//! written to the store; applications are served from the start. A namespace stays incomplete in every window before that record.
//!
//! # Decisions
//! - One namespace at a time: the store is read at one rate, and the log gets whole namespaces early.
//! - Databases are listed again every minute: where there is no change stream, nobody else tells of a collection that another
//!   writer made.

use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tracing::{info, warn};

use super::board::Reading;
use super::meter::Meter;
use super::walk::Walk;
use super::{AGAIN, KeepError, Keeper};
use crate::capture::Scope;
use crate::capture::range::{Mode, Range, State};
use crate::metrics;
use crate::types::{Found, Lsn, Namespace};

/// What the files of progress are called.
const WHAT: &str = "snapshot";
/// How often progress is written down.
const KEEP: Duration = Duration::from_millis(500);
/// How often it is told in a log line.
const TELL: Duration = Duration::from_secs(10);
/// How often the log's own list of namespaces is looked at when nothing is to do.
const LOOK: Duration = Duration::from_secs(1);
/// How often the store is asked for collections.
const LIST: Duration = Duration::from_mins(1);

impl Keeper {
    /// Reads what is to be read, for as long as the sidecar runs.
    pub(super) async fn snapshots(&self) {
        self.board.set_snapshot(|told| told.enabled = self.options.snapshot);
        if !self.options.snapshot {
            return std::future::pending().await;
        }
        let mut listed: Option<Instant> = None;
        loop {
            let again = listed.is_none_or(|at| at.elapsed() >= LIST);
            let round = async {
                if again {
                    self.meet_all().await?;
                }
                self.read_all().await
            };
            match round.await {
                Ok(()) => {
                    listed = listed.filter(|_| !again).or_else(|| Some(Instant::now()));
                    self.board.set_snapshot(|told| told.error.clear());
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => {
                    metrics::VERIFY_FAILURES.inc();
                    warn!(%error, "the first read of the namespaces: trying again");
                    self.board.set_snapshot(|told| told.error = error.to_string());
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Makes every collection known to the log: empty ones are complete at once.
    pub(super) async fn meet_all(&self) -> Result<(), KeepError> {
        for db in self.node.databases().await? {
            for listed in self.node.listing(&db).await? {
                if !passing(&listed.ns) && (!listed.plain || self.index.known(&listed.ns).is_none()) {
                    self.capture.meet(&listed.ns).await?;
                }
            }
        }
        Ok(())
    }

    async fn read_all(&self) -> Result<(), KeepError> {
        let mut left = BTreeSet::new();
        loop {
            let state = self.index.state();
            let incomplete = state.namespaces.iter().filter(|(_, state)| !state.complete).map(|(ns, _)| ns.clone());
            let waiting: Vec<Namespace> = incomplete.filter(|ns| !left.contains(ns)).collect();
            self.board.set_snapshot(|told| (told.waiting, told.reading) = (waiting.len() as u64, None));
            let Some(ns) = waiting.first() else { return Ok(()) };
            if !self.read(ns).await? {
                left.insert(ns.clone());
            }
        }
    }

    /// Reads one namespace to its end. `false`: it is none that is recorded.
    async fn read(&self, ns: &Namespace) -> Result<bool, KeepError> {
        let emptied = self.capture.emptied(ns);
        let state = self.kept(ns, emptied)?;
        let resumed = state.as_ref().map_or(0, State::entities);
        let Some(mut range) = self.capture.range(ns, Found::Snapshot, Mode::Append, state).await? else {
            return Ok(false);
        };
        metrics::VERIFY_RUNS.inc_for("snapshot");
        let estimated = self.node.estimate(ns).await.unwrap_or(0);
        info!(%ns, documents = estimated, resumed_after = resumed, "first read of a namespace");
        let began = Instant::now();
        let (mut kept, mut told, mut meter) = (Instant::now(), Instant::now(), Meter::new(began));
        let mut walk = Walk::new(self.options.pace);
        while let Some(done) = walk.next(self, &mut range).await? {
            metrics::SNAPSHOT_DOCUMENTS.add(done.entities);
            self.show(&range, estimated, meter.add(Instant::now(), done.entities, walk.rest), &mut told);
            if kept.elapsed() >= KEEP {
                kept = Instant::now();
                self.keep(&range, emptied).await?;
            }
        }
        if walk.unproven > 0 {
            self.capture.verify(&Scope::Namespaces(vec![ns.clone()]), Found::Snapshot).await?;
        }
        let complete = self.capture.complete(ns, emptied).await?;
        self.progress.forget(WHAT, ns.as_str())?;
        let (documents, seconds) = (range.state().entities(), began.elapsed().as_secs());
        info!(%ns, documents, seconds, complete, "first read of a namespace has ended");
        Ok(true)
    }

    fn show(&self, range: &Range, estimated: u64, per_second: u64, told: &mut Instant) {
        let read = range.state().entities();
        let left = estimated.saturating_sub(read).saturating_mul(1_000);
        let left_ms = left.checked_div(per_second).unwrap_or(0);
        let reading = Reading { ns: range.ns().clone(), read, estimated, per_second, left_ms };
        if told.elapsed() >= TELL {
            *told = Instant::now();
            let (percent, seconds) = (reading.percent(), left_ms / 1_000);
            info!(ns = %reading.ns, read, percent, per_second, left_s = seconds, "first read of a namespace");
        }
        self.board.set_snapshot(|told| told.reading = Some(reading));
    }

    /// Writes down how far the range is, after the records of what it has read are on the disk.
    async fn keep(&self, range: &Range, emptied: Lsn) -> Result<(), KeepError> {
        let mut doc = RawDocumentBuf::new();
        doc.append(cstr!("emptied"), i64::try_from(emptied.0).unwrap_or(i64::MAX));
        doc.append(cstr!("state"), &*range.state().to_document());
        self.capture.sync().await?;
        Ok(self.progress.store(WHAT, range.ns().as_str(), &doc).await?)
    }

    pub(super) fn kept(&self, ns: &Namespace, emptied: Lsn) -> Result<Option<State>, KeepError> {
        let of = |doc: &RawDocument| {
            let same = doc.get_i64("emptied").ok().and_then(|n| u64::try_from(n).ok()) == Some(emptied.0);
            let state = doc.get_document("state").ok().and_then(State::from_document);
            state.filter(|_| same)
        };
        Ok(self.progress.load(WHAT, ns.as_str())?.and_then(|doc| of(&doc)))
    }
}

/// A collection of the server that lives only as long as the command that fills it.
pub(super) fn passing(ns: &Namespace) -> bool {
    ["tmp.agg_out.", "tmp.mr."].iter().any(|prefix| ns.collection().starts_with(prefix))
}
