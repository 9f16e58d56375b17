//! `tidelog dlq`: records that sinks refused, each alone; looked at, delivered after all, or given up.

use super::CliError;
use super::admin_client::{ask, quoted};
use super::args::{DlqCommand, Letters};
use super::text::{Align, count, plain, table, things};
use crate::admin::{LetterRow, LettersChanged};
use std::io::Write;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn dlq(command: &DlqCommand, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        DlqCommand::List { letters, json } => {
            let rows: Vec<LetterRow> = ask(&letters.admin, "GET", &path("", letters), PATIENCE)?.json()?;
            if *json {
                writeln!(out, "{}", serde_json::json!(rows))?;
                return Ok(());
            }
            list(&rows, out)
        }
        DlqCommand::Show { letters, json } => {
            let rows: Vec<LetterRow> = ask(&letters.admin, "GET", &path("", letters), PATIENCE)?.json()?;
            if rows.is_empty() {
                return Err(CliError::Failed("no such letter; `tidelog dlq list` shows all".into()));
            }
            if *json {
                writeln!(out, "{}", serde_json::json!(rows))?;
                return Ok(());
            }
            rows.iter().try_for_each(|row| show(row, out))
        }
        DlqCommand::Retry { letters } => {
            let done = order("/retry", letters)?;
            let what = "asked for again: delivered in amendments of their windows, see `tidelog dlq list`";
            Ok(writeln!(out, "{} {what}", things(done.letters, "record"))?)
        }
        DlqCommand::Drop { letters, all } => {
            if letters.lsn.is_empty() && !all {
                return Err(CliError::Call("expected the numbers of records, or --all".into()));
            }
            let done = order("/drop", letters)?;
            Ok(writeln!(out, "{} given up: their windows stay without them", things(done.letters, "record"))?)
        }
    }
}

fn path(verb: &str, letters: &Letters) -> String {
    let lsns: Vec<_> = letters.lsn.iter().map(ToString::to_string).collect();
    format!("/v1/dlq{verb}?sink={}&lsn={}", quoted(&letters.sink), lsns.join(","))
}

/// An order that nothing fits is a failure: what somebody named is not there, or does not wait.
fn order(verb: &str, letters: &Letters) -> Result<LettersChanged, CliError> {
    let done: LettersChanged = ask(&letters.admin, "POST", &path(verb, letters), PATIENCE)?.json()?;
    if done.letters == 0 {
        return Err(CliError::Failed("no letter waits that fits; `tidelog dlq list` shows all".into()));
    }
    Ok(done)
}

fn list(rows: &[LetterRow], out: &mut dyn Write) -> Result<(), CliError> {
    if rows.is_empty() {
        writeln!(out, "no dead letters")?;
        return Ok(());
    }
    let (l, r) = (Align::Left, Align::Right);
    let head =
        [("sink", l), ("lsn", r), ("window", r), ("namespace", l), ("op", l), ("tries", r), ("state", l), ("why", l)];
    let cell = |row: &LetterRow| {
        vec![
            plain(&row.sink),
            count(row.lsn),
            count(row.window),
            plain(&row.ns),
            plain(&row.op),
            count(u64::from(row.attempts)),
            plain(&row.state),
            plain(&row.reason),
        ]
    };
    let cells: Vec<_> = rows.iter().map(cell).collect();
    table(out, &head, &cells)?;
    let waiting = rows.iter().filter(|row| row.state == "waiting").count() as u64;
    writeln!(out, "{}, {} waiting", things(rows.len() as u64, "letter"), count(waiting))?;
    Ok(())
}

fn show(row: &LetterRow, out: &mut dyn Write) -> Result<(), CliError> {
    let amendment = match row.amendment {
        0 => String::new(),
        number => format!(" in amendment {number} of its window"),
    };
    writeln!(out, "record {} of {}, at the sink {}", row.lsn, plain(&row.ns), plain(&row.sink))?;
    writeln!(out, "  window     {}", row.window)?;
    writeln!(out, "  change     {} {}.{} of key {}", plain(&row.op), row.epoch, row.seq, plain(&row.key))?;
    writeln!(out, "  state      {}{amendment}", plain(&row.state))?;
    writeln!(out, "  refused    {} in {}: {}", things(u64::from(row.attempts), "time"), row.stage, plain(&row.reason))?;
    writeln!(out, "  first      {}", plain(&row.first))?;
    writeln!(out, "  last       {}", plain(&row.last))?;
    writeln!(out, "  contents   tidelog log DATA --from-lsn {0} --to-lsn {0}", row.lsn)?;
    Ok(())
}
