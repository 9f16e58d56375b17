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
    /// The files before the parts: all of them written.
    done: Vec<SealedFile>,
    /// Names of the files after them.
    later: Vec<String>,
    form: Form,
    log: LogId,
}

impl<'s> Writing<'s> {
    /// Begins the opening's first files, as many as the form has parts.
    pub(super) fn begin(
        sink: &'s mut dyn Sink,
        pace: &'s Pace,
        opening: &Opening,
        form: Form,
        log: LogId,
    ) -> Result<Self, ExportError> {
        sink.begin(opening)?;
        let piece_bytes = (PIECE_BYTES / form.parts.max(1) as usize).max(SMALL_BYTES);
        let by_record = sink.by_record();
        let (parts, done, later) = (Vec::new(), Vec::new(), opening.files.clone());
        let mut this = Self { sink, parts, piece_bytes, by_record, pace, done, later, form, log };
        this.turn()?;
        Ok(this)
    }

    /// Ends the files being written and begins the next ones: what is taken from now on goes there.
    pub(super) fn turn(&mut self) -> Result<(), ExportError> {
        let from = self.done.len();
        for (number, mut part) in (from..).zip(self.parts.drain(..)) {
            part.encoder.end(&mut part.piece)?;
            let bytes = hand_over(&mut *self.sink, number, &mut part)?;
            self.pace.took(bytes);
            let sha256 = Digest(part.hash.finalize().into());
            self.done.push(SealedFile { name: part.name, bytes: part.bytes, records: part.records, sha256 });
        }
        let next = self.later.len().min(self.form.parts as usize);
        for name in self.later.drain(..next) {
            let encoder = self.form.encoder(self.log)?;
            let (piece, rows, hash) = (Vec::new(), Vec::new(), Sha256::new());
            self.parts.push(Part { name, encoder, piece, rows, hash, bytes: 0, records: 0 });
        }
        Ok(())
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
            let bytes = hand_over(&mut *self.sink, self.done.len() + number, part)?;
            self.pace.took(bytes);
            return Ok(self.pace.wait(stop));
        }
        Ok(true)
    }

    /// Ends all files, and tells them in their order.
    pub(super) fn end(mut self) -> Result<Vec<SealedFile>, ExportError> {
        self.turn()?;
        self.sink.seal()?;
        Ok(self.done)
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
