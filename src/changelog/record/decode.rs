//! Bytes → record. Images are slices of what was given, not copies.

use super::encode::found_number;
use super::fields::{
    CONTINUED, COUNT_BYTES, FIELD_HEAD_BYTES, RETRY_BYTES, TALLY_BYTES, TERM_BYTES, TXN_BYTES, kind, tag,
};
use super::{RecordError, STAMP_BYTES, Stamp, id};
use crate::changelog::frame::{u32_at, u64_at};
use crate::types::{
    Body, Change, Control, Digest, EntityKey, Epoch, Found, Hlc, Image, Lsn, Namespace, Op, Origin, Record, RetryId,
    Seq, TxnPart,
};
use bytes::Bytes;
use std::sync::Arc;

/// A record without its images, `_id` and origin: what cutting windows and keeping statistics needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The fixed part.
    pub stamp: Stamp,
    /// What it says, in short.
    pub body: HeadBody,
}

/// What a [`Head`] says.
#[derive(Clone, Debug, PartialEq)]
pub enum HeadBody {
    /// A change of one entity.
    Change {
        /// Where.
        ns: Namespace,
        /// What happened.
        op: Op,
        /// SHA-256 of the image before.
        before_sha: Option<Digest>,
        /// SHA-256 of the image after.
        after_sha: Option<Digest>,
        /// Bytes of both images as stored.
        image_bytes: u64,
    },
    /// A control fact, whole.
    Control(Control),
}

/// Decodes one payload (copying it once; [`decode_shared`] does not).
///
/// # Errors
/// The first thing that is wrong with it.
pub fn decode(payload: &[u8]) -> Result<Record, RecordError> {
    decode_shared(&Bytes::copy_from_slice(payload))
}

/// Decodes one payload; the images are slices of it and keep it alive.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn decode_shared(payload: &Bytes) -> Result<Record, RecordError> {
    let stamp = stamp(payload)?;
    let fields = Fields::parse(payload, stamp.kind)?;
    let body = if stamp.kind == kind::CHANGE {
        Body::Change(Box::new(change(&fields, payload)?))
    } else {
        Body::Control(control(stamp.kind, &fields)?)
    };
    Ok(Record { lsn: stamp.lsn, hlc: stamp.hlc, wall_ms: stamp.wall_ms, continued: stamp.continued, body })
}

/// Decodes what a [`Head`] holds; copies no image.
///
/// # Errors
/// The first thing that is wrong with what was looked at.
pub fn head(payload: &[u8]) -> Result<Head, RecordError> {
    let stamp = stamp(payload)?;
    let fields = Fields::parse(payload, stamp.kind)?;
    if stamp.kind != kind::CHANGE {
        return Ok(Head { stamp, body: HeadBody::Control(control(stamp.kind, &fields)?) });
    }
    let image_bytes = [tag::BEFORE, tag::AFTER].iter().filter_map(|t| fields.find(*t)).map(|v| v.len() as u64).sum();
    let body = HeadBody::Change {
        ns: fields.namespace(tag::NS)?,
        op: op(fields.fixed(tag::COUNT, COUNT_BYTES)?)?,
        before_sha: fields.digest(tag::BEFORE_SHA)?,
        after_sha: fields.digest(tag::AFTER_SHA)?,
        image_bytes,
    };
    Ok(Head { stamp, body })
}

/// The fixed part alone.
///
/// # Errors
/// Too short, or flags that no version sets.
pub fn stamp(payload: &[u8]) -> Result<Stamp, RecordError> {
    let fixed = payload.get(..STAMP_BYTES).ok_or(RecordError::Short(payload.len()))?;
    let (kind, flags) = match fixed {
        [kind, flags, ..] => (*kind, *flags),
        _ => return Err(RecordError::Short(payload.len())),
    };
    if flags & !CONTINUED != 0 {
        return Err(RecordError::Flags(flags));
    }
    let stamp = Stamp {
        kind,
        continued: flags & CONTINUED != 0,
        lsn: Lsn(u64_at(fixed, 2)),
        hlc: Hlc(u64_at(fixed, 10)),
        wall_ms: u64_at(fixed, 18).cast_signed(),
        synced: Lsn(u64_at(fixed, 26)),
    };
    if stamp.synced >= stamp.lsn {
        return Err(RecordError::Inconsistent("a record cannot be durable before it is written"));
    }
    Ok(stamp)
}

