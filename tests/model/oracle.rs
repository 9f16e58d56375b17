//! The oracles of DESIGN.md 8, from the log's records and the store's own history. No code of `capture` or `entity`.
//!
//! Of each entity the store's history is a chain of versions, and the log's records must be a way along it: each record
//! goes from the version where the one before ended to a later one. A record goes over exactly one change where all
//! changes came through healthy commands; it may join further ones only where those were made past the sidecar or by
//! commands whose connection broke.

use crate::ledger::{Acked, Ledger};
use crate::store::docs::Key;
use crate::store::state::{By, Place, Transition};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tidelog::types::{Body, Change, Digest, Image, Op, Record};

/// What is judged.
pub(crate) struct Case<'a> {
    pub(crate) records: &'a [Record],
    pub(crate) history: &'a [Transition],
    pub(crate) dump: BTreeMap<Place, Bytes>,
    pub(crate) ledger: &'a Ledger,
    /// A machine may have lost acknowledged records: durability below `always`, and a power cut.
    pub(crate) forgetful: bool,
}

/// One entity's change in the log, and where it stands.
type At<'a> = (usize, &'a Change);

/// Everything that is wrong.
pub(crate) fn check(case: &Case<'_>) -> Vec<String> {
    let mut bad = case.ledger.complaints();
    order(case.records, &mut bad);
    let mut entities: BTreeMap<Place, Vec<At<'_>>> = BTreeMap::new();
    for (at, record) in case.records.iter().enumerate() {
        if let Body::Change(change) = &record.body {
            entities.entry(place(change)).or_default().push((at, change));
        }
    }
    fold(case, &entities, &mut bad);
    for (place, changes) in &entities {
        numbers(place, changes, &mut bad);
        chain(place, changes, &mut bad);
    }
    let acked: BTreeMap<u64, Acked> = case.ledger.acked().into_iter().map(|a| (a.op, a)).collect();
    let mut versions: BTreeMap<&Place, Vec<&Transition>> = BTreeMap::new();
    case.history.iter().for_each(|t| versions.entry(&t.place).or_default().push(t));
    let none = Vec::new();
    let all: BTreeSet<&Place> = versions.keys().copied().chain(entities.keys()).collect();
    for place in all {
        let (history, changes) =
            (versions.get(place).unwrap_or(&Vec::new()).clone(), entities.get(place).unwrap_or(&none));
        way(place, &history, changes, &acked, case.forgetful, &mut bad);
    }
    crate::atomic::check(case, &acked, &mut bad);
    bad
}

/// The entity of a change, by the `_id` that it shows.
pub(crate) fn place(change: &Change) -> Place {
    (change.ns.as_str().to_owned(), Key::of(change.id.as_raw_bson_ref()))
}

fn order(records: &[Record], bad: &mut Vec<String>) {
    for (index, record) in records.iter().enumerate() {
        if record.lsn.0 != index as u64 + 1 {
            bad.push(format!("record {} has lsn {}", index + 1, record.lsn));
        }
    }
    for pair in records.windows(2) {
        if pair[1].hlc <= pair[0].hlc {
            bad.push(format!("the clock of lsn {} does not go on", pair[1].lsn));
        }
    }
    if records.last().is_some_and(|last| last.continued) {
        bad.push("the log ends within a batch".to_owned());
    }
}

fn fold(case: &Case<'_>, entities: &BTreeMap<Place, Vec<At<'_>>>, bad: &mut Vec<String>) {
    let mut folded: BTreeMap<Place, Bytes> = BTreeMap::new();
    for (place, changes) in entities {
        if let Some(after) = changes.last().and_then(|(_, change)| change.after.as_ref()) {
            folded.insert(place.clone(), after.bytes().clone());
        }
    }
    for place in folded.keys().chain(case.dump.keys()).collect::<BTreeSet<_>>() {
        if folded.get(place) != case.dump.get(place) {
            let show = |doc: Option<&Bytes>| {
                doc.map_or("nothing".to_owned(), |d| crate::store::command::short(crate::store::docs::raw(d)))
            };
            bad.push(format!(
                "fold: {place:?} is {} in the log, {} in the store",
                show(folded.get(place)),
                show(case.dump.get(place))
            ));
        }
    }
}

