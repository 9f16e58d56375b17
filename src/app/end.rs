//! Signals, and how long an end may take.

use super::AppError;
use crate::config::Config;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// For everything after the drain: later looks, exporter, admin, log.
const AFTER_DRAIN: Duration = Duration::from_secs(20);

/// How long the end may take altogether.
pub(super) fn patience(config: &Config) -> Duration {
    Duration::from_millis(config.proxy.drain_ms) + AFTER_DRAIN
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, AppError> {
        let failed = |source| AppError::System { what: "listen for signals", source };
        Ok(Self {
            term: signal(SignalKind::terminate()).map_err(failed)?,
            int: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }

    /// Cancels `stop` at the first signal; at the second, or when the end takes longer than it may, ends the process.
    pub(super) async fn watch(mut self, stop: CancellationToken, patience: Duration) {
        tokio::select! {
            name = self.next() => tracing::info!(signal = name, "told to end; a second signal ends at once"),
            () = stop.cancelled() => {}
        }
        stop.cancel();
        tokio::select! {
            name = self.next() => tracing::warn!(signal = name, "second signal: ending at once"),
            () = tokio::time::sleep(patience) => tracing::error!(error = %AppError::Late(patience.as_secs()), "ending at once"),
        }
        at_once();
    }
}

#[allow(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "the point of a second signal: nothing is waited for, as in a crash"
)]
fn at_once() {
    std::process::exit(1);
}
