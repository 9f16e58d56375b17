//! The consumers as the handle tells and moves them: what each sink has stands between them and their checkpoints.

use super::consumers::{Consumer, ConsumerError, ConsumerStatus, Reach, Wish};
use super::handle::{ExporterHandle, Shared};
use crate::types::WindowId;

impl ExporterHandle {
    /// All consumers, measured.
    pub fn consumers(&self) -> Vec<ConsumerStatus> {
        let shared = self.shared();
        shared.consumers.status(|sink| shared.reach(sink), shared.clock.wall_ms())
    }

    /// One consumer.
    pub fn consumer(&self, name: &str) -> Option<Consumer> {
        self.shared().consumers.get(name)
    }

    /// Makes a consumer, or moves it.
    ///
    /// # Errors
    /// As [`ConsumerError`] says; then nothing changed.
    pub fn set_consumer(&self, name: &str, wish: Wish) -> Result<Consumer, ConsumerError> {
        let shared = self.shared();
        let made = shared.consumers.set(name, wish, |sink| shared.reach(sink), shared.clock.wall_ms())?;
        // What it held may go now.
        shared.wake();
        Ok(made)
    }

    /// Forgets a consumer.
    ///
    /// # Errors
    /// There is none of that name, or what the system said.
    pub fn forget_consumer(&self, name: &str) -> Result<(), ConsumerError> {
        let shared = self.shared();
        shared.consumers.forget(name)?;
        shared.wake();
        Ok(())
    }

    /// The first window that a sink has; 1 where that is not known.
    pub fn first_at(&self, sink: &str) -> Option<WindowId> {
        self.shared().reach(sink).map(|reach| reach.first)
    }
}

impl Shared {
    /// What a consumer of a sink (empty: of windows as such) could read; `None`: there is no such sink.
    fn reach(&self, sink: &str) -> Option<Reach> {
        let first = |seat: &super::status::SinkSeat| {
            let (first, position) = (seat.retained.lock().first, seat.live.borrow().position);
            match (first, position) {
                (WindowId::ZERO, Some(at)) if at.manifest.is_none() => at.window.next(),
                (WindowId::ZERO, _) => WindowId(1),
                (first, _) => first,
            }
        };
        if sink.is_empty() {
            let first = self.sinks.iter().map(first).min().unwrap_or(WindowId(1));
            return Some(Reach { first, last: self.windows.last() });
        }
        let seat = self.sinks.iter().find(|seat| seat.name == sink)?;
        let last = seat.live.borrow().position.map_or(WindowId::ZERO, |at| at.window);
        Some(Reach { first: first(seat), last })
    }
}
