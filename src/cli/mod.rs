//! The commands that people and scripts type.
//!
//! Promises: names, flags and exit statuses do not change without a major version. Exit status 0: it holds; 1: it does
//! not; 2: the call was wrong. Results go to standard output, everything else to standard error. `--json` wherever a
//! table is printed.
//!
//! Does not: run the sidecar. [`parse`] hands the settings of `tidelog run` to the caller.

mod admin_client;
mod args;
mod consumers;
mod dlq;
mod log;
mod reconcile;
mod status;
mod text;
mod verify;
mod windows;

pub use args::{Parsed, parse};

use args::{Command, DocsPage};
use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command did not end with 0.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// It does not hold (exit 1).
    #[error("{0}")]
    Failed(String),
    /// The call was wrong (exit 2).
    #[error("{0}")]
    Call(String),
    /// Standard output is closed; nothing is left to say (exit 1).
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Output(_) => 1,
            Self::Call(_) => 2,
        }
    }
}

/// Tells an error on standard error and turns it into the exit status.
pub fn fail(error: &CliError) -> ExitCode {
    let quiet = matches!(error, CliError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe);
    if !quiet && writeln!(io::stderr(), "tidelog: {error}").is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(error.status())
}

/// Runs a command other than `run`.
pub fn execute(command: Command) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = perform(command, &mut out).and_then(|()| out.flush().map_err(CliError::Output));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What was printed before the failure belongs to the result.
            let flushed = out.flush();
            match (&error, flushed) {
                (CliError::Output(_), _) | (_, Ok(())) => fail(&error),
                (_, Err(broken)) => fail(&CliError::Output(broken)),
            }
        }
    }
}

fn perform(command: Command, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        Command::Check { config } => {
            crate::config::load(Some(&config), &[]).map_err(|e| CliError::Call(e.to_string()))?;
            writeln!(out, "{}: the settings hold", config.display())?;
        }
        Command::Status { admin, json } => status::status(&admin, json, out)?,
        Command::Cut { admin, label, json } => status::cut(&admin, &label, json, out)?,
        Command::Log(args) => log::log(&args, out)?,
        Command::Windows { export_dir, admin, json } => {
            windows::windows(export_dir.as_deref(), admin.as_ref(), json, out)?;
        }
        Command::Verify { export_dir, json } => verify::verify(&export_dir, json, out)?,
        Command::Reconcile { admin, namespace, from, to, repair, sample, json } => {
            let (namespace, from, to) = (&namespace, &from, &to);
            let asked = reconcile::Asked { admin: &admin, namespace, from, to, repair, sample, json };
            reconcile::reconcile(&asked, out)?;
        }
        Command::Consumers { command } => consumers::consumers(&command, out)?,
        Command::Dlq { command } => dlq::dlq(&command, out)?,
        Command::Docs { page } => {
            let page = match page {
                DocsPage::Settings => crate::config::reference_page(),
                DocsPage::Metrics => crate::metrics::reference_page(),
                DocsPage::Example => crate::config::example_file(),
            };
            out.write_all(page.as_bytes())?;
        }
    }
    Ok(())
}
