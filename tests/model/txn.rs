//! Transactions of simulated clients, run as drivers run them: the whole again after a transient error, the commit again when
//! nothing is known of it.

use crate::client::{Client, Command, has_label, is_ok};
use crate::ledger::Acked;
use crate::store::command::lsid_doc;
use bson::raw::{RawDocument, RawDocumentBuf, cstr};

/// Times that a transaction is run as a whole.
const TRIES: usize = 3;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Acknowledged; `true`: at the first try, without any trouble.
    Committed(bool),
    /// The whole may be run again.
    Transient,
    /// The client gave up, or walked away.
    Over,
}

/// Runs a transaction.
pub(crate) async fn run(client: &mut Client) {
    for _ in 0..TRIES {
        let (op, from_ms) = (client.op(), client.world.now_ms());
        match attempt(client, op).await {
            End::Committed(clean) => {
                let to_ms = client.world.now_ms();
                return client.ledger.ack(Acked { op, clean, from_ms, to_ms });
            }
            End::Over => return,
            End::Transient => client.world.hop().await,
        }
    }
}

async fn attempt(client: &mut Client, op: u64) -> End {
    client.txn_number += 1;
    let count = client.world.draw(1..5);
    for index in 0..count {
        let command = client.draw_joined(op, index);
        let body = joined(client, &command, index == 0);
        let Some(reply) = client.ask(&command, &body).await else {
            return gone(client, op).await;
        };
        let body = reply.body();
        if has_label(body, "TransientTransactionError") {
            return gone(client, op).await;
        }
        if !is_ok(body) || body.get("writeErrors").unwrap().is_some() {
            abort(client, op).await;
            return End::Over;
        }
        // Some applications think for long.
        if client.world.chance(10) {
            client.world.sleep_ms(client.world.draw(50..1_500)).await;
        }
    }
    match client.world.draw(0..20) {
        0..=1 => {
            abort(client, op).await;
            End::Over
        }
        2 => End::Over,
        _ => commit(client, op).await,
    }
}

/// After a transient error a driver aborts before it runs the whole again.
async fn gone(client: &mut Client, op: u64) -> End {
    if client.world.chance(70) {
        abort(client, op).await;
    }
    End::Transient
}

async fn commit(client: &mut Client, op: u64) -> End {
    for attempt in 0..4 {
        let command = plain("commitTransaction", op);
        let body = joined(client, &command, false);
        let Some(reply) = client.ask(&command, &body).await else { continue };
        let body = reply.body();
        if is_ok(body) {
            return End::Committed(attempt == 0);
        }
        if has_label(body, "TransientTransactionError") {
            return End::Transient;
        }
        if !has_label(body, "RetryableWriteError") {
            return End::Over;
        }
        client.world.hop().await;
    }
    End::Over
}

async fn abort(client: &mut Client, op: u64) {
    let command = plain("abortTransaction", op);
    let body = joined(client, &command, false);
    let _best_effort = client.ask(&command, &body).await;
}

fn plain(name: &'static str, op: u64) -> Command {
    Command { name, ns: "admin.1", op, fields: RawDocumentBuf::new(), statements: None, retryable: false }
}

/// The body of a command inside the client's transaction.
fn joined(client: &Client, command: &Command, first: bool) -> RawDocumentBuf {
    let mut body = if command.ns == "admin.1" { named(command) } else { Client::body(command) };
    body.append(cstr!("lsid"), lsid_doc(&client.lsid));
    body.append(cstr!("txnNumber"), client.txn_number);
    body.append(cstr!("autocommit"), false);
    if first {
        body.append(cstr!("startTransaction"), true);
    }
    body
}

/// `{commitTransaction: 1}` and its like.
fn named(command: &Command) -> RawDocumentBuf {
    let mut body = RawDocumentBuf::new();
    body.append(bson::raw::CString::try_from(command.name.to_owned()).unwrap(), 1);
    body.append(cstr!("comment"), i64::try_from(command.op).unwrap());
    body.append(cstr!("$db"), "admin");
    body
}

/// Whether a document has a field.
pub(crate) fn has(doc: &RawDocument, field: &str) -> bool {
    doc.get(field).unwrap().is_some()
}
