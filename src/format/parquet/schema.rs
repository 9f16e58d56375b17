//! The columns of a Parquet file and how each is written. `deploy/docs/parquet.md` tells what they say.
//!
//! Invariants: the order here is the order in the file and the order in which a row is filled; columns are only ever added
//! at the end. All numbers are signed: table formats on top of Parquet know no others.

use crate::config::Compression;
use crate::format::FormatError;
use parquet::basic::{Compression as Codec, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, Type};
use std::sync::Arc;

/// What a reader sees in the footer. Not the version of the program: the same records give the same bytes in the next one.
/// The form `NAME version V` is what parquet-java asks for before it trusts statistics.
const CREATED_BY: &str = "tidelog version 1";
/// The level: the speed of a sidecar that shares its machine matters more than the last percent.
const ZSTD_LEVEL: i32 = 3;
/// Bytes of a page before compression, and so about what a reader must read at least.
const PAGE_BYTES: usize = 1 << 20;
/// Rows of a page: what a filter on `lsn` must read at least.
const PAGE_ROWS: usize = 8192;
/// Longest text in statistics; longer ones are cut, with the bound still right.
const STATISTICS_BYTES: usize = 64;

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
    /// 64 bits, signed.
    Long,
    /// 32 bits, signed.
    Int,
    /// Milliseconds since 1970, UTC.
    Time,
    /// True or false.
    Flag,
}

/// How the values of a column go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Few different ones: a dictionary, statistics.
    Word,
    /// Numbers close to the one before: differences, statistics of each page.
    Near,
    /// An entity key: statistics of each page, and a Bloom filter.
    Key,
    /// As they come, no statistics.
    Plain,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: &'static str,
    /// What its values are.
    pub(super) kind: Kind,
    /// Each row has a value.
    pub(super) always: bool,
    /// How it is written.
    usage: Use,
}

const fn always(name: &'static str, kind: Kind, usage: Use) -> Column {
    Column { name, kind, always: true, usage }
}

const fn may(name: &'static str, kind: Kind, usage: Use) -> Column {
    Column { name, kind, always: false, usage }
}

/// The columns of our own record.
pub(super) const COLUMNS: &[Column] = &[
    always("log", Kind::Text, Use::Word),
    always("lsn", Kind::Long, Use::Near),
    may("control", Kind::Text, Use::Word),
    may("ns", Kind::Text, Use::Word),
    may("id", Kind::Text, Use::Plain),
    may("key", Kind::Text, Use::Key),
    may("epoch", Kind::Long, Use::Word),
    may("seq", Kind::Long, Use::Near),
    may("op", Kind::Text, Use::Word),
    may("before", Kind::Text, Use::Plain),
    may("after", Kind::Text, Use::Plain),
    may("before_sha256", Kind::Text, Use::Plain),
    may("after_sha256", Kind::Text, Use::Plain),
    may("change_hash", Kind::Text, Use::Plain),
    always("hlc", Kind::Long, Use::Near),
    always("wall", Kind::Time, Use::Near),
    may("operation_time_t", Kind::Long, Use::Near),
    may("operation_time_i", Kind::Long, Use::Word),
    may("retry_lsid", Kind::Text, Use::Word),
    may("retry_txn_number", Kind::Long, Use::Word),
    may("retry_stmt_id", Kind::Int, Use::Word),
    may("txn_lsid", Kind::Text, Use::Word),
    may("txn_txn_number", Kind::Long, Use::Word),
    may("txn_index", Kind::Long, Use::Word),
    may("txn_count", Kind::Long, Use::Word),
    may("found", Kind::Text, Use::Word),
    may("origin_connection", Kind::Long, Use::Word),
    may("origin_client", Kind::Text, Use::Word),
    may("origin_user", Kind::Text, Use::Word),
    may("origin_mechanism", Kind::Text, Use::Word),
    may("origin_app", Kind::Text, Use::Word),
    may("origin_driver", Kind::Text, Use::Word),
    may("comment", Kind::Text, Use::Word),
    may("traceparent", Kind::Text, Use::Word),
    may("correlation", Kind::Text, Use::Word),
    always("continued", Kind::Flag, Use::Plain),
    may("id_bson", Kind::Binary, Use::Plain),
    may("before_bson", Kind::Binary, Use::Plain),
    may("after_bson", Kind::Binary, Use::Plain),
    may("control_detail", Kind::Text, Use::Plain),
    may("tags", Kind::Text, Use::Word),
    may("schema_version", Kind::Int, Use::Word),
];

