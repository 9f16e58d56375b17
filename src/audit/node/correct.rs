//! After the node changed: reads again what it may have lost, and says so in the log.
//!
//! The entities of all records after the last proved one are verified under their guards, each once, at its last record: a store that
//! restarts again and again, while the log grows, is to be overtaken. A drop, a rename or a dropped database
//! among those records has its namespaces verified whole, for they may have come back. Writes whose outcome was not told when the
//! process went away are settled here too, not only by later looks: no window may tell of half a rename. Memory: the keys of one batch.

use crate::capture::{Capture, CaptureError, Scope};
use crate::changelog::{Changelog, LogError, Reader};
use crate::metrics::NODE_CHECKED;
use crate::types::{Body, Control, EntityKey, Found, Lsn, Namespace, Record};
use bson::RawBson;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Entities verified together, and records read at once.
const BATCH: usize = 500;

/// Why a correction is not done yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum CorrectError {
    /// The store cannot be read, or the log not written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The thread that reads the log failed.
    #[error("the log's reader ended unexpectedly")]
    Reader,
}

/// What records name.
#[derive(Debug, Default)]
struct Named {
    entities: BTreeMap<Namespace, BTreeMap<EntityKey, RawBson>>,
    count: usize,
    namespaces: BTreeSet<Namespace>,
    databases: BTreeSet<String>,
}

impl Named {
    fn take(&mut self, record: Record) {
        match record.body {
            Body::Change(change) => {
                let at = self.entities.entry(change.ns).or_default();
                self.count += usize::from(at.insert(change.key, change.id).is_none());
            }
            Body::Control(Control::Drop { ns }) => {
                self.namespaces.insert(ns);
            }
            Body::Control(Control::Rename { from, to }) => self.namespaces.extend([from, to]),
            Body::Control(Control::DropDatabase { db }) => {
                self.databases.insert(db);
            }
            Body::Control(_) => {}
        }
    }

    /// The entities named so far, in scopes of bounded size.
    fn entities(&mut self) -> Vec<Scope> {
        let mut out = Vec::new();
        self.count = 0;
        for (ns, ids) in std::mem::take(&mut self.entities) {
            let ids: Vec<RawBson> = ids.into_values().collect();
            out.extend(ids.chunks(BATCH).map(|ids| Scope::Entities([(ns.clone(), ids.to_vec())].into())));
        }
        out
    }

    fn whole(self) -> Vec<Scope> {
        let mut out: Vec<Scope> = self.databases.into_iter().map(Scope::Database).collect();
        out.push(Scope::Namespaces(self.namespaces.into_iter().collect()));
        out
    }
}

/// Verifies what the records after `proved` up to `tail` name. Gives how many records that were.
pub(super) async fn correct(
    capture: &Capture,
    log: &Arc<Changelog>,
    proved: Lsn,
    tail: Lsn,
) -> Result<u64, CorrectError> {
    let mut reader = log.reader(proved.next());
    let (mut named, mut checked) = (Named::default(), 0);
    while reader.position() <= tail {
        let records;
        (reader, records) = read(reader, tail).await?;
        if records.is_empty() {
            break;
        }
        checked += records.len() as u64;
        NODE_CHECKED.add(records.len() as u64);
        for record in records {
            if !is_followed(capture, &record)? {
                named.take(record);
            }
        }
        if named.count >= BATCH {
            verify(capture, named.entities()).await?;
        }
    }
    verify(capture, named.entities()).await?;
    verify(capture, named.whole()).await?;
    for scope in capture.unsettled() {
        capture.verify(&scope, Found::Recovery).await?;
    }
    Ok(checked)
}

/// A later record of the same entity stands for it: one of these records, or one made when the node had changed already.
fn is_followed(capture: &Capture, record: &Record) -> Result<bool, CorrectError> {
    let Body::Change(change) = &record.body else { return Ok(false) };
    let last = capture.last_number(&change.ns, &change.key)?;
    Ok(last.is_some_and(|last| last > (change.epoch, change.seq)))
}

async fn verify(capture: &Capture, scopes: Vec<Scope>) -> Result<(), CorrectError> {
    for scope in scopes {
        capture.verify(&scope, Found::StoreLoss).await?;
    }
    Ok(())
}

/// Some records, read off the runtime's threads.
async fn read(mut reader: Reader, tail: Lsn) -> Result<(Reader, Vec<Record>), CorrectError> {
    let read = move || {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < BATCH && bytes < 16 << 20 && reader.position() <= tail {
            let Some(record) = reader.next()? else { break };
            bytes += image_bytes(&record);
            records.push(record);
        }
        Ok::<_, LogError>((reader, records))
    };
    let done = tokio::task::spawn_blocking(read).await.map_err(|_panicked| CorrectError::Reader)?;
    Ok(done?)
}

fn image_bytes(record: &Record) -> usize {
    match &record.body {
        Body::Change(change) => {
            [&change.before, &change.after].into_iter().flatten().map(|image| image.bytes().len()).sum()
        }
        Body::Control(_) => 0,
    }
}
