//! Asks a running sidecar's admin address: HTTP/1.0, one request per connection.

use super::CliError;
use crate::config::Address;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long the connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The greatest answer that is read.
const ANSWER_BYTES: u64 = 64 << 20;

/// An answer.
pub(super) struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    /// The body of a 200; every other status is a failure with the sidecar's own words.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        if self.status != 200 {
            let told = serde_json::from_slice::<serde_json::Value>(&self.body).ok();
            let told = told.and_then(|v| v.get("error").and_then(|e| e.as_str().map(str::to_owned)));
            return Err(CliError::Failed(told.unwrap_or_else(|| format!("the sidecar answered {}", self.status))));
        }
        serde_json::from_slice(&self.body).map_err(|e| CliError::Failed(format!("the answer cannot be read: {e}")))
    }
}

/// Sends a request and reads the whole answer; `patience` bounds the wait for it.
pub(super) fn ask(admin: &Address, method: &str, path: &str, patience: Duration) -> Result<Answer, CliError> {
    exchange(admin, method, path, patience).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => CliError::Failed(format!(
            "nothing listens on {admin}: is the sidecar running, and is this its admin address?"
        )),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            CliError::Failed(format!("{admin} did not answer in {} s", patience.as_secs()))
        }
        _ => CliError::Failed(format!("{admin}: {error}")),
    })
}

fn exchange(admin: &Address, method: &str, path: &str, patience: Duration) -> io::Result<Answer> {
    let mut stream = connect(admin)?;
    stream.set_read_timeout(Some(patience))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {admin}\r\nAccept: application/json\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

fn connect(admin: &Address) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (admin.host(), admin.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: bytes.get(end + 4..)?.to_vec() })
}

/// A text as part of a query.
pub(super) fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status_and_body() {
        let answer = parse(b"HTTP/1.1 200 OK\r\ncontent-type: x\r\n\r\n[1]").unwrap();
        assert_eq!(answer.json::<Vec<u8>>().unwrap(), [1]);
        let answer = parse(b"HTTP/1.0 503 X\r\n\r\n{\"error\":\"the log is poisoned\"}").unwrap();
        assert_eq!(answer.json::<u8>().unwrap_err().to_string(), "the log is poisoned");
        assert!(parse(b"SSH-2.0\r\n\r\n").is_none());
    }

    #[test]
    fn quotes_what_is_not_plain() {
        assert_eq!(quoted("month-end é&x"), "month-end%20%C3%A9%26x");
    }
}