/// The columns of Debezium's envelope; a dot stands for a group of columns. `deploy/docs/debezium.md` tells what they say.
pub(super) const ENVELOPE: &[Column] = &[
    may("before", Kind::Text, Use::Plain),
    may("after", Kind::Text, Use::Plain),
    may("updateDescription", Kind::Text, Use::Word),
    always("source.version", Kind::Text, Use::Word),
    always("source.connector", Kind::Text, Use::Word),
    always("source.name", Kind::Text, Use::Word),
    always("source.ts_ms", Kind::Long, Use::Near),
    always("source.snapshot", Kind::Text, Use::Word),
    always("source.db", Kind::Text, Use::Word),
    always("source.sequence", Kind::Text, Use::Plain),
    may("source.ts_us", Kind::Long, Use::Near),
    may("source.ts_ns", Kind::Long, Use::Near),
    always("source.collection", Kind::Text, Use::Word),
    always("source.ord", Kind::Long, Use::Word),
    may("source.lsid", Kind::Text, Use::Word),
    may("source.txnNumber", Kind::Long, Use::Word),
    always("source.wallTime", Kind::Long, Use::Near),
    always("op", Kind::Text, Use::Word),
    always("ts_ms", Kind::Long, Use::Near),
    may("transaction", Kind::Text, Use::Word),
    always("tidelog.log", Kind::Text, Use::Word),
    always("tidelog.lsn", Kind::Long, Use::Near),
    may("tidelog.id", Kind::Text, Use::Plain),
    always("tidelog.key", Kind::Text, Use::Key),
    always("tidelog.epoch", Kind::Long, Use::Word),
    always("tidelog.seq", Kind::Long, Use::Near),
    always("tidelog.op", Kind::Text, Use::Word),
    may("tidelog.found", Kind::Text, Use::Word),
    may("tidelog.before_sha256", Kind::Text, Use::Plain),
    may("tidelog.after_sha256", Kind::Text, Use::Plain),
    always("tidelog.change_hash", Kind::Text, Use::Plain),
    always("tidelog.hlc", Kind::Long, Use::Near),
    always("tidelog.continued", Kind::Flag, Use::Plain),
    may("tidelog.before_bson", Kind::Binary, Use::Plain),
    may("tidelog.after_bson", Kind::Binary, Use::Plain),
];

/// Columns as Parquet's schema. Groups are required, so that a column in one is written like any other.
pub(super) fn schema(columns: &[Column]) -> Result<Arc<Type>, FormatError> {
    let line = |name: &str, column: &Column| {
        let there = if column.always { "required" } else { "optional" };
        let (physical, logical) = match column.kind {
            Kind::Text => ("binary", " (STRING)"),
            Kind::Binary => ("binary", ""),
            Kind::Long => ("int64", ""),
            Kind::Int => ("int32", ""),
            Kind::Time => ("int64", " (TIMESTAMP(MILLIS, true))"),
            Kind::Flag => ("boolean", ""),
        };
        format!("{there} {physical} {name}{logical};")
    };
    let (mut lines, mut open) = (Vec::new(), "");
    for column in columns {
        let (group, name) = column.name.split_once('.').unwrap_or(("", column.name));
        if group != open {
            lines.push(if open.is_empty() { String::new() } else { "}".into() });
            lines.push(if group.is_empty() { String::new() } else { format!("required group {group} {{") });
            open = group;
        }
        lines.push(line(name, column));
    }
    if !open.is_empty() {
        lines.push("}".into());
    }
    parse_message_type(&format!("message record {{ {} }}", lines.join(" "))).map(Arc::new).map_err(super::failed)
}

/// How a file of these columns is written whose row groups have at most `rows` rows.
pub(super) fn properties(
    columns: &[Column],
    compression: Compression,
    rows: usize,
) -> Result<Arc<WriterProperties>, FormatError> {
    let codec = match compression {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).map_err(super::failed)?),
    };
    let all = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(codec)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES))
        .set_column_index_truncate_length(Some(STATISTICS_BYTES))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Page);
    let mut built = all;
    for column in columns {
        built = one(built, column, rows);
    }
    Ok(Arc::new(built.build()))
}

fn one(all: WriterPropertiesBuilder, column: &Column, rows: usize) -> WriterPropertiesBuilder {
    let path = ColumnPath::new(column.name.split('.').map(str::to_owned).collect());
    match column.usage {
        Use::Word => all.set_column_dictionary_enabled(path, true),
        Use::Near => all.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
        Use::Key => {
            let most = u64::try_from(rows).unwrap_or(u64::MAX);
            all.set_column_bloom_filter_fpp(path.clone(), 0.01).set_column_bloom_filter_max_ndv(path, most)
        }
        Use::Plain => all.set_column_statistics_enabled(path, EnabledStatistics::None),
    }
}
