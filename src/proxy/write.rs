//! Commands that change data, handed to `capture`; and the command that cuts a window.
//!
//! The client is not watched while capture works: a write under way ends and is settled, whether its client waits or went.

use super::session::{End, Session};
use crate::capture::{CaptureError, Outcome, abort_transaction, in_transaction, written_by};
use crate::changelog::Durable;
use crate::metrics::{CAPTURE_ERRORS, COMMANDS_REFUSED, UPSTREAM_BYTES, WRITE_COMMANDS, WRITE_SECONDS};
use crate::types::Namespace;
use crate::wire::build::acknowledged;
use crate::wire::reply::Failure;
use crate::wire::{Builder, DdlKind, Header, Kind, OpMsg, WriteKind, auth};
use bson::raw::{RawBsonRef, RawDocumentBuf, cstr};
use bytes::Bytes;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

/// Errors after which a server closes the connection of a client that wants no reply: it is no longer the primary.
const NOT_PRIMARY: [i32; 8] = [10107, 13435, 10058, 11600, 11602, 13436, 189, 91];

/// How the client wants to hear of the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The reply.
    Whole,
    /// `w: 0`, but a reply all the same: `{ok: 1}`.
    Short,
    /// Nothing.
    None,
}

impl Session {
    /// A command that changes data, or may.
    pub(super) async fn change(&mut self, header: Header, kind: Kind) -> Result<(), End> {
        let Some((request, _share)) = self.take_msg(&header).await? else { return Ok(()) };
        if in_transaction(request.body()) {
            return self.transact(&request, kind).await;
        }
        let Some(change) = Change::of(kind, &request) else { return self.pass_held(&request).await };
        let Ok(rewritten) = acknowledged(&request) else {
            COMMANDS_REFUSED.inc_for("malformed");
            return self
                .fail(&request, &Failure::new(22, "InvalidBSON", "invalid BSON in the body of the command"))
                .await;
        };
        let (asked, answer) = match rewritten {
            None => (request, Answer::Whole),
            Some(bytes) if request.more_to_come() => (reparse(bytes)?, Answer::None),
            Some(bytes) => (reparse(bytes)?, Answer::Short),
        };
        self.written.origin = Arc::clone(self.identity.origin());
        let (session, upstream) = (&mut self.written, &mut self.upstream);
        let outcome = match &change {
            Change::Documents(kind) => {
                let began = Instant::now();
                WRITE_COMMANDS.inc_for(kind.name());
                let outcome = self.shared.capture.write(session, upstream, *kind, &asked).await;
                WRITE_SECONDS.observe(began.elapsed());
                outcome
            }
            Change::Collections(kind) => self.shared.capture.ddl(session, upstream, *kind, &asked).await,
            Change::Unseen(gap) => self.shared.capture.unobserved(session, upstream, gap, &asked).await,
        };
        if let Err(error) = &outcome {
            CAPTURE_ERRORS.inc_for(error.class());
        }
        self.answer(&asked, answer, outcome).await
    }

    /// Tells the client the outcome.
    async fn answer(
        &mut self,
        request: &OpMsg,
        answer: Answer,
        outcome: Result<Outcome, CaptureError>,
    ) -> Result<(), End> {
        match outcome {
            Ok(Outcome { reply, durable }) => self.acknowledge(request, answer, reply, &durable).await,
            Err(CaptureError::Refused { code, code_name, message, labels }) => {
                COMMANDS_REFUSED.inc_for("log");
                if answer == Answer::None {
                    return Ok(());
                }
                let failure = Failure { code, name: code_name, message, labels };
                Ok(self.client.send(&failure.reply(request.request_id())).await?)
            }
            Err(CaptureError::Upstream(error)) => Err(error.into()),
            Err(error) => Err(End::Unsettled(error)),
        }
    }

