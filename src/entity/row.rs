//! The index's rows on disk: fixed layouts, little end first, except keys, whose bytes must sort.
//!
//! ```text
//! keyspace `entities`   key    namespace length (2 bytes, big end first), namespace, entity key
//!                       value  epoch 4 · seq 8 · lsn 8 · offset 8 · at 8 · alive 1 · sha 32
//! keyspace `meta`       `log`            log id 16
//!                       `applied`        lsn 8
//!                       `n` namespace    alive 8 · sum 32 · complete 1 · dropped 8
//!                       `node`           lsn 8 · term 8 · rbid 8 · then process: length 4 and bytes (a namespace has a dot, so none is called so)
//!                       `g` id 8         since 8 · since_ms 8 · then ns, cause, detail: each length 4 and bytes
//! ```
//! The folder's name carries the version of this layout; another layout is another folder, built again from the log.

use super::index::{Entry, NodeSeen};
use crate::types::{Digest, EntityKey, Epoch, Gap, Lsn, Namespace, NamespaceState, Seq};

/// Longest namespace that a row can hold; far above what stores accept (255 bytes).
pub(super) const MAX_NAMESPACE: usize = 4096;

/// What is stored of one entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) entry: Entry,
    /// The record that last touched the entity under this name. It is `entry.lsn` but after a rename, where the image lies in an
    /// older record than the one that brought it here. The entity is dead if its namespace was dropped after it.
    pub(super) at: Lsn,
}

impl Row {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(69);
        out.extend(self.entry.epoch.0.to_le_bytes());
        out.extend(self.entry.seq.0.to_le_bytes());
        out.extend(self.entry.lsn.0.to_le_bytes());
        out.extend(self.entry.offset.to_le_bytes());
        out.extend(self.at.0.to_le_bytes());
        out.push(u8::from(self.entry.alive));
        out.extend(self.entry.sha.0);
        out
    }

    pub(super) fn decode(mut from: &[u8]) -> Option<Self> {
        let from = &mut from;
        let (epoch, seq) = (Epoch(u32::from_le_bytes(take(from)?)), Seq(take_u64(from)?));
        let (lsn, offset, at) = (Lsn(take_u64(from)?), take_u64(from)?, Lsn(take_u64(from)?));
        let alive = take::<1>(from)? == [1];
        let sha = Digest(take(from)?);
        from.is_empty().then_some(Self { entry: Entry { epoch, seq, lsn, offset, sha, alive }, at })
    }
}

/// What is stored of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamespaceRow {
    pub(super) state: NamespaceState,
    /// The last record that emptied it; zero: none did.
    pub(super) dropped: Lsn,
}

impl NamespaceRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(49);
        out.extend(self.state.alive.to_le_bytes());
        out.extend(self.state.sum);
        out.push(u8::from(self.state.complete));
        out.extend(self.dropped.0.to_le_bytes());
        out
    }

    pub(super) fn decode(mut from: &[u8]) -> Option<Self> {
        let from = &mut from;
        let (alive, sum, complete) = (take_u64(from)?, take(from)?, take::<1>(from)? == [1]);
        let dropped = Lsn(take_u64(from)?);
        from.is_empty().then_some(Self { state: NamespaceState { alive, sum, complete }, dropped })
    }
}

pub(super) fn encode_gap(gap: &Gap) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(gap.since.0.to_le_bytes());
    out.extend(gap.since_ms.to_le_bytes());
    for text in [gap.ns.as_str(), &gap.cause, &gap.detail] {
        out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(text.as_bytes());
    }
    out
}

pub(super) fn decode_gap(id: u64, mut from: &[u8]) -> Option<Gap> {
    let from = &mut from;
    let (since, since_ms) = (Lsn(take_u64(from)?), i64::from_le_bytes(take(from)?));
    let (ns, cause, detail) = (take_text(from)?, take_text(from)?, take_text(from)?);
    let ns = Namespace::from_full(&ns);
    from.is_empty().then_some(Gap { id, ns, cause, detail, since, since_ms })
}

pub(super) fn encode_node(node: &NodeSeen) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [node.lsn.0, node.term, node.rbid] {
        out.extend(number.to_le_bytes());
    }
    out.extend(u32::try_from(node.process.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(node.process.as_bytes());
    out
}

pub(super) fn decode_node(mut from: &[u8]) -> Option<NodeSeen> {
    let from = &mut from;
    let (lsn, term, rbid) = (Lsn(take_u64(from)?), take_u64(from)?, take_u64(from)?);
    let process = take_text(from)?;
    from.is_empty().then_some(NodeSeen { process, term, rbid, lsn })
}

/// The beginning of all entity rows of a namespace; `None`: its name is too long.
#[expect(clippy::big_endian_bytes, reason = "keys are bytes that sort")]
pub(super) fn prefix(ns: &Namespace, room: usize) -> Option<Vec<u8>> {
    let name = ns.as_str().as_bytes();
    if name.len() > MAX_NAMESPACE {
        return None;
    }
    let mut out = Vec::with_capacity(2 + name.len() + room);
    out.extend(u16::try_from(name.len()).ok()?.to_be_bytes());
    out.extend(name);
    Some(out)
}

/// The key of an entity's row; `None`: the namespace's name is too long.
pub(super) fn key(ns: &Namespace, key: &EntityKey) -> Option<Vec<u8>> {
    let mut out = prefix(ns, key.as_bytes().len())?;
    out.extend(key.as_bytes());
    Some(out)
}

/// Takes a row's key apart.
#[expect(clippy::big_endian_bytes, reason = "keys are bytes that sort")]
pub(super) fn split_key(mut from: &[u8]) -> Option<(Namespace, EntityKey)> {
    let len = usize::from(u16::from_be_bytes(take(&mut from)?));
    let (ns, key) = from.split_at_checked(len)?;
    Some((Namespace::from_full(str::from_utf8(ns).ok()?), EntityKey(key.into())))
}

pub(super) fn namespace_key(ns: &Namespace) -> Vec<u8> {
    [b"n", ns.as_str().as_bytes()].concat()
}

#[expect(clippy::big_endian_bytes, reason = "keys are bytes that sort")]
pub(super) fn gap_key(id: u64) -> Vec<u8> {
    [b"g".as_slice(), &id.to_be_bytes()].concat()
}

#[expect(clippy::big_endian_bytes, reason = "keys are bytes that sort")]
pub(super) fn gap_id(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(b"g")?.try_into().ok()?))
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*head)
}

fn take_u64(from: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(from)?))
}

fn take_text(from: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(u32::from_le_bytes(take(from)?)).ok()?;
    let (text, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(str::from_utf8(text).ok()?.to_owned())
}
