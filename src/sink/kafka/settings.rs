//! The settings of a Kafka sink: ours, those handed on to librdkafka, and where credentials come from.
//!
//! Credentials stand in `options_file` or in the environment, never in the settings file; nothing here prints a value.

use super::super::{Setting, SinkError};
use super::security::{self, is_secret};
use crate::config::SinkConfig;
use crate::types::LogId;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Properties that a delivery depends on, or that have a setting of their own.
const OURS: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "metadata.broker.list",
    "request.required.acks",
    "transactional.id",
];

/// How long one answer of a broker is waited for, at most.
const ANSWER: Duration = Duration::from_secs(10);

/// Where secrets belong; only these two of them have a variable.
const SECRETS: &str = "belongs into `options_file` (`sasl.username` and `sasl.password`: or into the environment)";

/// Credentials from the environment.
const ENVIRONMENT: &[(&str, &str)] =
    &[("KAFKA_SASL_USERNAME", "sasl.username"), ("KAFKA_SASL_PASSWORD", "sasl.password")];

/// What librdkafka gets unless `options` say otherwise. The queue must hold the greatest message, and a request must stay
/// under what a broker takes by default (`socket.request.max.bytes`, 100 MiB).
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "tidelog"),
    ("message.max.bytes", "100000000"),
    ("queue.buffering.max.kbytes", "131072"),
    ("batch.size", "1000000"),
    ("partitioner", "murmur2_random"),
    ("transaction.timeout.ms", "300000"),
    ("message.timeout.ms", "30000"),
    ("socket.timeout.ms", "15000"),
    ("socket.keepalive.enable", "true"),
    ("reconnect.backoff.max.ms", "2000"),
];

/// Properties that a consumer does not have.
const OF_PRODUCERS: &[&str] = &[
    "message.max.bytes",
    "queue.buffering.max.kbytes",
    "batch.size",
    "partitioner",
    "transaction.timeout.ms",
    "message.timeout.ms",
];

/// All that a sink needs to know.
#[derive(Clone)]
pub(super) struct Settings {
    /// Of the sink.
    pub(super) name: &'static str,
    /// Whose windows these are.
    pub(super) log: LogId,
    /// The topic of a record, with `{ns}`.
    pub(super) topic: String,
    /// Where manifests go, and records of the whole log.
    pub(super) windows_topic: String,
    /// Of a new topic; -1: as the broker likes.
    pub(super) partitions: i32,
    /// Of a new topic; -1: as the broker likes.
    pub(super) replication: i32,
    /// A message that is larger is alone in its batch.
    pub(super) batch_bytes: usize,
    /// A message is delivered within this time, or it is given up; so is the end of a transaction.
    pub(super) message_wait: Duration,
    client: ClientConfig,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("name", &self.name).field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the settings, the options file and the environment.
    pub(super) fn read(at: &Setting, config: &SinkConfig) -> Result<Self, SinkError> {
        let mut options = config.options.clone();
        security::of_java(at.name, &options)?;
        if let Some((name, _)) = options.iter().find(|(name, value)| is_secret(name, value)) {
            return Err(refused(at.name, name, SECRETS));
        }
        if !config.options_file.as_os_str().is_empty() {
            options.extend(read_file(at, config)?);
        }
        for (variable, property) in ENVIRONMENT {
            if let Ok(value) = std::env::var(variable) {
                options.entry((*property).to_owned()).or_insert(value);
            }
        }
        security::of_java(at.name, &options)?;
        security::prepare(at.name, &*at.disk, &mut options)?;
        if let Some(value) = options.remove("delivery.timeout.ms") {
            options.entry("message.timeout.ms".to_owned()).or_insert(value);
        }
        if let Some(name) = options.keys().find(|name| OURS.contains(&name.as_str())) {
            return Err(refused(at.name, name, "is set by the sink itself: remove it"));
        }
        let partitions = whole(at.name, "partitions", options.remove("partitions"))?.unwrap_or(-1);
        let replication = whole(at.name, "replication.factor", options.remove("replication.factor"))?.unwrap_or(-1);
        for (name, value) in DEFAULTS {
            options.entry((*name).to_owned()).or_insert_with(|| (*value).to_owned());
        }
        let batch = whole(at.name, "batch.size", options.get("batch.size").cloned())?.unwrap_or(0);
        let wait = whole(at.name, "message.timeout.ms", options.get("message.timeout.ms").cloned())?.unwrap_or(0);
        let mut client: ClientConfig = options.into_iter().collect();
        client.set("bootstrap.servers", &config.brokers).set_log_level(RDKafkaLogLevel::Info);
        let settings = Self {
            name: at.name,
            log: at.log,
            topic: config.topic.clone(),
            windows_topic: config.windows_topic.clone(),
            partitions,
            replication,
            batch_bytes: usize::try_from(batch).unwrap_or(0),
            message_wait: Duration::from_millis(u64::try_from(wait).unwrap_or(0)),
            client,
        };
        settings.check(at.name)?;
        Ok(settings)
    }

