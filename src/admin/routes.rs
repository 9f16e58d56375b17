//! The routes and the server.

use super::status::ready as ready_for;
use super::{Control, CutError, Ready, ReconcileAsk, ReconcileBegun, ReconcileRefused, WindowAsk, consumers, dlq};
use crate::config::{Address, AdminConfig};
use crate::metrics;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// The longest wait for a window.
const LONGEST_WAIT_MS: u64 = 60_000;
/// How often one who waits looks.
const LOOK: Duration = Duration::from_millis(20);
/// Most characters of a label.
const LABEL_CHARS: usize = 256;

/// The admin address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It is reachable from other machines and no setting allows that.
    #[error("admin.listen: {0} is reachable from other machines; `admin.allow_remote = true` allows it")]
    Remote(String),
    /// The server ended.
    #[error("the admin server ended: {0}")]
    Serve(std::io::Error),
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) control: Control,
    /// Ask for a `Host` that is this machine.
    local_only: bool,
}

/// Serves until `stop` is ready, then lets requests in flight end.
///
/// # Errors
/// The listener is not on loopback and `settings` do not allow that, or accepting failed for good.
pub async fn serve(
    listener: TcpListener,
    settings: &AdminConfig,
    control: Control,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let address = listener.local_addr().map_err(AdminError::Serve)?;
    let local_only = address.ip().is_loopback();
    if !local_only && !settings.allow_remote {
        return Err(AdminError::Remote(address.to_string()));
    }
    let shared = Arc::new(Shared { control, local_only });
    axum::serve(listener, router(shared)).with_graceful_shutdown(stop).await.map_err(AdminError::Serve)
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_page))
        .route("/v1/status", get(status))
        .route("/v1/windows", get(windows))
        .route("/v1/consumers", get(consumers::list))
        .route("/v1/consumers/{name}", put(consumers::set).delete(consumers::forget))
        .route("/v1/dlq", get(dlq::list))
        .route("/v1/dlq/retry", post(dlq::retry))
        .route("/v1/dlq/drop", post(dlq::drop_letters))
        .route("/v1/cut", post(cut))
        .route("/v1/reconcile", get(reconciled).post(reconcile))
        .fallback(async || {
            refuse(
                StatusCode::NOT_FOUND,
                "no such page; see /healthz /readyz /metrics /v1/status /v1/windows /v1/consumers /v1/dlq /v1/reconcile",
            )
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

pub(super) fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// Turns away what a web page in a browser on this machine could send, and counts.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let response = if headers.contains_key(header::ORIGIN) {
        refuse(StatusCode::FORBIDDEN, "requests of web pages are not taken")
    } else if shared.local_only && !host_is_local(headers) {
        refuse(StatusCode::FORBIDDEN, "the Host header is not this machine's loopback")
    } else {
        next.run(request).await
    };
    let class = match response.status().as_u16() {
        0..400 => "ok",
        400..500 => "client",
        _ => "server",
    };
    metrics::ADMIN_REQUESTS.inc_for(class);
    response
}

fn host_is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    // Without a port the scheme's own is meant.
    let with_port = if host.parse::<Address>().is_ok() { host.to_owned() } else { format!("{host}:80") };
    with_port.parse::<Address>().is_ok_and(|address| address.is_loopback())
}

async fn ready(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let reasons = (shared.control.reasons)();
    let ready = ready_for(&reasons);
    metrics::READY.set_flag(ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    if accept.contains("application/json") {
        return (status, Json(Ready { ready, reasons })).into_response();
    }
    let mut text = String::from(if ready { "ready\n" } else { "not ready\n" });
    for reason in reasons {
        let mark = if reason.blocks() { "" } else { "warning: " };
        text.push_str(&[mark, reason.part.as_str(), ": ", &reason.message, "\n"].concat());
    }
    (status, text).into_response()
}

async fn metrics_page(State(shared): State<Arc<Shared>>) -> Response {
    (shared.control.sample)();
    metrics::READY.set_flag(ready_for(&(shared.control.reasons)()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render()).into_response()
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    (shared.control.sample)();
    Json((shared.control.status)()).into_response()
}

/// The ledger; with `after`, a consumer waits here for the next window instead of asking again and again.
async fn windows(State(shared): State<Arc<Shared>>, Query(asked): Query<WindowAsk>) -> Response {
    let until = Instant::now() + Duration::from_millis(asked.wait_ms.min(LONGEST_WAIT_MS));
    let by_name = !asked.consumer.is_empty();
    if by_name && (asked.after.is_some() || !asked.sink.is_empty()) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "consumer: it has its own place and sink; leave `after` and `sink` out",
        );
    }
    loop {
        match (shared.control.windows)(asked.clone()) {
            Ok(rows) if rows.is_empty() && (asked.after.is_some() || by_name) && Instant::now() < until => {
                tokio::time::sleep(LOOK).await;
            }
            Ok(rows) => return Json(rows).into_response(),
            Err(error) => return refuse(StatusCode::NOT_FOUND, &error),
        }
    }
}

#[derive(Debug, Deserialize)]
struct CutQuery {
    #[serde(default)]
    label: String,
}

async fn cut(State(shared): State<Arc<Shared>>, method: Method, Query(query): Query<CutQuery>) -> Response {
    if query.label.chars().count() > LABEL_CHARS || query.label.chars().any(char::is_control) {
        let message = "label: expected at most 256 characters, none of them control characters";
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    tracing::info!(%method, label = query.label, "cut asked for");
    match (shared.control.cut)(query.label).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error @ CutError::Unavailable(_)) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        Err(error @ CutError::NotExported { window, .. }) => {
            let body = json!({ "error": error.to_string(), "window": window });
            (StatusCode::GATEWAY_TIMEOUT, Json(body)).into_response()
        }
    }
}

async fn reconciled(State(shared): State<Arc<Shared>>) -> Response {
    Json((shared.control.reconciled)()).into_response()
}

async fn reconcile(State(shared): State<Arc<Shared>>, Query(asked): Query<ReconcileAsk>) -> Response {
    if !(1..=100).contains(&asked.sample) {
        return refuse(StatusCode::BAD_REQUEST, "sample: expected a whole number from 1 to 100");
    }
    if !asked.namespace.is_empty() && !asked.namespace.contains('.') {
        return refuse(StatusCode::BAD_REQUEST, "namespace: expected db.collection");
    }
    let range = !asked.from.is_empty() || !asked.to.is_empty();
    if range && asked.namespace.is_empty() {
        return refuse(StatusCode::BAD_REQUEST, "from, to: a range is one of a namespace; name it");
    }
    if range && asked.sample != 100 {
        return refuse(StatusCode::BAD_REQUEST, "from, to, sample: a range is compared whole");
    }
    tracing::info!(
        namespace = asked.namespace,
        range,
        repair = asked.repair,
        sample = asked.sample,
        "comparison asked for"
    );
    match (shared.control.reconcile)(asked) {
        Ok(run) => Json(ReconcileBegun { run }).into_response(),
        Err(ReconcileRefused::Call(why)) => refuse(StatusCode::BAD_REQUEST, &why),
        Err(ReconcileRefused::Busy(why)) => refuse(StatusCode::CONFLICT, &why),
    }
}
