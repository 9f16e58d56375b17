//! Starts those who keep the log true beside the writes.

use super::AppError;
use super::parts::Running;
use crate::admin::{DifferenceRow, ReconcileAsk, ReconcileRefused, ReconcileReport, ReconcileRow};
use crate::audit::live::{Bounds, Compared, Keeper, Options, Pace, Parts, Request};
use crate::capture::Capture;
use crate::capture::range::Side;
use crate::store::Privileged;
use crate::types::Namespace;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Puts the keeper together; it ends with `end`.
pub(super) async fn start(
    running: &Arc<Running>,
    capture: Arc<Capture>,
    node: Privileged,
    end: CancellationToken,
) -> Result<Arc<Keeper>, AppError> {
    let (config, storage) = (&running.config, &running.storage);
    let parts = Parts {
        capture,
        node,
        index: Arc::clone(&storage.index),
        disk: Arc::clone(&storage.disk),
        dir: storage.data.progress(),
        board: Arc::clone(&running.board),
    };
    let snapshot = &config.snapshot;
    let pace = Pace { documents: snapshot.documents_per_second, bytes: snapshot.bytes_per_second };
    let follower = &config.follower;
    let options = Options {
        snapshot: snapshot.enabled,
        pace,
        follower: follower.enabled,
        wait: std::time::Duration::from_millis(follower.wait_ms),
        catch_up: follower.catch_up,
        reconcile_every: std::time::Duration::from_millis(config.reconcile.interval_ms),
        sample_percent: config.reconcile.sample_percent,
    };
    let made = tokio::task::spawn_blocking(move || Keeper::new(parts, options, end)).await;
    let made = made.unwrap_or_else(|broken| Err(std::io::Error::other(broken)));
    let keeper = made.map_err(|source| AppError::System { what: "make the folder for progress", source })?;
    let _only_once = running.keeper.set(Arc::clone(&keeper));
    Ok(keeper)
}

impl Running {
    /// Begins a comparison of log and store.
    pub(super) fn reconcile(&self, asked: ReconcileAsk) -> Result<u64, ReconcileRefused> {
        let bounds = Bounds::parse(&asked.from, &asked.to).map_err(ReconcileRefused::Call)?;
        let busy = || ReconcileRefused::Busy("the sidecar is starting".to_owned());
        let keeper = self.keeper.get().ok_or_else(busy)?;
        let ns = Some(asked.namespace).filter(|ns| !ns.is_empty()).map(|ns| Namespace::from_full(&ns));
        let request = Request { ns, bounds, repair: asked.repair, sample_percent: asked.sample };
        keeper.reconcile(request).map_err(ReconcileRefused::Busy)
    }

    /// The last comparison, as it is told.
    pub(super) fn reconciled(&self) -> ReconcileReport {
        let report = self.board.report();
        let sum = |of: fn(&Compared) -> u64| report.compared.iter().map(of).sum();
        let (entities, differing, repaired) = (sum(|c| c.entities), sum(Compared::differing), sum(|c| c.repaired));
        let difference =
            |(ns, id, side): (String, String, Side)| DifferenceRow { ns, id, side: side.name().to_owned() };
        ReconcileReport {
            run: report.run,
            ended: report.ended,
            error: report.error,
            namespaces: report.namespaces,
            entities,
            differing,
            repaired,
            compared: report.compared.into_iter().map(row).collect(),
            differences: report.differences.into_iter().map(difference).collect(),
        }
    }
}

fn row(compared: Compared) -> ReconcileRow {
    let Compared { ns, whole, range, partial, entities, log_only, store_only, images, repaired, alive, fingerprint } =
        compared;
    ReconcileRow { ns, whole, range, partial, entities, log_only, store_only, images, repaired, alive, fingerprint }
}
