//! Looks at the node again and again, so that readiness does not wait for a client to find it gone.

use crate::config::Config;
use crate::metrics::UPSTREAM_UP;
use crate::store::{Upstream, UpstreamError};
use crate::wire::Limits;
use bson::rawdoc;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time between looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the last look found; the text says what is wrong.
#[derive(Clone, Debug)]
pub(super) struct Probe(Arc<Mutex<Result<(), String>>>);

impl Probe {
    /// Starts looking; ends with `stop`.
    pub(super) fn start(config: &Config, stop: CancellationToken) -> Self {
        let probe = Self(Arc::new(Mutex::new(Err("not looked at yet".into()))));
        let (address, limit) = (config.proxy.upstream.to_string(), config.store.connect_timeout_ms);
        tokio::spawn(probe.clone().run(address, Duration::from_millis(limit), stop));
        probe
    }

    /// Why the node is not reachable.
    pub(super) fn last(&self) -> Result<(), String> {
        self.0.lock().clone()
    }

    async fn run(self, address: String, connect: Duration, stop: CancellationToken) {
        let mut connection = None;
        loop {
            let look = look(&mut connection, &address, connect);
            let found = tokio::select! {
                found = look => found,
                () = stop.cancelled() => return,
            };
            if found.is_err() {
                connection = None;
            }
            self.tell(&address, found);
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn tell(&self, address: &str, found: Result<(), String>) {
        UPSTREAM_UP.set_flag(found.is_ok());
        let before = std::mem::replace(&mut *self.0.lock(), found.clone());
        match (before, found) {
            (Err(_), Ok(())) => tracing::info!(upstream = address, "the node answers"),
            (Ok(()), Err(error)) => tracing::warn!(upstream = address, error, "the node does not answer"),
            _ => {}
        }
    }
}

async fn look(connection: &mut Option<Upstream>, address: &str, connect: Duration) -> Result<(), String> {
    let hello = async {
        let node = match connection {
            Some(node) => node,
            None => connection.insert(Upstream::connect(address, Limits::default(), connect).await?),
        };
        node.run("admin", rawdoc! { "hello": 1 }).await?;
        Ok::<(), UpstreamError>(())
    };
    match tokio::time::timeout(PATIENCE.max(connect), hello).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_late) => Err(format!("{address} did not answer hello in time")),
    }
}
