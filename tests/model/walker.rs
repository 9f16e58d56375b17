//! Walks over whole namespaces beside the writes, as the first read, catch-up and the proof of gaps make them.

use crate::store::Store;
use crate::world::World;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidelog::capture::Capture;
use tidelog::capture::range::{Limits, Mode};
use tidelog::types::{Found, Namespace};

/// Walks again and again while there is trouble, in some schedules.
pub(crate) async fn walk(world: Arc<World>, store: Arc<Store>, capture: Arc<Capture>) {
    if !world.chance(40) {
        return;
    }
    while store.rough.load(Ordering::Relaxed) {
        world.sleep_ms(world.draw(2..120)).await;
        for ns in ["m.a", "m.b"] {
            once(&world, &capture, &Namespace::from_full(ns)).await;
        }
    }
}

async fn once(world: &World, capture: &Capture, ns: &Namespace) {
    let Ok(Some(mut range)) = capture.range(ns, Found::Snapshot, Mode::Append, None).await else { return };
    while !range.is_ended() && !world.chance(5) {
        let limits = Limits { documents: usize::try_from(world.draw(1..5)).unwrap(), bytes: 1 << 20 };
        match capture.verify_page(&mut range, limits).await {
            Ok(done) if done.appended > 0 => world.note(|| format!("walk over {ns}: {} appended", done.appended)),
            Ok(_) => {}
            Err(error) => {
                world.note(|| format!("walk over {ns}: {error}"));
                return;
            }
        }
        world.hop().await;
    }
}
