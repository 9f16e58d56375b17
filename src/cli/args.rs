//! What can be typed.

use super::log::LogArgs;
use crate::config::{self, Address, Config, Override};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "tidelog",
    version,
    about = "A sidecar beside a MongoDB node: every write, exact and numbered, in a durable changelog and in closed windows"
)]
#[command(after_help = "Exit status: 0 it holds, 1 it does not, 2 the call was wrong.")]
struct Cli {
    #[command(subcommand)]
    command: Typed,
}

#[derive(Debug, Subcommand)]
enum Typed {
    /// Run the sidecar until it is told to end (SIGTERM or Ctrl-C drain it; a second one ends it at once)
    Run(Box<RunArgs>),
    #[command(flatten)]
    Other(Command),
}

/// A command other than `run`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a settings file: says file, line and what was expected; exit 2 on a bad one
    Check {
        /// The settings file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// What a person wants to know now
    Status {
        /// The admin address of a running sidecar
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:27118")]
        admin: Address,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Close a window now; prints its id when it is durable at every sink
    Cut {
        /// The admin address of a running sidecar
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:27118")]
        admin: Address,
        /// A label for the window, such as `month-end`
        #[arg(long, value_name = "LABEL", default_value = "")]
        label: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The records of a data folder as JSON lines, in order
    Log(LogArgs),
    /// The windows of an export folder, or of a running sidecar's ledger
    #[command(group = clap::ArgGroup::new("from").required(true).args(["export_dir", "admin"]))]
    Windows {
        /// An export folder
        export_dir: Option<PathBuf>,
        /// The admin address of a running sidecar
        #[arg(long, value_name = "ADDRESS")]
        admin: Option<Address>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Audit an export folder, or a local copy of a Delta table, offline: hashes, chain, dense numbers, before == previous after; names the first wrong thing
    Verify {
        /// An export folder, or the folder of a table of a Delta sink
        export_dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare log and store: says each document that differs, and which side lacks it; exit 1 when any does
    Reconcile {
        /// The admin address of a running sidecar
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:27118")]
        admin: Address,
        /// Only this namespace (`db.collection`)
        #[arg(long, value_name = "NAMESPACE", default_value = "")]
        namespace: String,
        /// Only documents of that namespace from this `_id` on: Extended JSON, itself included, in the order of BSON comparison
        #[arg(long, value_name = "ID", default_value = "", requires = "namespace", allow_hyphen_values = true)]
        from: String,
        /// Only documents before this `_id`: Extended JSON, itself left out
        #[arg(long, value_name = "ID", default_value = "", requires = "namespace", allow_hyphen_values = true)]
        to: String,
        /// Append observed records for what differs
        #[arg(long)]
        repair: bool,
        /// The part of each namespace to compare, in ranges drawn at random
        #[arg(long, value_name = "PERCENT", default_value_t = 100, conflicts_with_all = ["from", "to"], value_parser = clap::value_parser!(u64).range(1..=100))]
        sample: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Records that sinks refused, each alone: look at them, deliver them after all, or give them up
    Dlq {
        /// What to do
        #[command(subcommand)]
        command: DlqCommand,
    },
    /// Named checkpoints of those who read windows: who is how far behind, and holds what
    Consumers {
        /// What to do
        #[command(subcommand)]
        command: ConsumersCommand,
    },
    /// Print a reference page made from the code
    Docs {
        /// Which
        page: DocsPage,
    },
}

/// A page that the program can print.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DocsPage {
    /// All settings (Markdown)
    Settings,
    /// All metrics (Markdown)
    Metrics,
    /// A commented settings file with all defaults (TOML)
    Example,
}

/// The flags of `run`. They are texts here: `config` reads them, so that a wrong one is told in the same words.
#[derive(Debug, Args)]
struct RunArgs {
    /// The settings file; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where applications connect
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The node that the sidecar stands beside
    #[arg(long, value_name = "ADDRESS")]
    upstream: Option<String>,
    /// The folder of the changelog
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// The folder that gets closed windows
    #[arg(long, value_name = "DIR")]
    export: Option<String>,
    /// Where health, metrics and control are served
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The address that drivers are told instead of the node's own
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<String>,
    /// Another node and the address of its sidecar; may be repeated
    #[arg(long, value_name = "NODE=ADDRESS")]
    host: Vec<String>,
    /// When a client has its ok: always, interval or os
    #[arg(long, value_name = "WHEN")]
    durability: Option<String>,
    /// The form of log lines: text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// How much is said: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any setting; may be repeated
    #[arg(long, value_name = "SECTION.NAME=VALUE")]
    set: Vec<String>,
}

impl RunArgs {
    fn overrides(&self) -> Result<Vec<Override>, String> {
        let mut all = Vec::new();
        for text in &self.set {
            let wrong = || format!("--set {text}: expected SECTION.NAME=VALUE");
            let (path, value) = text.split_once('=').ok_or_else(wrong)?;
            all.push(Override { flag: format!("--set {path}"), path: path.into(), key: None, value: value.into() });
        }
        for text in &self.host {
            let (node, value) = text.split_once('=').ok_or_else(|| format!("--host {text}: expected NODE=ADDRESS"))?;
            let key = Some(node.to_owned());
            all.push(Override { flag: format!("--host {text}"), path: "proxy.hosts".into(), key, value: value.into() });
        }
        let named = [
            ("--listen", "proxy.listen", &self.listen),
            ("--upstream", "proxy.upstream", &self.upstream),
            ("--advertise", "proxy.advertise", &self.advertise),
            ("--data", "log.data", &self.data),
            ("--export", "export.dir", &self.export),
            ("--admin", "admin.listen", &self.admin),
            ("--durability", "log.durability", &self.durability),
            ("--log-format", "logging.format", &self.log_format),
            ("--log-level", "logging.level", &self.log_level),
        ];
        for (flag, path, value) in named {
            if let Some(value) = value {
                all.push(Override { flag: flag.into(), path: path.into(), key: None, value: value.clone() });
            }
        }
        Ok(all)
    }
}

/// What the call asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Run the sidecar.
    Run(Box<Config>),
    /// Run a command.
    Command(Command),
    /// Everything is said already (`--help`, `--version`, a wrong call).
    Done(ExitCode),
}

/// Reads a command line, the program's name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Parsed {
    match Cli::try_parse_from(args) {
        Ok(Cli { command: Typed::Other(command) }) => Parsed::Command(command),
        Ok(Cli { command: Typed::Run(run) }) => {
            let loaded =
                run.overrides().and_then(|over| config::load(run.config.as_deref(), &over).map_err(|e| e.to_string()));
            match loaded {
                Ok(config) => Parsed::Run(Box::new(config)),
                Err(message) => Parsed::Done(super::fail(&super::CliError::Call(message))),
            }
        }
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let text = error.render();
            let said = match (error.use_stderr(), io::stderr().is_terminal()) {
                (true, true) => write!(io::stderr(), "{}", text.ansi()),
                (true, false) => write!(io::stderr(), "{text}"),
                (false, _) => write!(io::stdout(), "{text}"),
            };
            Parsed::Done(if said.is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE })
        }
    }
}

