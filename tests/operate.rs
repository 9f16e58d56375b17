//! The program as an operator meets it: exit statuses, what is said, readiness, signals. No store is needed.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

fn tidelog(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidelog")).args(args).output().expect("run tidelog")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running sidecar, killed when the test ends.
struct Sidecar {
    child: Child,
    log: std::path::PathBuf,
    admin: String,
    listen: String,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Sidecar {
    /// Starts one whose node is not there, and waits for its addresses.
    fn start(dir: &Path) -> Self {
        Self::before(dir, "127.0.0.1:1", &[])
    }

    /// Starts one before the node `upstream`, with more settings, and waits for its addresses.
    fn before(dir: &Path, upstream: &str, settings: &[&str]) -> Self {
        let log = dir.join("log.txt");
        let file = std::fs::File::options().create(true).append(true).open(&log).expect("log file");
        let path = |name: &str| dir.join(name).display().to_string();
        let child = Command::new(env!("CARGO_BIN_EXE_tidelog"))
            .args(["run", "--listen", "127.0.0.1:0", "--upstream", upstream, "--admin", "127.0.0.1:0"])
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .args(["--data", &path("data"), "--export", &path("export"), "--set", "windows.idle_ms=100"])
            .args(["--set", "windows.settle_ms=0", "--set", "log.min_free_bytes=0"])
            .stderr(Stdio::from(file))
            .spawn()
            .expect("start tidelog");
        let mut this = Self { child, log, admin: String::new(), listen: String::new() };
        this.admin = this.said("admin=");
        this.listen = this.said("listen=");
        this
    }

    /// The word after `mark` in what it said, once it has said it.
    fn said(&mut self, mark: &str) -> String {
        let began = Instant::now();
        loop {
            let said = std::fs::read_to_string(&self.log).expect("log file");
            if let Some(word) = said.split(mark).nth(1).and_then(|rest| rest.split_whitespace().next()) {
                return word.to_owned();
            }
            let ended = self.child.try_wait().expect("wait");
            assert!(ended.is_none() && began.elapsed() < Duration::from_secs(30), "no {mark} in\n{said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn http(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).expect("connect");
        write!(stream, "{request}\r\n\r\n").expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("status");
        (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.http(&format!("GET {path} HTTP/1.0\r\nHost: {}", self.admin))
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill").success());
    }

    fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(40), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn exit_statuses_hold() {
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--version"], 0, "tidelog 0."),
        (&["--help"], 0, "Exit status: 0 it holds, 1 it does not, 2 the call was wrong."),
        (&["fly"], 2, "unrecognized subcommand"),
        (&["check", "--config", "/nonexistent.toml"], 2, "/nonexistent.toml: No such file"),
        (&["run", "--listen", "x"], 2, "--listen: proxy.listen: found `x`, expected an address"),
        (&["status", "--admin", "127.0.0.1:1"], 1, "nothing listens on 127.0.0.1:1"),
        (&["cut", "--admin", "127.0.0.1:1"], 1, "nothing listens on 127.0.0.1:1"),
        (&["log", "/nonexistent"], 2, "/nonexistent/log"),
        (&["verify", "/nonexistent"], 2, "/nonexistent"),
        (&["log", "/nonexistent", "--since", "soon"], 2, "--since: found `soon`"),
        (&["windows", "/nonexistent"], 2, "/nonexistent"),
        (&["windows"], 2, "required"),
        (&["docs", "metrics"], 0, "tidelog_log_sync_seconds"),
    ];
    for (args, status, expected) in cases {
        let done = tidelog(args);
        let said = text(&done.stdout) + &text(&done.stderr);
        assert_eq!(done.status.code(), Some(*status), "{args:?}\n{said}");
        assert!(said.contains(expected), "{args:?} said\n{said}");
        let on_error = if *status == 0 { &done.stderr } else { &done.stdout };
        assert!(on_error.is_empty(), "{args:?} said on the wrong stream: {}", text(on_error));
    }
}

#[test]
fn check_names_file_line_and_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::write(&path, "[log]\n\ndurability = \"maybe\"\n").unwrap();
    let name = path.display().to_string();
    let done = tidelog(&["check", "--config", &name]);
    assert_eq!(done.status.code(), Some(2));
    let expected =
        format!("tidelog: {name}:3:14: unknown variant `maybe`, expected one of `always`, `interval`, `os`\n");
    assert_eq!(text(&done.stderr), expected);

    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/tidelog.example.toml");
    assert_eq!(tidelog(&["check", "--config", example]).status.code(), Some(0));
}

#[test]
fn a_sidecar_whose_node_is_away_says_so_and_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut sidecar = Sidecar::start(dir.path());
    assert_eq!(sidecar.get("/healthz"), (200, "alive\n".into()));

    let (status, body) = sidecar.get("/readyz");
    assert!(status == 503 && body.starts_with("not ready\nupstream: "), "{status} {body}");
    let (status, body) =
        sidecar.http(&format!("GET /readyz HTTP/1.0\r\nHost: {}\r\nAccept: application/json", sidecar.admin));
    let ready: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &ready["ready"], &ready["reasons"][0]["part"]), (503, &false.into(), &"upstream".into()));

    let (status, body) = sidecar.get("/metrics");
    assert!(status == 200 && body.contains("\ntidelog_upstream_up 0\n") && body.contains("\ntidelog_ready 0\n"));
    let admin = sidecar.admin.clone();
    let told = tidelog(&["status", "--admin", &admin]);
    assert!(told.status.code() == Some(1) && text(&told.stdout).contains("DOES NOT ANSWER"), "{}", text(&told.stdout));
    let told = tidelog(&["status", "--admin", &admin, "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(status["log"]["tail_lsn"], 1);

    // A cut needs no node. The first record says that the sidecar was started.
    let cut = tidelog(&["cut", "--admin", &admin, "--label", "month-end"]);
    assert_eq!(cut.status.code(), Some(0), "{}", text(&cut.stderr));
    let id = text(&cut.stdout);
    let export = dir.path().join("export").display().to_string();
    for from in [["windows", &export, "--json"].to_vec(), vec!["windows", "--admin", &admin, "--json"]] {
        let told = tidelog(&from);
        let rows: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        let last = rows.as_array().unwrap().last().unwrap();
        assert_eq!((last["id"].to_string(), &last["label"]), (id.trim().into(), &"month-end".into()));
    }
    let told = tidelog(&["log", &dir.path().join("data").display().to_string()]);
    assert!(text(&told.stdout).contains("\"control\":\"started\""), "{}", text(&told.stdout));

    let audit = tidelog(&["verify", &export]);
    assert!(audit.status.code() == Some(0) && text(&audit.stdout).contains("it holds"), "{}", text(&audit.stdout));

    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().code(), Some(0), "{}", std::fs::read_to_string(&sidecar.log).unwrap());
}

#[test]
fn web_pages_and_foreign_hosts_are_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(dir.path());
    let refused = |request: &str| sidecar.http(request).0;
    assert_eq!(refused("GET /v1/status HTTP/1.0\r\nHost: evil.example"), 403);
    let host = &sidecar.admin;
    assert_eq!(refused(&format!("POST /v1/cut HTTP/1.0\r\nHost: {host}\r\nOrigin: http://evil.example")), 403);
    assert_eq!(refused(&format!("GET /v1/cut HTTP/1.0\r\nHost: {host}")), 405);
    assert_eq!(refused(&format!("GET /nothing HTTP/1.0\r\nHost: {host}")), 404);
    let long = "x".repeat(300);
    assert_eq!(refused(&format!("POST /v1/cut?label={long} HTTP/1.0\r\nHost: {host}")), 400);
    assert_eq!(refused("GET /v1/status HTTP/1.0\r\nHost: localhost"), 200);
}

#[test]
fn two_sidecars_never_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Sidecar::start(dir.path());
    let data = dir.path().join("data").display().to_string();
    let listen = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    let second = tidelog(&[&listen[..], &["--data", &data, "--export", "/tmp/none"]].concat());
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert!(said.contains("in use"), "{said}");

    let json = tidelog(&[&listen[..], &["--data", &data, "--export", "/tmp/none", "--log-format", "json"]].concat());
    let lines: Vec<serde_json::Value> =
        text(&json.stderr).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let last = lines.last().expect("a line");
    assert_eq!((json.status.code(), &last["level"]), (Some(1), &"ERROR".into()));
    assert!(last["error"].as_str().is_some_and(|error| error.contains("in use")), "{last}");
}

