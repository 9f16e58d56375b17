//! Simulated clients: random programs, run as a driver runs them, retries included.

use crate::ledger::{Acked, Ledger};
use crate::sidecar::{Conn, Sidecar};
use crate::store::Store;
use crate::store::command::{lsid_doc, short};
use crate::store::docs::number;
use crate::store::state::Lsid;
use crate::world::World;
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::{RawBson, rawdoc};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidelog::wire::{Builder, OpMsg};

/// What a client does, and what goes wrong on its side. Percentages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habits {
    /// Commands per client.
    pub(crate) commands: u64,
    /// Entities in all.
    pub(crate) entities: u64,
    /// Of commands: the client goes away in the middle.
    pub(crate) leave: u64,
    /// Of commands: it is a transaction.
    pub(crate) txns: u64,
    /// Others write past the sidecar, or writes land late. `nModified` comes from the images before and after: it is then
    /// theirs as well.
    pub(crate) strangers: bool,
}

/// One client.
pub(crate) struct Client {
    pub(crate) world: Arc<World>,
    pub(crate) store: Arc<Store>,
    pub(crate) side: Arc<Sidecar>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) habits: Habits,
    pub(crate) ops: Arc<AtomicU64>,
    pub(crate) lsid: Lsid,
    pub(crate) txn_number: i64,
    pub(crate) conn: Option<Conn>,
    pub(crate) requests: i32,
}

/// A command under construction: its body, and the statements that travel as a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) ns: &'static str,
    pub(crate) op: u64,
    pub(crate) fields: RawDocumentBuf,
    pub(crate) statements: Option<(&'static str, Vec<RawDocumentBuf>)>,
    /// A driver may retry it.
    pub(crate) retryable: bool,
}

impl Client {
    /// Runs the program to its end.
    pub(crate) async fn run(mut self) {
        if self.world.chance(60) {
            let command = self.fill();
            self.single(&command).await;
        }
        for _ in 0..self.habits.commands {
            self.world.hop().await;
            if self.world.chance(self.habits.txns) {
                self.transaction().await;
                continue;
            }
            let command = self.draw();
            self.single(&command).await;
        }
    }

