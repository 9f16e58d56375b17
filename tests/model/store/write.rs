//! Statements of the simulated store: one document at a time, waiting for locks outside transactions, failing at once inside.

use super::Store;
use super::docs::{self, Key, raw};
use super::state::{Blocked, By, Lsid, Outcome, Place};
use bson::RawBson;
use bson::raw::{RawDocument, RawDocumentBuf};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::Instant;

/// An error of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fail {
    pub(crate) code: i32,
    pub(crate) name: &'static str,
    pub(crate) label: Option<&'static str>,
}

impl Fail {
    pub(crate) const fn new(code: i32, name: &'static str) -> Self {
        Self { code, name, label: None }
    }

    pub(crate) const fn transient(code: i32, name: &'static str) -> Self {
        Self { code, name, label: Some("TransientTransactionError") }
    }
}

pub(crate) const CONFLICT: Fail = Fail::transient(112, "WriteConflict");
pub(crate) const NO_TXN: Fail = Fail::transient(251, "NoSuchTransaction");
pub(crate) const DUPLICATE: Fail = Fail::new(11000, "DuplicateKey");
pub(crate) const TOO_LONG: Fail = Fail::new(50, "MaxTimeMSExpired");

/// What a command has for all of its statements.
#[derive(Clone, Debug)]
pub(crate) struct Cx {
    /// The client's number of the command; 0: it told none.
    pub(crate) op: u64,
    pub(crate) lsid: Option<Lsid>,
    /// A retryable write.
    pub(crate) retryable: bool,
    /// Inside a transaction.
    pub(crate) txn: bool,
    pub(crate) deadline: Option<Instant>,
    pub(crate) stmt_ids: Option<Vec<i32>>,
}

impl Cx {
    /// The session whose transaction this belongs to.
    pub(crate) fn of(&self) -> Option<&Lsid> {
        self.lsid.as_ref().filter(|_| self.txn)
    }

    pub(crate) fn stmt_id(&self, index: usize) -> i32 {
        self.stmt_ids.as_ref().map_or(i32::try_from(index).unwrap(), |ids| ids[index])
    }
}

/// A statement that changes what is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) ns: &'a str,
    pub(crate) filter: &'a RawDocument,
    /// `None`: a delete.
    pub(crate) update: Option<&'a RawDocument>,
    pub(crate) multi: bool,
    pub(crate) upsert: bool,
}

impl Store {
    fn by(cx: &Cx) -> By {
        if cx.op == 0 { By::Bypass } else { By::Command { op: cx.op } }
    }

    /// The first document that matches from `from` on.
    fn candidate(&self, cx: &Cx, change: &Change<'_>, from: Option<&Place>) -> Option<(Place, Bytes)> {
        let mut state = self.state.lock();
        let places = state.places(change.ns, cx.of());
        let mut rest = places.into_iter().filter(|place| from.is_none_or(|from| place > from));
        rest.find_map(|place| {
            let doc = state.visible(&place, cx.of())?;
            docs::matches(raw(&doc), change.filter).then_some((place, doc))
        })
    }

