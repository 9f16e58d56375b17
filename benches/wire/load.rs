//! The load: N connections on one thread, each with one request under way, as N threads of an application would have.

use crate::Fallible;
use crate::message::{self, Template};
use crate::plan::Work;
use bson::RawDocument;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// What one cell gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Operations a second in the measured time.
    pub(crate) rate: f64,
    /// Microseconds of each measured operation, sorted.
    pub(crate) latencies_us: Vec<u32>,
    /// All operations, with those of the warm-up.
    pub(crate) operations: u64,
}

/// A connection that sends one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects; no handshake: the wire allows a command as the first message.
    pub(crate) async fn open(address: SocketAddr) -> Fallible<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 64 * 1024] })
    }

    /// Sends a message and gives its whole reply.
    pub(crate) async fn call(&mut self, request: &[u8]) -> Fallible<&[u8]> {
        self.stream.write_all(request).await?;
        let mut have = 0;
        loop {
            let room = self.buffer.get_mut(have..).unwrap_or_default();
            let read = self.stream.read(room).await?;
            if read == 0 {
                return Err("the server closed the connection in the middle of a reply".into());
            }
            have += read;
            let Some(len) = message::message_len(self.buffer.get(..have).unwrap_or_default())? else { continue };
            if len > self.buffer.len() {
                self.buffer.resize(len, 0);
            }
            if have >= len {
                return Ok(self.buffer.get(..len).unwrap_or_default());
            }
        }
    }

    /// Runs one command, and fails unless its reply says `ok`.
    pub(crate) async fn command(&mut self, body: &RawDocument) -> Fallible<()> {
        let request = message::encode(1, body, None)?;
        let reply = message::body(self.call(&request).await?)?;
        if is_one(reply, "ok") {
            return Ok(());
        }
        Err(format!("{body:?} was answered by {reply:?}").into())
    }
}

/// Drives `clients` connections for `seconds` after a warm-up of a fifth of it.
pub(crate) async fn run(address: SocketAddr, work: &Work, clients: usize, seconds: Duration) -> Fallible<Outcome> {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push((Connection::open(address).await?, work.template()?));
    }
    let start = Instant::now() + seconds / 5;
    let window = Window { start, end: start + seconds };
    let next = Rc::new(Cell::new(work.first_id));
    let local = LocalSet::new();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|(connection, template)| {
            let client = Client { connection, template, work: work.clone(), next: Rc::clone(&next) };
            local.spawn_local(client.run(window))
        })
        .collect();
    local.await;
    let mut shares = Vec::new();
    for task in tasks {
        shares.push(task.await?.map_err(|e| format!("{}: {e}", work.op.name()))?);
    }
    Ok(together(shares, window))
}

/// The measured time.
#[derive(Clone, Copy, Debug)]
struct Window {
    start: Instant,
    end: Instant,
}

/// What one client did.
struct Share {
    latencies_us: Vec<u32>,
    operations: u64,
    last: Instant,
}

fn together(shares: Vec<Share>, window: Window) -> Outcome {
    let last = shares.iter().map(|s| s.last).max().unwrap_or(window.end);
    // Deletes may run out of documents before the time is over.
    let measured = last.min(window.end).saturating_duration_since(window.start);
    let operations = shares.iter().map(|s| s.operations).sum();
    let mut latencies_us: Vec<u32> = shares.into_iter().flat_map(|s| s.latencies_us).collect();
    latencies_us.sort_unstable();
    let counted = u32::try_from(latencies_us.len()).unwrap_or(u32::MAX);
    let rate = f64::from(counted) / measured.as_secs_f64().max(1e-6);
    Outcome { rate, latencies_us, operations }
}

struct Client {
    connection: Connection,
    template: Template,
    work: Work,
    next: Rc<Cell<i64>>,
}

impl Client {
    async fn run(mut self, window: Window) -> Result<Share, String> {
        let mut share = Share { latencies_us: Vec::with_capacity(65_536), operations: 0, last: window.start };
        let mut request = 1;
        while let Some(id) = self.work.next_id(&self.next) {
            self.template.patch(request, id);
            let began = Instant::now();
            if began >= window.end {
                break;
            }
            let reply = self.connection.call(self.template.bytes()).await.map_err(|e| e.to_string())?;
            let ended = Instant::now();
            check(reply, request, &self.work)?;
            share.operations += 1;
            if (window.start..=window.end).contains(&ended) {
                let micros = ended.duration_since(began).as_micros();
                share.latencies_us.push(u32::try_from(micros).unwrap_or(u32::MAX));
                share.last = ended;
            }
            request += 1;
        }
        Ok(share)
    }
}

/// Fails unless the reply answers the request, says `ok` and names as many documents as it must.
fn check(reply: &[u8], request: i32, work: &Work) -> Result<(), String> {
    if message::response_to(reply) != Some(request) {
        return Err(format!("a reply to {:?} where {request} was asked", message::response_to(reply)));
    }
    let body = message::body(reply).map_err(|e| e.to_string())?;
    let holds = match work.expected {
        Some(n) => number(body, "n") == Some(n),
        None => reply.len() > crate::plan::DOCUMENT_BYTES,
    };
    if holds && is_one(body, "ok") {
        return Ok(());
    }
    Err(format!("a reply that is not what was asked for: {body:?}"))
}

/// A flag as the servers send it: the double 1.0, or an integer.
fn is_one(body: &RawDocument, field: &str) -> bool {
    let double = body.get(field).ok().flatten().and_then(bson::RawBsonRef::as_f64);
    double.map_or_else(|| number(body, field) == Some(1), |f| (f - 1.0).abs() < f64::EPSILON)
}

fn number(body: &RawDocument, field: &str) -> Option<i64> {
    let value = body.get(field).ok()??;
    value.as_i32().map(i64::from).or_else(|| value.as_i64())
}
