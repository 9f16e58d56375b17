//! The table of all settings: path, kind and range, flag, help.

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `host:port`.
    Address,
    /// `host:port`, or empty.
    OptionalAddress,
    /// A table of node → address.
    Hosts,
    /// A whole number within these bounds.
    Number(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A path.
    Path,
    /// A path, or empty.
    OptionalPath,
    /// Text.
    Text,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `section.name`.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The flag of `tidelog run` that sets it; empty: only `--set`.
    pub flag: &'static str,
    /// For people.
    pub help: &'static str,
}

const fn row(path: &'static str, kind: Kind, flag: &'static str, help: &'static str) -> Setting {
    Setting { path, kind, flag, help }
}

const DAY_MS: u64 = 86_400_000;
const TIB: u64 = 1 << 40;

use Kind::{Address, Choice, Flag, Hosts, Number, OptionalAddress, OptionalPath, Path, Text};

/// All settings, in the order of the example file.
#[rustfmt::skip] // one setting, one row
pub const SETTINGS: &[Setting] = &[
    row("proxy.listen", Address, "--listen", "Where applications connect."),
    row("proxy.upstream", Address, "--upstream", "The node that this sidecar stands beside."),
    row("proxy.advertise", OptionalAddress, "--advertise", "The address that drivers are told instead of the node's own. Empty: the address that each client connected to."),
    row("proxy.hosts", Hosts, "--host", "The other nodes of the replica set and the addresses of their sidecars, as `\"node:port\" = \"sidecar:port\"`. A node that a reply names and this table does not is counted as an unknown host."),
    row("proxy.drain_ms", Number(0, 600_000), "", "How long an ending sidecar waits for commands in flight before it closes their connections."),
    row("store.uri", Text, "", "Connection string of the sidecar's own client, used to verify after a crash. Without user and password. Empty: made from `proxy.upstream`."),
    row("store.username", Text, "", "User of the sidecar's own client; needs to read all captured databases. Empty: no authentication."),
    row("store.auth_source", Text, "", "The database that knows the user."),
    row("store.password_file", OptionalPath, "", "A file whose first line is the password. Empty: none."),
    row("store.password_env", Text, "", "The name of the environment variable that holds the password. Empty: none."),
    row("store.connect_timeout_ms", Number(100, 120_000), "", "How long a connection to the node may take."),
    row("store.journal_ms", Number(0, 60_000), "", "The store may lose in a crash what it acknowledged less than this ago: twice its journal interval (100 ms) and more. No window holds a record before the node was seen alive this long after it, whatever `windows.settle_ms`."),
    row("capture.mode", Choice(&["exact"]), "", "`exact`: the image before each change is read from the store."),
    row("capture.transactions", Choice(&["capture", "refuse"]), "", "`capture`: the changes of a committed transaction stand in the log together. `refuse`: a write inside a transaction is answered with an error; everything else in a transaction goes through."),
    row("capture.transaction_lifetime_ms", Number(1_000, 86_400_000), "", "After this time since its first command a transaction is taken for dead. More than the store's `transactionLifetimeLimitSeconds` (60 s unless it was changed)."),
    row("capture.transaction_wait_ms", Number(100, 600_000), "", "How long a statement or commit of a transaction waits for others that are at work on the same entities; then it is aborted with `LockTimeout`, and its driver runs it again."),
    row("capture.second_look_ms", Number(0, 600_000), "", "After a start the entities of open intents are verified at once, again after this time, and a last time after `capture.transaction_lifetime_ms` more: a forwarded write may outlive the process that sent it, and may wait in the store behind a transaction. The same for a write whose connection broke."),
    row("capture.clock_ahead_ms", Number(0, 7 * DAY_MS), "", "How far a cluster time may be ahead of the wall clock and still be merged into the log's clock."),
    row("snapshot.enabled", Flag, "", "Namespaces that hold documents which the log does not know are read once, beside the writes. Without it they stay incomplete until somebody empties them."),
    row("snapshot.documents_per_second", Number(0, 100_000_000), "", "Documents that a first read, a catch-up, a gap's verify or a scheduled comparison reads in a second, at most. 0: no bound."),
    row("snapshot.bytes_per_second", Number(0, TIB), "", "The same in bytes. 0: no bound."),
    row("follower.enabled", Flag, "", "On a replica set the change stream is read: it hints at changes made past the sidecar, which then stand in the log within seconds. A standalone has none."),
    row("follower.wait_ms", Number(0, 60_000), "", "How long an event of the change stream waits for the sidecar's own record of the same change before the document is read."),
    row("follower.catch_up", Flag, "", "After a start whose downtime the change stream does not cover (always on a standalone), all that the log knows is compared with the store, beside the writes."),
    row("reconcile.interval_ms", Number(0, 366 * DAY_MS), "", "Time between scheduled comparisons of log and store, which report and repair nothing. 0: none."),
    row("reconcile.sample_percent", Number(1, 100), "", "The part of each namespace that a scheduled comparison reads, in ranges drawn at random."),
    row("log.data", Path, "--data", "The folder of the changelog, the entity index and the window ledger. One process owns it."),
    row("log.durability", Choice(&["always", "interval", "os"]), "--durability", "When a client has its ok: `always` after the sync of its records, `interval` after the write with a sync each `sync_interval_ms`, `os` after the write. The latter two can lose acknowledged changes when the machine crashes."),
    row("log.sync_interval_ms", Number(1, 60_000), "", "Time between syncs with `durability = \"interval\"`."),
    row("log.segment_bytes", Number(1 << 16, 1 << 34), "", "A segment that has grown past this is closed and the next begun."),
    row("log.queue_bytes", Number(1 << 20, 1 << 36), "", "Bytes that may wait for the committer; past it, writes wait."),
    row("log.min_free_bytes", Number(0, 16 * TIB), "", "With less free space, writes are refused before they are forwarded, with an error that drivers retry. Reads go on."),
    row("retention.log_max_age_ms", Number(0, 3_660 * DAY_MS), "", "Records of the changelog that are older go, in whole segments, unless somebody still needs them: a sink, a dead letter, the open window. 0: age is no reason."),
    row("retention.log_max_bytes", Number(0, 16 * TIB), "", "When the changelog takes more bytes, its oldest segments go, unless somebody still needs them. The segment that is written to always stays. 0: size is no reason."),
    row("retention.every_ms", Number(100, DAY_MS), "", "How often it is looked at what may go."),
    row("windows.max_bytes", Number(1 << 10, 1 << 36), "", "A window closes when its records take this many bytes of the log."),
    row("windows.max_records", Number(1, 1_000_000_000), "", "A window closes when it has this many records."),
    row("windows.max_age_ms", Number(100, 7 * DAY_MS), "", "A window closes when its first record is this old."),
    row("windows.idle_ms", Number(10, 7 * DAY_MS), "", "A window closes when nothing came for this long."),
    row("windows.min_age_ms", Number(0, 7 * DAY_MS), "", "A quiet window (`windows.idle_ms`) stays open until its first record is this old. The other bounds close it all the same."),
    row("windows.min_bytes", Number(0, 1 << 36), "", "A quiet window stays open until its records take this many bytes of the log. The other bounds close it all the same."),
    row("windows.schedule", Text, "", "Times at which a window closes that holds everything up to then, as a cron expression of five fields: `0 0 * * *` at midnight, `0 18 * * 5` on Fridays at 18:00. The window's label is the time. A time that passed while the sidecar was down closes one at the start. Empty: none."),
    row("windows.time_zone", Text, "", "The time zone of `windows.schedule`, by its IANA name, as `Europe/Berlin`."),
    row("windows.settle_ms", Number(0, DAY_MS), "", "A record younger than this is in no window, so that no window holds a change that a crash of the store takes back. At least five times the store's journal interval (100 ms)."),
    row("export.dir", OptionalPath, "--export", "The folder that gets one folder per closed window: the sink `folder`. Empty: none, only those of `[sinks.NAME]`."),
    row("export.retry_max_ms", Number(100, 3_600_000), "", "A sink that fails is tried again after a random time up to a bound that doubles, from 200 ms to this. A sink that is stopped is looked at again each time this has passed."),
    row("export.keep_age_ms", Number(0, 36_600 * DAY_MS), "", "Windows in `export.dir` that were closed longer ago than this are removed, the oldest first, never the newest, never one that a [consumer](consumers.md) is not done with. 0: for ever."),
    row("export.keep_bytes", Number(0, 1 << 60), "", "The oldest windows in `export.dir` are removed while all of them have more bytes than this, under the same conditions. 0: no bound."),
    row("export.latest", Flag, "", "Beside its history each window there has the file `latest.jsonl`: the last change of each document that it changed, and drops and renames."),
    row("admin.listen", Address, "--admin", "Where health, metrics and control are served. There is no authentication."),
    row("admin.allow_remote", Flag, "", "Allows `admin.listen` to be an address that other machines reach."),
    row("limits.connections", Number(1, 1_000_000), "", "Client connections at the same time; each has one connection to the node. Past it, new ones are closed at once."),
    row("limits.message_bytes", Number(1 << 16, 256_000_000), "", "The greatest message taken from a client, and what drivers are told of it. A reply of the node may always have MongoDB's own 48000000."),
    row("limits.inflight_bytes", Number(1 << 20, 1 << 40), "", "Message bytes in memory for all connections together; past it, connections wait. At least twice `limits.message_bytes`."),
    row("limits.idle_ms", Number(0, 30 * DAY_MS), "", "A client connection without a message for this long is closed. 0: never."),
    row("limits.stall_ms", Number(1_000, 3_600_000), "", "A message begun, of which not one more byte moves for this long, ends its connection."),
    row("limits.worker_threads", Number(0, 1024), "", "Threads that serve connections. 0: half the cores, at least one; the node beside the sidecar needs the rest."),
    row("logging.format", Choice(&["text", "json"]), "--log-format", "The form of the sidecar's own log lines, on standard error. They never hold documents, keys or credentials."),
    row("logging.level", Choice(&["error", "warn", "info", "debug", "trace"]), "--log-level", "How much the sidecar says."),
];

impl Kind {
    /// The words after "expected".
    pub fn expected(self) -> String {
        match self {
            Self::Address => "an address like `127.0.0.1:27017`".into(),
            Self::OptionalAddress => "an address like `127.0.0.1:27017`, or \"\"".into(),
            Self::Hosts => "a table of `\"node:port\" = \"address:port\"`".into(),
            Self::Number(min, max) => format!("a whole number from {min} to {max}"),
            Self::Choice(words) => format!("one of \"{}\"", words.join("\", \"")),
            Self::Flag => "true or false".into(),
            Self::Path => "a path".into(),
            Self::OptionalPath => "a path, or \"\"".into(),
            Self::Text => "text".into(),
        }
    }
}