    /// The only way in which a client hears of a change: with the proof that the log holds it.
    async fn acknowledge(
        &mut self,
        request: &OpMsg,
        answer: Answer,
        reply: Bytes,
        _proof: &Durable,
    ) -> Result<(), End> {
        if answer == Answer::Whole {
            return Ok(self.client.send(&reply).await?);
        }
        let parsed = reparse(reply.clone())?;
        let code = parsed.body().get_i32("code").unwrap_or(0);
        match answer {
            Answer::None if NOT_PRIMARY.contains(&code) => {
                Err(End::Upstream(crate::store::UpstreamError::NotPrimary { code }))
            }
            // The images of a findAndModify are what it is for.
            Answer::Short if auth::is_ok(parsed.body()) && parsed.body().get_document("lastErrorObject").is_err() => {
                let mut body = RawDocumentBuf::new();
                for key in [cstr!("ok"), cstr!("$clusterTime"), cstr!("operationTime")] {
                    if let Ok(Some(value)) = parsed.body().get(key) {
                        body.append(key, value);
                    }
                }
                Ok(self.client.send(&Builder::reply(0, request.request_id()).body(&body).finish()).await?)
            }
            Answer::Short => Ok(self.client.send(&reply).await?),
            _ => Ok(()),
        }
    }

    /// A `getMore` while results of a `bulkWrite` wait in the sidecar: ours, or the node's.
    pub(super) async fn more_results(&mut self, header: Header) -> Result<(), End> {
        let Some((request, _share)) = self.take_msg(&header).await? else { return Ok(()) };
        match self.shared.capture.get_more(&request) {
            Some(reply) => Ok(self.client.send(&reply).await?),
            None if in_transaction(request.body()) => self.transact(&request, Kind::GetMore).await,
            None => self.pass_held(&request).await,
        }
    }

    /// Passes a request that had to be read whole.
    async fn pass_held(&mut self, request: &OpMsg) -> Result<(), End> {
        UPSTREAM_BYTES.add_for("sent", u64::try_from(request.bytes().len()).unwrap_or(0));
        self.upstream.send(request.bytes()).await?;
        if request.more_to_come() {
            return Ok(());
        }
        self.relay_replies(request.request_id()).await
    }

    /// Any command inside a transaction.
    async fn transact(&mut self, request: &OpMsg, kind: Kind) -> Result<(), End> {
        if !self.shared.options.transactions {
            let reads = matches!(kind, Kind::Pass | Kind::GetMore | Kind::Commit | Kind::Abort);
            if reads || Change::of(kind, request).is_none() {
                return self.pass_held(request).await;
            }
            return self.refuse_in_transaction(request).await;
        }
        self.written.origin = Arc::clone(self.identity.origin());
        let (session, upstream) = (&mut self.written, &mut self.upstream);
        let outcome = self.shared.capture.transact(session, upstream, kind, request).await;
        if let Err(error) = &outcome {
            CAPTURE_ERRORS.inc_for(error.class());
        }
        let answer = if request.more_to_come() { Answer::None } else { Answer::Whole };
        self.answer(request, answer, outcome).await
    }

    /// `killSessions` and its like: transactions have ended in the store without a word about which.
    pub(super) async fn end_transactions(&mut self, header: Header) -> Result<(), End> {
        let done = self.pass(header).await;
        self.shared.capture.transactions_lost(false).await;
        done
    }

    /// As with any error inside a transaction, the transaction is over at the node too: its commit must not succeed.
    async fn refuse_in_transaction(&mut self, request: &OpMsg) -> Result<(), End> {
        COMMANDS_REFUSED.inc_for("transaction");
        if !matches!(request.body().get_bool("startTransaction"), Ok(true)) {
            self.upstream.run("admin", abort_transaction(request.body())).await?;
        }
        let message = format!(
            "{}: writes inside a transaction are refused by the configuration of Tidelog (capture.transactions = \"refuse\")",
            request.command().0
        );
        self.fail(request, &Failure::new(263, "OperationNotSupportedInTransaction", message)).await
    }

    /// The node's word on whether this connection may do anything at all: where authentication is required, a client that
    /// has not authenticated cuts no windows. Every authenticated user may list the databases that it may see.
    async fn stranger(&mut self) -> Result<Option<Failure>, End> {
        let mut list = RawDocumentBuf::new();
        list.append(cstr!("listDatabases"), 1);
        list.append(cstr!("nameOnly"), true);
        list.append(cstr!("authorizedDatabases"), true);
        let reply = self.upstream.run("admin", list).await?;
        let unauthorized = !auth::is_ok(reply.body()) && matches!(reply.body().get_i32("code"), Ok(13));
        Ok(unauthorized.then(|| Failure::new(13, "Unauthorized", "Command tidelogCut requires authentication")))
    }

