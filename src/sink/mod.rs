//! Delivery: where windows go. A sink takes the files of a window, then its manifest, and says ok only when all of it is
//! durable (and, where that can be done, was read back).
//!
//! Promises: delivering a window again changes nothing; what is there and differs is never overwritten, it stops the sink.
//!
//! # The steps
//! [`Sink::open`] once, and anew after every error → for each window [`Sink::begin`], [`Sink::write`] for pieces of its
//! files, [`Sink::seal`], [`Sink::finish`]. A window without a successful `finish` does not exist for those who read.
//!
//! A new sink is one file with an implementation of [`Sink`], and one line in [`build`].

#[cfg(feature = "delta")]
mod delta;
mod error;
mod folder;
#[cfg(feature = "kafka")]
mod kafka;
mod latest;
#[cfg(feature = "object")]
mod object;
#[cfg(any(feature = "object", feature = "webhook"))]
mod options;
mod shelf;
mod staging;
#[cfg(feature = "webhook")]
mod webhook;

#[cfg(feature = "delta")]
pub use delta::Delta;
pub use error::{Class, SinkError};
pub use folder::Folder;
#[cfg(feature = "kafka")]
pub use kafka::Kafka;
#[cfg(feature = "object")]
pub use object::Object;
pub use shelf::{Shelf, Shelved};
#[cfg(feature = "webhook")]
pub use webhook::Webhook;

use crate::config::{SinkConfig, SinkKind};
use crate::disk::Disk;
use crate::types::{Digest, EntityKey, LogId, Lsn, Namespace, WindowId};
use std::fmt::Debug;
use std::sync::Arc;

/// What is known of a sink before it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last window proved durable, and the SHA-256 of its manifest.
    pub delivered: Option<(WindowId, Digest)>,
    /// The last window that the log closed.
    pub closed: WindowId,
}

/// A window that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Its number.
    pub window: WindowId,
    /// Which amendment of the window this is: records that it lacked; 0: the window itself.
    pub amendment: u32,
    /// The names of its files, in the order in which [`Sink::write`] numbers them.
    pub files: Vec<String>,
}

impl Opening {
    /// What it is called at a sink that has folders: `window-0000000007`, `window-0000000007.amendment-0001`.
    pub fn folder(&self) -> String {
        match self.amendment {
            0 => format!("window-{:010}", self.window.0),
            number => format!("window-{:010}.amendment-{number:04}", self.window.0),
        }
    }
}

/// A record among the bytes of a [`Chunk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where its bytes end; they begin where those of the one before end.
    pub end: usize,
    /// Its number in the log.
    pub lsn: Lsn,
    /// Wall time, ms since 1970.
    pub wall_ms: i64,
    /// What it is about; `None`: the log, or a whole database.
    pub ns: Option<Namespace>,
    /// The entity; `None`: a control record.
    pub key: Option<EntityKey>,
}

/// The next bytes of a file.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'c> {
    /// The bytes.
    pub bytes: &'c [u8],
    /// The records that end in them; empty unless [`Sink::by_record`].
    pub rows: &'c [Row],
}

/// A file of a window, all of it written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// A place that windows go to. It is used by one thread, and may block.
pub trait Sink: Debug + Send {
    /// Checks the place against what is known, makes it if it is new, and removes what a killed run left behind.
    ///
    /// # Errors
    /// A place that is not this log's or has other windows than the log knows, or that cannot be used now.
    fn open(&mut self, known: Position) -> Result<(), SinkError>;

    /// Begins a window.
    ///
    /// # Errors
    /// As for all steps: after an error the sink is opened and the window begun anew.
    fn begin(&mut self, opening: &Opening) -> Result<(), SinkError>;

    /// Takes the next bytes of file `file`.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    fn write(&mut self, file: usize, chunk: Chunk<'_>) -> Result<(), SinkError>;

    /// All bytes were written: makes them durable, if the sink can, without showing them.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    fn seal(&mut self) -> Result<(), SinkError>;

    /// Ends the window: on ok it is durable, with this manifest.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin), and a window that is there with other contents.
    fn finish(&mut self, files: &[SealedFile], manifest: &[u8]) -> Result<(), SinkError>;

    /// Whether it needs to know where the records are in the bytes.
    fn by_record(&self) -> bool {
        false
    }

    /// Its windows, if they can be taken away again; `None`: the place keeps them by rules of its own.
    fn shelf(&mut self) -> Option<&mut dyn Shelf> {
        None
    }
}

/// What every sink is made from.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The sink's name.
    pub name: &'static str,
    /// The log whose windows it gets.
    pub log: LogId,
    /// The local file system.
    pub disk: Arc<dyn Disk>,
}

/// Makes the sink that the settings ask for. Nothing is opened or connected to.
///
/// # Errors
/// A kind of sink that this program was built without, or options that cannot be used.
pub fn build(at: Setting, config: &SinkConfig) -> Result<Box<dyn Sink>, SinkError> {
    match config.kind {
        SinkKind::Folder => Ok(Box::new(Folder::new(at.disk, &config.dir, at.log))),
        #[cfg(feature = "object")]
        SinkKind::Object => Ok(Box::new(Object::new(&at, config)?)),
        #[cfg(feature = "kafka")]
        SinkKind::Kafka => Ok(Box::new(Kafka::new(&at, config)?)),
        #[cfg(feature = "delta")]
        SinkKind::Delta => Ok(Box::new(Delta::new(&at, config)?)),
        #[cfg(feature = "webhook")]
        SinkKind::Webhook => Ok(Box::new(Webhook::new(&at, config)?)),
        #[allow(unreachable_patterns, reason = "what this program was built with has a line above")]
        SinkKind::Object | SinkKind::Kafka | SinkKind::Delta | SinkKind::Webhook => {
            Err(SinkError::Absent { kind: config.kind.name() })
        }
    }
}
