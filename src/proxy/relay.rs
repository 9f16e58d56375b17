//! The path of everything that only passes: header and command name were looked at, bytes are not changed and not held.

use super::session::{End, Session};
use crate::metrics::UPSTREAM_BYTES;
use crate::store::UpstreamError;
use crate::wire::command::msg_flags;
use crate::wire::frame::{HEADER_LEN, opcode};
use crate::wire::msg::flag;
use crate::wire::{Header, Message};
use std::future::poll_fn;
use std::task::Poll;

/// Header and flags: what has to be seen of a reply.
const HEAD_LEN: usize = HEADER_LEN + 4;

impl Session {
    /// Passes the request that starts the client's buffer, and its replies.
    pub(super) async fn pass(&mut self, header: Header) -> Result<(), End> {
        while self.client.buf.len() < HEAD_LEN.min(header.size()) {
            self.more_input(0).await?;
        }
        let flags = msg_flags(&header, &self.client.buf);
        self.forward(&header).await?;
        if flags & flag::MORE_TO_COME != 0 {
            return Ok(());
        }
        self.relay_replies(header.request_id).await
    }

    /// Streams the request to the node.
    async fn forward(&mut self, header: &Header) -> Result<(), End> {
        UPSTREAM_BYTES.add_for("sent", u64::from(header.len));
        let mut left = header.size();
        loop {
            let here = left.min(self.client.buf.len());
            self.upstream.send(self.client.buf.get(..here).unwrap_or_default()).await?;
            self.client.consume(here);
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.more_input(left).await?;
        }
    }

    /// Streams replies to the client until one says that no more come: a plain reply at once, exhaust cursors later.
    pub(super) async fn relay_replies(&mut self, request_id: i32) -> Result<(), End> {
        let mut expected = Expected::to(request_id);
        loop {
            let header = self.reply_head(expected).await?;
            let more = msg_flags(&header, self.upstream.unread()) & flag::MORE_TO_COME != 0;
            self.relay(&header).await?;
            if !more {
                return Ok(());
            }
            if self.shared.drain.is_cancelled() {
                return Err(End::Drain);
            }
            expected = expected.after(&header);
        }
    }

    /// Waits for the head of the next reply, and watches the client: if it goes, so does the connection to the node, and
    /// with it the read.
    async fn reply_head(&mut self, expected: Expected) -> Result<Header, End> {
        loop {
            if let Some(header) = self.upstream.head(HEAD_LEN)? {
                expected.check(&header)?;
                return Ok(header);
            }
            self.more_reply(0).await?;
        }
    }

    /// Reads more of the node's bytes, and watches the client.
    async fn more_reply(&mut self, room: usize) -> Result<(), End> {
        poll_fn(|cx| {
            if let Poll::Ready(read) = self.upstream.poll_fill(cx, room) {
                return Poll::Ready(read.map_err(End::from));
            }
            self.client.poll_gone(cx).map(|()| Err(End::Client))
        })
        .await
    }

    /// Streams the reply that starts the node's buffer to the client.
    async fn relay(&mut self, header: &Header) -> Result<(), End> {
        UPSTREAM_BYTES.add_for("received", u64::from(header.len));
        let mut left = header.size();
        loop {
            let unread = self.upstream.unread();
            let here = left.min(unread.len());
            self.client.send(unread.get(..here).unwrap_or_default()).await?;
            self.upstream.consume(here);
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.upstream.fill(left).await?;
        }
    }

    /// The whole next reply, which must answer `expected`; the client is watched meanwhile.
    pub(super) async fn whole_reply(&mut self, expected: Expected) -> Result<Message, End> {
        let header = self.reply_head(expected).await?;
        UPSTREAM_BYTES.add_for("received", u64::from(header.len));
        while self.upstream.unread().len() < header.size() {
            self.more_reply(header.size()).await?;
        }
        Ok(self.upstream.recv().await?)
    }
}

/// What the next reply may answer. In an exhaust stream that is the reply before it; some stores name the request again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    request: i32,
    before: i32,
}

impl Expected {
    /// The first reply to a request.
    pub(super) fn to(request: i32) -> Self {
        Self { request, before: request }
    }

    /// The reply that follows `reply` unasked.
    pub(super) fn after(self, reply: &Header) -> Self {
        Self { before: reply.request_id, ..self }
    }

    fn check(self, header: &Header) -> Result<(), UpstreamError> {
        if !matches!(header.opcode, opcode::MSG | opcode::REPLY) {
            return Err(UpstreamError::Opcode { opcode: header.opcode });
        }
        if header.response_to != self.before && header.response_to != self.request {
            return Err(UpstreamError::OutOfStep { expected: self.before, got: header.response_to });
        }
        Ok(())
    }
}
