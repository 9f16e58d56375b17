//! Later looks at what writes of unknown outcome name: the connection of each broke, or its process was killed.
//!
//! The lost connection does not cancel a write that had been sent (WIRE.md 8). It may land after the first look; and where
//! it waits in the store behind a transaction that nobody ends, it lands when the store ends that one. So what it names is read
//! three times: at once, after `capture.second_look_ms`, and after `capture.transaction_lifetime_ms` more.
//!
//! Promises: an intent stays on disk until its third look has succeeded; its entities are [`unsettled`](Looks::unsettled)
//! as long. A look reads each entity once, however many writes that are due name it. Second looks do not wait for third ones.
//!
//! Does not: wait for a write that several transactions in turn keep waiting for longer than that. The next touch of its entity
//! finds it, as everything that nobody saw.
//!
//! # Decisions
//! - One line for each look: in each all wait equally long, so first come is first due.
//! - A write that waits for a look keeps the name of its slot's file, no open file: there may be many, for minutes.
//! - What was read together in the second look waits for the third together.

use bson::RawBson;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::Capture;
use super::intent::Scope;
use crate::metrics;
use crate::mutants::{Mutant, mutated};
use crate::types::{Found, Namespace};

/// Pause between tries of a look that failed.
const AGAIN: Duration = Duration::from_secs(2);
/// Writes whose entities are read in one look.
const TOGETHER: usize = 256;

/// The looks that are to come.
#[derive(Debug)]
pub(crate) struct Looks {
    second_after: Duration,
    third_after: Duration,
    unsettled: Unsettled,
    second: Line,
    third: Line,
}

/// A look to come.
#[derive(Debug)]
struct Look {
    due: Instant,
    scopes: Entered,
    /// The slots that name them.
    files: Vec<String>,
}

/// Looks in the order in which they are due.
#[derive(Debug, Default)]
struct Line {
    waiting: Mutex<VecDeque<Look>>,
    came: Notify,
}

/// What looks to come name.
#[derive(Clone, Debug, Default)]
struct Unsettled(Arc<Mutex<BTreeMap<u64, Arc<Vec<Scope>>>>>);

/// Scopes that are unsettled as long as this lives.
#[derive(Debug)]
struct Entered {
    of: Unsettled,
    number: u64,
    scopes: Arc<Vec<Scope>>,
    _counted: metrics::Held,
}

impl Unsettled {
    fn enter(&self, scopes: Vec<Scope>) -> Entered {
        let scopes = Arc::new(scopes);
        let mut entered = self.0.lock();
        let number = entered.last_key_value().map_or(0, |(last, _)| last + 1);
        entered.insert(number, Arc::clone(&scopes));
        Entered { of: self.clone(), number, scopes, _counted: metrics::LOOKS_WAITING.hold(1) }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.of.0.lock().remove(&self.number);
    }
}

impl Line {
    fn push(&self, look: Look) {
        self.waiting.lock().push_back(look);
        self.came.notify_one();
    }

    /// The looks that are due, once one is.
    async fn due(&self) -> Vec<Look> {
        loop {
            let first = self.waiting.lock().front().map(|look| look.due);
            let Some(first) = first else {
                self.came.notified().await;
                continue;
            };
            sleep_until(first).await;
            let now = Instant::now();
            let mut waiting = self.waiting.lock();
            let due = waiting.iter().take(TOGETHER).take_while(|look| look.due <= now).count();
            return waiting.drain(..due).collect();
        }
    }
}

impl Looks {
    /// The second look comes `second_look` after the first, the third `lifetime` after that.
    pub(crate) fn new(second_look: Duration, lifetime: Duration) -> Self {
        let (second_after, third_after) = (second_look, second_look + lifetime);
        Self {
            second_after,
            third_after,
            unsettled: Unsettled::default(),
            second: Line::default(),
            third: Line::default(),
        }
    }

    /// After this time a write whose end nobody told is not taken for running any more.
    pub(crate) fn bound(&self) -> Duration {
        self.third_after
    }

    /// Has `scopes` looked at twice more; `files` are the slots that name them, removed after the last time.
    pub(crate) fn begin(&self, scopes: Vec<Scope>, files: Vec<String>) {
        let look = Look { due: Instant::now() + self.second_after, scopes: self.unsettled.enter(scopes), files };
        if !mutated(Mutant::NoSecondLook) {
            self.second.push(look);
        }
    }

    /// What looks to come name.
    pub(crate) fn unsettled(&self) -> Vec<Scope> {
        let all: Vec<Arc<Vec<Scope>>> = self.unsettled.0.lock().values().cloned().collect();
        merged(all.iter().flat_map(|scopes| scopes.iter()))
    }
}

