//! `tidelog consumers`: named checkpoints of those who read windows; listed, set, dropped.

use super::CliError;
use super::admin_client::{ask, quoted};
use super::args::ConsumersCommand;
use super::text::{Align, count, plain, span, table, things};
use crate::admin::ConsumerRow;
use std::io::Write;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn consumers(command: &ConsumersCommand, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        ConsumersCommand::List { admin, json } => {
            let rows: Vec<ConsumerRow> = ask(admin, "GET", "/v1/consumers", PATIENCE)?.json()?;
            if *json {
                writeln!(out, "{}", serde_json::json!(rows))?;
                return Ok(());
            }
            list(&rows, out)
        }
        ConsumersCommand::Set { admin, name, window, sink, note, back, json } => {
            let mut words = Vec::new();
            for (word, value) in [("window", window), ("sink", sink), ("note", note)] {
                words.extend(value.as_ref().map(|value| format!("{word}={}", quoted(value))));
            }
            if *back {
                words.push("back=true".to_owned());
            }
            let path = format!("/v1/consumers/{}?{}", quoted(name), words.join("&"));
            let row: ConsumerRow = ask(admin, "PUT", &path, PATIENCE)?.json()?;
            if *json {
                writeln!(out, "{}", serde_json::json!(row))?;
                return Ok(());
            }
            let behind = things(row.lag_windows, "window");
            Ok(writeln!(out, "{} is done with window {}: {behind} behind", plain(&row.name), count(row.window))?)
        }
        ConsumersCommand::Drop { admin, name } => {
            let path = format!("/v1/consumers/{}", quoted(name));
            let _dropped: serde_json::Value = ask(admin, "DELETE", &path, PATIENCE)?.json()?;
            Ok(writeln!(out, "{} is dropped: it holds nothing any more", plain(name))?)
        }
    }
}

fn list(rows: &[ConsumerRow], out: &mut dyn Write) -> Result<(), CliError> {
    if rows.is_empty() {
        writeln!(out, "no consumers")?;
        return Ok(());
    }
    let (l, r) = (Align::Left, Align::Right);
    let head = [
        ("consumer", l),
        ("sink", l),
        ("done with", r),
        ("windows behind", r),
        ("records", r),
        ("the oldest", l),
        ("stands since", l),
        ("note", l),
    ];
    let cell = |row: &ConsumerRow| {
        vec![
            plain(&row.name),
            if row.sink.is_empty() { "–".to_owned() } else { plain(&row.sink) },
            count(row.window),
            count(row.lag_windows),
            count(row.lag_records),
            if row.lag_windows == 0 { String::new() } else { span(row.lag_ms) },
            plain(&row.since),
            plain(&row.note),
        ]
    };
    let cells: Vec<_> = rows.iter().map(cell).collect();
    table(out, &head, &cells)?;
    for row in rows.iter().filter(|row| !row.trouble.is_empty()) {
        writeln!(out, "  ! {}: {}", plain(&row.name), plain(&row.trouble))?;
    }
    writeln!(out, "{}", things(rows.len() as u64, "consumer"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_well() {
        let row = |name: &str, sink: &str, lag: u64| ConsumerRow {
            name: name.into(),
            sink: sink.into(),
            window: 41,
            lag_windows: lag,
            lag_records: lag * 1_000,
            lag_ms: lag * 61_000,
            since: "2026-11-24T20:00:00.000Z".into(),
            still_ms: 5,
            note: String::new(),
            trouble: if lag == 0 { "its sink `lake` is not in the settings".into() } else { String::new() },
        };
        let mut out = Vec::new();
        list(&[row("books", "", 2), row("search", "lake", 0)], &mut out).unwrap();
        let expected = "\
consumer  sink  done with  windows behind  records  the oldest  stands since              note
books     –            41               2    2,000  2 min 2 s   2026-11-24T20:00:00.000Z
search    lake         41               0        0              2026-11-24T20:00:00.000Z
  ! search: its sink `lake` is not in the settings
2 consumers
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
