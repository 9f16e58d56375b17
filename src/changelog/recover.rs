//! What lies in a log's folder, and where its good part ends. Reads only; `open` mends what may be mended.
//!
//! A bad frame in the last segment is a *torn tail* unless a good frame after it says that the bad one had been durable
//! (see [`Stamp::synced`](super::record::Stamp)): then it is *damage*, and cutting there would lose acknowledged records.

use super::error::LogError;
use super::identity::{self, Identity, Left};
use super::segment::{self, Frames, HEADER_BYTES, Header, Step};
use super::{evidence, segment::ReadAt};
use crate::disk::Disk;
use crate::types::{Hlc, Lsn};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

/// The part of the last segment that was not written to its end when the machine or the process stopped. None of it was
/// acknowledged under durability `always`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// File name of the segment.
    pub segment: String,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes were cut off.
    pub bytes: u64,
    /// The last record that is kept.
    pub after: Lsn,
    /// What was wrong.
    pub fact: String,
}

/// What lies in the folder.
#[derive(Debug)]
pub(super) enum Found {
    /// No log yet. The name is that of a first segment whose making was cut.
    Nothing { husk: Option<String> },
    /// A log.
    Log(Box<Survey>),
}

/// A log as it was found.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) identity: Identity,
    /// First lsn → bytes; of the last one, the good part.
    pub(super) segments: BTreeMap<Lsn, u64>,
    pub(super) tail: Lsn,
    pub(super) last_hlc: Hlc,
    /// From here on, bytes of the last segment may not have been durable.
    pub(super) unsynced_from: u64,
    pub(super) torn: Option<Truncation>,
    /// Files that a cut roll or a cut trim left behind.
    pub(super) leftovers: Vec<String>,
}

/// Looks at the folder.
pub(super) fn survey(disk: &dyn Disk, dir: &Path) -> Result<Found, LogError> {
    let names = disk.list(dir).map_err(LogError::io("list the log's folder"))?;
    let mut firsts: Vec<Lsn> = names.iter().filter_map(|n| segment::first_of(n)).collect();
    if !names.iter().any(|n| n == identity::NAME) {
        return nothing(disk, dir, &firsts);
    }
    let bytes = disk.read(&dir.join(identity::NAME)).map_err(LogError::io("read the identity file"))?;
    let identity = Identity::decode(&bytes)?;
    let mut leftovers: Vec<String> = Vec::new();
    firsts.retain(|first| {
        let keep = *first >= identity.first;
        if !keep {
            leftovers.push(segment::name(*first));
        }
        keep
    });
    let mut headers = headers(disk, dir, &firsts, &mut leftovers)?;
    check_chain(&identity, &headers)?;
    let Some((last, last_bytes)) = headers.pop() else {
        return Err(missing(identity.first, "the identity file tells of it"));
    };
    let mut survey = Survey {
        identity,
        segments: headers.iter().map(|(header, bytes)| (header.first, *bytes)).collect(),
        tail: Lsn(last.first.0.saturating_sub(1)),
        last_hlc: last.previous_hlc,
        unsynced_from: HEADER_BYTES as u64,
        torn: None,
        leftovers,
    };
    scan_last(disk, dir, &last, last_bytes, &mut survey)?;
    if let Left::Closed(tail) = identity.left
        && tail != survey.tail
    {
        let fact = format!("the log was closed with record {tail} as its last, {} is the last one here", survey.tail);
        let end = survey.segments.get(&last.first).copied().unwrap_or_default();
        return Err(LogError::damaged(segment::name(last.first), end, fact));
    }
    Ok(Found::Log(Box::new(survey)))
}

fn missing(first: Lsn, fact: &str) -> LogError {
    LogError::Missing { file: segment::name(first), fact: fact.to_owned() }
}

/// A new log's first segment is made before its identity file: so there may be one without records.
fn nothing(disk: &dyn Disk, dir: &Path, firsts: &[Lsn]) -> Result<Found, LogError> {
    match firsts {
        [] => return Ok(Found::Nothing { husk: None }),
        [first] if *first == Lsn(1) => {
            let name = segment::name(*first);
            let file = disk.open_read(&dir.join(&name)).map_err(LogError::io("open a segment"))?;
            if file.len().map_err(LogError::io("look at a segment"))? <= HEADER_BYTES as u64 {
                return Ok(Found::Nothing { husk: Some(name) });
            }
        }
        _ => {}
    }
    Err(LogError::Missing {
        file: identity::NAME.to_owned(),
        fact: "there are segments, but not the file that owns them".into(),
    })
}

