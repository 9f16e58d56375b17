//! The bytes of one window on their way into a sink: split into parts, encoded, hashed, handed over in pieces.

use super::error::ExportError;
use super::pace::Pace;
use crate::format::jsonl::control_words;
use crate::format::{Encoder, Form, Taken, part_of};
use crate::sink::{Chunk, Opening, Row, SealedFile, Sink};
use crate::types::{Body, Digest, LogId, Namespace, Record};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes are handed to the sink in pieces of about this size, of all parts together.
const PIECE_BYTES: usize = 1 << 20;
/// The smallest piece of a part, however many there are.
const SMALL_BYTES: usize = 1 << 14;

/// The wish to stop.
#[derive(Clone, Debug)]
pub(super) struct Stop(pub(super) Arc<AtomicBool>);

impl Stop {
    pub(super) fn wished(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A file being written.
#[derive(Debug)]
struct Part {
    name: String,
    encoder: Box<dyn Encoder>,
    piece: Vec<u8>,
    rows: Vec<Row>,
    hash: Sha256,
    bytes: u64,
    records: u64,
}

/// A window being written.
#[derive(Debug)]
pub(super) struct Writing<'s> {
    sink: &'s mut dyn Sink,
    parts: Vec<Part>,
    piece_bytes: usize,
    by_record: bool,
    pace: &'s Pace,
}

impl<'s> Writing<'s> {
    pub(super) fn begin(
        sink: &'s mut dyn Sink,
        pace: &'s Pace,
        opening: &Opening,
        form: Form,
        log: LogId,
    ) -> Result<Self, ExportError> {
        sink.begin(opening)?;
        let part = |name: &String| {
            let (name, encoder) = (name.clone(), form.encoder(log)?);
            let (piece, rows, hash) = (Vec::new(), Vec::new(), Sha256::new());
            Ok(Part { name, encoder, piece, rows, hash, bytes: 0, records: 0 })
        };
        let parts: Vec<_> = opening.files.iter().map(part).collect::<Result<_, ExportError>>()?;
        let piece_bytes = (PIECE_BYTES / parts.len().max(1)).max(SMALL_BYTES);
        let by_record = sink.by_record();
        Ok(Self { sink, parts, piece_bytes, by_record, pace })
    }

    /// Takes the next record in; `false`: told to stop.
    pub(super) fn take(&mut self, record: &Record, stop: &Stop) -> Result<bool, ExportError> {
        let number = part_of(record, u32::try_from(self.parts.len()).unwrap_or(u32::MAX)) as usize;
        let Some(part) = self.parts.get_mut(number) else { return Ok(true) };
        let taken = part.encoder.append(&mut part.piece, record)?;
        part.records += u64::from(taken == Taken::Row);
        if self.by_record && taken == Taken::Row {
            part.rows.push(row(record, part.piece.len()));
        }
        if part.piece.len() >= self.piece_bytes {
            let bytes = hand_over(&mut *self.sink, number, part)?;
            self.pace.took(bytes);
            return Ok(self.pace.wait(stop));
        }
        Ok(true)
    }

    /// Ends all files.
    pub(super) fn end(mut self) -> Result<Vec<SealedFile>, ExportError> {
        for (number, part) in self.parts.iter_mut().enumerate() {
            part.encoder.end(&mut part.piece)?;
            let bytes = hand_over(&mut *self.sink, number, part)?;
            self.pace.took(bytes);
        }
        self.sink.seal()?;
        let sealed = |part: Part| {
            let sha256 = Digest(part.hash.finalize().into());
            SealedFile { name: part.name, bytes: part.bytes, records: part.records, sha256 }
        };
        Ok(self.parts.into_iter().map(sealed).collect())
    }
}

/// Gives the sink what there is of a part; tells how many bytes.
fn hand_over(sink: &mut dyn Sink, number: usize, part: &mut Part) -> Result<u64, ExportError> {
    let bytes = part.piece.len() as u64;
    if !part.piece.is_empty() {
        sink.write(number, Chunk { bytes: &part.piece, rows: &part.rows })?;
        part.hash.update(&part.piece);
        part.bytes += bytes;
    }
    part.piece.clear();
    part.rows.clear();
    Ok(bytes)
}

fn row(record: &Record, end: usize) -> Row {
    let (ns, key) = match &record.body {
        Body::Change(change) => (Some(change.ns.clone()), Some(change.key.clone())),
        Body::Control(fact) => {
            let about = control_words(fact).1;
            (about.contains('.').then(|| Namespace::from_full(about)), None)
        }
    };
    Row { end, lsn: record.lsn, wall_ms: record.wall_ms, ns, key }
}
