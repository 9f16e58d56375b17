//! The ledger's bytes: header, frames, and what to do with a torn end.

use super::LedgerError;
use crate::disk::{Disk, DiskFile};
use crate::types::LogId;
use std::io;
use std::path::{Path, PathBuf};

const NAME: &str = "ledger.tdw";
const MAGIC: &[u8; 8] = b"TIDEWIN1";
const HEADER: u64 = 28;
const FRAME: &[u8; 4] = b"TDLW";
/// Magic, length and CRC before a body.
const PREFIX: usize = 12;

/// Offset and body of each frame.
type Frames = Vec<(u64, Vec<u8>)>;

/// An open ledger file.
#[derive(Debug)]
pub(super) struct LedgerFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Where the next frame goes.
    end: u64,
}

impl LedgerFile {
    /// Opens or makes the file; gives each frame's offset and body.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, log: LogId) -> Result<(Self, Frames), LedgerError> {
        let path = dir.join(NAME);
        if !disk.exists(&path)? {
            disk.make_dir(dir)?;
            disk.replace(&path, &header(log))?;
        }
        let bytes = disk.read(&path)?;
        let mut this = Self { file: disk.open_rw(&path)?, path, end: HEADER };
        this.check_header(&bytes, log)?;
        let frames = this.scan(&bytes)?;
        if this.end < bytes.len() as u64 {
            this.file.truncate(this.end)?;
            this.file.sync_all()?;
        }
        Ok((this, frames))
    }

    /// The same file for another thread to read.
    pub(super) fn reader(&self, disk: &dyn Disk) -> Result<Self, LedgerError> {
        Ok(Self { path: self.path.clone(), file: disk.open_read(&self.path)?, end: 0 })
    }

    pub(super) fn damaged(&self, offset: u64, what: &'static str) -> LedgerError {
        LedgerError::Damaged { path: self.path.clone(), offset, what }
    }

    /// Writes a frame at the end; gives its offset. After an error it may be tried again: what a failed write left is
    /// cut off first.
    pub(super) fn append(&mut self, body: &[u8]) -> io::Result<u64> {
        let frame = frame(body);
        if self.file.len()? != self.end {
            self.file.truncate(self.end)?;
        }
        self.file.append(&frame)?;
        let offset = self.end;
        self.end += frame.len() as u64;
        Ok(offset)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Writes a frame again where it stands: a sync that failed before a restart may have left it in memory only.
    pub(super) fn rewrite(&mut self, offset: u64, body: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, &frame(body))?;
        self.file.sync_all()
    }

    /// The body of the frame at `offset`.
    pub(super) fn read(&self, offset: u64) -> Result<Vec<u8>, LedgerError> {
        let mut prefix = [0; PREFIX];
        let got = self.file.read_at(offset, &mut prefix)?;
        let length = if got == PREFIX { body_length(&prefix) } else { None };
        let length = length.ok_or_else(|| self.damaged(offset, "no frame"))?;
        if self.file.len()? < offset + (PREFIX + length) as u64 {
            return Err(self.damaged(offset, "a frame longer than the file"));
        }
        let mut whole = vec![0; PREFIX + length];
        self.file.read_at(offset, &mut whole)?;
        valid(&whole).map(<[u8]>::to_vec).ok_or_else(|| self.damaged(offset, "a wrong CRC"))
    }

    fn check_header(&self, bytes: &[u8], log: LogId) -> Result<(), LedgerError> {
        let expected = header(log);
        let Some(found) = bytes.get(..expected.len()) else { return Err(self.damaged(0, "a short header")) };
        if found == expected {
            return Ok(());
        }
        let other: Option<[u8; 16]> = found.get(8..24).and_then(|id| id.try_into().ok());
        match other {
            Some(id) if found == header(LogId(id)) => {
                Err(LedgerError::Foreign { path: self.path.clone(), found: LogId(id).to_string(), ours: log })
            }
            _ => Err(self.damaged(0, "a header that is not a ledger's")),
        }
    }

    /// All frames; sets `end` behind the last whole one. Bytes behind it that hold no whole frame are a torn end.
    fn scan(&mut self, bytes: &[u8]) -> Result<Frames, LedgerError> {
        let mut frames = Vec::new();
        let mut rest = bytes.get(usize::try_from(HEADER).unwrap_or(0)..).unwrap_or_default();
        while let Some(body) = valid(rest) {
            frames.push((self.end, body.to_vec()));
            self.end += (PREFIX + body.len()) as u64;
            rest = rest.get(PREFIX + body.len()..).unwrap_or_default();
        }
        let later =
            (1..rest.len()).any(|at| rest.get(at..).is_some_and(|r| r.starts_with(FRAME) && valid(r).is_some()));
        if later { Err(self.damaged(self.end, "a broken frame before whole ones")) } else { Ok(frames) }
    }
}

fn header(log: LogId) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&log.0);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), body);
    [FRAME.as_slice(), &length, &crc.to_le_bytes(), body].concat()
}

fn body_length(prefix: &[u8]) -> Option<usize> {
    let rest = prefix.strip_prefix(FRAME)?;
    usize::try_from(u32::from_le_bytes(*rest.first_chunk()?)).ok()
}

/// The body of the whole frame that `bytes` begin with.
fn valid(bytes: &[u8]) -> Option<&[u8]> {
    let body = bytes.get(PREFIX..)?.get(..body_length(bytes)?)?;
    let length = bytes.get(4..8)?;
    let crc = u32::from_le_bytes(*bytes.get(8..12)?.first_chunk()?);
    (crc32c::crc32c_append(crc32c::crc32c(length), body) == crc).then_some(body)
}
