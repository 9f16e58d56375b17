//! Record → bytes: one straight copy into a buffer that already has the room.

use super::STAMP_BYTES;
use super::fields::{
    CONTINUED, COUNT_BYTES, FIELD_HEAD_BYTES, RETRY_BYTES, TALLY_BYTES, TERM_BYTES, TXN_BYTES, kind, tag,
};
use super::id::IdBytes;
use crate::types::{Body, Change, Control, Digest, Found, Image, Lsn, Op, Record};

/// The size of a record's payload, and what was worked out on the way to it.
#[derive(Clone, Debug)]
pub struct Sized {
    /// Bytes of the payload.
    pub bytes: usize,
    id: IdBytes,
}

impl Sized {
    /// It is a change of an entity.
    pub fn is_change(&self) -> bool {
        !matches!(self.id, IdBytes::None)
    }
}

/// How many bytes [`encode`] will write for `body`.
pub fn size(body: &Body) -> Sized {
    let id = match body {
        Body::Change(change) => IdBytes::of(&change.id),
        Body::Control(_) => IdBytes::None,
    };
    let mut bytes = STAMP_BYTES;
    fields(body, id.as_bytes(), &mut |_, parts| {
        bytes += FIELD_HEAD_BYTES + parts.iter().map(|p| p.len()).sum::<usize>();
    });
    Sized { bytes, id }
}

/// Writes the payload of `record` at the end of `out`. `sized` is [`size`] of the same body; `synced` as in
/// [`Stamp`](super::Stamp).
pub fn encode(out: &mut Vec<u8>, record: &Record, synced: Lsn, sized: &Sized) {
    out.push(kind_of(&record.body));
    out.push(if record.continued { CONTINUED } else { 0 });
    out.extend_from_slice(&record.lsn.0.to_le_bytes());
    out.extend_from_slice(&record.hlc.0.to_le_bytes());
    out.extend_from_slice(&record.wall_ms.to_le_bytes());
    out.extend_from_slice(&synced.0.to_le_bytes());
    fields(&record.body, sized.id.as_bytes(), &mut |tag, parts| {
        let len = parts.iter().map(|p| p.len()).sum::<usize>();
        out.push(tag);
        out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        for part in parts {
            out.extend_from_slice(part);
        }
    });
}

fn kind_of(body: &Body) -> u8 {
    match body {
        Body::Change(_) => kind::CHANGE,
        Body::Control(control) => match control {
            Control::Opened { .. } => kind::OPENED,
            Control::Create { .. } => kind::CREATE,
            Control::Drop { .. } => kind::DROP,
            Control::DropDatabase { .. } => kind::DROP_DATABASE,
            Control::Rename { .. } => kind::RENAME,
            Control::CollMod { .. } => kind::COLL_MOD,
            Control::GapOpened { .. } => kind::GAP_OPENED,
            Control::GapClosed { .. } => kind::GAP_CLOSED,
            Control::Started { .. } => kind::STARTED,
            Control::Completed { .. } => kind::COMPLETED,
            Control::Reconciled { .. } => kind::RECONCILED,
            Control::Node { .. } => kind::NODE,
        },
    }
}

pub(super) fn op_number(op: Op) -> u8 {
    match op {
        Op::Insert => 1,
        Op::Update => 2,
        Op::Replace => 3,
        Op::Delete => 4,
        Op::Observed => 5,
    }
}

pub(super) fn found_number(found: Found) -> u8 {
    match found {
        Found::Touch => 1,
        Found::Snapshot => 2,
        Found::Recovery => 3,
        Found::Bypass => 4,
        Found::Ttl => 5,
        Found::Aggregation => 6,
        Found::CatchUp => 7,
        Found::Reconcile => 8,
        Found::StoreLoss => 9,
    }
}

/// Takes a field: its tag, and the parts of its value.
type Put<'p> = dyn FnMut(u8, &[&[u8]]) + 'p;

/// Calls `put` for each field of `body`, in order of tags.
fn fields(body: &Body, id: &[u8], put: &mut Put<'_>) {
    match body {
        Body::Change(change) => change_fields(change, id, put),
        Body::Control(control) => control_fields(control, put),
    }
}