fn numbers(place: &Place, changes: &[At<'_>], bad: &mut Vec<String>) {
    let mut last = (0, 0);
    for (_, change) in changes {
        let now = (change.epoch.0, change.seq.0);
        let dense = if now.0 == last.0 { now.1 == last.1 + 1 } else { now.0 > last.0 && now.1 == 1 };
        if !dense {
            bad.push(format!("seq: {place:?} has {now:?} after {last:?}"));
        }
        last = now;
    }
}

fn chain(place: &Place, changes: &[At<'_>], bad: &mut Vec<String>) {
    let mut last: Option<Digest> = None;
    for (at, change) in changes {
        let before = change.before_sha.or_else(|| change.before.as_ref().map(|i| Digest::of(i.bytes())));
        let image = change.before.as_ref().map(|i| Digest::of(i.bytes()));
        if before != last || image.is_some_and(|image| Some(image) != before) {
            bad.push(format!("chain: {place:?} breaks at lsn {}", at + 1));
        }
        for image in change.before.iter().chain(&change.after) {
            if Digest::of(image.bytes()) != image.sha() {
                bad.push(format!("hash: {place:?} at lsn {}", at + 1));
            }
        }
        last = change.after.as_ref().map(|i| Digest::of(i.bytes()));
    }
}

/// Places along the history where the records so far can end.
struct Way<'a> {
    history: &'a [&'a Transition],
    /// The change must be in a record.
    required: Vec<bool>,
    /// It was acknowledged at the first try: from when to when its client waited.
    clean: Vec<Option<(u64, u64)>>,
}

impl Way<'_> {
    fn version(&self, at: usize) -> Option<&Bytes> {
        at.checked_sub(1).and_then(|at| self.history[at].after.as_ref())
    }

    /// Adds places that are reached without a record: what happened in between was taken back, and nobody was told of it, or
    /// others took part in it: between a command's *before* and *after*, or (where its reply was lost) by a change that the log
    /// had not seen yet.
    fn silent(&self, ends: &mut BTreeSet<usize>) {
        for start in ends.clone() {
            let back = (start + 1..=self.history.len()).filter(|end| self.version(*end) == self.version(start));
            ends.extend(back.filter(|end| (start..*end).all(|at| self.may_be_silent(at, start..*end))));
        }
    }

    fn may_be_silent(&self, at: usize, mut range: std::ops::Range<usize>) -> bool {
        if self.clean[at].is_some() {
            false
        } else {
            // A write whose first try outlived its sidecar is seen with another of its kind, or with a healthy one that it came
            // in between, as their sum, which may be nothing, though it is acknowledged to a second try.
            let when = self.history[at].at_ms;
            let joins = |other: usize| self.clean[other].is_none_or(|(from, to)| (from..=to).contains(&when));
            !self.required[at] || range.any(|other| other != at && joins(other))
        }
    }

    /// Where a record can end that begins at one of `starts`.
    fn step(&self, starts: &BTreeSet<usize>, after: Option<&Bytes>) -> BTreeSet<usize> {
        let mut ends = BTreeSet::new();
        for start in starts {
            for end in start + 1..=self.history.len() {
                if self.version(end) == after && self.one(*start, end) {
                    ends.insert(end);
                }
            }
        }
        ends
    }

    /// The changes after `start` up to `end` may be one record: of healthy commands at most one is among them, and what others
    /// did was done while its client waited: its images were read under the guard.
    fn one(&self, start: usize, end: usize) -> bool {
        let mut clean = self.clean[start..end].iter().flatten();
        let Some((from, to)) = clean.next() else { return true };
        clean.next().is_none() && self.history[start..end].iter().all(|t| t.at_ms >= *from && t.at_ms <= *to)
    }
}

fn way(
    place: &Place,
    history: &[&Transition],
    changes: &[At<'_>],
    acked: &BTreeMap<u64, Acked>,
    forgetful: bool,
    bad: &mut Vec<String>,
) {
    let ack = |t: &Transition| match t.by {
        By::Command { op } => acked.get(&op).copied(),
        By::Bypass | By::Loss => None,
    };
    let last_of = |index: usize| !history[index + 1..].iter().any(|t| t.by == history[index].by);
    let clean = |t: &&Transition| ack(t).filter(|a| a.clean && !forgetful).map(|a| (a.from_ms, a.to_ms));
    let clean = history.iter().map(clean).collect();
    let required =
        history.iter().enumerate().map(|(index, t)| !forgetful && ack(t).is_some_and(|a| a.clean || last_of(index)));
    let way = Way { history, required: required.collect(), clean };
    let mut ends = BTreeSet::from([0]);
    way.silent(&mut ends);
    for (at, change) in changes {
        let after = change.after.as_ref();
        let mut next = way.step(&ends, after.map(Image::bytes));
        // Which of the documents of a command somebody else hid is not known: each that may be it has a record.
        if change.op == Op::Observed && change.before.as_ref().map(Image::bytes) == after.map(Image::bytes) {
            next.extend(ends.iter().filter(|end| way.version(**end) == after.map(Image::bytes)));
        }
        if next.is_empty() {
            bad.push(format!(
                "way: the record at lsn {} of {place:?} ({}) is no step of the store's history from {ends:?}: a ghost, a step twice, or one that joins or skips what was acknowledged",
                at + 1,
                change.op.name()
            ));
            return;
        }
        ends = next;
        way.silent(&mut ends);
    }
    if !ends.contains(&history.len()) {
        let missing: Vec<_> = (ends.iter().max().copied().unwrap_or(0)..history.len()).map(|i| history[i].by).collect();
        bad.push(format!("acked: the log of {place:?} ends before {missing:?}"));
    }
}
