//! One look at the node: what its `hello` says about who it is and how far it is.

use bson::raw::RawDocument;

/// A position in the oplog; a later one is greater within a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpTime {
    pub(super) term: u64,
    /// Seconds ≪ 32 | increment.
    pub(super) ts: u64,
}

/// What a `hello` told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// `topologyVersion.processId` in hex; empty: it tells none.
    pub(super) process: String,
    /// It is a member of a replica set.
    pub(super) member: bool,
    /// It takes writes.
    pub(super) primary: bool,
    /// What it applied last.
    pub(super) last: Option<OpTime>,
    /// What a majority has.
    pub(super) majority: Option<OpTime>,
    /// The term in which it was elected, as its `electionId` says (WIRE.md 7); 0: it is not primary, or tells none.
    pub(super) elected: u64,
}

impl Look {
    /// Reads a reply (WIRE.md 2.1).
    pub(super) fn of(hello: &RawDocument) -> Self {
        let process = hello.get_document("topologyVersion").and_then(|v| v.get_object_id("processId"));
        let write = hello.get_document("lastWrite").ok();
        let time = |field| write.and_then(|w| w.get_document(field).ok()).and_then(op_time);
        Self {
            process: process.map(bson::oid::ObjectId::to_hex).unwrap_or_default(),
            member: hello.get_str("setName").is_ok(),
            primary: hello.get_bool("isWritablePrimary").or_else(|_| hello.get_bool("ismaster")).unwrap_or(false),
            last: time("opTime"),
            majority: time("majorityOpTime"),
            elected: hello.get_object_id("electionId").ok().and_then(elected).unwrap_or(0),
        }
    }

    /// The term of what it applied last, or of its own election where that is later; 0: a standalone, or a set that tells none.
    pub(super) fn term(&self) -> u64 {
        let elected = if self.primary { self.elected } else { 0 };
        self.last.map_or(0, |time| time.term.max(elected))
    }

    /// For people.
    pub(super) fn role(&self) -> &'static str {
        match (self.member, self.primary) {
            (false, _) => "standalone",
            (true, true) => "primary",
            (true, false) => "not primary",
        }
    }
}

/// The term in an election's id: four bytes that say that it is one, then the term.
fn elected(id: bson::oid::ObjectId) -> Option<u64> {
    let hex = id.to_hex();
    u64::from_str_radix(hex.strip_prefix("7fffffff")?, 16).ok()
}

fn op_time(time: &RawDocument) -> Option<OpTime> {
    let ts = time.get_timestamp("ts").ok()?;
    let term = u64::try_from(time.get_i64("t").ok()?).ok()?;
    Some(OpTime { term, ts: u64::from(ts.time) << 32 | u64::from(ts.increment) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::oid::ObjectId;
    use bson::raw::cstr;
    use bson::{Timestamp, rawdoc};

    #[test]
    fn a_member_and_a_standalone_are_read() {
        let ts = |increment| Timestamp { time: 5, increment };
        let member = rawdoc! {
            "topologyVersion": { "processId": ObjectId::from_bytes([7; 12]), "counter": 0_i64 }, "setName": "rs",
            "isWritablePrimary": true,
            "lastWrite": { "opTime": { "ts": ts(9), "t": 3_i64 }, "majorityOpTime": { "ts": ts(8), "t": 3_i64 } },
        };
        let look = Look::of(&member);
        assert_eq!((look.process.as_str(), look.term(), look.role()), ("070707070707070707070707", 3, "primary"));
        assert_eq!(look.majority, Some(OpTime { term: 3, ts: 5 << 32 | 8 }));
        let mut elected = member.clone();
        elected.append(cstr!("electionId"), ObjectId::parse_str("7fffffff0000000000000005").unwrap());
        assert_eq!(Look::of(&elected).term(), 5, "it was elected since it applied anything");
        let alone = Look::of(&rawdoc! { "isWritablePrimary": true, "ok": 1.0 });
        assert_eq!((alone.process.as_str(), alone.term(), alone.role(), alone.last), ("", 0, "standalone", None));
        let before_an_election = rawdoc! { "setName": "rs", "lastWrite": { "opTime": { "ts": ts(1), "t": -1_i64 } } };
        assert_eq!(Look::of(&before_an_election).term(), 0);
    }
}
