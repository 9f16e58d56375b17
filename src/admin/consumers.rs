//! Named checkpoints of those who read windows, as values and routes.

use super::routes::{Shared, refuse};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use std::sync::Arc;

/// A consumer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConsumerRow {
    /// Its name.
    pub name: String,
    /// The sink that it reads; empty: windows as such.
    pub sink: String,
    /// The last window that it is done with; 0: none.
    pub window: u64,
    /// Windows that are there and that it is not done with.
    pub lag_windows: u64,
    /// Records in them.
    pub lag_records: u64,
    /// How long ago the first of them was closed; 0: there is none.
    pub lag_ms: u64,
    /// When it last moved, RFC 3339.
    pub since: String,
    /// How long it has stood there.
    pub still_ms: u64,
    /// For people.
    pub note: String,
    /// What a person should know; empty: nothing.
    pub trouble: String,
}

/// Where a consumer is to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerMark {
    /// Before the oldest window that is there.
    Oldest,
    /// After the newest.
    Now,
    /// It is done with this window.
    Done(u64),
}

impl ConsumerMark {
    /// `oldest`, `now` or a number.
    ///
    /// # Errors
    /// What was found and what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "oldest" => Ok(Self::Oldest),
            "now" => Ok(Self::Now),
            number => number.parse().map(Self::Done).map_err(|_no_number| {
                let found: String = text.chars().take(40).collect();
                format!("window: found `{found}`, expected \"oldest\", \"now\" or the number of the last window that is done")
            }),
        }
    }
}

impl<'de> Deserialize<'de> for ConsumerMark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Told {
            Number(u64),
            Text(String),
        }
        match Told::deserialize(deserializer)? {
            Told::Number(number) => Ok(Self::Done(number)),
            Told::Text(text) => Self::parse(&text).map_err(serde::de::Error::custom),
        }
    }
}

/// What is asked of a consumer, in the query or as JSON in the body, which wins. What is not said stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerAsk {
    /// The last window that it is done with, `oldest` or `now`.
    pub window: Option<ConsumerMark>,
    /// The sink that it reads.
    pub sink: Option<String>,
    /// For people.
    pub note: Option<String>,
    /// It may go back.
    pub back: Option<bool>,
}

/// Why a consumer is not as it was asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerRefused {
    /// The words are wrong.
    Call(String),
    /// There is no such consumer or sink.
    Unknown(String),
    /// It cannot stand there.
    Conflict(String),
    /// The system refused.
    Failed(String),
}

impl IntoResponse for ConsumerRefused {
    fn into_response(self) -> Response {
        match self {
            Self::Call(why) => refuse(StatusCode::BAD_REQUEST, &why),
            Self::Unknown(why) => refuse(StatusCode::NOT_FOUND, &why),
            Self::Conflict(why) => refuse(StatusCode::CONFLICT, &why),
            Self::Failed(why) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &why),
        }
    }
}

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    Json((shared.control.consumers)()).into_response()
}

pub(super) async fn set(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(query): Query<ConsumerAsk>,
    body: Bytes,
) -> Response {
    let told: ConsumerAsk = match body.as_ref() {
        b"" => ConsumerAsk::default(),
        text => match serde_json::from_slice(text) {
            Ok(told) => told,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
        },
    };
    let asked = ConsumerAsk {
        window: told.window.or(query.window),
        sink: told.sink.or(query.sink),
        note: told.note.or(query.note),
        back: told.back.or(query.back),
    };
    // A consumer that works moves often.
    tracing::debug!(consumer = name, ?asked, "a consumer is set");
    match (shared.control.set_consumer)(&name, asked) {
        Ok(row) => Json(row).into_response(),
        Err(refused) => refused.into_response(),
    }
}

pub(super) async fn forget(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    tracing::info!(consumer = name, "a consumer is dropped");
    match (shared.control.forget_consumer)(&name) {
        Ok(()) => Json(json!({ "dropped": name })).into_response(),
        Err(refused) => refused.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_in_a_query_or_in_json() {
        for text in [r#"{"window": 7, "sink": "lake"}"#, r#"{"window": "7", "sink": "lake"}"#] {
            let asked: ConsumerAsk = serde_json::from_str(text).unwrap();
            assert_eq!(asked.window, Some(ConsumerMark::Done(7)));
        }
        let query: Query<ConsumerAsk> = Query::try_from_uri(&"/x?window=7&back=true".parse().unwrap()).unwrap();
        assert_eq!((query.window, query.back), (Some(ConsumerMark::Done(7)), Some(true)));
        let query: Query<ConsumerAsk> = Query::try_from_uri(&"/x?window=oldest&note=a%20b".parse().unwrap()).unwrap();
        assert_eq!((query.window, query.note.as_deref()), (Some(ConsumerMark::Oldest), Some("a b")));
        assert!(serde_json::from_str::<ConsumerAsk>(r#"{"windows": 7}"#).is_err());
        assert!(ConsumerMark::parse("-1").unwrap_err().contains("expected \"oldest\""));
    }
}
