//! The commands of the simulated store, from message to reply.

use super::Store;
use super::docs::{self, array, document, number};
use super::state::{Lsid, Outcome, Phase};
use super::write::{CONFLICT, Change, Cx, DUPLICATE, Fail, NO_TXN};
use bson::raw::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::{Binary, RawBson, Timestamp, rawdoc};
use bytes::Bytes;
use std::time::Duration;
use tidelog::wire::{Builder, OpMsg};
use tokio::time::Instant;

/// Errors of a node that steps down or is interrupted, retryable as drivers see it.
const INTERRUPTED: Fail =
    Fail { code: 11602, name: "InterruptedDueToReplStateChange", label: Some("RetryableWriteError") };
const NOT_PRIMARY: Fail = Fail { code: 10107, name: "NotWritablePrimary", label: Some("RetryableWriteError") };

/// What the statements of a batch came to.
#[derive(Default)]
struct Batch {
    n: i32,
    modified: i32,
    upserted: Vec<RawDocumentBuf>,
    errors: Vec<RawDocumentBuf>,
    retried: Vec<i32>,
}

fn flag(of: &RawDocument, field: &str, default: bool) -> bool {
    match of.get(field).unwrap() {
        Some(RawBsonRef::Boolean(b)) => b,
        Some(other) => number(other).is_some_and(|n| n != 0),
        None => default,
    }
}

/// The session that a command names.
pub(crate) fn lsid(body: &RawDocument) -> Option<Lsid> {
    let doc = document(body, "lsid")?;
    match doc.get("id").unwrap()? {
        RawBsonRef::Binary(binary) => binary.bytes.try_into().ok(),
        _ => None,
    }
}

/// `lsid` as a command carries it.
pub(crate) fn lsid_doc(lsid: &Lsid) -> RawDocumentBuf {
    let binary = Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: lsid.to_vec() };
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("id"), binary);
    out
}

impl Store {
    /// Runs a command.
    pub(crate) async fn run(&self, message: &OpMsg) -> Bytes {
        let body = message.body();
        let command = message.command().0.to_owned();
        let reply = match self.checked_out(&command, message).await {
            Ok(reply) => reply,
            Err(fail) => failure(&fail),
        };
        let reply = self.with_clocks(&command, reply);
        self.world.note(|| format!("store: {} -> {}", short(body), short(&reply)));
        Builder::reply(1, message.request_id()).body(&reply).finish()
    }

    async fn checked_out(&self, command: &str, message: &OpMsg) -> Result<RawDocumentBuf, Fail> {
        let body = message.body();
        let number = body.get_i64("txnNumber").ok();
        let cx = Cx {
            op: body.get("comment").unwrap().and_then(docs::number).map_or(0, |n| u64::try_from(n).unwrap()),
            lsid: lsid(body),
            retryable: number.is_some() && !flag_false(body),
            txn: number.is_some() && flag_false(body),
            deadline: body
                .get("maxTimeMS")
                .unwrap()
                .and_then(docs::number)
                .map(|ms| Instant::now() + Duration::from_millis(u64::try_from(ms).unwrap())),
            stmt_ids: body.get_array("stmtIds").ok().map(|ids| {
                ids.into_iter().map(|id| i32::try_from(docs::number(id.unwrap()).unwrap()).unwrap()).collect()
            }),
        };
        let Some((lsid, number)) = cx.lsid.zip(number) else { return self.dispatch(command, message, &cx).await };
        let turn = self.checkout(&lsid);
        let _turn = turn.lock().await;
        self.enter(&cx, &lsid, number, flag(body, "startTransaction", false), command)?;
        let reply = self.dispatch(command, message, &cx).await;
        let failed = reply.as_ref().map_or(true, |reply| reply.get("writeErrors").unwrap().is_some());
        if cx.txn && failed && command != "commitTransaction" {
            self.state.lock().abort(&lsid);
        }
        reply
    }

    /// Session and transaction number of a command.
    fn enter(&self, cx: &Cx, lsid: &Lsid, number: i64, start: bool, command: &str) -> Result<(), Fail> {
        let mut state = self.state.lock();
        let session = state.sessions.entry(*lsid).or_default();
        if number < session.number {
            return Err(Fail::new(225, "TransactionTooOld"));
        }
        if number > session.number {
            // An open transaction ends with the newer number, whatever it is for.
            session.number = number;
            session.txn = None;
            session.outcomes.clear();
        }
        if !cx.txn {
            return Ok(());
        }
        if start {
            if session.txn.is_some() || !session.outcomes.is_empty() {
                return Err(Fail::new(117, "ConflictingOperationInProgress"));
            }
            let expires = Instant::now() + Duration::from_millis(self.flavor.txn_lifetime_ms);
            state.begin(*lsid, cx.op, expires);
            return Ok(());
        }
        if let Some(txn) = state.open_txn(lsid) {
            // The first command may have been a read of the sidecar's own.
            txn.op = if txn.op == 0 { cx.op } else { txn.op };
            return Ok(());
        }
        match &state.sessions.entry(*lsid).or_default().txn {
            Some(Phase::Committed { .. }) if command == "commitTransaction" => Ok(()),
            Some(Phase::Committed { .. }) => Err(Fail::new(256, "TransactionCommitted")),
            _ => Err(NO_TXN),
        }
    }

