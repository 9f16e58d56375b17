//! What other clients did past us to whole collections, and what explains a change that they made.

use super::Capture;
use super::compare::stored_id;
use super::error::CaptureError;
use crate::entity::id_of;
use bson::RawBson;

use crate::types::{Control, EntityKey, Image, Namespace};

impl Capture {
    /// Another client may have dropped or renamed a collection. If it is gone, that becomes a record. `true`: it is there, or
    /// nothing was known of it; what it holds has to be compared.
    ///
    /// # Errors
    /// When the store or the log fails.
    pub async fn dropped_by_others(&self, ns: &Namespace) -> Result<bool, CaptureError> {
        let hold = self.guard_alone(std::slice::from_ref(ns), None).await?;
        self.namespaces.forget(|known| known == ns);
        let look = self.privileged.look(ns).await.map_err(|e| CaptureError::Store(e.to_string()))?;
        if look.exists {
            return Ok(true);
        }
        let state = self.index.state();
        let told = state.namespaces.get(ns).is_some_and(|known| known.alive > 0 || !known.complete);
        if told {
            let _durable = self.control(vec![Control::Drop { ns: ns.clone() }]).await?;
        }
        drop(hold);
        Ok(false)
    }

    /// Another client changed a collection's options.
    ///
    /// # Errors
    /// When the log fails.
    pub async fn modified_by_others(&self, ns: &Namespace, options: String) -> Result<(), CaptureError> {
        self.namespaces.forget(|known| known == ns);
        if self.index.known(ns).is_some() {
            let _durable = self.control(vec![Control::CollMod { ns: ns.clone(), options }]).await?;
        }
        Ok(())
    }

    /// The image that the log last wrote of an entity that it holds alive, if it still has it.
    ///
    /// # Errors
    /// When the log or the index fails.
    pub fn last_image(&self, ns: &Namespace, key: &EntityKey) -> Result<Option<Image>, CaptureError> {
        let known = self.index.get(ns, key).map_err(|e| CaptureError::Index(e.to_string()))?;
        known.filter(|entry| entry.alive).map_or(Ok(None), |entry| self.logged_image(&entry))
    }

    /// An entity alive about `rows` rows of the index after `after`, by `_id` and key, at which a range may end; `None`: there is none
    /// until the end of the namespace.
    ///
    /// # Errors
    /// When the log or the index fails.
    pub fn place_after(
        &self,
        ns: &Namespace,
        after: Option<&EntityKey>,
        rows: usize,
    ) -> Result<Option<(RawBson, EntityKey)>, CaptureError> {
        let mut from = after.cloned();
        loop {
            let page = self.index.scan(ns, from.as_ref(), rows).map_err(|e| CaptureError::Index(e.to_string()))?;
            if page.len() < rows {
                return Ok(None);
            }
            from = page.last().map(|(key, _)| key.clone());
            for (key, entry) in page.into_iter().rev().filter(|(_, entry)| entry.alive) {
                if let Some(id) = self.logged_image(&entry)?.as_ref().and_then(stored_id).or_else(|| id_of(&key)) {
                    return Ok(Some((id, key)));
                }
            }
        }
    }
}
