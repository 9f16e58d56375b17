//! What a store's errors mean: try again, or change something.
//!
//! Promises: texts hold no query of a URL (a signature can stand there) and of a server's answer only `Code` and `Message` (some
//! servers repeat the request, with the key's name, in their answer).

use super::super::SinkError;
use object_store::client::HttpError;
use object_store::{Error, path::Path};
use std::error::Error as _;

/// The error of doing `what` at `place`.
pub(super) fn told(place: &str, what: &str, error: &Error) -> SinkError {
    let text = plain(&error.to_string());
    let status = status(&error.to_string());
    let at = |advice: &str| format!("{place}: {what}: {text}{}{advice}", if advice.is_empty() { "" } else { "; " });
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => SinkError::Refused(at(
            "check the credentials in the sidecar's environment or in `options_file`, that they may list, read and write there, and this machine's clock",
        )),
        Error::NotFound { .. } if no_bucket(error) => SinkError::Refused(format!(
            "{place}: the bucket is not there: create it, or correct `url` and the endpoint"
        )),
        Error::NotImplemented { .. } | Error::NotSupported { .. } => SinkError::Refused(at("this store cannot do it")),
        Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => {
            SinkError::Refused(at("correct `url` and `options`"))
        }
        // An upload whose last answer was lost is known no more: the window is begun anew.
        Error::NotFound { .. } if is_absent(error) || error.to_string().contains("NoSuchUpload") => {
            SinkError::Away(at(""))
        }
        _ if status == Some(501) => SinkError::Refused(at(
            "this server knows no conditional writes: set `options = { aws_conditional_put = \"disabled\" }`",
        )),
        _ if status.is_some_and(|s| (300..500).contains(&s) && s != 408 && s != 429) => {
            SinkError::Refused(at("check `url`, the credentials, the region and the endpoint"))
        }
        _ if text.contains("169.254.169.254") => SinkError::Away(at(
            "no credentials were found in the environment, so the machine's identity was asked for; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `options_file`",
        )),
        _ => SinkError::Away(at(cause(error))),
    }
}

/// Whether it is the bucket or container itself that is missing.
fn no_bucket(error: &Error) -> bool {
    let text = error.to_string();
    ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|code| text.contains(code))
}

/// Whether the error says that just this object is not there: servers answer 404 to more than that.
pub(super) fn is_absent(error: &Error) -> bool {
    let Error::NotFound { source, .. } = error else { return false };
    match element(&source.to_string(), "Code") {
        Some(code) => matches!(code, "NoSuchKey" | "BlobNotFound" | "ResourceNotFound"),
        None => true,
    }
}

/// What an error of the connection comes down to.
fn cause(error: &Error) -> &'static str {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            return match http.kind() {
                object_store::client::HttpErrorKind::Connect => "nobody listens there, or the network is away",
                object_store::client::HttpErrorKind::Timeout => "the server did not answer in time",
                _ => "the connection broke",
            };
        }
        source = inner.source();
    }
    ""
}

/// The HTTP status in an error's text: the crate keeps it to itself.
fn status(text: &str) -> Option<u16> {
    text.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

/// The text on one line, without queries of URLs and without bodies except their `Code` and `Message`.
pub(super) fn plain(text: &str) -> String {
    let (before, body) = match text.find("<?xml").or_else(|| text.find("<Error")).or_else(|| text.find("<html")) {
        Some(at) => text.split_at_checked(at).unwrap_or((text, "")),
        None => (text, ""),
    };
    let mut words: Vec<_> = before.split_whitespace().map(without_query).collect();
    for element in ["Code", "Message"] {
        words.extend(self::element(body, element));
    }
    words.join(" ")
}

/// The text of the first element with this name.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once('<')?.0)
}

fn without_query(word: &str) -> &str {
    if word.contains("://") { word.split('?').next().unwrap_or_default() } else { word }
}

/// An object's address, for people.
pub(super) fn shown(place: &str, prefix: &Path, path: &Path) -> String {
    let inside = path.as_ref().strip_prefix(prefix.as_ref()).unwrap_or(path.as_ref());
    format!("{}/{}", place.trim_end_matches('/'), inside.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Class;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn nothing_secret_is_told() {
        let text = "Error performing GET https://a.b/c?sig=SECRET&se=1 in 1s - Server returned non-2xx status code: 403 Forbidden: \
                    <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>It differs.</Message>\
                    <AWSAccessKeyId>SECRET</AWSAccessKeyId><StringToSign>SECRET</StringToSign></Error>";
        let told = plain(text);
        assert!(
            !told.contains("SECRET") && told.ends_with("403 Forbidden: SignatureDoesNotMatch It differs."),
            "{told}"
        );
        assert!(told.contains("https://a.b/c in"), "{told}");
    }

    #[test]
    fn what_is_not_there() {
        let missing = |body: &str| Error::NotFound { path: "p".into(), source: body.to_owned().into() };
        assert!(is_absent(&missing("no such file")));
        assert!(is_absent(&missing("404 Not Found: <Error><Code>NoSuchKey</Code></Error>")));
        for code in ["NoSuchBucket", "UserNotFound"] {
            let error = missing(&format!("status code: 404 Not Found: <Error><Code>{code}</Code></Error>"));
            assert!(!is_absent(&error));
            assert_eq!(told("s3://b", "read p", &error).class(), Class::Permanent, "{code}");
        }
    }

    #[test]
    fn classes_by_status() {
        for (code, class) in [
            ("500 Internal", Class::Transient),
            ("503 Slow", Class::Transient),
            ("429 Many", Class::Transient),
            ("408 Timeout", Class::Transient),
            ("400 Bad", Class::Permanent),
            ("301 Moved", Class::Permanent),
            ("501 Not", Class::Permanent),
        ] {
            let error = generic(&format!("Server returned non-2xx status code: {code}: "));
            assert_eq!(told("s3://b", "write x", &error).class(), class, "{code}");
        }
        assert_eq!(told("s3://b", "write x", &generic("connection reset")).class(), Class::Transient);
        let missing = Error::NotFound { path: "p".into(), source: "404: <Code>NoSuchBucket</Code>".into() };
        assert!(told("s3://b", "list", &missing).to_string().contains("create it"));
        let ended = Error::NotFound { path: "p".into(), source: "status code: 404: <Code>NoSuchUpload</Code>".into() };
        assert_eq!(told("s3://b", "complete p", &ended).class(), Class::Transient);
        let denied = Error::PermissionDenied { path: "p".into(), source: "403".into() };
        assert_eq!(told("s3://b", "list", &denied).class(), Class::Permanent);
    }
}
