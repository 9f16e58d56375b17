//! Replies of our own, in the shape that drivers expect.

use super::Builder;
use bson::raw::cstr;
use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bytes::Bytes;

/// A failure as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `code`
    pub code: i32,
    /// `codeName`
    pub name: &'static str,
    /// `errmsg`, for a person. No document contents.
    pub message: String,
    /// `errorLabels`; none: the field is absent.
    pub labels: &'static [&'static str],
}

impl Failure {
    /// Without labels: drivers hand it to the application as it is.
    pub fn new(code: i32, name: &'static str, message: impl Into<String>) -> Self {
        Self { code, name, message: message.into(), labels: &[] }
    }

    /// The sidecar cannot take the write now and has not forwarded it: newer drivers retry any command with backoff, older
    /// ones a retryable write (`retryable`: it has a `txnNumber` and is in no transaction). Pools and topology are left alone.
    pub fn overloaded(message: impl Into<String>, retryable: bool) -> Self {
        let message = message.into();
        if retryable {
            let labels = &["RetryableWriteError", "NoWritesPerformed", "SystemOverloadedError", "RetryableError"];
            Self { code: 262, name: "ExceededTimeLimit", message, labels }
        } else {
            let labels = &["SystemOverloadedError", "RetryableError"];
            Self { code: 462, name: "IngressRequestRateLimitExceeded", message, labels }
        }
    }

    /// The reply document: `{ok: 0, errmsg, code, codeName[, errorLabels]}`.
    pub fn document(&self) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("ok"), 0.0);
        out.append(cstr!("errmsg"), self.message.as_str());
        out.append(cstr!("code"), self.code);
        out.append(cstr!("codeName"), self.name);
        if !self.labels.is_empty() {
            let mut labels = RawArrayBuf::new();
            for label in self.labels {
                labels.push(*label);
            }
            out.append(cstr!("errorLabels"), labels);
        }
        out
    }

    /// The whole `OP_MSG` that answers request `response_to`.
    pub fn reply(&self, response_to: i32) -> Bytes {
        Builder::reply(0, response_to).body(&self.document()).finish()
    }
}

/// An error as an `OP_MSG` that answers request `response_to`.
pub fn error(response_to: i32, code: i32, name: &'static str, message: &str, labels: &'static [&'static str]) -> Bytes {
    Failure { code, name, message: message.to_owned(), labels }.reply(response_to)
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Message, OpMsg};
    use super::*;

    #[test]
    fn an_error_is_what_drivers_expect() {
        let bytes = error(7, 263, "OperationNotSupportedInTransaction", "no", &[]);
        let parsed = OpMsg::parse(Message::from_bytes(bytes, Limits::default()).unwrap().unwrap()).unwrap();
        assert_eq!(parsed.response_to(), 7);
        assert_eq!(parsed.body().get_i32("code").unwrap(), 263);
        assert!(parsed.body().get("errorLabels").unwrap().is_none());
        let labelled = Failure::overloaded("disk", true).document();
        assert_eq!(labelled.get_array("errorLabels").unwrap().get_str(0).unwrap(), "RetryableWriteError");
    }
}