/// Which letters, and where the sidecar is.
#[derive(Clone, Debug, clap::Args)]
pub struct Letters {
    /// The admin address of a running sidecar
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:27118")]
    pub admin: Address,
    /// Only of this sink
    #[arg(long, value_name = "NAME", default_value = "")]
    pub sink: String,
    /// Only of these records (their numbers in the log)
    #[arg(value_name = "LSN")]
    pub lsn: Vec<u64>,
}

/// `tidelog dlq …`
#[derive(Clone, Debug, clap::Subcommand)]
pub enum DlqCommand {
    /// A line for each letter
    List {
        #[command(flatten)]
        letters: Letters,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// All that is known of letters, but the documents
    Show {
        #[command(flatten)]
        letters: Letters,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Deliver records (all that wait, or those named) in amendments of their windows
    Retry {
        #[command(flatten)]
        letters: Letters,
    },
    /// Let records stay missing
    Drop {
        #[command(flatten)]
        letters: Letters,
        /// All that wait
        #[arg(long)]
        all: bool,
    },
}

/// `tidelog consumers …`
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConsumersCommand {
    /// A line for each consumer
    List {
        /// The admin address of a running sidecar
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:27118")]
        admin: Address,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a consumer, or move its checkpoint
    Set {
        /// The admin address of a running sidecar
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:27118")]
        admin: Address,
        /// Its name: a-z, 0-9, `-`, `_`, `.`
        name: String,
        /// The last window that it is done with, `oldest` or `now`; a new one begins with the oldest unless this says otherwise
        #[arg(long, value_name = "WINDOW")]
        window: Option<String>,
        /// The sink that it reads; without one it reads windows as such and holds them everywhere
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// A word for people
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// It may go back
        #[arg(long)]
        back: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget a consumer: it holds nothing any more
    Drop {
        /// The admin address of a running sidecar
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:27118")]
        admin: Address,
        /// Its name
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn typed(line: &str) -> Parsed {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_the_table_exists() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        let flags: Vec<_> = run.get_arguments().filter_map(|a| a.get_long()).map(|l| format!("--{l}")).collect();
        for setting in config::SETTINGS.iter().filter(|s| !s.flag.is_empty()) {
            assert!(flags.contains(&setting.flag.to_owned()), "{} of {}", setting.flag, setting.path);
        }
    }

    #[test]
    fn run_takes_the_documented_flags() {
        let line = "tidelog run --listen 127.0.0.1:1 --upstream 127.0.0.1:2 --data /d --export /e --admin 127.0.0.1:3 \
                    --host n:1=s:2 --set windows.idle_ms=200";
        let Parsed::Run(config) = typed(line) else { panic!("not run") };
        assert_eq!(config.proxy.upstream.to_string(), "127.0.0.1:2");
        assert_eq!((config.proxy.hosts.len(), config.windows.idle_ms), (1, 200));
    }

    #[test]
    fn wrong_calls_end_with_two() {
        for line in
            ["tidelog", "tidelog fly", "tidelog run --listen x", "tidelog run --set a", "tidelog status --admin x"]
        {
            let Parsed::Done(code) = typed(line) else { panic!("{line}") };
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(2)), "{line}");
        }
    }
}
