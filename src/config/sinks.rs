//! `[sinks.NAME]`: places that get windows, each with its own form, namespaces and pace.
//!
//! One struct for all kinds of sink, so that a misplaced setting is told by name: [`check`] says which settings a kind takes.

use super::NamespacePattern;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a sink is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// A folder of a local file system.
    #[default]
    Folder,
    /// A bucket of an object store.
    Object,
    /// Topics of Apache Kafka.
    Kafka,
    /// A Delta Lake table.
    Delta,
    /// An HTTP endpoint.
    Webhook,
}

/// The format of a window's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// What stands around a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Envelope {
    /// Our own record.
    #[default]
    Tidelog,
    /// The envelope of Debezium's connector for MongoDB.
    Debezium,
}

/// How a window's files are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not.
    #[default]
    None,
    /// Zstandard.
    Zstd,
}

/// Where a new sink begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first window.
    #[default]
    Oldest,
    /// With the first window that closes after the sink was added.
    Now,
    /// With this window.
    Window(u64),
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Told {
            Word(String),
            Number(u64),
        }
        match Told::deserialize(deserializer)? {
            Told::Word(word) if word == "oldest" => Ok(Self::Oldest),
            Told::Word(word) if word == "now" => Ok(Self::Now),
            Told::Number(number) if number > 0 => Ok(Self::Window(number)),
            Told::Word(_) | Told::Number(_) => {
                Err(serde::de::Error::custom("expected \"oldest\", \"now\" or the number of a window, from 1"))
            }
        }
    }
}

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Oldest => serializer.serialize_str("oldest"),
            Self::Now => serializer.serialize_str("now"),
            Self::Window(number) => serializer.serialize_u64(*number),
        }
    }
}

/// A place that gets windows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkConfig {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: SinkKind,
    /// The format of its files.
    pub format: Format,
    /// What stands around a change.
    pub envelope: Envelope,
    /// How its files are compressed.
    pub compression: Compression,
    /// Each image is carried as BSON too.
    pub bson: bool,
    /// Files of records that a window has.
    pub parts: u32,
    /// Each window has files of its entities' last changes too.
    pub latest: bool,
    /// What it gets: `db.collection`, `db.*`; empty: all.
    pub namespaces: Vec<NamespacePattern>,
    /// What it does not get.
    pub exclude: Vec<NamespacePattern>,
    /// Where it begins when it is new.
    pub start: Start,
    /// A record whose images together are larger goes to the dead letters; 0: no bound.
    pub max_record_bytes: u64,
    /// Bytes delivered in a second, at most; 0: no bound.
    pub bytes_per_second: u64,
    /// `folder`, `object`: a window closed longer ago than this may be removed; 0: none.
    pub keep_age_ms: u64,
    /// `folder`, `object`: the oldest windows may be removed when all have more bytes; 0: no bound.
    pub keep_bytes: u64,
    /// `folder`: where.
    pub dir: PathBuf,
    /// `object`, `delta`, `webhook`: where.
    pub url: String,
    /// `kafka`: bootstrap servers.
    pub brokers: String,
    /// `kafka`: the topic; `{ns}` stands for the namespace.
    pub topic: String,
    /// `kafka`: the topic of manifests and of records of the whole log.
    pub windows_topic: String,
    /// `kafka`, `object`: options by the names of the client library.
    pub options: BTreeMap<String, String>,
    /// A file with more options, `name=value` a line, for what must not stand here.
    pub options_file: PathBuf,
}

impl Default for SinkConfig {
    fn default() -> Self {
        Self {
            kind: SinkKind::default(),
            format: Format::default(),
            envelope: Envelope::default(),
            compression: Compression::default(),
            bson: false,
            parts: 1,
            latest: false,
            namespaces: Vec::new(),
            exclude: Vec::new(),
            start: Start::default(),
            max_record_bytes: 0,
            bytes_per_second: 0,
            keep_age_ms: 0,
            keep_bytes: 0,
            dir: PathBuf::new(),
            url: String::new(),
            brokers: String::new(),
            topic: "tidelog.{ns}".into(),
            windows_topic: "tidelog.windows".into(),
            options: BTreeMap::new(),
            options_file: PathBuf::new(),
        }
    }
}

