//! What the admin server asks of the running parts.

use super::consume::{retained_row, retention_reason};
use super::cut::cut;
use super::parts::Running;
use crate::admin::{
    self, Control, ExportStatus, FollowerStatus, GapRow, HolderRow, LetterAsk, LetterOrder, LetterRefused, LetterRow,
    LogStatus, NodeStatus, ProxyStatus, Reason, SinkRow, SnapshotStatus, Status, WindowAsk, WindowRow,
};
use crate::audit::node::NodeFacts;
use crate::changelog::LogError;
use crate::export::dead::{Letter, Stage, State};
use crate::export::ledger::Window;
use crate::export::{Holder, SinkStatus};
use crate::metrics;
use crate::types::{Lsn, WindowId};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;
use time::macros::format_description;

/// Most windows of an answer to a consumer.
const PAGE: u64 = 1_000;
/// Most windows of a listing.
const WINDOWS: u64 = 10_000;

/// Ties the admin routes to the parts.
pub(super) fn control(running: &Arc<Running>) -> Control {
    let [for_reasons, for_status, for_windows, for_letters, for_order, for_cut, for_sample, for_ask, for_report] =
        std::array::from_fn(|_| Arc::clone(running));
    let [for_consumers, for_set, for_forget] = std::array::from_fn(|_| Arc::clone(running));
    Control {
        reasons: Box::new(move || for_reasons.reasons()),
        status: Box::new(move || for_status.status()),
        windows: Box::new(move |asked| for_windows.windows(&asked)),
        consumers: Box::new(move || for_consumers.consumers()),
        set_consumer: Box::new(move |name, asked| for_set.set_consumer(name, asked)),
        forget_consumer: Box::new(move |name| for_forget.forget_consumer(name)),
        letters: Box::new(move |asked| for_letters.letters(asked)),
        order: Box::new(move |asked, order| for_order.order(asked, order)),
        cut: Box::new(move |label| Box::pin(cut(Arc::clone(&for_cut.exporter), Arc::clone(&for_cut.horizon), label))),
        reconcile: Box::new(move |asked| for_ask.reconcile(asked)),
        reconciled: Box::new(move || for_report.reconciled()),
        sample: Box::new(move || for_sample.sample()),
    }
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn time_of(ms: i64) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    at.ok().and_then(|at| at.format(form).ok()).unwrap_or_else(|| format!("{ms} ms"))
}

impl Running {
    /// Why writes would not go through now, and what else needs a person.
    pub(super) fn reasons(&self) -> Vec<Reason> {
        let mut out = Vec::new();
        let mut add = |part: &str, message: String| out.push(Reason { part: part.into(), message });
        if let Some((part, doing)) = self.phase() {
            add(part, doing.to_owned());
        }
        if let Err(error) = self.probe.last() {
            add("upstream", error);
        }
        if let Err(error) = self.storage.log.writable() {
            let part = if matches!(error, LogError::DiskFull { .. }) { "disk" } else { "log" };
            add(part, error.to_string());
        }
        if let Err(error) = self.storage.index.healthy() {
            add("index", error.to_string());
        }
        let export = self.exporter.status();
        if !export.cut_error.is_empty() {
            add("export", export.cut_error);
        }
        if let Some(warning) = self.retention.told().warning() {
            add("export", warning);
        }
        for sink in export.sinks.iter().filter(|sink| !sink.error.is_empty()) {
            add("sink", format!("{}: {}", sink.name, sink.error));
        }
        out.extend(export.sinks.iter().filter_map(retention_reason));
        out
    }

    /// Brings gauges up to date that nobody counts.
    pub(super) fn sample(&self) {
        // Reading the export's status sets its gauges.
        let _gauges_are_set = self.exporter.status();
        self.sample_consumers();
        metrics::INDEX_OVERLAY_ENTRIES.set(self.storage.index.staged() as u64);
    }

