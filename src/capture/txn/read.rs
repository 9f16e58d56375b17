//! Reads of ours inside a client's transaction: what it sees now.
//!
//! A refused read ends the transaction in the store, so its error is the answer to the client's command. It cannot be one that
//! the client's own command would not have met: rights and filters are tried outside the transaction first.

use bson::RawBson;
use bson::raw::RawBsonRef;

use super::{Stop, Tx, fields};
use crate::capture::Capture;
use crate::capture::command::build::{self, Request};
use crate::capture::error::CaptureError;
use crate::capture::observe::{ReadError, Reader, Seen, Target, Via, encode, ids_of, refusal, take};
use crate::metrics;
use crate::types::Namespace;
use crate::wire::msg::OpMsg;

/// Entities asked for at once.
pub(super) const CHUNK: usize = 500;

impl Tx<'_> {
    /// A read of ours, made a part of the transaction, as bytes.
    pub(super) fn joined(&mut self, request: &Request) -> Result<bytes::Bytes, Stop> {
        let joined = fields::joined(request, self.message.body(), self.first).map_err(CaptureError::from)?;
        self.ours_began |= std::mem::replace(&mut self.first, false);
        metrics::INJECTED_COMMANDS.inc();
        Ok(encode(&joined, self.upstream.next_id()))
    }

    async fn ask(&mut self, request: &Request) -> Result<OpMsg, Stop> {
        let bytes = self.joined(request)?;
        granted(self.upstream.exchange(&bytes).await.map_err(CaptureError::from)?)
    }

    /// Images of these entities as the transaction sees them, handed on as they come; those that are not there are not.
    pub(super) async fn images(
        &mut self,
        ns: &Namespace,
        ids: &[RawBsonRef<'_>],
        each: &mut (dyn FnMut(Seen) -> Result<(), Stop> + Send),
    ) -> Result<(), Stop> {
        let client = self.message;
        let mut reply = self.ask(&build::find_images(ns, ids, client.body())).await?;
        let mut field = "firstBatch";
        loop {
            let mut seen = Seen::new();
            let (cursor, _) = take(ns, &reply, field, &mut seen).map_err(unreadable)?;
            each(seen)?;
            if cursor == 0 {
                return Ok(());
            }
            reply = self.ask(&build::get_more(ns, cursor, client.body())).await?;
            field = "nextBatch";
        }
    }

    /// The `_id`s that a find gives inside the transaction.
    pub(super) async fn ids(&mut self, ns: &Namespace, find: &Request) -> Result<Vec<RawBson>, Stop> {
        let client = self.message;
        let mut out = Vec::new();
        let mut reply = self.ask(find).await?;
        let mut field = "firstBatch";
        loop {
            let cursor = ids_of(&reply, field, &mut out).map_err(unreadable)?;
            if cursor == 0 {
                return Ok(out);
            }
            reply = self.ask(&build::get_more(ns, cursor, client.body())).await?;
            field = "nextBatch";
        }
    }
}

impl Capture {
    /// Whether the client may read there; tried outside the transaction, once in a connection.
    pub(super) async fn may_read(&self, tx: &mut Tx<'_>, target: &Target) -> Result<bool, Stop> {
        let via = tx.session.via.get(&target.ns).copied().unwrap_or_default();
        if via == Via::Untested {
            let mut reader =
                Reader { upstream: &mut *tx.upstream, privileged: &*self.privileged, client: tx.message.body() };
            let tried = reader.images(std::slice::from_ref(target), &mut tx.session.via).await;
            if let Err(ReadError::Capture(error)) = tried {
                return Err(error.into());
            }
        }
        Ok(tx.session.via.get(&target.ns) == Some(&Via::Upstream))
    }
}

/// The reply to a read, unless it is a refusal.
pub(super) fn granted(reply: OpMsg) -> Result<OpMsg, Stop> {
    if refusal(reply.body()).is_some() { Err(Stop::Reply(reply)) } else { Ok(reply) }
}

pub(super) fn unreadable(error: ReadError) -> Stop {
    match error {
        ReadError::Capture(error) => error.into(),
        other => CaptureError::Answer(other.to_string()).into(),
    }
}
