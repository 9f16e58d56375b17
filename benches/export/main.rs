//! The bench of the export.
//!
//! ```text
//! cargo bench --bench export                   300,000 records, three rounds, both tables
//! cargo bench --bench export -- 1000000        more records
//! cargo bench --bench export -- 300000 jsonl   only what has this name
//! cargo bench --bench export -- 200 15000000   200 changes of documents of 15,000,000 bytes
//! ```
//!
//! Two tables. The whole path: a changelog on the disk → a sink's folder, with all that an export does (reading and checking
//! each frame, encoding, hashing, fsync, manifest, checkpoint), beside a copy of the same bytes (read, write, fsync) in the
//! same run. Then the forms alone, in memory. Records are changes of 400-byte documents, if no
//! other size is asked for, three inserts to one update.
//!
//! Figures are seconds of the processor, user and system, of all threads of this process: what one core would need.
//! Machines are shared, so the best of three rounds stands; the cases take turns within a round.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

mod forms;
mod records;
mod whole;

use std::error::Error;
use std::time::Duration;

/// A document without its note.
const LEAST_BYTES: usize = 400;

/// So many changes, of documents of so many bytes.
#[derive(Clone, Copy)]
struct Work {
    count: u64,
    bytes: usize,
}

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> Fallible<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let mut numbers = words.iter().filter_map(|word| word.parse::<u64>().ok());
    let (count, bytes) = (numbers.next().unwrap_or(300_000), numbers.next().unwrap_or(400));
    let work = Work { count, bytes: usize::try_from(bytes)?.max(LEAST_BYTES) };
    let only = words.iter().find(|word| word.parse::<u64>().is_err());
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    whole::run(work, &wanted)?;
    println!();
    forms::run(work, &wanted)
}

/// Time of the processor that this process has taken: fields 14 and 15 of `/proc/self/stat`, in hundredths of a second.
fn spent() -> Fallible<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat has another form")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
