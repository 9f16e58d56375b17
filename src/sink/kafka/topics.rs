//! Which topic a record goes to, and that it is there.
//!
//! Promises: two namespaces never share a topic whose name has `{ns}`. A namespace with characters that Kafka does not allow
//! has `_` in their place and the first half of the SHA-256 of its own name behind it.

use super::super::{Row, SinkError};
use super::fault::{self, Events};
use super::settings::Settings;
use crate::types::Namespace;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest name of a topic (Kafka: `Topic.MAX_NAME_LENGTH`).
const MAX_NAME: usize = 249;
/// How long a new topic is waited for.
const APPEAR: Duration = Duration::from_secs(20);

/// The topics met so far.
#[derive(Debug)]
pub(super) struct Topics {
    settings: Arc<Settings>,
    of: HashMap<Namespace, Arc<str>>,
    owner: HashMap<Arc<str>, Namespace>,
    windows: Arc<str>,
}

impl Topics {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        let windows = settings.windows_topic.as_str().into();
        Self { settings, of: HashMap::new(), owner: HashMap::new(), windows }
    }

    pub(super) fn windows(&self) -> Arc<str> {
        Arc::clone(&self.windows)
    }

    /// The topic of a record, made if it is missing. A record about the log or a whole database goes where manifests go.
    pub(super) fn of(&mut self, row: &Row) -> Result<Arc<str>, SinkError> {
        let Some(ns) = row.ns.as_ref().filter(|ns| row.key.is_some() || ns.collection() != "*") else {
            return Ok(self.windows());
        };
        if let Some(topic) = self.of.get(ns) {
            return Ok(Arc::clone(topic));
        }
        let topic: Arc<str> = name(&self.settings.topic, ns.as_str()).into();
        let shared = self.settings.topic.contains("{ns}").then(|| self.owner.get(&topic)).flatten();
        if shared.is_some() || topic == self.windows {
            let other = shared.map_or("the manifests", Namespace::as_str);
            let sink = self.settings.name;
            return Err(SinkError::Refused(format!(
                "kafka sink {sink}: {ns} would go to topic {topic} like {other}: exclude it here, and give it a sink of its own"
            )));
        }
        ensure(&self.settings, &topic, &[])?;
        self.owner.insert(Arc::clone(&topic), ns.clone());
        self.of.insert(ns.clone(), Arc::clone(&topic));
        Ok(topic)
    }
}

/// The name of a namespace's topic.
pub(super) fn name(template: &str, ns: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let whole = template.replace("{ns}", ns);
    if whole.len() <= MAX_NAME && whole.chars().all(plain) {
        return whole;
    }
    let mark = hex::encode(Sha256::digest(ns.as_bytes()).get(..16).unwrap_or_default());
    let room = MAX_NAME.saturating_sub(template.len() + mark.len() + 1);
    let told: String = ns.chars().map(|c| if plain(c) { c } else { '_' }).take(room).collect();
    template.replace("{ns}", &format!("{told}-{mark}"))
}

/// Makes the topic if it is missing.
pub(super) fn ensure(settings: &Settings, topic: &str, config: &[(&str, &str)]) -> Result<(), SinkError> {
    let events = Events::default();
    let wrong = |error: KafkaError| fault::of(settings, &events.0, &format!("topic {topic}"), &error);
    let made = settings.consumer("read_uncommitted").create_with_context(events.clone());
    let reader: BaseConsumer<Events> = made.map_err(wrong)?;
    let partitions = || {
        partitions(&reader, topic, settings.answer()).map_err(|error| {
            fault::drain(&reader);
            wrong(error)
        })
    };
    if partitions()? > 0 {
        return Ok(());
    }
    create(settings, topic, config)?;
    let until = Instant::now() + APPEAR;
    while partitions()? == 0 {
        if Instant::now() > until {
            return Err(wrong(KafkaError::MetadataFetch(Code::UnknownTopicOrPartition)));
        }
        drop(reader.poll(Duration::from_millis(50)));
    }
    Ok(())
}

/// Partitions that have a leader; 0: there is no such topic, or not yet.
fn partitions(reader: &BaseConsumer<Events>, topic: &str, wait: Duration) -> Result<usize, KafkaError> {
    let metadata = reader.fetch_metadata(Some(topic), wait)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(0) };
    if let Some(error) = found.error() {
        let code = Code::from(error);
        let missing = matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::LeaderNotAvailable);
        return if missing { Ok(0) } else { Err(KafkaError::MetadataFetch(code)) };
    }
    Ok(found.partitions().iter().filter(|partition| partition.leader() >= 0).count())
}

fn create(settings: &Settings, topic: &str, config: &[(&str, &str)]) -> Result<(), SinkError> {
    let events = Events::default();
    let watch = Arc::clone(&events.0);
    let doing = format!("creating topic {topic}");
    let wrong = |error: KafkaError| fault::of(settings, &watch, &doing, &error);
    let admin: AdminClient<Events> = settings.admin().create_with_context(events).map_err(wrong)?;
    let partitions = if topic == settings.windows_topic { 1 } else { settings.partitions };
    let mut wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(settings.replication));
    for (name, value) in config {
        wanted = wanted.set(name, value);
    }
    let options =
        AdminOptions::new().request_timeout(Some(settings.answer())).operation_timeout(Some(settings.answer()));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime =
        runtime.map_err(|error| SinkError::Away(format!("kafka sink {}: {doing}: {error}", settings.name)))?;
    let made = runtime.block_on(admin.create_topics([&wanted], &options)).map_err(wrong)?;
    match made.into_iter().next() {
        Some(Err((_, Code::TopicAlreadyExists)) | Ok(_)) | None => Ok(()),
        Some(Err((_, code))) => Err(wrong(KafkaError::Global(code))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_that_kafka_takes_stay() {
        assert_eq!(name("tidelog.{ns}", "shop.order_items-2"), "tidelog.shop.order_items-2");
        assert_eq!(name("all", "shop.orders"), "all");
    }

    #[test]
    fn other_names_are_told_apart() {
        let wild = ["shop.a b", "shop.a_b", "shop.a$b", "shop.ä", "shop.ö", "shop.a/b"];
        let long = [format!("shop.{}a", "x".repeat(250)), format!("shop.{}b", "x".repeat(250))];
        let all: Vec<&str> = wild.into_iter().chain(long.iter().map(String::as_str)).collect();
        let names: BTreeSet<String> = all.iter().map(|ns| name("t.{ns}", ns)).collect();
        assert_eq!(names.len(), all.len());
        for name in names {
            assert!(
                name.len() <= MAX_NAME && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)),
                "{name}"
            );
        }
    }
}
