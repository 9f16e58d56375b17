//! Windows as transactions of Apache Kafka: a message for each record, and as the last one the manifest.
//!
//! # What readers see
//! A reader with `isolation.level=read_committed` sees a window whole or not at all, windows in their order, each record
//! once. `deploy/docs/sinks-kafka.md` tells topics, keys and headers.
//!
//! # How each window is there exactly once
//! 1. The producer's transactional id is made of log and sink. At [`Sink::open`] it shuts out every earlier producer of that
//!    name, and has the transaction that one left open aborted, or completed if its commit had begun.
//! 2. Then everything is decided, and the manifests on the windows topic say which windows are there.
//! 3. A window that is there is not sent again: its manifest must be the same, byte for byte, or the sink stops.
//! 4. Any other is sent in one transaction, with its manifest. An error anywhere leads back to 1, a lost answer of a commit too.
//!
//! # Does not
//! Notice that somebody deleted a topic of records, or messages in it; write two windows at once.

mod committed;
mod fault;
mod security;
mod session;
mod settings;
mod topics;

use super::{Chunk, Opening, Position, Row, SealedFile, Setting, Sink, SinkError};
use crate::config::SinkConfig;
use crate::types::{Digest, Lsn, WindowId};
use committed::{AMENDMENT, Committed, KIND, MANIFEST, PARTITION, WINDOW};
use rdkafka::message::{Header, OwnedHeaders};
use session::{Post, Session};
use settings::Settings;
use std::sync::Arc;
use topics::Topics;

/// The key of control records: those of a topic stay in one partition, in order.
const CONTROL: &str = "control";
/// Of the windows topic, where we make it: manifests tell where a delivery stands, so they stay; and one names every namespace.
const WINDOWS_CONFIG: &[(&str, &str)] =
    &[("cleanup.policy", "delete"), ("retention.ms", "-1"), ("max.message.bytes", "16777216")];

/// Topics of Apache Kafka.
#[derive(Debug)]
pub struct Kafka {
    settings: Arc<Settings>,
    topics: Topics,
    committed: Committed,
    session: Option<Session>,
    window: WindowId,
    /// 0: the window itself.
    amendment: u32,
    /// The window is there already.
    there: bool,
}

impl Kafka {
    /// A sink for the windows of a log; nothing is connected to yet.
    ///
    /// # Errors
    /// Options that cannot be used.
    pub fn new(at: &Setting, config: &SinkConfig) -> Result<Self, SinkError> {
        let settings = Arc::new(Settings::read(at, config)?);
        let topics = Topics::new(Arc::clone(&settings));
        let (committed, window) = (Committed::default(), WindowId::ZERO);
        Ok(Self { settings, topics, committed, session: None, window, amendment: 0, there: false })
    }

    /// What is there must go on from what the checkpoint says.
    fn compare(&self, known: Position) -> Result<(), SinkError> {
        let (name, topic, last) = (self.settings.name, &self.settings.windows_topic, self.committed.last());
        let Settings { log, .. } = &*self.settings;
        if let Some(last) = last.filter(|last| *last > known.closed) {
            return Err(SinkError::Refused(format!(
                "kafka sink {name}: topic {topic} has window {last} of log {log}, but this log has closed only {}: DATA was \
                 restored from an older copy, or lost, or another sidecar runs on a copy of it; do not go on with it",
                known.closed
            )));
        }
        let Some((delivered, digest)) = known.delivered else { return Ok(()) };
        if last.is_none_or(|last| last < delivered) {
            let found = last.map_or_else(|| "none of this log and sink".to_owned(), |last| format!("only {last}"));
            return Err(SinkError::Away(format!(
                "kafka sink {name}: windows up to {delivered} were delivered, but topic {topic} has {found}: is this the right \
                 cluster, was the topic deleted, or did its retention remove the manifests? If the records are lost, remove the \
                 sink's checkpoint to deliver everything again"
            )));
        }
        match self.committed.digest(delivered, 0) {
            Some(found) if found != digest => Err(self.conflict(delivered)),
            _ => Ok(()),
        }
    }

    fn conflict(&self, window: WindowId) -> SinkError {
        SinkError::Refused(format!(
            "kafka sink {}: window {window} of log {} is on topic {} already with another manifest: it is not sent again; \
             another sidecar runs on a copy of DATA, or DATA was restored from one",
            self.settings.name, self.settings.log, self.settings.windows_topic
        ))
    }

