//! A place whose windows can be taken away again, the oldest first: what the retention of windows asks of it.
//!
//! # How a window goes
//! 1. `_latest.json` names the window after it as the first: from then on the window is not promised to anybody.
//! 2. Its manifest goes, durably: from then on it is no window for those who list. Then those of its amendments.
//! 3. Its files go.
//!
//! A cut after 1 leaves a window below the first, with or without a manifest. [`Shelf::survey`] ends its removal.

use super::SinkError;
use crate::types::WindowId;
use std::fmt::Debug;

/// A window on the shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shelved {
    /// Its number.
    pub window: WindowId,
    /// Bytes of its files and its manifest, and of its amendments.
    pub bytes: u64,
}

/// The windows of an opened sink.
pub trait Shelf: Debug {
    /// The first window that is promised to be there; `None`: none was delivered yet.
    fn first(&self) -> Option<WindowId>;

    /// What is there from the first window on, oldest first. Ends a removal that was cut before.
    ///
    /// # Errors
    /// As for all steps of a [`Sink`](super::Sink): after an error it is opened anew.
    fn survey(&mut self) -> Result<Vec<Shelved>, SinkError>;

    /// Removes the first window, its amendments with it. Another one stays where it is.
    ///
    /// # Errors
    /// As for [`survey`](Self::survey); then the window is no longer promised, and the next survey ends its removal.
    fn remove_first(&mut self, window: WindowId) -> Result<(), SinkError>;
}
