//! Records as rows of Apache Parquet, for SQL engines and data frames.
//!
//! Promises: a row for each record, changes and control records (in Debezium's envelope, which has no place for those, changes
//! alone); the same records give the same bytes (no time, name or
//! version of the writer is in them; a new version of the `parquet` crate may lay pages out otherwise). What is held in
//! memory is bounded by the bytes of a row group and one record, whatever the file's length; only the footer grows, by some
//! kilobytes a row group (in memory some tens).
//!
//! Row groups: at most [`GROUP_ROWS`] rows and about [`GROUP_BYTES`] of values, less where a window has parts, since all of
//! them are written at once. Statistics and the page index let a filter on `lsn`, `ns`, `key`, `seq` or `wall` skip row
//! groups and pages.
//!
//! Does not: split documents into columns. An image is Extended JSON text, and BSON where that is not exact or was asked for.

mod envelope;
mod fill;
mod rows;
mod schema;

use super::{Encoder, FormatError, Taken};
use crate::config::Envelope;
use crate::format::Form;
use crate::types::{Body, LogId, Record};
use envelope::Envelopes;
use fill::Constants;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;
use rows::Rows;
pub use schema::Kind;

/// Rows of a row group, at most.
pub const GROUP_ROWS: usize = 100_000;
/// Bytes of values after which a row group ends.
pub const GROUP_BYTES: usize = 32 << 20;
/// The same for a file that is one of very many parts.
const SMALL_GROUP_BYTES: usize = 256 << 10;

/// The columns of every file of our own records, in their order: name, and what the values are.
pub fn columns() -> impl Iterator<Item = (&'static str, Kind)> {
    schema::COLUMNS.iter().map(|column| (column.name, column.kind))
}

/// Writes one Parquet file.
#[derive(Debug)]
pub struct Table {
    constants: Constants,
    /// In Debezium's envelope: its images on their way.
    envelope: Option<Envelopes>,
    rows: Rows,
    group_bytes: usize,
    /// `None`: the file has ended, or cannot be gone on with.
    file: Option<SerializedFileWriter<Vec<u8>>>,
}

impl Table {
    /// Begins a file of records of `log` in the form, one of its parts that are written at once.
    ///
    /// # Errors
    /// None that can happen: the schema and the properties are constants.
    pub fn new(log: LogId, form: Form) -> Result<Self, FormatError> {
        let envelope = (form.envelope == Envelope::Debezium).then(Envelopes::default);
        let columns = if envelope.is_some() { schema::ENVELOPE } else { schema::COLUMNS };
        let properties = schema::properties(columns, form.compression, GROUP_ROWS)?;
        let file = SerializedFileWriter::new(Vec::new(), schema::schema(columns)?, properties).map_err(failed)?;
        let parts = usize::try_from(form.parts.max(1)).unwrap_or(usize::MAX);
        let group_bytes = (GROUP_BYTES / parts).max(SMALL_GROUP_BYTES);
        let constants = Constants { log: log.to_string(), bson: form.bson };
        Ok(Self { constants, envelope, rows: Rows::new(columns), group_bytes, file: Some(file) })
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let file = self.file.as_mut().ok_or_else(ended)?;
        let written = self.rows.write(file, self.group_bytes);
        let ready = file.inner_mut();
        out.append(ready);
        ready.shrink_to(self.group_bytes);
        if written.is_err() {
            self.file = None;
        }
        written
    }
}

impl Encoder for Table {
    fn append(&mut self, out: &mut Vec<u8>, record: &Record) -> Result<Taken, FormatError> {
        let lsn = i64::try_from(record.lsn.0);
        let (Ok(lsn), Ok(hlc)) = (lsn, i64::try_from(record.hlc.0)) else {
            let reason = "lsn or hlc is beyond a signed number of 64 bits".into();
            return Err(FormatError::Record { lsn: record.lsn, reason });
        };
        match (&mut self.envelope, &record.body) {
            (None, _) => fill::record(&mut self.rows.row(), &self.constants, lsn, hlc, record),
            (Some(_), Body::Control(_)) => return Ok(Taken::Nothing),
            (Some(envelope), Body::Change(change)) => {
                envelope.images(change, record.lsn)?;
                envelope.fill(&mut self.rows.row(), &self.constants, (lsn, hlc), record, change);
            }
        }
        if self.rows.rows() >= GROUP_ROWS || self.rows.bytes() >= self.group_bytes {
            self.flush(out)?;
        }
        Ok(Taken::Row)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        self.flush(out)?;
        let file = self.file.take().ok_or_else(ended)?;
        out.append(&mut file.into_inner().map_err(failed)?);
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn failed(error: ParquetError) -> FormatError {
    FormatError::File(format!("parquet: {error}"))
}

fn ended() -> FormatError {
    FormatError::File("parquet: the file has ended".into())
}

#[cfg(test)]
mod tests;
