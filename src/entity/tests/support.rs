//! A small log in memory, and a model of the index that is as simple as it can be.

use super::super::index::{Entry, Index, IndexOptions};
use crate::types::{
    Body, Change, Committed, Control, Digest, EntityKey, Epoch, Hlc, Image, LogId, LogState, Lsn, Namespace, Op,
    Record, Seq,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub(in crate::entity) const LOG: LogId = LogId([7; 16]);
pub(in crate::entity) const NAMES: [&str; 4] = ["a.x", "a.y", "b.x", "ab.x"];

pub(in crate::entity) fn ns(name: &str) -> Namespace {
    Namespace::from_full(name)
}

pub(in crate::entity) fn key(n: u8) -> EntityKey {
    EntityKey(Arc::from([12, n, 0]))
}

pub(in crate::entity) fn open(dir: &Path, tail: Lsn) -> Index {
    Index::open(dir, LOG, tail, &IndexOptions { cache_bytes: 1 << 20 }).unwrap()
}

/// What a writer or an operator does.
#[derive(Clone, Debug)]
pub(in crate::entity) enum Deed {
    Write { ns: usize, key: u8, to: Option<u8> },
    Open { ns: usize, complete: bool },
    Complete { ns: usize },
    Drop { ns: usize },
    DropDatabase { db: &'static str },
    Rename { from: usize, to: usize },
    OpenGap { id: u64, ns: usize },
    CloseGap { id: u64 },
    Other,
}

pub(in crate::entity) fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        20 => (0_usize..4, 0_u8..6, prop::option::weighted(0.8, 0_u8..4)).prop_map(|(ns, key, to)| Deed::Write { ns, key, to }),
        1 => (0_usize..4, any::<bool>()).prop_map(|(ns, complete)| Deed::Open { ns, complete }),
        1 => (0_usize..4).prop_map(|ns| Deed::Complete { ns }),
        1 => (0_usize..4).prop_map(|ns| Deed::Drop { ns }),
        1 => prop_oneof![Just("a"), Just("b")].prop_map(|db| Deed::DropDatabase { db }),
        2 => (0_usize..4, 1_usize..4).prop_map(|(from, by)| Deed::Rename { from, to: (from + by) % 4 }),
        1 => (0_u64..3, 0_usize..4).prop_map(|(id, ns)| Deed::OpenGap { id, ns }),
        1 => (0_u64..3).prop_map(|id| Deed::CloseGap { id }),
        1 => Just(Deed::Other),
    ]
}

/// The truth by the plainest means: the chain rule of the contract, and a fold of whole records.
#[derive(Clone, Debug, Default)]
pub(in crate::entity) struct Model {
    pub(in crate::entity) log: Vec<Committed>,
    pub(in crate::entity) state: LogState,
    /// Images alive, and the record that wrote each.
    pub(in crate::entity) fold: BTreeMap<(Namespace, EntityKey), (Image, Lsn)>,
    pub(in crate::entity) counters: BTreeMap<(Namespace, EntityKey), (Epoch, Seq)>,
}

impl Model {
    /// Writes the deed's record; a deed that changes nothing (deleting what is not there) writes none.
    pub(in crate::entity) fn record(&mut self, deed: &Deed, epoch: Epoch) -> Option<Committed> {
        let body = match deed {
            Deed::Write { ns: n, key: k, to } => {
                Body::Change(Box::new(self.change(&ns(NAMES[*n]), &key(*k), *to, epoch)?))
            }
            other => Body::Control(control(other)),
        };
        let lsn = Lsn(u64::try_from(self.log.len()).unwrap() + 1);
        let record = Arc::new(Record { lsn, hlc: Hlc(lsn.0), wall_ms: 5, continued: false, body });
        self.take(&record);
        self.state.apply(&record);
        let committed = Committed { record, offset: lsn.0 * 100 };
        self.log.push(committed.clone());
        Some(committed)
    }

    fn change(&self, ns: &Namespace, key: &EntityKey, to: Option<u8>, epoch: Epoch) -> Option<Change> {
        let id = (ns.clone(), key.clone());
        let before = self.fold.get(&id).map(|(image, _)| image.clone());
        let after = to.map(|v| Image::new(Bytes::from(vec![v, key.as_bytes()[1]])));
        if before == after {
            return None;
        }
        let (epoch, seq) = match self.counters.get(&id) {
            Some((last, seq)) if *last == epoch => (epoch, Seq(seq.0 + 1)),
            _ => (epoch, Seq(1)),
        };
        Some(Change {
            before_sha: before.as_ref().map(Image::sha),
            before,
            after,
            ..Change::new(ns.clone(), bson::RawBson::Null, key.clone(), (epoch, seq), Op::Update)
        })
    }

