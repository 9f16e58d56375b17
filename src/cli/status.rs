//! `tidelog status` and `tidelog cut`: ask the sidecar, print for people or as JSON.

use super::CliError;
use super::admin_client::{ask, quoted};
use super::text::{Align, bytes, count, plain, span, table, things};
use crate::admin::{
    CutAnswer, ExportStatus, GapRow, LogStatus, NodeStatus, ProxyStatus, SinkRow, SnapshotStatus, Status,
};
use crate::config::Address;
use std::io::{self, Write};
use std::time::Duration;

/// How long an answer without work behind it may take.
const QUICK: Duration = Duration::from_secs(10);
/// How long a cut may take; the sidecar gives up before.
const CUT: Duration = Duration::from_secs(150);

/// Prints the status; it holds when the sidecar is ready.
pub(super) fn status(admin: &Address, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let status: Status = ask(admin, "GET", "/v1/status", QUICK)?.json()?;
    if json {
        writeln!(out, "{}", serde_json::json!(status))?;
    } else {
        print(&status, out)?;
    }
    if status.ready { Ok(()) } else { Err(CliError::Failed("the sidecar is not ready".into())) }
}

fn print(status: &Status, out: &mut dyn Write) -> Result<(), CliError> {
    let word = if status.ready { "ready" } else { "NOT READY" };
    writeln!(out, "tidelog {}  {word}  up {}", status.version, span(status.uptime_ms))?;
    for reason in &status.reasons {
        writeln!(out, "  ! {}: {}", reason.part, plain(&reason.message))?;
    }
    print_proxy(&status.proxy, &status.node, out)?;
    print_log(&status.log, out)?;
    print_export(&status.export, out)?;
    print_snapshot(&status.snapshot, out)?;
    let follower = &status.follower;
    let (state, foreign) = (plain(&follower.state), things(follower.foreign, "event"));
    writeln!(out, "change stream {state}, {foreign} of others")?;
    print_gaps(&status.gaps, out)?;
    Ok(())
}

fn print_proxy(proxy: &ProxyStatus, node: &NodeStatus, out: &mut dyn Write) -> io::Result<()> {
    let answers = if proxy.upstream_up { "answers" } else { "DOES NOT ANSWER" };
    let (listen, told, connections) = (&proxy.listen, &proxy.advertise, things(proxy.connections, "connection"));
    writeln!(out, "applications  {listen} (told {told}), {connections}")?;
    let role = if node.role.is_empty() { String::new() } else { format!(" {}", node.role) };
    let term = if node.term == 0 { String::new() } else { format!(" of term {}", node.term) };
    let written = things(proxy.write_commands, "write command");
    writeln!(out, "node          {} {answers}{role}{term}, {written}", proxy.upstream)?;
    if node.correcting {
        writeln!(out, "  ! the node is another than before: what it may have lost is being verified")?;
    }
    if proxy.unknown_hosts > 0 {
        let times = count(proxy.unknown_hosts);
        writeln!(
            out,
            "  ! {times} unknown hosts in hello replies: drivers could go around the sidecar; see proxy.hosts"
        )?;
    }
    Ok(())
}

fn print_log(log: &LogStatus, out: &mut dyn Write) -> io::Result<()> {
    let health = if log.poisoned { ", POISONED" } else { "" };
    writeln!(out, "changelog     {}, durability {}{health}", things(log.tail_lsn, "record"), log.durability)?;
    let (size, free) = (bytes(log.bytes), bytes(log.disk_free_bytes));
    writeln!(out, "              {}, {size} in {}, {free} free", log.data, things(log.segments, "segment"))?;
    writeln!(out, "              log {} epoch {}", log.id, log.epoch)?;
    if let Some(holder) = log.holders.first() {
        let (who, from, window) = (plain(&holder.who), count(holder.needs_lsn), count(holder.window));
        let held = match log.held_bytes {
            0 => String::new(),
            n => format!("; {} would go but for it", bytes(n)),
        };
        writeln!(
            out,
            "              begins at record {}, needed from {from} (window {window}) by {who}{held}",
            count(log.first_lsn)
        )?;
    }
    let open = log.tail_lsn.saturating_sub(log.proven_lsn);
    if open > 0 {
        let why = if log.held.is_empty() { "settling".to_owned() } else { plain(&log.held) };
        writeln!(out, "              {} not proved durable in the store yet: {why}", things(open, "record"))?;
    }
    Ok(())
}

fn print_export(export: &ExportStatus, out: &mut dyn Write) -> io::Result<()> {
    let behind = match export.lag_records {
        0 => "nothing behind".to_owned(),
        n => format!("{} behind, the oldest {}", things(n, "record"), span(export.lag_ms)),
    };
    let (at, of) = (count(export.exported_window), count(export.closed_window));
    let everywhere = if export.sinks.len() > 1 { "at every sink" } else { "at the sink" };
    writeln!(out, "export        window {at} of {of} {everywhere}, {behind}")?;
    for sink in &export.sinks {
        print_sink(sink, out)?;
    }
    Ok(())
}

