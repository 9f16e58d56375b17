//! The proxy in front of a real store, spoken to in raw messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

mod captured;
mod drain;
mod store;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{doc, rawdoc};
use bytes::{Bytes, BytesMut};
use captured::{Captured, captured};
use mongodb::Client as Driver;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tidelog::metrics;
use tidelog::proxy::{Drained, Proxy, ProxyOptions};
use tidelog::wire::frame::opcode;
use tidelog::wire::hosts::HostTable;
use tidelog::wire::msg::flag;
use tidelog::wire::query::{self, OpReply};
use tidelog::wire::{Builder, Header, Limits, Message, OpMsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing here takes that long; a hang is a failure.
async fn soon<T>(what: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("within 20 s")
}

struct Sidecar {
    address: String,
    shutdown: CancellationToken,
    served: JoinHandle<Drained>,
    captured: Captured,
}

impl Sidecar {
    async fn start(node: &str, set: impl FnOnce(&mut ProxyOptions)) -> Self {
        Self::start_as("", node, set).await
    }

    /// `user`: `name:password@` of the sidecar itself.
    async fn start_as(user: &str, node: &str, set: impl FnOnce(&mut ProxyOptions)) -> Self {
        let mut options = ProxyOptions::new("127.0.0.1:0", node);
        set(&mut options);
        let captured = captured(&format!("{user}{node}")).await;
        let proxy = Proxy::bind(options, Arc::clone(&captured.capture)).await.unwrap();
        let address = proxy.local_addr().to_string();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(proxy.serve(shutdown.clone()));
        Self { address, shutdown, served, captured }
    }

    async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(&self.address).await.unwrap(), buf: BytesMut::new() }
    }
}

struct Client {
    stream: TcpStream,
    buf: BytesMut,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message; `None`: the connection was closed.
    async fn message(&mut self) -> Option<Message> {
        soon(async {
            loop {
                if let Some(message) = Message::take(&mut self.buf, Limits::default()).unwrap() {
                    return Some(message);
                }
                if matches!(self.stream.read_buf(&mut self.buf).await, Ok(0) | Err(_)) {
                    return None;
                }
            }
        })
        .await
    }

    async fn msg(&mut self) -> OpMsg {
        OpMsg::parse(self.message().await.expect("a reply")).unwrap()
    }

    async fn run(&mut self, id: i32, body: &RawDocument) -> OpMsg {
        self.send(&Builder::request(id, 0).body(body).finish()).await;
        let reply = self.msg().await;
        assert_eq!(reply.response_to(), id);
        reply
    }

    async fn closed(&mut self) {
        assert!(self.message().await.is_none(), "the connection is closed");
    }
}

fn op_query(id: i32, collection: &str, body: &RawDocument) -> Bytes {
    let mut tail = vec![0, 0, 0, 0];
    tail.extend(collection.as_bytes());
    tail.extend([0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    tail.extend(body.as_bytes());
    let len = u32::try_from(tail.len() + 16).unwrap();
    let mut out = Header { len, request_id: id, response_to: 0, opcode: opcode::QUERY }.encode().to_vec();
    out.extend(tail);
    out.into()
}

fn assert_told_us(body: &RawDocument, sidecar: &str) {
    assert_eq!(body.get_str("me").unwrap(), sidecar);
    assert_eq!(body.get_str("primary").unwrap(), sidecar);
    let hosts: Vec<_> =
        body.get_array("hosts").unwrap().into_iter().map(|h| h.unwrap().as_str().unwrap().to_owned()).collect();
    assert_eq!(hosts, [sidecar]);
    assert!(body.get("compression").unwrap().is_none());
}

#[tokio::test]
async fn hello_in_all_forms_names_the_sidecar() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |_| {}).await;
    for name in ["hello", "isMaster", "ismaster"] {
        let key = bson::raw::CString::try_from(name).unwrap();
        let mut body = RawDocumentBuf::new();
        body.append(&key, 1);
        body.append(bson::raw::cstr!("compression"), rawdoc! { "0": "zlib" });
        body.append(bson::raw::cstr!("helloOk"), true);
        let mut client = sidecar.client().await;
        client.send(&op_query(7, "admin.$cmd", &body)).await;
        let old = client.message().await.unwrap();
        assert_eq!((old.header.opcode, old.header.response_to), (opcode::REPLY, 7));
        assert_told_us(OpReply::parse(old).unwrap().body(), &sidecar.address);
        body.append(bson::raw::cstr!("$db"), "admin");
        assert_told_us(client.run(8, &body).await.body(), &sidecar.address);
    }
}

