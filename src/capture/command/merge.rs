//! Many replies of the parts of one command become the one reply that the whole would have had.
//!
//! Field names and meanings: WIRE.md 4.2. Clocks and ids (`operationTime`, `$clusterTime`, `opTime`, `electionId`) are
//! those of the last part.

use bson::raw::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, cstr};

use super::{Command, Verb, number};
use crate::capture::cursors::Cursors;
use crate::capture::error::ShapeError;

/// The sum of the replies so far.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    n: i64,
    n_modified: i64,
    upserted: Vec<RawDocumentBuf>,
    errors: Vec<RawDocumentBuf>,
    concern_error: Option<RawDocumentBuf>,
    retried: Vec<i32>,
    results: Vec<RawDocumentBuf>,
    bulk: [i64; 6],
    last: RawDocumentBuf,
    /// A reply that says `ok: 0`: it is the whole command's reply.
    failed: Option<RawDocumentBuf>,
}

/// Counters of a `bulkWrite` reply.
const BULK: [&str; 6] = ["nErrors", "nInserted", "nMatched", "nModified", "nUpserted", "nDeleted"];

/// Whether a reply says that its command as a whole succeeded.
pub(crate) fn is_ok(reply: &RawDocument) -> bool {
    number(reply.get("ok").ok().flatten()) == Some(1)
}

/// Number of statements that a reply says failed.
pub(crate) fn error_count(reply: &RawDocument) -> usize {
    let listed = reply.get_array("writeErrors").map_or(0, |a| a.into_iter().count());
    let counted = number(reply.get("nErrors").ok().flatten()).unwrap_or(0);
    listed.max(usize::try_from(counted).unwrap_or(0))
}

impl Merged {
    /// Adds a part; `index` tells the place in the whole command of the part's n-th statement. `again` marks a further
    /// chunk of a statement that already has a result: its counts are added to that one.
    pub(crate) fn add(&mut self, reply: &RawDocument, index: &[usize], again: bool) -> Result<(), ShapeError> {
        self.last = reply.to_owned();
        if !is_ok(reply) {
            self.failed = Some(reply.to_owned());
            return Ok(());
        }
        self.n += count(reply, "n");
        self.n_modified += count(reply, "nModified");
        if let Ok(list) = reply.get_array("upserted") {
            moved(list, "index", index, &mut self.upserted)?;
        }
        if let Ok(list) = reply.get_array("writeErrors") {
            moved(list, "index", index, &mut self.errors)?;
        }
        if let Ok(error) = reply.get_document("writeConcernError") {
            self.concern_error = Some(error.to_owned());
        }
        if let Ok(list) = reply.get_array("retriedStmtIds") {
            let ids = list.into_iter().filter_map(|v| number(v.ok()));
            self.retried.extend(ids.filter_map(|n| i32::try_from(n).ok()));
        }
        self.add_bulk(reply, index, again)
    }

    fn add_bulk(&mut self, reply: &RawDocument, index: &[usize], again: bool) -> Result<(), ShapeError> {
        let Ok(cursor) = reply.get_document("cursor") else { return Ok(()) };
        for (sum, field) in self.bulk.iter_mut().zip(BULK) {
            *sum += count(reply, field);
        }
        let batch = cursor.get_array("firstBatch").map_err(ShapeError::bson)?;
        let mut results = Vec::new();
        moved(batch, "idx", index, &mut results)?;
        match (again, results.as_slice(), self.results.pop()) {
            (true, [more], Some(sum)) => self.results.push(added(&sum, more)?),
            (_, _, last) => {
                self.results.extend(last);
                self.results.append(&mut results);
            }
        }
        Ok(())
    }

