//! `tidelog verify`: the offline audit of an export folder or a Delta table, told to a person or as JSON.

use super::CliError;
use super::text::{count, plain};
use crate::audit::{self, Verdict};
use crate::disk::OsDisk;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often progress is told where nobody watches.
const PLAIN: Duration = Duration::from_secs(10);
/// How often it is told on a terminal.
const WATCHED: Duration = Duration::from_millis(100);

/// Audits and prints; it holds when nothing wrong was found.
pub(super) fn verify(dir: &Path, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let mut progress = Progress::new();
    let verdict = audit::verify(&OsDisk, dir, &mut |so_far| progress.tell(so_far));
    progress.clear();
    let verdict = verdict.map_err(|error| {
        let said = format!("{}: {error}", dir.display());
        if error.kind() == io::ErrorKind::NotFound { CliError::Call(said) } else { CliError::Failed(said) }
    })?;
    if json {
        writeln!(out, "{}", serde_json::json!(verdict))?;
    } else {
        // Names of namespaces come from clients: nothing in them may move a terminal's cursor.
        let text = verdict.to_string();
        for line in text.lines() {
            writeln!(out, "{}", plain(line))?;
        }
    }
    match verdict.finding {
        None => Ok(()),
        Some(finding) => Err(CliError::Failed(plain(&finding.to_string()))),
    }
}

/// Tells on standard error how far the audit is.
struct Progress {
    terminal: bool,
    told: Instant,
    shown: bool,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), told: Instant::now(), shown: false }
    }

    fn tell(&mut self, so_far: &Verdict) {
        let pause = if self.terminal { WATCHED } else { PLAIN };
        if self.told.elapsed() < pause {
            return;
        }
        self.told = Instant::now();
        let text = format!("{} windows, {} records hold so far", count(so_far.windows), count(so_far.records));
        let line = if self.terminal { format!("\r\x1b[K{text}") } else { format!("{text}\n") };
        self.shown |= self.terminal;
        self.say(&line);
    }

    /// Takes a terminal's line away again.
    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            self.say("\r\x1b[K");
        }
    }

    /// Progress that cannot be told is no reason to stop.
    fn say(&mut self, text: &str) {
        let mut to = io::stderr();
        if to.write_all(text.as_bytes()).and_then(|()| to.flush()).is_err() {
            self.terminal = false;
        }
    }
}
