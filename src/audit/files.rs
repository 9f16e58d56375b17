//! Reading a file line by line with bounded memory, hashing as it goes.

use crate::disk::{Disk, DiskFile};
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::Path;

const PIECE_BYTES: usize = 1 << 18;

/// A file being read.
pub(super) struct Lines {
    file: Box<dyn DiskFile>,
    /// Bytes read so far.
    pub(super) bytes: u64,
    hash: Sha256,
    buffer: Vec<u8>,
    /// Where in `buffer` the next line begins.
    at: usize,
    ended: bool,
}

impl Lines {
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = disk.open_read(path)?;
        Ok(Self { file, bytes: 0, hash: Sha256::new(), buffer: Vec::new(), at: 0, ended: false })
    }

    /// The next line without its newline, and whether it had one. `None`: the file is at its end.
    pub(super) fn next(&mut self) -> io::Result<Option<(&[u8], bool)>> {
        let mut searched = 0;
        loop {
            let rest = self.buffer.get(self.at + searched..).unwrap_or_default();
            if let Some(found) = rest.iter().position(|b| *b == b'\n') {
                let line = self.at..self.at + searched + found;
                self.at = line.end + 1;
                return Ok(Some((self.buffer.get(line).unwrap_or_default(), true)));
            }
            if self.ended {
                let line = self.at..self.buffer.len();
                self.at = line.end;
                return Ok((!line.is_empty()).then(|| (self.buffer.get(line).unwrap_or_default(), false)));
            }
            searched += rest.len();
            self.fill()?;
        }
    }

    /// Reads on without looking at lines; tells the SHA-256 of the whole file in hex.
    pub(super) fn finish(mut self) -> io::Result<(u64, String)> {
        while !self.ended {
            self.at = self.buffer.len();
            self.fill()?;
        }
        Ok((self.bytes, hex::encode(self.hash.finalize())))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let start = self.buffer.len();
        self.buffer.resize(start + PIECE_BYTES, 0);
        let got = self.file.read_at(self.bytes, self.buffer.get_mut(start..).unwrap_or_default())?;
        self.buffer.truncate(start + got);
        self.hash.update(self.buffer.get(start..).unwrap_or_default());
        self.bytes += got as u64;
        self.ended = got == 0;
        Ok(())
    }
}
