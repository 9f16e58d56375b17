//! Where a transaction keeps the images of what it has touched: in memory while it is small, in a file beyond. And what a
//! killed process leaves behind about a commit that it had sent.
//!
//! Promises: memory is bounded whatever the transaction's size; a [sealed](Spill::seal) spill is found by the next process,
//! whole, until it is [released](Spill::release). It survives the process (page cache), not the machine, as any intent.
//!
//! # Layout of a file
//!
//! ```text
//! u32 length of the head, 0: not sealed · u32 CRC32C of it · the head: u8 version 2 · i64 txnNumber · u64 changes ·
//! u64 bytes of frames · u16 length, user · u16 length, lsid (BSON) · u16 length, life of the store · u32 epoch and u64 seq
//! of the first change, or zeros (the last three not in version 1) · zeros up to 4096 · one frame for each change
//! ```
//! Numbers are little-endian; frames and the records in them are those of the log, with lsn 1 and no clocks.

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::capture::intent::IntentError;
use crate::changelog::frame::{self, Parsed};
use crate::changelog::record;
use crate::disk::{Disk, DiskFile};
use crate::types::{Body, Change, Epoch, Hlc, Lsn, Record, Seq};

/// Bytes that stay in memory.
const KEEP_BYTES: usize = 256 * 1024;

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// Where the frames begin in a file.
const HEAD_BYTES: usize = 4096;

/// A file that grew beyond this is removed, a smaller one serves the next transaction.
const REUSE_BYTES: u64 = 1 << 20;

const SUFFIX: &str = ".txn";

/// The files of this process, and those that dead ones left.
#[derive(Debug)]
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    generation: u64,
    next: AtomicU64,
    free: Mutex<Vec<File>>,
}

#[derive(Clone, Debug)]
struct File {
    name: String,
    file: Arc<dyn DiskFile>,
}

/// What a sealed file says of its commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed<'a> {
    pub user: &'a str,
    pub lsid: &'a [u8],
    pub number: i64,
    /// The number that its first change is to have; `None`: it has none.
    pub first: Option<(Epoch, Seq)>,
    /// The store's life.
    pub life: &'a str,
}

/// A commit that a dead process had sent.
#[derive(Debug)]
pub(crate) struct Left {
    pub name: String,
    pub user: String,
    pub lsid: Vec<u8>,
    pub number: i64,
    /// The store's life in which it was sent; empty: not known.
    pub life: String,
    /// The number that its first change was to have; `None`: not known.
    pub first: Option<(Epoch, Seq)>,
    pub spill: Spill,
}

impl Files {
    /// Opens the folder. Files of dead processes are left alone until [`left_behind`](Self::left_behind) looks at them.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Arc<Self>, IntentError> {
        disk.create_dir_all(&dir)?;
        let generations = disk.list(&dir)?.into_iter().filter_map(|name| generation_of(&name));
        let generation = generations.max().map_or(1, |g| g + 1);
        let (next, free) = (AtomicU64::new(1), Mutex::default());
        Ok(Arc::new(Self { disk, dir, generation, next, free }))
    }

    /// The commits that dead processes had sent; what they had not sealed is removed.
    pub(crate) fn left_behind(self: &Arc<Self>) -> Result<Vec<Left>, IntentError> {
        let mut out = Vec::new();
        for name in self.disk.list(&self.dir)? {
            if generation_of(&name).is_some_and(|g| g < self.generation) {
                let file: Arc<dyn DiskFile> = Arc::from(self.disk.open_rw(&self.dir.join(&name))?);
                match self.read_head(&name, file)? {
                    Some(left) => out.push(left),
                    None => self.disk.remove(&self.dir.join(&name))?,
                }
            }
        }
        Ok(out)
    }

    fn read_head(self: &Arc<Self>, name: &str, file: Arc<dyn DiskFile>) -> io::Result<Option<Left>> {
        let mut head = vec![0; HEAD_BYTES];
        if file.read_at(0, &mut head)? < HEAD_BYTES {
            return Ok(None);
        }
        let Some(Head { user, lsid, number, life, first, count, bytes }) = decode_head(&head) else { return Ok(None) };
        let file = File { name: name.to_owned(), file };
        let spill = Spill { home: Arc::clone(self), file: Some(file), written: bytes, buf: Vec::new(), count };
        Ok(Some(Left { name: name.to_owned(), user, lsid, number, life, first, spill }))
    }

    fn take(&self) -> io::Result<File> {
        if let Some(file) = self.free.lock().pop() {
            return Ok(file);
        }
        let name = format!("g{}-{}{SUFFIX}", self.generation, self.next.fetch_add(1, Ordering::Relaxed));
        let file = Arc::from(self.disk.create_new(&self.dir.join(&name))?);
        Ok(File { name, file })
    }

    fn give_back(&self, file: File, bytes: u64) -> io::Result<()> {
        if bytes > REUSE_BYTES || generation_of(&file.name) != Some(self.generation) {
            return self.disk.remove(&self.dir.join(&file.name));
        }
        file.file.write_at(0, &[0; 8])?;
        self.free.lock().push(file);
        Ok(())
    }
}

