//! One client connection: what comes goes where. One task owns both sockets, so order needs no lock.

use super::budget::{FREE_BYTES, Share};
use super::client::Client;
use super::identity::Identity;
use super::listener::Shared;
use crate::capture::{self, CaptureError};
use crate::metrics::{COMMANDS_REFUSED, CONNECTIONS_REFUSED, MESSAGES, UPSTREAM_CONNECTS};
use crate::store::{Upstream, UpstreamError};
use crate::wire::command::{self, classify};
use crate::wire::frame::{MAX_MESSAGE_BYTES, opcode};
use crate::wire::msg::{MsgError, flag};
use crate::wire::query::{self, OpQuery};
use crate::wire::reply::Failure;
use crate::wire::{FrameError, Header, Kind, Limits, Message, OpMsg};
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The client closed it.
    #[error("the client closed the connection")]
    Client,
    /// The connection to the node failed.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The node sent a reply that cannot be read where it must be.
    #[error("the store sent a reply to {0} that cannot be read")]
    Reply(&'static str),
    /// The client sent bytes that are no protocol of ours.
    #[error("the client sent {0}")]
    Protocol(String),
    /// A message was larger than the limit.
    #[error("{0}")]
    Limit(FrameError),
    /// Nothing came for too long.
    #[error("nothing came from the client for too long")]
    Idle,
    /// The sidecar ends.
    #[error("the sidecar ends")]
    Drain,
    /// What a write did cannot be told; the client's driver has to ask again.
    #[error("a write could not be answered: {0}")]
    Unsettled(CaptureError),
}

impl End {
    /// The metric's label.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream(_) | Self::Reply(_) => "upstream",
            Self::Protocol(_) => "protocol",
            Self::Limit(_) => "limit",
            Self::Idle => "idle",
            Self::Drain => "drain",
            Self::Unsettled(_) => "internal",
        }
    }
}

/// A failed socket of the client is a client that went.
impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Client
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } => Self::Limit(error),
            FrameError::TooShort { .. } => Self::Protocol(error.to_string()),
        }
    }
}

/// One client connection and its connection to the node.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Client,
    pub(super) upstream: Upstream,
    pub(super) identity: Identity,
    /// What capture keeps for this connection.
    pub(super) written: capture::Session,
    /// Bounds of requests: our setting, and what the node said.
    pub(super) limits: Limits,
    /// Our address as this client reaches it.
    pub(super) advertised: String,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    timer: Option<Pin<Box<Sleep>>>,
    last_bytes: Instant,
}

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, number: u64, shared: Arc<Shared>) -> End {
    let mut session = match Session::open(stream, peer, number, shared).await {
        Ok(session) => session,
        Err(end) => {
            CONNECTIONS_REFUSED.inc_for(end.reason());
            tracing::warn!(%peer, connection = number, reason = %end, "connection refused");
            return end;
        }
    };
    loop {
        if let Err(end) = session.step().await {
            match &end {
                End::Client | End::Drain | End::Idle => {
                    tracing::debug!(%peer, connection = number, reason = %end, "connection closed");
                }
                _ => tracing::warn!(%peer, connection = number, reason = %end, "connection closed"),
            }
            return end;
        }
    }
}

impl Session {
    async fn open(stream: TcpStream, peer: SocketAddr, number: u64, shared: Arc<Shared>) -> Result<Self, End> {
        let client = Client::new(stream)?;
        let options = &shared.options;
        let replies = Limits { max_message: options.max_message_bytes.max(MAX_MESSAGE_BYTES) };
        let connected = Upstream::connect(&options.upstream, replies, options.connect_timeout).await;
        UPSTREAM_CONNECTS.inc_for(if connected.is_ok() { "ok" } else { "failed" });
        let upstream = connected?;
        let advertised = options.advertise.clone().unwrap_or_else(|| client.local.to_string());
        let pace = [options.idle, options.stall].into_iter().filter(|d| !d.is_zero()).min();
        let identity = Identity::new(number, peer.to_string());
        Ok(Self {
            written: shared.capture.session(Arc::clone(identity.origin())),
            identity,
            limits: Limits { max_message: options.max_message_bytes },
            advertised,
            drain: Box::pin(shared.drain.clone().cancelled_owned()),
            timer: pace.map(|pace| Box::pin(sleep_until(Instant::now() + pace))),
            last_bytes: Instant::now(),
            shared,
            client,
            upstream,
        })
    }

