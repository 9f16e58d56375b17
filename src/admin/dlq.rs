//! The dead letters of the sinks, as values and routes.

use super::routes::{Shared, refuse};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A record that a sink refused. No contents: `tidelog log` has them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LetterRow {
    /// The sink.
    pub sink: String,
    /// The record's number in the log.
    pub lsn: u64,
    /// Its window.
    pub window: u64,
    /// Its namespace.
    pub ns: String,
    /// The entity's key, hex.
    pub key: String,
    /// The entity's count.
    pub epoch: u32,
    /// The entity's count.
    pub seq: u64,
    /// `insert` and the like.
    pub op: String,
    /// `serialization` or `delivery`.
    pub stage: String,
    /// Why it was refused the last time.
    pub reason: String,
    /// When it was first refused.
    pub first: String,
    /// When it was last refused.
    pub last: String,
    /// How often.
    pub attempts: u32,
    /// `waiting`, `asked`, `delivered` or `dropped`.
    pub state: String,
    /// The amendment of the window that it goes, or went, out in; 0: none.
    pub amendment: u32,
}

/// What to do with letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterOrder {
    /// Deliver the records in an amendment.
    Retry,
    /// Let them stay missing.
    Drop,
}

/// Which letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterAsk {
    /// Of this sink; empty: of all.
    pub sink: String,
    /// Of these records; empty: all that wait.
    pub lsns: BTreeSet<u64>,
}

/// The answer to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LettersChanged {
    /// Letters that it was carried out on.
    pub letters: u64,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterRefused {
    /// There is no such sink.
    Sink(String),
    /// The system refused.
    Failed(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LetterQuery {
    #[serde(default)]
    sink: String,
    #[serde(default)]
    lsn: String,
}

impl LetterQuery {
    fn ask(self) -> Result<LetterAsk, String> {
        let number =
            |text: &str| text.trim().parse().map_err(|e| format!("lsn: found `{text}`, expected numbers: {e}"));
        let words = self.lsn.split(',').filter(|text| !text.trim().is_empty());
        Ok(LetterAsk { sink: self.sink, lsns: words.map(number).collect::<Result<_, String>>()? })
    }
}

pub(super) async fn list(State(shared): State<Arc<Shared>>, Query(query): Query<LetterQuery>) -> Response {
    match query.ask() {
        Ok(asked) => Json((shared.control.letters)(&asked)).into_response(),
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error),
    }
}

pub(super) async fn retry(shared: State<Arc<Shared>>, query: Query<LetterQuery>) -> Response {
    order(shared, query, LetterOrder::Retry)
}

pub(super) async fn drop_letters(shared: State<Arc<Shared>>, query: Query<LetterQuery>) -> Response {
    order(shared, query, LetterOrder::Drop)
}

fn order(State(shared): State<Arc<Shared>>, Query(query): Query<LetterQuery>, order: LetterOrder) -> Response {
    let asked = match query.ask() {
        Ok(asked) => asked,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    tracing::info!(sink = asked.sink, records = asked.lsns.len(), ?order, "an order about dead letters");
    match (shared.control.order)(&asked, order) {
        Ok(letters) => Json(LettersChanged { letters }).into_response(),
        Err(LetterRefused::Sink(error)) => refuse(StatusCode::NOT_FOUND, &error),
        Err(LetterRefused::Failed(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error),
    }
}
