//! Breaks of the real code: the model must find each within a bounded number of schedules.

use crate::schedule::run;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tidelog::mutants::{Mutant, activate};

/// Schedules within which each mutant must be found.
const BOUND: u64 = 40_000;

/// Mutants that the model does not find as it is: since it walks over whole namespaces, what an error hid is found by a walk, as
/// *observed*, before the end, and no oracle tells such a record from one that had to be. To be found again: a rule for which
/// writes may end as observed.
const NOT_FOUND: [Mutant; 1] = [Mutant::TrustErrors];

/// The first seed that shows a break, and what it showed.
fn hunt(mutant: Mutant) -> Option<(u64, String)> {
    activate(Some(mutant));
    let found = (1..=BOUND).find_map(|seed| {
        let ran = std::panic::catch_unwind(|| run(seed, false));
        let bad = ran.map_or_else(|_panic| vec!["a panic".to_owned()], |report| report.bad);
        bad.into_iter().next().map(|first| (seed, first))
    });
    activate(None);
    found
}

/// The mutant that `TIDELOG_MUTANT` names, or all.
fn wanted(mutant: Mutant) -> bool {
    std::env::var("TIDELOG_MUTANT").map_or(true, |only| only == format!("{mutant:?}"))
}

/// Hunts until no mutant is left; gives those that were not found.
fn work(next: &AtomicUsize, missed: &Mutex<Vec<Mutant>>) {
    while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
        if !wanted(*mutant) || NOT_FOUND.contains(mutant) {
            continue;
        }
        if let Some((seed, what)) = hunt(*mutant) {
            let what: String = what.chars().take(160).collect();
            eprintln!("{mutant:?}: seed {seed}: {what}");
        } else {
            eprintln!("{mutant:?}: NOT FOUND in {BOUND} schedules");
            missed.lock().unwrap().push(*mutant);
        }
    }
}

#[test]
fn each_mutant_is_found() {
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&next, &missed));
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "the model is too weak for {missed:?}");
}
