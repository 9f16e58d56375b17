//! The cluster-wide change stream: only what says which entity an event is about; images are never taken from it.

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{Document, RawBson, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use std::time::Duration;

use super::node::Node as _;
use super::privileged::{Privileged, PrivilegedError};
use crate::types::Namespace;

/// How long the node waits for an event before it answers with none.
const AWAIT: Duration = Duration::from_secs(1);

/// Why the stream does not go on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The place to go on from is no longer there, or never was. What came after it has to be found by other means.
    #[error("the change stream cannot go on from the place kept: {0}")]
    Lost(PrivilegedError),
    /// Anything else: it may go on later.
    #[error(transparent)]
    Failed(#[from] PrivilegedError),
    /// An event that is none.
    #[error("an event of the change stream cannot be read: {0}")]
    Event(String),
}

/// What happened somewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `insert`, `update`, `replace`, `delete`, `drop`, `rename`, `dropDatabase`, `create`, `modify`, …
    pub kind: String,
    /// Where; with an empty collection: a database.
    pub ns: Namespace,
    /// Of a rename: the new name.
    pub to: Option<Namespace>,
    /// The document's `_id`.
    pub id: Option<RawBson>,
    /// `clusterTime`: seconds ≪ 32 | increment.
    pub time: u64,
    /// Session and number of the transaction.
    pub txn: Option<([u8; 16], i64)>,
    /// What a command on a collection said.
    pub description: RawDocumentBuf,
}

/// The open stream.
#[derive(Debug)]
pub struct Stream {
    stream: ChangeStream<RawDocumentBuf>,
}

/// Codes that say that the place is lost: `ChangeStreamFatalError` 280, `ChangeStreamHistoryLost` 286, a token of another history.
const LOST: [i32; 5] = [280, 286, 40_585, 40_615, 40_647];

fn failed(error: mongodb::error::Error) -> StreamError {
    let lost = match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => LOST.contains(&command.code),
        _ => error.contains_label("NonResumableChangeStreamError"),
    };
    let told = PrivilegedError::new("watch", "the cluster")(error);
    if lost { StreamError::Lost(told) } else { StreamError::Failed(told) }
}

impl Privileged {
    /// Opens the stream, after the place that a token says, else from now on.
    ///
    /// # Errors
    /// The place is lost, or the store does not answer or refuses (a standalone has no stream).
    pub async fn stream(&self, token: Option<&RawDocument>) -> Result<Stream, StreamError> {
        let fields =
            ["operationType", "ns", "to", "documentKey", "clusterTime", "lsid", "txnNumber", "operationDescription"];
        let shown: Document = fields.iter().map(|field| ((*field).to_owned(), bson::Bson::Int32(1))).collect();
        let token = token.map(read_token).transpose()?;
        let watch = self.client().watch().pipeline([doc! {"$project": shown}]).show_expanded_events(true);
        let opened = watch.resume_after(token).max_await_time(AWAIT).batch_size(1_000).await.map_err(failed)?;
        Ok(Stream { stream: opened.with_type() })
    }

    /// Time of the oldest entry of the oplog, and that of the node's last operation; `None`: they cannot be read (no such
    /// right, no oplog).
    pub async fn oplog_bounds(&self) -> Option<(u64, u64)> {
        let newest = stream_facts(&self.hello().await.ok()?).1;
        let oplog = self.client().database("local").collection::<RawDocumentBuf>("oplog.rs");
        let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).projection(doc! { "ts": 1 }).await.ok()??;
        let oldest = first.get_timestamp("ts").ok()?;
        Some((u64::from(oldest.time) << 32 | u64::from(oldest.increment), newest))
    }
}

fn read_token(token: &RawDocument) -> Result<ResumeToken, StreamError> {
    let told = |e: &dyn std::fmt::Display| StreamError::Event(e.to_string());
    let document = Document::try_from(token).map_err(|e| told(&e))?;
    bson::deserialize_from_document(document).map_err(|e| told(&e))
}

