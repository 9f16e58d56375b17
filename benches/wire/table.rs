//! Rounds → medians → a table that a README can hold.

use crate::Fallible;
use crate::load::Outcome;
use crate::options::Options;
use crate::plan::Op;
use crate::servers::{Servers, Target};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// CPU time that one cell cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// Of the target's proxy; zero for *direct*.
    pub(crate) proxy: Duration,
    /// Of the store.
    pub(crate) store: Duration,
}

/// One target in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// Operations a second.
    pub(crate) rate: f64,
    p50_us: f64,
    p99_us: f64,
    spent: Spent,
    operations: u64,
}

impl Cell {
    /// Takes the figures out of a run.
    pub(crate) fn new(outcome: &Outcome, spent: Spent) -> Self {
        Self {
            rate: outcome.rate,
            p50_us: percentile(&outcome.latencies_us, 50),
            p99_us: percentile(&outcome.latencies_us, 99),
            spent,
            operations: outcome.operations,
        }
    }
}

/// The value below which `percent` of the sorted values lie.
fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |&v| f64::from(v))
}

/// One operation with one number of clients: all rounds of all targets.
#[derive(Debug)]
pub(crate) struct Row {
    op: Op,
    clients: usize,
    cells: Vec<(Target, Cell)>,
}

impl Row {
    /// An empty row.
    pub(crate) fn new(op: Op, clients: usize) -> Self {
        Self { op, clients, cells: Vec::new() }
    }

    /// Adds what a target did in the next round.
    pub(crate) fn add(&mut self, target: Target, cell: Cell) {
        self.cells.push((target, cell));
    }

    fn of(&self, target: Target) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |(t, _)| *t == target).map(|(_, cell)| cell)
    }

    fn median(&self, target: Target, figure: impl Fn(&Cell) -> f64) -> f64 {
        median(self.of(target).map(figure).collect())
    }

    /// Median over the rounds of the ratio of two targets' rates.
    fn ratio(&self, target: Target, to: Target) -> f64 {
        median(self.of(target).zip(self.of(to)).map(|(a, b)| a.rate / b.rate).collect())
    }

    /// Microseconds of CPU per operation, over all rounds.
    fn cpu_us(&self, target: Target, whose: impl Fn(&Spent) -> Duration) -> f64 {
        let cpu: Duration = self.of(target).map(|c| whose(&c.spent)).sum();
        let operations: u64 = self.of(target).map(|c| c.operations).sum();
        let operations = u32::try_from(operations).unwrap_or(u32::MAX);
        cpu.as_secs_f64() * 1e6 / f64::from(operations)
    }
}

/// The middle value; not a number when there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        return upper;
    }
    let lower = values.len().checked_sub(1).and_then(|last| values.get(last / 2)).copied();
    lower.map_or(upper, |lower| f64::midpoint(lower, upper))
}

/// The table, in Markdown.
pub(crate) fn render(rows: &[Row], targets: &[Target]) -> String {
    let mut head = vec!["operation".to_owned(), "clients".to_owned()];
    for target in targets {
        head.push(format!("{} op/s", target.name()));
        head.push("p50 / p99 ms".to_owned());
        if *target != Target::Direct {
            head.push("CPU µs/op".to_owned());
        }
    }
    let against: Vec<_> = [Target::Haproxy, Target::Direct]
        .into_iter()
        .filter(|to| targets.contains(to) && targets.contains(&Target::Tidelog))
        .collect();
    head.extend(against.iter().map(|to| format!("tidelog / {}", to.name())));
    let rule = format!("|---|{}", "--:|".repeat(head.len() - 1));
    let mut lines = vec![line(&head), rule];
    lines.extend(rows.iter().map(|row| line(&columns(row, targets, &against))));
    lines.join("\n") + "\n"
}

fn line(columns: &[String]) -> String {
    format!("| {} |", columns.join(" | "))
}

