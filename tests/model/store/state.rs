//! What the simulated store holds: versions of documents, the history of every change, sessions, open transactions.
//!
//! # Rules
//! - A write outside a transaction sees and replaces the newest version; a document that an open transaction wrote is
//!   *locked*: the writer waits.
//! - A transaction reads the snapshot of its first statement and its own writes. A write of a document that is locked by
//!   another, or newer than the snapshot, is a conflict.
//! - A crash takes back a tail of the history, never half of a transaction.

use super::docs::Key;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

/// A session's id.
pub(crate) type Lsid = [u8; 16];
/// A document's place.
pub(crate) type Place = (String, Key);

/// Who made a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A command with this number (its `comment`), over a connection that is still whole when it is answered, or not.
    Command { op: u64 },
    /// Somebody past the sidecar.
    Bypass,
    /// The store took it back.
    Loss,
}

/// One change that was committed.
#[derive(Clone, Debug)]
pub(crate) struct Transition {
    pub(crate) ts: u64,
    pub(crate) at_ms: u64,
    pub(crate) place: Place,
    pub(crate) after: Option<Bytes>,
    pub(crate) by: By,
    pub(crate) txn: Option<(Lsid, i64)>,
}

#[derive(Clone, Debug)]
struct Version {
    ts: u64,
    doc: Option<Bytes>,
}

/// What a retryable statement did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) ts: u64,
    pub(crate) n: i32,
    pub(crate) modified: i32,
    pub(crate) upserted: Option<bson::RawBson>,
    pub(crate) before: Option<Bytes>,
    pub(crate) after: Option<Bytes>,
}

/// Where a transaction stands.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Open(Txn),
    Committed { ts: u64 },
    Aborted,
}

/// An open transaction.
#[derive(Clone, Debug)]
pub(crate) struct Txn {
    pub(crate) op: u64,
    snapshot: u64,
    writes: BTreeMap<Place, Option<Bytes>>,
    expires: Instant,
}

/// What the store keeps of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) number: i64,
    pub(crate) txn: Option<Phase>,
    pub(crate) outcomes: HashMap<i32, Outcome>,
}

/// Why a write cannot be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// An open transaction wrote the document.
    Locked,
    /// The document is newer than the snapshot, or locked by another transaction.
    Conflict,
    /// The transaction is not there any more.
    Gone,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) ts: u64,
    docs: BTreeMap<Place, Vec<Version>>,
    pub(crate) sessions: BTreeMap<Lsid, Session>,
    pub(crate) history: Vec<Transition>,
    /// Changes of the history up to here survive a crash.
    pub(crate) kept: usize,
    /// Documents that each command matched and changed.
    pub(crate) done: HashMap<u64, (i64, i64)>,
}

impl State {
    /// The newest committed version.
    pub(crate) fn newest(&self, place: &Place) -> Option<Bytes> {
        self.docs.get(place)?.last()?.doc.clone()
    }

    fn newest_ts(&self, place: &Place) -> u64 {
        self.docs.get(place).and_then(|v| v.last()).map_or(0, |v| v.ts)
    }

    /// The open transaction of a session, expired ones ended.
    pub(crate) fn open_txn(&mut self, lsid: &Lsid) -> Option<&mut Txn> {
        let session = self.sessions.get_mut(lsid)?;
        if let Some(Phase::Open(txn)) = &session.txn
            && Instant::now() >= txn.expires
        {
            session.txn = Some(Phase::Aborted);
        }
        match &mut session.txn {
            Some(Phase::Open(txn)) => Some(txn),
            _ => None,
        }
    }

    /// Opens a transaction.
    pub(crate) fn begin(&mut self, lsid: Lsid, op: u64, expires: Instant) {
        let txn = Txn { op, snapshot: self.ts, writes: BTreeMap::new(), expires };
        self.sessions.entry(lsid).or_default().txn = Some(Phase::Open(txn));
    }

    /// An open transaction, other than `of`, that wrote the document.
    fn locked(&mut self, place: &Place, of: Option<&Lsid>) -> bool {
        let now = Instant::now();
        self.sessions.iter_mut().any(|(lsid, session)| match &session.txn {
            Some(Phase::Open(txn)) if Some(lsid) != of && txn.writes.contains_key(place) => {
                let expired = now >= txn.expires;
                if expired {
                    session.txn = Some(Phase::Aborted);
                }
                !expired
            }
            _ => false,
        })
    }

    /// What a reader sees: inside the transaction of `of`, else the newest.
    pub(crate) fn visible(&mut self, place: &Place, of: Option<&Lsid>) -> Option<Bytes> {
        let Some(lsid) = of else { return self.newest(place) };
        let txn = self.open_txn(lsid)?;
        if let Some(own) = txn.writes.get(place) {
            return own.clone();
        }
        let snapshot = txn.snapshot;
        let versions = self.docs.get(place)?;
        versions.iter().rev().find(|v| v.ts <= snapshot)?.doc.clone()
    }