    fn status(&self) -> Status {
        let reasons = self.reasons();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: admin::ready(&reasons),
            reasons,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            proxy: self.proxy_status(),
            node: self.node_status(),
            log: self.log_status(),
            export: self.export_status(),
            snapshot: self.snapshot_status(),
            follower: self.follower_status(),
            gaps: self.gaps(),
        }
    }

    /// Records that the store may still take back.
    fn unproven(&self) -> u64 {
        self.storage.log.tail().0.saturating_sub(self.horizon.upto().0)
    }

    fn node_status(&self) -> NodeStatus {
        let NodeFacts { role, process, term, correcting } = self.node();
        NodeStatus { role, process, term, correcting }
    }

    fn proxy_status(&self) -> ProxyStatus {
        let proxy = &self.config.proxy;
        ProxyStatus {
            listen: self.listen().unwrap_or_else(|| "not yet".into()),
            advertise: proxy.advertise.as_ref().map_or_else(|| "the address they used".into(), ToString::to_string),
            upstream: proxy.upstream.to_string(),
            upstream_up: self.probe.last().is_ok(),
            connections: count(metrics::CONNECTIONS.get()),
            inflight_bytes: count(metrics::INFLIGHT_BYTES.get()),
            write_commands: metrics::WRITE_COMMANDS.total(),
            unknown_hosts: metrics::UNKNOWN_HOSTS.total(),
        }
    }

    fn log_status(&self) -> LogStatus {
        let (opened, log) = (&self.storage.opened, &self.storage.log);
        LogStatus {
            id: opened.log_id.to_string(),
            data: self.storage.data.path().display().to_string(),
            durability: format!("{:?}", self.config.log.durability).to_lowercase(),
            first_lsn: log.first().0,
            tail_lsn: log.tail().0,
            epoch: u32::try_from(metrics::EPOCH.get()).unwrap_or(opened.epoch.0),
            proven_lsn: self.horizon.upto().0.min(log.tail().0),
            held: if self.unproven() == 0 { String::new() } else { self.horizon.held() },
            segments: count(metrics::LOG_SEGMENTS.get()),
            bytes: count(metrics::LOG_BYTES.get()),
            disk_free_bytes: count(metrics::DISK_FREE_BYTES.get()),
            poisoned: metrics::LOG_POISONED.get() != 0,
            holders: self.exporter.holders().into_iter().map(holder_row).collect(),
            held_bytes: self.retention.told().held_bytes,
        }
    }

    fn export_status(&self) -> ExportStatus {
        let status = self.exporter.status();
        let sinks: Vec<_> = status.sinks.into_iter().map(sink_row).collect();
        let behind = sinks.iter().min_by_key(|sink| sink.checkpoint_lsn);
        let failing = sinks.iter().find(|sink| !sink.error.is_empty());
        ExportStatus {
            dir: self.config.export.dir.display().to_string(),
            closed_window: status.closed.0,
            exported_window: sinks.iter().map(|sink| sink.exported_window).min().unwrap_or(0),
            checkpoint_lsn: behind.map_or(0, |sink| sink.checkpoint_lsn),
            lag_records: behind.map_or(0, |sink| sink.lag_records),
            lag_ms: behind.map_or(0, |sink| sink.lag_ms),
            error: failing.map_or(status.cut_error, |sink| sink.error.clone()),
            sinks,
        }
    }

    fn snapshot_status(&self) -> SnapshotStatus {
        let told = self.board.snapshot();
        let reading = told.reading.as_ref();
        SnapshotStatus {
            enabled: told.enabled,
            waiting: self.storage.index.state().namespaces.values().filter(|ns| !ns.complete).count() as u64,
            reading: reading.map_or_else(String::new, |r| r.ns.to_string()),
            read: reading.map_or(0, |r| r.read),
            estimated: reading.map_or(0, |r| r.estimated),
            percent: reading.map_or(0, crate::audit::live::Reading::percent),
            per_second: reading.map_or(0, |r| r.per_second),
            left_ms: reading.map_or(0, |r| r.left_ms),
            error: told.error,
        }
    }

    fn follower_status(&self) -> FollowerStatus {
        let told = self.board.follower();
        FollowerStatus {
            state: if told.state.is_empty() { "starting".into() } else { told.state },
            position: if told.position_ms == 0 { String::new() } else { time_of(told.position_ms) },
            behind: told.behind,
            foreign: metrics::FOLLOWER_EVENTS.get_for("foreign"),
        }
    }

    fn gaps(&self) -> Vec<GapRow> {
        let row = |gap: crate::types::Gap| GapRow {
            id: gap.id,
            remedy: crate::types::remedy(&gap.cause).to_owned(),
            ns: gap.ns.to_string(),
            cause: gap.cause,
            detail: gap.detail,
            since_lsn: gap.since.0,
            since: time_of(gap.since_ms),
        };
        self.storage.index.gaps().into_values().map(row).collect()
    }

    fn windows(&self, asked: &WindowAsk) -> Result<Vec<WindowRow>, String> {
        let sinks = self.exporter.status().sinks;
        let delivered = sinks.iter().map(|s| s.delivered).min();
        let mut missing = BTreeMap::<u64, u64>::new();
        for (_, letter) in self.exporter.dead_letters("") {
            if letter.is_missing() {
                *missing.entry(letter.window).or_default() += 1;
            }
        }
        let row = |w: Window| WindowRow {
            id: w.id.0,
            cause: w.cause.name().to_owned(),
            first_lsn: w.first.0,
            last_lsn: w.last.0,
            records: w.records(),
            bytes: w.log_bytes,
            last_wall: w.clocks.as_ref().map_or_else(String::new, |c| time_of(c.last_wall_ms)),
            gaps: w.gaps.len() as u64,
            exported: delivered.is_some_and(|at| at >= w.id),
            amendment: 0,
            missing: missing.get(&w.id.0).copied().unwrap_or(0),
            label: w.label.unwrap_or_default(),
        };
        let (after, sink) = self.place_of(asked)?;
        let windows = match after {
            None => self.exporter.windows(WINDOWS),
            Some(after) => {
                let there = |name: &str| {
                    let last = sinks.iter().find(|s| s.name == name).map(|s| s.delivered.0);
                    last.zip(self.exporter.first_at(name)).ok_or_else(|| format!("sink: there is no sink `{name}`"))
                };
                let (last, first) = match sink.as_str() {
                    "" => (u64::MAX, WindowId(1)),
                    name => there(name)?,
                };
                let after = after.max(first.0.saturating_sub(1));
                self.exporter.windows_between(after, last.min(after.saturating_add(PAGE)))
            }
        };
        Ok(windows.map_err(|error| error.to_string())?.into_iter().map(row).collect())
    }

    fn letters(&self, asked: &LetterAsk) -> Vec<LetterRow> {
        let letters = self.exporter.dead_letters(&asked.sink).into_iter();
        let named = |lsn: u64| asked.lsns.is_empty() || asked.lsns.contains(&lsn);
        letters.filter(|(_, letter)| named(letter.record.lsn)).map(|(sink, letter)| letter_row(sink, letter)).collect()
    }

    fn order(&self, asked: &LetterAsk, order: LetterOrder) -> Result<u64, LetterRefused> {
        let lsns = asked.lsns.iter().map(|lsn| Lsn(*lsn)).collect();
        if !asked.sink.is_empty() && !self.exporter.status().sinks.iter().any(|sink| sink.name == asked.sink) {
            return Err(LetterRefused::Sink(format!("sink: there is no sink `{}`", asked.sink)));
        }
        let changed = match order {
            LetterOrder::Retry => self.exporter.retry_letters(&asked.sink, &lsns),
            LetterOrder::Drop => self.exporter.drop_letters(&asked.sink, &lsns),
        };
        changed.map(|n| n as u64).map_err(|error| LetterRefused::Failed(error.to_string()))
    }
}

