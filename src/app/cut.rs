//! A cut, asked for over the wire or at the admin address: close a window, then wait until every sink has it.

use crate::admin::{CutAnswer, CutError};
use crate::changelog::Horizon;
use crate::export::ExporterHandle;
use crate::proxy::CutFn;
use crate::wire::reply::Failure;
use std::sync::Arc;
use std::time::Duration;

/// How long a cut may take altogether.
const PATIENCE: Duration = Duration::from_mins(2);

/// Closes a window with a label (empty: none) and waits until it is durable at every sink.
pub(super) async fn cut(
    exporter: Arc<ExporterHandle>,
    horizon: Arc<Horizon>,
    label: String,
) -> Result<CutAnswer, CutError> {
    let whole = tokio::time::Instant::now() + PATIENCE;
    let label = Some(label).filter(|text| !text.is_empty());
    let closed = tokio::time::timeout_at(whole, exporter.cut(label)).await;
    let window = match closed {
        Ok(Ok(window)) => window,
        Ok(Err(error)) => return Err(CutError::Unavailable(error.to_string())),
        Err(_late) => {
            let why = format!("nothing settled within {} s: {}", PATIENCE.as_secs(), horizon.held());
            return Err(CutError::Unavailable(why));
        }
    };
    let not_yet = |why: String| CutError::NotExported { window: window.0, why };
    match tokio::time::timeout_at(whole, exporter.wait_exported(window)).await {
        Ok(Ok(())) => Ok(CutAnswer { window: window.0 }),
        Ok(Err(error)) => Err(not_yet(error.to_string())),
        Err(_late) => Err(not_yet(format!("not delivered within {} s", PATIENCE.as_secs()))),
    }
}

/// The same for `{tidelogCut: 1}` on the wire.
pub(super) fn on_the_wire(exporter: &Arc<ExporterHandle>, horizon: &Arc<Horizon>) -> CutFn {
    let (exporter, horizon) = (Arc::clone(exporter), Arc::clone(horizon));
    Arc::new(move |label| {
        let (exporter, horizon) = (Arc::clone(&exporter), Arc::clone(&horizon));
        Box::pin(async move {
            let done = cut(exporter, horizon, label.unwrap_or_default()).await;
            done.map(|answer| answer.window).map_err(|error| Failure::new(6, "HostUnreachable", error.to_string()))
        })
    })
}
