//! Guards: order, exclusion, no deadlock, no leak.

use super::super::guard::{Guards, NsGuards};
use crate::types::{EntityKey, Namespace};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

fn ns(name: &str) -> Namespace {
    Namespace::from_full(name)
}

fn key(n: u8) -> EntityKey {
    EntityKey(Arc::from([n]))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap()
}

/// Polls once; the guards need no more to stand in the queue.
async fn enqueued<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test]
async fn first_come_first_served() {
    let guards = Guards::new();
    let held = guards.lock(&ns("d.c"), vec![key(1)]).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for n in 0..20 {
        let mut wait = Box::pin({
            let (guards, order) = (guards.clone(), Arc::clone(&order));
            async move {
                let _guard = guards.lock(&ns("d.c"), vec![key(1)]).await;
                order.lock().push(n);
            }
        });
        assert!(enqueued(&mut wait).await);
        tasks.push(tokio::spawn(wait));
    }
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
    assert!(guards.is_empty());
}

#[tokio::test]
async fn other_entities_are_free_and_doubles_count_once() {
    let guards = Guards::new();
    let held = guards.lock(&ns("d.c"), vec![key(2), key(1), key(2)]).await;
    assert_eq!((held.len(), guards.len()), (2, 2));
    let _other = timeout(LONG, guards.lock(&ns("d.c"), vec![key(3)])).await.unwrap();
    let _namesake = timeout(LONG, guards.lock(&ns("d.x"), vec![key(1)])).await.unwrap();
}

#[tokio::test]
async fn a_waiter_that_goes_away_gives_its_place_back() {
    let guards = Guards::new();
    let held = guards.lock(&ns("d.c"), vec![key(2)]).await;
    // It holds 1 and waits for 2.
    let mut gone = Box::pin(guards.lock_many(vec![(ns("d.c"), key(1)), (ns("d.c"), key(2))]));
    assert!(enqueued(&mut gone).await);
    let name = ns("d.c");
    let mut next = Box::pin(guards.lock(&name, vec![key(2)]));
    assert!(enqueued(&mut next).await);
    drop(gone);
    let _one = timeout(LONG, guards.lock(&ns("d.c"), vec![key(1)])).await.unwrap();
    drop(held);
    drop(timeout(LONG, next).await.unwrap());
}

