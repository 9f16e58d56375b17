//! What can go wrong in capture, and what the client is told.

use super::intent::IntentError;
use crate::changelog::LogError;
use crate::store::UpstreamError;
use thiserror::Error;

/// A command that is not of the shape the documentation gives. It is forwarded whole, under the exclusive guard, so that
/// the store itself says what is wrong with it.
#[derive(Debug, Error)]
pub enum ShapeError {
    /// The bytes are not BSON.
    #[error("not valid BSON: {0}")]
    Bson(String),
    /// A field is missing, unknown or of another type.
    #[error("field `{field}`: {what}")]
    Field {
        /// The field's name.
        field: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl ShapeError {
    /// From any error of the BSON reader.
    pub(crate) fn bson(source: impl std::fmt::Display) -> Self {
        Self::Bson(source.to_string())
    }

    /// About one field.
    pub(crate) fn field(field: &str, what: &'static str) -> Self {
        Self::Field { field: field.to_owned(), what }
    }
}

/// Why a write was not carried through.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// Nothing was forwarded; the client gets this error.
    #[error("{message}")]
    Refused {
        /// Server error code.
        code: i32,
        /// Its name.
        code_name: &'static str,
        /// For a person: what, where, what to do.
        message: String,
        /// Error labels that drivers act on.
        labels: &'static [&'static str],
    },
    /// The connection to the store broke. What was under way has been verified; the client's connection is closed, so that
    /// its driver decides about a retry.
    #[error("connection to the store: {0}")]
    Upstream(#[from] UpstreamError),
    /// A command that had been taken apart cannot be put together again; nothing more of it was forwarded.
    #[error("the client's command: {0}")]
    Shape(#[from] ShapeError),
    /// The store answered something that this protocol does not allow.
    #[error("unexpected answer from the store: {0}")]
    Answer(String),
    /// The log cannot make anything durable; the client's connection is closed without an answer.
    #[error("changelog: {0}")]
    Log(#[from] LogError),
    /// An intent could not be written down; nothing was forwarded.
    #[error(transparent)]
    Intent(#[from] IntentError),
    /// The entity index failed.
    #[error("entity index: {0}")]
    Index(String),
    /// The privileged connection failed.
    #[error("privileged connection to the store: {0}")]
    Store(String),
}

impl CaptureError {
    /// The error's class, which is its metric label: `client` (the command's doing), `retry` (may go away), `fatal`.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Shape(_) => "client",
            Self::Refused { .. } | Self::Upstream(_) | Self::Store(_) => "retry",
            Self::Log(error) => error.class(),
            Self::Answer(_) | Self::Intent(_) | Self::Index(_) => "fatal",
        }
    }
}
