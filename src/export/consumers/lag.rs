//! How far behind a consumer is: in windows, in records, in time.

use super::{Consumer, Consumers, Reach};
use crate::types::WindowId;

/// A consumer at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// Its name.
    pub name: String,
    /// Its checkpoint.
    pub consumer: Consumer,
    /// Windows that are there and that it is not done with.
    pub lag_windows: u64,
    /// Records in them.
    pub lag_records: u64,
    /// How long ago the first of them was closed, ms; 0: there is none.
    pub lag_ms: u64,
    /// How long it has stood where it is, ms.
    pub still_ms: u64,
    /// What a person should know: its sink is not in the settings, its file cannot be read. Empty: nothing.
    pub trouble: String,
}

impl Consumers {
    /// All of them, measured. `reach` tells what is at a sink; `None`: there is no such sink.
    pub fn status(&self, reach: impl Fn(&str) -> Option<Reach>, now_ms: i64) -> Vec<ConsumerStatus> {
        let all = self.all().into_iter();
        all.map(|(name, consumer)| self.measured(name, consumer, &reach, now_ms)).collect()
    }

    fn measured(
        &self,
        name: String,
        consumer: Consumer,
        reach: &impl Fn(&str) -> Option<Reach>,
        now_ms: i64,
    ) -> ConsumerStatus {
        let (at, reach) = (consumer.window, reach(&consumer.sink));
        let last = reach.map_or(at, |reach| reach.last);
        let records = |window: WindowId| self.closed(window).map_or(0, |(_, last)| last);
        let age = |since: i64| u64::try_from(now_ms.saturating_sub(since)).unwrap_or(0);
        let behind = last > at;
        let trouble = match (consumer.damage.as_str(), reach) {
            ("", None) => format!("its sink `{}` is not in the settings", consumer.sink),
            ("", Some(_)) if at > last => format!("it is done with more than there is ({last})"),
            ("", Some(_)) => String::new(),
            (damage, _) => format!("its file cannot be read ({damage}): it holds every window; set it anew or drop it"),
        };
        ConsumerStatus {
            lag_windows: last.0.saturating_sub(at.0),
            lag_records: if behind { records(last).saturating_sub(records(at)) } else { 0 },
            lag_ms: if behind { self.closed(at.next()).map_or(0, |(closed_ms, _)| age(closed_ms)) } else { 0 },
            still_ms: age(consumer.moved_ms),
            name,
            consumer,
            trouble,
        }
    }
}
