//! The few things that the sink asks of a store, each one blocking and with a bound.
//!
//! The client has its own time-outs for each request (30 s, 5 s to connect; options `timeout`, `connect_timeout`) and repeats a few
//! times; [`BOUND`] stands above all of that.

use super::super::options::Options;
use super::super::{Setting, SinkError, WindowId};
use super::{place, trouble};
use crate::config::SinkConfig;
use crate::types::Digest;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload};
use sha2::{Digest as _, Sha256};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// No single wait is longer.
const BOUND: Duration = Duration::from_mins(5);
/// What is left behind is cleared away only so long.
const FAREWELL: Duration = Duration::from_secs(2);

/// A prefix in a store.
#[derive(Debug)]
pub(in crate::sink) struct Remote {
    runtime: Runtime,
    pub(in crate::sink) store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
}

impl Remote {
    pub(in crate::sink) fn new(at: &Setting, config: &SinkConfig) -> Result<Self, SinkError> {
        let options = Options::read(at, config)?;
        let (store, prefix) = place::client(at.name, &config.url, &options)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, store, prefix, url: config.url.clone() })
    }

    /// Where an object is. `name` may have slashes.
    pub(in crate::sink) fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), Path::join)
    }

    /// An object's address, for errors.
    pub(in crate::sink) fn shown(&self, path: &Path) -> PathBuf {
        trouble::shown(&self.url, &self.prefix, path).into()
    }

    pub(in crate::sink) fn url(&self) -> PathBuf {
        PathBuf::from(&self.url)
    }

    /// Runs a request to its end.
    pub(in crate::sink) fn run<T>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, SinkError> {
        self.ask(what, request)?.map_err(|error| trouble::told(&self.url, what, &error))
    }

    /// As [`run`](Self::run), for one whose error has a meaning.
    fn ask<T>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, SinkError> {
        let late = |_late| SinkError::Away(format!("{}: {what}: no end within {} s", self.url, BOUND.as_secs()));
        self.runtime.block_on(async { timeout(BOUND, request).await }).map_err(late)
    }

    /// Runs something whose end nobody needs, for a moment.
    pub(in crate::sink) fn farewell(&self, last: impl Future<Output = ()>) {
        self.runtime.block_on(async { timeout(FAREWELL, last).await }).ok();
    }

    /// The handle on which uploads run beside each other, while something is waited for.
    pub(in crate::sink) fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// A small object; `None`: it is not there.
    pub(in crate::sink) fn get(&self, path: &Path) -> Result<Option<Vec<u8>>, SinkError> {
        let what = format!("read {path}");
        match self.ask(&what, async { self.store.get(path).await?.bytes().await })? {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(error) if trouble::is_absent(&error) => Ok(None),
            Err(error) => Err(trouble::told(&self.url, &what, &error)),
        }
    }

    /// SHA-256 of an object's bytes; `None`: it is not there.
    pub(in crate::sink) fn hash(&self, path: &Path) -> Result<Option<Digest>, SinkError> {
        let what = format!("read {path}");
        let mut stream = match self.ask(&what, self.store.get(path))? {
            Ok(found) => found.into_stream(),
            Err(error) if trouble::is_absent(&error) => return Ok(None),
            Err(error) => return Err(trouble::told(&self.url, &what, &error)),
        };
        let mut hash = Sha256::new();
        while let Some(piece) = self.run(&what, stream.try_next())? {
            hash.update(&piece);
        }
        Ok(Some(Digest(hash.finalize().into())))
    }

    /// Writes an object, whatever is there.
    pub(in crate::sink) fn put(&self, path: &Path, bytes: Vec<u8>) -> Result<(), SinkError> {
        self.run(&format!("write {path}"), self.store.put(path, bytes.into())).map(|_result| ())
    }

    /// Writes an object unless one is there. Where the store cannot do that in one step, it is looked for before. `false`: one
    /// is there, perhaps by an earlier try whose answer was lost.
    pub(in crate::sink) fn create(&self, path: &Path, bytes: &[u8]) -> Result<bool, SinkError> {
        let what = format!("write {path}");
        let payload = PutPayload::from(bytes.to_vec());
        let done = self.ask(&what, self.store.put_opts(path, payload, PutMode::Create.into()))?;
        match done {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(Error::NotImplemented { .. }) if self.get(path)?.is_some() => Ok(false),
            Err(Error::NotImplemented { .. }) => self.put(path, bytes.to_vec()).map(|()| true),
            Err(error) => Err(trouble::told(&self.url, &what, &error)),
        }
    }

    /// As [`create`](Self::create), but refused where the store cannot do it in one step.
    pub(in crate::sink) fn create_at_once(&self, path: &Path, bytes: &[u8]) -> Result<bool, SinkError> {
        let what = format!("write {path}, unless it is there,");
        let payload = PutPayload::from(bytes.to_vec());
        match self.ask(&what, self.store.put_opts(path, payload, PutMode::Create.into()))? {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(trouble::told(&self.url, &what, &error)),
        }
    }

    /// The last `length` bytes of an object of `size` bytes; `None`: it is not there, or has another size.
    pub(in crate::sink) fn tail(&self, path: &Path, size: u64, length: u64) -> Result<Option<Bytes>, SinkError> {
        let what = format!("read the end of {path}");
        let range = size.saturating_sub(length)..size;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let read = async {
            let found = self.store.get_opts(path, options).await?;
            let same = found.meta.size == size;
            Ok((same, found.bytes().await?))
        };
        match self.ask(&what, read)? {
            Ok((same, bytes)) => Ok(same.then_some(bytes)),
            Err(error) if trouble::is_absent(&error) => Ok(None),
            Err(error) => Err(trouble::told(&self.url, &what, &error)),
        }
    }

    /// Several objects, at once; all must be there.
    pub(in crate::sink) fn get_all(&self, paths: &[Path]) -> Result<Vec<Bytes>, SinkError> {
        let one = |path| async move { self.store.get(path).await?.bytes().await };
        self.run("read the log", try_join_all(paths.iter().map(one)))
    }

    /// The names right below `folder` that come after `name` (empty: all), in order.
    pub(in crate::sink) fn names_after(&self, folder: &str, name: &str) -> Result<Vec<String>, SinkError> {
        let prefix = self.path(folder);
        let found = match name {
            "" => self.store.list(Some(&prefix)),
            name => self.store.list_with_offset(Some(&prefix), &prefix.clone().join(name)),
        };
        let found: Vec<ObjectMeta> = self.run(&format!("list {prefix}"), found.try_collect())?;
        let below = |path: &Path| Some(path.as_ref().strip_prefix(prefix.as_ref())?.strip_prefix('/')?.to_owned());
        let mut names: Vec<_> = found.iter().filter_map(|object| below(&object.location)).collect();
        names.retain(|name| !name.contains('/'));
        names.sort();
        Ok(names)
    }

    pub(in crate::sink) fn remove(&self, path: &Path) -> Result<(), SinkError> {
        match self.ask(&format!("remove {path}"), self.store.delete(path))? {
            Ok(()) => Ok(()),
            Err(error) if trouble::is_absent(&error) => Ok(()),
            Err(error) => Err(trouble::told(&self.url, &format!("remove {path}"), &error)),
        }
    }

    /// All objects of a window, or of an amendment.
    pub(in crate::sink) fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>, SinkError> {
        let prefix = self.path(folder);
        self.run(&format!("list {prefix}"), self.store.list(Some(&prefix)).try_collect())
    }

    /// Tells every object of the windows from `from` on: its window, whether it is that window's own manifest, its length.
    pub(super) fn each_from(&self, from: WindowId, mut tell: impl FnMut(WindowId, bool, u64)) -> Result<(), SinkError> {
        let offset = self.path(&super::folder_name(from));
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let mut found = self.store.list_with_offset(prefix, &offset);
        let what = format!("list {}", self.prefix);
        while let Some(object) = self.run(&what, found.try_next())? {
            let mut parts = object.location.parts().rev();
            let (name, folder) = (parts.next(), parts.next());
            let Some(folder) = folder.as_ref().and_then(|folder| folder.as_ref().strip_prefix("window-")) else {
                continue;
            };
            let (number, amendment) = folder.split_once(".amendment-").unzip();
            let Ok(number) = number.unwrap_or(folder).parse() else { continue };
            let is_manifest = amendment.is_none() && name.is_some_and(|n| n.as_ref() == super::MANIFEST);
            tell(WindowId(number), is_manifest, object.size);
        }
        Ok(())
    }

    /// The first window from `from` on that has an object, or with `complete` a manifest. Asks the store for names after it only
    /// (Azure has no such question: there the names of the whole prefix go over the wire).
    pub(in crate::sink) fn first_from(&self, from: WindowId, complete: bool) -> Result<Option<WindowId>, SinkError> {
        let offset = self.path(&super::folder_name(from));
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let mut found = self.store.list_with_offset(prefix, &offset);
        let what = format!("list {}", self.prefix);
        while let Some(object) = self.run(&what, found.try_next())? {
            let mut parts = object.location.parts().rev();
            let (name, folder) = (parts.next(), parts.next());
            let number = folder.as_ref().and_then(|f| f.as_ref().strip_prefix("window-")?.parse().ok());
            let is_manifest = name.is_some_and(|n| n.as_ref() == super::MANIFEST);
            match number {
                Some(id) if !complete || is_manifest => return Ok(Some(WindowId(id))),
                _ => {}
            }
        }
        Ok(None)
    }
}
