//! What a person may choose.

use crate::plan::Op;
use crate::servers::Target;
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Drives a store directly, through HAProxy and through Tidelog, and prints one table.
#[derive(Debug, Parser)]
#[command(name = "wire")]
pub(crate) struct Options {
    /// The quick form: find, insert, update, delete; 1 and 16 clients; one second a cell.
    #[arg(long)]
    quick: bool,
    /// Operations, by name: find, insert, update, replace, delete, insertMany, updateMany.
    #[arg(long, value_delimiter = ',', value_enum)]
    ops: Vec<Op>,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',')]
    clients: Vec<usize>,
    /// Targets, by name: direct, haproxy, tidelog.
    #[arg(long, value_delimiter = ',', value_enum)]
    targets: Vec<Target>,
    /// Interleaved rounds; figures are medians over them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: u16,
    /// Seconds measured in each cell.
    #[arg(long)]
    seconds: Option<f64>,
    /// Folder for the store's data and Tidelog's log: it should lie on the disk that you want to measure.
    #[arg(long, default_value = "target/bench-wire")]
    pub(crate) dir: PathBuf,
    /// The store's binary; else `$TIDELOG_STORE_BIN`, `mongod`, or what deploy/lib.sh installed.
    #[arg(long)]
    pub(crate) store_bin: Option<PathBuf>,
    /// Another sidecar than the one of this build: to compare two commits.
    #[arg(long)]
    pub(crate) tidelog_bin: Option<PathBuf>,
    /// More arguments for `tidelog run`, split at spaces.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) tidelog_args: String,
    /// Writes the table into this file too.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Puts the tables between the marks `<!-- bench: begin -->` and `<!-- bench: end -->` of this file.
    #[arg(long)]
    pub(crate) into: Option<PathBuf>,
    /// Given by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Operations to run, in the order of the table.
    pub(crate) fn ops(&self) -> Vec<Op> {
        if !self.ops.is_empty() {
            return self.ops.clone();
        }
        if self.quick {
            return vec![Op::Find, Op::Insert, Op::Update, Op::Delete];
        }
        Op::ALL.to_vec()
    }

    /// Numbers of clients to run with.
    pub(crate) fn clients(&self) -> Vec<usize> {
        match (self.clients.is_empty(), self.quick) {
            (false, _) => self.clients.clone(),
            (true, true) => vec![1, 16],
            (true, false) => vec![1, 16, 64],
        }
    }

    /// Who is driven.
    pub(crate) fn targets(&self) -> Vec<Target> {
        if self.targets.is_empty() {
            return Target::ALL.to_vec();
        }
        self.targets.clone()
    }

    /// Interleaved rounds.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.into()
    }

    /// The measured time of a cell (three times that for insertMany and updateMany), after a warm-up of a fifth of it.
    pub(crate) fn seconds(&self) -> Duration {
        let seconds = self.seconds.unwrap_or(if self.quick { 1.0 } else { 2.0 });
        Duration::from_secs_f64(seconds.clamp(0.1, 600.0))
    }
}
