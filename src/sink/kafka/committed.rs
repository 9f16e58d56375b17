//! Which windows of this log and sink are in Kafka already: read from the manifests on the windows topic.
//!
//! It is asked after the producer was initialized, when every transaction of this sink is decided. What a reader of
//! committed messages sees may still end before that: another log's transaction that is open on the same topic hides what
//! stands behind it. So the end of the topic is asked first, and the reader must be shown all up to there.
//!
//! The topic is read from its end in growing steps, until a manifest is found that the checkpoint knows. Only a sink without a
//! checkpoint reads it all. Memory: the digests of at most [`KEPT`] windows.

use super::super::SinkError;
use super::fault::{self, Events};
use super::settings::Settings;
use crate::types::{Digest, WindowId};
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The header that tells a message's kind, and a manifest's kind.
pub(super) const KIND: &str = "kind";
pub(super) const MANIFEST: &str = "manifest";
/// The header with the number of the window.
pub(super) const WINDOW: &str = "window";
/// The header with the number of an amendment; absent: the window itself.
pub(super) const AMENDMENT: &str = "amendment";
/// All that is read stands in this partition of the windows topic.
pub(super) const PARTITION: i32 = 0;

/// Digests kept; of earlier windows it is only known that they are there.
const KEPT: usize = 10_000;
/// How long transactions of others are waited for.
const OTHERS: Duration = Duration::from_secs(20);
/// Offsets in the first step from the end, and in the greatest.
const STEP: (i64, i64) = (64, 65_536);

/// The windows found, by number, each with its amendments (0: the window itself).
pub(super) type Manifests = BTreeMap<(WindowId, u32), Digest>;

/// Reads the manifests back to one that is not after `floor`, or to the beginning of the topic.
pub(super) fn read(settings: &Settings, floor: WindowId) -> Result<Manifests, SinkError> {
    let (low, high) = bounds(settings)?;
    let mut found = Manifests::new();
    if low >= high {
        return Ok(found);
    }
    let mut reader = Reader::open(settings, "read_committed")?;
    reader.await_end(high)?;
    let (mut upper, mut step) = (high, STEP.0);
    while upper > low {
        let from = (upper - step).max(low);
        for (window, digest) in reader.range(from, upper)? {
            found.entry(window).or_insert(digest);
        }
        while found.len() > KEPT {
            found.pop_first();
        }
        // An amendment is of an earlier window than those around it, so it tells nothing of the place.
        if found.keys().any(|(window, amendment)| *amendment == 0 && *window <= floor) {
            break;
        }
        (upper, step) = (from, (step * 4).min(STEP.1));
    }
    Ok(found)
}

/// The offsets of the windows topic, whatever is decided.
fn bounds(settings: &Settings) -> Result<(i64, i64), SinkError> {
    Reader::open(settings, "read_uncommitted")?.bounds()
}

struct Reader<'s> {
    settings: &'s Settings,
    consumer: BaseConsumer<Events>,
    events: Events,
    key: String,
}

impl<'s> Reader<'s> {
    fn open(settings: &'s Settings, isolation: &str) -> Result<Self, SinkError> {
        let events = Events::default();
        let made = settings.consumer(isolation).create_with_context(events.clone());
        let consumer = made.map_err(|error| fault::of(settings, &events.0, "a reader", &error))?;
        Ok(Self { settings, consumer, events, key: settings.manifest_key() })
    }

    fn wrong(&self, error: &KafkaError) -> SinkError {
        fault::drain(&self.consumer);
        let doing = format!("reading topic {}", self.settings.windows_topic);
        fault::of(self.settings, &self.events.0, &doing, error)
    }

    fn bounds(&self) -> Result<(i64, i64), SinkError> {
        let topic = &self.settings.windows_topic;
        self.consumer.fetch_watermarks(topic, PARTITION, self.settings.answer()).map_err(|error| self.wrong(&error))
    }

    /// Waits until everything before `high` is decided.
    fn await_end(&self, high: i64) -> Result<(), SinkError> {
        let until = Instant::now() + OTHERS;
        while self.bounds()?.1 < high {
            if Instant::now() > until {
                return Err(SinkError::Away(format!(
                    "kafka sink {}: a transaction of somebody else is open on topic {}: what is behind it cannot be seen yet",
                    self.settings.name, self.settings.windows_topic
                )));
            }
            drop(self.consumer.poll(Duration::from_millis(50)));
        }
        Ok(())
    }

    /// Our manifests at the offsets `from..upper`.
    fn range(&mut self, from: i64, upper: i64) -> Result<Manifests, SinkError> {
        let mut list = TopicPartitionList::new();
        let topic = &self.settings.windows_topic;
        let set = list.add_partition_offset(topic, PARTITION, Offset::Offset(from));
        set.and_then(|()| self.consumer.assign(&list)).map_err(|error| self.wrong(&error))?;
        let (mut found, mut until) = (Manifests::new(), Instant::now() + self.settings.answer());
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.offset() < upper => {
                    found.extend(self.manifest(&message));
                    until = Instant::now() + self.settings.answer();
                }
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(found),
                Some(Err(error)) => return Err(self.wrong(&error)),
                None if Instant::now() > until => {
                    return Err(self.wrong(&KafkaError::MessageConsumption(Code::OperationTimedOut)));
                }
                None => {}
            }
        }
    }

    fn manifest(&self, message: &BorrowedMessage<'_>) -> Option<((WindowId, u32), Digest)> {
        if message.key()? != self.key.as_bytes() {
            return None;
        }
        let header = |name| {
            let found = message.headers()?.iter().find(|header| header.key == name)?;
            std::str::from_utf8(found.value?).ok()
        };
        let window = header(WINDOW)?.parse().ok()?;
        let amendment = header(AMENDMENT).map_or(Some(0), |number| number.parse().ok())?;
        (header(KIND)? == MANIFEST)
            .then(|| ((WindowId(window), amendment), Digest::of(message.payload().unwrap_or_default())))
    }
}

/// The record of what is committed, shared by the steps of a delivery.
#[derive(Debug, Default)]
pub(super) struct Committed {
    manifests: Manifests,
}

impl Committed {
    pub(super) fn new(manifests: Manifests) -> Self {
        Self { manifests }
    }

    /// The last window that is there.
    pub(super) fn last(&self) -> Option<WindowId> {
        self.manifests.keys().filter(|(_, amendment)| *amendment == 0).map(|(window, _)| *window).next_back()
    }

    /// The digest of the manifest of a window, or of its amendment, where it is known.
    pub(super) fn digest(&self, window: WindowId, amendment: u32) -> Option<Digest> {
        self.manifests.get(&(window, amendment)).copied()
    }

    /// A window, or an amendment, was committed now.
    pub(super) fn add(&mut self, window: WindowId, amendment: u32, digest: Digest) {
        if amendment == 0 {
            self.manifests.clear();
        }
        self.manifests.insert((window, amendment), digest);
    }
}
