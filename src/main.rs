//! The program `tidelog`: reads the command line and hands it on.

use std::process::ExitCode;
use tidelog::cli::{self, Parsed};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Parsed::Run(config) => match tidelog::app::run(*config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => cli::fail(&cli::CliError::Failed(error.to_string())),
        },
        Parsed::Command(command) => cli::execute(command),
        Parsed::Done(code) => code,
    }
}