impl Capture {
    /// Carries out second and third looks until `stop` ends. To be called once.
    pub async fn looks(self: Arc<Self>, stop: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = stop => {}
            () = self.second_looks() => {}
            () = self.third_looks() => {}
        }
    }

    async fn second_looks(&self) {
        let looks = &self.looks;
        loop {
            let due = looks.second.due().await;
            let scopes = self.look(&due).await;
            metrics::LOOKS.inc_for("second");
            let last = due.iter().map(|look| look.due).max().unwrap_or_else(Instant::now);
            let third = Look {
                due: last + looks.third_after.saturating_sub(looks.second_after),
                scopes: looks.unsettled.enter(scopes),
                files: due.iter().flat_map(|look| look.files.iter().cloned()).collect(),
            };
            // Only now: they are unsettled without a break.
            drop(due);
            if mutated(Mutant::NoThirdLook) {
                self.looked(&third);
            } else {
                looks.third.push(third);
            }
        }
    }

    async fn third_looks(&self) {
        loop {
            let due = self.looks.third.due().await;
            self.look(&due).await;
            metrics::LOOKS.inc_for("third");
            for look in &due {
                self.looked(look);
            }
        }
    }

    fn looked(&self, look: &Look) {
        if let Err(error) = self.intents.remove(&look.files) {
            warn!(%error, "an intent stays open: the next start verifies once too often");
        }
    }

    /// Verifies what they name, each entity once, until that has succeeded.
    async fn look(&self, due: &[Look]) -> Vec<Scope> {
        let scopes = merged(due.iter().flat_map(|look| look.scopes.scopes.iter()));
        for scope in &scopes {
            while let Err(error) = self.verify(scope, Found::Recovery).await {
                metrics::VERIFY_FAILURES.inc();
                warn!(%error, "a later look failed, trying again");
                sleep(AGAIN).await;
            }
        }
        scopes
    }

    /// What writes of unknown outcome may have changed. Their process being gone, reading it once tells what came of them.
    pub fn unsettled(&self) -> Vec<Scope> {
        self.looks.unsettled()
    }
}

/// The same entities, each once.
pub(crate) fn merged<'s>(scopes: impl Iterator<Item = &'s Scope>) -> Vec<Scope> {
    let mut entities = BTreeMap::<Namespace, Vec<RawBson>>::new();
    let (mut namespaces, mut databases) = (BTreeSet::new(), BTreeSet::new());
    for scope in scopes {
        match scope {
            Scope::Entities(groups) => {
                for (ns, ids) in groups {
                    entities.entry(ns.clone()).or_default().extend(ids.iter().cloned());
                }
            }
            Scope::Namespaces(names) => namespaces.extend(names.iter().cloned()),
            Scope::Database(db) => {
                databases.insert(db.clone());
            }
        }
    }
    let mut out: Vec<Scope> = databases.into_iter().map(Scope::Database).collect();
    out.push(Scope::Namespaces(namespaces.into_iter().collect()));
    out.push(Scope::Entities(entities));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: i32) -> Scope {
        Scope::Entities([(Namespace::new("db", "a"), vec![RawBson::Int32(id)])].into())
    }

    #[tokio::test]
    async fn a_line_gives_what_is_due_and_no_more() {
        let looks = Looks::new(Duration::ZERO, Duration::from_secs(70));
        assert_eq!(looks.bound(), Duration::from_secs(70));
        looks.begin(vec![one(1)], vec!["a".to_owned()]);
        let scopes = looks.unsettled.enter(vec![one(2)]);
        looks.second.push(Look { due: Instant::now() + Duration::from_hours(1), scopes, files: Vec::new() });
        let due = looks.second.due().await;
        assert_eq!((due.len(), &due[0].files[..]), (1, &["a".to_owned()][..]));
        let all = Scope::Entities([(Namespace::new("db", "a"), vec![RawBson::Int32(1), RawBson::Int32(2)])].into());
        assert!(looks.unsettled().contains(&all), "a look under way settles nothing yet");
        drop(due);
        assert!(looks.unsettled().contains(&one(2)));
        assert!(tokio::time::timeout(Duration::from_millis(20), looks.second.due()).await.is_err());
        assert_eq!(looks.second.waiting.lock().len(), 1, "who stops waiting takes nothing with him");
    }

    #[tokio::test]
    async fn what_is_due_at_once_is_bounded_and_a_line_wakes() {
        let looks = Arc::new(Looks::new(Duration::ZERO, Duration::ZERO));
        let waits = Arc::clone(&looks);
        let waiter = tokio::spawn(async move { waits.second.due().await.len() });
        tokio::task::yield_now().await;
        for id in 0..300 {
            looks.begin(vec![one(id)], Vec::new());
        }
        assert_eq!(waiter.await.unwrap(), TOGETHER);
        assert_eq!(looks.second.due().await.len(), 300 - TOGETHER);
    }

    #[test]
    fn what_many_name_is_one_scope_of_each_kind() {
        let scopes = [Scope::Database("x".to_owned()), Scope::Namespaces(vec![Namespace::new("db", "b")]), one(1)];
        let many: Vec<&Scope> = scopes.iter().chain(&scopes[..2]).collect();
        assert_eq!(merged(many.into_iter()), scopes);
    }
}