/// The greatest number of sinks: each has its series in the metrics.
pub const MAX_SINKS: usize = 14;
/// The greatest number of parts.
const MAX_PARTS: u32 = 1024;

impl SinkConfig {
    /// Whether a namespace's records go there. Control records of a whole database or of the log are always taken.
    pub fn takes(&self, ns: &str) -> bool {
        let any = |patterns: &[NamespacePattern]| patterns.iter().any(|pattern| pattern.matches(ns));
        (self.namespaces.is_empty() || any(&self.namespaces)) && !any(&self.exclude)
    }

    /// Whether it gets less than the whole log.
    pub fn selects(&self) -> bool {
        !self.namespaces.is_empty() || !self.exclude.is_empty()
    }
}

/// All that is wrong with the settings of the sink `name`: the setting, what was found and what is expected.
pub(super) fn check(name: &str, sink: &SinkConfig) -> Vec<(String, String)> {
    let mut bad = Vec::new();
    let mut wrong = |setting: &str, message: String| bad.push((setting.to_owned(), message));
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 40 || !name.chars().all(letters) || name == "folder" {
        let message =
            "expected a name of 1 to 40 of a-z, 0-9, - and _, and not `folder`, which is the sink of `export.dir`";
        wrong("", message.into());
    }
    if sink.parts == 0 || sink.parts > MAX_PARTS {
        wrong("parts", format!("found {}, expected a whole number from 1 to {MAX_PARTS}", sink.parts));
    }
    let plain = SinkConfig::default();
    let kind = sink.kind.name();
    let takes: &[&str] = match sink.kind {
        SinkKind::Folder => &["dir"],
        SinkKind::Object | SinkKind::Delta | SinkKind::Webhook => &["url", "options", "options_file"],
        SinkKind::Kafka => &["brokers", "topic", "windows_topic", "options", "options_file"],
    };
    let told = [
        ("dir", sink.dir != plain.dir, true),
        ("url", sink.url != plain.url, true),
        ("brokers", sink.brokers != plain.brokers, true),
        ("topic", sink.topic != plain.topic, false),
        ("windows_topic", sink.windows_topic != plain.windows_topic, false),
        ("options", sink.options != plain.options, false),
        ("options_file", sink.options_file != plain.options_file, false),
    ];
    for (setting, there, needed) in told {
        match (takes.contains(&setting), there) {
            (false, true) => wrong(setting, format!("found, but a sink of type \"{kind}\" has no such setting")),
            (true, false) if needed => wrong(setting, format!("expected: a sink of type \"{kind}\" needs it")),
            _ => {}
        }
    }
    check_form(sink, kind, &mut wrong);
    check_keep(sink, kind, &mut wrong);
    check_latest(sink, kind, &mut wrong);
    check_topics(sink, &mut wrong);
    bad
}

/// Names that Kafka takes, and manifests apart from records.
fn check_topics(sink: &SinkConfig, wrong: &mut impl FnMut(&str, String)) {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let takes =
        |name: &str| (1..=100).contains(&name.len()) && name.chars().all(letters) && !name.chars().all(|c| c == '.');
    let expected = "expected 1 to 100 of A-Z, a-z, 0-9, `.`, `_` and `-`";
    if !takes(&sink.topic.replacen("{ns}", "x.y", 1)) {
        wrong("topic", format!("found \"{}\", {expected}, with `{{ns}}` once or not at all", sink.topic));
    }
    if !takes(&sink.windows_topic) {
        wrong("windows_topic", format!("found \"{}\", {expected}", sink.windows_topic));
    }
    if sink.topic == sink.windows_topic {
        wrong("windows_topic", "found the same as `topic`; expected a topic of its own".into());
    }
}

/// Windows are removed only where they stand as files of ours.
fn check_keep(sink: &SinkConfig, kind: &str, wrong: &mut impl FnMut(&str, String)) {
    let instead = match sink.kind {
        SinkKind::Folder | SinkKind::Object => return,
        SinkKind::Kafka => "Kafka removes messages by the topic's own `retention.ms` and `retention.bytes`",
        SinkKind::Delta => "rows are removed by a DELETE and old files by a VACUUM of the table",
        SinkKind::Webhook => "what the receiver keeps is for the receiver to remove",
    };
    for (setting, there) in [("keep_age_ms", sink.keep_age_ms > 0), ("keep_bytes", sink.keep_bytes > 0)] {
        if there {
            wrong(setting, format!("found, but a sink of type \"{kind}\" removes no windows: {instead}"));
        }
    }
}

