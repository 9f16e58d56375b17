//! What was typed → what is true: the settings, from a TOML file and from flags.
//!
//! Promises:
//! - Flags win over the file, the file wins over the defaults.
//! - A setting that is unknown, of the wrong kind, out of range or at odds with another is refused, and the refusal says
//!   where it stands (file and line, or flag), what was found and what was expected. All that is wrong is told at once
//!   as far as the file can be read.
//! - A password is never in the file, in a flag or in a log line: it comes from a file or from the environment.
//!
//! Does not: open, bind or connect to anything but the settings file and the password file.
//!
//! # Decisions
//!
//! One table ([`SETTINGS`]) has the range and the help of each setting. The reference page, the example file and the
//! range checks are made from it; a test holds it and [`Config`] together.

mod address;
mod data_dir;
mod example;
mod keep;
mod load;
mod markers;
mod pattern;
mod retain;
mod secret;
mod sink_table;
mod sinks;
mod table;

pub use address::Address;
pub use data_dir::DataDir;
pub use example::{example_file, reference_page};
pub use keep::{FollowerConfig, ReconcileConfig, SnapshotConfig};
pub use load::{ConfigError, Override, Problem, load};
pub use markers::{FieldValue, MarkerConfig};
pub use pattern::NamespacePattern;
pub use retain::RetentionConfig;
pub use secret::{Secret, SecretError};
pub use sinks::{Compression, Envelope, Format, MAX_SINKS, SinkConfig, SinkKind, Start};
pub use table::{Kind, SETTINGS, Setting};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// All settings. Units stand last in the names: `_ms` milliseconds, `_bytes` bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The wire between applications and the node.
    pub proxy: ProxyConfig,
    /// The sidecar's own client of the node.
    pub store: StoreConfig,
    /// How writes are captured.
    pub capture: CaptureConfig,
    /// The first read of namespaces.
    pub snapshot: SnapshotConfig,
    /// The change stream.
    pub follower: FollowerConfig,
    /// Comparisons of log and store.
    pub reconcile: ReconcileConfig,
    /// The changelog.
    pub log: LogConfig,
    /// What is kept, and for how long.
    pub retention: RetentionConfig,
    /// When windows close.
    pub windows: WindowsConfig,
    /// Documents that close windows, by name.
    pub markers: BTreeMap<String, MarkerConfig>,
    /// Where windows go.
    pub export: ExportConfig,
    /// More places, by name.
    pub sinks: BTreeMap<String, SinkConfig>,
    /// Health, metrics, control.
    pub admin: AdminConfig,
    /// The bounds of what is held for clients.
    pub limits: LimitsConfig,
    /// The sidecar's own log lines.
    pub logging: LoggingConfig,
}

/// The wire between applications and the node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyConfig {
    /// Where applications connect.
    pub listen: Address,
    /// The node.
    pub upstream: Address,
    /// The address that clients see instead of the node's own; `None`: the one that each client connected to.
    #[serde(with = "address::optional")]
    pub advertise: Option<Address>,
    /// Other nodes of the set → the addresses that clients see instead.
    pub hosts: BTreeMap<Address, Address>,
    /// How long an ending sidecar waits for commands in flight.
    pub drain_ms: u64,
}

/// The sidecar's own client of the node, for what no client's connection can do (recovery).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Connection string; empty: made from `proxy.upstream`.
    pub uri: String,
    /// User name; empty: no authentication.
    pub username: String,
    /// The database that knows the user.
    pub auth_source: String,
    /// A file whose first line is the password; empty: none.
    pub password_file: PathBuf,
    /// The name of an environment variable that holds the password; empty: none.
    pub password_env: String,
    /// How long a connection attempt may take.
    pub connect_timeout_ms: u64,
    /// How long the store may keep what it acknowledged before it writes its journal.
    pub journal_ms: u64,
}

/// How the images of a change are proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureMode {
    /// `before` is always read from the store.
    Exact,
}

/// What happens to a write inside a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transactions {
    /// The changes of a committed transaction stand in the log, whole.
    Capture,
    /// It is answered with an error that names this setting.
    Refuse,
}

/// How writes are captured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureConfig {
    /// How the images of a change are proved.
    pub mode: CaptureMode,
    /// What happens to a write inside a transaction.
    pub transactions: Transactions,
    /// After this time since its first command a transaction is taken for dead.
    pub transaction_lifetime_ms: u64,
    /// How long a statement or commit of a transaction waits for its guards.
    pub transaction_wait_ms: u64,
    /// After a start, entities of open intents are verified at once and again after this time, since a write may outlive
    /// the process that forwarded it.
    pub second_look_ms: u64,
    /// How far ahead of the wall clock a cluster time may be and still be merged.
    pub clock_ahead_ms: u64,
}

/// When a record counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Synced to the disk before the client has its ok.
    Always,
    /// Written before the ok, synced each `sync_interval_ms`.
    Interval,
    /// Written before the ok, synced when the operating system likes.
    Os,
}

