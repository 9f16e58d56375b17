//! The table of the settings of `[sinks.NAME]`, for the reference page and the example file.

use super::SinkConfig;

/// A setting of a sink.
#[derive(Clone, Copy, Debug)]
pub(super) struct SinkSetting {
    /// Its name.
    pub(super) name: &'static str,
    /// Which types of sink take it.
    pub(super) of: &'static str,
    /// What it takes.
    pub(super) takes: &'static str,
    /// For people.
    pub(super) help: &'static str,
}

const fn row(name: &'static str, of: &'static str, takes: &'static str, help: &'static str) -> SinkSetting {
    SinkSetting { name, of, takes, help }
}

/// All of them.
#[rustfmt::skip] // one setting, one row
pub(super) const SINK_SETTINGS: &[SinkSetting] = &[
    row("type", "all", "one of \"folder\", \"object\", \"kafka\", \"delta\", \"webhook\"", "What the sink is."),
    row("format", "all", "one of \"jsonl\", \"parquet\"", "The format of a window's files. `delta` takes only \"parquet\", `kafka` only \"jsonl\" (one message a record)."),
    row("envelope", "all", "one of \"tidelog\", \"debezium\"", "What stands around a change: our own record, or the envelope of Debezium's connector for MongoDB (not with \"delta\")."),
    row("compression", "all but kafka", "one of \"none\", \"zstd\"", "How the files are compressed; in Parquet its pages."),
    row("bson", "all", "true or false", "Each image is carried as BSON too, so that SQL engines can recompute its hash."),
    row("parts", "all but kafka", "a whole number from 1 to 1024", "Files of records that a window has: all records of an entity are in one of them, the same for ever."),
    row("latest", "folder, object", "true or false", "Beside its history each window has files `latest…` of the last change of each document that it changed, and of drops and renames."),
    row("namespaces", "all", "a list of `db.collection` and `db.*`", "What it gets. Empty: all."),
    row("exclude", "all", "a list of `db.collection` and `db.*`", "What it does not get, though `namespaces` names it."),
    row("start", "all", "\"oldest\", \"now\" or the number of a window", "Where it begins when it is new. Later it goes on where it was."),
    row("max_record_bytes", "all", "a whole number", "A record whose images (before and after, as BSON) are together larger than this goes to the dead letters; the rest of its window goes on. 0: no bound."),
    row("bytes_per_second", "all", "a whole number", "Bytes delivered in a second, at most. 0: no bound."),
    row("keep_age_ms", "folder, object", "a whole number", "Windows closed longer ago than this are removed, the oldest first, never the newest, never one that a [consumer](consumers.md) is not done with. 0: for ever."),
    row("keep_bytes", "folder, object", "a whole number", "The oldest windows are removed while all of the sink's windows have more bytes than this, under the same conditions. 0: no bound."),
    row("dir", "folder", "a path", "The folder."),
    row("url", "object, delta, webhook", "a URL", "`s3://bucket/prefix`, `gs://…`, `az://…`, `file:///…`; for a webhook `http://…` or `https://…`."),
    row("brokers", "kafka", "`host:port`, several with commas", "The bootstrap servers."),
    row("topic", "kafka", "text", "The topic of a record; `{ns}` stands for its namespace."),
    row("windows_topic", "kafka", "text", "The topic of manifests, and of records that are about no namespace."),
    row("options", "object, kafka, delta, webhook", "a table of text", "Options by the names of the client library. Not for credentials."),
    row("options_file", "object, kafka, delta, webhook", "a path", "A file with more options, one `name=value` a line, for credentials that are not in the environment."),
];

/// The default of a sink's setting as it is written in TOML.
pub(super) fn default_of(name: &str) -> String {
    let defaults = serde_json::to_value(SinkConfig::default()).unwrap_or_default();
    defaults.get(name).map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_has_every_setting_and_no_other() {
        let defaults = serde_json::to_value(SinkConfig::default()).unwrap();
        let fields: BTreeSet<_> = defaults.as_object().unwrap().keys().cloned().collect();
        let table: BTreeSet<_> = SINK_SETTINGS.iter().map(|row| row.name.to_owned()).collect();
        assert_eq!(table, fields);
    }
}