#[tokio::test]
async fn the_advertised_address_is_told() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |o| o.advertise = Some("Sidecar.example:4444".into())).await;
    let mut client = sidecar.client().await;
    let told = client.run(1, &rawdoc! { "hello": 1, "$db": "admin" }).await;
    assert_told_us(told.body(), "sidecar.example:4444");
}

/// A node that gives each request the same reply.
async fn fake_node(reply: impl Fn(i32) -> Bytes + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut node = Client { stream, buf: BytesMut::new() };
            while let Some(request) = node.message().await {
                node.send(&reply(request.header.request_id)).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn an_unknown_host_is_an_alarm_and_never_told() {
    let hello = rawdoc! { "hosts": ["Node1:27017", "node2:27017", "node3:27017"], "primary": "node3:27017", "me": "node1:27017", "ok": 1.0 };
    let node = fake_node(move |id| Builder::reply(1, id).body(&hello).finish()).await;
    let sidecar = Sidecar::start(&node, |o| o.hosts = HostTable::new([("node2:27017", "sidecar2:27117")])).await;
    let before = metrics::UNKNOWN_HOSTS.total();
    let told = sidecar.client().await.run(1, &rawdoc! { "hello": 1, "$db": "admin" }).await;
    let us = sidecar.address.as_str();
    assert_eq!(told.body(), &*rawdoc! { "hosts": [us, "sidecar2:27117"], "me": us, "ok": 1.0 });
    assert_eq!(metrics::UNKNOWN_HOSTS.total() - before, 2);
}

#[tokio::test]
async fn a_node_out_of_step_or_compressed_ends_the_connection() {
    for (opcode, answers) in [(opcode::COMPRESSED, 1), (opcode::MSG, 77)] {
        let node = fake_node(move |_| {
            let mut reply = Builder::reply(1, answers).body(&rawdoc! { "ok": 1.0 }).finish().to_vec();
            reply[12..16].copy_from_slice(&opcode.to_le_bytes());
            reply.into()
        })
        .await;
        let sidecar = Sidecar::start(&node, |_| {}).await;
        let mut client = sidecar.client().await;
        client.send(&Builder::request(1, 0).body(&rawdoc! { "ping": 1, "$db": "d" }).finish()).await;
        client.closed().await;
    }
}

#[tokio::test]
async fn without_a_node_the_client_is_closed() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let sidecar = Sidecar::start(&free, |_| {}).await;
    sidecar.client().await.closed().await;
}

#[tokio::test]
async fn streaming_hello_goes_on_until_the_client_leaves_or_we_end() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |_| {}).await;
    let mut client = sidecar.client().await;
    let first = client.run(1, &rawdoc! { "hello": 1, "$db": "admin" }).await;
    let version = first.body().get_document("topologyVersion").unwrap().to_owned();
    let body = rawdoc! { "hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 100, "$db": "admin" };
    client.send(&Builder::request(2, flag::EXHAUST_ALLOWED).body(&body).finish()).await;
    let mut before = 2;
    for _ in 0..4 {
        let message = client.message().await.expect("a streamed hello");
        assert!([2, before].contains(&message.header.response_to));
        before = message.header.request_id;
        let reply = OpMsg::parse(message).unwrap();
        assert!(reply.more_to_come());
        assert_told_us(reply.body(), &sidecar.address);
    }
    sidecar.shutdown.cancel();
    assert_eq!(soon(sidecar.served).await.unwrap(), Drained { ended: 1, cut_off: 0 });
    while client.message().await.is_some() {}
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_whatever_the_pieces() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |_| {}).await;
    let mut client = sidecar.client().await;
    let mut all = Vec::new();
    for id in 1..=200 {
        let body = if id % 50 == 0 {
            rawdoc! { "hello": 1, "$db": "admin" }
        } else {
            rawdoc! { "ping": 1, "$db": "admin" }
        };
        all.extend(Builder::request(id, 0).body(&body).finish());
    }
    for piece in all.chunks(997) {
        client.send(piece).await;
    }
    for id in 1..=200 {
        assert_eq!(client.msg().await.response_to(), id);
    }
}