    /// The producer, which has the log's and the sink's name: a second one with that name fences the first.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.client.clone();
        client.set("transactional.id", self.identity()).set("enable.idempotence", "true").set("acks", "all");
        client
    }

    /// A reader that joins no group and stores no position.
    pub(super) fn consumer(&self, isolation: &str) -> ClientConfig {
        let mut client = self.client.clone();
        for property in OF_PRODUCERS {
            client.remove(property);
        }
        client.set("group.id", self.identity()).set("enable.auto.commit", "false");
        client.set("isolation.level", isolation).set("enable.partition.eof", "true");
        client.set("auto.offset.reset", "earliest").set("queued.max.messages.kbytes", "16384");
        client
    }

    /// The client for topics that have to be made.
    pub(super) fn admin(&self) -> ClientConfig {
        self.client.clone()
    }

    /// The key of this sink's manifests.
    pub(super) fn manifest_key(&self) -> String {
        format!("{}/{}", self.log, self.name)
    }

    /// How long one answer of a broker is waited for: never longer than a message is.
    pub(super) fn answer(&self) -> Duration {
        ANSWER.min(self.message_wait)
    }

    fn identity(&self) -> String {
        format!("tidelog-{}-{}", self.log, self.name)
    }

    /// Properties that librdkafka does not know or take.
    fn check(&self, sink: &str) -> Result<(), SinkError> {
        match self.producer().create_native_config() {
            Ok(_) => Ok(()),
            Err(rdkafka::error::KafkaError::ClientConfig(_, what, name, value)) => {
                Err(refused(sink, &name, if is_secret(&name, &value) { "is not taken" } else { what.as_str() }))
            }
            Err(_) => Err(refused(sink, "options", "are not taken by the Kafka client")),
        }
    }
}

/// An option, by its name, and what is wrong with it.
pub(super) fn refused(sink: &str, option: &str, why: &str) -> SinkError {
    SinkError::Refused(format!("sinks.{sink}.options: `{option}` {why}"))
}

fn whole(sink: &str, name: &str, value: Option<String>) -> Result<Option<i32>, SinkError> {
    let Some(value) = value else { return Ok(None) };
    match value.trim().parse() {
        Ok(number) if number > 0 => Ok(Some(number)),
        _ => Err(refused(sink, name, "is not a whole number from 1")),
    }
}

