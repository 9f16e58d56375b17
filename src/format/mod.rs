//! Serialization: a record → bytes that other people's readers take.
//!
//! A [`Form`] says what is wanted: the format, the envelope of a record, the compression, how images are carried, and into
//! how many parts a window is split. [`Form::encoder`] gives an [`Encoder`] for one file of one window.
//!
//! Promises: the same records in the same form give the same bytes, always. Memory does not grow with the window. A record
//! that cannot be written fails alone: its encoder goes on with the next one as if it had never come.
//!
//! Does not: choose records, hash files or know where they go.

mod compress;
pub mod debezium;
pub mod ejson;
pub mod jsonl;
#[cfg(feature = "parquet")]
pub mod parquet;
mod part;
#[cfg(test)]
mod samples;

pub use compress::Zstd;
pub use part::part_of;

use crate::config::{Compression, Envelope, Format, SinkConfig};
use crate::types::{LogId, Record};
use debezium::Envelopes;
use jsonl::{Bson, Lines};
use std::fmt::Debug;

/// Why a record or a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// This record cannot be written in this form; others can.
    #[error("record {lsn}: {reason}")]
    Record {
        /// Its number.
        lsn: crate::types::Lsn,
        /// Why, without contents of documents.
        reason: String,
    },
    /// The file cannot be written.
    #[error("{0}")]
    File(String),
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has a row (a line, a message) in the file.
    Row,
    /// The form has no place for a record of its kind: nothing stands for it in the file.
    Nothing,
}

/// Writes the records of one file.
pub trait Encoder: Debug + Send {
    /// Takes the next record in. What can be written of the file so far is appended to `out`.
    ///
    /// # Errors
    /// [`FormatError::Record`]: nothing of it was taken in. [`FormatError::File`]: the file must be begun anew.
    fn append(&mut self, out: &mut Vec<u8>, record: &Record) -> Result<Taken, FormatError>;

    /// Appends the rest of the file.
    ///
    /// # Errors
    /// [`FormatError::File`].
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError>;
}

/// The form in which a sink gets its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The format of a file.
    pub format: Format,
    /// What stands around a change.
    pub envelope: Envelope,
    /// How a file is compressed.
    pub compression: Compression,
    /// How images are carried.
    pub bson: Bson,
    /// Files of records that a window has, at least 1.
    pub parts: u32,
}

impl Default for Form {
    fn default() -> Self {
        Self::of(&SinkConfig::default())
    }
}

impl Form {
    /// What the settings of a sink ask for.
    pub fn of(settings: &SinkConfig) -> Self {
        Self {
            format: settings.format,
            envelope: settings.envelope,
            compression: settings.compression,
            bson: if settings.bson { Bson::Always } else { Bson::WhereNeeded },
            parts: settings.parts.max(1),
        }
    }

    /// The name of the file of part `part` (from 0): `records.jsonl`, or `records-0003-of-0008.parquet`.
    pub fn file_name(&self, part: u32) -> String {
        let ending = match (self.format, self.compression) {
            (Format::Jsonl, Compression::None) => "jsonl",
            (Format::Jsonl, Compression::Zstd) => "jsonl.zst",
            (Format::Parquet, _) => "parquet",
        };
        match self.parts {
            1 => format!("records.{ending}"),
            parts => format!("records-{part:04}-of-{parts:04}.{ending}"),
        }
    }

    /// The name of the file of last changes of part `part`: `latest.jsonl`, or `latest-0003-of-0008.parquet`.
    pub fn latest_name(&self, part: u32) -> String {
        self.file_name(part).replacen("records", "latest", 1)
    }

    /// Begins a file of records of `log`.
    ///
    /// # Errors
    /// [`FormatError::File`].
    pub fn encoder(&self, log: LogId) -> Result<Box<dyn Encoder>, FormatError> {
        let lines: Box<dyn Encoder> = match (self.format, self.envelope) {
            (Format::Jsonl, Envelope::Tidelog) => Box::new(Lines::new(log, self.bson)),
            (Format::Jsonl, Envelope::Debezium) => Box::new(Envelopes::new(log, self.bson)),
            #[cfg(feature = "parquet")]
            (Format::Parquet, _) => Box::new(parquet::Table::new(log, *self)?),
            #[cfg(not(feature = "parquet"))]
            (Format::Parquet, _) => {
                return Err(FormatError::File("this program was built without the feature `parquet`".into()));
            }
        };
        match (self.format, self.compression) {
            (Format::Jsonl, Compression::Zstd) => Ok(Box::new(Zstd::around(lines)?)),
            _ => Ok(lines),
        }
    }
}
