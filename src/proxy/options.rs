//! What the proxy is told by whoever starts it.

use crate::wire::frame::MAX_MESSAGE_BYTES;
use crate::wire::hosts::HostTable;
use crate::wire::reply::Failure;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The window that a cut closed, or why it did not.
pub type CutFuture = Pin<Box<dyn Future<Output = Result<u64, Failure>> + Send>>;

/// Closes a window; called for `{tidelogCut: 1, label: "…"}` with the label.
pub type CutFn = Arc<dyn Fn(Option<String>) -> CutFuture + Send + Sync>;

/// Addresses and limits.
#[derive(Clone)]
pub struct ProxyOptions {
    /// `host:port` to listen on; port 0 takes a free one.
    pub listen: String,
    /// `host:port` of the node.
    pub upstream: String,
    /// Our address as clients reach it; `None`: the address that each client connected to.
    pub advertise: Option<String>,
    /// Other nodes of the set and their sidecars.
    pub hosts: HostTable,
    /// Client connections at the same time.
    pub max_connections: usize,
    /// Largest message of a client, in bytes; the node's own limit holds too. Replies may always have the protocol's 48 000 000.
    pub max_message_bytes: u32,
    /// Bytes of whole messages held for all connections; at least `max_message_bytes`.
    pub max_inflight_bytes: u64,
    /// A connection without a command for this long is closed; zero: never.
    pub idle: Duration,
    /// A message of which no byte came for this long ends its connection.
    pub stall: Duration,
    /// How long connecting to the node may take.
    pub connect_timeout: Duration,
    /// How long commands in flight may go on once the end was asked for.
    pub drain: Duration,
    /// Writes inside transactions are captured; else they are refused.
    pub transactions: bool,
    /// Closes a window on a client's word.
    pub cut: CutFn,
}

impl ProxyOptions {
    /// Defaults for everything but the addresses; `tidelogCut` is refused until `cut` is set.
    pub fn new(listen: &str, upstream: &str) -> Self {
        Self {
            listen: listen.to_owned(),
            upstream: upstream.to_owned(),
            advertise: None,
            hosts: HostTable::default(),
            max_connections: 10_000,
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_inflight_bytes: 512 << 20,
            idle: Duration::ZERO,
            stall: Duration::from_mins(1),
            connect_timeout: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            transactions: true,
            cut: Arc::new(|_label| {
                Box::pin(async { Err(Failure::new(115, "CommandNotSupported", "this sidecar cuts no windows")) })
            }),
        }
    }
}

impl fmt::Debug for ProxyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyOptions")
            .field("listen", &self.listen)
            .field("upstream", &self.upstream)
            .field("advertise", &self.advertise)
            .field("hosts", &self.hosts)
            .field("max_connections", &self.max_connections)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("max_inflight_bytes", &self.max_inflight_bytes)
            .field("idle", &self.idle)
            .field("stall", &self.stall)
            .field("connect_timeout", &self.connect_timeout)
            .field("drain", &self.drain)
            .field("transactions", &self.transactions)
            .finish_non_exhaustive()
    }
}
