//! `tidelog reconcile`: has the sidecar compare log and store, waits, and tells what differs.

use super::CliError;
use super::admin_client::{ask, quoted};
use super::text::{Align, count, plain, table, things};
use crate::admin::{ReconcileBegun, ReconcileReport, ReconcileRow};
use crate::audit::live::Bounds;
use crate::config::Address;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How long an answer may take.
const QUICK: Duration = Duration::from_secs(30);
/// How often progress is asked for.
const LOOK: Duration = Duration::from_millis(200);
/// How often it is told where nobody watches.
const PLAIN: Duration = Duration::from_secs(10);

/// What was typed.
pub(super) struct Asked<'a> {
    pub(super) admin: &'a Address,
    pub(super) namespace: &'a str,
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) repair: bool,
    pub(super) sample: u64,
    pub(super) json: bool,
}

/// Compares and prints; it holds when nothing differed.
pub(super) fn reconcile(asked: &Asked<'_>, out: &mut dyn Write) -> Result<(), CliError> {
    let Asked { admin, namespace, from, to, repair, sample, json } = asked;
    Bounds::parse(from, to).map_err(|why| CliError::Call(format!("--{why}")))?;
    let [namespace, from, to] = [namespace, from, to].map(|text| quoted(text));
    let path = format!("/v1/reconcile?namespace={namespace}&from={from}&to={to}&repair={repair}&sample={sample}");
    let begun: ReconcileBegun = ask(admin, "POST", &path, QUICK)?.json()?;
    let report = wait(admin, begun.run)?;
    if *json {
        writeln!(out, "{}", serde_json::json!(report))?;
    } else {
        print(&report, out)?;
    }
    if !report.error.is_empty() {
        return Err(CliError::Failed(format!("it did not come to its end: {}", plain(&report.error))));
    }
    match (report.differing, report.repaired) {
        (0, _) => Ok(()),
        (n, repaired) => {
            let words = format!("log and store differ in {}, {} repaired", things(n, "document"), count(repaired));
            Err(CliError::Failed(words))
        }
    }
}

fn wait(admin: &Address, run: u64) -> Result<ReconcileReport, CliError> {
    let terminal = io::stderr().is_terminal();
    let mut told = Instant::now();
    loop {
        let report: ReconcileReport = ask(admin, "GET", "/v1/reconcile", QUICK)?.json()?;
        if report.run != run {
            return Err(CliError::Failed("the sidecar was started anew, or began another comparison".into()));
        }
        if terminal || (!report.ended && told.elapsed() >= PLAIN) {
            told = Instant::now();
            tell(&report, terminal);
        }
        if report.ended {
            return Ok(report);
        }
        std::thread::sleep(LOOK);
    }
}

/// Progress that cannot be told is no reason to stop.
fn tell(report: &ReconcileReport, terminal: bool) {
    let (at, of) = (count(report.compared.len() as u64), count(report.namespaces));
    let text = format!("namespace {at} of {of}, {} compared", things(report.entities, "document"));
    let line = match (terminal, report.ended) {
        (true, true) => "\r\x1b[K".to_owned(),
        (true, false) => format!("\r\x1b[K{text}"),
        (false, _) => format!("{text}\n"),
    };
    let mut to = io::stderr();
    let _untold = to.write_all(line.as_bytes()).and_then(|()| to.flush());
}

fn print(report: &ReconcileReport, out: &mut dyn Write) -> Result<(), CliError> {
    let (l, r) = (Align::Left, Align::Right);
    let head = [
        ("namespace", l),
        ("compared", r),
        ("log only", r),
        ("store only", r),
        ("images", r),
        ("repaired", r),
        ("what", l),
    ];
    let rows: Vec<_> = report.compared.iter().map(row).collect();
    table(out, &head, &rows)?;
    if !report.differences.is_empty() {
        writeln!(out)?;
        let named = |d: &crate::admin::DifferenceRow| vec![plain(&d.ns), plain(&d.id), d.side.clone()];
        let rows: Vec<_> = report.differences.iter().map(named).collect();
        table(out, &[("namespace", l), ("_id", l), ("side", l)], &rows)?;
        let more = report.differing.saturating_sub(report.differences.len() as u64);
        if more > 0 {
            writeln!(out, "and {}", things(more, "more difference"))?;
        }
    }
    let (differing, repaired) = (things(report.differing, "difference"), count(report.repaired));
    writeln!(out, "{} compared, {differing}, {repaired} repaired", things(report.entities, "document"))?;
    Ok(())
}

fn row(compared: &ReconcileRow) -> Vec<String> {
    let what = match (compared.whole, compared.range, compared.partial) {
        (_, _, true) => "its first read has not ended",
        (true, ..) => "whole",
        (_, true, _) => "a range",
        (false, false, false) => "a sample",
    };
    let numbers =
        [compared.entities, compared.log_only, compared.store_only, compared.images, compared.repaired].map(count);
    [vec![plain(&compared.ns)], numbers.to_vec(), vec![what.into()]].concat()
}
