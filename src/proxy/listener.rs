//! Accepting connections, the limit on them, and the drain.

use super::budget::Budget;
use super::options::ProxyOptions;
use super::session::{self, End};
use crate::capture::Capture;
use crate::metrics::{CONNECTIONS, CONNECTIONS_ACCEPTED, CONNECTIONS_CLOSED, CONNECTIONS_REFUSED, DRAINING};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Pause after a failed accept (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Unknown hosts that are told in the log, each once.
const UNKNOWN_TOLD: usize = 100;

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: ProxyOptions,
    pub(super) budget: Budget,
    pub(super) capture: Arc<Capture>,
    /// Cancelled when the end was asked for.
    pub(super) drain: CancellationToken,
    told: Mutex<HashSet<String>>,
}

impl Shared {
    /// Whether an unknown host is to be logged: once each, and not for ever more of them.
    pub(super) fn first_seen(&self, host: &str) -> bool {
        let mut told = self.told.lock();
        told.len() < UNKNOWN_TOLD && told.insert(host.to_owned())
    }
}

/// How the end went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended by themselves.
    pub ended: usize,
    /// Connections whose command was still under way when the time was over. Their writes are open intents.
    pub cut_off: usize,
}

/// A bound listener.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    local: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Binds the address. Nothing is accepted before [`serve`](Self::serve).
    ///
    /// # Errors
    /// [`ProxyError::Listen`].
    pub async fn bind(options: ProxyOptions, capture: Arc<Capture>) -> Result<Self, ProxyError> {
        let failed = |source| ProxyError::Listen { address: options.listen.clone(), source };
        let listener = TcpListener::bind(&options.listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let budget = Budget::new(options.max_inflight_bytes);
        let drain = CancellationToken::new();
        let shared = Arc::new(Shared { options, budget, capture, drain, told: Mutex::default() });
        Ok(Self { listener, local, shared })
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `shutdown`, then drains: nothing more is accepted, connections without a command in flight close,
    /// commands in flight end and are settled, within the drain time.
    pub async fn serve(self, shutdown: CancellationToken) -> Drained {
        let Self { listener, shared, .. } = self;
        let mut tasks = JoinSet::new();
        let mut next = 1_u64;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = tasks.join_next() => account(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        CONNECTIONS_ACCEPTED.inc();
                        if tasks.len() >= shared.options.max_connections {
                            CONNECTIONS_REFUSED.inc_for("limit");
                            tracing::warn!(%peer, limit = shared.options.max_connections, "connection refused: limits.connections reached");
                            continue;
                        }
                        tasks.spawn(connection(stream, peer, next, Arc::clone(&shared)));
                        next += 1;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        drain(tasks, &shared).await
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, number: u64, shared: Arc<Shared>) -> End {
    let _open = CONNECTIONS.hold(1);
    session::serve(stream, peer, number, shared).await
}

async fn drain(mut tasks: JoinSet<End>, shared: &Shared) -> Drained {
    DRAINING.set_flag(true);
    shared.drain.cancel();
    let mut ended = 0;
    let finished = tokio::time::timeout(shared.options.drain, async {
        while let Some(end) = tasks.join_next().await {
            account(end);
            ended += 1;
        }
    });
    if finished.await.is_err() {
        tracing::warn!(connections = tasks.len(), "drain time is over with commands still in flight");
    }
    let cut_off = tasks.len();
    tasks.shutdown().await;
    DRAINING.set_flag(false);
    Drained { ended, cut_off }
}

fn account(ended: Result<End, JoinError>) {
    match ended {
        Ok(end) => CONNECTIONS_CLOSED.inc_for(end.reason()),
        Err(error) => {
            CONNECTIONS_CLOSED.inc_for("internal");
            tracing::error!(%error, "a connection's task failed; its client was cut off, the others go on");
        }
    }
}