    /// `{tidelogCut: 1, label: "…"}`: closes a window. Never reaches the node.
    pub(super) async fn cut(&mut self, header: Header) -> Result<(), End> {
        let Some((request, _share)) = self.take_msg(&header).await? else { return Ok(()) };
        let label = match request.body().get("label") {
            Ok(None | Some(RawBsonRef::Null)) => None,
            Ok(Some(RawBsonRef::String(label))) => Some(label.to_owned()),
            _ => {
                return self
                    .fail(&request, &Failure::new(14, "TypeMismatch", "tidelogCut: label must be a string"))
                    .await;
            }
        };
        if let Some(refused) = self.stranger().await? {
            return self.fail(&request, &refused).await;
        }
        let mut closed = (self.shared.options.cut)(label);
        let closed = poll_fn(|cx| {
            if let std::task::Poll::Ready(closed) = closed.as_mut().poll(cx) {
                return std::task::Poll::Ready(Ok(closed));
            }
            self.client.poll_gone(cx).map(|()| Err(End::Client))
        });
        match closed.await? {
            Err(failure) => self.fail(&request, &failure).await,
            Ok(_) if request.more_to_come() => Ok(()),
            Ok(window) => {
                let mut body = RawDocumentBuf::new();
                body.append(cstr!("window"), i64::try_from(window).unwrap_or(i64::MAX));
                body.append(cstr!("ok"), 1.0);
                Ok(self.client.send(&Builder::reply(0, request.request_id()).body(&body).finish()).await?)
            }
        }
    }
}

/// What is to be done with a command that changes data.
enum Change {
    /// Every document is observed.
    Documents(WriteKind),
    /// A control record.
    Collections(DdlKind),
    /// A gap: what is written cannot be seen.
    Unseen((Namespace, &'static str)),
}

impl Change {
    /// `None`: it only reads.
    fn of(kind: Kind, request: &OpMsg) -> Option<Self> {
        let whole_db = || Namespace::new(request.db().unwrap_or("admin"), "*");
        match kind {
            Kind::Write(kind) => Some(Self::Documents(kind)),
            Kind::Ddl(kind) => Some(Self::Collections(kind)),
            // No store is known to take a pipeline as a document sequence; one that did would write what we did not see.
            Kind::Aggregate if request.sequence_ids().next().is_some() => Some(Self::Unseen((whole_db(), "out"))),
            Kind::Aggregate | Kind::MapReduce => written_by(request).map(Self::Unseen),
            Kind::Pass | Kind::GetMore | Kind::Commit | Kind::Abort => None,
            _ => Some(Self::Unseen((whole_db(), "other"))),
        }
    }
}

/// Bytes of our own making, as a message.
fn reparse(bytes: Bytes) -> Result<OpMsg, End> {
    OpMsg::from_bytes(bytes).ok_or(End::Reply("a write"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn what_writes_is_told_from_what_reads() {
        let aggregate = |stages: bson::raw::RawArrayBuf| {
            let body = rawdoc! { "aggregate": "c", "pipeline": stages, "$db": "d" };
            Change::of(Kind::Aggregate, &reparse(Builder::request(1, 0).body(&body).finish()).unwrap())
        };
        assert!(aggregate([rawdoc! { "$match": { "$out": 1 } }].into_iter().collect()).is_none());
        let merge = aggregate([rawdoc! { "$match": {} }, rawdoc! { "$merge": "x" }].into_iter().collect());
        assert!(matches!(merge, Some(Change::Unseen((ns, "merge"))) if ns.as_str() == "d.x"));
        let stage = rawdoc! { "$out": "x" };
        let hidden = Builder::request(1, 0)
            .body(&rawdoc! { "aggregate": "c", "$db": "d" })
            .sequence("pipeline", [stage.as_bytes()]);
        let hidden = Change::of(Kind::Aggregate, &reparse(hidden.finish()).unwrap());
        assert!(matches!(hidden, Some(Change::Unseen((ns, _))) if ns.as_str() == "d.*"));
    }
}
