//! The sidecar's own connection to the node, with its own credentials: for what no client asked for. `verify`, a first look
//! at a namespace, and reads for clients that may write but not read.
//!
//! Capture knows it as a [`Node`]. Promises: reads `local` on this very node (never another member), in the documents' own bytes. Does not: write.

use bson::raw::{RawArrayBuf, RawBsonRef, RawDocumentBuf};
use bson::{Document, doc, rawdoc};
use mongodb::Client;
use mongodb::options::{ClientOptions, Credential, ReadConcern, SelectionCriteria};
use std::time::Duration;
use thiserror::Error;

use super::node::{Answer, Node, Scan};
use crate::types::Namespace;

/// What the privileged connection could not do.
#[derive(Debug, Error)]
#[error("{action} on {target}: {source}")]
pub struct PrivilegedError {
    action: &'static str,
    target: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl PrivilegedError {
    /// `action` on `target` failed because of what is then given.
    pub fn new<E: std::error::Error + Send + Sync + 'static>(
        action: &'static str,
        target: impl std::fmt::Display,
    ) -> impl FnOnce(E) -> Self {
        let target = target.to_string();
        move |source| Self { action, target, source: Box::new(source) }
    }
}

/// What a namespace is, as far as capture cares.
#[allow(clippy::struct_excessive_bools, reason = "four independent facts that the store tells")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// It exists.
    pub exists: bool,
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    /// It has a default collation that is not the simple one.
    pub collated: bool,
    /// It is capped.
    pub capped: bool,
    /// It holds no document.
    pub empty: bool,
}

/// Who the sidecar is to the node.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// The user's name.
    pub username: &'a str,
    /// The database that knows the user.
    pub source: &'a str,
    /// The password.
    pub password: &'a str,
}

/// The password is not shown.
impl std::fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({}@{})", self.username, self.source)
    }
}

/// The connection. Clones share one pool.
#[derive(Clone, Debug)]
pub struct Privileged {
    client: Client,
}

impl Privileged {
    /// Connects lazily to the node that `uri` names; never discovers other members.
    ///
    /// # Errors
    /// When the connection string is wrong.
    pub async fn new(uri: &str, login: Option<Login<'_>>, connect: Duration) -> Result<Self, PrivilegedError> {
        let mut options = ClientOptions::parse(uri).await.map_err(PrivilegedError::new("parse", "store.uri"))?;
        if let Some(login) = login {
            let credential = Credential::builder()
                .username(login.username.to_owned())
                .source(login.source.to_owned())
                .password(login.password.to_owned())
                .build();
            options.credential = Some(credential);
        }
        options.connect_timeout = Some(connect);
        options.direct_connection = Some(true);
        options.app_name = Some("tidelog".to_owned());
        options.retry_writes = Some(false);
        options.server_selection_timeout = Some(Duration::from_secs(10));
        options.max_pool_size = Some(8);
        let client = Client::with_options(options).map_err(PrivilegedError::new("set up", "store.uri"))?;
        Ok(Self { client })
    }

