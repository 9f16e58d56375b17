//! One closed window and its bytes in the ledger.

use crate::format::jsonl::Bson;
use crate::types::{Gap, Hlc, LogState, Lsn, Namespace, NamespaceState, WindowId};

/// Why a window was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It reached its size.
    Size,
    /// It reached its number of records.
    Count,
    /// Its oldest record reached its age.
    Age,
    /// Nothing came for a while.
    Idle,
    /// Somebody asked for it.
    Cut,
    /// A document came to be as a marker says.
    Marker,
    /// The schedule's time came.
    Schedule,
}

impl Cause {
    /// The word in manifests and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Count => "count",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::Cut => "cut",
            Self::Marker => "marker",
            Self::Schedule => "schedule",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Size => 1,
            Self::Count => 2,
            Self::Age => 3,
            Self::Idle => 4,
            Self::Cut => 5,
            Self::Marker => 6,
            Self::Schedule => 7,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Size, Self::Count, Self::Age, Self::Idle, Self::Cut, Self::Marker, Self::Schedule]
            .into_iter()
            .find(|c| c.code() == code)
    }
}

/// The clocks of a window's first and last record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Hybrid clock of the first.
    pub first_hlc: Hlc,
    /// Hybrid clock of the last.
    pub last_hlc: Hlc,
    /// Wall time of the first, ms since 1970.
    pub first_wall_ms: i64,
    /// Wall time of the last, ms since 1970.
    pub last_wall_ms: i64,
}

/// A closed window: all that its export depends on, beside the log's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its number.
    pub id: WindowId,
    /// Why it was closed.
    pub cause: Cause,
    /// What the one who asked for it called it.
    pub label: Option<String>,
    /// How its lines carry images; fixed here, so that a changed setting does not change an old window.
    pub bson: Bson,
    /// Its first record.
    pub first: Lsn,
    /// Its last record; the one before `first` if it holds none.
    pub last: Lsn,
    /// Bytes of its records in the log.
    pub log_bytes: u64,
    /// When it was closed, ms since 1970. For people; not exported.
    pub closed_ms: i64,
    /// `None`: it holds no record.
    pub clocks: Option<Clocks>,
    /// Namespaces whose state differs from that at the end of the window before. A namespace never leaves the state.
    pub changed: Vec<(Namespace, NamespaceState)>,
    /// All gaps open at its end.
    pub gaps: Vec<Gap>,
}

impl Window {
    /// Records in it.
    pub fn records(&self) -> u64 {
        (self.last.0 + 1).saturating_sub(self.first.0)
    }

    /// Takes the state at the end of the window before to the end of this one.
    pub fn fold(&self, state: &mut LogState) {
        for (ns, namespace) in &self.changed {
            state.namespaces.insert(ns.clone(), namespace.clone());
        }
        state.gaps = self.gaps.iter().map(|gap| (gap.id, gap.clone())).collect();
    }

    /// What changed between two states, as [`fold`](Self::fold) wants it.
    pub fn difference(before: &LogState, after: &LogState) -> Vec<(Namespace, NamespaceState)> {
        let differs = |(ns, state): &(&Namespace, &NamespaceState)| before.namespaces.get(*ns) != Some(*state);
        after.namespaces.iter().filter(differs).map(|(ns, state)| (ns.clone(), state.clone())).collect()
    }

    /// The body of its frame; the layout stands in the ledger's module doc.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.changed.len() * 80);
        out.push(self.cause.code());
        out.push(
            u8::from(self.bson == Bson::Always)
                | u8::from(self.label.is_some()) << 1
                | u8::from(self.clocks.is_some()) << 2,
        );
        for number in [self.id.0, self.first.0, self.last.0, self.log_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.closed_ms.to_le_bytes());
        if let Some(clocks) = &self.clocks {
            out.extend_from_slice(&clocks.first_hlc.0.to_le_bytes());
            out.extend_from_slice(&clocks.last_hlc.0.to_le_bytes());
            out.extend_from_slice(&clocks.first_wall_ms.to_le_bytes());
            out.extend_from_slice(&clocks.last_wall_ms.to_le_bytes());
        }
        if let Some(label) = &self.label {
            put_text(&mut out, label);
        }
        put_count(&mut out, self.changed.len());
        for (ns, state) in &self.changed {
            put_text(&mut out, ns.as_str());
            out.extend_from_slice(&state.alive.to_le_bytes());
            out.extend_from_slice(&state.sum);
            out.push(u8::from(state.complete));
        }
        put_count(&mut out, self.gaps.len());
        for gap in &self.gaps {
            out.extend_from_slice(&gap.id.to_le_bytes());
            out.extend_from_slice(&gap.since.0.to_le_bytes());
            out.extend_from_slice(&gap.since_ms.to_le_bytes());
            for text in [gap.ns.as_str(), &gap.cause, &gap.detail] {
                put_text(&mut out, text);
            }
        }
        out
    }

    /// Reads a body back. `None`: it is not one.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut input = Input(body);
        let cause = Cause::from_code(input.byte()?)?;
        let flags = input.byte()?;
        let (id, first, last, log_bytes) = (input.u64()?, input.u64()?, input.u64()?, input.u64()?);
        let closed_ms = input.i64()?;
        let clocks = if flags & 4 == 0 { None } else { Some(input.clocks()?) };
        let label = if flags & 2 == 0 { None } else { Some(input.text()?) };
        let mut changed = Vec::new();
        for _ in 0..input.u32()? {
            let ns = Namespace::from_full(&input.text()?);
            changed
                .push((ns, NamespaceState { alive: input.u64()?, sum: input.array()?, complete: input.byte()? == 1 }));
        }
        let mut gaps = Vec::new();
        for _ in 0..input.u32()? {
            gaps.push(input.gap()?);
        }
        let bson = if flags & 1 == 0 { Bson::WhereNeeded } else { Bson::Always };
        let (id, first, last) = (WindowId(id), Lsn(first), Lsn(last));
        let window = Self { id, cause, label, bson, first, last, log_bytes, closed_ms, clocks, changed, gaps };
        (input.0.is_empty() && flags < 8).then_some(window)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// What is left of a body.
struct Input<'b>(&'b [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(taken.to_vec()).ok()
    }

    fn clocks(&mut self) -> Option<Clocks> {
        let (first_hlc, last_hlc) = (Hlc(self.u64()?), Hlc(self.u64()?));
        Some(Clocks { first_hlc, last_hlc, first_wall_ms: self.i64()?, last_wall_ms: self.i64()? })
    }

    fn gap(&mut self) -> Option<Gap> {
        let (id, since, since_ms) = (self.u64()?, Lsn(self.u64()?), self.i64()?);
        let ns = Namespace::from_full(&self.text()?);
        Some(Gap { id, ns, cause: self.text()?, detail: self.text()?, since, since_ms })
    }
}
