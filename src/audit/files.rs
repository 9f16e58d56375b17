//! Reading a file line by line with bounded memory, hashing its bytes as they come, and taking a Zstandard frame apart.

use crate::disk::{Disk, DiskFile};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::Path;

const PIECE_BYTES: usize = 1 << 16;

/// The bytes of a file as they lie there, counted and hashed.
#[derive(Debug)]
struct Raw {
    file: Box<dyn DiskFile>,
    bytes: u64,
    hash: Sha256,
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(self.bytes, buffer)?;
        self.hash.update(buffer.get(..got).unwrap_or_default());
        self.bytes += got as u64;
        Ok(got)
    }
}

enum Source {
    Plain(Raw),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Raw>>),
}

/// A file being read.
pub(super) struct Lines {
    source: Source,
    buffer: Vec<u8>,
    /// Where in `buffer` the next line begins.
    at: usize,
    ended: bool,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("at", &self.at).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Lines {
    /// Opens it; a name that ends in `.zst` is one compressed frame.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let raw = Raw { file: disk.open_read(path)?, bytes: 0, hash: Sha256::new() };
        let zstd = path.extension().is_some_and(|ending| ending == "zst");
        let source =
            if zstd { Source::Zstd(zstd::stream::read::Decoder::new(raw)?.single_frame()) } else { Source::Plain(raw) };
        Ok(Self { source, buffer: Vec::new(), at: 0, ended: false })
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

    /// Reads on without looking at lines; tells the length and SHA-256 of the whole file as it lies there, in hex.
    pub(super) fn finish(self) -> io::Result<(u64, String)> {
        let mut raw = match self.source {
            Source::Plain(raw) => raw,
            Source::Zstd(decoder) => decoder.finish().into_inner(),
        };
        let mut rest = vec![0; PIECE_BYTES];
        while raw.read(&mut rest)? > 0 {}
        Ok((raw.bytes, hex::encode(raw.hash.finalize())))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let start = self.buffer.len();
        self.buffer.resize(start + PIECE_BYTES, 0);
        let room = self.buffer.get_mut(start..).unwrap_or_default();
        let got = match &mut self.source {
            Source::Plain(raw) => raw.read(room)?,
            Source::Zstd(decoder) => decoder.read(room)?,
        };
        self.buffer.truncate(start + got);
        self.ended = got == 0;
        Ok(())
    }
}
