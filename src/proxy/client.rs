//! The client's socket and what was read from it.

use crate::metrics::CLIENT_BYTES;
use bytes::{Buf as _, BytesMut};
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Room asked for before a read.
const READ_BYTES: usize = 16 * 1024;

/// Most room asked for; a buffer that grew beyond this is given back once it is empty.
const KEEP_BYTES: usize = 256 * 1024;

/// Requests that come while one is under way are read up to this; then the client has to wait.
const AHEAD_BYTES: usize = 64 * 1024;

/// After this silence the kernel asks whether the client is still there, as mongod does.
const KEEPALIVE: Duration = Duration::from_mins(2);

/// One client's socket.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    /// Read and not yet taken.
    pub(super) buf: BytesMut,
    /// Where it came to.
    pub(super) local: SocketAddr,
}

impl Client {
    /// Takes an accepted socket.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        let local = stream.local_addr()?;
        Ok(Self { stream, buf: BytesMut::new(), local })
    }

    /// Reads more bytes; `room` is how many are expected at least. 0: the client is gone.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        self.buf.reserve(room.clamp(READ_BYTES, KEEP_BYTES));
        let read = ready!(pin!(self.stream.read_buf(&mut self.buf)).poll(cx))?;
        CLIENT_BYTES.add_for("received", u64::try_from(read).unwrap_or(0));
        Poll::Ready(Ok(read))
    }

    /// Watches the client while a command is under way: is ready only once it is gone. What it sends meanwhile is kept, up to a
    /// bound.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.buf.len() < AHEAD_BYTES {
            if matches!(ready!(self.poll_fill(cx, 0)), Ok(0) | Err(_)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Takes the first `n` bytes of what was read.
    pub(super) fn consume(&mut self, n: usize) {
        self.buf.advance(n.min(self.buf.len()));
        self.shrink();
    }

    /// Gives an empty buffer back.
    pub(super) fn release(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
    }

    /// Gives an overgrown buffer back.
    pub(super) fn shrink(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > KEEP_BYTES {
            self.buf = BytesMut::new();
        }
    }

    /// Sends bytes; one write where the socket takes them.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        CLIENT_BYTES.add_for("sent", u64::try_from(bytes.len()).unwrap_or(0));
        Ok(())
    }
}
