//! Who still needs which part of the log. Retention removes no record that one of them needs, and says who it is.

use super::handle::{ExporterHandle, Shared};
use super::status::SinkSeat;
use crate::config::Start;
use crate::types::{Lsn, WindowId};

/// Somebody who needs the log from a record on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who, for people: `sink lake`, `dead letters of sink lake`, `consumer books`, `the open window`.
    pub who: String,
    /// The first record that it needs.
    pub needs: Lsn,
    /// The first window that it needs.
    pub window: WindowId,
}

impl ExporterHandle {
    /// Everybody who needs a part of the log, the one who needs the oldest record first. It may only be more with time, never an
    /// older record, unless somebody new comes.
    pub fn holders(&self) -> Vec<Holder> {
        self.shared.holders()
    }
}

impl Shared {
    /// The one place where holders are put together.
    pub(super) fn holders(&self) -> Vec<Holder> {
        let mut all: Vec<Holder> = self.sinks.iter().map(|seat| self.sink(seat)).collect();
        all.extend(self.sinks.iter().filter_map(|seat| self.letters(seat)));
        all.extend(self.consumers.holders().into_iter().map(|(who, window)| self.from(who, window)));
        all.push(self.from("the open window".to_owned(), self.windows.last().next()));
        all.sort_by_key(|holder| holder.needs);
        all
    }

    /// What a sink does not have yet.
    fn sink(&self, seat: &SinkSeat) -> Holder {
        let next = match (seat.live.borrow().position, seat.start) {
            (Some(at), _) => at.window.next(),
            (None, Start::Window(first)) => WindowId(first),
            (None, _) => WindowId(1),
        };
        self.from(format!("sink {}", seat.name), next)
    }

    /// A letter's record goes out again by reading its whole window.
    fn letters(&self, seat: &SinkSeat) -> Option<Holder> {
        let first = seat.letters.lock().oldest_waiting()?;
        Some(self.from(format!("dead letters of sink {}", seat.name), first))
    }

    /// Who needs the log from the beginning of a window on (one that is not closed yet: from the open window's). Where that
    /// cannot be told, all of it.
    fn from(&self, who: String, window: WindowId) -> Holder {
        let before = WindowId(window.0.saturating_sub(1)).min(self.windows.last());
        let needs = match self.windows.get(before) {
            _ if before == WindowId::ZERO => Lsn(1),
            Ok(Some(before)) => before.last.next(),
            Ok(None) | Err(_) => Lsn(1),
        };
        Holder { who, needs, window }
    }
}

#[cfg(test)]
mod tests;
