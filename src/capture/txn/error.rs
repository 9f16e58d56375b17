//! After an error inside a transaction: does it live on in the store?
//!
//! Nearly every error ends a transaction there. Not so one that is told before the session is looked at: a command that
//! cannot be read, or that no transaction may run. Its client may go on, and so must we. Which it was is asked of the store
//! with a read that cannot fail for another reason.

use bson::RawDocumentBuf;
use bson::raw::{RawDocument, cstr};

use super::{Phase, Tx, fields, says_over};
use crate::capture::command::build::Request;
use crate::capture::command::merge::is_ok;
use crate::capture::command::number;
use crate::capture::error::CaptureError;
use crate::capture::observe::Via;
use crate::capture::{Capture, unchanged};
use crate::types::Namespace;
use crate::wire::Kind;

/// Codes of commands that no transaction may run, beside those that say that nothing ran at all.
const NOT_INSIDE: [i64; 2] = [16, 263];

impl Capture {
    /// Draws the conclusion from an error. `kind`: the command that met it.
    pub(super) async fn after_error(
        &self,
        mut tx: Tx<'_>,
        kind: Kind,
        reply: &RawDocument,
    ) -> Result<(), CaptureError> {
        let code = number(reply.get("code").ok().flatten()).unwrap_or(0);
        let read = !matches!(kind, Kind::Write(_) | Kind::Ddl(_) | Kind::Aggregate | Kind::MapReduce);
        let harmless = !is_ok(reply) && (read || unchanged(reply) || NOT_INSIDE.contains(&code));
        if says_over(reply) || !harmless {
            self.end(tx.txn, tx.state, Phase::Aborted { certain: false }, "error").await;
            return Ok(());
        }
        if tx.ours_began {
            // The client's own command has not begun it, so for the client it is not there.
            tx.upstream.run("admin", fields::abort_transaction(tx.message.body())).await?;
            self.end(tx.txn, tx.state, Phase::Aborted { certain: true }, "error").await;
            return Ok(());
        }
        let nothing = tx.state.touched.count() == 0 && tx.state.blind.is_empty() && tx.state.controls.is_empty();
        if nothing || tx.lives().await? {
            return Ok(());
        }
        self.end(tx.txn, tx.state, Phase::Aborted { certain: false }, "error").await;
        Ok(())
    }
}

impl Tx<'_> {
    /// Asks the store whether the transaction is still open there, with a read where the client may read.
    async fn lives(&mut self) -> Result<bool, CaptureError> {
        let readable = |ns: &&Namespace| self.session.via.get(*ns) == Some(&Via::Upstream);
        let Some(ns) = self.state.namespaces.iter().find(readable).cloned() else { return Ok(false) };
        let mut body = RawDocumentBuf::new();
        body.append(cstr!("find"), ns.collection());
        body.append(cstr!("limit"), 1);
        body.append(cstr!("batchSize"), 0);
        body.append(cstr!("singleBatch"), true);
        body.append(cstr!("$db"), ns.db());
        let probe = self.joined(&Request { body, sequences: Vec::new() });
        let Ok(probe) = probe else { return Ok(false) };
        Ok(is_ok(self.upstream.exchange(&probe).await?.body()))
    }
}
