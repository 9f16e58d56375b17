//! The change stream as a source of hints: which entities somebody changed past the sidecar.
//!
//! Promises: what a hint leads to is durable before the place in the stream is kept, so after any kill the stream is read again from
//! no later than there; an event that is surely our own costs no read; everything else is verified, so an event seen twice, or one
//! whose write the store has lost again, makes no record that is not true. A place that is lost opens a gap over everything, also
//! where the store does not say that it is lost (see [`reach`](super::reach)).
//!
//! # Decisions
//! - Events wait `follower.wait_ms` for our own record of the same change: the stream is often faster than the reply.
//! - While the node is not the primary, events wait: what its primary writes is in the log of the sidecar there, under a higher
//!   epoch. Once it leads, what is new to this log comes into it.
//! - On a standalone there is no stream; what others did is found at the next touch, by catch-up at the next start, and by reconcile.
//! - Events from before this process followed stand as *catchUp*: what happened while nobody looked.

use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::hints::Hints;
use super::reach::Reach;
use super::{AGAIN, KeepError, Keeper};
use crate::metrics;
use crate::store::{Event, Node, Stream, StreamError, stream_facts};
use crate::types::Namespace;

/// What the file of the place is called.
const WHAT: &str = "follower";
const NAME: &str = "position";
/// Events read ahead.
const AHEAD: usize = 4_096;
/// Events judged together.
const TOGETHER: usize = 1_000;
/// How often the place is written down.
const KEEP: Duration = Duration::from_secs(1);

/// An event (or none, for a while) and the place after it.
#[derive(Debug)]
struct Arrived {
    at: Instant,
    event: Option<Event>,
    place: Option<RawDocumentBuf>,
}

/// The place on the disk.
#[derive(Debug)]
struct Kept {
    at: Instant,
    place: RawDocumentBuf,
}

/// How the reading of the stream ended.
enum End {
    /// The place is lost.
    Lost(String),
    /// It may go on later.
    Broken(KeepError),
}

impl From<KeepError> for End {
    fn from(error: KeepError) -> Self {
        Self::Broken(error)
    }
}

impl Keeper {
    /// Follows the stream for as long as the sidecar runs.
    pub(super) async fn follow(&self) {
        if !self.options.follower {
            self.board.set_follower(|told| told.state = "off: follower.enabled is false".into());
            self.want_catch_up().await;
            return std::future::pending().await;
        }
        let mut first = true;
        loop {
            let set = match self.node.hello().await {
                Ok(hello) => stream_facts(&hello),
                Err(error) => {
                    self.pause(&KeepError::from(error)).await;
                    continue;
                }
            };
            if !set.0 {
                self.board.set_follower(|told| told.state = "off: a standalone has no change stream".into());
                info!(
                    "the node is a standalone without a change stream: other writers are found by catch-up and reconcile"
                );
                self.want_catch_up().await;
                return std::future::pending().await;
            }
            match self.read_stream(set.1, first).await {
                End::Broken(error) => self.pause(&error).await,
                End::Lost(why) => {
                    warn!(why, "the place in the change stream is lost: everything is compared");
                    if let Err(error) = self.lost(&why).await {
                        self.pause(&error).await;
                    }
                }
            }
            first = false;
        }
    }

    async fn pause(&self, error: &KeepError) {
        self.capture.follow(false);
        metrics::FOLLOWER_UP.set_flag(false);
        warn!(%error, "the change stream: trying again");
        self.board.set_follower(|told| told.state = format!("waiting: {error}"));
        tokio::time::sleep(AGAIN).await;
    }

    /// What came after the place kept is not known: a gap over everything, which the comparison of everything closes.
    async fn lost(&self, why: &str) -> Result<(), KeepError> {
        let everything = Namespace::from_full("*.*");
        self.capture.open_gap(&everything, "stream", why).await?;
        Ok(self.progress.forget(WHAT, NAME)?)
    }

    async fn read_stream(&self, now: u64, first: bool) -> End {
        match self.open_stream(first).await {
            Err(StreamError::Lost(why)) => End::Lost(why.to_string()),
            Err(StreamError::Failed(error)) => End::Broken(error.into()),
            Err(StreamError::Event(why)) => End::Lost(why),
            Ok(stream) => {
                self.capture.follow(true);
                metrics::FOLLOWER_UP.set_flag(true);
                self.board.set_follower(|told| told.state = "following".into());
                let (send, mut events) = mpsc::channel(AHEAD);
                let judge = self.judge_all(&mut events, now);
                tokio::select! {
                    end = self.read_ahead(stream, send) => end,
                    end = judge => end,
                }
            }
        }
    }

