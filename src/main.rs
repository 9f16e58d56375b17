//! The program `tidelog`: reads the command line and hands it on.

use std::process::ExitCode;
use tidelog::cli::{self, Parsed};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Parsed::Run(config) => match tidelog::app::run(*config) {
            Ok(()) => ExitCode::SUCCESS,
            // Its last log line has told the error.
            Err(_) => ExitCode::FAILURE,
        },
        Parsed::Command(command) => cli::execute(command),
        Parsed::Done(code) => code,
    }
}
