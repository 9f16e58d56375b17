//! Windows as HTTP requests: the files in chunks, then the manifest, each with a key by which the receiver knows it again.
//!
//! # The requests of a window
//! 1. Each file is sent by POST in chunks, in the order of its bytes. A chunk of JSON Lines ends with a line; it is the shortest run of
//!    lines of at least `chunk_bytes`. Other files are cut every `chunk_bytes`. An empty file has no chunk.
//! 2. The manifest is sent by POST last. Its 2xx is the receiver's word that the window is durable; without it there is no window.
//!
//! Promises: the same window is the same requests, byte for byte and key by key, however often it is sent, since a chunk depends on
//! nothing but the file's bytes. Nothing is sent before what came before it was answered with 2xx.
//!
//! Does not: see what the receiver holds, follow redirects, or send anything twice within an attempt, but for one `Retry-After`.

use super::options::Options;
use super::{Chunk, Opening, Position, SealedFile, Setting, Sink, SinkError};
use crate::config::SinkConfig;
use crate::types::{Digest, LogId, WindowId};
use bytes::{Bytes, BytesMut};
use memchr::memchr;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use std::error::Error as _;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Chunks have at least this size, if the settings do not say otherwise.
const CHUNK_BYTES: usize = 1 << 20;
/// The bounds of `chunk_bytes`.
const CHUNK_BOUNDS: std::ops::RangeInclusive<u64> = 1..=1 << 30;
/// A receiver that asks for a longer wait is asked again after this one.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// So much of an answer is shown.
const SHOWN_BYTES: usize = 200;
/// Headers that the sink sets itself.
const OWN: [&str; 6] = ["content-type", "content-length", "transfer-encoding", "host", "idempotency-key", "expect"];

/// A file of the window.
#[derive(Debug)]
struct File {
    name: String,
    rest: BytesMut,
    /// Bytes sent.
    offset: u64,
    /// Chunks sent.
    chunks: u64,
}

/// What the options say.
struct Wishes {
    headers: HeaderMap,
    /// Values that must not be shown.
    secrets: Vec<String>,
    chunk_bytes: usize,
    timeout: Duration,
    connect_timeout: Duration,
}

/// A receiver.
pub struct Webhook {
    name: &'static str,
    log: LogId,
    url: Url,
    client: Client,
    runtime: Runtime,
    secrets: Vec<String>,
    chunk_bytes: usize,
    window: WindowId,
    /// 0: the window itself.
    amendment: u32,
    files: Vec<File>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("name", &self.name).field("url", &self.shown()).finish_non_exhaustive()
    }
}

impl Sink for Webhook {
    /// There is nothing to look at: what the receiver holds is known to it alone.
    fn open(&mut self, _known: Position) -> Result<(), SinkError> {
        Ok(())
    }

    fn begin(&mut self, opening: &Opening) -> Result<(), SinkError> {
        (self.window, self.amendment) = (opening.window, opening.amendment);
        let file = |name: &String| File { name: name.clone(), rest: BytesMut::new(), offset: 0, chunks: 0 };
        self.files = opening.files.iter().map(file).collect();
        Ok(())
    }

