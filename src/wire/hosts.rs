//! The table node → address that clients see. Comparison is in lower case, and a missing port is 27017.

use std::collections::{HashMap, HashSet};

/// What to tell a client about one host of a hello reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Tell this address instead.
    As(String),
    /// Nothing is known of it: telling it would let clients pass us by.
    Unknown,
}

/// How hosts in hello replies are told to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTable {
    by_node: HashMap<String, String>,
    shown: HashSet<String>,
}

impl HostTable {
    /// A table of pairs (node as it calls itself, address of its sidecar as clients reach it).
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let by_node: HashMap<_, _> = pairs.into_iter().map(|(node, shown)| (normal(node), normal(shown))).collect();
        let shown = by_node.values().cloned().collect();
        Self { by_node, shown }
    }

    /// What clients are told for `host`. `own` are the names of the node behind us (as configured, and what it calls itself
    /// in this reply), `advertised` is our address.
    pub fn see(&self, host: &str, own: &[&str], advertised: &str) -> Seen {
        let host = normal(host);
        if let Some(shown) = self.by_node.get(&host) {
            return Seen::As(shown.clone());
        }
        if self.shown.contains(&host) {
            return Seen::As(host);
        }
        let advertised = normal(advertised);
        if host == advertised || own.iter().any(|own| normal(own) == host) {
            return Seen::As(advertised);
        }
        Seen::Unknown
    }
}

/// Lower case, with a port.
pub fn normal(host: &str) -> String {
    let host = host.trim().to_ascii_lowercase();
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) { host } else { format!("{host}:27017") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_own_and_unknown() {
        let table = HostTable::new([("Node1:27017", "sidecar1:27018"), ("node2", "sidecar2:27018")]);
        let see = |host: &str| table.see(host, &["127.0.0.1:27017"], "me:27018");
        assert_eq!(see("NODE1:27017"), Seen::As("sidecar1:27018".into()));
        assert_eq!(see("node2:27017"), Seen::As("sidecar2:27018".into()));
        assert_eq!(see("sidecar2:27018"), Seen::As("sidecar2:27018".into()));
        assert_eq!(see("127.0.0.1:27017"), Seen::As("me:27018".into()));
        assert_eq!(see("node3:27017"), Seen::Unknown);
        assert_eq!(normal("[::1]"), "[::1]:27017");
    }
}