    fn take(&mut self, record: &Record) {
        match &record.body {
            Body::Change(change) => {
                let id = (change.ns.clone(), change.key.clone());
                self.counters.insert(id.clone(), (change.epoch, change.seq));
                match &change.after {
                    Some(image) => self.fold.insert(id, (image.clone(), record.lsn)),
                    None => self.fold.remove(&id),
                };
            }
            Body::Control(Control::Drop { ns }) => self.fold.retain(|(at, _), _| at != ns),
            Body::Control(Control::DropDatabase { db }) => self.fold.retain(|(at, _), _| at.db() != db),
            Body::Control(Control::Rename { from, to }) => {
                let moved: Vec<_> = self
                    .fold
                    .iter()
                    .filter(|((at, _), _)| at == from)
                    .map(|((_, k), v)| (k.clone(), v.clone()))
                    .collect();
                self.fold.retain(|(at, _), _| at != from && at != to);
                self.fold.extend(moved.into_iter().map(|(key, image)| ((to.clone(), key), image)));
            }
            Body::Control(_) => {}
        }
    }

    /// Asserts that the index says what the model says, by point reads, by scans and as a whole.
    pub(in crate::entity) fn check(&self, index: &Index) {
        assert_eq!(index.applied(), Lsn(u64::try_from(self.log.len()).unwrap()));
        assert_eq!(index.state(), self.state);
        for name in NAMES {
            let known = index.known(&ns(name)).map(|k| k.complete);
            assert_eq!(known, self.state.namespaces.get(&ns(name)).map(|s| s.complete));
            for k in 0..6 {
                self.check_entity(&ns(name), &key(k), index.get(&ns(name), &key(k)).unwrap());
            }
            let (mut paged, mut after) = (Vec::new(), None);
            loop {
                let page = index.scan(&ns(name), after.as_ref(), 2).unwrap();
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                paged.extend(page);
            }
            assert_eq!(paged, index.scan(&ns(name), None, 1000).unwrap());
            for (key, entry) in &paged {
                self.check_entity(&ns(name), key, Some(*entry));
            }
            let alive = paged.iter().filter(|(_, entry)| entry.alive).count();
            assert_eq!(alive, self.fold.keys().filter(|(at, _)| at.as_str() == name).count());
        }
        self.check_fingerprints();
    }

    fn check_entity(&self, ns: &Namespace, key: &EntityKey, entry: Option<Entry>) {
        let id = (ns.clone(), key.clone());
        let Some(entry) = entry else {
            assert!(!self.fold.contains_key(&id) && !self.counters.contains_key(&id));
            return;
        };
        let counter = self.counters.get(&id).copied().unwrap_or((Epoch(0), Seq(0)));
        assert_eq!((entry.epoch, entry.seq), counter);
        match self.fold.get(&id) {
            Some((image, lsn)) => {
                assert_eq!((entry.alive, entry.sha, entry.lsn, entry.offset), (true, image.sha(), *lsn, lsn.0 * 100));
            }
            None => assert_eq!((entry.alive, entry.sha), (false, Digest([0; 32]))),
        }
    }

    /// The folded state against a sum made from the living, digit by digit in another way.
    fn check_fingerprints(&self) {
        for (name, state) in &self.state.namespaces {
            let (mut sum, mut alive) = ([0_u32; 32], 0);
            for (image, _) in self.fold.iter().filter(|((at, _), _)| at == name).map(|(_, v)| v) {
                alive += 1;
                for (digit, byte) in sum.iter_mut().zip(image.sha().0) {
                    *digit += u32::from(byte);
                }
            }
            for at in (0..32).rev() {
                let carry = sum[at] >> 8;
                sum[at] &= 0xff;
                if at > 0 {
                    sum[at - 1] += carry;
                }
            }
            let sum = sum.map(|digit| u8::try_from(digit).unwrap());
            assert_eq!((state.alive, state.sum), (alive, sum), "{name}");
        }
    }
}

fn control(deed: &Deed) -> Control {
    let name = |n: &usize| ns(NAMES[*n]);
    match deed {
        Deed::Open { ns, complete } => Control::Opened { ns: name(ns), complete: *complete },
        Deed::Complete { ns } => Control::Completed { ns: name(ns) },
        Deed::Drop { ns } => Control::Drop { ns: name(ns) },
        Deed::DropDatabase { db } => Control::DropDatabase { db: (*db).to_owned() },
        Deed::Rename { from, to } => Control::Rename { from: name(from), to: name(to) },
        Deed::OpenGap { id, ns } => {
            Control::GapOpened { id: *id, ns: name(ns), cause: "out".to_owned(), detail: format!("gap {id}") }
        }
        Deed::CloseGap { id } => Control::GapClosed { id: *id },
        Deed::Write { .. } | Deed::Other => Control::Started { version: "1".to_owned() },
    }
}

/// All of an index, to compare one with another.
pub(in crate::entity) fn dump(index: &Index) -> (Lsn, LogState, Vec<(Namespace, EntityKey, Entry)>) {
    let mut rows = Vec::new();
    index.scan_all(|ns, key, entry| rows.push((ns, key, entry))).unwrap();
    let (applied, state) = index.snapshot();
    (applied, state, rows)
}
