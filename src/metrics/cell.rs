//! The kinds of metric and their cells. All operations are relaxed atomics: each value is right by itself, no order
//! among values is promised.

use super::sink;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Most values that one label may have, the catch-all `other` included.
const CELLS: usize = 16;
/// Most bounds of a histogram.
const BOUNDS: usize = 20;

/// What a value counts. Times are kept in whole units (see [`Gauge::set_ms`], [`Histogram::observe`]) and shown in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// 1: it is so; 0: it is not.
    Flag,
    /// A log sequence number.
    Lsn,
    /// One of a few states, numbered in the help.
    State,
}

impl Unit {
    /// The word in the reference page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Flag => "0 or 1",
            Self::Lsn => "lsn",
            Self::State => "state",
        }
    }
}

/// What is known of a metric besides its values.
#[derive(Debug)]
pub struct Def {
    /// The whole name, `tidelog_` first.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Name of the label; empty: a single series.
    pub label: &'static str,
    /// The values that the label may have; what is none of them is counted as the last one.
    values: &'static [&'static str],
    /// The values are the names of the sinks instead.
    sinks: bool,
    /// One sentence for people.
    pub help: &'static str,
}

impl Def {
    const fn plain(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, unit, label: "", values: &[], sinks: false, help }
    }

    const fn by(self, label: &'static str, values: &'static [&'static str]) -> Self {
        assert!(!values.is_empty() && values.len() <= CELLS, "1 to 16 values");
        Self { label, values, ..self }
    }

    const fn by_sink(self) -> Self {
        Self { label: "sink", sinks: true, ..self }
    }

    /// The values that the label may have now; none: it has no label.
    pub fn values(&self) -> Vec<&'static str> {
        if self.sinks { sink::names() } else { self.values.to_vec() }
    }

    /// Whether the label's values are the names of the sinks.
    pub fn is_by_sink(&self) -> bool {
        self.sinks
    }

    /// The cell of a label's value.
    fn slot(&self, value: &str) -> usize {
        if self.sinks {
            return sink::slot(value).unwrap_or(CELLS - 1);
        }
        let last = self.values.len().saturating_sub(1);
        self.values.iter().position(|v| *v == value).unwrap_or(last)
    }

    /// How many series there are.
    pub(super) fn series(&self) -> usize {
        self.values().len().max(1)
    }
}

/// A number that only grows.
#[derive(Debug)]
pub struct Counter {
    pub(super) def: Def,
    cells: [AtomicU64; CELLS],
}

impl Counter {
    pub(super) const fn new(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { def: Def::plain(name, unit, help), cells: [const { AtomicU64::new(0) }; CELLS] }
    }

    pub(super) const fn by(self, label: &'static str, values: &'static [&'static str]) -> Self {
        Self { def: self.def.by(label, values), cells: self.cells }
    }

    pub(super) const fn by_sink(self) -> Self {
        Self { def: self.def.by_sink(), cells: self.cells }
    }

    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.at(0, n);
    }

    /// Counts one in the series of a label's value; a value that is not in the table goes to the last one.
    pub fn inc_for(&self, value: &str) {
        self.add_for(value, 1);
    }

    /// Counts `n` in the series of a label's value.
    pub fn add_for(&self, value: &str, n: u64) {
        self.at(self.def.slot(value), n);
    }

    /// The sum of all series.
    pub fn total(&self) -> u64 {
        self.cells.iter().map(|c| c.load(Relaxed)).fold(0, u64::wrapping_add)
    }

    /// The value of one series.
    pub fn get_for(&self, value: &str) -> u64 {
        self.value(self.def.slot(value))
    }

    pub(super) fn value(&self, slot: usize) -> u64 {
        self.cells.get(slot).map_or(0, |c| c.load(Relaxed))
    }

    fn at(&self, slot: usize, n: u64) {
        if let Some(cell) = self.cells.get(slot) {
            cell.fetch_add(n, Relaxed);
        }
    }
}

/// A number that goes up and down.
#[derive(Debug)]
pub struct Gauge {
    pub(super) def: Def,
    cells: [AtomicI64; CELLS],
}

impl Gauge {
    pub(super) const fn new(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { def: Def::plain(name, unit, help), cells: [const { AtomicI64::new(0) }; CELLS] }
    }

    pub(super) const fn by_sink(self) -> Self {
        Self { def: self.def.by_sink(), cells: self.cells }
    }