    /// Serves one request.
    async fn step(&mut self) -> Result<(), End> {
        let (header, kind) = self.next_request().await?;
        MESSAGES.inc_for(class(kind));
        match kind {
            Kind::GetMore if self.shared.capture.has_cursors() => self.more_results(header).await,
            Kind::Pass | Kind::GetMore | Kind::Commit | Kind::Abort if self.joins(&header).await? => {
                Box::pin(self.change(header, kind)).await
            }
            Kind::Pass | Kind::GetMore | Kind::Commit | Kind::Abort => self.pass(header).await,
            Kind::EndTransactions => self.end_transactions(header).await,
            Kind::Hello => Box::pin(self.hello(header)).await,
            Kind::Auth(step) => self.authenticate(header, step).await,
            // Boxed, so that what only passes does not carry the room that a write needs.
            Kind::Write(_) | Kind::Ddl(_) | Kind::Aggregate | Kind::MapReduce | Kind::Hidden => {
                Box::pin(self.change(header, kind)).await
            }
            Kind::Cut => Box::pin(self.cut(header)).await,
            Kind::Refused => self.refuse(header).await,
            Kind::LegacyQuery => self.refuse_query(header).await,
            Kind::Compressed => {
                COMMANDS_REFUSED.inc_for("unsupported");
                let failure = Failure::new(17, "ProtocolError", "compression was not agreed on with this sidecar");
                self.client.send(&failure.reply(header.request_id)).await?;
                Err(End::Protocol("OP_COMPRESSED".into()))
            }
            Kind::LegacyOpcode => {
                COMMANDS_REFUSED.inc_for("legacy");
                Err(End::Protocol(format!("the legacy opcode {}", header.opcode)))
            }
            Kind::UnknownOpcode => Err(End::Protocol(format!("the unknown opcode {}", header.opcode))),
            Kind::Malformed => self.malformed(header).await,
        }
    }

    /// Whether a request that otherwise passes stands inside a transaction. Holds the whole request for that.
    async fn joins(&mut self, header: &Header) -> Result<bool, End> {
        if header.opcode != opcode::MSG {
            return Ok(false);
        }
        let mut share = None;
        while self.client.buf.len() < header.size() {
            if share.is_none() && header.size() > FREE_BYTES {
                share = self.shared.budget.take(header.size()).await;
            }
            self.more_input(header.size() - self.client.buf.len()).await?;
        }
        // Whether it is a field of the command itself is looked at where the message is read.
        let message = self.client.buf.get(..header.size()).unwrap_or_default();
        Ok(memchr::memmem::find(message, b"\x08autocommit\0").is_some())
    }

    /// Waits until the next request's command is known. Its bytes stay in the client's buffer.
    async fn next_request(&mut self) -> Result<(Header, Kind), End> {
        self.last_bytes = Instant::now();
        let mut share = None;
        loop {
            if let Some(header) = Header::parse(&self.client.buf, self.limits)? {
                if let Some(kind) = classify(&header, &self.client.buf) {
                    return Ok((header, kind));
                }
                // A command behind a large sequence: its message has to be held whole.
                if share.is_none() && self.client.buf.len() > FREE_BYTES {
                    share = self.shared.budget.take(header.size()).await;
                }
            }
            self.more_input(0).await?;
        }
    }

