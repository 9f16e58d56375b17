//! Windows as commits of a Delta Lake table: one commit a window, with an application transaction, in a folder or an object store.
//!
//! ```text
//! TABLE/window-0000000007/TRY/records.parquet            the files; TRY is new for each try
//! TABLE/_tidelog/window-0000000007.manifest.json         what the window says of itself
//! TABLE/_delta_log/00000000000000000009.json             the commit: `txn`, `add`, and in `commitInfo` what this is
//! ```
//!
//! # How a window becomes whole
//! 1. The log must still hold the commit that was read last; otherwise the table was removed or made anew.
//! 2. The files go up under names that no try had before.
//! 3. Commits of others are read. If one of them has this window (the answer to an earlier try was lost), the manifests are
//!    compared and nothing is written.
//! 4. The files' footers are read back, for sizes, rows and bounds. The manifest is written and read back, so that a committed
//!    window always has one.
//! 5. The commit is written *if none is there* under the next version, with `txn {appId: tidelog:LOG:SINK, version: window}`. If
//!    somebody else took that version: 3 again. It is read back and compared.
//!
//! Why a new name for each try: the commit of a killed process may come late. If it comes before ours, we see its transaction; if after,
//! its version is taken. Either way the files that the winner names are as it left them. Files of a try that was not
//! committed are removed by the first window after an opening.
//!
//! The table is written by our own code: see `deploy/docs/sinks-delta.md` for which rules of the protocol it keeps. Does not: write
//! checkpoints, remove or rewrite files; that is the work of `OPTIMIZE`, `VACUUM` and the like.

mod action;
mod checkpoint;
mod columns;
mod log;
mod stats;

use super::object::remote::Remote;
use super::object::upload::Uploads;
use super::{Chunk, Opening, Position, SealedFile, Setting, Sink, SinkError};
use crate::clock::Clock;
use crate::config::SinkConfig;
use crate::types::{Digest, LogId, WindowId};
use action::{Add, Append};
use columns::Fit;
use log::{Table, Told};
use object_store::path::Path;
use std::sync::Arc;

/// The folder of the manifests. Delta's readers and `VACUUM` leave names that begin with `_` alone.
const MANIFESTS: &str = "_tidelog";
/// So often somebody else may take the next version before the window is given up for a while.
const TRIES: usize = 50;

/// A Delta table.
#[derive(Debug)]
pub struct Delta {
    log: LogId,
    remote: Remote,
    clock: Arc<Clock>,
    /// `tidelog:LOG:SINK`.
    app: String,
    /// As it was read last; `None`: not opened.
    table: Option<Table>,
    /// What was begun: its transaction, the name of its folder, that with the try.
    window: WindowId,
    txn: (String, i64),
    folder: String,
    home: String,
    uploads: Uploads,
    files: Vec<Path>,
    /// It is in the table already: nothing is written.
    there: bool,
    /// Nothing was committed since the opening.
    fresh: bool,
}

impl Sink for Delta {
    fn open(&mut self, known: Position) -> Result<(), SinkError> {
        self.table = None;
        let mut table = match log::read(&self.remote)? {
            Some(table) => table,
            None => self.make(known)?,
        };
        self.check(&table)?;
        if let Fit::Lacks(schema) = self.fit(&table)? {
            self.widen(&mut table, &schema)?;
        }
        self.compare_with(&table, known)?;
        (self.table, self.fresh) = (Some(table), true);
        Ok(())
    }

    fn begin(&mut self, opening: &Opening) -> Result<(), SinkError> {
        self.uploads.abort(&self.remote);
        let table = self.table.as_ref().ok_or(SinkError::Order("a table that was not opened"))?;
        if !table.stands(&self.remote)? {
            return Err(SinkError::Away(self.told("the table was removed or made anew; it is looked at again")));
        }
        self.window = opening.window;
        self.folder = opening.folder();
        self.txn = match opening.amendment {
            0 => (self.app.clone(), signed(opening.window.0)),
            number => (format!("{}:amendments:{}", self.app, opening.window.0), i64::from(number)),
        };
        self.there = has(table, &self.txn);
        let try_id = uuid::Uuid::new_v4().simple().to_string();
        self.home = format!("{}/{}", self.folder, try_id.get(..12).unwrap_or(&try_id));
        self.files = opening.files.iter().map(|name| self.remote.path(&format!("{}/{name}", self.home))).collect();
        self.uploads = Uploads::begin(self.files.clone().into_iter());
        Ok(())
    }

    fn write(&mut self, file: usize, chunk: Chunk<'_>) -> Result<(), SinkError> {
        if self.there { Ok(()) } else { self.uploads.write(&self.remote, file, chunk.bytes) }
    }