    pub(crate) fn op(&self) -> u64 {
        self.ops.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs one command, retried once as drivers do.
    pub(crate) async fn single(&mut self, command: &Command) {
        let from_ms = self.world.now_ms();
        let retryable = command.retryable && self.world.chance(70);
        if retryable {
            self.txn_number += 1;
        }
        for attempt in 0..2 {
            let mut body = Self::body(command);
            if retryable {
                body.append(cstr!("lsid"), lsid_doc(&self.lsid));
                body.append(cstr!("txnNumber"), self.txn_number);
            }
            let reply = self.ask(command, &body).await;
            let again = match &reply {
                None => true,
                Some(reply) => has_label(reply.body(), "RetryableWriteError"),
            };
            if !again || !retryable || attempt == 1 {
                if let Some(reply) = reply {
                    self.judge(command, reply.body(), attempt == 0, from_ms);
                }
                return;
            }
        }
    }

    pub(crate) fn body(command: &Command) -> RawDocumentBuf {
        let (db, collection) = command.ns.split_once('.').unwrap();
        let mut body = RawDocumentBuf::new();
        body.append(bson::raw::CString::try_from(command.name.to_owned()).unwrap(), collection);
        for element in command.fields.iter_elements() {
            let element = element.unwrap();
            body.append(element.key(), element.value().unwrap());
        }
        body.append(cstr!("comment"), i64::try_from(command.op).unwrap());
        body.append(cstr!("$db"), db);
        body
    }

    /// Sends a command and waits; connects where there is no connection.
    pub(crate) async fn ask(&mut self, command: &Command, body: &RawDocument) -> Option<OpMsg> {
        for _ in 0..200 {
            if self.conn.is_some() {
                break;
            }
            self.conn = self.side.connect();
            if self.conn.is_none() {
                self.world.sleep_ms(20).await;
            }
        }
        self.requests += 1;
        let mut request = Builder::request(self.requests, 0).body(body);
        if let Some((name, docs)) = &command.statements {
            request = request.sequence(name, docs.iter().map(|d| d.as_bytes()));
        }
        let request = request.finish();
        self.world.note(|| format!("client {}: op {} {}", self.lsid[0], command.op, shown(command, body)));
        let mut conn = self.conn.take()?;
        let leave = self.world.chance(self.habits.leave).then(|| self.world.draw(0..40));
        let reply = match leave {
            None => conn.ask(request).await,
            Some(ms) => {
                tokio::time::timeout(std::time::Duration::from_millis(ms), conn.ask(request)).await.ok().flatten()
            }
        };
        self.world.note(|| {
            let told = reply.as_ref().map_or("no reply".to_owned(), |reply| short(reply.body()));
            format!("client {}: op {} <- {told}", self.lsid[0], command.op)
        });
        if reply.is_some() {
            self.conn = Some(conn);
        }
        self.world.hop().await;
        reply
    }

    /// Notes an ok, and compares the counts with what the store did.
    fn judge(&self, command: &Command, reply: &RawDocument, clean: bool, from_ms: u64) {
        if !is_ok(reply) {
            return;
        }
        let failed = reply.get("writeErrors").unwrap().is_some();
        let to_ms = self.world.now_ms();
        self.ledger.ack(Acked { op: command.op, clean: clean && !failed, from_ms, to_ms });
        let count = |doc: &RawDocument, field: &str| doc.get(field).unwrap().and_then(number).unwrap_or(0);
        let told = match reply.get("lastErrorObject").unwrap() {
            Some(RawBsonRef::Document(last)) => count(last, "n"),
            _ => count(reply, "n"),
        };
        if !clean {
            return;
        }
        let (matched, modified) = self.store.state.lock().done.get(&command.op).copied().unwrap_or_default();
        let told_modified = reply.get("nModified").unwrap().and_then(number);
        let upserts = reply.get_array("upserted").map_or(0, |list| i64::try_from(list.into_iter().count()).unwrap());
        let told_modified = told_modified.filter(|_| !self.habits.strangers);
        let wrong = told != matched || told_modified.is_some_and(|told| told + upserts != modified);
        if wrong {
            self.ledger.complain(&format!(
                "op {}: the client was told n {told}, nModified {told_modified:?}, upserted {upserts}; the store matched {matched}, changed {modified}",
                command.op
            ));
        }
    }

    /// An entity's collection and `_id`; 1 may be written 1L.
    pub(crate) fn entity(&self) -> (&'static str, RawBson) {
        let n = self.world.draw(0..self.habits.entities);
        if n % 3 == 2 {
            return ("m.b", RawBson::String(format!("k{n}")));
        }
        let id = i32::try_from(n).unwrap();
        ("m.a", if self.world.chance(10) { RawBson::Int64(id.into()) } else { RawBson::Int32(id) })
    }

    /// A transaction; see `txn`.
    async fn transaction(&mut self) {
        crate::txn::run(self).await;
    }
}

/// `ok: 1`.
pub(crate) fn is_ok(reply: &RawDocument) -> bool {
    reply.get("ok").unwrap().and_then(number) == Some(1)
}

/// An error label.
pub(crate) fn has_label(reply: &RawDocument, label: &str) -> bool {
    let Ok(labels) = reply.get_array("errorLabels") else { return false };
    labels.into_iter().any(|l| l.unwrap() == RawBsonRef::String(label))
}

fn shown(command: &Command, body: &RawDocument) -> String {
    let statements = command.statements.iter().flat_map(|(_, docs)| docs).map(|doc| short(doc));
    format!("{} {}", short(body), statements.collect::<Vec<_>>().join(" "))
}

/// An update's statement.
pub(crate) fn update(q: RawDocumentBuf, u: RawDocumentBuf, multi: bool, upsert: bool) -> RawDocumentBuf {
    let mut out = rawdoc! {"q": q, "u": u};
    if multi {
        out.append(cstr!("multi"), true);
    }
    if upsert {
        out.append(cstr!("upsert"), true);
    }
    out
}