fn generation_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.strip_prefix('g')?.split_once('-')?.0.parse().ok()
}

/// Changes in order.
#[derive(Debug)]
pub(crate) struct Spill {
    home: Arc<Files>,
    file: Option<File>,
    /// Bytes of frames in the file.
    written: u64,
    buf: Vec<u8>,
    count: u64,
}

impl Spill {
    pub(crate) fn new(home: &Arc<Files>) -> Self {
        Self { home: Arc::clone(home), file: None, written: 0, buf: Vec::new(), count: 0 }
    }

    /// How many changes are in it.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Bytes that its changes take.
    pub(crate) fn bytes(&self) -> u64 {
        self.written + self.buf.len() as u64
    }

    /// Adds a change.
    pub(crate) fn push(&mut self, change: Change) -> Result<(), IntentError> {
        let record =
            Record { lsn: Lsn(1), hlc: Hlc(0), wall_ms: 0, continued: false, body: Body::Change(Box::new(change)) };
        let size = record::size(&record.body);
        if size.bytes > frame::MAX_PAYLOAD_BYTES {
            return Err(IntentError::TooLong { what: "a change" });
        }
        frame::push(&mut self.buf, size.bytes, |out| record::encode(out, &record, Lsn(0), &size));
        self.count += 1;
        if self.buf.len() > KEEP_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> Result<(), IntentError> {
        if self.file.is_none() {
            self.file = Some(self.home.take()?);
        }
        if let Some(file) = &self.file {
            file.file.write_at(HEAD_BYTES as u64 + self.written, &self.buf)?;
        }
        self.written += self.buf.len() as u64;
        self.buf.clear();
        self.buf.shrink_to(KEEP_BYTES);
        Ok(())
    }

    /// Puts all of it in a file that the next process finds: the commit is about to be sent.
    pub(crate) fn seal(&mut self, sealed: &Sealed<'_>) -> Result<(), IntentError> {
        self.write_out()?;
        let Sealed { user, lsid, number, first, life } = *sealed;
        let mut head = vec![2];
        head.extend(number.to_le_bytes());
        head.extend(self.count.to_le_bytes());
        head.extend(self.written.to_le_bytes());
        for text in [user.as_bytes(), lsid, life.as_bytes()] {
            let len = u16::try_from(text.len()).map_err(|_large| IntentError::TooLong { what: "a session" })?;
            head.extend(len.to_le_bytes());
            head.extend(text);
        }
        let (Epoch(epoch), Seq(seq)) = first.unwrap_or((Epoch(0), Seq(0)));
        head.extend(epoch.to_le_bytes());
        head.extend(seq.to_le_bytes());
        if head.len() + 8 > HEAD_BYTES {
            return Err(IntentError::TooLong { what: "a session" });
        }
        let len = u32::try_from(head.len()).unwrap_or(u32::MAX);
        let mut out = [len.to_le_bytes(), crc32c::crc32c(&head).to_le_bytes()].concat();
        out.extend(head);
        out.resize(HEAD_BYTES, 0);
        if let Some(file) = &self.file {
            file.file.write_at(0, &out)?;
        }
        Ok(())
    }

    /// The changes, in order. What is added later is not in it.
    pub(crate) fn changes(&self) -> Changes {
        Changes {
            file: self.file.as_ref().map(|file| Arc::clone(&file.file)),
            next: HEAD_BYTES as u64,
            end: HEAD_BYTES as u64 + self.written,
            rest: Bytes::copy_from_slice(&self.buf),
            buf: BytesMut::new(),
        }
    }

    /// It is no longer needed: a sealed one is settled.
    pub(crate) fn release(&mut self) -> Result<(), IntentError> {
        self.buf = Vec::new();
        self.count = 0;
        let written = std::mem::take(&mut self.written);
        match self.file.take() {
            Some(file) => Ok(self.home.give_back(file, written)?),
            None => Ok(()),
        }
    }
}

/// Reads a spill. Blocks on the disk, mostly on what is in memory anyway.
#[derive(Debug)]
pub(crate) struct Changes {
    file: Option<Arc<dyn DiskFile>>,
    next: u64,
    end: u64,
    /// What was never written.
    rest: Bytes,
    buf: BytesMut,
}

impl Changes {
    fn read(&mut self) -> io::Result<Option<Change>> {
        let mut needs = frame::FRAME_HEAD_BYTES;
        loop {
            match frame::parse(&self.buf) {
                Parsed::Frame(payload) => {
                    let (at, len) = (frame::FRAME_HEAD_BYTES, payload.len());
                    let frame = self.buf.split_to(at + len).freeze();
                    return decode(&frame.slice(at..)).map(Some);
                }
                Parsed::Needs(bytes) => needs = needs.max(bytes),
                Parsed::Bad(bad) => return Err(io::Error::new(io::ErrorKind::InvalidData, bad.to_string())),
            }
            if !self.fill(needs)? {
                return if self.buf.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// More bytes, until there are `needs`; false: there are none.
    fn fill(&mut self, needs: usize) -> io::Result<bool> {
        let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        if let (Some(file), true) = (&self.file, left > 0) {
            let want = needs.saturating_sub(self.buf.len()).max(READ_BYTES).min(left);
            let have = self.buf.len();
            self.buf.resize(have + want, 0);
            let got = file.read_at(self.next, self.buf.get_mut(have..).unwrap_or_default())?;
            self.buf.truncate(have + got);
            self.next += got as u64;
            return if got == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(true) };
        }
        let rest = std::mem::take(&mut self.rest);
        self.buf.extend_from_slice(&rest);
        Ok(!rest.is_empty())
    }
}

impl Iterator for Changes {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn decode(payload: &Bytes) -> io::Result<Change> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    match record::decode_shared(payload).map_err(|e| bad(e.to_string()))?.body {
        Body::Change(change) => Ok(*change),
        Body::Control(_) => Err(bad("a control record in a spill".to_owned())),
    }
}

/// The head of a sealed file.
struct Head {
    user: String,
    lsid: Vec<u8>,
    number: i64,
    life: String,
    first: Option<(Epoch, Seq)>,
    count: u64,
    bytes: u64,
}

fn decode_head(bytes: &[u8]) -> Option<Head> {
    let mut rest = bytes;
    let len = usize::try_from(u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?)).ok()?;
    let crc = u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?);
    let mut head = rest.get(..len).filter(|head| !head.is_empty() && crc32c::crc32c(head) == crc)?;
    let version = *head.split_off_first()?;
    if !(1..=2).contains(&version) {
        return None;
    }
    let number = i64::from_le_bytes(head.split_off(..8)?.try_into().ok()?);
    let count = u64::from_le_bytes(head.split_off(..8)?.try_into().ok()?);
    let bytes = u64::from_le_bytes(head.split_off(..8)?.try_into().ok()?);
    let mut text = || {
        let len = u16::from_le_bytes(head.split_off(..2)?.try_into().ok()?);
        head.split_off(..usize::from(len)).map(<[u8]>::to_vec)
    };
    let user = String::from_utf8(text()?).ok()?;
    let lsid = text()?;
    let (mut life, mut first) = (String::new(), None);
    if version > 1 {
        life = String::from_utf8(text()?).ok()?;
        let epoch = Epoch(u32::from_le_bytes(head.split_off(..4)?.try_into().ok()?));
        let seq = Seq(u64::from_le_bytes(head.split_off(..8)?.try_into().ok()?));
        first = (seq > Seq(0)).then_some((epoch, seq));
    }
    Some(Head { user, lsid, number, life, first, count, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;
    use crate::types::{EntityKey, Image, Namespace, Op};
    use bson::{RawBson, rawdoc};

    fn change(n: i32, bytes: usize) -> Change {
        Change {
            after: Some(Image::new(Bytes::from(rawdoc! { "_id": n, "text": "x".repeat(bytes) }.into_bytes()))),
            ..Change::new(
                Namespace::new("d", "c"),
                RawBson::Int32(n),
                EntityKey(n.to_le_bytes().as_slice().into()),
                (Epoch(0), Seq(0)),
                Op::Update,
            )
        }
    }

    fn files(dir: &tempfile::TempDir) -> Arc<Files> {
        Files::open(Arc::new(OsDisk), dir.path().to_owned()).unwrap()
    }

    fn seal_of<'a>(user: &'a str, lsid: &'a [u8]) -> Sealed<'a> {
        Sealed { user, lsid, number: 7, first: Some((Epoch(2), Seq(9))), life: "life" }
    }

    fn all(spill: &Spill) -> Vec<Change> {
        spill.changes().collect::<io::Result<_>>().unwrap()
    }

    #[test]
    fn what_goes_in_comes_out_in_order_small_and_large() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(&files(&dir));
        let mut expected = Vec::new();
        assert!(all(&spill).is_empty());
        for (n, bytes) in (0..).zip([10, 0, 300_000, 7, 1 << 21, 5, 200_000, 100_000, 1]) {
            expected.push(change(n, bytes));
            spill.push(change(n, bytes)).unwrap();
            assert_eq!(all(&spill), expected);
        }
        assert_eq!(spill.count(), 9);
        spill.release().unwrap();
        assert!(all(&spill).is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a large file is removed");
    }

    #[test]
    fn only_a_sealed_spill_is_found_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let first = files(&dir);
        let (mut open, mut sealed, mut ended) = (Spill::new(&first), Spill::new(&first), Spill::new(&first));
        open.push(change(1, 400_000)).unwrap();
        for spill in [&mut sealed, &mut ended] {
            spill.push(change(2, 10)).unwrap();
            spill.push(change(3, 10)).unwrap();
            spill.seal(&seal_of("amélie@admin", &[1, 2, 3])).unwrap();
        }
        ended.release().unwrap();
        assert!(first.left_behind().unwrap().is_empty());
        let second = files(&dir);
        let mut left = second.left_behind().unwrap();
        assert_eq!(left.len(), 1);
        let mut left = left.remove(0);
        let head = (left.user.as_str(), &left.lsid[..], left.number, left.life.as_str(), left.first);
        assert_eq!(head, ("amélie@admin", &[1, 2, 3][..], 7, "life", Some((Epoch(2), Seq(9)))));
        assert_eq!((all(&left.spill), left.spill.count()), (vec![change(2, 10), change(3, 10)], 2));
        left.spill.release().unwrap();
        assert!(second.left_behind().unwrap().is_empty());
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    #[test]
    fn damage_is_an_error_and_never_a_shorter_batch() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(&files(&dir));
        (0..3).for_each(|n| spill.push(change(n, 200_000)).unwrap());
        spill.seal(&seal_of("", &[])).unwrap();
        let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(spill.changes().any(|change| change.is_err()));
        let mut flipped = whole;
        flipped[HEAD_BYTES + 250_000] ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert!(spill.changes().any(|change| change.is_err()));
    }
}