/// Reads all headers. A last segment that is no more than a piece of a header is the leftover of a cut roll.
fn headers(
    disk: &dyn Disk,
    dir: &Path,
    firsts: &[Lsn],
    leftovers: &mut Vec<String>,
) -> Result<Vec<(Header, u64)>, LogError> {
    let mut headers = Vec::with_capacity(firsts.len());
    for (i, first) in firsts.iter().enumerate() {
        let name = segment::name(*first);
        let file = disk.open_read(&dir.join(&name)).map_err(LogError::io("open a segment"))?;
        let bytes = file.len().map_err(LogError::io("look at a segment"))?;
        let mut head = [0; HEADER_BYTES];
        let got = file.read_at(0, &mut head).map_err(LogError::io("read a segment"))?;
        match Header::decode(head.get(..got).unwrap_or_default()) {
            Ok(header) if header.first == *first => headers.push((header, bytes)),
            Ok(header) => {
                let fact = format!("its header says that it starts with record {}", header.first);
                return Err(LogError::damaged(name, 0, fact));
            }
            Err(_) if i > 0 && i + 1 == firsts.len() && bytes <= HEADER_BYTES as u64 => leftovers.push(name),
            Err(e) => return Err(Header::told(e, &name)),
        }
    }
    Ok(headers)
}

/// Each segment must know the one before it, and that must have its full length.
fn check_chain(identity: &Identity, headers: &[(Header, u64)]) -> Result<(), LogError> {
    let mut previous: Option<(Lsn, u64)> = None;
    for (header, bytes) in headers {
        let name = segment::name(header.first);
        if header.log_id != identity.log_id {
            return Err(LogError::damaged(name, 0, format!("it belongs to another log ({})", header.log_id)));
        }
        match previous {
            None if header.first != identity.first => {
                return Err(missing(identity.first, "the identity file tells of it"));
            }
            Some((first, _)) if first != header.previous_first => {
                return Err(missing(header.previous_first, &format!("{name} tells of it")));
            }
            Some((first, bytes)) if bytes != header.previous_bytes => {
                let fact = format!("the file has {bytes} bytes, {} were written", header.previous_bytes);
                return Err(LogError::damaged(segment::name(first), bytes.min(header.previous_bytes), fact));
            }
            None | Some(_) => {}
        }
        previous = Some((header.first, *bytes));
    }
    Ok(())
}

fn scan_last(disk: &dyn Disk, dir: &Path, header: &Header, bytes: u64, survey: &mut Survey) -> Result<(), LogError> {
    let name = segment::name(header.first);
    let file = disk.open_read(&dir.join(&name)).map_err(LogError::io("open a segment"))?;
    let read = |offset: u64, buf: &mut [u8]| file.read_at(offset, buf);
    let io = |e: io::Error| LogError::io("read a segment")(e);
    let mut walk = Walk::new(header.first);
    let bad = walk.run(bytes, &read).map_err(io)?;
    if let Some((offset, _)) = &bad
        && let Some(proof) = evidence::find(*offset, bytes, walk.expected, &read).map_err(io)?
    {
        let fact = format!(
            "record {} is not readable, and record {} at offset {} says that it had been durable",
            walk.expected, proof.lsn, proof.offset
        );
        return Err(LogError::damaged(name, *offset, fact));
    }
    survey.segments.insert(header.first, walk.good_end);
    survey.tail = walk.good_tail;
    survey.last_hlc = survey.last_hlc.max(walk.good_hlc);
    // Records are written only behind a durable header; without any, the header itself may not be durable.
    survey.unsynced_from = walk.unsynced.front().map_or(0, |(_, offset)| *offset);
    if walk.good_end < bytes {
        let fact = bad.map_or_else(|| "the rest of an atomic batch is not there".to_owned(), |(_, fact)| fact);
        let cut = bytes - walk.good_end;
        survey.torn =
            Some(Truncation { segment: name, offset: walk.good_end, bytes: cut, after: walk.good_tail, fact });
    }
    Ok(())
}

/// A walk over the last segment.
struct Walk {
    expected: Lsn,
    /// After the last whole batch.
    good_end: u64,
    good_tail: Lsn,
    good_hlc: Hlc,
    /// Records that were not durable when the last one was written, with their offsets.
    unsynced: VecDeque<(Lsn, u64)>,
}

impl Walk {
    fn new(first: Lsn) -> Self {
        Self {
            expected: first,
            good_end: HEADER_BYTES as u64,
            good_tail: Lsn(first.0.saturating_sub(1)),
            good_hlc: Hlc(0),
            unsynced: VecDeque::new(),
        }
    }

    /// Goes on to the end or the first bad frame, which it returns.
    fn run(&mut self, bytes: u64, read: &ReadAt<'_>) -> io::Result<Option<(u64, String)>> {
        let mut frames = Frames::new(HEADER_BYTES as u64, bytes);
        loop {
            match frames.step(read)? {
                Step::End => return Ok(None),
                Step::Bad { offset, fact } => return Ok(Some((offset, fact))),
                Step::Frame { offset, stamp, .. } if stamp.lsn != self.expected => {
                    return Ok(Some((offset, format!("record {} stands where {} should", stamp.lsn, self.expected))));
                }
                Step::Frame { offset, stamp, .. } => {
                    while self.unsynced.front().is_some_and(|(lsn, _)| *lsn <= stamp.synced) {
                        self.unsynced.pop_front();
                    }
                    self.unsynced.push_back((stamp.lsn, offset));
                    self.expected = stamp.lsn.next();
                    if !stamp.continued {
                        self.good_end = frames.offset();
                        self.good_tail = stamp.lsn;
                        self.good_hlc = stamp.hlc;
                    }
                }
            }
        }
    }
}