    async fn open_stream(&self, first: bool) -> Result<Stream, StreamError> {
        let kept = self.progress.load(WHAT, NAME).ok().flatten();
        let place = kept.as_ref().and_then(|kept| kept.get_document("token").ok());
        let stream = self.node.stream(place).await?;
        if place.is_some() {
            info!("the change stream goes on where the last process left it");
        } else if first {
            info!("the change stream is followed from now on");
            self.want_catch_up().await;
        }
        Ok(stream)
    }

    /// Judges events once they have waited, until something fails.
    async fn judge_all(&self, events: &mut mpsc::Receiver<Arrived>, now: u64) -> End {
        let mut hints = Hints::new(now);
        let (mut next, mut kept): (Option<Arrived>, Option<Kept>) = (None, None);
        loop {
            let first = match next.take() {
                Some(arrived) => arrived,
                None => match events.recv().await {
                    Some(arrived) => arrived,
                    None => return End::Broken(std::io::Error::other("the reader has ended").into()),
                },
            };
            tokio::time::sleep_until(first.at + self.options.wait).await;
            self.capture.epochs().led().await;
            let mut batch = vec![first];
            while batch.len() < TOGETHER {
                match events.try_recv() {
                    Ok(arrived) if arrived.at + self.options.wait <= Instant::now() => batch.push(arrived),
                    Ok(young) => {
                        next = Some(young);
                        break;
                    }
                    Err(_) => break,
                }
            }
            let behind = next.is_some() && batch.len() == TOGETHER;
            if let Err(error) = self.judge(&mut hints, batch, behind, &mut kept).await {
                return End::Broken(error);
            }
        }
    }

    async fn judge(
        &self,
        hints: &mut Hints,
        batch: Vec<Arrived>,
        behind: bool,
        kept: &mut Option<Kept>,
    ) -> Result<(), KeepError> {
        let place = batch.iter().rev().find_map(|arrived| arrived.place.clone());
        let events: Vec<Event> = batch.into_iter().filter_map(|arrived| arrived.event).collect();
        let last = events.last().map(|event| event.time);
        self.take_hints(hints, events).await?;
        if let Some(time) = last {
            self.capture.judged(time);
            let wall_ms = i64::try_from(time >> 32).unwrap_or(0).saturating_mul(1_000);
            self.board.set_follower(|told| (told.position_ms, told.behind) = (wall_ms, behind));
        }
        // The first place is kept at once: from here on nothing is missed.
        let Some(place) = place else { return Ok(()) };
        if kept.as_ref().is_none_or(|kept| kept.at.elapsed() >= KEEP && kept.place != place) {
            self.keep_place(&place).await?;
            *kept = Some(Kept { at: Instant::now(), place });
        }
        Ok(())
    }

    async fn keep_place(&self, token: &RawDocument) -> Result<(), KeepError> {
        let mut doc = RawDocumentBuf::new();
        doc.append(cstr!("token"), token);
        self.capture.sync().await?;
        Ok(self.progress.store(WHAT, NAME, &doc).await?)
    }

    /// Reads the stream into the channel until it ends.
    async fn read_ahead(&self, mut stream: Stream, events: mpsc::Sender<Arrived>) -> End {
        let mut reach = Reach::new();
        loop {
            if reach.is_due()
                && let Err(why) = reach.look(self.node.oplog_bounds().await)
            {
                return End::Lost(why);
            }
            let event = match stream.next().await {
                Ok(event) => event,
                Err(StreamError::Lost(why)) => return End::Lost(why.to_string()),
                Err(StreamError::Failed(error)) => return End::Broken(error.into()),
                Err(StreamError::Event(why)) => return End::Lost(why),
            };
            reach.read(event.as_ref().map(|event| event.time));
            let arrived = Arrived { at: Instant::now(), event, place: stream.token() };
            if events.send(arrived).await.is_err() {
                return End::Broken(std::io::Error::other("the judge has ended").into());
            }
        }
    }
}
