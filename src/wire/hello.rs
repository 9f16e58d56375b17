//! The handshake, rewritten so that drivers stay on the sidecar and speak what it understands.
//!
//! In the request: `compression` goes. In the reply: `hosts`, `passives`, `arbiters`, `primary`, `me` are told as the
//! [`HostTable`] says, `compression` goes, `maxMessageSizeBytes` is lowered to our own limit. Everything else is the
//! node's (server discovery compares `setName`, `setVersion`, `electionId`; streaming needs `topologyVersion`).
//! An unknown host is never told; the caller gets its name and raises the alarm.

use super::build::without;
use super::hosts::{HostTable, Seen};
use bson::raw::{CStr, RawArray, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use std::borrow::Cow;

/// Longest name that is kept of what a client tells about itself, in bytes.
const MAX_NAME: usize = 256;

/// What a client tells about itself in its first hello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// `client.application.name`
    pub app: String,
    /// `client.driver`, as `name/version`
    pub driver: String,
}

/// What a node tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// `maxMessageSizeBytes`
    pub max_message: u32,
    /// `maxBsonObjectSize`
    pub max_document: u32,
    /// `maxWriteBatchSize`
    pub max_batch: u32,
    /// `maxWireVersion`
    pub wire_version: i32,
}

/// Us, as a rewritten hello reply tells us.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The table of nodes.
    pub table: &'a HostTable,
    /// Our node's address as configured.
    pub upstream: &'a str,
    /// Our own address as clients reach it.
    pub advertised: &'a str,
    /// Our limit of a message, in bytes.
    pub max_message: u32,
}

/// The request without what we do not speak. Borrowed: nothing had to change.
///
/// # Errors
/// When the document is not well formed.
pub fn rewrite_request(body: &RawDocument) -> bson::error::Result<Cow<'_, RawDocument>> {
    if body.get("compression")?.is_none() {
        return Ok(Cow::Borrowed(body));
    }
    Ok(Cow::Owned(without(body, &["compression"])?))
}

/// What the client tells about itself; `None` if it tells nothing.
pub fn learn_client(body: &RawDocument) -> Option<ClientFacts> {
    let client = body.get_document("client").ok()?;
    let text = |doc: Option<&RawDocument>, key: &str| {
        doc.and_then(|d| d.get_str(key).ok()).map(|s| clean(s, MAX_NAME)).unwrap_or_default()
    };
    let app = text(client.get_document("application").ok(), "name");
    let driver = client.get_document("driver").ok();
    let (name, version) = (text(driver, "name"), text(driver, "version"));
    let driver = if version.is_empty() { name } else { format!("{name}/{version}") };
    Some(ClientFacts { app, driver })
}

/// What the node tells about itself, where the reply is a good one.
pub fn learn_node(body: &RawDocument) -> Option<NodeFacts> {
    let number = |key: &str| body.get(key).ok().flatten().and_then(as_u32);
    Some(NodeFacts {
        max_message: number("maxMessageSizeBytes")?,
        max_document: number("maxBsonObjectSize").unwrap_or(16 * 1024 * 1024),
        max_batch: number("maxWriteBatchSize").unwrap_or(100_000),
        wire_version: body.get_i32("maxWireVersion").unwrap_or(0),
    })
}

/// The reply as clients may see it, and the hosts in it that are not known.
///
/// # Errors
/// When the document is not well formed.
pub fn rewrite_reply(body: &RawDocument, view: View<'_>) -> bson::error::Result<(RawDocumentBuf, Vec<String>)> {
    let me = body.get("me")?.and_then(RawBsonRef::as_str);
    let mut hosts = Hosts { view, me, unknown: Vec::new() };
    let mut out = RawDocumentBuf::new();
    for element in body {
        let (key, value) = element?;
        match (key.as_str(), value) {
            ("compression", _) => {}
            ("hosts" | "passives" | "arbiters", RawBsonRef::Array(list)) => out.append(key, hosts.list(key, list)?),
            ("me", RawBsonRef::String(host)) => {
                out.append(key, hosts.one(host).unwrap_or_else(|| view.advertised.to_owned()));
            }
            ("primary", RawBsonRef::String(host)) => {
                // A primary that is not known is not told at all: in its place, ours would be a lie.
                if let Some(shown) = hosts.one(host) {
                    out.append(key, shown);
                }
            }
            ("maxMessageSizeBytes", value) => append_lowered(&mut out, key, value, view.max_message),
            (_, value) => out.append(key, value),
        }
    }
    Ok((out, hosts.unknown))
}

/// The state of one rewriting.
struct Hosts<'a> {
    view: View<'a>,
    me: Option<&'a str>,
    unknown: Vec<String>,
}