/// One more than the highest tag of this version; a set of tags fits into 64 bits.
const SLOTS: usize = tag::TERM as usize + 1;

/// The known fields of a payload, by tag.
struct Fields<'a> {
    found: [Option<&'a [u8]>; SLOTS],
}

impl<'a> Fields<'a> {
    fn parse(payload: &'a [u8], kind: u8) -> Result<Self, RecordError> {
        let known = known_fields(kind)?;
        let mut found = [None; SLOTS];
        let mut rest = payload.get(STAMP_BYTES..).unwrap_or_default();
        let mut last = 0;
        while let Some(tag) = rest.first().copied() {
            let at = payload.len() - rest.len();
            let len = if rest.len() < FIELD_HEAD_BYTES { return Err(RecordError::Short(at)) } else { u32_at(rest, 1) };
            let end = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(FIELD_HEAD_BYTES);
            let value = rest.get(FIELD_HEAD_BYTES..end).ok_or(RecordError::Short(at))?;
            rest = rest.get(end..).unwrap_or_default();
            if tag <= last {
                return Err(RecordError::Order(tag));
            }
            last = tag;
            if let Some(slot) = found.get_mut(usize::from(tag)).filter(|_| known >> tag & 1 == 1) {
                *slot = Some(value);
            } else if tag < tag::SKIPPABLE {
                return Err(RecordError::Unknown(tag));
            }
        }
        Ok(Self { found })
    }

    fn find(&self, tag: u8) -> Option<&'a [u8]> {
        self.found.get(usize::from(tag)).copied().flatten()
    }

    fn need(&self, tag: u8) -> Result<&'a [u8], RecordError> {
        self.find(tag).ok_or(RecordError::Missing(tag))
    }

    fn fixed(&self, tag: u8, len: usize) -> Result<&'a [u8], RecordError> {
        let value = self.need(tag)?;
        if value.len() == len { Ok(value) } else { Err(RecordError::Field { tag, expected: "of its fixed length" }) }
    }

    fn number(&self, tag: u8) -> Result<u64, RecordError> {
        self.fixed(tag, 8).map(|v| u64_at(v, 0))
    }

    fn text(&self, tag: u8) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.need(tag)?).map_err(|_invalid| RecordError::Field { tag, expected: "UTF-8" })
    }

    /// A text that is left out when it is empty.
    fn optional_text(&self, tag: u8) -> Result<String, RecordError> {
        if self.find(tag).is_some() { self.text(tag).map(str::to_owned) } else { Ok(String::new()) }
    }

    fn namespace(&self, tag: u8) -> Result<Namespace, RecordError> {
        self.text(tag).map(Namespace::from_full)
    }

    fn digest(&self, tag: u8) -> Result<Option<Digest>, RecordError> {
        let Some(value) = self.find(tag) else { return Ok(None) };
        let sha = value.try_into().map_err(|_other_length| RecordError::Field { tag, expected: "of 32 bytes" })?;
        Ok(Some(Digest(sha)))
    }
}

