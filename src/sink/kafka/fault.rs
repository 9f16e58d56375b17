//! What goes wrong between us and the brokers, and whether trying again can help.
//!
//! librdkafka tries again by itself and mostly tells only that a time is over. What it said meanwhile (a connection refused,
//! a password not taken) comes in events, and of a connection that just ends only in its log; [`Watch`] keeps the last of both, so
//! that the error says why.

use super::super::SinkError;
use super::settings::Settings;
use crate::types::Lsn;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;
use std::sync::Arc;
use std::time::Duration;

/// Events served at once, at most.
const MOST_EVENTS: usize = 100;
/// After this time without an event there are no more.
const QUIET: Duration = Duration::from_millis(20);

/// The client's log lines about a connection that failed. Before the first `]: ` stands a thread's name.
const FAILED: &str = "FAIL";

/// A message that was not delivered.
#[derive(Clone, Debug)]
pub(super) struct Undelivered {
    code: Code,
    topic: String,
    bytes: usize,
    lsn: Option<Lsn>,
}

/// What the client told outside of its answers.
#[derive(Debug, Default)]
pub(super) struct Watch {
    undelivered: Mutex<Option<Undelivered>>,
    trouble: Mutex<Option<(Code, String)>>,
    said: Mutex<Option<String>>,
}

impl Watch {
    /// The first message that was not delivered.
    pub(super) fn undelivered(&self) -> Option<Undelivered> {
        self.undelivered.lock().clone()
    }

    /// Why it came to that, in the client's words. That all brokers are away says less than how a connection ended.
    fn why(&self) -> Option<String> {
        let trouble = self.trouble.lock().clone();
        let said = self.said.lock().clone();
        match trouble {
            Some((code, reason)) if code != Code::AllBrokersDown || said.is_none() => Some(reason),
            _ => said,
        }
    }
}

