//! What goes wrong between us and the brokers, and whether trying again can help.
//!
//! librdkafka tries again by itself and mostly tells only that a time is over. What it said meanwhile (a connection refused,
//! a password not taken) comes in events; [`Watch`] keeps the last of them, so that the error says why.

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
}

impl Watch {
    /// The first message that was not delivered.
    pub(super) fn undelivered(&self) -> Option<Undelivered> {
        self.undelivered.lock().clone()
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

/// Serves what a reader has to tell: its events give the code alone.
pub(super) fn drain(reader: &BaseConsumer<Events>, events: &Events) {
    for _ in 0..MOST_EVENTS {
        match reader.poll(QUIET) {
            Some(Err(error)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                events.error(error, &code.to_string());
            }
            Some(Ok(_)) => {}
            None => return,
        }
    }
}

/// The error of a step. `doing`: what we were about to do.
pub(super) fn of(settings: &Settings, watch: &Watch, doing: &str, error: &KafkaError) -> SinkError {
    let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
    let told = match error {
        KafkaError::Transaction(error) => error.string(),
        _ => code.to_string(),
    };
    let trouble = watch.trouble.lock().clone();
    let also = trouble.as_ref().map_or(String::new(), |(_, reason)| format!("; the client says: {reason}"));
    let text = format!("kafka sink {}: {doing}: {told}{also}", settings.name);
    let refusal = remedy(code).or_else(|| trouble.and_then(|(code, _)| remedy(code)));
    match refusal {
        Some(remedy) => SinkError::Refused(format!("{text}. {remedy}")),
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
