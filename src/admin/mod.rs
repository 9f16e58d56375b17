//! Health, metrics and control over HTTP/1, for people and machines beside the sidecar.
//!
//! | path | says |
//! |---|---|
//! | `GET /healthz` | 200: the process answers |
//! | `GET /readyz` | 200 when writes go through, else 503; with the reasons, and what is wrong with sinks, as text or (`Accept: application/json`) as JSON |
//! | `GET /metrics` | the table of metrics in the Prometheus text format |
//! | `GET /v1/status` | what a person wants to know now |
//! | `GET /v1/windows` | the window ledger: the newest 10,000 |
//! | `GET /v1/windows?after=N&sink=S&wait_ms=W` | the windows after `N` (at most 1,000), those that the sink has if it is named; if there is none, waits for one, 60 s at most |
//! | `GET /v1/windows?consumer=NAME&wait_ms=W` | the same after the checkpoint of a consumer, of the sink that it reads |
//! | `GET /v1/consumers` | the consumers, and how far each is behind |
//! | `PUT /v1/consumers/NAME?window=N&sink=S&note=T&back=true` | makes a consumer or moves it; the same as JSON in the body |
//! | `DELETE /v1/consumers/NAME` | forgets a consumer: it holds nothing any more |
//! | `GET /v1/dlq?sink=S&lsn=N,N` | records that sinks refused |
//! | `POST /v1/dlq/retry?sink=S&lsn=N,N`, `POST /v1/dlq/drop?…` | delivers them after all, or lets them stay missing |
//! | `POST /v1/cut?label=L` | closes a window; answers when it is durable at every sink |
//! | `POST /v1/reconcile?namespace=N&from=ID&to=ID&repair=true&sample=P` | begins a comparison of log and store |
//! | `GET /v1/reconcile` | how far the last comparison is, and what differs |
//!
//! Promises: what it says is read at the moment of the request; a cut that is answered with 200 is durable; nothing here
//! shows documents or credentials, or keys but the `_id`s of documents of which log and store say different things.
//!
//! Does not: authenticate. So it listens on loopback unless a setting says otherwise, answers only to a `Host` that is
//! this machine then, and takes no request that a web page made (`Origin`).

mod consumers;
mod dlq;
mod reconcile;
mod routes;
mod status;

pub use consumers::{ConsumerAsk, ConsumerMark, ConsumerRefused, ConsumerRow};
pub use dlq::{LetterAsk, LetterOrder, LetterRefused, LetterRow, LettersChanged};
pub use reconcile::{DifferenceRow, ReconcileAsk, ReconcileBegun, ReconcileRefused, ReconcileReport, ReconcileRow};
pub use routes::{AdminError, serve};
pub use status::{
    CutAnswer, CutError, ExportStatus, FollowerStatus, GapRow, HeldRow, HolderRow, LogStatus, NodeStatus, ProxyStatus,
    Ready, Reason, RetainedRow, SinkRow, SnapshotStatus, Status, WindowAsk, WindowRow, ready,
};

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// The answer of a cut, some time later.
pub type CutFuture = Pin<Box<dyn Future<Output = Result<CutAnswer, CutError>> + Send>>;

/// Reads dead letters.
pub type LettersOf = Box<dyn Fn(&LetterAsk) -> Vec<LetterRow> + Send + Sync>;
/// Carries out an order about dead letters.
pub type OrderLetters = Box<dyn Fn(&LetterAsk, LetterOrder) -> Result<u64, LetterRefused> + Send + Sync>;

/// Makes or moves a consumer.
pub type SetConsumer = Box<dyn Fn(&str, ConsumerAsk) -> Result<ConsumerRow, ConsumerRefused> + Send + Sync>;
/// Forgets a consumer.
pub type ForgetConsumer = Box<dyn Fn(&str) -> Result<(), ConsumerRefused> + Send + Sync>;

/// What the routes ask of the running sidecar.
pub struct Control {
    /// Why writes would not go through now; empty: they would.
    pub reasons: Box<dyn Fn() -> Vec<Reason> + Send + Sync>,
    /// What a person wants to know.
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
    /// The window ledger, oldest first.
    pub windows: Box<dyn Fn(WindowAsk) -> Result<Vec<WindowRow>, String> + Send + Sync>,
    /// The consumers.
    pub consumers: Box<dyn Fn() -> Vec<ConsumerRow> + Send + Sync>,
    /// Makes or moves one.
    pub set_consumer: SetConsumer,
    /// Forgets one.
    pub forget_consumer: ForgetConsumer,
    /// The dead letters of the sinks.
    pub letters: LettersOf,
    /// Carries out an order about dead letters; tells on how many.
    pub order: OrderLetters,
    /// Closes a window with a label.
    pub cut: Box<dyn Fn(String) -> CutFuture + Send + Sync>,
    /// Begins a comparison of log and store; gives its number.
    pub reconcile: Box<dyn Fn(ReconcileAsk) -> Result<u64, ReconcileRefused> + Send + Sync>,
    /// The last comparison.
    pub reconciled: Box<dyn Fn() -> ReconcileReport + Send + Sync>,
    /// Brings metrics up to date that nobody counts while nothing happens (ages, free space).
    pub sample: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}
