//! A raw connection to the node: one per client connection, so that the node sees the client's own session, user and order.
//!
//! The node serves a connection strictly in order, so commands of ours are written back to back with the client's and their
//! replies come in that order. Numbers of our own requests are the connection's own; a reply is matched by `responseTo`, and
//! one that answers something else means that the stream is out of step: the connection is then useless.
//!
//! Memory grows with the bytes that arrive, never with what a length prefix says.

use super::link::Link;
use crate::wire::frame::opcode;
use crate::wire::{Builder, FrameError, Header, Limits, Message, MsgError, OpMsg};
use bson::raw::{RawDocumentBuf, cstr};
use bytes::{Buf as _, Bytes, BytesMut};
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::net::TcpStream;

/// Room asked for before a read.
const READ_BYTES: usize = 16 * 1024;

/// A buffer that grew beyond this is given back once it is empty.
const KEEP_BYTES: usize = 256 * 1024;

/// What can go wrong between us and the node.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection was made.
    #[error("cannot connect to the store at {address}: {source}")]
    Connect {
        /// The address as configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// No connection was made in time.
    #[error("no connection to the store at {address} within {ms} ms")]
    ConnectTimeout {
        /// The address as configured.
        address: String,
        /// The limit.
        ms: u64,
    },
    /// The socket failed.
    #[error("connection to the store failed: {0}")]
    Io(#[from] std::io::Error),
    /// The node closed the connection.
    #[error("the store closed the connection{}", if *.within { " in the middle of a message" } else { "" })]
    Closed {
        /// Part of a message had come.
        within: bool,
    },
    /// Bytes that are no message.
    #[error("the store sent bytes that are no message: {0}")]
    Frame(#[from] FrameError),
    /// A message that is no good reply.
    #[error("the store sent a reply that cannot be read: {0}")]
    Reply(#[from] MsgError),
    /// A reply in another opcode than asked for (`OP_COMPRESSED`, for one).
    #[error("the store replied with opcode {opcode}, which was not agreed on")]
    Opcode {
        /// What came.
        opcode: i32,
    },
    /// It is no primary (any more): a connection whose client wants no reply is closed for that, as the node itself does.
    #[error("the store is not primary (code {code})")]
    NotPrimary {
        /// The code of its reply.
        code: i32,
    },
    /// A message that answers nothing.
    #[error("the store sent a message where none was asked for")]
    Unasked,
    /// A reply to something else.
    #[error("the store answered request {got} where {expected} was asked")]
    OutOfStep {
        /// The request under way.
        expected: i32,
        /// `responseTo` of what came.
        got: i32,
    },
}

/// One connection to the node.
#[derive(Debug)]
pub struct Upstream {
    link: Link,
    buf: BytesMut,
    limits: Limits,
    local: SocketAddr,
    next_id: i32,
}

impl Upstream {
    /// Connects within `timeout`. `limits` bound the replies.
    ///
    /// # Errors
    /// [`UpstreamError::Connect`], [`UpstreamError::ConnectTimeout`].
    pub async fn connect(address: &str, limits: Limits, timeout: Duration) -> Result<Self, UpstreamError> {
        let failed = |source| UpstreamError::Connect { address: address.to_owned(), source };
        let Ok(connected) = tokio::time::timeout(timeout, TcpStream::connect(address)).await else {
            let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            return Err(UpstreamError::ConnectTimeout { address: address.to_owned(), ms });
        };
        let stream = connected.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let local = stream.local_addr().map_err(failed)?;
        Ok(Self::over(Link::Tcp(stream), local, limits))
    }

    /// A connection to a store in memory (feature `model`). `local` is what it says it comes from.
    #[cfg(feature = "model")]
    pub fn memory(stream: tokio::io::DuplexStream, local: SocketAddr, limits: Limits) -> Self {
        Self::over(Link::Memory(stream), local, limits)
    }

    fn over(link: Link, local: SocketAddr, limits: Limits) -> Self {
        Self { link, buf: BytesMut::new(), limits, local, next_id: 0 }
    }

    /// Our end of the connection: what the node's `$currentOp` shows as `client`.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends the bytes of whole messages as they are. While the node does not take them, what it sends is read: it may be
    /// waiting for us to take the reply to an earlier one.
    ///
    /// # Errors
    /// [`UpstreamError::Io`], [`UpstreamError::Closed`]. The connection is then useless.
    pub async fn send(&mut self, messages: &[u8]) -> Result<(), UpstreamError> {
        let mut rest = messages;
        while !rest.is_empty() {
            let sent = poll_fn(|cx| {
                if let Poll::Ready(sent) = Pin::new(&mut self.link).poll_write(cx, rest) {
                    return Poll::Ready(sent.map_err(UpstreamError::from));
                }
                self.poll_fill(cx, 0).map_ok(|()| 0)
            });
            rest = rest.get(sent.await?..).unwrap_or_default();
        }
        Ok(())
    }

    /// The next whole message, whatever it answers.
    ///
    /// # Errors
    /// When the connection fails, closes, or carries no message. The connection is then useless.
    pub async fn recv(&mut self) -> Result<Message, UpstreamError> {
        loop {
            if let Some(message) = Message::take(&mut self.buf, self.limits)? {
                self.shrink();
                return Ok(message);
            }
            self.fill(0).await?;
        }
    }

    /// The next message, which must be the `OP_MSG` that answers `request_id`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and where it is another message.
    pub async fn reply_to(&mut self, request_id: i32) -> Result<OpMsg, UpstreamError> {
        let message = self.recv().await?;
        if message.header.opcode != opcode::MSG {
            return Err(UpstreamError::Opcode { opcode: message.header.opcode });
        }
        if message.header.response_to != request_id {
            return Err(UpstreamError::OutOfStep { expected: request_id, got: message.header.response_to });
        }
        Ok(OpMsg::parse(message)?)
    }

    /// A number for a request of ours.
    pub fn next_id(&mut self) -> i32 {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.next_id
    }

    /// Runs one command of ours and gives the whole reply (`ok: 0` is a reply too). `$db` is added.
    ///
    /// # Errors
    /// When no reply came.
    pub async fn run(&mut self, db: &str, command: RawDocumentBuf) -> Result<OpMsg, UpstreamError> {
        let id = self.next_id();
        let request = command_bytes(id, db, command);
        self.send(&request).await?;
        self.reply_to(id).await
    }

    /// Sends whole request messages back to back in one write, then gives their replies in order. Each must carry a number from
    /// [`next_id`](Self::next_id) or the client's own, and must want a reply (no `moreToCome`, no `exhaustAllowed`).
    ///
    /// # Errors
    /// When a reply did not come; those before it are lost with it.
    pub async fn pipeline(&mut self, requests: &[Bytes]) -> Result<Vec<OpMsg>, UpstreamError> {
        if let [request] = requests {
            self.send(request).await?;
        } else {
            let mut all = BytesMut::with_capacity(requests.iter().map(Bytes::len).sum());
            for request in requests {
                all.extend_from_slice(request);
            }
            self.send(&all).await?;
        }
        let mut replies = Vec::with_capacity(requests.len());
        for request in requests {
            replies.push(self.reply_to(number_of(request)?).await?);
        }
        Ok(replies)
    }

    /// [`pipeline`](Self::pipeline) of one.
    ///
    /// # Errors
    /// When the reply did not come.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<OpMsg, UpstreamError> {
        self.send(request).await?;
        self.reply_to(number_of(request)?).await
    }

    /// Lowers or raises the limit of a reply, once the node told its own.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The header of the next message, once `want` of its bytes (or all of them) are in [`unread`](Self::unread).
    ///
    /// # Errors
    /// [`UpstreamError::Frame`].
    pub fn head(&self, want: usize) -> Result<Option<Header>, UpstreamError> {
        let header = Header::parse(&self.buf, self.limits)?;
        Ok(header.filter(|header| self.buf.len() >= want.min(header.size())))
    }

    /// What was read and not yet taken.
    pub fn unread(&self) -> &[u8] {
        &self.buf
    }

    /// Takes the first `n` bytes of [`unread`](Self::unread).
    pub fn consume(&mut self, n: usize) {
        self.buf.advance(n.min(self.buf.len()));
        self.shrink();
    }

    /// Reads more bytes; `room` is how many are expected at least.
    ///
    /// # Errors
    /// When the connection fails or is closed.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<(), UpstreamError>> {
        self.buf.reserve(room.clamp(READ_BYTES, KEEP_BYTES));
        Poll::Ready(match ready!(pin!(self.link.read_buf(&mut self.buf)).poll(cx)) {
            Ok(0) => Err(UpstreamError::Closed { within: !self.buf.is_empty() }),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }

    /// Is ready only when something is wrong: nothing is to come from the node while no request is under way.
    pub fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<UpstreamError> {
        Poll::Ready(match ready!(self.poll_fill(cx, 0)) {
            Ok(()) => UpstreamError::Unasked,
            Err(error) => error,
        })
    }

    /// Reads more bytes into the buffer; `room` is how many are expected at least.
    ///
    /// # Errors
    /// When the connection fails or is closed.
    pub async fn fill(&mut self, room: usize) -> Result<(), UpstreamError> {
        poll_fn(|cx| self.poll_fill(cx, room)).await
    }

    /// Gives an empty buffer back: for a connection that is silent for long.
    pub fn release(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
    }

    fn shrink(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > KEEP_BYTES {
            self.buf = BytesMut::new();
        }
    }
}

/// The number of a request message.
fn number_of(request: &[u8]) -> Result<i32, UpstreamError> {
    Ok(Header::parse(request, Limits { max_message: u32::MAX })?.map_or(0, |header| header.request_id))
}

/// A command of ours as a whole message. `$db` is added.
pub fn command_bytes(request_id: i32, db: &str, mut command: RawDocumentBuf) -> Bytes {
    command.append(cstr!("$db"), db);
    Builder::request(request_id, 0).body(&command).finish()
}