impl Hosts<'_> {
    fn one(&mut self, host: &str) -> Option<String> {
        let own = [self.view.upstream, self.me.unwrap_or(self.view.upstream)];
        match self.view.table.see(host, &own, self.view.advertised) {
            Seen::As(shown) => Some(shown),
            Seen::Unknown => {
                self.unknown.push(clean(host, MAX_NAME));
                None
            }
        }
    }

    /// Known hosts, each once. If `hosts` names none that is known, it names us: an empty list would make drivers drop us.
    fn list(&mut self, key: &CStr, list: &RawArray) -> bson::error::Result<RawArrayBuf> {
        let mut shown: Vec<String> = Vec::new();
        for item in list {
            let Some(host) = item?.as_str() else { continue };
            if let Some(host) = self.one(host).filter(|host| !shown.contains(host)) {
                shown.push(host);
            }
        }
        if shown.is_empty() && key == cstr!("hosts") && !list.is_empty() {
            shown.push(super::hosts::normal(self.view.advertised));
        }
        Ok(shown.iter().map(String::as_str).collect())
    }
}

fn append_lowered(out: &mut RawDocumentBuf, key: &CStr, value: RawBsonRef<'_>, max: u32) {
    match (as_u32(value), i32::try_from(max)) {
        (Some(told), Ok(ours)) if told > max => out.append(key, ours),
        _ => out.append(key, value),
    }
}

fn as_u32(value: RawBsonRef<'_>) -> Option<u32> {
    match value {
        RawBsonRef::Int32(n) => u32::try_from(n).ok(),
        RawBsonRef::Int64(n) => u32::try_from(n).ok(),
        RawBsonRef::Double(n) if n.fract() == 0.0 => format!("{n:.0}").parse().ok(),
        _ => None,
    }
}

/// At most `max` bytes of `text`, without control characters.
pub(super) fn clean(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    const ADVERTISED: &str = "127.0.0.1:27018";

    fn rewrite(body: &RawDocument, table: &HostTable) -> (RawDocumentBuf, Vec<String>) {
        let view = View { table, upstream: "127.0.0.1:27017", advertised: ADVERTISED, max_message: 1_000_000 };
        rewrite_reply(body, view).unwrap()
    }

    #[test]
    fn without_a_table_the_node_is_told_as_us() {
        let body = rawdoc! {
            "ismaster": true, "hosts": ["0.0.0.0:27017"], "me": "0.0.0.0:27017", "primary": "0.0.0.0:27017", "setName": "rs",
            "maxMessageSizeBytes": 48_000_000, "compression": ["zlib"], "topologyVersion": { "counter": 1_i64 }, "ok": 1.0,
        };
        let (out, unknown) = rewrite(&body, &HostTable::default());
        let expected = rawdoc! {
            "ismaster": true, "hosts": [ADVERTISED], "me": ADVERTISED, "primary": ADVERTISED, "setName": "rs",
            "maxMessageSizeBytes": 1_000_000, "topologyVersion": { "counter": 1_i64 }, "ok": 1.0,
        };
        assert_eq!(out, expected);
        assert!(unknown.is_empty());
    }

    #[test]
    fn unknown_hosts_are_never_told() {
        let body = rawdoc! { "hosts": ["a:1", "127.0.0.1:27017"], "passives": ["p:1"], "primary": "a:1", "me": "127.0.0.1:27017" };
        let (out, unknown) = rewrite(&body, &HostTable::default());
        assert_eq!(out, rawdoc! { "hosts": [ADVERTISED], "passives": [], "me": ADVERTISED });
        assert_eq!(unknown, ["a:1", "p:1", "a:1"]);
        let only = rawdoc! { "hosts": ["a:1"] };
        assert_eq!(rewrite(&only, &HostTable::default()).0, rawdoc! { "hosts": [ADVERTISED] });
    }

    #[test]
    fn with_a_table_each_node_has_its_sidecar() {
        let table = HostTable::new([("a:1", "sa:1"), ("B:1", "sb:1")]);
        let body = rawdoc! { "hosts": ["A:1", "b:1"], "primary": "b:1", "me": "a:1" };
        assert_eq!(
            rewrite(&body, &table),
            (rawdoc! { "hosts": ["sa:1", "sb:1"], "primary": "sb:1", "me": "sa:1" }, vec![])
        );
    }

    #[test]
    fn the_request_loses_compression_only() {
        let body = rawdoc! { "isMaster": 1, "compression": ["snappy"], "client": { "driver": { "name": "d", "version": "1" } } };
        let out = rewrite_request(&body).unwrap();
        assert_eq!(*out, *rawdoc! { "isMaster": 1, "client": { "driver": { "name": "d", "version": "1" } } });
        assert!(matches!(rewrite_request(&out).unwrap(), Cow::Borrowed(_)));
        let body =
            rawdoc! { "client": { "application": { "name": "shop\n" }, "driver": { "name": "d", "version": "1" } } };
        assert_eq!(learn_client(&body), Some(ClientFacts { app: "shop".into(), driver: "d/1".into() }));
    }
}
