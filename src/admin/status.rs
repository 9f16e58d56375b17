//! What the admin address says, as values: the same types are written by the sidecar and read by `tidelog status`.

use serde::{Deserialize, Serialize};

/// What is wrong: why the sidecar is not ready, or what needs a person though writes go through.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reason {
    /// `start`, `upstream`, `log`, `disk`, `index`, `export`, `sink`, `retention` or `drain`.
    pub part: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Reason {
    /// Writes do not go through. What is wrong with the windows and the sinks never takes applications their node away.
    pub fn blocks(&self) -> bool {
        !matches!(self.part.as_str(), "sink" | "export" | "retention")
    }
}

/// None of the reasons keeps writes from going through.
pub fn ready(reasons: &[Reason]) -> bool {
    !reasons.iter().any(Reason::blocks)
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Ready {
    /// Writes go through.
    pub ready: bool,
    /// Why not, and what is wrong though it is ready.
    pub reasons: Vec<Reason>,
}

/// The answer of `/v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// Writes go through.
    pub ready: bool,
    /// Why not, and what is wrong though it is ready.
    pub reasons: Vec<Reason>,
    /// Time since the start.
    pub uptime_ms: u64,
    /// The wire.
    pub proxy: ProxyStatus,
    /// The node, as the watch saw it last.
    pub node: NodeStatus,
    /// The changelog.
    pub log: LogStatus,
    /// The windows, and the sinks that get them.
    pub export: ExportStatus,
    /// The first read of namespaces.
    pub snapshot: SnapshotStatus,
    /// The change stream.
    pub follower: FollowerStatus,
    /// What the log does not prove now.
    pub gaps: Vec<GapRow>,
}

/// The change stream, which tells of other writers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FollowerStatus {
    /// `following`, `off: …` or `waiting: …`.
    pub state: String,
    /// Time of the last event judged, RFC 3339; empty: none yet.
    pub position: String,
    /// More events wait.
    pub behind: bool,
    /// Events of other writers since the start.
    pub foreign: u64,
}

/// The first read of namespaces that held documents before the sidecar came.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SnapshotStatus {
    /// It is on.
    pub enabled: bool,
    /// Namespaces that the log does not hold whole yet.
    pub waiting: u64,
    /// The one being read; empty: none.
    pub reading: String,
    /// Documents of it that were read.
    pub read: u64,
    /// About how many it holds.
    pub estimated: u64,
    /// The same of 100.
    pub percent: u64,
    /// Documents a second, lately; 0: not known yet.
    pub per_second: u64,
    /// About how long it will still take; 0 while the rate is not known.
    pub left_ms: u64,
    /// Why the last try failed; empty: it did not.
    pub error: String,
}

/// The wire between applications and the node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ProxyStatus {
    /// Where applications connect.
    pub listen: String,
    /// What they are told to connect to.
    pub advertise: String,
    /// The node.
    pub upstream: String,
    /// The node answers.
    pub upstream_up: bool,
    /// Client connections open.
    pub connections: u64,
    /// Message bytes in memory.
    pub inflight_bytes: u64,
    /// Write commands captured since the start.
    pub write_commands: u64,
    /// Hosts in hello replies that the advertise table does not name, since the start.
    pub unknown_hosts: u64,
}

/// The node as the watch saw it last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct NodeStatus {
    /// `primary`, `not primary`, `standalone`; empty: it has not answered yet.
    pub role: String,
    /// Identity of its process; empty: it tells none.
    pub process: String,
    /// Election term; 0: none.
    pub term: u64,
    /// What it may have lost is being verified.
    pub correcting: bool,
}

/// The changelog.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LogStatus {
    /// The log's identity.
    pub id: String,
    /// Its folder.
    pub data: String,
    /// When a record counts as durable.
    pub durability: String,
    /// The first record that it still has.
    #[serde(default)]
    pub first_lsn: u64,
    /// The last durable record.
    pub tail_lsn: u64,
    /// Who counts: the epoch that changes carry.
    pub epoch: u32,
    /// The last record that the store can no longer take back: windows close up to here.
    pub proven_lsn: u64,
    /// Why that stands still; empty: it does not.
    pub held: String,
    /// Segments on disk.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Free space of the folder's disk.
    pub disk_free_bytes: u64,
    /// A sync failed.
    pub poisoned: bool,
    /// Who needs it from which record on, the one who needs the oldest first.
    #[serde(default)]
    pub holders: Vec<HolderRow>,
    /// Bytes that the retention settings let go and that one of them needs.
    #[serde(default)]
    pub held_bytes: u64,
}

/// Somebody who needs the log from a record on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct HolderRow {
    /// Who.
    pub who: String,
    /// The first record that it needs.
    pub needs_lsn: u64,
    /// The first window that it needs.
    pub window: u64,
}