#[tokio::test]
async fn large_replies_stream_to_a_slow_client() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |_| {}).await;
    let mut client = sidecar.client().await;
    let big = "x".repeat(1_000_000);
    for id in 0..14 {
        let insert = rawdoc! { "insert": "c", "documents": [{ "_id": id, "big": big.as_str() }], "$db": "d" };
        assert_eq!(client.run(id, &insert).await.body().get_i32("n").unwrap(), 1);
    }
    client.send(&Builder::request(99, 0).body(&rawdoc! { "find": "c", "batchSize": 100, "$db": "d" }).finish()).await;
    // What a reader in no hurry gets is whole all the same.
    let mut head = [0; 64];
    soon(client.stream.read_exact(&mut head)).await.unwrap();
    let other = sidecar.client().await.run(1, &rawdoc! { "ping": 1, "$db": "d" }).await;
    assert!(tidelog::wire::auth::is_ok(other.body()));
    client.buf.extend_from_slice(&head);
    let reply = client.msg().await;
    let batch = reply.body().get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    assert_eq!(batch.into_iter().count(), 14);
}

#[tokio::test]
async fn exhaust_cursors_pass() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |_| {}).await;
    let mut client = sidecar.client().await;
    let documents: bson::raw::RawArrayBuf = (0..50).map(|n| rawdoc! { "_id": n }).collect();
    client.run(1, &rawdoc! { "insert": "c", "documents": documents, "$db": "d" }).await;
    let found = client.run(2, &rawdoc! { "find": "c", "batchSize": 10, "$db": "d" }).await;
    let cursor = found.body().get_document("cursor").unwrap().get_i64("id").unwrap();
    let more = rawdoc! { "getMore": cursor, "collection": "c", "batchSize": 10, "$db": "d" };
    client.send(&Builder::request(3, flag::EXHAUST_ALLOWED).body(&more).finish()).await;
    let mut got = 10;
    loop {
        let reply = client.msg().await;
        got += reply.body().get_document("cursor").unwrap().get_array("nextBatch").unwrap().into_iter().count();
        if !reply.more_to_come() {
            break;
        }
    }
    assert_eq!(got, 50);
    client.run(4, &rawdoc! { "ping": 1, "$db": "d" }).await;
}