#[tokio::test]
async fn a_lock_granted_to_one_who_goes_away_is_passed_on() {
    let guards = Guards::new();
    let held = guards.lock(&ns("d.c"), vec![key(1)]).await;
    let name = ns("d.c");
    let mut gone = Box::pin(guards.lock(&name, vec![key(1)]));
    assert!(enqueued(&mut gone).await);
    drop(held); // Granted to `gone`, which never looks.
    drop(gone);
    drop(timeout(LONG, guards.lock(&ns("d.c"), vec![key(1)])).await.unwrap());
    assert!(guards.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Many tasks lock many random keys, some give up: nobody shares an entity, all come to an end, nothing is left.
    #[test]
    fn random_locks_exclude_never_deadlock_and_leave_nothing(
        tasks in prop::collection::vec((prop::collection::vec(0_u8..8, 1..6), any::<bool>()), 4..40),
    ) {
        runtime().block_on(async {
            let guards = Guards::new();
            let inside = Arc::new(Mutex::new(HashSet::new()));
            let tasks: Vec<_> = tasks.into_iter().map(|(keys, hasty)| {
                let (guards, inside) = (guards.clone(), Arc::clone(&inside));
                tokio::spawn(async move {
                    let patience = if hasty { Duration::from_micros(200) } else { LONG };
                    let wanted = keys.iter().map(|k| key(*k)).collect();
                    let Ok(guard) = timeout(patience, guards.lock(&ns("d.c"), wanted)).await else { return hasty };
                    let mine: HashSet<u8> = keys.into_iter().collect();
                    let fresh = { let mut inside = inside.lock(); mine.iter().all(|k| inside.insert(*k)) };
                    tokio::task::yield_now().await;
                    inside.lock().retain(|k| !mine.contains(k));
                    drop(guard);
                    fresh
                })
            }).collect();
            for task in tasks {
                assert!(timeout(LONG, task).await.expect("no deadlock").unwrap(), "two held one entity, or one waited too long");
            }
            assert_eq!(guards.len(), 0);
        });
    }

    /// The same for namespaces and databases: writers of documents together, a drop alone, dropDatabase alone.
    #[test]
    fn random_namespace_guards_exclude_never_deadlock_and_leave_nothing(
        tasks in prop::collection::vec((0_u8..4, 0_usize..4, 0_usize..4), 4..40),
    ) {
        let names = ["a.x", "a.y", "b.x", "b.y"];
        runtime().block_on(async {
            let guards = NsGuards::new();
            // Per namespace: readers inside, or -1 for someone alone.
            let inside = Arc::new(Mutex::new([0_i32; 4]));
            let tasks: Vec<_> = tasks.into_iter().map(|(kind, one, other)| {
                let (guards, inside) = (guards.clone(), Arc::clone(&inside));
                tokio::spawn(async move {
                    let both = [ns(names[one]), ns(names[other])];
                    let db = both[0].db().to_owned();
                    let (guard, alone, mine) = match kind {
                        0 => (guards.shared(&both[0]).await, false, vec![one]),
                        1 => (guards.shared_many(&both).await, false, vec![one, other]),
                        2 => (guards.exclusive(&both).await, true, vec![one, other]),
                        _ => {
                            let all = (0..4).filter(|n| ns(names[*n]).db() == db).collect();
                            (guards.database_exclusive(&db).await, true, all)
                        }
                    };
                    let mine: HashSet<usize> = mine.into_iter().collect();
                    let fits = {
                        let mut inside = inside.lock();
                        let fits = mine.iter().all(|n| if alone { inside[*n] == 0 } else { inside[*n] >= 0 });
                        for n in &mine { inside[*n] += if alone { -1000 } else { 1 }; }
                        fits
                    };
                    tokio::task::yield_now().await;
                    for n in &mine { inside.lock()[*n] -= if alone { -1000 } else { 1 }; }
                    drop(guard);
                    fits
                })
            }).collect();
            for task in tasks {
                assert!(timeout(LONG, task).await.expect("no deadlock").unwrap(), "an exclusive guard was not alone");
            }
            assert_eq!(guards.len(), 0);
        });
    }
}

#[tokio::test]
async fn a_drop_waits_for_writers_and_later_writers_wait_for_the_drop() {
    let guards = NsGuards::new();
    let (one, two) = (guards.shared(&ns("a.x")).await, guards.shared(&ns("a.x")).await);
    let names = [ns("a.x")];
    let mut alone = Box::pin(guards.exclusive(&names));
    assert!(enqueued(&mut alone).await);
    let name = ns("a.x");
    let mut late = Box::pin(guards.shared(&name));
    assert!(enqueued(&mut late).await, "no writer passes a waiting drop");
    let other = timeout(LONG, guards.shared(&ns("a.y"))).await.unwrap();
    drop((one, two, other));
    let alone = timeout(LONG, alone).await.unwrap();
    assert!(enqueued(&mut late).await);
    drop(alone);
    drop(timeout(LONG, late).await.unwrap());
    assert!(guards.is_empty());
}

#[tokio::test]
async fn a_watch_sees_who_gave_back_while_it_was_open() {
    let guards = Guards::new();
    let ns_guards = NsGuards::beside(&guards);
    let (ns, other) = (Namespace::new("db", "a"), Namespace::new("db", "b"));
    let key = |n: u8| EntityKey([n].as_slice().into());
    let before = guards.lock(&ns, vec![key(1)]).await;
    let gone = guards.lock(&ns, vec![key(2)]).await;
    drop(gone);
    let watch = guards.watch(&ns);
    drop(before);
    drop(guards.lock(&ns, vec![key(3)]).await);
    drop(guards.lock(&other, vec![key(4)]).await);
    let seen: Vec<u8> = (1..=4).filter(|n| watch.touched(&key(*n))).collect();
    assert_eq!(seen, [1, 3], "held at the opening, or taken since");
    drop(ns_guards.shared(&ns).await);
    drop(ns_guards.exclusive(std::slice::from_ref(&other)).await);
    assert!(!watch.touched(&key(2)));
    drop(ns_guards.exclusive(std::slice::from_ref(&ns)).await);
    assert!(watch.touched(&key(2)), "somebody had the namespace alone");
    let again = guards.watch(&ns);
    drop(ns_guards.database_exclusive("db").await);
    assert!(again.touched(&key(9)));
}

#[tokio::test]
async fn trying_waits_for_nobody() {
    let guards = Guards::new();
    let ns = Namespace::new("db", "a");
    let key = |n: u8| EntityKey([n].as_slice().into());
    let held = guards.lock(&ns, vec![key(2)]).await;
    let (got, busy) = guards.try_lock(&ns, vec![key(3), key(2), key(1), key(1)]);
    assert_eq!((got.len(), busy), (2, vec![key(2)]));
    drop((got, held));
    assert!(guards.is_empty());
}