    /// A statement failed, or the whole command did.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some() || !self.errors.is_empty() || self.bulk.first().is_some_and(|n| *n > 0)
    }

    /// The whole command was refused by the store: nothing after it may run.
    pub(crate) fn is_fatal(&self) -> bool {
        self.failed.is_some()
    }

    /// The reply.
    pub(crate) fn finish(mut self, command: &Command<'_>, cursors: &Cursors) -> Result<RawDocumentBuf, ShapeError> {
        if let Some(failed) = self.failed.take() {
            return Ok(failed);
        }
        let mut out = RawDocumentBuf::new();
        if command.verb == Verb::BulkWrite {
            self.bulk_head(command, cursors, &mut out);
        } else {
            out.append(cstr!("n"), int(self.n));
            if command.verb == Verb::Update {
                if !self.upserted.is_empty() {
                    out.append(cstr!("upserted"), docs(&self.upserted));
                }
                out.append(cstr!("nModified"), int(self.n_modified));
            }
            if !self.errors.is_empty() {
                out.append(cstr!("writeErrors"), docs(&self.errors));
            }
        }
        if let Some(error) = &self.concern_error {
            out.append(cstr!("writeConcernError"), &**error);
        }
        if !self.retried.is_empty() {
            let mut ids = RawArrayBuf::new();
            self.retried.iter().for_each(|id| ids.push(*id));
            out.append(cstr!("retriedStmtIds"), ids);
        }
        for element in self.last.iter_elements() {
            let element = element.map_err(ShapeError::bson)?;
            if !SUMMED.contains(&element.key().as_str()) {
                out.append(element.key(), element.value().map_err(ShapeError::bson)?);
            }
        }
        Ok(out)
    }

    fn bulk_head(&mut self, command: &Command<'_>, cursors: &Cursors, out: &mut RawDocumentBuf) {
        let mut shown = std::mem::take(&mut self.results);
        if command.errors_only {
            shown.retain(|result| !is_ok(result));
        }
        let (batch, id) = cursors.first(shown, command.batch_size, &self.last);
        let mut cursor = RawDocumentBuf::new();
        cursor.append(cstr!("id"), id);
        cursor.append(cstr!("firstBatch"), batch);
        cursor.append(cstr!("ns"), "admin.$cmd.bulkWrite");
        out.append(cstr!("cursor"), &*cursor);
        let keys = [
            cstr!("nErrors"),
            cstr!("nInserted"),
            cstr!("nMatched"),
            cstr!("nModified"),
            cstr!("nUpserted"),
            cstr!("nDeleted"),
        ];
        for (key, value) in keys.into_iter().zip(self.bulk) {
            out.append(key, int(value));
        }
    }
}

/// Fields that are summed or built; everything else is taken from the last reply.
const SUMMED: [&str; 13] = [
    "n",
    "nModified",
    "upserted",
    "writeErrors",
    "writeConcernError",
    "retriedStmtIds",
    "cursor",
    "nErrors",
    "nInserted",
    "nMatched",
    "nUpserted",
    "nDeleted",
    "$unused",
];

/// A 32-bit integer where it fits, as the server writes its counts.
fn int(value: i64) -> RawBsonRef<'static> {
    i32::try_from(value).map_or(RawBsonRef::Int64(value), RawBsonRef::Int32)
}

pub(crate) fn count(reply: &RawDocument, field: &str) -> i64 {
    number(reply.get(field).ok().flatten()).unwrap_or(0)
}

fn docs(list: &[RawDocumentBuf]) -> RawArrayBuf {
    let mut out = RawArrayBuf::new();
    for doc in list {
        out.push(&**doc);
    }
    out
}

/// Copies result documents with their statement index moved to its place in the whole command.
fn moved(
    list: &bson::raw::RawArray,
    field: &str,
    index: &[usize],
    out: &mut Vec<RawDocumentBuf>,
) -> Result<(), ShapeError> {
    for item in list {
        let RawBsonRef::Document(doc) = item.map_err(ShapeError::bson)? else { continue };
        let mut copy = RawDocumentBuf::new();
        for element in doc.iter_elements() {
            let element = element.map_err(ShapeError::bson)?;
            let value = element.value().map_err(ShapeError::bson)?;
            let place = number(Some(value)).and_then(|n| usize::try_from(n).ok()).and_then(|n| index.get(n));
            match place {
                Some(place) if element.key().as_str() == field => {
                    copy.append(element.key(), i32::try_from(*place).unwrap_or(i32::MAX));
                }
                _ => copy.append(element.key(), value),
            }
        }
        out.push(copy);
    }
    Ok(())
}

/// Two results of one `bulkWrite` operation that was worked off in chunks.
fn added(sum: &RawDocument, more: &RawDocument) -> Result<RawDocumentBuf, ShapeError> {
    let mut out = RawDocumentBuf::new();
    for element in more.iter_elements() {
        let element = element.map_err(ShapeError::bson)?;
        match element.key().as_str() {
            field @ ("n" | "nModified") => out.append(element.key(), int(count(sum, field) + count(more, field))),
            _ => out.append(element.key(), element.value().map_err(ShapeError::bson)?),
        }
    }
    Ok(out)
}
