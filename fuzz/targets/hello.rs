//! hello's request and reply, from any bytes framed as a document: a reply that is rewritten names no address that is
//! not in the table, and no compression.
#![no_main]

use bson::{RawBsonRef, RawDocument};
use libfuzzer_sys::fuzz_target;
use tidelog::wire::hello::{self, View};
use tidelog::wire::hosts::HostTable;

const OURS: [&str; 2] = ["sidecar:1", "sidecar2:1"];

fn only_ours(body: &RawDocument) {
    for element in body.iter() {
        let Ok((key, value)) = element else { return };
        match (key.as_str(), value) {
            ("compression", _) => panic!("compression was kept"),
            ("hosts" | "passives" | "arbiters", RawBsonRef::Array(list)) => {
                for host in list.into_iter().flatten().filter_map(RawBsonRef::as_str) {
                    assert!(OURS.contains(&host), "{host} was told");
                }
            }
            ("me" | "primary", RawBsonRef::String(host)) => assert!(OURS.contains(&host), "{host} was told"),
            _ => {}
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(body) = RawDocument::from_bytes(data) else { return };
    if let Ok(request) = hello::rewrite_request(body) {
        assert!(request.get("compression").ok().flatten().is_none(), "compression was asked for");
    }
    let _ = (hello::learn_client(body), hello::learn_node(body));
    let table = HostTable::new([("node:2", OURS[0]), ("node2:2", OURS[1])]);
    let view = View { table: &table, upstream: "node:2", advertised: OURS[0], max_message: 1_000_000 };
    if let Ok((reply, _)) = hello::rewrite_reply(body, view) {
        only_ours(&reply);
    }
});
