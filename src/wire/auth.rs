//! Learning who speaks, without keeping a secret: user and mechanism, from what the conversation shows in clear.
//!
//! What is learnt from a request is a claim; it holds only once a reply says `ok: 1` and (for SASL) `done: true`.

use super::hello::clean;
use bson::raw::{RawBsonRef, RawDocument};

const MAX_NAME: usize = 256;

/// A user who has not yet proved to be one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// User name; empty where the mechanism hides it.
    pub user: String,
    /// Database the user is defined in.
    pub db: String,
    /// `SCRAM-SHA-256` and the like.
    pub mechanism: String,
}

impl Claim {
    /// `user@db`; empty where the user is not known.
    pub fn name(&self) -> String {
        if self.user.is_empty() { String::new() } else { format!("{}@{}", self.user, self.db) }
    }
}

/// Reads `saslStart` or `authenticate`, also as they stand in `speculativeAuthenticate` of hello (with their own `db`).
pub fn claim(body: &RawDocument, db: &str) -> Claim {
    let mechanism = clean(body.get_str("mechanism").unwrap_or_default(), MAX_NAME);
    let db = body.get_str("db").unwrap_or(db);
    let user = match body.get("payload") {
        Ok(Some(RawBsonRef::Binary(payload))) => sasl_user(&mechanism, payload.bytes),
        _ => body.get_str("user").ok().map(|user| clean(user, MAX_NAME)),
    };
    Claim { user: user.unwrap_or_default(), db: clean(db, MAX_NAME), mechanism }
}

/// What a reply says about the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Proved; x509 replies name the user.
    Done(Option<String>),
    /// More messages follow.
    Continues,
    /// Refused.
    Failed,
}

/// Reads the reply to a message of the conversation.
pub fn step(reply: &RawDocument) -> Step {
    if !is_ok(reply) {
        return Step::Failed;
    }
    match reply.get_bool("done") {
        Ok(false) => Step::Continues,
        // `authenticate` has no `done`: ok is all.
        Ok(true) | Err(_) => Step::Done(reply.get_str("user").ok().map(|user| clean(user, MAX_NAME))),
    }
}

/// Reads `speculativeAuthenticate` of a hello reply: it has no `ok` of its own; that it is there says that all went well.
pub fn speculative_step(reply: &RawDocument) -> Step {
    let done = || Step::Done(reply.get_str("user").ok().map(|user| clean(user, MAX_NAME)));
    if matches!(reply.get_bool("done"), Ok(false)) { Step::Continues } else { done() }
}

/// `ok` of a reply is 1, of whatever number type.
pub fn is_ok(reply: &RawDocument) -> bool {
    match reply.get("ok") {
        Ok(Some(RawBsonRef::Double(n))) => (n - 1.0).abs() < f64::EPSILON,
        Ok(Some(RawBsonRef::Int32(n))) => n == 1,
        Ok(Some(RawBsonRef::Int64(n))) => n == 1,
        Ok(Some(RawBsonRef::Boolean(b))) => b,
        _ => false,
    }
}

/// The user in the first payload: of SCRAM `n,,n=user,r=nonce`, of PLAIN the middle of `\0user\0password`. Others hide it.
fn sasl_user(mechanism: &str, payload: &[u8]) -> Option<String> {
    let user = if mechanism.starts_with("SCRAM-") {
        let text = std::str::from_utf8(payload).ok()?;
        let name = text.split(',').nth(2)?.strip_prefix("n=")?;
        name.replace("=2C", ",").replace("=3D", "=")
    } else if mechanism == "PLAIN" {
        std::str::from_utf8(payload.split(|b| *b == 0).nth(1)?).ok()?.to_owned()
    } else {
        return None;
    };
    Some(clean(&user, MAX_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Binary, rawdoc, spec::BinarySubtype};

    fn binary(bytes: &[u8]) -> Binary {
        Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
    }

    #[test]
    fn names_are_learnt_and_secrets_are_not() {
        let scram =
            rawdoc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": binary(b"n,,n=a=2Cb=3Dc,r=abc") };
        assert_eq!(claim(&scram, "admin").name(), "a,b=c@admin");
        let plain =
            rawdoc! { "saslStart": 1, "mechanism": "PLAIN", "payload": binary(b"\0joe\0secret"), "db": "$external" };
        let plain = claim(&plain, "admin");
        assert_eq!((plain.name().as_str(), plain.mechanism.as_str()), ("joe@$external", "PLAIN"));
        let aws = rawdoc! { "saslStart": 1, "mechanism": "MONGODB-AWS", "payload": binary(b"xyz") };
        assert_eq!(claim(&aws, "$external").name(), "");
    }

    #[test]
    fn only_done_is_done() {
        assert_eq!(step(&rawdoc! { "ok": 1.0, "done": false }), Step::Continues);
        assert_eq!(step(&rawdoc! { "ok": 1.0, "done": true }), Step::Done(None));
        assert_eq!(step(&rawdoc! { "ok": 1, "user": "CN=x", "dbname": "$external" }), Step::Done(Some("CN=x".into())));
        assert_eq!(step(&rawdoc! { "ok": 0.0, "code": 18 }), Step::Failed);
        assert_eq!(speculative_step(&rawdoc! { "conversationId": 1, "done": false }), Step::Continues);
        assert_eq!(
            speculative_step(&rawdoc! { "dbname": "$external", "user": "CN=x" }),
            Step::Done(Some("CN=x".into()))
        );
    }
}
