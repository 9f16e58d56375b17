//! The rows that are not yet in the file, column by column, and how they get there.
//!
//! Promises: buffers keep their capacity from one row group to the next, so that no value has an allocation of its own; but
//! not more than a row group's worth, so that one large document does not stay for ever.

use super::schema::{Column, Kind};
use crate::format::FormatError;
use bytes::Bytes;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::writer::SerializedFileWriter;

/// Values of one column.
#[derive(Debug)]
enum Values {
    /// Text and bytes, one after the other, and where each ends.
    Bytes {
        data: Vec<u8>,
        ends: Vec<usize>,
    },
    Long(Vec<i64>),
    Int(Vec<i32>),
    Flag(Vec<bool>),
}

/// One column: 1 for each row with a value, 0 for one without; and the values.
#[derive(Debug)]
struct Buffer {
    column: &'static Column,
    there: Vec<i16>,
    values: Values,
}

/// Rows of a row group.
#[derive(Debug)]
pub(super) struct Rows {
    buffers: Vec<Buffer>,
    /// Slices of a column on their way; kept for its capacity.
    slices: Vec<ByteArray>,
    count: usize,
    bytes: usize,
}

impl Rows {
    pub(super) fn new(columns: &'static [Column]) -> Self {
        let buffer = |column: &'static Column| {
            let values = match column.kind {
                Kind::Text | Kind::Binary => Values::Bytes { data: Vec::new(), ends: Vec::new() },
                Kind::Long | Kind::Time => Values::Long(Vec::new()),
                Kind::Int => Values::Int(Vec::new()),
                Kind::Flag => Values::Flag(Vec::new()),
            };
            Buffer { column, there: Vec::new(), values }
        };
        Self { buffers: columns.iter().map(buffer).collect(), slices: Vec::new(), count: 0, bytes: 0 }
    }

    /// Rows held.
    pub(super) fn rows(&self) -> usize {
        self.count
    }

    /// Bytes of the values held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory that the buffers of text and bytes have.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let of = |buffer: &Buffer| if let Values::Bytes { data, .. } = &buffer.values { data.capacity() } else { 0 };
        self.buffers.iter().map(of).sum()
    }

    /// Begins a row: every column must get its value or its absence, in order.
    pub(super) fn row(&mut self) -> Row<'_> {
        self.count += 1;
        Row { buffers: self.buffers.iter_mut(), bytes: &mut self.bytes }
    }

    /// Writes what is held as a row group, and holds nothing; at most `keep` bytes of a column's memory stay.
    pub(super) fn write(&mut self, file: &mut SerializedFileWriter<Vec<u8>>, keep: usize) -> Result<(), FormatError> {
        if self.count == 0 {
            return Ok(());
        }
        let mut group = file.next_row_group().map_err(super::failed)?;
        for buffer in &mut self.buffers {
            let mut column = group.next_column().map_err(super::failed)?.ok_or_else(differs)?;
            let sent = buffer.send(column.untyped(), &mut self.slices)?;
            column.close().map_err(super::failed)?;
            buffer.clear(sent, keep);
        }
        group.close().map_err(super::failed)?;
        (self.count, self.bytes) = (0, 0);
        Ok(())
    }
}

impl Buffer {
    /// Hands the values to Parquet. Bytes are lent, not copied: they come back with [`clear`](Self::clear).
    fn send(&mut self, to: &mut ColumnWriter<'_>, slices: &mut Vec<ByteArray>) -> Result<Option<Bytes>, FormatError> {
        let there = (!self.column.always).then_some(self.there.as_slice());
        let written = match (&mut self.values, to) {
            (Values::Long(values), ColumnWriter::Int64ColumnWriter(to)) => to.write_batch(values, there, None),
            (Values::Int(values), ColumnWriter::Int32ColumnWriter(to)) => to.write_batch(values, there, None),
            (Values::Flag(values), ColumnWriter::BoolColumnWriter(to)) => to.write_batch(values, there, None),
            (Values::Bytes { data, ends }, ColumnWriter::ByteArrayColumnWriter(to)) => {
                let whole = Bytes::from(std::mem::take(data));
                let mut from = 0;
                slices.extend(
                    ends.iter().map(|end| ByteArray::from(whole.slice(std::mem::replace(&mut from, *end)..*end))),
                );
                let written = to.write_batch(slices, there, None);
                slices.clear();
                return written.map(|_| Some(whole)).map_err(super::failed);
            }
            _ => return Err(differs()),
        };
        written.map(|_| None).map_err(super::failed)
    }

    fn clear(&mut self, sent: Option<Bytes>, keep: usize) {
        self.there.clear();
        match &mut self.values {
            Values::Long(values) => values.clear(),
            Values::Int(values) => values.clear(),
            Values::Flag(values) => values.clear(),
            Values::Bytes { data, ends } => {
                ends.clear();
                // Nobody else holds it once the column is closed; if somebody did, it would just not be kept.
                if let Some(Ok(whole)) = sent.map(Bytes::try_into_mut) {
                    *data = whole.into();
                    data.clear();
                    data.shrink_to(keep);
                }
            }
        }
    }
}

fn differs() -> FormatError {
    FormatError::File("parquet: columns and schema differ".into())
}

/// A row being filled: one call for each column, in the order of the schema.
#[derive(Debug)]
pub(super) struct Row<'r> {
    buffers: std::slice::IterMut<'r, Buffer>,
    bytes: &'r mut usize,
}

impl Row<'_> {
    fn next(&mut self, name: &str, there: bool) -> Option<&mut Values> {
        let buffer = self.buffers.next()?;
        debug_assert_eq!(buffer.column.name, name, "columns are filled in the order of the schema");
        if buffer.column.always {
            debug_assert!(there, "{name} has a value in each row");
        } else {
            buffer.there.push(i16::from(there));
        }
        Some(&mut buffer.values)
    }

    /// No value.
    pub(super) fn none(&mut self, name: &str) {
        self.next(name, false);
    }

    /// A number.
    pub(super) fn long(&mut self, name: &str, value: Option<i64>) {
        if let (Some(Values::Long(values)), Some(value)) = (self.next(name, value.is_some()), value) {
            values.push(value);
            *self.bytes += size_of::<i64>();
        }
    }

    /// A small number.
    pub(super) fn int(&mut self, name: &str, value: Option<i32>) {
        if let (Some(Values::Int(values)), Some(value)) = (self.next(name, value.is_some()), value) {
            values.push(value);
            *self.bytes += size_of::<i32>();
        }
    }

    /// True or false.
    pub(super) fn flag(&mut self, name: &str, value: bool) {
        if let Some(Values::Flag(values)) = self.next(name, true) {
            values.push(value);
            *self.bytes += 1;
        }
    }

    /// Text; an empty one is no value ("not told").
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, |out| {
            out.extend_from_slice(value.as_bytes());
            !value.is_empty()
        });
    }

    /// What `write` appends; `false`: there is no value, and what it appended is dropped.
    pub(super) fn bytes(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let Some(buffer) = self.buffers.next() else { return };
        debug_assert_eq!(buffer.column.name, name, "columns are filled in the order of the schema");
        let Values::Bytes { data, ends } = &mut buffer.values else { return };
        let start = data.len();
        let there = write(data);
        if there {
            ends.push(data.len());
            *self.bytes += data.len() - start + size_of::<usize>();
        } else {
            data.truncate(start);
        }
        if !buffer.column.always {
            buffer.there.push(i16::from(there));
        }
    }
}
