//! A log looked at from outside, for `tidelog log` and the like.

use super::error::LogError;
use super::identity;
use super::reader::Reader;
use super::recover::{self, Found, Survey, Truncation};
use super::shared::{Map, Shared};
use crate::disk::Disk;
use crate::types::{Epoch, LogId, Lsn};
use std::path::Path;
use std::sync::Arc;

/// How often a folder that changes under our eyes (a roll, a trim) is looked at again.
const LOOKS: usize = 5;

/// A log as it was at one moment.
#[derive(Debug)]
pub struct Inspection {
    /// Identity of the log.
    pub log_id: LogId,
    /// Generation of the log.
    pub epoch: Epoch,
    /// First record that is still there (or will be the first).
    pub first: Lsn,
    /// The last whole record. A live writer may not have made it durable yet.
    pub tail: Lsn,
    /// What follows it and is no whole record or batch: a torn tail, or what a live writer is just writing.
    pub torn: Option<Truncation>,
    /// Each segment's first record and its bytes.
    pub segments: Vec<(Lsn, u64)>,
    shared: Arc<Shared>,
}

impl Inspection {
    /// Reads its records in order, beginning with `from` or with the first one that is still there; ends at `tail`.
    pub fn reader(&self, from: Lsn) -> Reader {
        Reader::new(Arc::clone(&self.shared), from.max(self.first))
    }

    /// Reads every record of the log: who wants proof that no byte of it went bad.
    ///
    /// # Errors
    /// The first damage.
    pub fn check(&self) -> Result<(), LogError> {
        let mut reader = self.reader(Lsn::ZERO);
        while reader.next()?.is_some() {}
        Ok(())
    }
}

pub(super) fn inspect(disk: Arc<dyn Disk>, dir: &Path) -> Result<Inspection, LogError> {
    let mut survey = look(&*disk, dir);
    for _ in 1..LOOKS {
        if survey.is_ok() {
            break;
        }
        survey = look(&*disk, dir);
    }
    let survey = survey?;
    let segments = survey.segments.iter().map(|(first, bytes)| (*first, *bytes)).collect();
    let map = Map { segments: survey.segments, tail: survey.tail };
    Ok(Inspection {
        log_id: survey.identity.log_id,
        epoch: survey.identity.epoch,
        first: survey.identity.first,
        tail: survey.tail,
        torn: survey.torn,
        segments,
        shared: Arc::new(Shared::new(disk, dir.to_owned(), map, 0)),
    })
}

fn look(disk: &dyn Disk, dir: &Path) -> Result<Survey, LogError> {
    match recover::survey(disk, dir)? {
        Found::Log(survey) => Ok(*survey),
        Found::Nothing { .. } => {
            Err(LogError::Missing { file: identity::NAME.to_owned(), fact: "there is no changelog here".to_owned() })
        }
    }
}