    async fn dispatch(&self, command: &str, message: &OpMsg, cx: &Cx) -> Result<RawDocumentBuf, Fail> {
        let body = message.body();
        let ns = format!("{}.{}", message.db().unwrap_or(""), message.command().1.unwrap_or(""));
        match command {
            "find" => Ok(self.run_find(body, cx, &ns)),
            "insert" => self.batch(message, cx, &ns, "documents").await,
            "update" => self.batch(message, cx, &ns, "updates").await,
            "delete" => self.batch(message, cx, &ns, "deletes").await,
            "findAndModify" => self.find_and_modify(body, cx, &ns).await,
            "commitTransaction" => self.commit(cx.lsid.unwrap()),
            "abortTransaction" => {
                self.state.lock().abort(&cx.lsid.unwrap());
                Ok(rawdoc! {"ok": 1.0})
            }
            "ping" | "hello" | "killCursors" | "endSessions" => Ok(rawdoc! {"ok": 1.0}),
            _ => Err(Fail::new(59, "CommandNotFound")),
        }
    }

    /// A commit; at times with an error although, or because, nothing is known of it.
    fn commit(&self, lsid: Lsid) -> Result<RawDocumentBuf, Fail> {
        let trouble = self.fault(self.flavor.refuse).then(|| self.world.index(3));
        let mut state = self.state.lock();
        match trouble {
            Some(0) => {
                state.abort(&lsid);
                return Err(NO_TXN);
            }
            Some(1) => return Err(INTERRUPTED),
            _ => {}
        }
        let known = matches!(state.sessions.entry(lsid).or_default().txn, Some(Phase::Committed { .. }));
        if !known && state.conflicts(&lsid) {
            state.abort(&lsid);
            return Err(CONFLICT);
        }
        if !known && !state.commit(&lsid, self.world.now_ms()) {
            return Err(NO_TXN);
        }
        if trouble.is_some() { Err(INTERRUPTED) } else { Ok(rawdoc! {"ok": 1.0}) }
    }

    fn run_find(&self, body: &RawDocument, cx: &Cx, ns: &str) -> RawDocumentBuf {
        let limit = body.get("limit").unwrap().and_then(number).map_or(usize::MAX, |n| usize::try_from(n).unwrap());
        let limit = if limit == 0 { usize::MAX } else { limit };
        let empty = RawDocumentBuf::new();
        let mut found = self.find(cx.of(), ns, document(body, "filter").unwrap_or(&empty), limit);
        if document(body, "projection").is_some() {
            for doc in &mut found {
                let id = RawBson::from(doc.get("_id").unwrap().unwrap());
                *doc = rawdoc! {"_id": id};
            }
        }
        rawdoc! {"cursor": {"firstBatch": array(found), "id": 0_i64, "ns": ns}, "ok": 1.0}
    }

    async fn batch(&self, message: &OpMsg, cx: &Cx, ns: &str, field: &str) -> Result<RawDocumentBuf, Fail> {
        let body = message.body();
        let ordered = flag(body, "ordered", true);
        let statements = message.documents(field).unwrap();
        // A node steps down before the command, or in the middle of it.
        let fails_at = self.fault(self.flavor.refuse).then(|| self.world.index(statements.len() + 1));
        let mut out = Batch::default();
        for (index, statement) in statements.iter().enumerate() {
            if fails_at == Some(index) {
                return Err(if index == 0 { NOT_PRIMARY } else { INTERRUPTED });
            }
            if index > 0 && !cx.txn {
                self.world.hop().await;
            }
            if let Some(outcome) = self.remembered(cx, index) {
                out.retried.push(cx.stmt_id(index));
                out.add(index, &outcome);
                continue;
            }
            match self.statement(cx, ns, field, docs::raw(statement)).await {
                Ok(outcome) => {
                    self.remember(cx, index, &outcome);
                    out.add(index, &outcome);
                }
                Err(fail) if fail == DUPLICATE => {
                    let index = i32::try_from(index).unwrap();
                    out.errors
                        .push(rawdoc! {"index": index, "code": fail.code, "errmsg": "E11000 duplicate key error"});
                    if ordered || cx.txn {
                        break;
                    }
                }
                Err(fail) => return Err(fail),
            }
        }
        Ok(out.reply(field == "updates"))
    }

