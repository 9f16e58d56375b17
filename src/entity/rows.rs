//! Where the index's rows lie: in the engine; under the feature `model` also in memory, for indexes that live for one schedule.

use super::error::IndexError;
use super::row::Row;
use fjall::{Database, Keyspace, OwnedWriteBatch, UserKey};
use std::ops::Bound;

/// The rows of one index.
pub(super) enum Rows {
    Engine(Engine),
    #[cfg(feature = "model")]
    Memory(std::sync::Arc<memory::Tables>),
}

/// The engine with its two keyspaces.
pub(super) struct Engine {
    pub(super) db: Database,
    pub(super) entities: Keyspace,
    pub(super) meta: Keyspace,
}

/// Rows in key order.
type Found<'a> = Box<dyn Iterator<Item = Result<(UserKey, Row), IndexError>> + 'a>;

impl Rows {
    /// The row of an entity.
    pub(super) fn get(&self, op: &'static str, key: &[u8]) -> Result<Option<Row>, IndexError> {
        match self {
            Self::Engine(engine) => match engine.entities.get(key).map_err(IndexError::engine(op))? {
                Some(value) => decode(&value).map(Some),
                None => Ok(None),
            },
            #[cfg(feature = "model")]
            Self::Memory(tables) => Ok(tables.get(key)),
        }
    }

    /// Rows of entities from `from` on.
    pub(super) fn from(&self, op: &'static str, from: Bound<Vec<u8>>) -> Found<'_> {
        match self {
            Self::Engine(engine) => Box::new(engine.entities.range((from, Bound::Unbounded)).map(move |guard| {
                let (key, value) = guard.into_inner().map_err(IndexError::engine(op))?;
                Ok((key, decode(&value)?))
            })),
            #[cfg(feature = "model")]
            Self::Memory(tables) => Box::new(tables.from(from)),
        }
    }

    /// An empty batch.
    pub(super) fn batch(&self) -> Batch {
        match self {
            Self::Engine(engine) => Batch::Engine(engine.db.batch(), engine.entities.clone(), engine.meta.clone()),
            #[cfg(feature = "model")]
            Self::Memory(tables) => Batch::Memory(tables.clone(), Vec::new()),
        }
    }

    /// Writes one row of `meta`.
    pub(super) fn put_meta(&self, key: &str, value: &[u8]) -> Result<(), IndexError> {
        match self {
            Self::Engine(engine) => engine.meta.insert(key, value).map_err(IndexError::engine("write meta")),
            #[cfg(feature = "model")]
            Self::Memory(_) => Ok(()),
        }
    }
}

fn decode(value: &[u8]) -> Result<Row, IndexError> {
    Row::decode(value).ok_or(IndexError::Damaged { what: "entities" })
}

/// Rows that are written together, or not at all.
pub(super) enum Batch {
    Engine(OwnedWriteBatch, Keyspace, Keyspace),
    /// `meta` is for the next start, which a memory does not see.
    #[cfg(feature = "model")]
    Memory(std::sync::Arc<memory::Tables>, Vec<(Vec<u8>, Row)>),
}

impl Batch {
    pub(super) fn put(&mut self, key: Vec<u8>, row: &Row) {
        match self {
            Self::Engine(batch, entities, _) => batch.insert(entities, key, row.encode()),
            #[cfg(feature = "model")]
            Self::Memory(_, rows) => rows.push((key, *row)),
        }
    }

    /// Writes (or removes) a row of `meta`.
    pub(super) fn meta(&mut self, key: impl Into<Vec<u8>>, value: Option<Vec<u8>>) {
        match self {
            Self::Engine(batch, _, meta) => match value {
                Some(value) => batch.insert(meta, key.into(), value),
                None => batch.remove(meta, key.into()),
            },
            #[cfg(feature = "model")]
            Self::Memory(..) => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Engine(batch, ..) => batch.len(),
            #[cfg(feature = "model")]
            Self::Memory(_, rows) => rows.len(),
        }
    }

    pub(super) fn commit(self, op: &'static str) -> Result<(), IndexError> {
        match self {
            Self::Engine(batch, ..) => batch.commit().map_err(IndexError::engine(op)),
            #[cfg(feature = "model")]
            Self::Memory(tables, rows) => {
                tables.write(rows);
                Ok(())
            }
        }
    }
}

/// Rows in memory.
#[cfg(feature = "model")]
pub(super) mod memory {
    use super::{Bound, IndexError, Row, UserKey};
    use parking_lot::Mutex;
    use std::collections::BTreeMap;

    #[derive(Default)]
    pub(in crate::entity) struct Tables(Mutex<BTreeMap<Vec<u8>, Row>>);

    impl Tables {
        pub(super) fn get(&self, key: &[u8]) -> Option<Row> {
            self.0.lock().get(key).copied()
        }

        pub(super) fn from(
            &self,
            from: Bound<Vec<u8>>,
        ) -> impl Iterator<Item = Result<(UserKey, Row), IndexError>> + use<> {
            let rows = self.0.lock();
            let rows: Vec<_> = rows.range((from, Bound::Unbounded)).map(|(k, row)| (k.clone(), *row)).collect();
            rows.into_iter().map(|(key, row)| Ok((UserKey::from(key), row)))
        }

        pub(super) fn write(&self, rows: Vec<(Vec<u8>, Row)>) {
            self.0.lock().extend(rows);
        }
    }
}
