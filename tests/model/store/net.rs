//! Connections to the simulated store: in order, with delays, and cut before, within and after a command.

use super::Store;
use bytes::BytesMut;
use std::sync::Arc;
use tidelog::wire::{Limits, Message, OpMsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// Bytes under way in one direction.
const PIPE_BYTES: usize = 1 << 16;

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The node never sees the command.
    Before,
    /// It sees it long after the other end was told that the connection is gone.
    Late,
    /// It ran; no reply.
    After,
    /// It ran; half a reply.
    Within,
}

impl Store {
    /// Our end of a new connection; `None`: the node is down.
    pub(crate) fn connect(self: &Arc<Self>) -> Option<DuplexStream> {
        if !self.is_up() {
            return None;
        }
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let task = tokio::spawn(Arc::clone(self).serve(theirs));
        self.task(&task);
        Some(ours)
    }

    fn draw_cut(&self) -> Option<Cut> {
        if !self.fault(self.flavor.cut) {
            return None;
        }
        Some([Cut::Before, Cut::Late, Cut::After, Cut::Within][self.world.index(4)])
    }

    async fn serve(self: Arc<Self>, mut stream: DuplexStream) {
        let mut buf = BytesMut::new();
        while let Some(message) = next(&mut stream, &mut buf).await {
            self.world.hop().await;
            let cut = self.draw_cut();
            if let Some(cut) = cut {
                self.world.note(|| format!("connection cut {cut:?}: {}", message.command().0));
            }
            match cut {
                Some(Cut::Before) => return,
                Some(Cut::Late) => {
                    drop(stream);
                    return self.late(message, buf).await;
                }
                _ => {}
            }
            let reply = self.run(&message).await;
            self.world.hop().await;
            let sent = match cut {
                Some(Cut::After) => return,
                Some(Cut::Within) => {
                    stream.write_all(&reply[..reply.len() / 2]).await.and(Err(std::io::ErrorKind::Other.into()))
                }
                _ => stream.write_all(&reply).await,
            };
            if sent.is_err() {
                // The other end went; what it had sent is served all the same.
                return self.late_rest(buf).await;
            }
        }
    }

    async fn late(&self, message: OpMsg, buf: BytesMut) {
        self.world.sleep_ms(self.world.draw(1..400)).await;
        self.world.note(|| format!("late: {}", message.command().0));
        let _nobody_waits = self.run(&message).await;
        self.late_rest(buf).await;
    }

    async fn late_rest(&self, mut buf: BytesMut) {
        while let Ok(Some(message)) = Message::take(&mut buf, Limits::default()) {
            self.world.hop().await;
            let _nobody_waits = self.run(&OpMsg::parse(message).unwrap()).await;
        }
    }
}

async fn next(stream: &mut DuplexStream, buf: &mut BytesMut) -> Option<OpMsg> {
    loop {
        if let Some(message) = Message::take(buf, Limits::default()).unwrap() {
            return Some(OpMsg::parse(message).unwrap());
        }
        if stream.read_buf(buf).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