    /// Waits while an open transaction keeps a document.
    async fn wait(&self, cx: &Cx, ms: &mut u64) -> Result<(), Fail> {
        if cx.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(TOO_LONG);
        }
        tokio::time::sleep(Duration::from_millis(*ms)).await;
        *ms = (*ms * 2).min(64);
        Ok(())
    }

    /// Changes one document. `None`: it does not match any more.
    async fn change_at(
        &self,
        cx: &Cx,
        change: &Change<'_>,
        place: &Place,
    ) -> Result<Option<(Bytes, Option<Bytes>)>, Fail> {
        let mut ms = 1;
        loop {
            {
                let mut state = self.state.lock();
                let Some(before) = state.visible(place, cx.of()).filter(|d| docs::matches(raw(d), change.filter))
                else {
                    return Ok(None);
                };
                let after = change.update.map(|update| docs::updated(Some(raw(&before)), change.filter, update));
                let same = after.as_ref() == Some(&before);
                match state.may_write(place, cx.of()) {
                    Ok(()) => {
                        state.write(place.clone(), after.clone(), Self::by(cx), cx.of(), self.world.now_ms());
                        let done = state.done.entry(cx.op).or_default();
                        *done = (done.0 + 1, done.1 + i64::from(!same));
                        return Ok(Some((before, after)));
                    }
                    Err(Blocked::Conflict) => return Err(CONFLICT),
                    Err(Blocked::Gone) => return Err(NO_TXN),
                    Err(Blocked::Locked) => {}
                }
            }
            self.wait(cx, &mut ms).await?;
        }
    }

    /// Puts a document where there is none.
    pub(crate) async fn put_new(&self, cx: &Cx, ns: &str, doc: &Bytes) -> Result<(), Fail> {
        let place = (ns.to_owned(), Key::of_doc(raw(doc)));
        let mut ms = 1;
        loop {
            {
                let mut state = self.state.lock();
                if state.visible(&place, cx.of()).is_some() {
                    return Err(DUPLICATE);
                }
                let late = self.flavor.late_conflicts;
                match state.may_write(&place, cx.of()) {
                    Err(Blocked::Conflict) if !late => return Err(CONFLICT),
                    Ok(()) | Err(Blocked::Conflict) => {
                        state.write(place, Some(doc.clone()), Self::by(cx), cx.of(), self.world.now_ms());
                        let done = state.done.entry(cx.op).or_default();
                        *done = (done.0 + 1, done.1 + 1);
                        return Ok(());
                    }
                    Err(Blocked::Gone) => return Err(NO_TXN),
                    Err(Blocked::Locked) => {}
                }
            }
            self.wait(cx, &mut ms).await?;
        }
    }

    /// Runs an update or delete statement.
    pub(crate) async fn change(&self, cx: &Cx, change: &Change<'_>) -> Result<Outcome, Fail> {
        let mut out = Outcome::default();
        let mut at: Option<Place> = None;
        while let Some((place, _)) = self.candidate(cx, change, at.as_ref()) {
            if let Some((before, after)) = self.change_at(cx, change, &place).await? {
                out.n += 1;
                out.modified += i32::from(after.as_ref() != Some(&before));
                (out.before, out.after) = (Some(before), after);
                if !change.multi {
                    break;
                }
                // A server yields within a multi statement; others come between.
                if !cx.txn {
                    self.world.hop().await;
                }
            }
            at = change.multi.then_some(place);
            if !change.multi {
                tokio::task::yield_now().await;
            }
        }
        if out.n == 0
            && let (true, Some(update)) = (change.upsert, change.update)
        {
            return self.upsert(cx, change, update).await;
        }
        Ok(out)
    }

    async fn upsert(&self, cx: &Cx, change: &Change<'_>, update: &RawDocument) -> Result<Outcome, Fail> {
        let doc = docs::updated(None, change.filter, update);
        match self.put_new(cx, change.ns, &doc).await {
            // Somebody was faster: now there is one to update.
            Err(fail) if fail == DUPLICATE && !cx.txn && docs::named_id(change.filter).is_some() => {
                let again = Change { upsert: false, ..*change };
                Box::pin(self.change(cx, &again)).await
            }
            Err(fail) => Err(fail),
            Ok(()) => {
                let id = RawBson::from(raw(&doc).get("_id").unwrap().unwrap());
                Ok(Outcome { n: 1, upserted: Some(id), after: Some(doc), ..Outcome::default() })
            }
        }
    }

    /// What is known of a statement that ran already.
    pub(crate) fn remembered(&self, cx: &Cx, index: usize) -> Option<Outcome> {
        let lsid = cx.lsid.as_ref().filter(|_| cx.retryable)?;
        let state = self.state.lock();
        state.sessions.get(lsid)?.outcomes.get(&cx.stmt_id(index)).cloned()
    }

    /// Keeps what a statement did, in the same breath as far as a crash can tell.
    pub(crate) fn remember(&self, cx: &Cx, index: usize, outcome: &Outcome) {
        let Some(lsid) = cx.lsid.filter(|_| cx.retryable) else { return };
        let mut state = self.state.lock();
        let outcome = Outcome { ts: state.ts, ..outcome.clone() };
        state.sessions.entry(lsid).or_default().outcomes.insert(cx.stmt_id(index), outcome);
    }

    /// A find: documents in `_id` order.
    pub(crate) fn find(&self, of: Option<&Lsid>, ns: &str, filter: &RawDocument, limit: usize) -> Vec<RawDocumentBuf> {
        let mut state = self.state.lock();
        let places = state.places(ns, of);
        let docs = places.iter().filter_map(|place| state.visible(place, of));
        docs.filter(|doc| docs::matches(raw(doc), filter)).take(limit).map(|doc| raw(&doc).to_owned()).collect()
    }
}
