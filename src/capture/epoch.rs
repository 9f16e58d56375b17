//! Who counts: the epoch that the next changes carry.
//!
//! On a replica set it is the election term of the node while it is primary, otherwise the log's own generation. It never goes
//! back, and per entity neither, whatever order threads read it in: an entity's next number follows the greater of this and its own last
//! epoch ([`Entry::next`](crate::entity::Entry::next)).
//!
//! # Decisions
//! - The node watch raises it as soon as it sees a term; a reply that names the term of its own write (`opTime.t`) raises it
//!   at once, before the records of that write are made.
//! - A write that comes while it is not known who the node is (a look is late, or the last one found no primary) asks for a
//!   look and waits for it, bounded: after a fail-over and back, records must not carry the term before.

use super::{Capture, CaptureError};
use crate::metrics;
use crate::types::Epoch;
use bson::raw::RawDocument;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A look at the node is good for this long.
const GOOD_FOR: Duration = Duration::from_millis(1_500);
/// How long a write waits for a look that it asked for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The epoch and how well it is known.
#[derive(Debug)]
pub struct Epochs {
    current: AtomicU32,
    seen: watch::Sender<Seen>,
    asked: Notify,
}

/// What the last look told.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Looks so far.
    looks: u64,
    /// Nobody looks, or the node counts no terms: the epoch is always known.
    fixed: bool,
    primary: bool,
    at: Instant,
}

impl Epochs {
    /// Starts with the log's own; nobody looks at the node yet.
    pub(crate) fn new(epoch: Epoch) -> Arc<Self> {
        metrics::EPOCH.set(u64::from(epoch.0));
        let seen = Seen { looks: 0, fixed: true, primary: false, at: Instant::now() };
        Arc::new(Self { current: AtomicU32::new(epoch.0), seen: watch::Sender::new(seen), asked: Notify::new() })
    }

    /// The epoch of the next change.
    pub fn current(&self) -> Epoch {
        Epoch(self.current.load(Ordering::Acquire))
    }

    /// Goes up to `epoch`, never down.
    pub fn raise(&self, epoch: Epoch) {
        let before = self.current.fetch_max(epoch.0, Ordering::AcqRel);
        metrics::EPOCH.set(u64::from(before.max(epoch.0)));
    }

    /// From now on somebody looks: what is not known must be waited for.
    pub fn watched(&self) {
        self.seen.send_modify(|seen| seen.fixed = false);
    }

    /// Tells what a look found. `terms`: the node is a member of a set.
    pub fn looked(&self, terms: bool, primary: bool) {
        self.seen.send_modify(|seen| {
            *seen = Seen { looks: seen.looks.wrapping_add(1), fixed: !terms, primary, at: Instant::now() };
        });
    }

    /// The node takes writes, as far as the last look told; a node that nobody looks at does.
    pub fn leads(&self) -> bool {
        let seen = self.seen.borrow();
        seen.fixed || seen.primary
    }

    /// Waits until the node [takes writes](Self::leads).
    pub async fn led(&self) {
        let mut seen = self.seen.subscribe();
        // The sender lives in `self`.
        let _told = seen.wait_for(|seen| seen.fixed || seen.primary).await;
    }

    /// Waits until somebody asks for a look.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Returns once the epoch is known, or after a bounded time: the store then decides about the write.
    pub async fn known(&self) {
        let now = *self.seen.borrow();
        if now.fixed || (now.primary && now.at.elapsed() < GOOD_FOR) {
            return;
        }
        let mut seen = self.seen.subscribe();
        self.asked.notify_one();
        let looked = seen.wait_for(|seen| seen.looks != now.looks || seen.fixed);
        if tokio::time::timeout(PATIENCE, looked).await.is_err() {
            tracing::debug!("the node was not looked at in time");
        }
    }
}

impl Capture {
    /// A reply names the term in which its write was made.
    pub(crate) fn learn_term(&self, reply: &RawDocument) {
        let Ok(term) = reply.get_document("opTime").and_then(|time| time.get_i64("t")) else { return };
        if let Ok(term) = u32::try_from(term) {
            self.epochs.raise(Epoch(term));
        }
    }

    /// The node's rollback id; 0: it keeps none.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn rollback_id(&self) -> Result<u64, CaptureError> {
        self.privileged.rollback_id().await.map_err(|error| CaptureError::Store(error.to_string()))
    }

    /// Who counts, for the one who watches the node.
    pub fn epochs(&self) -> &Arc<Epochs> {
        &self.epochs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_waits_for_a_look_only_where_terms_count() {
        let epochs = Epochs::new(Epoch(3));
        epochs.known().await;
        epochs.watched();
        let looking = Arc::clone(&epochs);
        let looker = tokio::spawn(async move {
            looking.asked().await;
            looking.raise(Epoch(5));
            looking.looked(true, true);
        });
        epochs.known().await;
        assert_eq!(epochs.current(), Epoch(5), "the look came first");
        looker.await.unwrap();
        epochs.known().await;
        epochs.looked(true, false);
        let asks = Arc::clone(&epochs);
        let write = tokio::spawn(async move { asks.known().await });
        epochs.asked().await;
        epochs.looked(false, true);
        write.await.unwrap();
        epochs.known().await;
        epochs.raise(Epoch(4));
        assert_eq!(epochs.current(), Epoch(5), "never back");
    }
}
