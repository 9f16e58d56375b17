//! hello in all its forms, and authentication: what passes here is listened to.

use super::relay::Expected;
use super::session::{End, Session};
use crate::metrics::{COMMANDS_REFUSED, UNKNOWN_HOSTS, UPSTREAM_BYTES};
use crate::wire::auth::{self, Claim, Step};
use crate::wire::command::AuthKind;
use crate::wire::frame::opcode;
use crate::wire::hello::{self, View};
use crate::wire::msg::flag;
use crate::wire::query::{OpQuery, OpReply};
use crate::wire::reply::Failure;
use crate::wire::{Header, Message, OpMsg};
use bson::raw::{RawDocument, RawDocumentBuf};
use bytes::Bytes;
use std::borrow::Cow;

/// A request in either protocol.
enum Request {
    Msg(OpMsg),
    Query(OpQuery),
}

/// A reply in either protocol.
enum Reply {
    Msg(OpMsg),
    Old(OpReply),
}

impl Request {
    fn body(&self) -> &RawDocument {
        match self {
            Self::Msg(msg) => msg.body(),
            Self::Query(query) => query.body(),
        }
    }

    fn db(&self) -> &str {
        match self {
            Self::Msg(msg) => msg.db().unwrap_or("admin"),
            Self::Query(query) => query.db(),
        }
    }

    fn bytes(&self) -> &Bytes {
        match self {
            Self::Msg(msg) => msg.bytes(),
            Self::Query(query) => query.bytes(),
        }
    }

    fn more_to_come(&self) -> bool {
        matches!(self, Self::Msg(msg) if msg.more_to_come())
    }

    fn with_body(&self, body: &RawDocument) -> Bytes {
        match self {
            Self::Msg(msg) => msg.with_body(body, msg.flags()),
            Self::Query(query) => query.with_body(body),
        }
    }
}

impl Reply {
    /// `None`: it cannot be read.
    fn parse(message: Message) -> Option<Self> {
        match message.header.opcode {
            opcode::MSG => OpMsg::parse(message).ok().map(Self::Msg),
            _ => OpReply::parse(message).map(Self::Old),
        }
    }

    fn body(&self) -> &RawDocument {
        match self {
            Self::Msg(msg) => msg.body(),
            Self::Old(reply) => reply.body(),
        }
    }

    fn with_body(&self, body: &RawDocument) -> Bytes {
        match self {
            Self::Msg(msg) => msg.with_body(body, msg.flags()),
            Self::Old(reply) => reply.with_body(body),
        }
    }
}

impl Session {
    /// hello: our view of the topology goes out, what we do not speak does not come in.
    pub(super) async fn hello(&mut self, header: Header) -> Result<(), End> {
        let Some(request) = self.take_either(&header).await? else { return Ok(()) };
        let Ok(body) = hello::rewrite_request(request.body()) else {
            return self.refuse_body(&request, header.request_id).await;
        };
        if let Some(facts) = hello::learn_client(&body) {
            self.identity.introduce(facts);
        }
        if let Ok(speculative) = body.get_document("speculativeAuthenticate") {
            self.identity.claim(auth::claim(speculative, request.db()));
        }
        let bytes = match body {
            Cow::Borrowed(_) => request.bytes().clone(),
            Cow::Owned(body) => request.with_body(&body),
        };
        UPSTREAM_BYTES.add_for("sent", u64::try_from(bytes.len()).unwrap_or(0));
        self.upstream.send(&bytes).await?;
        if request.more_to_come() {
            return Ok(());
        }
        self.hello_replies(header.request_id).await
    }

    /// Passes replies until one says that no more come. A monitor's hello may wait for long: nothing is lost if the drain
    /// ends it.
    async fn hello_replies(&mut self, request_id: i32) -> Result<(), End> {
        let mut expected = Expected::to(request_id);
        loop {
            let drain = self.shared.drain.clone();
            let message = tokio::select! {
                biased;
                message = self.whole_reply(expected) => message?,
                () = drain.cancelled() => return Err(End::Drain),
            };
            expected = expected.after(&message.header);
            let Some(reply) = Reply::parse(message) else { return Err(End::Reply("hello")) };
            let more = matches!(&reply, Reply::Msg(msg) if msg.flags() & flag::MORE_TO_COME != 0);
            let out = self.told(reply.body())?;
            self.client.send(&reply.with_body(&out)).await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// The reply as this client may see it. Learns the node's limits and the outcome of a speculative authentication.
    fn told(&mut self, body: &RawDocument) -> Result<RawDocumentBuf, End> {
        if let Ok(speculative) = body.get_document("speculativeAuthenticate") {
            self.identity.settle(auth::speculative_step(speculative));
        }
        if let Some(node) = hello::learn_node(body) {
            self.limits.max_message = self.shared.options.max_message_bytes.min(node.max_message);
        }
        let options = &self.shared.options;
        let view = View {
            table: &options.hosts,
            upstream: &options.upstream,
            advertised: &self.advertised,
            max_message: options.max_message_bytes,
        };
        let (out, unknown) = hello::rewrite_reply(body, view).map_err(|_bson| End::Reply("hello"))?;
        for host in unknown {
            UNKNOWN_HOSTS.inc();
            if self.shared.first_seen(&host) {
                tracing::error!(
                    host,
                    "the node's hello names a host that proxy.hosts does not; clients are not told of it"
                );
            }
        }
        Ok(out)
    }

    /// Authentication: bytes pass unchanged; who succeeds is the origin from here on.
    pub(super) async fn authenticate(&mut self, header: Header, kind: AuthKind) -> Result<(), End> {
        let Some(request) = self.take_either(&header).await? else { return Ok(()) };
        if matches!(kind, AuthKind::SaslStart | AuthKind::Authenticate) {
            let claim: Claim = auth::claim(request.body(), request.db());
            self.identity.claim(claim);
        }
        UPSTREAM_BYTES.add_for("sent", u64::from(header.len));
        self.upstream.send(request.bytes()).await?;
        if request.more_to_come() {
            return Ok(());
        }
        let message = self.whole_reply(Expected::to(header.request_id)).await?;
        let bytes = message.bytes.clone();
        if let Some(reply) = Reply::parse(message) {
            match (kind, auth::step(reply.body())) {
                (AuthKind::Logout, Step::Done(_)) => self.identity.forget(),
                (AuthKind::Logout, _) => {}
                (_, step) => self.identity.settle(step),
            }
        }
        Ok(self.client.send(&bytes).await?)
    }

    /// The whole request, in whichever protocol. `None`: it could not be read, and the client was told.
    async fn take_either(&mut self, header: &Header) -> Result<Option<Request>, End> {
        if header.opcode == opcode::MSG {
            return Ok(self.take_msg(header).await?.map(|(msg, _share)| Request::Msg(msg)));
        }
        let (message, _share) = self.take_request(header).await?;
        match OpQuery::parse(message) {
            Some(query) => Ok(Some(Request::Query(query))),
            None => Err(End::Protocol("a malformed OP_QUERY".into())),
        }
    }

    async fn refuse_body(&mut self, request: &Request, request_id: i32) -> Result<(), End> {
        COMMANDS_REFUSED.inc_for("malformed");
        match request {
            Request::Msg(msg) => {
                let failure = Failure::new(22, "InvalidBSON", "invalid BSON in the body of the command");
                let msg = msg.clone();
                self.fail(&msg, &failure).await
            }
            Request::Query(_) => Err(End::Protocol(format!("invalid BSON in OP_QUERY {request_id}"))),
        }
    }
}
