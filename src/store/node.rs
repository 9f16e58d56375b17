//! What the sidecar asks of the node for itself, as a trait: [`Privileged`](super::Privileged) asks a real node, the model of the
//! protocol (`tests/model`) a simulated one.
//!
//! Futures are boxed: none of this is on the path of a write that only names its entities and whose client may read.

use super::privileged::{Collection, PrivilegedError};
use crate::types::Namespace;
use bson::Document;
use bson::raw::{RawBsonRef, RawDocumentBuf};
use std::fmt::Debug;
use std::pin::Pin;

/// An answer under way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, PrivilegedError>> + Send + 'a>>;

/// The node, asked with the sidecar's own credentials. Every method fails when the node does not answer or refuses.
pub trait Node: Send + Sync + Debug {
    /// The node's `hello` reply.
    fn hello(&self) -> Answer<'_, Document>;

    /// What the store says of a namespace.
    fn look<'a>(&'a self, ns: &'a Namespace) -> Answer<'a, Collection>;

    /// The names of a database's collections.
    fn collections<'a>(&'a self, db: &'a str) -> Answer<'a, Vec<Namespace>>;

    /// The documents with these `_id`s; `None` when they hold more than `budget` bytes together.
    fn find_by_ids<'a>(
        &'a self,
        ns: &'a Namespace,
        ids: &'a [RawBsonRef<'a>],
        budget: usize,
    ) -> Answer<'a, Option<Vec<RawDocumentBuf>>>;

    /// The `_id`s of a namespace's documents (documents with that one field), in the store's order of `_id`; with `after`: those that
    /// come after it.
    fn ids<'a>(&'a self, ns: &'a Namespace, after: Option<RawBsonRef<'a>>) -> Answer<'a, Box<dyn Scan>>;

    /// The node's rollback id; 0: it keeps none, or may not tell.
    fn rollback_id(&self) -> Answer<'_, u64> {
        Box::pin(std::future::ready(Ok(0)))
    }
}

/// A life of the store, from its `hello` reply: another process, or another election, is another life, in which what an earlier one
/// acknowledged may be gone. Empty: it tells neither.
pub fn life_of(hello: &Document) -> String {
    let process = hello.get_document("topologyVersion").and_then(|v| v.get_object_id("processId"));
    let ids = [process, hello.get_object_id("electionId")];
    ids.into_iter().flatten().map(bson::oid::ObjectId::to_hex).collect::<Vec<_>>().join("/")
}

/// Documents that come one after the other.
pub trait Scan: Send + Debug {
    /// The next document; `None` at the end.
    fn next(&mut self) -> Answer<'_, Option<RawDocumentBuf>>;
}
