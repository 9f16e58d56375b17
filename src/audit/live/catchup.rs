//! What happened while no sidecar ran and no change stream tells: everything that the log knows is compared with the store.
//!
//! Promises: it does not keep anybody from being served; a process that is killed in the middle leaves a note, and the next one
//! begins again.
//!
//! # Decisions
//! Servers offer no hashes of ranges, so documents are read; they are compared by hash, and nothing is read from the log. Of a
//! namespace whose first read has not ended, only what that has read is compared: the rest it will read.

use bson::rawdoc;
use std::sync::atomic::Ordering;
use tracing::{info, warn};

use super::walk::Walk;
use super::{AGAIN, KeepError, Keeper};
use crate::capture::range::Mode;
use crate::metrics;
use crate::types::{Found, Namespace};

const WHAT: &str = "catchup";
const NAME: &str = "pending";

impl Keeper {
    /// Nobody tells what happened before now. The wish is on the disk before a place in the change stream can be.
    pub(super) async fn want_catch_up(&self) {
        if self.options.catch_up && !self.index.state().namespaces.is_empty() {
            if let Err(error) = self.progress.store(WHAT, NAME, &rawdoc! {}).await {
                warn!(%error, "that a catch-up is wanted cannot be kept");
            }
            self.behind.store(true, Ordering::Release);
            self.wanted.notify_one();
        }
    }

    /// Catches up when it is wanted, for as long as the sidecar runs.
    pub(super) async fn catch_up(&self) {
        if self.progress.load(WHAT, NAME).ok().flatten().is_some() {
            self.want_catch_up().await;
        }
        loop {
            self.wanted.notified().await;
            while self.behind.load(Ordering::Acquire) {
                self.behind.store(false, Ordering::Release);
                if let Err(error) = self.catch_up_all().await {
                    metrics::VERIFY_FAILURES.inc();
                    warn!(%error, "catch-up: trying again");
                    self.behind.store(true, Ordering::Release);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn catch_up_all(&self) -> Result<(), KeepError> {
        let known = self.index.state().namespaces;
        info!(namespaces = known.len(), "catch-up: what the log knows is compared with the store");
        for (ns, state) in known {
            if state.complete || !self.options.snapshot {
                self.compare_whole(&ns, Found::CatchUp, "catchUp").await?;
            } else {
                self.compare_read(&ns).await?;
            }
        }
        info!("catch-up has ended");
        Ok(self.progress.forget(WHAT, NAME)?)
    }

    /// Compares what the first read has read of a namespace.
    async fn compare_read(&self, ns: &Namespace) -> Result<(), KeepError> {
        let Some(read) = self.kept(ns, self.capture.emptied(ns))?.and_then(|state| state.upper().cloned()) else {
            return Ok(());
        };
        let Some(range) = self.capture.range(ns, Found::CatchUp, Mode::Append, None).await? else { return Ok(()) };
        let mut range = range.between(None, Some(read));
        metrics::VERIFY_RUNS.inc_for("catchUp");
        let mut walk = Walk::new(self.options.pace);
        while walk.next(self, &mut range).await?.is_some() {}
        Ok(())
    }
}
