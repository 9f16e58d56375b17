//! `host:port`, as it is typed and as it stands in replies to clients.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// A host (name, IPv4, or IPv6 in brackets) and a port. The port 0 asks the system for a free one when listening.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// A port of this machine's IPv4 loopback.
    pub fn local(port: u16) -> Self {
        Self { host: Ipv4Addr::LOCALHOST.to_string(), port }
    }

    /// The same host with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Only this machine reaches it.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// It stands for all addresses of the machine, so that it cannot be told to clients.
    pub fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("found `{text}`, expected an address like `127.0.0.1:27017`, `db1.internal:27017` or `[::1]:27017`")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|_| port.bytes().all(|b| b.is_ascii_digit())).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().map(|ip| ip.to_string()).ok().ok_or_else(wrong)?,
            None => host.to_owned(),
        };
        let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        let known = named || host.parse::<std::net::Ipv6Addr>().is_ok() && text.starts_with('[');
        if known { Ok(Self { host, port }) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// An address that may be left empty.
pub(super) mod optional {
    use super::Address;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::ref_option, reason = "serde calls it with this signature")]
    pub(in crate::config) fn serialize<S: Serializer>(address: &Option<Address>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&address.as_ref().map(ToString::to_string).unwrap_or_default())
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Address>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(D::Error::custom) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_type() {
        for good in ["127.0.0.1:27017", "db-1.internal:1", "[::1]:27017", "localhost:0"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in ["", "db", ":1", "db:", "db:x", "db:65536", "::1:27017", "[::1]", "db:+1", "a b:1", "[x]:1"] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(error.contains("expected an address like"), "{error}");
        }
    }

    #[test]
    fn loopback_is_loopback() {
        assert!("[::1]:1".parse::<Address>().unwrap().is_loopback());
        assert!("LOCALHOST:1".parse::<Address>().unwrap().is_loopback());
        assert!(!"0.0.0.0:1".parse::<Address>().unwrap().is_loopback());
        assert!(!"db:1".parse::<Address>().unwrap().is_loopback());
    }
}
