//! A batch that is too large for memory: its drafts come from an iterator, and stand in the log all or not at all, as those
//! of any append.
//!
//! The committer writes it out in pieces, with nothing of others in between, and syncs once at its end. Until then readers see
//! none of it, and a crash leaves a torn tail that the next start cuts. When the iterator fails, what was written is cut off
//! again. The observer gets the records in small groups, read back from the log.

use super::commit::{Committer, Durable};
use super::error::LogError;
use super::frame::MAX_PAYLOAD_BYTES;
use super::reader::Reader;
use super::record;
use crate::metrics;
use crate::types::{Draft, Lsn};
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Records that the observer gets at a time.
const OBSERVED_TOGETHER: usize = 64;

/// Where the drafts of a streamed batch come from. It is run on the committer's thread. Their `continued` is not looked at.
pub type Source = Box<dyn Iterator<Item = io::Result<Draft>> + Send>;

/// One call of `append_stream`.
pub(super) struct Streamed {
    pub(super) source: Source,
    pub(super) done: oneshot::Sender<Result<Durable, LogError>>,
}

impl Committer {
    /// Numbers, encodes and writes a streamed batch, and settles it.
    pub(super) fn take_stream(&mut self, streamed: Streamed) {
        let Streamed { source, done } = streamed;
        self.settle();
        self.roll_if_full();
        let result = match self.shared.failure() {
            Some(failure) => Err(failure),
            None => self.write_stream(source),
        };
        let _waiter_gone = done.send(result);
    }

    fn write_stream(&mut self, source: Source) -> Result<Durable, LogError> {
        let (before, written) = (self.last, self.tail.written());
        let wall_ms = self.clock.wall_ms();
        let mut source = source.peekable();
        while let Some(draft) = source.next() {
            let sized = draft.map_err(LogError::io("read a batch")).and_then(|draft| {
                let size = record::size(&draft.body);
                let max = MAX_PAYLOAD_BYTES as u64;
                if size.bytes as u64 > max {
                    return Err(LogError::TooLarge { bytes: size.bytes as u64, max });
                }
                Ok((draft, size))
            });
            let (draft, size) = match sized {
                Ok(sized) => sized,
                Err(error) => {
                    self.take_back(before, written);
                    return Err(error);
                }
            };
            let record = self.numbered(draft.body, source.peek().is_some(), wall_ms);
            self.encode(&record, &size);
            metrics::LOG_RECORDS.add_for(if size.is_change() { "change" } else { "control" }, 1);
        }
        self.write_out();
        self.sync_group();
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        let durable = Durable::of(before.next(), self.last);
        if self.last > before {
            self.shared.publish(self.tail.first(), self.tail.written(), self.last);
            self.shared.count();
            self.show(before.next());
        }
        Ok(durable)
    }

    /// Nothing of the batch is to stay.
    fn take_back(&mut self, before: Lsn, written: u64) {
        self.forget_buffer();
        self.last = before;
        if let Err(error) = self.tail.cut(written) {
            self.shared.poison(&error.to_string());
        }
    }

    /// Hands the records from `first` on to the observer.
    fn show(&mut self, first: Lsn) {
        let mut reader = Reader::new(Arc::clone(&self.shared), first);
        let mut group = Vec::with_capacity(OBSERVED_TOGETHER);
        loop {
            let next = match reader.next_committed() {
                Ok(next) => next,
                Err(error) => return self.shared.poison(&error.to_string()),
            };
            let last = next.is_none();
            group.extend(next);
            if group.len() == OBSERVED_TOGETHER || (last && !group.is_empty()) {
                (self.observer)(&group);
                group.clear();
            }
            if last {
                return;
            }
        }
    }
}