/// The changelog.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The folder of the log, the index and the window ledger.
    pub data: PathBuf,
    /// When a record counts as durable.
    pub durability: Durability,
    /// With `durability = "interval"`: the time between syncs.
    pub sync_interval_ms: u64,
    /// A segment that is larger is closed.
    pub segment_bytes: u64,
    /// Bytes that may wait for the committer before writes wait.
    pub queue_bytes: u64,
    /// With less free space, writes are refused before they are forwarded.
    pub min_free_bytes: u64,
}

/// When windows close: at the first bound that is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WindowsConfig {
    /// Bytes of records in the log.
    pub max_bytes: u64,
    /// Records.
    pub max_records: u64,
    /// Age of the first record.
    pub max_age_ms: u64,
    /// Time without a new record.
    pub idle_ms: u64,
    /// A window that is quiet stays open until its first record is this old, unless another bound is reached.
    pub min_age_ms: u64,
    /// A window that is quiet stays open until it has this many bytes of the log, unless another bound is reached.
    pub min_bytes: u64,
    /// Times at which a window closes, as a cron expression; empty: none.
    pub schedule: String,
    /// The time zone of the schedule.
    pub time_zone: String,
    /// A record younger than this is in no window: the store may still lose it in a crash.
    pub settle_ms: u64,
}

/// Where windows go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportConfig {
    /// The folder that gets a folder per window; empty: none.
    pub dir: PathBuf,
    /// The longest wait before a sink that failed is tried again.
    pub retry_max_ms: u64,
    /// A window closed longer ago than this may be removed from there; 0: none.
    pub keep_age_ms: u64,
    /// The oldest windows may be removed from there when all have more bytes; 0: no bound.
    pub keep_bytes: u64,
    /// Each window has files of its entities' last changes too.
    pub latest: bool,
}

/// Health, metrics, control.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Where it listens.
    pub listen: Address,
    /// It may listen on an address that other machines reach. There is no authentication.
    pub allow_remote: bool,
}

/// The bounds of what is held for clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Client connections at the same time.
    pub connections: u32,
    /// The greatest message taken from either side.
    pub message_bytes: u32,
    /// Message bytes in memory for all connections together; past it, connections wait.
    pub inflight_bytes: u64,
    /// A connection without a message for this long is closed; 0: never.
    pub idle_ms: u64,
    /// A message of which no byte came (or left) for this long ends its connection.
    pub stall_ms: u64,
    /// Threads that serve connections; 0: half the cores, at least one.
    pub worker_threads: usize,
}

/// The form of the sidecar's own log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much the sidecar says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what needs a person.
    Error,
    /// And what may need one soon.
    Warn,
    /// And what happened.
    Info,
    /// And how.
    Debug,
    /// Everything.
    Trace,
}

/// The sidecar's own log lines, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingConfig {
    /// Their form.
    pub format: LogFormat,
    /// How much is said.
    pub level: LogLevel,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            listen: Address::local(27_117),
            upstream: Address::local(27_017),
            advertise: None,
            hosts: BTreeMap::new(),
            drain_ms: 10_000,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            uri: String::new(),
            username: String::new(),
            auth_source: "admin".into(),
            password_file: PathBuf::new(),
            password_env: String::new(),
            connect_timeout_ms: 5_000,
            journal_ms: 250,
        }
    }
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            mode: CaptureMode::Exact,
            transactions: Transactions::Capture,
            transaction_lifetime_ms: 70_000,
            transaction_wait_ms: 5_000,
            second_look_ms: 5_000,
            clock_ahead_ms: 3_600_000,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            data: "/var/lib/tidelog/data".into(),
            durability: Durability::Always,
            sync_interval_ms: 50,
            segment_bytes: 256 << 20,
            queue_bytes: 256 << 20,
            min_free_bytes: 1 << 30,
        }
    }
}

impl Default for WindowsConfig {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_records: 100_000,
            max_age_ms: 60_000,
            idle_ms: 5_000,
            min_age_ms: 0,
            min_bytes: 0,
            schedule: String::new(),
            time_zone: "UTC".into(),
            settle_ms: 500,
        }
    }
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self {
            dir: "/var/lib/tidelog/export".into(),
            retry_max_ms: 30_000,
            keep_age_ms: 0,
            keep_bytes: 0,
            latest: false,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: Address::local(27_118), allow_remote: false }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 4_096,
            message_bytes: 48_000_000,
            inflight_bytes: 1 << 30,
            idle_ms: 3_600_000,
            stall_ms: 60_000,
            worker_threads: 0,
        }
    }
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: LogLevel::Info }
    }
}

impl Config {
    /// The connection string of the sidecar's own client, without credentials.
    pub fn store_uri(&self) -> String {
        match self.store.uri.as_str() {
            "" => format!("mongodb://{}/?directConnection=true", self.proxy.upstream),
            uri => uri.to_owned(),
        }
    }
}
