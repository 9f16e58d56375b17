//! Reading images: on the client's own upstream connection, in order with its writes, or, where the client may not read,
//! through the privileged connection.
//!
//! Promises: what is read stands for the entities asked for, whole (cursors are drained), within a byte budget; over the
//! budget nothing is held and the caller makes the piece smaller.

use bson::raw::{RawBsonRef, RawDocument};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use thiserror::Error;

use super::command::build::{self, Request};
use super::command::merge::is_ok;
use super::command::number;
use super::error::CaptureError;
use crate::entity::key_of;
use crate::store::{Node, Upstream};
use crate::types::{EntityKey, Image, Namespace};
use crate::wire::build::Builder;
use crate::wire::msg::OpMsg;
use bson::RawBson;

/// One entity that a write may touch.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub ns: Namespace,
    pub key: EntityKey,
    /// An `_id` that means it; the stored one may be another of equal value.
    pub id: RawBson,
}

impl Target {
    /// From an `_id`.
    pub(crate) fn new(ns: &Namespace, id: RawBsonRef<'_>) -> Result<Self, CaptureError> {
        let key = key_of(&id).map_err(|e| CaptureError::Answer(e.to_string()))?;
        Ok(Self { ns: ns.clone(), key, id: RawBson::from(id) })
    }

    /// From several `_id`s of one namespace: each entity once, in the order in which guards are taken.
    pub(crate) fn all(ns: &Namespace, ids: &[RawBson]) -> Result<Vec<Self>, CaptureError> {
        let targets: Result<Vec<Self>, _> = ids.iter().map(|id| Self::new(ns, id.as_raw_bson_ref())).collect();
        let mut targets = targets?;
        targets.sort_by(|a, b| a.key.cmp(&b.key));
        targets.dedup_by(|a, b| a.key == b.key);
        Ok(targets)
    }
}

/// Images by entity, in order, so that records of one command always stand in the same order.
pub(crate) type Seen = BTreeMap<(Namespace, EntityKey), Image>;

/// Who reads for a client in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Via {
    /// Not tried yet: the first read is not pipelined with a write.
    #[default]
    Untested,
    /// The client's own connection.
    Upstream,
    /// The client may write but not read there.
    Privileged,
}

/// Why images could not be read.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("the images are larger than the budget")]
    TooLarge,
    #[error("the store refuses the read: {code} {message}")]
    Refused { code: i64, message: String },
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Bytes of images that one piece may hold before it is made smaller.
pub(crate) const IMAGE_BUDGET: usize = 64 << 20;

/// Error code Unauthorized.
const UNAUTHORIZED: i64 = 13;

/// Encodes a request of ours.
pub(crate) fn encode(request: &Request, id: i32) -> Bytes {
    let mut out = Builder::request(id, 0).body(&request.body);
    for (name, docs) in &request.sequences {
        out = out.sequence(name, docs.iter().map(|d| d.as_bytes()));
    }
    out.finish()
}

/// Sends one request and takes its reply.
pub(crate) async fn ask(upstream: &mut Upstream, request: &Request) -> Result<OpMsg, CaptureError> {
    let bytes = encode(request, upstream.next_id());
    Ok(upstream.exchange(&bytes).await?)
}

/// The store's refusal, if the reply is one.
pub(crate) fn refusal(reply: &RawDocument) -> Option<ReadError> {
    if is_ok(reply) {
        return None;
    }
    let code = number(reply.get("code").ok().flatten()).unwrap_or(0);
    Some(ReadError::Refused { code, message: reply.get_str("errmsg").unwrap_or_default().to_owned() })
}

/// The documents of a cursor's batch, and the cursor's id.
fn batch<'m>(reply: &'m OpMsg, field: &str) -> Result<(i64, Vec<&'m RawDocument>), ReadError> {
    if let Some(refused) = refusal(reply.body()) {
        return Err(refused);
    }
    let bad = |what: &str| ReadError::Capture(CaptureError::Answer(format!("find: {what}")));
    let cursor = reply.body().get_document("cursor").map_err(|_absent| bad("no cursor"))?;
    let id = number(cursor.get("id").ok().flatten()).or_else(|| cursor.get_i64("id").ok());
    let list = cursor.get_array(field).map_err(|_absent| bad("no batch"))?;
    let mut docs = Vec::new();
    for item in list {
        match item {
            Ok(RawBsonRef::Document(doc)) => docs.push(doc),
            _ => return Err(bad("a document in the batch is not one")),
        }
    }
    Ok((id.unwrap_or(0), docs))
}

