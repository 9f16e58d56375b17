//! The bench of the wire: one command, one run, one table.
//!
//! ```text
//! cargo bench --bench wire                     all operations, 1, 16 and 64 clients, three rounds (about 10 minutes)
//! cargo bench --bench wire -- --quick          four operations, 1 and 16 clients (about 90 seconds)
//! cargo bench --bench wire -- --help           the rest
//! ```
//!
//! It starts one store, HAProxy in TCP mode and Tidelog (release build, durability `always`) before it, and drives all
//! three with the same messages: *direct*, *haproxy*, *tidelog*. Rounds are interleaved, target after target within a
//! round, and every figure is a median over the rounds, since machines are noisy; a ratio is the median of the ratios
//! within each round.
//!
//! What it promises: every reply is checked (`ok`, and the number of documents that it names); all documents of a target
//! went in through that target; before and after each cell it waits until the servers are idle, so that a background
//! export is paid by the one who caused it. CPU per operation is user + system time of the process, from before the
//! first operation of a cell until the process is idle again, over all operations of all rounds.
//!
//! What it does not do: measure more load than two cores make; the generator, the proxy and the store share them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod load;
mod message;
mod options;
mod plan;
mod proc;
mod servers;
mod table;

use clap::Parser as _;
use options::Options;
use plan::Op;
use servers::{Servers, Target};
use std::error::Error;
use table::{Cell, Row, Spent};

/// Anything that ends a run: a bench has nobody to tell apart the causes but a reader.
type Fallible<T> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    let options = Options::parse();
    let servers = Servers::start(&options).await?;
    let header = table::header(&options, &servers)?;
    println!("{header}");
    let rows = measure(&options, &servers).await?;
    let targets = options.targets();
    let text = format!("{}\n{}", table::render(&rows, &targets), table::render_cpu(&rows, &targets));
    println!("{text}");
    if let Some(path) = &options.out {
        std::fs::write(path, format!("{header}\n{text}"))?;
    }
    if let Some(path) = &options.into {
        let page = std::fs::read_to_string(path)?;
        std::fs::write(path, table::put_into(&page, &header, &text)?)?;
    }
    Ok(())
}

/// Runs every cell and puts the rounds together.
async fn measure(options: &Options, servers: &Servers) -> Fallible<Vec<Row>> {
    for target in options.targets() {
        eprintln!("loading {} documents through {}", plan::BASE_DOCUMENTS, target.name());
        plan::load_base(servers.address(target), target).await?;
    }
    let mut rows = Vec::new();
    for op in options.ops() {
        for clients in options.clients() {
            rows.push(one_row(options, servers, op, clients).await?);
        }
    }
    Ok(rows)
}

/// All rounds of one operation with one number of clients.
async fn one_row(options: &Options, servers: &Servers, op: Op, clients: usize) -> Fallible<Row> {
    let mut row = Row::new(op, clients);
    for round in 0..options.rounds() {
        // Each round starts with another target, so that none is always first after a pause.
        let mut targets = options.targets();
        let shift = round % targets.len().max(1);
        targets.rotate_left(shift);
        for target in targets {
            let cell = one_cell(options, servers, target, op, clients).await?;
            eprintln!(
                "{:<12} {clients:>2} clients, round {}, {:<8} {:>8.0} op/s",
                op.name(),
                round + 1,
                target.name(),
                cell.rate
            );
            row.add(target, cell);
        }
    }
    Ok(row)
}

/// One target, one operation, one number of clients, once.
async fn one_cell(options: &Options, servers: &Servers, target: Target, op: Op, clients: usize) -> Fallible<Cell> {
    let address = servers.address(target);
    let seconds = options.seconds() * op.weight();
    let work = plan::prepare(address, target, op, clients, seconds).await?;
    servers.settle().await?;
    let (proxy, store) = (servers.cpu(target)?, servers.store_cpu()?);
    let result = load::run(address, &work, clients, seconds).await?;
    servers.settle().await?;
    let spent = Spent { proxy: servers.cpu(target)?.since(proxy), store: servers.store_cpu()?.since(store) };
    plan::clean(address, &work).await?;
    Ok(Cell::new(&result, spent))
}