fn change_fields(change: &Change, id: &[u8], put: &mut Put<'_>) {
    put(tag::NS, &[change.ns.as_str().as_bytes()]);
    put(tag::ID, &[id]);
    put(tag::KEY, &[change.key.as_bytes()]);
    let (epoch, seq) = (change.epoch.0.to_le_bytes(), change.seq.0.to_le_bytes());
    let count: [&[u8]; 4] = [&[op_number(change.op)], &epoch, &seq, &change.correlation.to_le_bytes()];
    debug_assert_eq!(count.iter().map(|p| p.len()).sum::<usize>(), COUNT_BYTES);
    put(tag::COUNT, &count);
    if let Some(time) = change.operation_time {
        put(tag::OPERATION_TIME, &[&time.to_le_bytes()]);
    }
    if let Some(retry) = &change.retry {
        let value: [&[u8]; 3] = [&retry.lsid, &retry.txn_number.to_le_bytes(), &retry.stmt_id.to_le_bytes()];
        debug_assert_eq!(value.iter().map(|p| p.len()).sum::<usize>(), RETRY_BYTES);
        put(tag::RETRY, &value);
    }
    let origin = &*change.origin;
    if origin.connection != 0 {
        put(tag::CONNECTION, &[&origin.connection.to_le_bytes()]);
    }
    let texts = [
        (tag::CLIENT, &origin.client),
        (tag::USER, &origin.user),
        (tag::MECHANISM, &origin.mechanism),
        (tag::APP, &origin.app),
        (tag::DRIVER, &origin.driver),
        (tag::COMMENT, &change.comment),
        (tag::TRACEPARENT, &change.traceparent),
    ];
    for (tag, text) in texts {
        if !text.is_empty() {
            put(tag, &[text.as_bytes()]);
        }
    }
    image_fields(change, put);
    if let Some(txn) = &change.txn {
        let value: [&[u8]; 4] =
            [&txn.lsid, &txn.txn_number.to_le_bytes(), &txn.index.to_le_bytes(), &txn.count.to_le_bytes()];
        debug_assert_eq!(value.iter().map(|p| p.len()).sum::<usize>(), TXN_BYTES);
        put(tag::TXN, &value);
    }
    if let Some(found) = change.found {
        put(tag::FOUND, &[&[found_number(found)]]);
    }
}

/// The hashes stand before the images, so that who needs only them need not walk past megabytes.
fn image_fields(change: &Change, put: &mut Put<'_>) {
    let before_sha: Option<Digest> = change.before.as_ref().map(Image::sha).or(change.before_sha);
    if let Some(sha) = before_sha {
        put(tag::BEFORE_SHA, &[&sha.0]);
    }
    if let Some(after) = &change.after {
        put(tag::AFTER_SHA, &[&after.sha().0]);
    }
    if let Some(before) = &change.before {
        put(tag::BEFORE, &[before.bytes()]);
    }
    if let Some(after) = &change.after {
        put(tag::AFTER, &[after.bytes()]);
    }
}

fn control_fields(control: &Control, put: &mut Put<'_>) {
    match control {
        Control::Opened { ns, complete } => {
            put(tag::NS, &[ns.as_str().as_bytes()]);
            put(tag::COMPLETE, &[&[u8::from(*complete)]]);
        }
        Control::Create { ns, options } | Control::CollMod { ns, options } => {
            put(tag::NS, &[ns.as_str().as_bytes()]);
            put(tag::OPTIONS, &[options.as_bytes()]);
        }
        Control::Drop { ns } | Control::Completed { ns } => put(tag::NS, &[ns.as_str().as_bytes()]),
        Control::DropDatabase { db } => put(tag::DB, &[db.as_bytes()]),
        Control::Rename { from, to } => {
            put(tag::NS, &[from.as_str().as_bytes()]);
            put(tag::TO, &[to.as_str().as_bytes()]);
        }
        Control::GapOpened { id, ns, cause, detail } => {
            put(tag::NS, &[ns.as_str().as_bytes()]);
            put(tag::GAP, &[&id.to_le_bytes()]);
            put(tag::CAUSE, &[cause.as_bytes()]);
            put(tag::DETAIL, &[detail.as_bytes()]);
        }
        Control::GapClosed { id } => put(tag::GAP, &[&id.to_le_bytes()]),
        Control::Reconciled { ns, whole, entities, differing, repaired } => {
            put(tag::NS, &[ns.as_str().as_bytes()]);
            let tally: [&[u8]; 4] =
                [&[u8::from(*whole)], &entities.to_le_bytes(), &differing.to_le_bytes(), &repaired.to_le_bytes()];
            debug_assert_eq!(tally.iter().map(|p| p.len()).sum::<usize>(), TALLY_BYTES);
            put(tag::TALLY, &tally);
        }
        Control::Node { process, term, rbid, epoch, unproven } => {
            put(tag::PROCESS, &[process.as_bytes()]);
            let value: [&[u8]; 4] =
                [&term.to_le_bytes(), &rbid.to_le_bytes(), &epoch.0.to_le_bytes(), &unproven.0.to_le_bytes()];
            debug_assert_eq!(value.iter().map(|p| p.len()).sum::<usize>(), TERM_BYTES);
            put(tag::TERM, &value);
        }
        Control::Started { version } => put(tag::VERSION, &[version.as_bytes()]),
    }
}
