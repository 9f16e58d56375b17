//! A namespace whole, page by page, at a bounded rate; a page that fails is tried again.

use std::time::{Duration, Instant};
use tracing::warn;

use super::pace::Pace;
use super::{AGAIN, KeepError, Keeper};
use crate::capture::CaptureError;
use crate::capture::range::{Done, Limits, Range};
use crate::metrics;

/// A walk and what it came to so far.
#[derive(Debug)]
pub(super) struct Walk {
    pace: Pace,
    /// How long the next page must wait: the rest of the time that the last one stands for.
    pub(super) rest: Duration,
    pub(super) entities: u64,
    pub(super) appended: u64,
    /// Entities whose `_id` nothing tells any more: only a verify alone in the namespace can judge them.
    pub(super) unproven: u64,
}

impl Walk {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, rest: Duration::ZERO, entities: 0, appended: 0, unproven: 0 }
    }

    /// The next page, once the pace allows; its records are durable. `None`: the range has ended.
    pub(super) async fn next(&mut self, keeper: &Keeper, range: &mut Range) -> Result<Option<Done>, KeepError> {
        if range.is_ended() {
            return Ok(None);
        }
        tokio::time::sleep(self.rest).await;
        keeper.capture.epochs().led().await;
        let began = Instant::now();
        let limits = Limits { documents: self.pace.page(Limits::default().documents), ..Limits::default() };
        let done = keeper.page(range, limits).await?;
        self.rest = self.pace.due(done.entities, done.bytes).saturating_sub(began.elapsed());
        self.entities += done.entities;
        self.appended += done.appended;
        self.unproven += done.unproven;
        Ok(Some(done))
    }
}

impl Keeper {
    /// One entity, tried until the store can be read.
    pub(super) async fn one(&self, range: &Range, id: &bson::RawBson) -> Result<Done, KeepError> {
        loop {
            match self.capture.verify_one(range, id).await {
                Ok(done) => return Ok(done),
                Err(error) => self.unread(range, error).await?,
            }
        }
    }

    /// A pause, if the store could not be read; else the error.
    async fn unread(&self, range: &Range, error: CaptureError) -> Result<(), KeepError> {
        if !matches!(error, CaptureError::Store(_)) {
            return Err(error.into());
        }
        metrics::VERIFY_FAILURES.inc();
        warn!(ns = %range.ns(), %error, "the store cannot be read; trying again");
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }

    /// One page, tried until the store can be read.
    async fn page(&self, range: &mut Range, limits: Limits) -> Result<Done, KeepError> {
        loop {
            match self.capture.verify_page(range, limits).await {
                Ok(done) => return Ok(done),
                Err(error) => self.unread(range, error).await?,
            }
        }
    }
}
