//! Where a new sink begins.

use super::checkpoint::{self, Checkpoint};
use super::error::ExportError;
use super::worker::{SinkOptions, Sources};
use crate::config::Start;
use crate::types::{LogState, WindowId};

/// Before the first window, or after one that it will not get. What was found is made durable, so
/// that `now` is asked once.
pub(super) fn begin(
    sources: &Sources,
    options: &SinkOptions,
    closed: WindowId,
) -> Result<Option<Checkpoint>, ExportError> {
    let gone = gone(sources, closed)?;
    let before = match options.config.start {
        Start::Oldest => gone,
        Start::Now => closed,
        Start::Window(first) => WindowId(first - 1),
    };
    if before > closed {
        return Err(ExportError::Start { sink: options.name.to_owned(), first: before.next(), closed });
    }
    if before < gone {
        let (first, oldest) = (before.next(), gone.next());
        return Err(ExportError::Trimmed { sink: options.name.to_owned(), first, oldest });
    }
    let Some(window) = sources.windows.get(before)? else { return Ok(None) };
    let at = Checkpoint { window: before, last: window.last, manifest: None };
    checkpoint::store(&*sources.disk, &sources.checkpoints, options.name, sources.log_id, &at)?;
    Ok(Some(at))
}

/// The last closed window that the log no longer has whole; zero: it has all.
fn gone(sources: &Sources, closed: WindowId) -> Result<WindowId, ExportError> {
    let first = sources.log.first();
    let (mut gone, mut whole) = (WindowId::ZERO, closed.next());
    while gone.next() < whole {
        let middle = WindowId(gone.0 + (whole.0 - gone.0) / 2);
        let begins = sources.windows.get(middle)?.map_or(first, |window| window.first);
        if begins < first {
            gone = middle;
        } else {
            whole = middle;
        }
    }
    Ok(gone)
}

/// The state at a window's end.
pub(super) fn state_at(sources: &Sources, window: WindowId) -> Result<LogState, ExportError> {
    let mut state = LogState::default();
    for id in 1..=window.0 {
        if let Some(window) = sources.windows.get(WindowId(id))? {
            window.fold(&mut state);
        }
    }
    Ok(state)
}