#[tokio::test]
async fn wrong_bytes_end_one_connection_and_no_other() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |_| {}).await;
    let mut good = sidecar.client().await;
    let header = |len: u32, opcode: i32| Header { len, request_id: 1, response_to: 0, opcode }.encode().to_vec();
    let mut negative = header(16, opcode::MSG);
    negative[3] = 0xff;
    let mut flags = Builder::request(1, 0).body(&rawdoc! { "insert": "c", "$db": "d" }).finish().to_vec();
    flags[16] = 8;
    for (bytes, answered) in [
        (negative, false),
        (header(8, opcode::MSG), false),
        (header(u32::MAX >> 1, opcode::MSG), false),
        (header(48_000_001, opcode::MSG), false),
        (header(16, 4242), false),
        (header(16, opcode::INSERT), false),
        (header(16, opcode::DELETE), false),
        (header(16, opcode::COMPRESSED), true),
        (flags, true),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), false),
    ] {
        let mut client = sidecar.client().await;
        client.send(&bytes).await;
        if answered {
            assert!(client.msg().await.body().get_i32("code").is_ok(), "{bytes:?}");
        }
        client.closed().await;
    }
    let mut client = sidecar.client().await;
    let none: [&[u8]; 0] = [];
    client.send(&Builder::request(5, 0).sequence("documents", none).finish()).await;
    assert_eq!(client.msg().await.body().get_i32("code").unwrap(), 40587);
    client.send(&op_query(6, "d.c", &rawdoc! {})).await;
    assert_eq!(client.message().await.unwrap().header.opcode, opcode::REPLY);
    client.send(&query::reply(1, 0, &rawdoc! {}, false)).await;
    client.closed().await;
    good.run(1, &rawdoc! { "ping": 1, "$db": "d" }).await;
}

#[tokio::test]
async fn what_would_go_past_the_log_is_refused() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |o| o.transactions = false).await;
    let mut client = sidecar.client().await;
    let apply = client.run(1, &rawdoc! { "applyOps": [], "$db": "admin" }).await;
    assert_eq!(apply.body().get_i32("code").unwrap(), 115);
    let lsid = rawdoc! { "id": bson::Binary::from(bson::Uuid::new()) };
    let find = rawdoc! { "find": "c", "lsid": lsid.clone(), "txnNumber": 1_i64, "startTransaction": true, "autocommit": false, "$db": "d" };
    assert!(tidelog::wire::auth::is_ok(client.run(2, &find).await.body()));
    let insert = rawdoc! { "insert": "c", "documents": [{ "_id": 1 }], "lsid": lsid.clone(), "txnNumber": 1_i64, "autocommit": false, "$db": "d" };
    let refused = client.run(3, &insert).await;
    assert_eq!(refused.body().get_i32("code").unwrap(), 263);
    assert!(refused.body().get_str("errmsg").unwrap().contains("capture.transactions"));
    let commit =
        rawdoc! { "commitTransaction": 1, "lsid": lsid, "txnNumber": 1_i64, "autocommit": false, "$db": "admin" };
    assert_eq!(client.run(4, &commit).await.body().get_i32("code").unwrap(), 251);
}

#[tokio::test]
async fn writes_without_an_answer_keep_their_order() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |_| {}).await;
    let mut client = sidecar.client().await;
    for id in 1..=20 {
        let insert = rawdoc! { "insert": "c", "documents": [{ "_id": id }], "writeConcern": { "w": 0 }, "$db": "d" };
        client.send(&Builder::request(id, flag::MORE_TO_COME).body(&insert).finish()).await;
    }
    let count = client.run(21, &rawdoc! { "count": "c", "$db": "d" }).await;
    assert_eq!(count.body().get_i32("n").unwrap(), 20);
    let short = rawdoc! { "insert": "c", "documents": [{ "_id": 21 }], "writeConcern": { "w": 0 }, "$db": "d" };
    let reply = client.run(22, &short).await;
    let told: Vec<_> = reply.body().iter().map(|e| e.unwrap().0.as_str().to_owned()).collect();
    assert_eq!(reply.body().get("ok").unwrap(), Some(bson::raw::RawBsonRef::Double(1.0)));
    assert!(told.iter().all(|key| ["ok", "$clusterTime", "operationTime"].contains(&key.as_str())), "{told:?}");
}