    /// All places of a collection that have (or had) a document, in order.
    pub(crate) fn places(&self, ns: &str, of: Option<&Lsid>) -> Vec<Place> {
        let mut out: Vec<Place> = self.docs.keys().filter(|(at, _)| at == ns).cloned().collect();
        if let Some(Phase::Open(txn)) = of.and_then(|lsid| self.sessions.get(lsid)).and_then(|s| s.txn.as_ref()) {
            out.extend(txn.writes.keys().filter(|(at, _)| at == ns).cloned());
            out.sort();
            out.dedup();
        }
        out
    }

    /// Whether the document may be written now.
    pub(crate) fn may_write(&mut self, place: &Place, of: Option<&Lsid>) -> Result<(), Blocked> {
        let locked = self.locked(place, of);
        let newest = self.newest_ts(place);
        match of {
            None if locked => Err(Blocked::Locked),
            None => Ok(()),
            Some(lsid) => match self.open_txn(lsid) {
                None => Err(Blocked::Gone),
                Some(txn) if locked || (newest > txn.snapshot && !txn.writes.contains_key(place)) => {
                    Err(Blocked::Conflict)
                }
                Some(_) => Ok(()),
            },
        }
    }

    /// Writes a document, if that changes it; the caller asked [`may_write`](Self::may_write) in the same breath.
    pub(crate) fn write(&mut self, place: Place, after: Option<Bytes>, by: By, of: Option<&Lsid>, at_ms: u64) {
        if self.visible(&place, of) == after {
            return;
        }
        if let Some(lsid) = of {
            if let Some(txn) = self.open_txn(lsid) {
                txn.writes.insert(place, after);
            }
            return;
        }
        self.ts += 1;
        self.push(place, after, by, None, at_ms);
    }

    fn push(&mut self, place: Place, after: Option<Bytes>, by: By, txn: Option<(Lsid, i64)>, at_ms: u64) {
        let ts = self.ts;
        let before = self.newest(&place);
        self.docs.entry(place.clone()).or_default().push(Version { ts, doc: after.clone() });
        if before.is_some() || after.is_some() {
            self.history.push(Transition { ts, at_ms, place, after, by, txn });
        }
    }

    /// The open transaction of a session wrote what another one did after its snapshot (or is about to).
    pub(crate) fn conflicts(&mut self, lsid: &Lsid) -> bool {
        let Some(txn) = self.open_txn(lsid).cloned() else { return false };
        txn.writes.keys().any(|place| self.newest_ts(place) > txn.snapshot)
    }

    /// Commits the open transaction of a session.
    pub(crate) fn commit(&mut self, lsid: &Lsid, at_ms: u64) -> bool {
        let Some(txn) = self.open_txn(lsid).cloned() else { return false };
        self.ts += 1;
        let number = self.sessions.get(lsid).map_or(0, |s| s.number);
        for (place, after) in txn.writes {
            if self.newest(&place) != after {
                self.push(place, after, By::Command { op: txn.op }, Some((*lsid, number)), at_ms);
            }
        }
        let ts = self.ts;
        self.sessions.entry(*lsid).or_default().txn = Some(Phase::Committed { ts });
        true
    }

    /// Ends the open transaction of a session; nothing of it stays.
    pub(crate) fn abort(&mut self, lsid: &Lsid) {
        if let Some(session) = self.sessions.get_mut(lsid)
            && matches!(session.txn, Some(Phase::Open(_)))
        {
            session.txn = Some(Phase::Aborted);
        }
    }

    /// Every document.
    pub(crate) fn dump(&self) -> BTreeMap<Place, Bytes> {
        let newest = |versions: &Vec<Version>| versions.last().and_then(|v| v.doc.clone());
        self.docs.iter().filter_map(|(place, versions)| Some((place.clone(), newest(versions)?))).collect()
    }

    /// Makes durable what is older than `bound_ms`.
    pub(crate) fn journal(&mut self, bound_ms: u64) {
        while self.history.get(self.kept).is_some_and(|t| t.at_ms <= bound_ms) {
            self.kept += 1;
        }
    }

    /// The process dies and starts again: the history from `from` on is taken back (whole transactions), sessions are gone
    /// but for what a node keeps. Gives the number of changes lost.
    pub(crate) fn restart(&mut self, from: usize, records_survive: bool, at_ms: u64) -> usize {
        let mut from = from.max(self.kept).min(self.history.len());
        while from > 0 && from < self.history.len() && self.history[from - 1].ts == self.history[from].ts {
            from += 1;
        }
        let lost: Vec<Transition> = self.history[from..].to_vec();
        let bound = lost.first().map_or(u64::MAX, |t| t.ts);
        let mut touched: Vec<Place> = lost.iter().map(|t| t.place.clone()).collect();
        touched.sort();
        touched.dedup();
        self.ts += 1;
        for place in touched {
            let old = self.docs[&place].iter().rev().find(|v| v.ts < bound).and_then(|v| v.doc.clone());
            if old != self.newest(&place) {
                self.push(place, old, By::Loss, None, at_ms);
            }
        }
        self.kept = self.history.len();
        if records_survive {
            for session in self.sessions.values_mut() {
                session.outcomes.retain(|_, outcome| outcome.ts < bound);
                match &session.txn {
                    Some(Phase::Committed { ts }) if *ts < bound => {}
                    Some(_) => session.txn = None,
                    None => {}
                }
            }
        } else {
            self.sessions.clear();
        }
        lost.len()
    }
}
