//! Wiring: which part gets which, in what order they start and how they end.
//!
//! ```text
//! start   log lines → changelog → index (replay) → exporter → admin → recovery → proxy
//! end     proxy (drain) → later looks → exporter → admin → changelog
//! ```
//!
//! # Promises
//! - No client is served before the index holds every record of the log and what the last process left open is verified.
//! - SIGTERM and SIGINT end it in order and with exit 0, within [`end::patience`]; a second signal ends it at once, which costs
//!   no acknowledged write: the next start recovers as after a kill.
//! - Log lines hold no documents, keys or credentials.
//!
//! # Decisions
//! Admin starts before the recovery, so that a sidecar whose node is away says why it is not ready instead of ending.

mod consume;
mod control;
mod cut;
mod end;
mod keep;
mod logging;
mod parts;
mod probe;
mod process;
mod retain;
mod serve;
mod storage;

use crate::admin::AdminError;
use crate::capture::CaptureError;
use crate::changelog::LogError;
use crate::config::{Config, SecretError};
use crate::entity::IndexError;
use crate::export::ExportError;
use crate::proxy::ProxyError;
use crate::store::PrivilegedError;

/// The sidecar could not start, could not go on, or could not end in order.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The changelog.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The entity index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Capture and its intents.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The schedule of windows.
    #[error("windows.schedule, windows.time_zone: {0}")]
    Schedule(String),
    /// The export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The listener for applications.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The admin server.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The admin address cannot be bound.
    #[error("admin.listen: cannot listen on {address}: {source}")]
    AdminListen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The sidecar's own client.
    #[error(transparent)]
    Privileged(#[from] PrivilegedError),
    /// Its password.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The system gave no thread, timer or signal handler.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A part ended that never should.
    #[error("{0} ended unexpectedly; see the log lines before this one")]
    Ended(&'static str),
    /// The end took longer than it may.
    #[error("the end took longer than {0} s; the next start recovers as after a kill")]
    Late(u64),
}

/// Runs the sidecar until it is told to end. Blocks.
///
/// # Errors
/// It could not start, go on, or end in order.
pub fn run(config: Config) -> Result<(), AppError> {
    logging::start(&config.logging);
    process::raise_file_limit(config.limits.connections);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = match config.limits.worker_threads {
        0 => (cores / 2).max(1),
        threads => threads,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .thread_name("tidelog")
        .build()
        .map_err(|source| AppError::System { what: "start the runtime", source })?;
    let ended = runtime.block_on(serve::serve(config));
    // Whatever still hangs on a blocking call must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match &ended {
        Ok(()) => tracing::info!("ended"),
        Err(error) => tracing::error!(%error, "ended with an error"),
    }
    ended
}
