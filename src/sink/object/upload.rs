//! The files of one window on their way: in parts, in bounded memory, unseen until they are complete.
//!
//! A file that fits into one part is one request. Memory: for each file less than [`PART_BYTES`] and a piece, and
//! [`AT_ONCE`] parts under way; never more than the window.

use super::super::SinkError;
use super::remote::Remote;
use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStoreExt as _, PutPayload};
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinSet;

/// All parts but the last have exactly this size: S3 wants 5 MiB at least, some of its kin want equal ones. At most 10,000
/// parts: a file of up to 78 GiB.
const PART_BYTES: usize = 8 << 20;
/// Parts under way at once.
const AT_ONCE: usize = 3;

/// A file of the window.
#[derive(Debug)]
struct File {
    path: Path,
    /// What is not under way yet.
    rest: BytesMut,
    multipart: Option<Box<dyn MultipartUpload>>,
}

/// All files of the window.
#[derive(Debug, Default)]
pub(in crate::sink) struct Uploads {
    files: Vec<File>,
    under_way: JoinSet<Result<(), Error>>,
}

impl Uploads {
    pub(in crate::sink) fn begin(paths: impl Iterator<Item = Path>) -> Self {
        let file = |path| File { path, rest: BytesMut::new(), multipart: None };
        Self { files: paths.map(file).collect(), under_way: JoinSet::new() }
    }

    pub(in crate::sink) fn write(&mut self, remote: &Remote, file: usize, bytes: &[u8]) -> Result<(), SinkError> {
        let file = self.files.get_mut(file).ok_or(SinkError::Order("a file that was not begun"))?;
        file.rest.extend_from_slice(bytes);
        while file.rest.len() >= PART_BYTES {
            let part = file.rest.split_to(PART_BYTES).freeze();
            part_of(&mut self.under_way, remote, file, part)?;
        }
        Ok(())
    }

    /// Ends all files: after this they are there.
    pub(in crate::sink) fn seal(&mut self, remote: &Remote) -> Result<(), SinkError> {
        for file in &mut self.files {
            let rest = std::mem::take(&mut file.rest).freeze();
            if file.multipart.is_none() {
                let (store, path) = (Arc::clone(&remote.store), file.path.clone());
                let put = async move { store.put(&path, rest.into()).await.map(|_result| ()) };
                start(&mut self.under_way, remote, put)?;
            } else if !rest.is_empty() {
                part_of(&mut self.under_way, remote, file, rest)?;
            }
        }
        while !self.under_way.is_empty() {
            next(&mut self.under_way, remote)?;
        }
        for file in &mut self.files {
            if let Some(multipart) = &mut file.multipart {
                remote.run(&format!("complete {}", file.path), multipart.complete())?;
            }
            file.multipart = None;
        }
        Ok(())
    }

    /// Gives up what is under way, as far as the store can be told so within a moment.
    pub(in crate::sink) fn abort(&mut self, remote: &Remote) {
        self.under_way.abort_all();
        let mut open: Vec<_> = self.files.drain(..).filter_map(|file| file.multipart).collect();
        if !open.is_empty() {
            remote.farewell(async {
                for multipart in &mut open {
                    multipart.abort().await.ok();
                }
            });
        }
    }
}

fn part_of(
    under_way: &mut JoinSet<Result<(), Error>>,
    remote: &Remote,
    file: &mut File,
    part: Bytes,
) -> Result<(), SinkError> {
    let multipart = match &mut file.multipart {
        Some(multipart) => multipart,
        empty @ None => {
            let begun = remote.run(&format!("begin {}", file.path), remote.store.put_multipart(&file.path))?;
            empty.insert(begun)
        }
    };
    let put = multipart.put_part(PutPayload::from(part));
    start(under_way, remote, put)
}

/// Starts a request as soon as there is room for it.
fn start(
    under_way: &mut JoinSet<Result<(), Error>>,
    remote: &Remote,
    request: impl Future<Output = Result<(), Error>> + Send + 'static,
) -> Result<(), SinkError> {
    while under_way.len() >= AT_ONCE {
        next(under_way, remote)?;
    }
    under_way.spawn_on(request, remote.handle());
    Ok(())
}

/// Waits until one of them ends.
fn next(under_way: &mut JoinSet<Result<(), Error>>, remote: &Remote) -> Result<(), SinkError> {
    remote.run("write a file", async {
        match under_way.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) => Err(Error::Generic { store: "upload", source: error.into() }),
            None => Ok(()),
        }
    })
}
