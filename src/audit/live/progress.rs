//! Where the reads are, on the disk: a small file for each namespace being read (and one for the change stream), replaced as a
//! whole. It is written only after the records of what it says are durable, so it never runs ahead of the log.

use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use bson::rawdoc;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::Disk;
use crate::types::{Digest, LogId};

/// The folder.
#[derive(Debug)]
pub(super) struct Progress {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    log: String,
}

impl Progress {
    pub(super) fn open(disk: Arc<dyn Disk>, dir: PathBuf, log: LogId) -> io::Result<Self> {
        disk.make_dir(&dir)?;
        Ok(Self { disk, dir, log: log.to_string() })
    }

    /// What is kept of `what`, `name`; `None`: nothing, or of another log.
    pub(super) fn load(&self, what: &str, name: &str) -> io::Result<Option<RawDocumentBuf>> {
        let path = self.path(what, name);
        if !self.disk.exists(&path)? {
            return Ok(None);
        }
        let bytes = self.disk.read(&path)?;
        let Ok(doc) = RawDocument::from_bytes(&bytes) else { return Ok(None) };
        let ours = doc.get_str("log").is_ok_and(|log| log == self.log) && doc.get_str("name").is_ok_and(|n| n == name);
        Ok(doc.get_document("kept").ok().filter(|_| ours).map(RawDocument::to_owned))
    }

    /// Keeps it, durably.
    pub(super) async fn store(&self, what: &str, name: &str, kept: &RawDocument) -> io::Result<()> {
        let mut doc = rawdoc! { "log": self.log.as_str(), "name": name };
        doc.append(cstr!("kept"), kept);
        let (disk, path) = (Arc::clone(&self.disk), self.path(what, name));
        let written = tokio::task::spawn_blocking(move || disk.replace(&path, doc.as_bytes())).await;
        written.unwrap_or_else(|broken| Err(io::Error::other(broken)))
    }

    /// It is not needed any more.
    pub(super) fn forget(&self, what: &str, name: &str) -> io::Result<()> {
        let path = self.path(what, name);
        if self.disk.exists(&path)? { self.disk.remove(&path) } else { Ok(()) }
    }

    /// Names of namespaces may hold anything and be long: the file is named after a hash.
    fn path(&self, what: &str, name: &str) -> PathBuf {
        let hash = Digest::of(name.as_bytes()).to_string();
        self.dir.join(format!("{what}-{}.bson", hash.get(..32).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;

    #[tokio::test]
    async fn what_was_kept_comes_back_but_not_to_another_log() {
        let dir = tempfile::tempdir().unwrap();
        let open = |log| Progress::open(Arc::new(OsDisk), dir.path().join("progress"), LogId([log; 16])).unwrap();
        let progress = open(1);
        assert_eq!(progress.load("snapshot", "a.b").unwrap(), None);
        progress.store("snapshot", "a.b", &rawdoc! { "n": 1 }).await.unwrap();
        progress.store("snapshot", "a.b", &rawdoc! { "n": 2 }).await.unwrap();
        assert_eq!(open(1).load("snapshot", "a.b").unwrap(), Some(rawdoc! { "n": 2 }));
        assert_eq!(open(2).load("snapshot", "a.b").unwrap(), None);
        assert_eq!(progress.load("catchup", "a.b").unwrap(), None);
        progress.forget("snapshot", "a.b").unwrap();
        progress.forget("snapshot", "a.b").unwrap();
        assert_eq!(progress.load("snapshot", "a.b").unwrap(), None);
    }
}