    fn seal(&mut self) -> Result<(), SinkError> {
        if self.there { Ok(()) } else { self.uploads.seal(&self.remote) }
    }

    fn finish(&mut self, files: &[SealedFile], manifest: &[u8]) -> Result<(), SinkError> {
        let mut table = self.table.take().ok_or(SinkError::Order("a table that was not opened"))?;
        let done = if self.there { self.compare(&table, manifest) } else { self.commit(&mut table, files, manifest) };
        self.table = Some(table);
        done
    }
}

impl Delta {
    /// The table that `config` names; nothing is connected to yet.
    ///
    /// # Errors
    /// [`SinkError::Refused`]: settings that cannot be used.
    pub fn new(at: &Setting, config: &SinkConfig) -> Result<Self, SinkError> {
        Ok(Self {
            log: at.log,
            remote: Remote::new(at, config)?,
            clock: Clock::system(),
            app: format!("tidelog:{}:{}", at.log, at.name),
            table: None,
            window: WindowId::ZERO,
            txn: (String::new(), 0),
            folder: String::new(),
            home: String::new(),
            uploads: Uploads::default(),
            files: Vec::new(),
            there: false,
            fresh: true,
        })
    }

    /// Text for an error: where, and what.
    fn told(&self, what: &str) -> String {
        format!("{}: {what}", self.remote.url().display())
    }