fn columns(row: &Row, targets: &[Target], against: &[Target]) -> Vec<String> {
    let mut out = vec![row.op.name().to_owned(), row.clients.to_string()];
    for &target in targets {
        out.push(format!("{:.0}", row.median(target, |c| c.rate)));
        let p50_ms = row.median(target, |c| c.p50_us) / 1e3;
        let p99_ms = row.median(target, |c| c.p99_us) / 1e3;
        out.push(format!("{p50_ms:.2} / {p99_ms:.2}"));
        if target != Target::Direct {
            out.push(format!("{:.1}", row.cpu_us(target, |s| s.proxy)));
        }
    }
    out.extend(against.iter().map(|&to| format!("**{:.2}**", row.ratio(Target::Tidelog, to))));
    out
}

/// Where the CPU time goes: a second table, in microseconds per operation.
pub(crate) fn render_cpu(rows: &[Row], targets: &[Target]) -> String {
    let mut head = vec!["CPU µs/op".to_owned(), "clients".to_owned()];
    head.extend(targets.iter().map(|t| format!("store, {}", t.name())));
    let proxies: Vec<_> = targets.iter().copied().filter(|t| *t != Target::Direct).collect();
    head.extend(proxies.iter().map(|t| t.name().to_owned()));
    let rule = format!("|---|{}", "--:|".repeat(head.len() - 1));
    let mut lines = vec![line(&head), rule];
    for row in rows {
        let mut out = vec![row.op.name().to_owned(), row.clients.to_string()];
        out.extend(targets.iter().map(|&t| format!("{:.1}", row.cpu_us(t, |s| s.store))));
        out.extend(proxies.iter().map(|&t| format!("{:.1}", row.cpu_us(t, |s| s.proxy))));
        lines.push(line(&out));
    }
    lines.join("\n") + "\n"
}

/// The page with the run between its marks.
pub(crate) fn put_into(page: &str, header: &str, tables: &str) -> Fallible<String> {
    const BEGIN: &str = "<!-- bench: begin -->";
    const END: &str = "<!-- bench: end -->";
    let (before, rest) = page.split_once(BEGIN).ok_or("no mark for the bench in the page")?;
    let (_, after) = rest.split_once(END).ok_or("no end mark for the bench in the page")?;
    Ok(format!("{before}{BEGIN}\n```text\n{header}```\n\n{tables}{END}{after}"))
}

/// What was run, on what.
pub(crate) fn header(options: &Options, servers: &Servers) -> Fallible<String> {
    let cores = std::thread::available_parallelism()?;
    let sync = sync_micros(&servers.dir)?;
    Ok(format!(
        "run: {}\nmachine: {cores} cores, shared by load generator, proxy and store; {}\n\
         disk: append of 4 KiB + fdatasync takes {sync} µs (median)\ncommit: {}\n\
         durability: tidelog `always` (fdatasync before ack){}; store at its defaults\n\
         form: {} rounds, interleaved; {:?} a cell; sessions and retryable writes on, as drivers do by default; \
         documents of about 450 bytes\n",
        servers.versions().join("; "),
        processor(),
        commit(),
        if options.tidelog_args.is_empty() { String::new() } else { format!(", {}", options.tidelog_args) },
        options.rounds(),
        options.seconds(),
    ))
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| "processor unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

/// The commit that is checked out, and whether the sources differ from it.
fn commit() -> String {
    let head = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let Ok(head) = head else { return "unknown (no git)".to_owned() };
    let dirty = first_line_of(&["status", "--porcelain", "--untracked-files=no"]);
    let name = String::from_utf8_lossy(&head.stdout).trim().to_owned();
    if dirty.is_empty() { name } else { format!("{name} with local changes") }
}

fn first_line_of(arguments: &[&str]) -> String {
    let output = Command::new("git").args(arguments).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

/// The median time of an append with its fdatasync: what durability costs here, before any queue.
fn sync_micros(dir: &Path) -> Fallible<u128> {
    use std::io::Write as _;
    let path = dir.join("sync-probe");
    #[allow(clippy::disallowed_methods, reason = "a probe of the disk, not a file of the product")]
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed().as_micros());
    }
    std::fs::remove_file(&path)?;
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}