impl Stream {
    /// The next event; `None`: none came for a while.
    ///
    /// # Errors
    /// As [`Privileged::stream`].
    pub async fn next(&mut self) -> Result<Option<Event>, StreamError> {
        match self.stream.next_if_any().await.map_err(failed)? {
            Some(raw) => read(&raw).map(Some),
            None => Ok(None),
        }
    }

    /// The place that the stream has come to.
    pub fn token(&self) -> Option<RawDocumentBuf> {
        bson::serialize_to_raw_document_buf(&self.stream.resume_token()?).ok()
    }
}

fn read(raw: &RawDocument) -> Result<Event, StreamError> {
    let missing = |field: &str| StreamError::Event(format!("no {field}"));
    let kind = raw.get_str("operationType").map_err(|_none| missing("operationType"))?.to_owned();
    let time = raw.get_timestamp("clusterTime").map_err(|_none| missing("clusterTime"))?;
    let txn = || {
        let number = raw.get_i64("txnNumber").ok()?;
        let id: [u8; 16] = raw.get_document("lsid").ok()?.get_binary("id").ok()?.bytes.try_into().ok()?;
        Some((id, number))
    };
    Ok(Event {
        kind,
        ns: place(raw, "ns").ok_or_else(|| missing("ns"))?,
        to: place(raw, "to"),
        id: raw.get_document("documentKey").ok().and_then(|key| key.get("_id").ok()?).map(RawBson::from),
        time: u64::from(time.time) << 32 | u64::from(time.increment),
        txn: txn(),
        description: raw.get_document("operationDescription").map(RawDocument::to_owned).unwrap_or_default(),
    })
}

fn place(raw: &RawDocument, field: &str) -> Option<Namespace> {
    let place = raw.get_document(field).ok()?;
    Some(Namespace::new(place.get_str("db").ok()?, place.get_str("coll").unwrap_or_default()))
}

/// What `hello` says of the node's clock, and whether it has a change stream.
pub fn stream_facts(hello: &Document) -> (bool, u64) {
    let set = hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    let time = hello.get_timestamp("operationTime").map_or(0, |t| u64::from(t.time) << 32 | u64::from(t.increment));
    (set, time)
}

/// A list of values as a document's dates: the value, or each of an array.
pub fn dates(value: RawBsonRef<'_>) -> Vec<i64> {
    match value {
        RawBsonRef::DateTime(date) => vec![date.timestamp_millis()],
        RawBsonRef::Array(all) => all.into_iter().flatten().flat_map(dates).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::raw::RawArrayBuf;
    use bson::rawdoc;

    #[test]
    fn an_event_says_where_and_when() {
        let time = bson::Timestamp { time: 7, increment: 2 };
        let id = bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![3; 16] };
        let raw = rawdoc! {
            "operationType": "delete", "clusterTime": time, "ns": {"db": "a", "coll": "b.c"}, "documentKey": {"s": 1, "_id": "x"},
            "lsid": {"id": id}, "txnNumber": 5_i64,
        };
        let event = read(&raw).unwrap();
        assert_eq!((event.kind.as_str(), event.ns.as_str(), event.time), ("delete", "a.b.c", (7 << 32) + 2));
        assert_eq!((event.id, event.txn), (Some(RawBson::String("x".into())), Some(([3; 16], 5))));
        let whole = read(&rawdoc! {"operationType": "dropDatabase", "clusterTime": time, "ns": {"db": "a"}}).unwrap();
        assert_eq!((whole.ns.db(), whole.ns.collection(), whole.txn), ("a", "", None));
        assert!(read(&rawdoc! {"operationType": "drop"}).is_err());
    }

    #[test]
    fn dates_stand_alone_or_in_lists() {
        let date = |ms| bson::DateTime::from_millis(ms);
        let mut list = RawArrayBuf::new();
        list.push(date(9));
        list.push("no date");
        list.push(date(5));
        let doc = rawdoc! {"one": date(3), "more": list, "none": 1};
        let of = |field: &str| doc.get(field).unwrap().map(dates).unwrap_or_default();
        assert_eq!((of("one"), of("more"), of("none")), (vec![3], vec![9, 5], vec![]));
    }
}
