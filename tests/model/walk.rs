//! Somebody compares log and store, range by range, while clients write.

use crate::ledger::Ledger;
use crate::world::World;
use std::sync::Arc;
use tidelog::capture::range::{Limits, Mode};
use tidelog::capture::{Capture, CaptureError};
use tidelog::types::{Found, Namespace};

/// Walks over the model's collections again and again. `strict`: nothing can differ, so what is told is a false alarm.
pub(crate) async fn walks(world: Arc<World>, capture: Arc<Capture>, ledger: Arc<Ledger>, strict: bool) {
    loop {
        world.sleep_ms(world.draw(10..300)).await;
        let ns = ["m.a", "m.b"][world.index(2)];
        let mode = [Mode::Append, Mode::Report, Mode::Repair][world.index(3)];
        match walk(&world, &capture, ns, mode).await {
            Ok((differences, appended)) if strict && differences + appended > 0 => {
                ledger.complain(&format!("a walk over {ns} ({mode:?}) tells of {differences} differences and appends {appended} records where nothing can differ"));
            }
            Ok(_) => {}
            Err(error) => world.note(|| format!("walk over {ns}: {error}")),
        }
    }
}

/// One walk; differences told, records appended.
pub(crate) async fn walk(world: &World, capture: &Capture, ns: &str, mode: Mode) -> Result<(u64, u64), CaptureError> {
    let Some(mut range) = capture.range(&Namespace::from_full(ns), Found::Reconcile, mode, None).await? else {
        return Ok((0, 0));
    };
    let documents = world.index(4) + 1;
    let (mut differences, mut appended) = (0, 0);
    while !range.is_ended() {
        let done = capture.verify_page(&mut range, Limits { documents, bytes: 1 << 20 }).await?;
        differences += done.differences.len() as u64;
        appended += done.appended;
        world.hop().await;
    }
    world.note(|| format!("walk over {ns} ({mode:?}): {differences} differ, {appended} appended"));
    Ok((differences, appended))
}
