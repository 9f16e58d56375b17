//! What happened, as far as clients and readers of the log were told: the material of the oracles.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use tidelog::types::{Body, Committed, Digest};

/// A command that a client got an ok for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acked {
    pub(crate) op: u64,
    /// At the first try: its connection never broke, nobody retried anything.
    pub(crate) clean: bool,
    /// When the client sent it first.
    pub(crate) from_ms: u64,
    /// When it had the reply.
    pub(crate) to_ms: u64,
}

/// `(namespace, entity key, epoch, seq)`.
type Number = (String, Vec<u8>, u32, u64);

/// The notes of one schedule.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    complaints: Mutex<Vec<String>>,
    acked: Mutex<Vec<Acked>>,
    seen: Mutex<BTreeMap<Number, Option<Digest>>>,
}

impl Ledger {
    /// Something is wrong.
    pub(crate) fn complain(&self, what: &str) {
        self.complaints.lock().push(what.to_owned());
    }

    /// All that is wrong.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().clone()
    }

    /// A client got an ok.
    pub(crate) fn ack(&self, acked: Acked) {
        self.acked.lock().push(acked);
    }

    /// Everything that was acknowledged.
    pub(crate) fn acked(&self) -> Vec<Acked> {
        self.acked.lock().clone()
    }

    /// Records became visible to readers: no number may ever mean anything else.
    pub(crate) fn published(&self, group: &[Committed]) {
        let mut seen = self.seen.lock();
        for committed in group {
            let Body::Change(change) = &committed.record.body else { continue };
            let number = (change.ns.as_str().to_owned(), change.key.as_bytes().to_vec(), change.epoch.0, change.seq.0);
            let sha = change.after.as_ref().map(|image| Digest::of(image.bytes()));
            if let Some(before) = seen.insert(number, sha)
                && before != sha
            {
                let (ns, epoch, seq) = (&change.ns, change.epoch.0, change.seq.0);
                self.complain(&format!("({epoch}, {seq}) of an entity in {ns} was given to two changes"));
            }
        }
    }
}
