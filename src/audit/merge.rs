//! The lines (or rows) of a window whose files are parts: one stream in the order of the log.

use super::envelope;
use super::files::Lines;
use super::line::{self, Line};
use super::manifest::File;
#[cfg(feature = "parquet")]
use super::rows::Rows;
use super::{Kind, Wrong, expect};
use crate::disk::Disk;
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::Path;

/// Where something wrong is: the number of the file, and of the line in it.
pub(super) type Place = (usize, u64);

/// Why the stream does not go on.
pub(super) enum Broken {
    /// Something is wrong there.
    At(Place, Wrong),
    /// It cannot be read.
    Io(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
enum Source {
    Lines(Lines),
    #[cfg(feature = "parquet")]
    Rows(Rows),
}

#[derive(Debug)]
struct Part {
    source: Source,
    reading: Reading,
    /// Lines read, the head included.
    count: u64,
    /// The line that comes next.
    head: Option<Box<Line>>,
}

/// What a file held, once it was read.
#[derive(Debug)]
pub(super) struct Whole {
    /// Its lines (rows).
    pub(super) lines: u64,
    /// Its length and SHA-256; `None`: it is Parquet, whose bytes were proved before.
    pub(super) bytes: Option<(u64, String)>,
}

/// How the lines of a window are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Each line gets the SHA-256 of its bytes (of its row's values).
    pub(super) prints: bool,
    /// A line is in Debezium's envelope.
    pub(super) envelope: bool,
}

/// All files of a window.
#[derive(Debug)]
pub(super) struct Merge {
    parts: Vec<Part>,
}

impl Merge {
    /// Opens them. Parquet is told by the name; its bytes must have been proved before.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, files: &[File], reading: Reading) -> Result<Self, Broken> {
        let mut this = Self { parts: Vec::with_capacity(files.len()) };
        for (number, file) in files.iter().enumerate() {
            let path = dir.join(&file.name);
            let source = match path.extension().and_then(|ending| ending.to_str()) {
                #[cfg(feature = "parquet")]
                Some("parquet") => {
                    Source::Rows(Rows::open(disk, &path, reading)?.map_err(|wrong| Broken::At((number, 0), wrong))?)
                }
                _ => Source::Lines(Lines::open(disk, &path)?),
            };
            let mut part = Part { source, reading, count: 0, head: None };
            part.advance(number)?;
            this.parts.push(part);
        }
        Ok(this)
    }

    /// The next line, and where it stands.
    pub(super) fn next(&mut self) -> Result<Option<(Place, Line)>, Broken> {
        let of = self.parts.len();
        let lsn = |part: &Part| part.head.as_ref().map(|line| line.lsn);
        let next = self.parts.iter().enumerate().filter_map(|(number, part)| Some((lsn(part)?, number))).min();
        let Some((_, number)) = next else { return Ok(None) };
        let Some(part) = self.parts.get_mut(number) else { return Ok(None) };
        let Some(line) = part.head.take() else { return Ok(None) };
        let place = (number, part.count);
        let belongs = part_of(&line, of);
        let what = || format!("it is in part {number} of {of}, its entity belongs into part {belongs}");
        expect(of == 1 || belongs == number, Kind::LineForm, what).map_err(|wrong| Broken::At(place, wrong))?;
        part.advance(number)?;
        Ok(Some((place, *line)))
    }

    /// What each file held.
    pub(super) fn finish(self) -> io::Result<Vec<Whole>> {
        let finish = |part: Part| match part.source {
            Source::Lines(lines) => Ok(Whole { lines: part.count, bytes: Some(lines.finish()?) }),
            #[cfg(feature = "parquet")]
            Source::Rows(_) => Ok(Whole { lines: part.count, bytes: None }),
        };
        self.parts.into_iter().map(finish).collect()
    }
}

impl Part {
    fn advance(&mut self, number: usize) -> Result<(), Broken> {
        let next = match &mut self.source {
            Source::Lines(lines) => lines.next(),
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => {
                let next = rows.next().map_err(|wrong| Broken::At((number, self.count + 1), wrong))?;
                self.count += u64::from(next.is_some());
                self.head = next.map(Box::new);
                return Ok(());
            }
        };
        let next = match next {
            Ok(next) => next,
            // What a decompressor refuses is wrong with the file, not with the disk.
            Err(error) if matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::UnexpectedEof) => {
                let wrong = Wrong { kind: Kind::LineForm, what: format!("it cannot be decompressed: {error}") };
                return Err(Broken::At((number, self.count + 1), wrong));
            }
            Err(error) => return Err(error.into()),
        };
        let Some((bytes, ended)) = next else { return Ok(()) };
        self.count += 1;
        let parse = if self.reading.envelope { envelope::parse } else { line::parse };
        let whole = expect(ended, Kind::LineForm, || "the file ends within a line".into());
        let mut line = whole.and_then(|()| parse(bytes)).map_err(|wrong| Broken::At((number, self.count), wrong))?;
        line.print = self.reading.prints.then(|| Sha256::digest(bytes).into());
        self.head = Some(Box::new(line));
        Ok(())
    }
}

/// The part of a line, from the description in the docs: control records are in part 0.
fn part_of(line: &Line, of: usize) -> usize {
    let (Some(ns), Some(key)) = (&line.ns, line.key.as_ref().and_then(|key| hex::decode(key).ok())) else { return 0 };
    let mut words = ns.as_bytes().to_vec();
    words.push(0);
    words.extend_from_slice(&key);
    let first = Sha256::digest(&words).iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    usize::try_from(first % of.max(1) as u64).unwrap_or(0)
}
