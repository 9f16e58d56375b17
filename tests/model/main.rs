//! The model of the protocol: a simulated store and simulated clients around the real capture, guards, log and index.
//!
//! Each schedule is drawn from a seed and runs on a runtime of its own, on one thread, in virtual time: the same seed is the same
//! schedule. `TIDELOG_SEED=N` replays one and prints its trace; `TIDELOG_SCHEDULES=N` runs so many (`deploy/test.sh model N`). Built without
//! `--cfg tokio_unstable`, tokio rolls dice of its own for which of several tasks that wait for one value wakes first.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

mod atomic;
mod client;
mod index;
mod ledger;
mod mutants;
mod oracle;
mod program;
mod schedule;
mod sidecar;
mod store;
mod txn;
mod walk;
mod world;

use schedule::{Report, run};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Schedules that CI runs.
const SCHEDULES: u64 = 20_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn fail(seed: u64, report: &Report) -> ! {
    let trace = run(seed, true).trace.join("\n");
    let bad = report.bad.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ");
    panic!("{trace}\n\nseed {seed} ({}):\n  {bad}\nreplay: TIDELOG_SEED={seed}", report.kind);
}

/// What many schedules came to.
#[derive(Default)]
struct Sum {
    kinds: BTreeMap<&'static str, u64>,
    changes: u64,
    acked: u64,
    txns: u64,
    faults: u64,
    first_bad: Option<u64>,
}

#[test]
fn no_schedule_breaks_a_promise() {
    if let Some(seed) = number("TIDELOG_SEED") {
        let report = run(seed, true);
        eprintln!("{}\nseed {seed} ({}): {:?}", report.trace.join("\n"), report.kind, report.bad);
        assert!(report.bad.is_empty(), "seed {seed} breaks a promise");
        return;
    }
    let (from, count) = (number("TIDELOG_FIRST_SEED").unwrap_or(1), number("TIDELOG_SCHEDULES").unwrap_or(SCHEDULES));
    let began = Instant::now();
    let (next, sum) = (AtomicU64::new(from), Mutex::new(Sum::default()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&next, from + count, &sum));
        }
    });
    let sum = sum.into_inner().unwrap();
    eprintln!(
        "{count} schedules from seed {from} in {:.1} s ({:.0}/s): {} changes, {} of them transactions, {} acknowledged commands, {} deaths and crashes; {:?}",
        began.elapsed().as_secs_f64(),
        f64::from(u32::try_from(count).unwrap()) / began.elapsed().as_secs_f64(),
        sum.changes,
        sum.txns,
        sum.acked,
        sum.faults,
        sum.kinds
    );
    if let Some(seed) = sum.first_bad {
        fail(seed, &run(seed, false));
    }
}

/// Runs seeds until there are none left, or one fails.
fn work(next: &AtomicU64, end: u64, sum: &Mutex<Sum>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let report = run(seed, false);
        let mut sum = sum.lock().unwrap();
        *sum.kinds.entry(report.kind).or_default() += 1;
        sum.changes += report.changes;
        sum.acked += report.acked;
        sum.txns += report.txns;
        sum.faults += report.faults;
        if !report.bad.is_empty() {
            sum.first_bad = Some(sum.first_bad.unwrap_or(u64::MAX).min(seed));
            next.store(end, Ordering::Relaxed);
        }
    }
}

#[cfg(tokio_unstable)]
#[test]
fn the_same_seed_is_the_same_schedule() {
    let from = number("TIDELOG_FIRST_SEED").unwrap_or(1);
    for seed in from..from + 150 {
        let (one, other) = (run(seed, true), run(seed, true));
        let differs = one.trace.iter().zip(&other.trace).position(|(a, b)| a != b);
        let at = |trace: &[String]| differs.and_then(|at| trace.get(at).cloned());
        assert_eq!(at(&one.trace), at(&other.trace), "seed {seed}");
        assert_eq!(one.bad, other.bad, "seed {seed}");
    }
}
