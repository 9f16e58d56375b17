//! Bytes of whole messages held for all connections: who needs more than there is waits, and so does its client.
//!
//! Messages up to [`FREE_BYTES`] are not counted; the limit of connections bounds them.

use crate::metrics::{Held, INFLIGHT_BYTES, INFLIGHT_WAITS};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Size of a message that is not counted.
pub(super) const FREE_BYTES: usize = 16 * 1024;

/// What one permit of the semaphore stands for.
const UNIT: u64 = 1024;

/// The budget.
#[derive(Debug)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    total: u32,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    _permit: OwnedSemaphorePermit,
    _held: Held,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 3);
        Self { units: Arc::new(Semaphore::new(usize::try_from(total).unwrap_or(usize::MAX))), total }
    }

    /// Waits for room for a message of `bytes`; `None`: it needs none. One message may always take the whole budget.
    pub(super) async fn take(&self, bytes: usize) -> Option<Share> {
        if bytes <= FREE_BYTES {
            return None;
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total);
        let permit = if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            permit
        } else {
            INFLIGHT_WAITS.inc();
            // The semaphore is never closed.
            Arc::clone(&self.units).acquire_many_owned(units).await.ok()?
        };
        Some(Share { _permit: permit, _held: INFLIGHT_BYTES.hold(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_late_waits() {
        let budget = Arc::new(Budget::new(64 * 1024));
        assert!(budget.take(FREE_BYTES).await.is_none());
        let first = budget.take(60 * 1024).await.unwrap();
        let other = Arc::clone(&budget);
        let second = tokio::spawn(async move { other.take(10_000_000).await });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap().is_some());
    }
}
