//! What has to be done for transactions while no client asks: commits of unknown outcome, transactions that never end.

use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

use super::Phase;
use crate::capture::Capture;

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the end of a transaction is remembered: sessions end in the store after 30 minutes.
const REMEMBERED: Duration = Duration::from_mins(31);

impl Capture {
    /// Settles commits of unknown outcome and takes transactions that outlived their lifetime for dead, until `stop` ends.
    pub async fn tend(self: Arc<Self>, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = self.tend_all() => {}
            }
        }
    }

    async fn tend_all(&self) {
        let limits = self.transactions.limits;
        for txn in self.transactions.all() {
            // Who holds it is at work with it.
            let Ok(mut state) = txn.state.try_lock() else { continue };
            match state.phase {
                Phase::Open if txn.begun.elapsed() > limits.lifetime => {
                    self.end(&txn, &mut state, Phase::Aborted { certain: false }, "expired").await;
                }
                Phase::Sent { .. } => {
                    if let Err(error) = self.settle_commit(&txn, &mut state, false).await {
                        warn!(%error, "a commit of unknown outcome is looked at again");
                    }
                }
                Phase::Committed | Phase::Aborted { .. } if self.transactions.forget_left(&txn) => {}
                Phase::Committed | Phase::Aborted { .. } if txn.begun.elapsed() > REMEMBERED => {
                    let mut sessions = self.transactions.sessions.lock();
                    if sessions.get(&txn.key).is_some_and(|now| Arc::ptr_eq(now, &txn)) {
                        sessions.remove(&txn.key);
                    }
                }
                _ => {}
            }
        }
    }

    /// Sessions were killed, or the store restarted: no open transaction can be relied on. Each is surely ended in the store
    /// before anything more of it is forwarded. `over`: the store is another process, so a commit that it does not show now never
    /// happened.
    pub async fn transactions_lost(&self, over: bool) {
        for txn in self.transactions.all() {
            let mut state = txn.state.lock().await;
            match state.phase {
                Phase::Open => self.end(&txn, &mut state, Phase::Aborted { certain: false }, "killed").await,
                Phase::Sent { .. } => {
                    if let Err(error) = self.settle_commit(&txn, &mut state, over).await {
                        warn!(%error, "a commit of unknown outcome is looked at again");
                    }
                }
                Phase::Committed | Phase::Aborted { .. } => {}
            }
        }
    }
}