/// The windows, and the sinks that get them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ExportStatus {
    /// The folder of the sink `folder`; empty: there is none.
    pub dir: String,
    /// The last closed window; 0: none yet.
    pub closed_window: u64,
    /// The last window that is durable at every sink; 0: none yet.
    pub exported_window: u64,
    /// The durable position in the log of the sink that is farthest behind.
    pub checkpoint_lsn: u64,
    /// Durable records that the sink which is farthest behind does not have yet.
    pub lag_records: u64,
    /// Age of the oldest of them.
    pub lag_ms: u64,
    /// Why no window can be closed, or why the last delivery of a sink failed; empty: it did not.
    pub error: String,
    /// Each sink.
    #[serde(default)]
    pub sinks: Vec<SinkRow>,
}

/// A sink.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SinkRow {
    /// Its name.
    pub name: String,
    /// `folder`, `object`, `kafka`, `delta` or `webhook`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is.
    pub place: String,
    /// `delivering`; `failing`: it tries again; `stopped`: a person has to change something, it looks again now and then.
    pub state: String,
    /// The last window that is durable there; 0: none yet.
    pub exported_window: u64,
    /// Its durable position in the log.
    pub checkpoint_lsn: u64,
    /// Durable records that it does not have yet.
    pub lag_records: u64,
    /// Age of the oldest of them.
    pub lag_ms: u64,
    /// Failures since the last success.
    pub failures: u32,
    /// Whether it is tried: `closed` (it delivers), `half open` (it failed, and is being tried again), `open` (it is left alone
    /// for a while), `stopped` (a person is needed).
    #[serde(default)]
    pub circuit: String,
    /// The window under way; 0: none.
    #[serde(default)]
    pub delivering_window: u64,
    /// Records of the log read for it.
    #[serde(default)]
    pub delivering_records: u64,
    /// Records of the log that it covers.
    #[serde(default)]
    pub delivering_of: u64,
    /// Records that it refused and that nobody dropped.
    #[serde(default)]
    pub dead_letters: u64,
    /// What it keeps.
    #[serde(default)]
    pub retained: RetainedRow,
    /// Why the last delivery failed; empty: it did not.
    pub error: String,
}

/// What a sink keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct RetainedRow {
    /// The first window that is there; 0: not known.
    pub first_window: u64,
    /// Windows there; 0 where no retention is set.
    pub windows: u64,
    /// Their bytes; 0 where no retention is set.
    pub bytes: u64,
    /// Windows that are due and held; absent: none is.
    pub held: Option<HeldRow>,
    /// Why the last removal failed; empty: it did not.
    pub error: String,
}

/// Windows that are due and held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct HeldRow {
    /// The first of them.
    pub first: u64,
    /// How many.
    pub windows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Who holds the first of them.
    pub by: Vec<String>,
    /// What lets it go, for each of them.
    pub remedies: Vec<String>,
}

/// Which windows are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowAsk {
    /// Those after this one; absent: the newest.
    pub after: Option<u64>,
    /// Those that this sink has; empty: all that are closed.
    #[serde(default)]
    pub sink: String,
    /// Those that this consumer is not done with, of the sink that it reads; empty: as the other fields say.
    #[serde(default)]
    pub consumer: String,
    /// If there is none, wait for one so long.
    #[serde(default)]
    pub wait_ms: u64,
}

/// An open gap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct GapRow {
    /// Its number.
    pub id: u64,
    /// What is not proved.
    pub ns: String,
    /// Why, in one word.
    pub cause: String,
    /// For a person.
    pub detail: String,
    /// The record that opened it.
    pub since_lsn: u64,
    /// When, RFC 3339.
    pub since: String,
    /// What closes it.
    pub remedy: String,
}

/// A closed window.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct WindowRow {
    /// Its number.
    pub id: u64,
    /// What closed it.
    pub cause: String,
    /// The label of an explicit cut.
    pub label: String,
    /// Its first record.
    pub first_lsn: u64,
    /// Its last record.
    pub last_lsn: u64,
    /// Records in it.
    pub records: u64,
    /// Bytes of its files in a folder; of its records in the log where the ledger says it.
    pub bytes: u64,
    /// Wall time of its last record, RFC 3339.
    pub last_wall: String,
    /// Gaps open at its end.
    pub gaps: u64,
    /// It is durable at every sink.
    pub exported: bool,
    /// Which amendment of the window this is; 0: the window itself.
    #[serde(default)]
    pub amendment: u32,
    /// Records that it lacks (a folder: as its manifest says; a sidecar: dead letters that wait, of all sinks).
    #[serde(default)]
    pub missing: u64,
}

/// The answer of `/v1/cut`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CutAnswer {
    /// The window that holds everything acknowledged before the cut, durable at every sink.
    pub window: u64,
}

/// A cut that did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The sidecar is ending, or its log or exporter has failed.
    #[error("no window can be closed now: {0}")]
    Unavailable(String),
    /// The window is closed and will be exported, but was not within the time that a request may take.
    #[error("window {window} is closed, but not durable at every sink yet: {why}")]
    NotExported {
        /// The window.
        window: u64,
        /// What is known of the delay.
        why: String,
    },
}
