//! What capture must know of a namespace before it writes there, learnt at its first touch.
//!
//! Promises: the first touch of a namespace is written into the log (*opened*: held nothing, or incomplete) before the
//! touch itself; a namespace that cannot be captured as documents with an `_id` (time series, capped) opens a gap; the
//! server's own namespaces are left alone.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

use super::Capture;
use super::error::CaptureError;
use crate::types::{Control, Namespace};

/// What capture keeps of a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct NsInfo {
    /// Its writes go through unrecorded.
    pub excluded: bool,
    /// Its default collation is not the simple one: `_id`s that differ in bytes may be equal.
    pub collated: bool,
}

/// Namespaces touched by this process.
#[derive(Debug, Default)]
pub(crate) struct Namespaces(Mutex<HashMap<Namespace, Arc<NsInfo>>>);

impl Namespaces {
    fn get(&self, ns: &Namespace) -> Option<Arc<NsInfo>> {
        self.0.lock().get(ns).cloned()
    }

    /// Its definition may have changed.
    pub(crate) fn forget(&self, mut which: impl FnMut(&Namespace) -> bool) {
        self.0.lock().retain(|ns, _| !which(ns));
    }
}

/// The server's own: `config`, `local`, and collections named `system.…` are not user documents.
fn is_servers(ns: &Namespace) -> bool {
    matches!(ns.db(), "config" | "local") || ns.collection().starts_with("system.") || ns.collection().is_empty()
}

/// Names that no server accepts: it will say so itself.
fn is_invalid(ns: &Namespace) -> bool {
    let (db, collection) = (ns.db(), ns.collection());
    db.is_empty()
        || db.contains(['/', '\\', ' ', '"', '$', '\0'])
        || collection.contains(['$', '\0'])
        || collection.starts_with('.')
        || collection.ends_with('.')
        || ns.as_str().len() > 255
}

impl Capture {
    /// The default collation of `ns` is not the simple one.
    pub(crate) fn is_collated(&self, ns: &Namespace) -> bool {
        self.namespaces.get(ns).is_some_and(|info| info.collated)
    }

    /// Writes to `ns` go through unrecorded.
    pub(crate) fn is_excluded(&self, ns: &Namespace) -> bool {
        is_servers(ns) || is_invalid(ns) || self.namespaces.get(ns).is_some_and(|info| info.excluded)
    }

    /// What is known of `ns`; asks the store and writes the log at the first touch.
    pub(crate) async fn namespace(&self, ns: &Namespace) -> Result<Arc<NsInfo>, CaptureError> {
        if let Some(info) = self.namespaces.get(ns) {
            return Ok(info);
        }
        if is_servers(ns) || is_invalid(ns) {
            return Ok(Arc::new(NsInfo { excluded: true, collated: false }));
        }
        let _alone = self.ns_guards.exclusive(std::slice::from_ref(ns)).await;
        self.namespace_alone(ns).await
    }

    /// The same for who is alone in `ns` already.
    pub(crate) async fn namespace_alone(&self, ns: &Namespace) -> Result<Arc<NsInfo>, CaptureError> {
        if let Some(info) = self.namespaces.get(ns) {
            return Ok(info);
        }
        if is_servers(ns) || is_invalid(ns) {
            return Ok(Arc::new(NsInfo { excluded: true, collated: false }));
        }
        let look = self.privileged.look(ns).await.map_err(|e| CaptureError::Store(e.to_string()))?;
        let special = look.capped || look.kind == "timeseries";
        if special {
            let cause = if look.capped { "capped" } else { "timeseries" };
            self.open_gap(ns, cause, "writes to it are forwarded and not recorded").await?;
        } else if look.kind != "view" && self.index.known(ns).is_none() {
            let _durable = self.control(vec![Control::Opened { ns: ns.clone(), complete: look.empty }]).await?;
        }
        let info = Arc::new(NsInfo { excluded: special || look.kind == "view", collated: look.collated });
        self.namespaces.0.lock().insert(ns.clone(), info.clone());
        Ok(info)
    }
}