/// The tags that a record of this kind may have, a bit each.
fn known_fields(kind: u8) -> Result<u64, RecordError> {
    const fn set(tags: &[u8]) -> u64 {
        match tags {
            [first, rest @ ..] => 1 << *first | set(rest),
            [] => 0,
        }
    }
    const CHANGE: u64 = (1 << (tag::FOUND + 1)) - 2;
    Ok(match kind {
        kind::CHANGE => CHANGE,
        kind::OPENED => set(&[tag::NS, tag::COMPLETE]),
        kind::CREATE | kind::COLL_MOD => set(&[tag::NS, tag::OPTIONS]),
        kind::DROP | kind::COMPLETED => set(&[tag::NS]),
        kind::DROP_DATABASE => set(&[tag::DB]),
        kind::RENAME => set(&[tag::NS, tag::TO]),
        kind::GAP_OPENED => set(&[tag::NS, tag::GAP, tag::CAUSE, tag::DETAIL]),
        kind::GAP_CLOSED => set(&[tag::GAP]),
        kind::STARTED => set(&[tag::VERSION]),
        kind::RECONCILED => set(&[tag::NS, tag::TALLY]),
        kind::NODE => set(&[tag::PROCESS, tag::TERM]),
        other => return Err(RecordError::Kind(other)),
    })
}

fn op(count: &[u8]) -> Result<Op, RecordError> {
    match count.first() {
        Some(1) => Ok(Op::Insert),
        Some(2) => Ok(Op::Update),
        Some(3) => Ok(Op::Replace),
        Some(4) => Ok(Op::Delete),
        Some(5) => Ok(Op::Observed),
        _ => Err(RecordError::Field { tag: tag::COUNT, expected: "an operation of this version" }),
    }
}

fn change(fields: &Fields<'_>, payload: &Bytes) -> Result<Change, RecordError> {
    let count = fields.fixed(tag::COUNT, COUNT_BYTES)?;
    let before = image(fields, tag::BEFORE, tag::BEFORE_SHA, payload)?;
    let after = image(fields, tag::AFTER, tag::AFTER_SHA, payload)?;
    if after.is_none() && fields.find(tag::AFTER_SHA).is_some() {
        return Err(RecordError::Inconsistent("a hash of an image after that is not there"));
    }
    Ok(Change {
        ns: fields.namespace(tag::NS)?,
        id: id::from_bytes(fields.need(tag::ID)?)
            .ok_or(RecordError::Field { tag: tag::ID, expected: "a BSON value" })?,
        key: EntityKey(Arc::from(fields.need(tag::KEY)?)),
        epoch: Epoch(u32_at(count, 1)),
        seq: Seq(u64_at(count, 5)),
        op: op(count)?,
        before,
        before_sha: fields.digest(tag::BEFORE_SHA)?,
        after,
        operation_time: fields.find(tag::OPERATION_TIME).map(|_| fields.number(tag::OPERATION_TIME)).transpose()?,
        retry: retry(fields)?,
        txn: txn(fields)?,
        found: found(fields)?,
        origin: Arc::new(origin(fields)?),
        comment: fields.optional_text(tag::COMMENT)?,
        traceparent: fields.optional_text(tag::TRACEPARENT)?,
        correlation: u64_at(count, 13),
    })
}

fn image(fields: &Fields<'_>, image: u8, sha: u8, payload: &Bytes) -> Result<Option<Image>, RecordError> {
    let Some(bytes) = fields.find(image) else { return Ok(None) };
    let sha = fields.digest(sha)?.ok_or(RecordError::Missing(sha))?;
    Ok(Some(Image::from_parts(payload.slice_ref(bytes), sha)))
}

fn retry(fields: &Fields<'_>) -> Result<Option<RetryId>, RecordError> {
    if fields.find(tag::RETRY).is_none() {
        return Ok(None);
    }
    let value = fields.fixed(tag::RETRY, RETRY_BYTES)?;
    let lsid = value.first_chunk().copied().ok_or(RecordError::Missing(tag::RETRY))?;
    Ok(Some(RetryId { lsid, txn_number: u64_at(value, 16).cast_signed(), stmt_id: u32_at(value, 24).cast_signed() }))
}

fn txn(fields: &Fields<'_>) -> Result<Option<TxnPart>, RecordError> {
    if fields.find(tag::TXN).is_none() {
        return Ok(None);
    }
    let value = fields.fixed(tag::TXN, TXN_BYTES)?;
    let lsid = value.first_chunk().copied().ok_or(RecordError::Missing(tag::TXN))?;
    let part = TxnPart {
        lsid,
        txn_number: u64_at(value, 16).cast_signed(),
        index: u32_at(value, 24),
        count: u32_at(value, 28),
    };
    if part.index == 0 || part.index > part.count {
        return Err(RecordError::Inconsistent("a place in a transaction that it does not have"));
    }
    Ok(Some(part))
}