fn print_sink(sink: &SinkRow, out: &mut dyn Write) -> io::Result<()> {
    let (window, place) = (count(sink.exported_window), plain(&sink.place));
    let behind = match sink.lag_records {
        0 => String::new(),
        n => format!(", {} behind, the oldest {}", things(n, "record"), span(sink.lag_ms)),
    };
    let state = match sink.failures {
        0 => sink.state.clone(),
        n => format!("{} after {}", sink.state, things(u64::from(n), "failure")),
    };
    let dead = match sink.dead_letters {
        0 => String::new(),
        n => format!(", {}", things(n, "dead letter")),
    };
    writeln!(out, "              {} ({}) {state}: window {window}{behind}{dead}, {place}", sink.name, sink.kind)?;
    if sink.delivering_window > 0 {
        let (at, done, of) = (count(sink.delivering_window), count(sink.delivering_records), count(sink.delivering_of));
        let percent = sink.delivering_records.saturating_mul(100).checked_div(sink.delivering_of).unwrap_or(100);
        writeln!(out, "                window {at} under way: {percent} %, {done} of {of} records")?;
    }
    print_retained(sink, out)
}

fn print_retained(sink: &SinkRow, out: &mut dyn Write) -> io::Result<()> {
    let kept = &sink.retained;
    if kept.windows > 0 {
        let (windows, size, first) = (things(kept.windows, "window"), bytes(kept.bytes), count(kept.first_window));
        writeln!(out, "                keeps {windows} from {first} on, {size}")?;
    }
    let Some(held) = &kept.held else { return Ok(()) };
    let (windows, size) = (things(held.windows, "window"), bytes(held.bytes));
    writeln!(out, "                ! {windows} ({size}) from {} on cannot be removed yet:", count(held.first))?;
    for (by, remedy) in held.by.iter().zip(&held.remedies) {
        writeln!(out, "                  held by {}: {}", plain(by), plain(remedy))?;
    }
    Ok(())
}

fn print_snapshot(snapshot: &SnapshotStatus, out: &mut dyn Write) -> io::Result<()> {
    let waiting = things(snapshot.waiting, "namespace");
    match (snapshot.waiting, snapshot.enabled) {
        (0, _) => writeln!(out, "first read    every namespace known is in the log whole")?,
        (_, false) => writeln!(out, "first read    off: {waiting} incomplete")?,
        _ => writeln!(out, "first read    {waiting} incomplete")?,
    }
    if !snapshot.reading.is_empty() {
        let (ns, read, of) = (plain(&snapshot.reading), count(snapshot.read), count(snapshot.estimated));
        let (percent, rate, left) = (snapshot.percent, count(snapshot.per_second), span(snapshot.left_ms));
        let pace = match snapshot.per_second {
            0 => "rate not known yet".to_owned(),
            _ => format!("{rate} a second, {left} left"),
        };
        writeln!(out, "              {ns}: {percent} %, {read} of about {of}, {pace}")?;
    }
    if !snapshot.error.is_empty() {
        writeln!(out, "  ! {}", plain(&snapshot.error))?;
    }
    Ok(())
}

fn print_gaps(gaps: &[GapRow], out: &mut dyn Write) -> io::Result<()> {
    if gaps.is_empty() {
        return writeln!(out, "gaps          none open");
    }
    writeln!(out, "gaps          {} open: here the log does not prove what the store holds", count(gaps.len() as u64))?;
    let row = |gap: &GapRow| {
        let (ns, detail) = (plain(&gap.ns), plain(&gap.detail));
        vec![gap.id.to_string(), ns, gap.cause.clone(), count(gap.since_lsn), gap.since.clone(), detail]
    };
    let rows: Vec<_> = gaps.iter().map(row).collect();
    let (l, r) = (Align::Left, Align::Right);
    table(out, &[("gap", r), ("namespace", l), ("cause", l), ("lsn", r), ("since", l), ("detail", l)], &rows)?;
    for gap in gaps {
        writeln!(out, "  gap {}: {}", gap.id, plain(&gap.remedy))?;
    }
    Ok(())
}

/// Cuts and prints the window's id.
pub(super) fn cut(admin: &Address, label: &str, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let path = format!("/v1/cut?label={}", quoted(label));
    let answer: CutAnswer = ask(admin, "POST", &path, CUT)?.json()?;
    if json {
        writeln!(out, "{}", serde_json::json!(answer))?;
    } else {
        writeln!(out, "{}", answer.window)?;
    }
    Ok(())
}
