//! The durable list of closed windows: `DATA/windows/ledger.tdw`. A window is closed when its frame here is durable.
//!
//! # Invariants
//! 1. Windows are numbered 1, 2, 3 …; the first begins at lsn 1, each begins where the one before ended.
//! 2. A frame is durable (fdatasync) before anybody hears of the window, so only the last frame of the file can be torn.
//! 3. A frame never changes. Together with the log's records it fixes every byte of the window's export.
//! 4. After a failed sync the ledger takes no more windows: what the file holds is not known until it is opened anew, and
//!    opening writes the last frame once more before trusting it.
//!
//! # Layout (little-endian)
//! ```text
//! header  "TIDEWIN1"  log id [16]  crc32c of these 24 bytes u32
//! frame   "TDLW"  length of body u32  crc32c of length and body u32  body
//! body    cause u8 (1 size 2 count 3 age 4 idle 5 cut 6 marker 7 schedule)   flags u8 (1 images always as BSON, 2 label, 4 clocks)
//!         window u64  first lsn u64  last lsn u64  bytes in the log u64  closed at, ms i64
//!         [first hlc u64  last hlc u64  first wall ms i64  last wall ms i64]  [label]
//!         count u32 of changed namespaces { name, alive u64, sum [32] big end first, complete u8 }
//!         count u32 of open gaps { number u64, since lsn u64, since ms i64, namespace, cause, detail }
//! text    length u32, UTF-8
//! ```
//! The states are differences from the window before, so a log with many quiet namespaces stays small.

mod file;
mod window;

pub use window::{Cause, Clocks, Window};

use crate::disk::Disk;
use crate::types::{LogId, LogState, Lsn, WindowId};
use file::LedgerFile;
use parking_lot::RwLock;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the ledger cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The system refused; nothing was added.
    #[error("window ledger: {0}")]
    Io(#[from] io::Error),
    /// A sync failed: what is on the disk is not known.
    #[error("window ledger: {0}; no more windows are closed until the sidecar is started again")]
    Poisoned(String),
    /// The ledger belongs to another log.
    #[error("{} belongs to log {found}, this is log {ours}: DATA was put together from two; move the file away only if its windows were never exported", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The log it belongs to.
        found: String,
        /// The log that was opened.
        ours: LogId,
    },
    /// Bytes in the middle are wrong.
    #[error("{} is damaged at byte {offset} ({what}): restore it from a copy; exported windows are not affected", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What was found.
        what: &'static str,
    },
    /// A window that does not follow the one before.
    #[error("window {id} ({first}..={last}) does not follow the window before, which ended at {after}")]
    Order {
        /// Its number.
        id: WindowId,
        /// Its first record.
        first: Lsn,
        /// Its last record.
        last: Lsn,
        /// The end of the window before.
        after: Lsn,
    },
}

/// The writer's side: one for each log.
#[derive(Debug)]
pub struct Ledger {
    windows: Arc<Windows>,
    file: LedgerFile,
    last: Option<Window>,
    state: LogState,
    poisoned: Option<String>,
}

/// The readers' side: closed windows by number.
#[derive(Debug)]
pub struct Windows {
    file: LedgerFile,
    /// Where the frame of window `n + 1` begins.
    offsets: RwLock<Vec<u64>>,
}

impl Ledger {
    /// Opens (or makes) the ledger of `log` in the folder `dir`. A torn last frame is cut off.
    ///
    /// # Errors
    /// Foreign, damaged, or what the system said.
    pub fn open(disk: &dyn Disk, dir: &Path, log: LogId) -> Result<Self, LedgerError> {
        let (mut file, frames) = LedgerFile::open(disk, dir, log)?;
        let mut state = LogState::default();
        let (mut last, mut offsets): (Option<Window>, Vec<u64>) = (None, Vec::with_capacity(frames.len()));
        for (offset, body) in frames {
            let window = Window::decode(&body).ok_or_else(|| file.damaged(offset, "a frame that is no window"))?;
            follows(last.as_ref(), &window)?;
            window.fold(&mut state);
            offsets.push(offset);
            last = Some(window);
        }
        if let (Some(window), Some(offset)) = (&last, offsets.last()) {
            file.rewrite(*offset, &window.encode())?;
        }
        let windows = Arc::new(Windows { file: file.reader(disk)?, offsets: RwLock::new(offsets) });
        Ok(Self { windows, file, last, state, poisoned: None })
    }

    /// The readers' side.
    pub fn windows(&self) -> Arc<Windows> {
        Arc::clone(&self.windows)
    }

    /// The newest window.
    pub fn last(&self) -> Option<&Window> {
        self.last.as_ref()
    }

    /// The state at the end of the newest window.
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// Makes a window durable; after this it is closed. After [`LedgerError::Io`] the same may be tried again.
    ///
    /// # Errors
    /// As the variants say.
    pub fn append(&mut self, window: Window) -> Result<(), LedgerError> {
        if let Some(why) = &self.poisoned {
            return Err(LedgerError::Poisoned(why.clone()));
        }
        follows(self.last.as_ref(), &window)?;
        let offset = self.file.append(&window.encode())?;
        if let Err(error) = self.file.sync() {
            self.poisoned = Some(error.to_string());
            return Err(LedgerError::Poisoned(error.to_string()));
        }
        window.fold(&mut self.state);
        self.last = Some(window);
        self.windows.offsets.write().push(offset);
        Ok(())
    }
}

impl Windows {
    /// The newest closed window; zero: none.
    pub fn last(&self) -> WindowId {
        WindowId(self.offsets.read().len() as u64)
    }

    /// A closed window; `None`: there is none of that number.
    ///
    /// # Errors
    /// Damage, or what the system said.
    pub fn get(&self, id: WindowId) -> Result<Option<Window>, LedgerError> {
        let Some(index) = id.0.checked_sub(1).and_then(|n| usize::try_from(n).ok()) else { return Ok(None) };
        let Some(offset) = self.offsets.read().get(index).copied() else { return Ok(None) };
        let body = self.file.read(offset)?;
        let window = Window::decode(&body).filter(|w| w.id == id);
        window.map(Some).ok_or_else(|| self.file.damaged(offset, "a frame that is not this window"))
    }
}

fn follows(before: Option<&Window>, window: &Window) -> Result<(), LedgerError> {
    let (id, end) = before.map_or((WindowId::ZERO, Lsn::ZERO), |w| (w.id, w.last));
    if window.id == id.next() && window.first == end.next() && window.last >= end {
        return Ok(());
    }
    Err(LedgerError::Order { id: window.id, first: window.first, last: window.last, after: end })
}

#[cfg(test)]
mod tests;
