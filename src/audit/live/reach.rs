//! Notices that the oplog rolled over events which the open change stream had not read.
//!
//! A mongod ends such a stream with an error. Not every server does: one goes on with what is left, as if nothing had been
//! between. So the bounds of the oplog are looked at, again and again, before the stream is read on.
//!
//! Promises: while [`Reach::look`] says ok, everything after what had been read at the look before was still in the oplog.
//!
//! Does not: help where the sidecar's user may not read `local.oplog.rs`; there the server's word is all there is.

use std::time::Duration;
use tokio::time::Instant;

/// How often the oplog is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long it is left alone after it could not be: each refusal is a line in the server's log.
const REFUSED: Duration = Duration::from_mins(1);

/// How far the stream has been read for sure. Times are `clusterTime`s: seconds ≪ 32 | increment.
#[derive(Debug)]
pub(super) struct Reach {
    /// When the oplog is to be looked at again; `None`: now.
    due: Option<Instant>,
    /// Everything up to here had been read at the look before; 0: nothing is known.
    upto: u64,
    /// The time of the last event.
    last: u64,
    /// The newest entry at the look before.
    newest: u64,
    /// The stream had no more to tell at some moment since then.
    drained: bool,
}

impl Reach {
    pub(super) fn new() -> Self {
        Self { due: None, upto: 0, last: 0, newest: 0, drained: false }
    }

    /// Whether the oplog is to be looked at before the stream is read on.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_none_or(|at| at <= Instant::now())
    }

    /// An event was read, or there was none.
    pub(super) fn read(&mut self, event: Option<u64>) {
        match event {
            Some(time) => self.last = self.last.max(time),
            None => self.drained = true,
        }
    }

    /// Looks at the bounds of the oplog, its oldest entry and the node's last operation; `None`: they could not be had.
    pub(super) fn look(&mut self, bounds: Option<(u64, u64)>) -> Result<(), String> {
        self.due = Some(Instant::now() + if bounds.is_some() { LOOK } else { REFUSED });
        let Some((oldest, newest)) = bounds else { return Ok(()) };
        if self.upto > 0 && oldest > self.upto {
            let seconds = |time: u64| time >> 32;
            return Err(format!(
                "the oplog begins at {} now, the stream had been read up to {}: make the oplog larger, or the sidecar faster",
                seconds(oldest),
                seconds(self.upto)
            ));
        }
        self.upto = self.upto.max(self.last).max(if self.drained { self.newest } else { 0 });
        (self.newest, self.drained) = (newest, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_rolled_over_before_it_was_read_is_noticed() {
        let mut reach = Reach::new();
        assert!(reach.is_due() && reach.look(Some((10, 20))).is_ok());
        reach.read(Some(15));
        assert!(reach.look(Some((10, 40))).is_ok());
        reach.read(Some(30));
        // At the look before it was read up to 15, which is still there, and then up to 30.
        assert!(reach.look(Some((15, 60))).is_ok());
        assert!(reach.look(Some((31, 60))).is_err(), "31 and what was before it may have been lost");
    }

    #[test]
    fn a_quiet_stream_has_read_everything() {
        let mut reach = Reach::new();
        reach.read(Some(5));
        assert!(reach.look(Some((1, 20))).is_ok());
        reach.read(None);
        // The oplog rolls over without an event for us: what was the newest then has been passed.
        assert!(reach.look(Some((5, 30))).is_ok());
        assert!(reach.look(Some((18, 50))).is_ok());
        assert!(reach.look(Some((21, 60))).is_err(), "no word of the stream since the newest was 30");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_is_not_asked_at_each_event() {
        let mut reach = Reach::new();
        assert!(reach.is_due() && reach.look(None).is_ok() && !reach.is_due());
        tokio::time::advance(LOOK).await;
        assert!(!reach.is_due(), "it would refuse again");
        tokio::time::advance(REFUSED).await;
        assert!(reach.is_due() && reach.look(Some((1, 2))).is_ok() && !reach.is_due());
        tokio::time::advance(LOOK).await;
        assert!(reach.is_due());
    }
}