/// Latest files are files, and a consumer of them needs the drops and renames.
fn check_latest(sink: &SinkConfig, kind: &str, wrong: &mut impl FnMut(&str, String)) {
    if sink.latest && !matches!(sink.kind, SinkKind::Folder | SinkKind::Object) {
        let message =
            format!("found true; a sink of type \"{kind}\" has no files of its own, \"folder\" and \"object\" have");
        wrong("latest", message);
    }
    if sink.latest && sink.envelope == Envelope::Debezium {
        let message =
            "found true with `envelope = \"debezium\"`, which tells no drops and renames; expected \"tidelog\"";
        wrong("latest", message.into());
    }
}

fn check_form(sink: &SinkConfig, kind: &str, wrong: &mut impl FnMut(&str, String)) {
    if sink.kind == SinkKind::Kafka && sink.format != Format::Jsonl {
        wrong("format", format!("found \"parquet\", a sink of type \"{kind}\" takes \"jsonl\": one message a record"));
    }
    if sink.kind == SinkKind::Kafka && sink.compression != Compression::None {
        wrong(
            "compression",
            "found \"zstd\"; the client compresses batches: `options = { \"compression.type\" = \"zstd\" }`".into(),
        );
    }
    if sink.kind == SinkKind::Kafka && sink.parts != 1 {
        wrong("parts", "found more than 1; a topic's partitions split it by entity".into());
    }
    if sink.kind == SinkKind::Delta && sink.format != Format::Parquet {
        wrong("format", "expected \"parquet\": a Delta table holds nothing else".into());
    }
    if sink.kind == SinkKind::Delta && sink.envelope == Envelope::Debezium {
        wrong("envelope", "found \"debezium\"; expected \"tidelog\": a table has the columns of our own record".into());
    }
}

impl SinkKind {
    /// The word in settings and in what is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Object => "object",
            Self::Kafka => "kafka",
            Self::Delta => "delta",
            Self::Webhook => "webhook",
        }
    }
}

#[cfg(test)]
mod latest_tests {
    use super::*;

    #[test]
    fn latest_files_are_for_sinks_that_have_files() {
        let told = |kind, envelope| {
            let dir = if kind == SinkKind::Folder { "/x".into() } else { PathBuf::new() };
            let (url, format) = ("s3://b/p".to_owned(), Format::Jsonl);
            let url = if kind == SinkKind::Object { url } else { String::new() };
            let sink = SinkConfig { kind, envelope, format, latest: true, dir, url, ..SinkConfig::default() };
            check("x", &sink).into_iter().filter(|(setting, _)| setting == "latest").count()
        };
        assert_eq!(told(SinkKind::Folder, Envelope::Tidelog) + told(SinkKind::Object, Envelope::Tidelog), 0);
        for kind in [SinkKind::Kafka, SinkKind::Delta, SinkKind::Webhook] {
            assert_eq!(told(kind, Envelope::Tidelog), 1, "{}", kind.name());
        }
        assert_eq!(told(SinkKind::Folder, Envelope::Debezium), 1);
    }
}

#[cfg(test)]
mod topic_tests {
    use super::*;

    fn told(topic: &str, windows_topic: &str) -> Vec<String> {
        let (topic, windows_topic) = (topic.to_owned(), windows_topic.to_owned());
        let kind = SinkKind::Kafka;
        let sink = SinkConfig { kind, brokers: "b:1".into(), topic, windows_topic, ..SinkConfig::default() };
        check("k", &sink).into_iter().map(|(setting, _)| setting).collect()
    }

    #[test]
    fn topics_have_names_that_kafka_takes() {
        assert!(told("tidelog.{ns}", "tidelog.windows").is_empty() && told("all", "w").is_empty());
        for bad in ["", ".", "{ns}{ns}", "a b", "{name}", &"x".repeat(101)] {
            assert_eq!(told(bad, "w"), ["topic"], "{bad}");
        }
        assert_eq!(told("t.{ns}", "w.{ns}"), ["windows_topic"]);
        assert_eq!(told("same", "same"), ["windows_topic"]);
    }
}
