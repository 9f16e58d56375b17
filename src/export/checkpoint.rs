//! A sink's durable position: `DATA/checkpoints/<sink>`, one small JSON file, replaced as a whole.
//!
//! Promises: it names the last window that the sink proved durable and the SHA-256 of its manifest, which the next manifest
//! takes up; for a sink that begins later than the log, the window before its first. It is written after the proof, never before; losing it costs a second delivery of windows, which changes nothing
//! at the sink.

use crate::disk::Disk;
use crate::types::{Digest, LogId, Lsn, WindowId};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Where a sink stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last window it has.
    pub window: WindowId,
    /// That window's last record.
    pub last: Lsn,
    /// SHA-256 of that window's manifest; `None`: the sink begins after this window and has none.
    pub manifest: Option<Digest>,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("checkpoint: {0}")]
    Io(#[from] io::Error),
    /// The file says nothing that can be trusted.
    #[error("{} is damaged ({what}): remove it to deliver all windows again, windows that the sink has are recognised", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It belongs to another log.
    #[error("{} belongs to log {found}, this is log {ours}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The log it belongs to.
        found: String,
        /// The log that was opened.
        ours: LogId,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    log: String,
    window: u64,
    last_lsn: u64,
    manifest_sha256: String,
    crc32c: u32,
}

impl Stored {
    fn new(log: LogId, at: &Checkpoint) -> Self {
        let log = log.to_string();
        let manifest_sha256 = at.manifest.map_or_else(String::new, |sha| sha.to_string());
        let mut this = Self { format: 1, log, window: at.window.0, last_lsn: at.last.0, manifest_sha256, crc32c: 0 };
        this.crc32c = this.crc();
        this
    }

    fn crc(&self) -> u32 {
        let words = format!("{}:{}:{}:{}:{}", self.format, self.log, self.window, self.last_lsn, self.manifest_sha256);
        crc32c::crc32c(words.as_bytes())
    }
}

/// Reads the checkpoint of the sink `name`; `None`: it has nothing yet.
///
/// # Errors
/// Damaged, foreign, or what the system said.
pub fn load(disk: &dyn Disk, dir: &Path, name: &str, log: LogId) -> Result<Option<Checkpoint>, CheckpointError> {
    let path = dir.join(name);
    if !disk.exists(&path)? {
        return Ok(None);
    }
    let bytes = disk.read(&path)?;
    let damaged = |what: String| CheckpointError::Damaged { path: path.clone(), what };
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if stored.crc() != stored.crc32c || stored.format != 1 {
        return Err(damaged("its CRC is wrong".into()));
    }
    if stored.log != log.to_string() {
        return Err(CheckpointError::Foreign { path, found: stored.log, ours: log });
    }
    let mut sha = [0; 32];
    let told = !stored.manifest_sha256.is_empty();
    if told {
        hex::decode_to_slice(&stored.manifest_sha256, &mut sha).map_err(|e| damaged(e.to_string()))?;
    }
    let manifest = told.then_some(Digest(sha));
    Ok(Some(Checkpoint { window: WindowId(stored.window), last: Lsn(stored.last_lsn), manifest }))
}

/// Makes a checkpoint durable.
///
/// # Errors
/// What the system said; then the old or the new one is there.
pub fn store(disk: &dyn Disk, dir: &Path, name: &str, log: LogId, at: &Checkpoint) -> Result<(), CheckpointError> {
    disk.make_dir(dir)?;
    let mut bytes = serde_json::to_vec_pretty(&Stored::new(log, at)).map_err(io::Error::from)?;
    bytes.push(b'\n');
    Ok(disk.replace(&dir.join(name), &bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FaultDisk;

    #[test]
    fn reads_back_and_tells_damage_and_strangers() {
        let (disk, dir, log) = (FaultDisk::new(), Path::new("/data/checkpoints"), LogId([1; 16]));
        assert_eq!(load(&disk, dir, "folder", log).expect("none"), None);
        let at = Checkpoint { window: WindowId(3), last: Lsn(40), manifest: Some(Digest([9; 32])) };
        store(&disk, dir, "folder", log, &at).expect("store");
        let after = disk.crash(0);
        assert_eq!(load(&after, dir, "folder", log).expect("load"), Some(at));
        assert!(matches!(load(&after, dir, "folder", LogId([2; 16])), Err(CheckpointError::Foreign { .. })));
        let text = String::from_utf8(after.read(&dir.join("folder")).expect("read")).expect("utf-8");
        after.replace(&dir.join("folder"), text.replace("\"window\": 3", "\"window\": 4").as_bytes()).expect("write");
        assert!(matches!(load(&after, dir, "folder", log), Err(CheckpointError::Damaged { .. })));
    }
}
