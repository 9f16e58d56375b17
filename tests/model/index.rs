//! The oracle of the index: it is the fold of the log.

use std::collections::BTreeMap;
use tidelog::entity::Index;
use tidelog::types::{Body, Digest, Record};

/// `(epoch, seq, lsn, hash of the image)` of an entity.
type Last = (u32, u64, u64, Option<Digest>);

/// What is wrong.
pub(crate) fn check(records: &[Record], index: &Index) -> Option<String> {
    let mut folded: BTreeMap<(String, Vec<u8>), Last> = BTreeMap::new();
    for record in records {
        if let Body::Change(change) = &record.body {
            let sha = change.after.as_ref().map(|image| Digest::of(image.bytes()));
            let last = (change.epoch.0, change.seq.0, record.lsn.0, sha);
            folded.insert((change.ns.as_str().to_owned(), change.key.as_bytes().to_vec()), last);
        }
    }
    let mut held = BTreeMap::new();
    let scanned = index.scan_all(|ns, key, entry| {
        let last = (entry.epoch.0, entry.seq.0, entry.lsn.0, entry.alive.then_some(entry.sha));
        held.insert((ns.as_str().to_owned(), key.as_bytes().to_vec()), last);
    });
    if let Err(error) = scanned {
        return Some(format!("index: {error}"));
    }
    if index.staged() > 0 {
        return Some(format!("index: {} entities are staged for ever", index.staged()));
    }
    (held != folded).then(|| "index: it is not the fold of the log".to_owned())
}