/// Adds the documents of a reply to `seen`; gives the cursor's id.
pub(crate) fn take(ns: &Namespace, reply: &OpMsg, field: &str, seen: &mut Seen) -> Result<(i64, usize), ReadError> {
    let (cursor, docs) = batch(reply, field)?;
    let mut bytes = 0;
    for doc in docs {
        let image = Image::new(reply.bytes().slice_ref(doc.as_bytes()));
        let key = stored_key(doc)?;
        bytes += image.bytes().len();
        seen.insert((ns.clone(), key), image);
    }
    Ok((cursor, bytes))
}

/// Adds the `_id`s of a reply's documents to `out`; gives the cursor's id.
pub(crate) fn ids_of(reply: &OpMsg, field: &str, out: &mut Vec<RawBson>) -> Result<i64, ReadError> {
    let (cursor, docs) = batch(reply, field)?;
    out.extend(docs.into_iter().filter_map(|doc| doc.get("_id").ok().flatten()).map(RawBson::from));
    Ok(cursor)
}

/// The entity key of a document as stored.
pub(crate) fn stored_key(doc: &RawDocument) -> Result<EntityKey, CaptureError> {
    let id = doc.get("_id").ok().flatten().ok_or_else(|| CaptureError::Answer("a document without _id".to_owned()))?;
    key_of(&id).map_err(|e| CaptureError::Answer(e.to_string()))
}

/// Reads on behalf of one client command.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub upstream: &'a mut Upstream,
    pub privileged: &'a dyn Node,
    /// The client's body: its API fields go into ours.
    pub client: &'a RawDocument,
}

impl Reader<'_> {
    /// Reads the images of `targets`, which may lie in several namespaces.
    pub(crate) async fn images(
        &mut self,
        targets: &[Target],
        via: &mut HashMap<Namespace, Via>,
    ) -> Result<Seen, ReadError> {
        let mut seen = Seen::new();
        let mut bytes = 0;
        for group in targets.chunk_by(|a, b| a.ns == b.ns) {
            let Some(first) = group.first() else { continue };
            let ids: Vec<_> = group.iter().map(|t| t.id.as_raw_bson_ref()).collect();
            let via = via.entry(first.ns.clone()).or_default();
            bytes += self.group(&first.ns, &ids, via, &mut seen).await?;
            if bytes > IMAGE_BUDGET && targets.len() > 1 {
                return Err(ReadError::TooLarge);
            }
        }
        Ok(seen)
    }

    async fn group(
        &mut self,
        ns: &Namespace,
        ids: &[RawBsonRef<'_>],
        via: &mut Via,
        seen: &mut Seen,
    ) -> Result<usize, ReadError> {
        if *via != Via::Privileged {
            match self.through_client(ns, ids, seen).await {
                Err(ReadError::Refused { code: UNAUTHORIZED, .. }) => *via = Via::Privileged,
                Ok(bytes) => {
                    *via = Via::Upstream;
                    return Ok(bytes);
                }
                Err(other) => return Err(other),
            }
        }
        let docs = self.privileged.find_by_ids(ns, ids, IMAGE_BUDGET).await;
        let docs = docs.map_err(|e| CaptureError::Store(e.to_string()))?;
        let Some(docs) = docs else { return Err(ReadError::TooLarge) };
        let mut bytes = 0;
        for doc in docs {
            let key = stored_key(&doc)?;
            let image = Image::new(Bytes::from(doc.into_bytes()));
            bytes += image.bytes().len();
            seen.insert((ns.clone(), key), image);
        }
        Ok(bytes)
    }

    async fn through_client(
        &mut self,
        ns: &Namespace,
        ids: &[RawBsonRef<'_>],
        seen: &mut Seen,
    ) -> Result<usize, ReadError> {
        let first = ask(self.upstream, &build::find_images(ns, ids, self.client)).await?;
        let (mut cursor, mut bytes) = take(ns, &first, "firstBatch", seen)?;
        while cursor != 0 {
            if bytes > IMAGE_BUDGET {
                ask(self.upstream, &build::kill_cursor(ns, cursor, self.client)).await?;
                return Err(ReadError::TooLarge);
            }
            let next = ask(self.upstream, &build::get_more(ns, cursor, self.client)).await?;
            let (again, more) = take(ns, &next, "nextBatch", seen)?;
            cursor = again;
            bytes += more;
        }
        Ok(bytes)
    }

    /// The `_id`s that a find gives (see `build::find_ids`).
    pub(crate) async fn ids(&mut self, ns: &Namespace, find: &Request) -> Result<Vec<RawBson>, ReadError> {
        let mut out = Vec::new();
        let mut reply = ask(self.upstream, find).await?;
        let mut field = "firstBatch";
        loop {
            let cursor = ids_of(&reply, field, &mut out)?;
            if cursor == 0 {
                return Ok(out);
            }
            reply = ask(self.upstream, &build::get_more(ns, cursor, self.client)).await?;
            field = "nextBatch";
        }
    }
}