    /// Reads more of the client's bytes; meanwhile the node must be silent, and time is kept.
    pub(super) async fn more_input(&mut self, room: usize) -> Result<(), End> {
        poll_fn(|cx| {
            if let Poll::Ready(read) = self.client.poll_fill(cx, room) {
                return Poll::Ready(if read? == 0 { Err(End::Client) } else { Ok(()) });
            }
            if let Poll::Ready(error) = self.upstream.poll_silent(cx) {
                return Poll::Ready(Err(error.into()));
            }
            if self.client.buf.is_empty() && self.drain.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(End::Drain));
            }
            self.poll_timer(cx)
        })
        .await?;
        self.last_bytes = Instant::now();
        Ok(())
    }

    /// Is ready once the client was silent for too long. The timer runs at its own pace: a request costs it nothing.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let options = &self.shared.options;
        let bound = if self.client.buf.is_empty() { options.idle } else { options.stall };
        let pace = [options.idle, options.stall].into_iter().filter(|d| !d.is_zero()).min().unwrap_or(Duration::MAX);
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        while timer.as_mut().poll(cx).is_ready() {
            let silent = self.last_bytes.elapsed();
            if !bound.is_zero() && silent >= bound {
                return Poll::Ready(Err(End::Idle));
            }
            let wait = if bound.is_zero() { pace } else { pace.min(bound.saturating_sub(silent)) };
            timer.as_mut().reset(Instant::now() + wait);
            // Who is silent holds no memory.
            self.client.release();
            self.upstream.release();
        }
        Poll::Pending
    }

    /// Takes the whole request out of the client's buffer, within the budget of bytes held.
    pub(super) async fn take_request(&mut self, header: &Header) -> Result<(Message, Option<Share>), End> {
        let share = self.shared.budget.take(header.size()).await;
        loop {
            if let Some(message) = Message::take(&mut self.client.buf, self.limits)? {
                self.client.shrink();
                return Ok((message, share));
            }
            self.more_input(header.size() - self.client.buf.len().min(header.size())).await?;
        }
    }

    /// The whole request as `OP_MSG`. `None`: it was none, and the client was told.
    pub(super) async fn take_msg(&mut self, header: &Header) -> Result<Option<(OpMsg, Option<Share>)>, End> {
        let (message, share) = self.take_request(header).await?;
        let flags = command::msg_flags(header, &message.bytes);
        match OpMsg::parse(message) {
            Ok(msg) => Ok(Some((msg, share))),
            Err(error) => {
                COMMANDS_REFUSED.inc_for("malformed");
                if flags & flag::MORE_TO_COME == 0 {
                    let failure = Failure::new(error.code(), error.code_name(), error.to_string());
                    self.client.send(&failure.reply(header.request_id)).await?;
                }
                match error {
                    MsgError::UnknownFlags(_) | MsgError::UnknownSection(_) | MsgError::Checksum => {
                        Err(End::Protocol(error.to_string()))
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    /// Answers a request with an error of ours, unless it wants no answer.
    pub(super) async fn fail(&mut self, request: &OpMsg, failure: &Failure) -> Result<(), End> {
        if request.more_to_come() {
            return Ok(());
        }
        Ok(self.client.send(&failure.reply(request.request_id())).await?)
    }

    async fn refuse(&mut self, header: Header) -> Result<(), End> {
        let Some((request, _share)) = self.take_msg(&header).await? else { return Ok(()) };
        COMMANDS_REFUSED.inc_for("unsupported");
        let message =
            format!("{} would change documents past the changelog; Tidelog does not forward it", request.command().0);
        self.fail(&request, &Failure::new(115, "CommandNotSupported", message)).await
    }

    async fn refuse_query(&mut self, header: Header) -> Result<(), End> {
        let (message, _share) = self.take_request(&header).await?;
        COMMANDS_REFUSED.inc_for("legacy");
        let Some(query) = OpQuery::parse(message) else { return Err(End::Protocol("a malformed OP_QUERY".into())) };
        let failure = if query.is_command() {
            let text =
                format!("Unsupported OP_QUERY command: {}. The client driver may require an upgrade.", query.command());
            Failure::new(352, "UnsupportedOpQueryCommand", text)
        } else {
            Failure::new(
                5_739_101,
                "Location5739101",
                "OP_QUERY is no longer supported. The client driver may require an upgrade.",
            )
        };
        let failed = !query.is_command();
        Ok(self.client.send(&query::reply(0, header.request_id, &failure.document(), failed)).await?)
    }

    async fn malformed(&mut self, header: Header) -> Result<(), End> {
        if header.opcode != opcode::MSG {
            return Err(End::Protocol("a malformed OP_QUERY".into()));
        }
        // Told where it can be: the frame is whole, so the next message's start is known.
        if self.take_msg(&header).await?.is_some() {
            return Err(End::Protocol("a command without a name".into()));
        }
        Ok(())
    }
}

/// The metric's label.
fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Pass | Kind::GetMore => "pass",
        Kind::Hello => "hello",
        Kind::Auth(_) => "auth",
        Kind::Write(_) => "write",
        Kind::Aggregate | Kind::MapReduce => "aggregate",
        Kind::Ddl(_) | Kind::Hidden => "ddl",
        Kind::Commit | Kind::Abort | Kind::EndTransactions => "transaction",
        Kind::Cut => "cut",
        Kind::Refused | Kind::LegacyOpcode | Kind::LegacyQuery | Kind::Compressed => "refused",
        Kind::Malformed | Kind::UnknownOpcode => "malformed",
    }
}