/// `name=value` a line; empty lines and lines that begin with `#` do not count. In the text of a certificate or key `\n` stands for
/// a newline, as in kcat's files.
fn read_file(at: &Setting, config: &SinkConfig) -> Result<BTreeMap<String, String>, SinkError> {
    let path = config.options_file.display();
    let bad = |why: &str| SinkError::Refused(format!("sinks.{}.options_file {path}: {why}", at.name));
    let bytes = at.disk.read(&config.options_file).map_err(|error| bad(&error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_not_text| bad("is not UTF-8"))?;
    let mut options = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.split_once('=').ok_or_else(|| bad(&format!("line {} has no `=`", number + 1)))?;
        let (name, value) = (pair.0.trim(), pair.1.trim());
        let pem = name.rsplit_once('.').is_some_and(|(_, end)| end == "pem");
        let value = if pem { value.replace("\\n", "\n") } else { value.to_owned() };
        options.insert(name.to_owned(), value);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;
    use std::sync::Arc;

    fn read(options: &[(&str, &str)], file: Option<&str>) -> Result<Settings, SinkError> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(OsDisk);
        let mut config = SinkConfig { brokers: "127.0.0.1:9".into(), ..SinkConfig::default() };
        config.options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        if let Some(text) = file {
            config.options_file = dir.path().join("options");
            std::fs::write(&config.options_file, text).unwrap();
        }
        Settings::read(&Setting { name: "k", log: LogId([7; 16]), disk }, &config)
    }

    #[test]
    fn options_go_to_the_client() {
        let settings = read(&[("linger.ms", "7"), ("partitions", "3"), ("delivery.timeout.ms", "9000")], None).unwrap();
        assert_eq!(settings.partitions, 3);
        assert_eq!(settings.message_wait, Duration::from_secs(9));
        let producer = settings.producer();
        assert_eq!(producer.get("linger.ms"), Some("7"));
        assert_eq!(producer.get("message.timeout.ms"), Some("9000"));
        assert_eq!(producer.get("transactional.id"), Some("tidelog-07070707070707070707070707070707-k"));
        assert_eq!(producer.get("partitions"), None);
    }

    #[test]
    fn what_the_sink_depends_on_cannot_be_changed() {
        for name in OURS {
            let error = read(&[(name, "1")], None).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("itself"), "{error}");
        }
    }

    #[test]
    fn secrets_are_taken_from_the_file_only_and_never_shown() {
        let error = read(&[("sasl.password", "hunter2")], None).unwrap_err().to_string();
        assert!(error.contains("options_file") && !error.contains("hunter2"), "{error}");
        let settings = read(&[], Some("# who\nsasl.password = hunter2\n")).unwrap();
        assert_eq!(settings.producer().get("sasl.password"), Some("hunter2"));
        assert!(!format!("{settings:?}").contains("hunter2"));
        let key = "-----BEGIN PRIVATE KEY-----";
        for (name, value) in
            [("ssl.key.password", "hunter2"), ("ssl.keystore.password", "hunter2"), ("ssl.ca.pem", key)]
        {
            let error = read(&[(name, value)], None).unwrap_err().to_string();
            assert!(error.contains("options_file") && error.contains(name) && !error.contains(value), "{error}");
        }
    }

    #[test]
    fn mistakes_are_told_by_name() {
        let error = read(&[("linger.seconds", "7")], None).unwrap_err().to_string();
        assert!(error.contains("linger.seconds"), "{error}");
        let error = read(&[("partitions", "none")], None).unwrap_err().to_string();
        assert!(error.contains("partitions"), "{error}");
        let error = read(&[], Some("one\n")).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    type Given = &'static [(&'static str, &'static str)];

    /// What `options` say, and words of the error.
    const MISTAKES: &[(Given, &[&str])] = &[
        (&[("sasl.jaas.config", "password=hunter2")], &["sasl.jaas.config", "Java", "sasl.password"]),
        (&[("ssl.truststore.location", "/x.jks")], &["ssl.truststore.location", "Java", "ssl.ca.location"]),
        (&[("ssl.ca.location", "/ca.pem")], &["ssl.ca.location", "PLAINTEXT", "nothing is encrypted"]),
        (&[("sasl.mechanism", "PLAIN")], &["sasl.mechanism", "PLAINTEXT", "SASL_SSL"]),
        (&[("security.protocol", "sasl_plaintext")], &["sasl.mechanism", "is missing"]),
        (&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanisms", "GSSAPI")], &["sasl.mechanisms", "GSSAPI"]),
        (&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN")], &["sasl.username", "environment"]),
    ];

    #[test]
    fn mistakes_of_security_are_told_by_name() {
        for (options, words) in MISTAKES {
            let error = read(options, None).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)) && !error.contains("hunter2"), "{error}");
        }
    }

    const SCRAM: &[(&str, &str)] = &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512")];
    const USER: Option<&str> = Some("sasl.username=u\nsasl.password=p\n");

    #[test]
    #[cfg(feature = "kafka-tls")]
    fn tls_trusts_what_is_named_or_what_the_machine_trusts() {
        let authorities =
            |options: &[_]| read(options, USER).unwrap().admin().get("ssl.ca.location").map(str::to_owned);
        assert_eq!(authorities(SCRAM).as_deref(), Some("probe"));
        assert_eq!(authorities(&[SCRAM, &[("ssl.ca.location", "/")]].concat()).as_deref(), Some("/"));
        assert_eq!(authorities(&[]), None);
        for name in ["ssl.ca.location", "ssl.key.location", "ssl.keystore.location"] {
            let error = read(&[SCRAM, &[(name, "/no/such.pem")]].concat(), USER).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("/no/such.pem: "), "{error}");
        }
        let settings = read(SCRAM, Some("sasl.username=u\nsasl.password=p\\np\nssl.ca.pem=a\\nb\n")).unwrap();
        assert_eq!(settings.admin().get("ssl.ca.pem"), Some("a\nb"));
        assert_eq!(settings.admin().get("sasl.password"), Some("p\\np"));
    }

    #[test]
    #[cfg(not(feature = "kafka-tls"))]
    fn what_to_build_with_is_told() {
        let scram = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "SCRAM-SHA-256")];
        for options in [SCRAM, &scram, &[("security.protocol", "ssl")]] {
            let error = read(options, USER).unwrap_err().to_string();
            assert!(error.contains("--features kafka-tls"), "{error}");
        }
    }
}