    fn headers(&self, kind: &str, lsn: Option<Lsn>) -> OwnedHeaders {
        let log = self.settings.log.to_string();
        let window = self.window.0.to_string();
        let mut headers = OwnedHeaders::new_with_capacity(6);
        for (key, value) in [("log", log.as_str()), ("sink", self.settings.name), (WINDOW, &window), (KIND, kind)] {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        if self.amendment > 0 {
            headers = headers.insert(Header { key: AMENDMENT, value: Some(&self.amendment.to_string()) });
        }
        match lsn {
            Some(lsn) => headers.insert(Header { key: "lsn", value: Some(&lsn.0.to_string()) }),
            None => headers,
        }
    }

    fn session(&self) -> Result<&Session, SinkError> {
        self.session.as_ref().ok_or(SinkError::Order("a sink that was not opened"))
    }

    fn record(&mut self, row: &Row, line: &[u8]) -> Result<(), SinkError> {
        let topic = self.topics.of(row)?;
        let partition = (topic == self.topics.windows()).then_some(PARTITION);
        let key = row.key.as_ref().map_or_else(|| CONTROL.to_owned(), |key| hex::encode(key.as_bytes()));
        let kind = if row.key.is_some() { "change" } else { CONTROL };
        let headers = self.headers(kind, Some(row.lsn));
        let (wall_ms, lsn) = (Some(row.wall_ms), Some(row.lsn));
        self.session()?.send(Post { topic: &topic, partition, key: &key, payload: line, wall_ms, headers, lsn })
    }
}

impl Sink for Kafka {
    fn open(&mut self, known: Position) -> Result<(), SinkError> {
        self.session = None;
        topics::ensure(&self.settings, &self.settings.windows_topic, WINDOWS_CONFIG)?;
        self.session = Some(Session::start(Arc::clone(&self.settings))?);
        let floor = known.delivered.map_or(WindowId::ZERO, |(window, _)| window);
        self.committed = Committed::new(committed::read(&self.settings, floor)?);
        self.compare(known)
    }

    fn begin(&mut self, opening: &Opening) -> Result<(), SinkError> {
        if opening.files.len() != 1 {
            return Err(SinkError::Order("a window of several files"));
        }
        (self.window, self.amendment) = (opening.window, opening.amendment);
        self.there = match self.amendment {
            0 => self.committed.last().is_some_and(|last| self.window <= last),
            number => self.committed.digest(self.window, number).is_some(),
        };
        if self.there {
            return Ok(());
        }
        let session = self.session.as_mut().ok_or(SinkError::Order("a sink that was not opened"))?;
        session.begin()
    }

    fn write(&mut self, _file: usize, chunk: Chunk<'_>) -> Result<(), SinkError> {
        if self.there {
            return Ok(());
        }
        let mut from = 0;
        for row in chunk.rows {
            let line = chunk.bytes.get(from..row.end).ok_or(SinkError::Order("a record beyond its bytes"))?;
            self.record(row, line.strip_suffix(b"\n").unwrap_or(line))?;
            from = row.end;
        }
        if from != chunk.bytes.len() {
            return Err(SinkError::Order("bytes that belong to no record"));
        }
        self.session()?.serve()
    }

    fn seal(&mut self) -> Result<(), SinkError> {
        if self.there { Ok(()) } else { self.session()?.settle() }
    }

    fn finish(&mut self, _files: &[SealedFile], manifest: &[u8]) -> Result<(), SinkError> {
        let digest = Digest::of(manifest);
        if self.there {
            // Of a window before the last whose manifest was removed, the later ones vouch: each has the digest of the one before.
            let same = self.committed.digest(self.window, self.amendment).is_none_or(|found| found == digest);
            return if same { Ok(()) } else { Err(self.conflict(self.window)) };
        }
        let (topic, key, headers) = (self.topics.windows(), self.settings.manifest_key(), self.headers(MANIFEST, None));
        let partition = Some(PARTITION);
        let post = Post { topic: &topic, partition, key: &key, payload: manifest, wall_ms: None, headers, lsn: None };
        self.session()?.send(post)?;
        self.session.as_mut().ok_or(SinkError::Order("a sink that was not opened"))?.commit()?;
        self.committed.add(self.window, self.amendment, digest);
        Ok(())
    }

    fn by_record(&self) -> bool {
        true
    }
}
