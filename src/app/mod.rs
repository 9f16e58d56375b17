//! Wiring: which part gets which, in what order they start and end.

use crate::config::Config;

/// The sidecar could not start or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {}

/// Runs the sidecar until it is told to end.
///
/// # Errors
/// It could not start or could not go on.
pub fn run(_config: Config) -> Result<(), AppError> {
    Ok(())
}
