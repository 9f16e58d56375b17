//! The end of the proxy while clients are at work: against a node that holds its answers back until told.

use super::{Client, Sidecar, soon};
use bson::rawdoc;
use bytes::BytesMut;
use std::sync::Arc;
use std::time::Duration;
use tidelog::proxy::Drained;
use tidelog::wire::{Builder, OpMsg};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

/// A node that answers each request, `getMore` only when `release` tells it to; the receiver tells when one has come.
async fn holding_node() -> (String, mpsc::UnboundedReceiver<()>, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, came) = mpsc::unbounded_channel();
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let node = Client { stream, buf: BytesMut::new() };
            tokio::spawn(hold(node, tell.clone(), Arc::clone(&released)));
        }
    });
    (address, came, release)
}

async fn hold(mut node: Client, tell: mpsc::UnboundedSender<()>, released: Arc<Notify>) {
    while let Some(request) = node.message().await {
        let id = request.header.request_id;
        if OpMsg::parse(request).is_ok_and(|request| request.command().0 == "getMore") {
            tell.send(()).unwrap();
            released.notified().await;
        }
        node.send(&Builder::reply(1, id).body(&rawdoc! { "ok": 1.0 }).finish()).await;
    }
}

#[tokio::test]
async fn the_drain_lets_commands_end_and_closes_the_rest() {
    let (node, mut came, release) = holding_node().await;
    let sidecar = Sidecar::start(&node, |o| o.drain = Duration::from_secs(10)).await;
    let mut idle = sidecar.client().await;
    idle.run(1, &rawdoc! { "ping": 1, "$db": "d" }).await;
    let mut busy = sidecar.client().await;
    let more = rawdoc! { "getMore": 1_i64, "collection": "c", "$db": "d" };
    busy.send(&Builder::request(2, 0).body(&more).finish()).await;
    soon(came.recv()).await.unwrap();
    sidecar.shutdown.cancel();
    idle.closed().await;
    release.notify_one();
    assert_eq!(busy.msg().await.response_to(), 2);
    busy.closed().await;
    assert_eq!(soon(sidecar.served).await.unwrap(), Drained { ended: 2, cut_off: 0 });
    assert!(TcpStream::connect(&sidecar.address).await.is_err());
}

#[tokio::test]
async fn the_drain_is_bounded() {
    let (node, mut came, _release) = holding_node().await;
    let sidecar = Sidecar::start(&node, |o| o.drain = Duration::from_millis(200)).await;
    let mut busy = sidecar.client().await;
    let more = rawdoc! { "getMore": 1_i64, "collection": "c", "$db": "d" };
    busy.send(&Builder::request(2, 0).body(&more).finish()).await;
    soon(came.recv()).await.unwrap();
    sidecar.shutdown.cancel();
    assert_eq!(soon(sidecar.served).await.unwrap(), Drained { ended: 0, cut_off: 1 });
}
