//! What is in the store, for those who keep the log true: databases, collections, how large they are, which of them delete by
//! themselves.

use bson::doc;

use super::privileged::{Privileged, PrivilegedError};
use crate::types::Namespace;

/// A collection in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub ns: Namespace,
    /// It is a plain collection: no view, no time series, not capped.
    pub plain: bool,
}

/// An index that lets documents expire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// The field that holds the date.
    pub field: String,
    /// Seconds after it.
    pub after_seconds: i64,
}

impl Privileged {
    /// The names of all databases.
    ///
    /// # Errors
    /// When the store does not answer or refuses (`listDatabases`).
    pub async fn databases(&self) -> Result<Vec<String>, PrivilegedError> {
        self.client().list_database_names().await.map_err(PrivilegedError::new("listDatabases", "admin"))
    }

    /// The collections of a database.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn listing(&self, db: &str) -> Result<Vec<Listed>, PrivilegedError> {
        let failed = PrivilegedError::new("listCollections", db);
        let mut cursor = self.client().database(db).list_collections().await.map_err(failed)?;
        let mut out = Vec::new();
        while cursor.advance().await.map_err(PrivilegedError::new("listCollections", db))? {
            let raw = cursor.current();
            let Ok(name) = raw.get_str("name") else { continue };
            let kind = raw.get_str("type").unwrap_or("collection");
            let capped = raw.get_document("options").and_then(|o| o.get_bool("capped")).unwrap_or(false);
            out.push(Listed { ns: Namespace::new(db, name), plain: kind == "collection" && !capped });
        }
        Ok(out)
    }

    /// About how many documents a collection holds.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn estimate(&self, ns: &Namespace) -> Result<u64, PrivilegedError> {
        self.raw(ns).estimated_document_count().await.map_err(PrivilegedError::new("count", ns))
    }

    /// The indexes of a collection that let documents expire.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn ttl_indexes(&self, ns: &Namespace) -> Result<Vec<Ttl>, PrivilegedError> {
        let command = doc! {"listIndexes": ns.collection()};
        let failed = PrivilegedError::new("listIndexes", ns);
        let mut cursor = self.client().database(ns.db()).run_cursor_command(command).await.map_err(failed)?;
        let mut out = Vec::new();
        while cursor.advance().await.map_err(PrivilegedError::new("listIndexes", ns))? {
            let index = cursor.current();
            let after = index.get("expireAfterSeconds").ok().flatten().and_then(|n| match n {
                bson::RawBsonRef::Int32(n) => Some(i64::from(n)),
                bson::RawBsonRef::Int64(n) => Some(n),
                #[allow(clippy::cast_possible_truncation, reason = "seconds of an expiry; the store truncates as well")]
                bson::RawBsonRef::Double(n) => Some(n as i64),
                _ => None,
            });
            let field = index.get_document("key").ok().and_then(|key| key.iter_elements().next()?.ok());
            if let (Some(after_seconds), Some(field)) = (after, field) {
                out.push(Ttl { field: field.key().as_str().to_owned(), after_seconds });
            }
        }
        Ok(out)
    }
}
