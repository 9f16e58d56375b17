//! What the index holds alive and the walk did not show: read by `_id`, since its place proves nothing while others write.

use std::collections::HashSet;

use super::{Done, Limits, Mode, Range};
use crate::capture::Capture;
use crate::capture::compare::{Step, stored_id};
use crate::capture::error::CaptureError;
use crate::capture::observe::Target;
use crate::entity::{Entry, MAX_PLAIN, id_of};
use crate::types::{EntityKey, Lsn, Op};
use bson::RawBson;

/// Rows of the index that are looked at together.
const ROWS: usize = 1_000;

/// The suspects of one look at the index.
#[derive(Default)]
struct Suspects {
    /// Their `_id` is known: they are read.
    named: Vec<Target>,
    /// Their place says that they are gone.
    gone: Vec<EntityKey>,
}

impl Capture {
    /// Looks for entities after the walk's upper key, up to `bound` (`None`: to the end), that are alive and not `shown`.
    pub(super) async fn compare_absent(
        &self,
        range: &Range,
        shown: &HashSet<EntityKey>,
        bound: Option<&EntityKey>,
        limits: Limits,
        done: &mut Done,
    ) -> Result<(), CaptureError> {
        let mut from = range.state.upper.clone();
        loop {
            let rows = self.rows(range, from.as_ref())?;
            let within: Vec<_> = rows
                .iter()
                .filter(|(key, _)| bound.is_none_or(|bound| key <= bound) && !range.is_beyond(key))
                .collect();
            let unseen = within.iter().filter(|(key, entry)| entry.alive && !shown.contains(key));
            self.look_for(range, unseen.map(|row| (&row.0, &row.1)), limits, done).await?;
            match rows.last() {
                Some((last, _)) if within.len() == rows.len() => from = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// The second walk, over the index, of a collection with a default collation.
    pub(super) async fn absent_page(
        &self,
        range: &mut Range,
        limits: Limits,
        done: &mut Done,
    ) -> Result<(), CaptureError> {
        let rows = self.rows(range, range.state.upper.as_ref())?;
        let alive = rows.iter().filter(|(_, entry)| entry.alive).map(|(key, entry)| (key, entry));
        self.look_for(range, alive, limits, done).await?;
        match rows.last() {
            Some((last, _)) => range.state.upper = Some(last.clone()),
            None => range.state.ended = true,
        }
        Ok(())
    }

    fn rows(&self, range: &Range, from: Option<&EntityKey>) -> Result<Vec<(EntityKey, Entry)>, CaptureError> {
        self.index.scan(&range.ns, from, ROWS).map_err(|e| CaptureError::Index(e.to_string()))
    }

    async fn look_for(
        &self,
        range: &Range,
        rows: impl Iterator<Item = (&EntityKey, &Entry)>,
        limits: Limits,
        done: &mut Done,
    ) -> Result<(), CaptureError> {
        let mut suspects = Suspects::default();
        for (key, entry) in rows {
            self.suspect(range, key, entry, &mut suspects, done)?;
        }
        let mut drafts = Vec::new();
        let mut compared = Ok(0);
        for key in &suspects.gone {
            // Where the log no longer has its image; else the image has it.
            let id = id_of(key).unwrap_or(RawBson::Null);
            let (ns, id, op) = (&range.ns, &id, Op::Observed);
            let step = Step { ns, key, id, before: None, after: None, op, stmt_id: 0, hidden: false };
            compared = self.compare_looked(&step, &range.cause, &mut drafts).map(|()| drafts.len() as u64);
            if compared.is_err() {
                break;
            }
        }
        self.append(drafts, compared, done).await?;
        done.entities += suspects.named.len() as u64;
        if suspects.named.is_empty() {
            return Ok(());
        }
        self.compare_guarded(range, &suspects.named, limits, done).await
    }

    fn suspect(
        &self,
        range: &Range,
        key: &EntityKey,
        entry: &Entry,
        suspects: &mut Suspects,
        done: &mut Done,
    ) -> Result<(), CaptureError> {
        let sorts = !range.collated && key.as_bytes().len() <= MAX_PLAIN;
        if range.alone && sorts && range.mode == Mode::Append {
            suspects.gone.push(key.clone());
            return Ok(());
        }
        // Its record is younger than the walk: a write of ours has proved it.
        let young = entry.lsn == Lsn::ZERO || entry.lsn > range.state.since;
        if young {
            return Ok(());
        }
        match self.logged_image(entry)?.as_ref().and_then(stored_id).or_else(|| id_of(key)) {
            Some(id) => suspects.named.push(Target { ns: range.ns.clone(), key: key.clone(), id }),
            None => done.unproven += 1,
        }
        Ok(())
    }
}