    /// Sets it; what does not fit stands at the greatest number.
    pub fn set(&self, value: u64) {
        self.store(0, i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Sets the series of a label's value.
    pub fn set_for(&self, label: &str, value: u64) {
        self.store(self.def.slot(label), i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Sets a gauge of [`Unit::Seconds`], in milliseconds.
    pub fn set_ms(&self, ms: i64) {
        self.store(0, ms);
    }

    /// Sets the series of a label's value of a gauge of [`Unit::Seconds`], in milliseconds.
    pub fn set_ms_for(&self, label: &str, ms: i64) {
        self.store(self.def.slot(label), ms);
    }

    /// Sets a gauge of [`Unit::Flag`].
    pub fn set_flag(&self, on: bool) {
        self.store(0, i64::from(on));
    }

    /// Sets the series of a label's value of a gauge of [`Unit::Flag`].
    pub fn set_flag_for(&self, label: &str, on: bool) {
        self.store(self.def.slot(label), i64::from(on));
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.sub(1);
    }

    /// Adds.
    pub fn add(&self, n: u64) {
        self.shift(i64::try_from(n).unwrap_or(i64::MAX));
    }

    /// Takes away.
    pub fn sub(&self, n: u64) {
        self.shift(i64::try_from(n).unwrap_or(i64::MAX).saturating_neg());
    }

    /// Adds one until the returned token is dropped.
    #[must_use = "the gauge goes back when the token is dropped"]
    pub fn hold(&'static self, n: u64) -> Held {
        self.add(n);
        Held { gauge: self, n }
    }

    /// The value (of the first series).
    pub fn get(&self) -> i64 {
        self.value(0)
    }

    pub(super) fn value(&self, slot: usize) -> i64 {
        self.cells.get(slot).map_or(0, |c| c.load(Relaxed))
    }

    fn shift(&self, n: i64) {
        if let Some(cell) = self.cells.first() {
            cell.fetch_add(n, Relaxed);
        }
    }

    fn store(&self, slot: usize, value: i64) {
        if let Some(cell) = self.cells.get(slot) {
            cell.store(value, Relaxed);
        }
    }
}

/// What [`Gauge::hold`] added; taken away when dropped.
#[derive(Debug)]
pub struct Held {
    gauge: &'static Gauge,
    n: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.sub(self.n);
    }
}

/// How values are spread over fixed bounds. Times are kept in microseconds.
#[derive(Debug)]
pub struct Histogram {
    pub(super) def: Def,
    /// Upper bounds, ascending: microseconds for [`Unit::Seconds`], else the value itself.
    pub(super) bounds: &'static [u64],
    buckets: [AtomicU64; BOUNDS],
    over: AtomicU64,
    sum: AtomicU64,
}

impl Histogram {
    pub(super) const fn new(name: &'static str, unit: Unit, bounds: &'static [u64], help: &'static str) -> Self {
        assert!(bounds.len() <= BOUNDS, "at most 20 bounds");
        Self {
            def: Def::plain(name, unit, help),
            bounds,
            buckets: [const { AtomicU64::new(0) }; BOUNDS],
            over: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts a time (for [`Unit::Seconds`]).
    pub fn observe(&self, time: Duration) {
        self.count(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts a value (for every other unit).
    pub fn observe_value(&self, value: u64) {
        self.count(value);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Relaxed)).sum::<u64>() + self.over.load(Relaxed)
    }

    pub(super) fn bucket(&self, at: usize) -> u64 {
        self.buckets.get(at).map_or(0, |b| b.load(Relaxed))
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    fn count(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        let cell = if at < self.bounds.len() { self.buckets.get(at) } else { None };
        cell.unwrap_or(&self.over).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub enum Family {
    /// Only grows.
    Counter(&'static Counter),
    /// Goes up and down.
    Gauge(&'static Gauge),
    /// A distribution.
    Histogram(&'static Histogram),
}

impl Family {
    /// What is known of it.
    pub fn def(self) -> &'static Def {
        match self {
            Self::Counter(c) => &c.def,
            Self::Gauge(g) => &g.def,
            Self::Histogram(h) => &h.def,
        }
    }

    /// The word of the Prometheus format.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BY: Counter = Counter::new("t", Unit::Count, "T.").by("k", &["a", "b", "other"]);
    static TIMES: Histogram = Histogram::new("t", Unit::Seconds, &[10, 100], "T.");
    static LEVEL: Gauge = Gauge::new("t", Unit::Count, "T.");

    #[test]
    fn an_unknown_label_goes_to_the_last() {
        BY.inc_for("a");
        BY.add_for("nobody", 2);
        assert_eq!((BY.get_for("a"), BY.get_for("b"), BY.get_for("other"), BY.total()), (1, 0, 2, 3));
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        for us in [10, 11, 100, 101, 5] {
            TIMES.observe(Duration::from_micros(us));
        }
        assert_eq!((TIMES.bucket(0), TIMES.bucket(1), TIMES.total(), TIMES.sum()), (2, 2, 5, 227));
    }

    #[test]
    fn held_goes_back() {
        let held = LEVEL.hold(3);
        assert_eq!(LEVEL.get(), 3);
        drop(held);
        assert_eq!(LEVEL.get(), 0);
    }
}
