//! The producer, and the one transaction that it has open.
//!
//! Promises: messages are handed over in order, and no step waits without a bound. A transaction that is not committed is
//! aborted when the session ends, if the brokers can be reached; else the next session aborts it.

use super::super::SinkError;
use super::fault::{self, Events, Watch};
use super::settings::Settings;
use crate::types::Lsn;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the coordinator of transactions is waited for.
const COORDINATOR: Duration = Duration::from_secs(20);
/// How long an abort may hold up the end.
const ABORT: Duration = Duration::from_secs(5);
/// Added to the time that a message has, before the client is taken for stuck.
const GRACE: Duration = Duration::from_secs(5);
/// Events are served this often while something is waited for.
const TURN: Duration = Duration::from_millis(2);

/// A message to send.
pub(super) struct Post<'p> {
    pub(super) topic: &'p str,
    /// `None`: by the key.
    pub(super) partition: Option<i32>,
    pub(super) key: &'p str,
    pub(super) payload: &'p [u8],
    /// ms since 1970; `None`: now.
    pub(super) wall_ms: Option<i64>,
    pub(super) headers: OwnedHeaders,
    /// The record's number; `None`: it is no record.
    pub(super) lsn: Option<Lsn>,
}

/// A producer that has shut out all earlier ones of its name.
pub(super) struct Session {
    settings: Arc<Settings>,
    producer: BaseProducer<Events>,
    watch: Arc<Watch>,
    open: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Session {
    /// Connects, fences earlier producers of this log and sink, and has what they left open aborted or completed.
    pub(super) fn start(settings: Arc<Settings>) -> Result<Self, SinkError> {
        let events = Events::default();
        let watch = Arc::clone(&events.0);
        let made = settings.producer().create_with_context(events);
        let producer = made.map_err(|error| fault::of(&settings, &watch, "a producer", &error))?;
        let session = Self { settings, producer, watch, open: false };
        let begun = session.producer.init_transactions(COORDINATOR.min(session.settings.message_wait));
        begun.map_err(|error| session.wrong("beginning", &error))?;
        Ok(session)
    }

    /// Begins a transaction.
    pub(super) fn begin(&mut self) -> Result<(), SinkError> {
        self.producer.begin_transaction().map_err(|error| self.wrong("beginning a transaction", &error))?;
        self.open = true;
        Ok(())
    }

    /// Hands a message to the client, which sends it in the background; waits while its queue is full.
    pub(super) fn send(&self, post: Post<'_>) -> Result<(), SinkError> {
        let Post { topic, partition, key, payload, wall_ms, headers, lsn } = post;
        let number = lsn.and_then(|lsn| usize::try_from(lsn.0).ok()).unwrap_or(0);
        let mut record = BaseRecord::with_opaque_to(topic, number).key(key).payload(payload).headers(headers);
        (record.partition, record.timestamp) = (partition, wall_ms);
        let until = Instant::now() + self.settings.message_wait + GRACE;
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return self.check(),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => back,
                Err((KafkaError::MessageProduction(Code::MessageSizeTooLarge), _)) => {
                    // The client's own bound is one of messages.
                    let bytes = payload.len().max(self.settings.batch_bytes.saturating_add(1));
                    return Err(fault::too_large(&self.settings, topic, bytes, lsn));
                }
                Err((error, _)) => {
                    self.check()?;
                    return Err(self.wrong(&format!("a message to topic {topic}"), &error));
                }
            };
            self.turn(until, "the client's queue stays full")?;
        }
    }

    /// Serves what came; the error of a message that was not delivered.
    pub(super) fn serve(&self) -> Result<(), SinkError> {
        self.producer.poll(Duration::ZERO);
        self.check()
    }

    /// Waits until every message was delivered.
    pub(super) fn settle(&self) -> Result<(), SinkError> {
        let until = Instant::now() + self.settings.message_wait + GRACE;
        while self.producer.in_flight_count() > 0 {
            self.turn(until, "messages are not acknowledged")?;
        }
        self.check()
    }

    /// Ends the transaction: on ok, readers of committed messages see all of it. After an error it is not known whether they
    /// do; the next session finds out.
    pub(super) fn commit(&mut self) -> Result<(), SinkError> {
        self.settle()?;
        if let Err(error) = self.producer.commit_transaction(self.settings.message_wait) {
            // Nothing must be aborted that may be committed.
            self.open = matches!(&error, KafkaError::Transaction(told) if told.txn_requires_abort());
            return Err(self.wrong("committing the window", &error));
        }
        self.open = false;
        Ok(())
    }

    fn turn(&self, until: Instant, stuck: &str) -> Result<(), SinkError> {
        self.producer.poll(TURN);
        self.check()?;
        if Instant::now() > until {
            let error = KafkaError::MessageProduction(Code::MessageTimedOut);
            return Err(self.wrong(stuck, &error));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SinkError> {
        match self.watch.undelivered() {
            Some(message) => Err(fault::of_message(&self.settings, &self.watch, &message)),
            None => Ok(()),
        }
    }

    fn wrong(&self, doing: &str, error: &KafkaError) -> SinkError {
        // Serves the events, which say why.
        self.producer.poll(Duration::from_millis(20));
        fault::of(&self.settings, &self.watch, doing, error)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.open
            && let Err(error) = self.producer.abort_transaction(ABORT)
        {
            tracing::debug!(%error, sink = self.settings.name, "a transaction was left open: the next one aborts it");
        }
    }
}
