//! The consumers, and what sinks keep, as the admin server tells of them.

use super::control::time_of;
use super::parts::Running;
use crate::admin::{ConsumerAsk, ConsumerMark, ConsumerRefused, ConsumerRow, HeldRow, Reason, RetainedRow, WindowAsk};
use crate::export::consumers::{ConsumerError, ConsumerStatus, Mark, Wish};
use crate::export::{Retained, SinkStatus, WindowHolder};
use crate::metrics::{CONSUMERS, ConsumerLag};
use crate::types::WindowId;

impl Running {
    /// All consumers.
    pub(super) fn consumers(&self) -> Vec<ConsumerRow> {
        self.exporter.consumers().into_iter().map(consumer_row).collect()
    }

    /// Makes or moves a consumer.
    pub(super) fn set_consumer(&self, name: &str, asked: ConsumerAsk) -> Result<ConsumerRow, ConsumerRefused> {
        let mark = |mark| match mark {
            ConsumerMark::Oldest => Mark::Oldest,
            ConsumerMark::Now => Mark::Now,
            ConsumerMark::Done(window) => Mark::Done(WindowId(window)),
        };
        let ConsumerAsk { window, sink, note, back } = asked;
        let wish = Wish { sink, mark: window.map(mark), note, back: back.unwrap_or(false) };
        self.exporter.set_consumer(name, wish).map_err(|error| refused(&error))?;
        let row = self.exporter.consumers().into_iter().find(|status| status.name == name).map(consumer_row);
        row.ok_or_else(|| refused(&ConsumerError::Unknown(name.to_owned())))
    }

    /// Forgets a consumer.
    pub(super) fn forget_consumer(&self, name: &str) -> Result<(), ConsumerRefused> {
        self.exporter.forget_consumer(name).map_err(|error| refused(&error))
    }

    /// Where the one who asks for windows stands, and whose windows are asked for: a consumer's own, or what was said.
    pub(super) fn place_of(&self, asked: &WindowAsk) -> Result<(Option<u64>, String), String> {
        if asked.consumer.is_empty() {
            return Ok((asked.after, asked.sink.clone()));
        }
        let found = self.exporter.consumer(&asked.consumer);
        let found = found.ok_or_else(|| ConsumerError::Unknown(asked.consumer.clone()).to_string())?;
        Ok((Some(found.window.0), found.sink))
    }

    /// Brings the series of the consumers up to date.
    pub(super) fn sample_consumers(&self) {
        let lag = |status: ConsumerStatus| ConsumerLag {
            name: status.name,
            windows: status.lag_windows,
            records: status.lag_records,
            age_ms: status.lag_ms,
        };
        CONSUMERS.tell(self.exporter.consumers().into_iter().map(lag).collect());
    }
}

/// What needs a person though windows go on: a sink that has more than it should, and cannot help it.
pub(super) fn retention_reason(sink: &SinkStatus) -> Option<Reason> {
    let Retained { bytes, keep_bytes, held, error, .. } = &sink.retained;
    let name = sink.name;
    let message = match held {
        _ if !error.is_empty() => format!("{name}: windows that are due cannot be removed: {error}"),
        Some(held) if held.too_large => {
            let by = held.by.iter().map(holder).collect::<Vec<_>>().join(", ");
            let remedies = held.by.iter().map(remedy).collect::<Vec<_>>().join("; ");
            format!(
                "{name}: its windows have {bytes} bytes, `keep_bytes` is {keep_bytes}: window {} ({} due) is held by {by}. {remedies}",
                held.first, held.windows
            )
        }
        _ => return None,
    };
    Some(Reason { part: "retention".to_owned(), message })
}

/// What a sink keeps.
pub(super) fn retained_row(retained: Retained) -> RetainedRow {
    let row = |held: crate::export::Held| HeldRow {
        first: held.first.0,
        windows: held.windows,
        bytes: held.bytes,
        by: held.by.iter().map(holder).collect(),
        remedies: held.by.iter().map(remedy).collect(),
    };
    RetainedRow {
        first_window: retained.first.0,
        windows: retained.windows,
        bytes: retained.bytes,
        held: retained.held.map(row),
        error: retained.error,
    }
}

fn holder(holder: &WindowHolder) -> String {
    match holder {
        WindowHolder::Consumer { name, done } => format!("consumer {name} (done with {done})"),
        WindowHolder::DeadLetters => "dead letters".to_owned(),
    }
}

fn remedy(holder: &WindowHolder) -> String {
    match holder {
        WindowHolder::Consumer { name, .. } => format!("let it read on, or `tidelog consumers drop {name}`"),
        WindowHolder::DeadLetters => "`tidelog dlq retry` or `tidelog dlq drop`".to_owned(),
    }
}

fn consumer_row(status: ConsumerStatus) -> ConsumerRow {
    let ConsumerStatus { name, consumer, lag_windows, lag_records, lag_ms, still_ms, trouble } = status;
    ConsumerRow {
        name,
        window: consumer.window.0,
        sink: consumer.sink,
        lag_windows,
        lag_records,
        lag_ms,
        since: time_of(consumer.moved_ms),
        still_ms,
        note: consumer.note,
        trouble,
    }
}

fn refused(error: &ConsumerError) -> ConsumerRefused {
    let why = error.to_string();
    match error {
        ConsumerError::Name(_) | ConsumerError::Note(_) => ConsumerRefused::Call(why),
        ConsumerError::Unknown(_) | ConsumerError::Sink(_) => ConsumerRefused::Unknown(why),
        ConsumerError::OtherSink { .. }
        | ConsumerError::Ahead { .. }
        | ConsumerError::Back { .. }
        | ConsumerError::Gone { .. }
        | ConsumerError::TooMany => ConsumerRefused::Conflict(why),
        ConsumerError::Io(_) => ConsumerRefused::Failed(why),
    }
}