#[test]
fn a_killed_sidecar_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Sidecar::start(dir.path());
    first.signal("KILL");
    first.ended();
    std::fs::remove_file(&first.log).unwrap();
    let mut second = Sidecar::start(dir.path());
    let told = tidelog(&["status", "--admin", &second.admin, "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(status["log"]["tail_lsn"], 2, "{status}");
    second.signal("INT");
    assert_eq!(second.ended().code(), Some(0));
}

/// A node that takes connections and never answers.
fn mute_node() -> TcpListener {
    let node = TcpListener::bind("127.0.0.1:0").expect("bind");
    let accepting = node.try_clone().expect("clone");
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in accepting.incoming() {
            held.push(stream);
        }
    });
    node
}

/// A client whose command `ping` is under way at the node.
fn waiting_client(sidecar: &Sidecar) -> TcpStream {
    let body = b"\x1a\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x02\0\0\0a\0\0";
    let length = u32::try_from(16 + 4 + 1 + body.len()).unwrap();
    let mut message = Vec::new();
    for word in [length, 7, 0, 2013, 0] {
        message.extend(word.to_le_bytes());
    }
    message.push(0);
    message.extend(body);
    let mut client = TcpStream::connect(&sidecar.listen).expect("connect");
    client.write_all(&message).expect("send");
    let began = Instant::now();
    while !sidecar.get("/metrics").1.contains("\ntidelog_messages_total{class=\"pass\"} 1\n") {
        assert!(began.elapsed() < Duration::from_secs(20), "the command does not come through");
        std::thread::sleep(Duration::from_millis(10));
    }
    client
}

#[test]
fn an_end_is_bounded_when_the_node_hangs() {
    let (dir, node) = (tempfile::tempdir().unwrap(), mute_node());
    let mut sidecar = Sidecar::before(dir.path(), &node.local_addr().unwrap().to_string(), &["proxy.drain_ms=300"]);
    let _client = waiting_client(&sidecar);
    let began = Instant::now();
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(10));
    assert!(std::fs::read_to_string(&sidecar.log).unwrap().contains("cut_off=1"));
}

#[test]
fn a_second_signal_ends_at_once() {
    let (dir, node) = (tempfile::tempdir().unwrap(), mute_node());
    let mut sidecar = Sidecar::before(dir.path(), &node.local_addr().unwrap().to_string(), &["proxy.drain_ms=60000"]);
    let _client = waiting_client(&sidecar);
    let began = Instant::now();
    sidecar.signal("TERM");
    sidecar.said("SIGTERM");
    assert_eq!(sidecar.get("/healthz").0, 200);
    assert!(sidecar.get("/readyz").1.contains("drain: the sidecar is ending"), "{}", sidecar.get("/readyz").1);
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(10));
}