fn found(fields: &Fields<'_>) -> Result<Option<Found>, RecordError> {
    const ALL: [Found; 9] = [
        Found::Touch,
        Found::Snapshot,
        Found::Recovery,
        Found::Bypass,
        Found::Ttl,
        Found::Aggregation,
        Found::CatchUp,
        Found::Reconcile,
        Found::StoreLoss,
    ];
    let Some(value) = fields.find(tag::FOUND) else { return Ok(None) };
    let known = ALL.into_iter().find(|found| value == [found_number(*found)]);
    known.map(Some).ok_or(RecordError::Field { tag: tag::FOUND, expected: "a word of this version" })
}

fn origin(fields: &Fields<'_>) -> Result<Origin, RecordError> {
    Ok(Origin {
        connection: fields.find(tag::CONNECTION).map_or(Ok(0), |_| fields.number(tag::CONNECTION))?,
        client: fields.optional_text(tag::CLIENT)?,
        user: fields.optional_text(tag::USER)?,
        mechanism: fields.optional_text(tag::MECHANISM)?,
        app: fields.optional_text(tag::APP)?,
        driver: fields.optional_text(tag::DRIVER)?,
    })
}

fn control(kind: u8, fields: &Fields<'_>) -> Result<Control, RecordError> {
    Ok(match kind {
        kind::OPENED => Control::Opened {
            ns: fields.namespace(tag::NS)?,
            complete: match fields.need(tag::COMPLETE)? {
                [0] => false,
                [1] => true,
                _ => return Err(RecordError::Field { tag: tag::COMPLETE, expected: "0 or 1" }),
            },
        },
        kind::CREATE => {
            Control::Create { ns: fields.namespace(tag::NS)?, options: fields.text(tag::OPTIONS)?.to_owned() }
        }
        kind::COLL_MOD => {
            Control::CollMod { ns: fields.namespace(tag::NS)?, options: fields.text(tag::OPTIONS)?.to_owned() }
        }
        kind::DROP => Control::Drop { ns: fields.namespace(tag::NS)? },
        kind::DROP_DATABASE => Control::DropDatabase { db: fields.text(tag::DB)?.to_owned() },
        kind::RENAME => Control::Rename { from: fields.namespace(tag::NS)?, to: fields.namespace(tag::TO)? },
        kind::GAP_OPENED => Control::GapOpened {
            id: fields.number(tag::GAP)?,
            ns: fields.namespace(tag::NS)?,
            cause: fields.text(tag::CAUSE)?.to_owned(),
            detail: fields.text(tag::DETAIL)?.to_owned(),
        },
        kind::GAP_CLOSED => Control::GapClosed { id: fields.number(tag::GAP)? },
        kind::COMPLETED => Control::Completed { ns: fields.namespace(tag::NS)? },
        kind::RECONCILED => {
            let tally = fields.fixed(tag::TALLY, TALLY_BYTES)?;
            Control::Reconciled {
                ns: fields.namespace(tag::NS)?,
                whole: tally.first() == Some(&1),
                entities: u64_at(tally, 1),
                differing: u64_at(tally, 9),
                repaired: u64_at(tally, 17),
            }
        }
        kind::NODE => {
            let value = fields.fixed(tag::TERM, TERM_BYTES)?;
            Control::Node {
                process: fields.text(tag::PROCESS)?.to_owned(),
                term: u64_at(value, 0),
                rbid: u64_at(value, 8),
                epoch: Epoch(u32_at(value, 16)),
                unproven: Lsn(u64_at(value, 20)),
            }
        }
        kind::STARTED => Control::Started { version: fields.text(tag::VERSION)?.to_owned() },
        other => return Err(RecordError::Kind(other)),
    })
}