/// The receiver of librdkafka's events.
#[derive(Clone, Debug, Default)]
pub(super) struct Events(pub(super) Arc<Watch>);

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "CONFWARN" {
            return;
        }
        tracing::debug!(?level, facility, "kafka client: {message}");
        if facility == FAILED {
            let told =
                message.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map_or(message, |(_, told)| told);
            *self.0.said.lock() = Some(told.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        tracing::debug!(?code, "kafka client: {reason}");
        let mut trouble = self.0.trouble.lock();
        // That all brokers are away says less than what was said of one.
        if code != Code::AllBrokersDown || trouble.is_none() {
            *trouble = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Events {}

impl ProducerContext for Events {
    /// The record's lsn; 0: no record.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, lsn: usize) {
        let Err((error, message)) = result else { return };
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let mut undelivered = self.0.undelivered.lock();
        // Those purged after a failure tell nothing.
        if undelivered.is_none() && !matches!(code, Code::PurgeQueue | Code::PurgeInflight) {
            let bytes = message.payload_len() + message.key_len();
            let lsn = (lsn > 0).then_some(Lsn(lsn as u64));
            *undelivered = Some(Undelivered { code, topic: message.topic().to_owned(), bytes, lsn });
        }
    }
}

/// Serves what a reader has to tell; its errors come as events too.
pub(super) fn drain(reader: &BaseConsumer<Events>) {
    for _ in 0..MOST_EVENTS {
        if reader.poll(QUIET).is_none() {
            return;
        }
    }
}

/// The error of a step. `doing`: what we were about to do.
pub(super) fn of(settings: &Settings, watch: &Watch, doing: &str, error: &KafkaError) -> SinkError {
    let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
    let told = match error {
        KafkaError::Transaction(error) => error.string(),
        KafkaError::ClientCreation(what) => what.clone(),
        _ => code.to_string(),
    };
    let why = watch.why().unwrap_or_default();
    let also = if why.is_empty() { String::new() } else { format!("; the client says: {why}") };
    let text = format!("kafka sink {}: {doing}: {told}{also}", settings.name);
    let refusal = match error {
        KafkaError::ClientCreation(_) => Some(FILES),
        _ => remedy(code).or_else(|| of_tls(&why)).or_else(|| remedy(watch.trouble.lock().as_ref()?.0)),
    };
    match refusal {
        Some(remedy) => SinkError::Refused(format!("{text}. {remedy}")),
        // A broker that is going down says the same.
        None if UNSPOKEN.iter().any(|state| why.contains(state)) => SinkError::Away(format!("{text}. {PROTOCOL}")),
        None => SinkError::Away(text),
    }
}

/// The error of a message that was not delivered.
pub(super) fn of_message(settings: &Settings, watch: &Watch, message: &Undelivered) -> SinkError {
    let Undelivered { code, topic, bytes, lsn } = message;
    if *code == Code::MessageSizeTooLarge {
        return too_large(settings, topic, *bytes, *lsn);
    }
    let what = lsn.map_or_else(|| "a manifest".to_owned(), |lsn| format!("record {lsn}"));
    of(settings, watch, &format!("{what} to topic {topic}"), &KafkaError::MessageProduction(*code))
}

/// The broker's bound is one of batches: only a message that is alone in its batch can be blamed.
pub(super) fn too_large(settings: &Settings, topic: &str, bytes: usize, lsn: Option<Lsn>) -> SinkError {
    let remedy = format!("raise `max.message.bytes` of topic {topic}, and the sink's option `message.max.bytes`");
    match lsn {
        Some(lsn) if bytes > settings.batch_bytes => {
            SinkError::Record { lsn, reason: format!("its {bytes} bytes are more than a message may have: {remedy}") }
        }
        Some(_) => SinkError::Refused(format!(
            "kafka sink {}: topic {topic} takes no batch of {} bytes: set the sink's option `batch.size` to the topic's \
             `max.message.bytes` or less",
            settings.name, settings.batch_bytes
        )),
        None => SinkError::Refused(format!("kafka sink {}: a manifest of {bytes} bytes: {remedy}", settings.name)),
    }
}

/// The client is not made.
const FILES: &str =
    "Check the options, the files that they name, and `ssl.key.password` or `ssl.keystore.password` (`options_file`)";

/// A connection that ended before the broker said anything: perhaps because we begin with TLS, or without.
const UNSPOKEN: &[&str] = &["in state APIVERSION_QUERY", "in state SSL_HANDSHAKE"];
const PROTOCOL: &str = "If this stays: check that `security.protocol` is that of the broker's listener";

/// What a person has to do about TLS, by the words of OpenSSL: the client's code is the same for all.
fn of_tls(said: &str) -> Option<&'static str> {
    Some(if said.contains("certificate verify failed") {
        "The broker's certificate is of no authority in `ssl.ca.location`, is not valid now, or does not have the name or \
         address told here: that is from `brokers`, or from the broker's `advertised.listeners`"
    } else if said.contains("SSL alert") {
        "The broker refuses this client's certificate, or that it has none: check `ssl.certificate.location` and `ssl.key.location`"
    } else if said.contains("wrong version number") {
        "The broker's listener is one without TLS: check `brokers` and `security.protocol`"
    } else {
        return None;
    })
}

/// What a person has to do; `None`: trying again can help.
fn remedy(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::Authentication | Code::SaslAuthenticationFailed | Code::IllegalSASLState => {
            "Check user and password (`options_file`)"
        }
        Code::UnsupportedSASLMechanism | Code::SecurityDisabled => "Check `sasl.mechanisms` and `security.protocol`",
        Code::TopicAuthorizationFailed => {
            "The user needs the rights Describe, Write and Create on the topics, and Read on the windows topic"
        }
        Code::TransactionalIdAuthorizationFailed => {
            "The user needs the rights Describe and Write on transactional id `tidelog-…`"
        }
        Code::ClusterAuthorizationFailed => "The user needs the right Create (or somebody creates the topics)",
        Code::GroupAuthorizationFailed => "The user needs the right Read on group `tidelog-…`",
        Code::InvalidTransactionTimeout => {
            "The option `transaction.timeout.ms` is more than the broker's `transaction.max.timeout.ms`"
        }
        Code::InvalidTopic => {
            "The broker does not take this topic's name (names that differ only in `.` and `_` exclude each other): change `topic`, or leave the namespace out"
        }
        Code::InvalidPartitions | Code::InvalidReplicationFactor => {
            "Check the options `partitions` and `replication.factor`"
        }
        Code::InvalidConfig | Code::PolicyViolation => "Create the topic by hand as the broker's policy wants it",
        Code::InvalidTimestamp => {
            "The record's time is outside of what the topic takes: raise `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms` of the topic"
        }
        Code::InvalidRecord => {
            "The topic refuses the message: its settings must allow what the page on Kafka sinks says"
        }
        Code::UnsupportedVersion => "The broker is older than transactions (0.11)",
        Code::UnsupportedCompressionType => "Choose another `compression.type`",
        _ => return None,
    })
}