fn holder_row(holder: Holder) -> HolderRow {
    HolderRow { who: holder.who, needs_lsn: holder.needs.0, window: holder.window.0 }
}

fn sink_row(sink: SinkStatus) -> SinkRow {
    let state = match (sink.stopped, sink.error.is_empty()) {
        (true, _) => "stopped",
        (false, false) => "failing",
        (false, true) => "delivering",
    };
    SinkRow {
        name: sink.name.to_owned(),
        kind: sink.kind.to_owned(),
        place: sink.place,
        state: state.to_owned(),
        exported_window: sink.delivered.0,
        checkpoint_lsn: sink.checkpoint.0,
        lag_records: sink.lag_records,
        lag_ms: sink.lag_ms,
        failures: sink.failures,
        circuit: sink.circuit.name().to_owned(),
        delivering_window: sink.delivering.window.0,
        delivering_records: sink.delivering.done,
        delivering_of: sink.delivering.of,
        dead_letters: sink.dead_letters,
        retained: retained_row(sink.retained),
        error: sink.error,
    }
}

fn letter_row(sink: &str, letter: Letter) -> LetterRow {
    let (state, amendment) = match letter.state {
        State::Waiting => ("waiting", 0),
        State::Asked(number) => ("asked", number),
        State::Delivered(number) => ("delivered", number),
        State::Dropped => ("dropped", 0),
    };
    let refused_in = match letter.stage {
        Stage::Serialization => "serialization",
        Stage::Delivery => "delivery",
    };
    let record = letter.record;
    LetterRow {
        sink: sink.to_owned(),
        lsn: record.lsn,
        window: letter.window,
        ns: record.ns,
        key: record.key,
        epoch: record.epoch,
        seq: record.seq,
        op: record.op,
        stage: refused_in.to_owned(),
        reason: letter.reason,
        first: time_of(letter.first_ms),
        last: time_of(letter.last_ms),
        attempts: letter.attempts,
        state: state.to_owned(),
        amendment,
    }
}
