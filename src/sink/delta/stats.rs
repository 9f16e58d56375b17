//! What an `add` says of a file: rows, bounds and nulls of a few columns, out of the footer of the file that lies in the store.
//!
//! Source: the Delta protocol, "Per-file Statistics". Bounds of text may be cut (the upper one is then above the true one), as those of
//! other writers are. Reading the footer back also proves that the file has come up whole.

use super::super::object::remote::Remote;
use super::super::{SealedFile, SinkError};
use super::action::Add;
use crate::format::ejson::text;
use bytes::Bytes;
use object_store::path::Path;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use serde_json::{Map, Value, json};

/// So much of the end is read first.
const TAIL: u64 = 64 << 10;
/// The columns with bounds.
const COLUMNS: [&str; 4] = ["lsn", "wall", "ns", "key"];

/// The `add` of `file`, which lies at `path`; `relative`: the same from the table's folder on.
pub(super) fn add(remote: &Remote, path: &Path, relative: String, file: &SealedFile) -> Result<Add, SinkError> {
    let not_proved = || SinkError::NotProved { path: remote.shown(path) };
    let mut length = TAIL;
    loop {
        let tail: Bytes = remote.tail(path, file.bytes, length)?.ok_or_else(not_proved)?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&tail, file.bytes) {
            Ok(()) => {
                let footer = reader.finish().map_err(|_unread| not_proved())?;
                if u64::try_from(footer.file_metadata().num_rows()) != Ok(file.records) {
                    return Err(not_proved());
                }
                let (bytes, records, stats) = (file.bytes, file.records, told(&footer).to_string());
                return Ok(Add { path: relative, bytes, records, stats });
            }
            Err(ParquetError::NeedMoreData(more)) if more as u64 > length => length = more as u64,
            Err(_) => return Err(not_proved()),
        }
    }
}

fn told(footer: &ParquetMetaData) -> Value {
    let (mut least, mut most, mut nulls) = (Map::new(), Map::new(), Map::new());
    for name in COLUMNS {
        let groups = || footer.row_groups().iter().filter_map(|group| of(group, name));
        if groups().count() != footer.num_row_groups() {
            continue;
        }
        if let Some(count) = groups().map(Statistics::null_count_opt).sum::<Option<u64>>() {
            nulls.insert(name.into(), count.into());
        }
        if let Some((low, high)) = bounds(footer.row_groups(), name) {
            least.insert(name.into(), low);
            most.insert(name.into(), high);
        }
    }
    let rows = footer.file_metadata().num_rows();
    json!({"numRecords": rows, "minValues": least, "maxValues": most, "nullCount": nulls})
}

fn of<'g>(group: &'g RowGroupMetaData, name: &str) -> Option<&'g Statistics> {
    group.columns().iter().find(|column| column.column_descr().name() == name)?.statistics()
}

/// Over all row groups that have values; `None`: not known, or no values.
fn bounds(groups: &[RowGroupMetaData], name: &str) -> Option<(Value, Value)> {
    let (mut numbers, mut texts) = (Vec::new(), Vec::new());
    for group in groups {
        let statistics = of(group, name)?;
        if statistics.null_count_opt() == u64::try_from(group.num_rows()).ok() {
            continue;
        }
        match statistics {
            Statistics::Int64(told) => numbers.extend([*told.min_opt()?, *told.max_opt()?]),
            other => {
                for bound in [other.min_bytes_opt()?, other.max_bytes_opt()?] {
                    texts.push(std::str::from_utf8(bound).ok()?);
                }
            }
        }
    }
    let number = |value: i64| if name == "wall" { wall(value) } else { value.into() };
    match (numbers.iter().min(), texts.iter().min()) {
        (Some(least), _) => Some((number(*least), number(*numbers.iter().max()?))),
        (None, Some(least)) => Some(((*least).into(), (*texts.iter().max()?).into())),
        (None, None) => None,
    }
}

fn wall(ms: i64) -> Value {
    let mut out = Vec::new();
    text::wall(&mut out, ms);
    String::from_utf8_lossy(&out).trim_matches('"').into()
}
