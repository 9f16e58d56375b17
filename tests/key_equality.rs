//! Keys against a real store: two `_id`s have one key exactly where the store answers "duplicate key" to the second.
//!
//! Needs a store: `TIDELOG_STORE_BIN` names its program (`secantusd-rs`, or a `mongod`).

#![expect(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test says what it lacks")]

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, RawBson, Timestamp, bson, doc, oid::ObjectId};
use mongodb::error::{ErrorKind, WriteFailure};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const HELP: &str = "no store: set TIDELOG_STORE_BIN to a secantusd-rs or mongod program \
    (none in PATH; deploy/test.sh installs one into ${TIDELOG_TOOLS:-$HOME/.cache/tidelog}/bin)";

struct Store {
    child: Child,
    address: String,
    /// It is the test store, not a mongod.
    secantus: bool,
    _dir: tempfile::TempDir,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDELOG_STORE_BIN").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let cache = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/tidelog"));
    let tools = std::env::var_os("TIDELOG_TOOLS").map(PathBuf::from).or(cache).map(|tools| tools.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = tools.into_iter().chain(std::env::split_paths(&path));
    let programs = folders.flat_map(|folder| ["mongod", "secantusd-rs"].map(|name| folder.join(name)));
    programs.into_iter().find(|program| program.is_file()).expect(HELP)
}

fn start() -> Store {
    let (program, dir) = (program(), tempfile::tempdir().expect("a folder for the store"));
    let mut command = Command::new(&program);
    let port = if program.ends_with("mongod") {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
        command.args(["--bind_ip", "127.0.0.1", "--dbpath"]).arg(dir.path()).args(["--port", &port.to_string()]);
        Some(port)
    } else {
        command
            .args(["--host", "127.0.0.1", "--port", "0", "--standalone", "--log-file-max", "8MB", "--storage-path"])
            .arg(dir.path());
        None
    };
    let mut child =
        command.stdout(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{}: {e}\n{HELP}", program.display()));
    let out = BufReader::new(child.stdout.take().expect("its output"));
    let mut lines = out.lines().map_while(Result::ok);
    let address = match port {
        Some(port) => format!("127.0.0.1:{port}"),
        None => lines
            .find_map(|line| line.split_once("listening on ").map(|(_, at)| at.trim().to_owned()))
            .expect("the store ended without a word; is the program the right one?"),
    };
    std::thread::spawn(move || lines.for_each(drop));
    Store { child, address, secantus: port.is_none(), _dir: dir }
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse().expect(text))
}

fn pairs() -> Vec<(Bson, Bson)> {
    [numbers(), others()].concat()
}

fn numbers() -> Vec<(Bson, Bson)> {
    let two53 = 9_007_199_254_740_992_i64;
    vec![
        (Bson::Int32(1), Bson::Int64(1)),
        (Bson::Int32(1), Bson::Double(1.0)),
        (Bson::Int32(1), decimal("1")),
        (Bson::Double(1.0), decimal("1.0")),
        (Bson::Int64(1), decimal("1.000000000000000000000000000000000")),
        (Bson::Int32(1000), decimal("1E+3")),
        (Bson::Int32(1), Bson::Double(1.000_000_1)),
        (Bson::Int32(0), Bson::Double(-0.0)),
        (Bson::Double(0.0), Bson::Double(-0.0)),
        (Bson::Double(0.0), decimal("-0")),
        (decimal("0E+10"), decimal("0E-10")),
        (Bson::Double(f64::NAN), decimal("NaN")),
        (Bson::Double(f64::NAN), Bson::Double(f64::from_bits(0xfff8_0000_0000_0001))),
        (Bson::Double(f64::NAN), Bson::Double(f64::NEG_INFINITY)),
        (Bson::Double(f64::INFINITY), decimal("Infinity")),
        (Bson::Double(f64::NEG_INFINITY), decimal("-Infinity")),
        (Bson::Double(f64::INFINITY), Bson::Double(f64::NEG_INFINITY)),
        (Bson::Int64(two53), Bson::Double(9_007_199_254_740_992.0)),
        (Bson::Int64(two53 + 1), Bson::Double(9_007_199_254_740_992.0)),
        (Bson::Int64(two53 + 1), Bson::Int64(two53)),
        (Bson::Int64(-two53 - 1), Bson::Double(-9_007_199_254_740_992.0)),
        (Bson::Int64(i64::MAX), Bson::Double(9_223_372_036_854_775_808.0)),
        (Bson::Int64(i64::MIN), Bson::Double(-9_223_372_036_854_775_808.0)),
        (Bson::Int64(i64::MAX), decimal("9223372036854775807")),
        (decimal("9223372036854775808"), Bson::Double(9_223_372_036_854_775_808.0)),
        (Bson::Double(0.1), decimal("0.1")),
        (Bson::Double(0.5), decimal("0.5")),
        (Bson::Double(0.25), decimal("0.2500")),
        (Bson::Double(-2.5), decimal("-25E-1")),
        (Bson::Double(0.1), decimal("0.1000000000000000055511151231257827")),
        (decimal("0.1"), decimal("0.10")),
        (decimal("1E-6176"), Bson::Double(0.0)),
        (Bson::Double(5e-324), Bson::Double(0.0)),
        (Bson::Double(1e300), decimal("1E+300")),
        (Bson::Double(1e22), decimal("1E+22")),
        (Bson::Double(f64::MAX), Bson::Double(f64::INFINITY)),
    ]
}