    /// Asks the node whether it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), PrivilegedError> {
        self.client
            .database("admin")
            .run_command(doc! {"ping": 1})
            .await
            .map(drop)
            .map_err(PrivilegedError::new("ping", "admin"))
    }

    async fn ask_hello(&self) -> Result<Document, PrivilegedError> {
        self.client
            .database("admin")
            .run_command(doc! {"hello": 1})
            .await
            .map_err(PrivilegedError::new("hello", "admin"))
    }

    async fn ask_rollback_id(&self) -> Result<u64, PrivilegedError> {
        let asked = self.client.database("admin").run_command(doc! {"replSetGetRBID": 1}).await;
        match asked {
            Ok(reply) => {
                let id = reply.get_i32("rbid").map(i64::from).or_else(|_| reply.get_i64("rbid"));
                Ok(id.ok().and_then(|id| u64::try_from(id).ok()).unwrap_or(0))
            }
            Err(error) => match error.kind.as_ref() {
                mongodb::error::ErrorKind::Command(_) => Ok(0),
                _ => Err(PrivilegedError::new("replSetGetRBID", "admin")(error)),
            },
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn raw(&self, ns: &Namespace) -> mongodb::Collection<RawDocumentBuf> {
        let criteria =
            SelectionCriteria::ReadPreference(mongodb::options::ReadPreference::PrimaryPreferred { options: None });
        let options = mongodb::options::CollectionOptions::builder()
            .read_concern(ReadConcern::local())
            .selection_criteria(criteria)
            .build();
        self.client.database(ns.db()).collection_with_options(ns.collection(), options)
    }

    /// The privileged user needs `listCollections` and `find`.
    async fn ask_look(&self, ns: &Namespace) -> Result<Collection, PrivilegedError> {
        let failed = PrivilegedError::new("listCollections", ns);
        let db = self.client.database(ns.db());
        let mut cursor = db.list_collections().filter(doc! {"name": ns.collection()}).await.map_err(failed)?;
        let mut out = Collection { empty: true, ..Collection::default() };
        if cursor.advance().await.map_err(PrivilegedError::new("listCollections", ns))? {
            let raw = cursor.current();
            out.exists = true;
            out.kind = raw.get_str("type").unwrap_or("collection").to_owned();
            if let Ok(options) = raw.get_document("options") {
                let locale = options.get_document("collation").and_then(|c| c.get_str("locale"));
                out.collated = locale.is_ok_and(|l| l != "simple");
                out.capped = options.get_bool("capped").unwrap_or(false);
            }
            if out.kind == "collection" {
                out.empty = self.is_empty(ns).await?;
            }
        }
        Ok(out)
    }

    async fn is_empty(&self, ns: &Namespace) -> Result<bool, PrivilegedError> {
        let collection = self.raw(ns);
        let one = collection.find_one(doc! {}).projection(doc! {"_id": 1});
        one.await.map(|d| d.is_none()).map_err(PrivilegedError::new("find", ns))
    }

    async fn ask_collections(&self, db: &str) -> Result<Vec<Namespace>, PrivilegedError> {
        let names = self
            .client
            .database(db)
            .list_collection_names()
            .await
            .map_err(PrivilegedError::new("listCollections", db))?;
        Ok(names.iter().map(|name| Namespace::new(db, name)).collect())
    }

    async fn ask_by_ids(
        &self,
        ns: &Namespace,
        ids: &[RawBsonRef<'_>],
        budget: usize,
    ) -> Result<Option<Vec<RawDocumentBuf>>, PrivilegedError> {
        let mut array = RawArrayBuf::new();
        for id in ids {
            array.push(*id);
        }
        let filter = rawdoc! {"_id": {"$in": array}};
        let filter = Document::try_from(&*filter).map_err(PrivilegedError::new("find", ns))?;
        let cursor = self.raw(ns).find(filter).await;
        let mut cursor = cursor.map_err(PrivilegedError::new("find", ns))?;
        let (mut docs, mut bytes) = (Vec::new(), 0);
        while cursor.advance().await.map_err(PrivilegedError::new("find", ns))? {
            let doc = cursor.current().to_owned();
            bytes += doc.as_bytes().len();
            if bytes > budget && ids.len() > 1 {
                return Ok(None);
            }
            docs.push(doc);
        }
        Ok(Some(docs))
    }
}

impl Node for Privileged {
    fn hello(&self) -> Answer<'_, Document> {
        Box::pin(self.ask_hello())
    }

    fn look<'a>(&'a self, ns: &'a Namespace) -> Answer<'a, Collection> {
        Box::pin(self.ask_look(ns))
    }

    fn collections<'a>(&'a self, db: &'a str) -> Answer<'a, Vec<Namespace>> {
        Box::pin(self.ask_collections(db))
    }

    fn find_by_ids<'a>(
        &'a self,
        ns: &'a Namespace,
        ids: &'a [RawBsonRef<'a>],
        budget: usize,
    ) -> Answer<'a, Option<Vec<RawDocumentBuf>>> {
        Box::pin(self.ask_by_ids(ns, ids, budget))
    }

    fn ids<'a>(&'a self, ns: &'a Namespace, after: Option<RawBsonRef<'a>>) -> Answer<'a, Box<dyn Scan>> {
        Box::pin(async move {
            let collection = self.raw(ns);
            Ok(Box::new(super::ids::walk(&collection, ns, after).await?) as Box<dyn Scan>)
        })
    }

    fn rollback_id(&self) -> Answer<'_, u64> {
        Box::pin(self.ask_rollback_id())
    }
}
