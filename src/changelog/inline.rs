//! The committer without a thread (feature `model`): the same committer, driven by a task of a runtime, so that the order of
//! things under a seed is always the same. Dropped, it is a process that died: nothing more is written.

use super::commit::{Committer, Message};
use super::error::LogError;
use super::log::{Changelog, LogOptions, Opened};
use super::{Observer, open};
use crate::clock::Clock;
use crate::disk::Disk;
use std::path::PathBuf;
use std::sync::Arc;

/// A committer that waits to be driven.
pub struct Inline {
    committer: Committer,
    next: Option<Message>,
}

impl std::fmt::Debug for Inline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inline").field("ready", &self.next.is_some()).finish_non_exhaustive()
    }
}

impl Inline {
    /// Waits until something is in the queue. False: nobody can append any more.
    pub async fn wait(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.committer.wait().await;
        }
        self.next.is_some()
    }

    /// Makes what is in the queue one group, writes and syncs it, and wakes its waiters. True: the log was told to stop.
    pub fn settle(&mut self) -> bool {
        self.next.take().is_some_and(|message| self.committer.turn(message))
    }

    /// Closes the log in order.
    pub fn finish(&mut self) {
        self.committer.finish();
    }
}

impl Changelog {
    /// As [`open`](Self::open), but without a thread: appends are settled when the second value is driven.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_inline(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: LogOptions,
        clock: Arc<Clock>,
        observer: Observer,
    ) -> Result<(Self, Inline, Opened), LogError> {
        let (log, committer, opened) = open::open(disk, dir, &options, clock, observer)?;
        Ok((log, Inline { committer, next: None }, opened))
    }
}
