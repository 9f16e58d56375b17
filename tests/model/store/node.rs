//! What the privileged connection sees of the simulated store.

use super::Store;
use super::docs::{Key, raw};
use bson::raw::{RawBsonRef, RawDocumentBuf};
use bson::{Document, RawBson, rawdoc};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidelog::store::{Answer, Collection, Node, PrivilegedError, Scan};
use tidelog::types::Namespace;

/// The sidecar's own connection.
#[derive(Debug)]
pub(crate) struct SimNode(pub(crate) Arc<Store>);

impl SimNode {
    async fn reach(&self, action: &'static str) -> Result<(), PrivilegedError> {
        self.0.world.hop().await;
        if !self.0.is_up() || self.0.fault(self.0.flavor.blind) {
            return Err(PrivilegedError::new(action, "the node")(io::Error::from(io::ErrorKind::ConnectionRefused)));
        }
        Ok(())
    }

    /// A reply on its way back.
    async fn back(&self) {
        self.0.world.hop().await;
    }
}

impl Node for SimNode {
    fn hello(&self) -> Answer<'_, Document> {
        Box::pin(async {
            self.reach("hello").await?;
            let mut id = [0; 12];
            id[..8].copy_from_slice(&self.0.process.load(Ordering::Relaxed).to_le_bytes());
            let version = bson::doc! {"processId": bson::oid::ObjectId::from_bytes(id), "counter": 0_i64};
            Ok(bson::doc! {"ok": 1.0, "topologyVersion": version})
        })
    }

    fn look<'a>(&'a self, ns: &'a Namespace) -> Answer<'a, Collection> {
        Box::pin(async move {
            self.reach("listCollections").await?;
            let state = self.0.state.lock();
            let empty = !state.places(ns.as_str(), None).iter().any(|place| state.newest(place).is_some());
            let kind = "collection".to_owned();
            Ok(Collection { exists: !empty, kind, collated: false, capped: false, empty })
        })
    }

    fn collections<'a>(&'a self, db: &'a str) -> Answer<'a, Vec<Namespace>> {
        Box::pin(async move {
            self.reach("listCollections").await?;
            let mut names: Vec<String> = self.0.state.lock().dump().into_keys().map(|(ns, _)| ns).collect();
            names.dedup();
            Ok(names.iter().map(|ns| Namespace::from_full(ns)).filter(|ns| ns.db() == db).collect())
        })
    }

    fn find_by_ids<'a>(
        &'a self,
        ns: &'a Namespace,
        ids: &'a [RawBsonRef<'a>],
        _budget: usize,
    ) -> Answer<'a, Option<Vec<RawDocumentBuf>>> {
        Box::pin(async move {
            self.reach("find").await?;
            let docs = {
                let state = self.0.state.lock();
                let found = ids.iter().filter_map(|id| state.newest(&(ns.as_str().to_owned(), Key::of(*id))));
                found.map(|doc| raw(&doc).to_owned()).collect()
            };
            self.back().await;
            Ok(Some(docs))
        })
    }

    fn ids<'a>(&'a self, ns: &'a Namespace, after: Option<RawBsonRef<'a>>) -> Answer<'a, Box<dyn Scan>> {
        Box::pin(async move {
            self.reach("find").await?;
            let after = after.map(|id| (ns.as_str().to_owned(), Key::of(id)));
            let mut places = self.0.state.lock().places(ns.as_str(), None);
            places.retain(|place| after.as_ref().is_none_or(|after| place > after));
            Ok(Box::new(SimScan { store: Arc::clone(&self.0), places, at: 0 }) as Box<dyn Scan>)
        })
    }
}

/// A scan of `_id`s that sees each document as it is when it gets there.
#[derive(Debug)]
struct SimScan {
    store: Arc<Store>,
    places: Vec<(String, Key)>,
    at: usize,
}

impl Scan for SimScan {
    fn next(&mut self) -> Answer<'_, Option<RawDocumentBuf>> {
        Box::pin(async {
            while let Some(place) = self.places.get(self.at) {
                if self.at.is_multiple_of(3) {
                    SimNode(Arc::clone(&self.store)).reach("getMore").await?;
                }
                self.at += 1;
                if let Some(doc) = self.store.state.lock().newest(place) {
                    let id = RawBson::from(raw(&doc).get("_id").unwrap().unwrap());
                    return Ok(Some(rawdoc! {"_id": id}));
                }
            }
            Ok(None)
        })
    }
}
