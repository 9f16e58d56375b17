//! The offline audit of an export folder, or of a Delta table of ours (and, in [`live`], who calls `verify` while the sidecar runs): does every window hold what its manifest says, do they follow each other, and
//! does the state that they tell add up?
//!
//! Promises: it needs nothing but the folder; it reads the lines with its own parser (`serde_json`, the `bson` crate's Extended JSON;
//! rows of Parquet with the `parquet` crate),
//! shares no code with the exporter, and names the first thing that is wrong by window, file and line. Its memory is one
//! hash, one counter and the key for each entity.
//!
//! Does not: know whether windows are missing *at the end*. [`Verdict::last_manifest_sha256`] vouches for all that was
//! checked; compare it with what the sidecar's checkpoint, or a note of yours, says.
//!
//! # The rules
//! 1. Windows 1, 2, 3 … (or from the one on that `_latest.json` names as the first); each manifest has the SHA-256 of the one before; it is in the form in which the exporter writes it.
//! 2. Each file has the bytes, lines and SHA-256 that its manifest says; no other file lies beside it.
//! 3. lsn 1, 2, 3 … over all windows; one log; the hybrid clock never goes back; no batch goes over a window's end.
//! 4. For each entity: seq is one more than before, or 1 in a higher epoch; `before` is the image that the fold holds;
//!    something changed (but for an observed record: another writer may have hidden the change); the operation fits what it did.
//! 5. The hash of each image is that of its BSON, made from the Extended JSON (or from `*_bson` where that is there); its `_id`
//!    is the record's; each change hash is right.
//! 6. Latest files hold, of this history, each drop and rename and the last change of each entity, record for record, and no other.
//! 7. Counts, ranges, clocks, alive, fingerprints, completeness and gaps of the manifest are what the lines give.
//! 8. Of a table: each window is committed once, in order; its commit says what manifest and files are; no rows were taken out ([`delta`]).

mod amend;
mod batch;
mod begin;
mod delta;
mod envelope;
mod files;
mod fold;
mod line;
pub mod live;
mod manifest;
mod merge;
mod newest;
pub mod node;
#[cfg(feature = "parquet")]
mod rows;
mod verdict;
mod window;

pub use verdict::{Finding, GapTold, Kind, NamespaceTold, Verdict};

use crate::disk::Disk;
use batch::Batch;
use fold::Fold;
use std::io;
use std::path::Path;
use window::Audit;

/// How often an audit begins again because retention removed a window under it.
const TRIES: usize = 16;

/// Audits the export folder (the table) `dir`; `progress` is called after each window with what holds so far. When retention removes windows
/// meanwhile, it begins again with those that are left.
///
/// # Errors
/// `NotFound` when there is no export at all, or what the system said while reading. What is wrong with the export is no
/// error but a [`Finding`] in the verdict.
pub fn verify(disk: &dyn Disk, dir: &Path, progress: &mut dyn FnMut(&Verdict)) -> io::Result<Verdict> {
    for _ in 1..TRIES {
        let first = begin::told(disk, dir)?;
        let verdict = once(disk, dir, progress);
        if verdict.as_ref().is_ok_and(Verdict::holds) || begin::told(disk, dir)? == first {
            return verdict;
        }
    }
    once(disk, dir, progress)
}

fn once(disk: &dyn Disk, dir: &Path, progress: &mut dyn FnMut(&Verdict)) -> io::Result<Verdict> {
    let table = match delta::open(disk, dir) {
        Ok(table) => table,
        Err(Stop::Io(error)) => return Err(error),
        Err(Stop::Wrong(finding)) => return Ok(Verdict { finding: Some(*finding), ..Verdict::default() }),
    };
    let mut audit = Audit {
        disk: table.as_ref().map_or(disk, |table| table),
        table: table.as_ref(),
        dir,
        fold: Fold::default(),
        batch: Batch::default(),
        verdict: Verdict::default(),
        previous: None,
        clock: 0,
    };
    let found = audit.run(progress);
    let mut verdict = audit.verdict;
    match found {
        Ok(()) => {}
        Err(Stop::Wrong(finding)) => verdict.finding = Some(*finding),
        Err(Stop::Io(error)) => return Err(error),
    }
    if let (Some(finding), Some(table)) = (&mut verdict.finding, &table) {
        let shown = finding.file.as_deref().and_then(|file| table.shown(finding.window, file));
        finding.file = shown.or(finding.file.take());
    }
    verdict.namespaces = audit.fold.told();
    verdict.gaps = audit.fold.gaps_told();
    Ok(verdict)
}

/// Why the audit does not go on.
enum Stop {
    /// Something is wrong.
    Wrong(Box<Finding>),
    /// It cannot be read.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What is wrong, before it is known where.
#[derive(Debug)]
struct Wrong {
    kind: Kind,
    what: String,
}

fn wrong<T>(kind: Kind, what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { kind, what: what.into() })
}

fn expect(holds: bool, kind: Kind, what: impl FnOnce() -> String) -> Result<(), Wrong> {
    if holds { Ok(()) } else { wrong(kind, what()) }
}