    async fn statement(&self, cx: &Cx, ns: &str, field: &str, statement: &RawDocument) -> Result<Outcome, Fail> {
        if field == "documents" {
            let doc = docs::stored(statement);
            self.put_new(cx, ns, &doc).await?;
            return Ok(Outcome { n: 1, after: Some(doc), ..Outcome::default() });
        }
        let change = Change {
            ns,
            filter: document(statement, "q").unwrap(),
            update: document(statement, "u"),
            multi: flag(statement, "multi", false) || statement.get("limit").unwrap().and_then(number) == Some(0),
            upsert: flag(statement, "upsert", false),
        };
        self.change(cx, &change).await
    }

    async fn find_and_modify(&self, body: &RawDocument, cx: &Cx, ns: &str) -> Result<RawDocumentBuf, Fail> {
        let empty = RawDocumentBuf::new();
        let update = document(body, "update");
        let known = self.remembered(cx, 0);
        let retried = known.is_some();
        if self.fault(self.flavor.refuse) && !retried {
            return Err(NOT_PRIMARY);
        }
        let outcome = if let Some(outcome) = known {
            outcome
        } else {
            let filter = document(body, "query").unwrap_or(&empty);
            let upsert = flag(body, "upsert", false);
            let outcome = self.change(cx, &Change { ns, filter, update, multi: false, upsert }).await?;
            self.remember(cx, 0, &outcome);
            outcome
        };
        let mut last = rawdoc! {"n": outcome.n};
        if update.is_some() {
            last.append(cstr!("updatedExisting"), outcome.n > 0 && outcome.upserted.is_none());
        }
        if let Some(id) = &outcome.upserted {
            last.append(cstr!("upserted"), id.clone());
        }
        let image = if flag(body, "new", false) { &outcome.after } else { &outcome.before };
        let value = image.as_ref().map_or(RawBson::Null, |doc| RawBson::Document(docs::raw(doc).to_owned()));
        let mut out = rawdoc! {"lastErrorObject": last, "value": value, "ok": 1.0};
        if retried {
            out.append(cstr!("retriedStmtId"), cx.stmt_id(0));
        }
        Ok(out)
    }

    /// What a node of a replica set adds.
    fn with_clocks(&self, command: &str, mut reply: RawDocumentBuf) -> RawDocumentBuf {
        if !self.flavor.replica {
            return reply;
        }
        let increment = u32::try_from(self.state.lock().ts + 1).unwrap();
        let time = Timestamp { time: self.world.secs(), increment };
        if matches!(command, "insert" | "update" | "delete") && flag(&reply, "ok", false) {
            reply.append(cstr!("electionId"), bson::oid::ObjectId::from_bytes([7; 12]));
            reply.append(cstr!("opTime"), rawdoc! {"ts": time, "t": 1_i64});
        }
        reply.append(cstr!("$clusterTime"), rawdoc! {"clusterTime": time});
        reply.append(cstr!("operationTime"), time);
        reply
    }
}

impl Batch {
    fn add(&mut self, index: usize, outcome: &Outcome) {
        self.n += outcome.n;
        self.modified += outcome.modified;
        if let Some(id) = &outcome.upserted {
            self.upserted.push(rawdoc! {"index": i32::try_from(index).unwrap(), "_id": id.clone()});
        }
    }

    fn reply(self, update: bool) -> RawDocumentBuf {
        let mut out = rawdoc! {"n": self.n};
        if !self.upserted.is_empty() {
            out.append(cstr!("upserted"), array(self.upserted));
        }
        if update {
            out.append(cstr!("nModified"), self.modified);
        }
        if !self.errors.is_empty() {
            out.append(cstr!("writeErrors"), array(self.errors));
        }
        if !self.retried.is_empty() {
            let mut ids = RawArrayBuf::new();
            self.retried.iter().for_each(|id| ids.push(*id));
            out.append(cstr!("retriedStmtIds"), ids);
        }
        out.append(cstr!("ok"), 1.0);
        out
    }
}

/// The command stands inside a transaction.
fn flag_false(body: &RawDocument) -> bool {
    matches!(body.get_bool("autocommit"), Ok(false))
}

fn failure(fail: &Fail) -> RawDocumentBuf {
    let mut out = rawdoc! {"ok": 0.0, "errmsg": fail.name, "code": fail.code, "codeName": fail.name};
    if let Some(label) = fail.label {
        out.append(cstr!("errorLabels"), [label].into_iter().collect::<RawArrayBuf>());
    }
    out
}

/// A document for the trace.
pub(crate) fn short(doc: &RawDocument) -> String {
    let doc = bson::Document::try_from(doc).unwrap_or_default();
    let hidden = ["$db", "$clusterTime", "operationTime", "opTime", "electionId", "readConcern"];
    let shown = doc.into_iter().filter(|(key, _)| !hidden.contains(&key.as_str()));
    bson::Bson::Document(shown.collect()).into_relaxed_extjson().to_string()
}