    /// Makes the table.
    fn make(&self, known: Position) -> Result<Table, SinkError> {
        if let Some((delivered, _)) = known.delivered {
            let what = format!(
                "there is no table, though windows up to {delivered} were delivered: is the volume mounted, is it the right bucket? \
                 If they are really lost, remove the sink's checkpoint to deliver everything again"
            );
            return Err(SinkError::Away(self.told(&what)));
        }
        if !self.remote.names_after(MANIFESTS, "")?.is_empty() {
            let what = format!(
                "there is no table, but {MANIFESTS} holds manifests of one: put {} back, or choose another `url`",
                log::FOLDER
            );
            return Err(SinkError::Refused(self.told(&what)));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let text = action::creation(&id, &columns::schema(), self.clock.wall_ms());
        self.remote.create_at_once(&self.commit_path(0), text.as_bytes())?;
        let table = log::read(&self.remote)?;
        table.ok_or_else(|| SinkError::NotProved { path: self.remote.shown(&self.commit_path(0)) })
    }

    /// The table may be written to, and is not somebody else's.
    fn check(&self, table: &Table) -> Result<(), SinkError> {
        let refused = |what: String| Err(SinkError::Refused(self.told(&what)));
        let Some(protocol) = &table.protocol else { return refused("the table's log has no `protocol`".into()) };
        if let Err(why) = protocol.check() {
            return refused(format!(
                "the table asks for {why}, which this program does not write; choose another `url`"
            ));
        }
        if table.told.contains_key(&self.app) || !table.data {
            return Ok(());
        }
        let own = |app: &&String| app.starts_with("tidelog:");
        let whose = table.told.keys().find(own).map_or("somebody else", String::as_str);
        refused(format!(
            "the table holds data of {whose}, and none of this sink ({}): choose another `url`. A sink cannot be renamed",
            self.app
        ))
    }

    fn fit(&self, table: &Table) -> Result<Fit, SinkError> {
        let metadata = table.metadata.clone().unwrap_or_default();
        let refused = |why| {
            SinkError::Refused(self.told(&format!("the table cannot take our files: {why}; choose another `url`")))
        };
        columns::fit(&metadata).map_err(refused)
    }

    /// Adds the columns that the table lacks.
    fn widen(&self, table: &mut Table, schema: &str) -> Result<(), SinkError> {
        let metadata = table.metadata.clone().unwrap_or_default();
        let (version, text) = (table.version + 1, action::evolution(&metadata, schema, self.clock.wall_ms()));
        if self.remote.create_at_once(&self.commit_path(version), text.as_bytes())? {
            return table.commit(&self.remote, version, text.as_bytes());
        }
        Err(SinkError::Away(self.told("somebody else changed the table; it is looked at again")))
    }

    /// The windows of the table are those that the log knows.
    fn compare_with(&self, table: &Table, known: Position) -> Result<(), SinkError> {
        let last = table.told.get(&self.app).map_or(0, |told| u64::try_from(told.version).unwrap_or(0));
        if last > known.closed.0 {
            return Err(SinkError::Ahead { window: WindowId(last), closed: known.closed });
        }
        let Some((window, sha)) = known.delivered else { return Ok(()) };
        if last < window.0 {
            let what = format!(
                "the table has windows up to {last}, but {window} was delivered: was it restored from an older copy? Put the newer one \
                 back, or deliver to another `url` from the beginning (remove the sink's checkpoint)"
            );
            return Err(SinkError::Refused(self.told(&what)));
        }
        let path = self.remote.path(&manifest_name(&Opening { window, amendment: 0, files: Vec::new() }.folder()));
        match self.remote.get(&path)?.as_deref().map(Digest::of) {
            Some(found) if found == sha => Ok(()),
            Some(_) => Err(SinkError::Conflict { window, path: self.remote.shown(&path) }),
            None => Err(self.lacking(window, &path)),
        }
    }

    fn lacking(&self, window: WindowId, path: &Path) -> SinkError {
        let path = self.remote.shown(path);
        SinkError::Refused(format!(
            "window {window} is in the table, but its manifest is not there: put {} back",
            path.display()
        ))
    }

    /// What the commit says of the files.
    fn adds(&self, files: &[SealedFile]) -> Result<Vec<Add>, SinkError> {
        let one = |(path, file): (&Path, &SealedFile)| {
            stats::add(&self.remote, path, format!("{}/{}", self.home, file.name), file)
        };
        self.files.iter().zip(files).map(one).collect()
    }

    fn commit(&mut self, table: &mut Table, files: &[SealedFile], manifest: &[u8]) -> Result<(), SinkError> {
        let (manifest_path, mut adds) = (manifest_name(&self.folder), Vec::new());
        for number in 0..TRIES {
            table.advance(&self.remote)?;
            self.check(table)?;
            if self.fit(table)? != Fit::Good {
                return Err(SinkError::Away(self.told("the table lost columns; it is looked at again")));
            }
            if has(table, &self.txn) {
                return self.compare(table, manifest);
            }
            if number == 0 {
                adds = self.adds(files)?;
                self.leave(&self.remote.path(&manifest_path), manifest)?;
            }
            let (app, version) = (self.txn.0.as_str(), self.txn.1);
            let append =
                Append { app, version, adds: &adds, manifest, manifest_path: &manifest_path, folder: &self.home };
            let text = append.text(self.clock.wall_ms());
            let path = self.commit_path(table.version + 1);
            if self.remote.create_at_once(&path, text.as_bytes())? {
                if self.remote.get(&path)?.as_deref() != Some(text.as_bytes()) {
                    return Err(SinkError::NotProved { path: self.remote.shown(&path) });
                }
                table.commit(&self.remote, table.version + 1, text.as_bytes())?;
                self.tidy();
                return Ok(());
            }
        }
        Err(SinkError::Away(self.told(&format!("others took the next version {TRIES} times"))))
    }

    /// Leaves the manifest there.
    fn leave(&self, path: &Path, manifest: &[u8]) -> Result<(), SinkError> {
        self.remote.put(path, manifest.to_vec())?;
        let same = self.remote.get(path)?.as_deref() == Some(manifest);
        if same { Ok(()) } else { Err(SinkError::NotProved { path: self.remote.shown(path) }) }
    }

    /// The window that the table has is the one that is to be delivered.
    fn compare(&self, table: &Table, manifest: &[u8]) -> Result<(), SinkError> {
        let path = self.remote.path(&manifest_name(&self.folder));
        let Some(found) = self.remote.get(&path)? else { return Err(self.lacking(self.window, &path)) };
        let committed = match table.told.get(&self.txn.0) {
            Some(Told { version, sha: Some(sha) }) if *version == self.txn.1 => Some(sha),
            _ => None,
        };
        let same = found == manifest && committed.is_none_or(|sha| *sha == Digest::of(manifest).to_string());
        if same { Ok(()) } else { Err(SinkError::Conflict { window: self.window, path: self.remote.shown(&path) }) }
    }

    /// Removes what earlier tries left of this window. The window is committed: what goes wrong here is nobody's loss.
    fn tidy(&mut self) {
        if !std::mem::take(&mut self.fresh) {
            return;
        }
        let removed = self.remote.list(&self.folder).and_then(|found| {
            let mut left = found.iter().filter(|object| !self.files.contains(&object.location));
            left.try_for_each(|object| self.remote.remove(&object.location))
        });
        if let Err(error) = removed {
            tracing::debug!(log = %self.log, %error, "files of an earlier try stay; VACUUM removes them");
        }
    }

    fn commit_path(&self, version: u64) -> Path {
        log::path(&self.remote, &log::commit_name(version))
    }
}

impl Drop for Delta {
    fn drop(&mut self) {
        self.uploads.abort(&self.remote);
    }
}

/// Whether the table has this transaction, or a later one of the same application.
fn has(table: &Table, (app, version): &(String, i64)) -> bool {
    table.told.get(app).is_some_and(|told| told.version >= *version)
}

fn manifest_name(folder: &str) -> String {
    format!("{MANIFESTS}/{folder}.manifest.json")
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
