//! The sidecar's own log lines: on standard error, for people or as JSON.

use crate::config::{LogFormat, LogLevel, LoggingConfig};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts them. A second call in one process changes nothing.
pub(super) fn start(settings: &LoggingConfig) {
    let level = match settings.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // Libraries are heard only where they warn: what they say in detail may hold what clients sent.
    let filter = EnvFilter::new(format!("{},tidelog={level}", if level == "error" { "error" } else { "warn" }));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let started = match settings.format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "log lines go where they went before");
    }
}