    fn write(&mut self, file: usize, chunk: Chunk<'_>) -> Result<(), SinkError> {
        let it = self.files.get_mut(file).ok_or(SinkError::Order("a file that was not begun"))?;
        it.rest.extend_from_slice(chunk.bytes);
        let by_line = is_lines(&it.name);
        while let Some(end) = self.files.get(file).and_then(|it| cut(&it.rest, self.chunk_bytes, by_line)) {
            self.send_chunk(file, end)?;
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<(), SinkError> {
        for file in 0..self.files.len() {
            let rest = self.files.get(file).map_or(0, |it| it.rest.len());
            if rest > 0 {
                self.send_chunk(file, rest)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, _files: &[SealedFile], manifest: &[u8]) -> Result<(), SinkError> {
        let mut headers = self.headers("manifest", "manifest");
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        insert(&mut headers, "tidelog-manifest-sha256", &Digest::of(manifest).to_string());
        self.post(&headers, &Bytes::copy_from_slice(manifest))
    }
}

impl Webhook {
    /// The receiver that `config` names; nothing is connected to yet.
    ///
    /// # Errors
    /// [`SinkError::Refused`]: settings that cannot be used.
    pub fn new(at: &Setting, config: &SinkConfig) -> Result<Self, SinkError> {
        // The one TLS provider of the program; an error only says that it is there already.
        rustls::crypto::ring::default_provider().install_default().ok();
        let bad = |what: &str| SinkError::Refused(format!("sinks.{}.url: {what}", at.name));
        let url = Url::parse(&config.url).map_err(|error| bad(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(bad("expected http://HOST/PATH or https://HOST/PATH"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("found a user or a password; put `authorization=…` into `options_file`"));
        }
        let wishes = wishes(at.name, &Options::read(at, config)?)?;
        let client = Client::builder()
            .redirect(Policy::none())
            .timeout(wishes.timeout)
            .connect_timeout(wishes.connect_timeout)
            .default_headers(wishes.headers)
            .user_agent(concat!("tidelog/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| bad(&error.to_string()))?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (name, log, secrets, chunk_bytes) = (at.name, at.log, wishes.secrets, wishes.chunk_bytes);
        let (window, amendment, files) = (WindowId::ZERO, 0, Vec::new());
        Ok(Self { name, log, url, client, runtime, secrets, chunk_bytes, window, amendment, files })
    }

    /// The address without what may be secret in it.
    fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.to_string()
    }

    /// What all requests of the window carry; `key` ends the idempotency key.
    fn headers(&self, kind: &'static str, key: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("tidelog-kind", HeaderValue::from_static(kind));
        let window = match self.amendment {
            0 => self.window.0.to_string(),
            number => format!("{}.{number}", self.window.0),
        };
        insert(&mut headers, "idempotency-key", &format!("{}:{}:{window}:{key}", self.log, self.name));
        insert(&mut headers, "tidelog-log", &self.log.to_string());
        insert(&mut headers, "tidelog-window", &self.window.0.to_string());
        if self.amendment > 0 {
            insert(&mut headers, "tidelog-amendment", &self.amendment.to_string());
        }
        headers
    }

    /// Sends the first `end` bytes that the file still has to send.
    fn send_chunk(&mut self, number: usize, end: usize) -> Result<(), SinkError> {
        let Some(file) = self.files.get(number) else { return Ok(()) };
        let mut headers = self.headers("chunk", &format!("{number}.{}", file.chunks));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(&file.name)));
        insert(&mut headers, "tidelog-file", &file.name);
        insert(&mut headers, "tidelog-offset", &file.offset.to_string());
        let Some(file) = self.files.get_mut(number) else { return Ok(()) };
        let body = file.rest.split_to(end).freeze();
        file.offset += body.len() as u64;
        file.chunks += 1;
        self.post(&headers, &body)
    }

    /// Sends a request until it is answered, again only if the receiver named a time for that.
    fn post(&self, headers: &HeaderMap, body: &Bytes) -> Result<(), SinkError> {
        self.runtime.block_on(async {
            let mut answer = self.once(headers, body).await?;
            if let Some(wait) = retry_after(&answer) {
                tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
                answer = self.once(headers, body).await?;
            }
            self.judge(answer).await
        })
    }

    async fn once(&self, headers: &HeaderMap, body: &Bytes) -> Result<Response, SinkError> {
        let request = self.client.post(self.url.clone()).headers(headers.clone()).body(body.clone());
        request.send().await.map_err(|error| {
            let what = match &error {
                error if error.is_timeout() => "no answer in time",
                error if error.is_connect() => "nobody listens there, or the network is away",
                _ => "the connection broke",
            };
            let mut source = error.source();
            let mut cause = String::new();
            while let Some(inner) = source {
                cause = format!(" ({})", self.plain(&inner.to_string()));
                source = inner.source();
            }
            SinkError::Away(format!("{}: {what}{cause}", self.shown()))
        })
    }

    async fn judge(&self, answer: Response) -> Result<(), SinkError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = self.plain(&answer.text().await.unwrap_or_default());
        let told = format!("{}: window {} was answered with {status} {text}", self.shown(), self.window);
        Err(match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                SinkError::Away(told)
            }
            status if status.is_server_error() => SinkError::Away(told),
            status if status.is_redirection() => {
                SinkError::Refused(format!("{told}; redirects are not followed: set `url` to where it leads"))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                SinkError::Refused(format!("{told}; check `authorization` in `options_file`"))
            }
            _ => SinkError::Refused(format!("{told}; the receiver refuses it: look at its log")),
        })
    }

    /// The beginning of a text on one line, without values of headers.
    fn plain(&self, text: &str) -> String {
        let text = self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…"));
        let line: Vec<_> = text.split_whitespace().collect();
        line.join(" ").chars().take(SHOWN_BYTES).collect()
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Names and numbers of ours: always text that a header takes.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn is_lines(name: &str) -> bool {
    name.rsplit('.').next() == Some("jsonl")
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("jsonl") => "application/x-ndjson",
        Some("zst") => "application/zstd",
        Some("parquet") => "application/vnd.apache.parquet",
        _ => "application/octet-stream",
    }
}

/// Where the next chunk ends; `None`: it is not whole yet.
fn cut(bytes: &[u8], chunk_bytes: usize, by_line: bool) -> Option<usize> {
    let last = chunk_bytes.saturating_sub(1);
    let after = bytes.get(last..).filter(|rest| !rest.is_empty())?;
    if by_line { memchr(b'\n', after).map(|at| last + at + 1) } else { Some(chunk_bytes) }
}

/// How long the receiver asks to be left alone, where it says so in seconds.
fn retry_after(answer: &Response) -> Option<Duration> {
    let asks = matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let seconds = answer.headers().get(RETRY_AFTER).filter(|_| asks)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// `timeout_ms`, `connect_timeout_ms` and `chunk_bytes`; every other option is a header.
fn wishes(sink: &str, options: &Options) -> Result<Wishes, SinkError> {
    let bad = |name: &str, what: &str| SinkError::Refused(format!("sinks.{sink}.options: `{name}`: {what}"));
    let mut wishes = Wishes {
        headers: HeaderMap::new(),
        secrets: Vec::new(),
        chunk_bytes: CHUNK_BYTES,
        timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(5),
    };
    for (name, value) in options.iter() {
        let number = |bounds: std::ops::RangeInclusive<u64>| {
            let told = value.parse().ok().filter(|number| bounds.contains(number));
            told.ok_or_else(|| {
                bad(name, &format!("expected a whole number from {} to {}", bounds.start(), bounds.end()))
            })
        };
        match name {
            "timeout_ms" => wishes.timeout = Duration::from_millis(number(100..=600_000)?),
            "connect_timeout_ms" => wishes.connect_timeout = Duration::from_millis(number(100..=60_000)?),
            "chunk_bytes" => wishes.chunk_bytes = usize::try_from(number(CHUNK_BOUNDS)?).unwrap_or(CHUNK_BYTES),
            _ => {
                let header = name.to_ascii_lowercase();
                if OWN.contains(&header.as_str()) || header.starts_with("tidelog-") {
                    return Err(bad(name, "the sink sets this header itself"));
                }
                let header = HeaderName::from_bytes(header.as_bytes())
                    .map_err(|_invalid| bad(name, "neither an option of this sink nor the name of a header"))?;
                let mut text =
                    HeaderValue::from_str(value).map_err(|_invalid| bad(name, "its value cannot stand in a header"))?;
                text.set_sensitive(true);
                wishes.headers.insert(header, text);
                // `Bearer abc`: each word alone is no less secret. Short ones would blank out half of each text.
                wishes.secrets.extend(value.split_whitespace().filter(|word| word.len() > 6).map(str::to_owned));
            }
        }
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests;