#[tokio::test]
async fn limits_hold_and_count() {
    let store = Store::start(&[]);
    let sidecar = Sidecar::start(&store.address, |o| {
        o.max_connections = 2;
        o.max_message_bytes = 100_000;
        o.idle = Duration::from_millis(300);
        o.stall = Duration::from_millis(300);
    })
    .await;
    let refused = metrics::CONNECTIONS_REFUSED.get_for("limit");
    let (mut one, mut two) = (sidecar.client().await, sidecar.client().await);
    let told = one.run(1, &rawdoc! { "hello": 1, "$db": "admin" }).await;
    assert_eq!(told.body().get_i32("maxMessageSizeBytes").unwrap(), 100_000);
    two.run(1, &rawdoc! { "ping": 1, "$db": "d" }).await;
    let mut three = sidecar.client().await;
    three.closed().await;
    assert!(metrics::CONNECTIONS_REFUSED.get_for("limit") > refused);
    let too_large = Header { len: 100_001, request_id: 1, response_to: 0, opcode: opcode::MSG };
    two.send(&too_large.encode()).await;
    two.closed().await;
    one.closed().await;
    let mut stalled = sidecar.client().await;
    stalled.send(&[1, 2, 3]).await;
    stalled.closed().await;
}

#[tokio::test]
async fn a_client_that_goes_takes_its_read_along() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(&listener.local_addr().unwrap().to_string(), |_| {}).await;
    let mut client = sidecar.client().await;
    let mut node = Client { stream: soon(listener.accept()).await.unwrap().0, buf: BytesMut::new() };
    client.send(&Builder::request(2, 0).body(&rawdoc! { "find": "c", "$db": "d" }).finish()).await;
    assert!(node.message().await.is_some());
    drop(client);
    node.closed().await;
}

#[tokio::test]
async fn drivers_stay_with_us_and_are_known() {
    let store = Store::start(&["--auth"]);
    let direct = Driver::with_uri_str(format!("mongodb://{}/?directConnection=true", store.address)).await.unwrap();
    let create = doc! { "createUser": "tide", "pwd": "pw", "roles": ["root"] };
    direct.database("admin").run_command(create).await.unwrap();
    let sidecar = Sidecar::start_as("tide:pw@", &store.address, |_| {}).await;
    for (n, options) in ["", "&replicaSet=secantus", "&directConnection=true"].into_iter().enumerate() {
        let uri = format!("mongodb://tide:pw@{}/?appName=shop{options}", sidecar.address);
        let driver = Driver::with_uri_str(uri).await.unwrap();
        let id = i32::try_from(n).unwrap();
        soon(driver.database("d").collection("c").insert_one(doc! { "_id": id }).into_future()).await.unwrap();
        let origin = sidecar.captured.last_origin();
        assert_eq!(
            (origin.user.as_str(), origin.mechanism.as_str(), origin.app.as_str()),
            ("tide@admin", "SCRAM-SHA-256", "shop")
        );
        assert!(origin.driver.starts_with("mongo-rust-driver/"), "{}", origin.driver);
    }
}

#[tokio::test]
async fn a_cut_is_answered_by_us() {
    let node = fake_node(|id| Builder::reply(1, id).body(&rawdoc! { "ok": 0.0 }).finish()).await;
    let sidecar = Sidecar::start(&node, |o| {
        o.cut = Arc::new(|label| {
            let window = if label.as_deref() == Some("month-end") { 7 } else { 8 };
            Box::pin(async move { Ok(window) })
        });
    })
    .await;
    let mut client = sidecar.client().await;
    let cut = client.run(1, &rawdoc! { "tidelogCut": 1, "label": "month-end", "$db": "admin" }).await;
    assert_eq!(cut.body(), &*rawdoc! { "window": 7_i64, "ok": 1.0 });
    let plain = client.run(2, &rawdoc! { "tidelogCut": 1, "$db": "admin" }).await;
    assert_eq!(plain.body().get_i64("window").unwrap(), 8);
    let wrong = client.run(3, &rawdoc! { "tidelogCut": 1, "label": 5, "$db": "admin" }).await;
    assert_eq!(wrong.body().get_i32("code").unwrap(), 14);
}
