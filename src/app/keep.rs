//! Starts those who keep the log true beside the writes.

use super::AppError;
use super::parts::Running;
use crate::audit::live::{Keeper, Options, Pace, Parts};
use crate::capture::Capture;
use crate::store::Privileged;
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
    let options = Options { snapshot: snapshot.enabled, pace };
    let made = tokio::task::spawn_blocking(move || Keeper::new(parts, options, end)).await;
    let made = made.unwrap_or_else(|broken| Err(std::io::Error::other(broken)));
    let keeper = made.map_err(|source| AppError::System { what: "make the folder for progress", source })?;
    Ok(keeper)
}