fn others() -> Vec<(Bson, Bson)> {
    let text = |s: &str| Bson::String(s.to_owned());
    let binary = |subtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
    let long = |end: &str| text(&format!("{}{end}", "x".repeat(3000)));
    vec![
        (text("a"), Bson::Symbol("a".into())),
        (text("a"), text("A")),
        (text("a"), text("a\0")),
        (text("a\0b"), text("a\0b")),
        (text("\u{e9}"), text("e\u{301}")),
        (text(""), Bson::Null),
        (text("1"), Bson::Int32(1)),
        (long("a"), long("b")),
        (long("a"), long("a")),
        (Bson::Boolean(true), Bson::Int32(1)),
        (Bson::Boolean(false), Bson::Null),
        (Bson::Null, Bson::Null),
        (Bson::MinKey, Bson::MaxKey),
        (Bson::MinKey, Bson::MinKey),
        (Bson::DateTime(DateTime::from_millis(1)), Bson::Int64(1)),
        (Bson::DateTime(DateTime::from_millis(-1)), Bson::DateTime(DateTime::from_millis(-1))),
        (Bson::Timestamp(Timestamp { time: 1, increment: 2 }), Bson::Timestamp(Timestamp { time: 2, increment: 1 })),
        (Bson::Timestamp(Timestamp { time: 1, increment: 2 }), Bson::Int64((1 << 32) + 2)),
        (Bson::ObjectId(ObjectId::from_bytes([1; 12])), binary(BinarySubtype::Generic, &[1; 12])),
        (binary(BinarySubtype::Uuid, &[5; 16]), binary(BinarySubtype::UuidOld, &[5; 16])),
        (binary(BinarySubtype::Generic, &[5; 16]), binary(BinarySubtype::Uuid, &[5; 16])),
        (binary(BinarySubtype::Generic, &[5]), binary(BinarySubtype::Generic, &[5])),
        (binary(BinarySubtype::Generic, &[]), binary(BinarySubtype::Generic, &[0])),
        (Bson::JavaScriptCode("a".into()), text("a")),
        (bson!({"a": 1}), bson!({"a": 1.0})),
        (bson!({"a": 1}), bson!({"a": decimal("1.0")})),
        (bson!({"a": 1, "b": 2}), bson!({"b": 2, "a": 1})),
        (bson!({"a": 1}), bson!({"b": 1})),
        (bson!({"a": 1}), bson!({"a": 1, "b": 1})),
        (bson!({"a": {"b": -0.0}}), bson!({"a": {"b": 0_i64}})),
        (bson!({"a": "x"}), bson!({"a": Bson::Symbol("x".into())})),
        (bson!({"a": [1, 2]}), bson!({"a": [1.0, 2_i64]})),
        (bson!({"a": [1, 2]}), bson!({"a": [2, 1]})),
        (bson!({"a": [1]}), bson!({"a": {"0": 1}})),
        (bson!({"a": [1]}), bson!({"a": 1})),
        (bson!({}), bson!({"a": Bson::Null})),
        (bson!({"a": f64::NAN}), bson!({"a": decimal("NaN")})),
        (bson!({"a": Bson::Undefined}), bson!({"a": Bson::Null})),
    ]
}

fn one_key(a: &Bson, b: &Bson) -> bool {
    let key = |value: &Bson| {
        let raw = RawBson::try_from(value.clone()).expect("raw");
        tidelog::entity::key_of(&raw.as_raw_bson_ref()).expect("key")
    };
    key(a) == key(b)
}

/// Where the test store is known to differ from mongod, whose index holds the subtype of binary data: it takes the same bytes
/// with another subtype for the same `_id`. Keys follow mongod; the difference is asserted, so that its end is noticed.
fn diverges(store: &Store, a: &Bson, b: &Bson) -> bool {
    match (a, b) {
        (Bson::Binary(a), Bson::Binary(b)) => store.secantus && a.subtype != b.subtype && a.bytes == b.bytes,
        _ => false,
    }
}

/// `None`: the store does not take a value of that kind as an `_id` at all.
async fn insert(coll: &mongodb::Collection<bson::Document>, id: &Bson) -> Option<bool> {
    match coll.insert_one(doc! {"_id": id.clone()}).await {
        Ok(_) => Some(true),
        Err(error) => match *error.kind {
            ErrorKind::Write(WriteFailure::WriteError(ref e)) if e.code == 11000 => Some(false),
            ErrorKind::Command(_) | ErrorKind::Write(_) => {
                println!("the store refuses {id:?}: {error}");
                None
            }
            _ => panic!("insert {id:?}: {error}"),
        },
    }
}

#[tokio::test]
async fn two_ids_have_one_key_where_the_store_says_duplicate() {
    let store = start();
    let uri = format!("mongodb://{}/?directConnection=true", store.address);
    let client = mongodb::Client::with_uri_str(uri).await.expect("client");
    let (mut wrong, mut decided) = (Vec::new(), 0);
    for (n, (a, b)) in pairs().into_iter().enumerate() {
        let coll = client.database("keys").collection::<bson::Document>(&format!("pair{n}"));
        let Some(true) = insert(&coll, &a).await else { continue };
        let Some(apart) = insert(&coll, &b).await else { continue };
        decided += 1;
        if (apart == one_key(&a, &b)) != diverges(&store, &a, &b) {
            wrong.push(format!("{a:?} and {b:?}: the store says {}", if apart { "two" } else { "one _id" }));
        }
    }
    println!("{decided} pairs decided");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(decided >= 60, "the store decided only {decided} pairs");
}
