//! A checkpoint moves as the rules say, survives a crash at every sync, and is measured against what is there.

use super::*;
use crate::disk::FaultDisk;
use crate::export::ledger::{Cause, Ledger, Window};
use crate::format::jsonl::Bson;
use crate::types::Lsn;

const LOG: LogId = LogId([1; 16]);
const DIR: &str = "/data/consumers";

/// Windows of ten records each, closed at 1,000 ms, 2,000 ms …
fn ledger(disk: &FaultDisk, count: u64) -> Arc<Windows> {
    let mut ledger = Ledger::open(disk, Path::new("/data/windows"), LOG).expect("ledger");
    for id in ledger.windows().last().0 + 1..=count {
        let window = Window {
            id: WindowId(id),
            cause: Cause::Cut,
            label: None,
            bson: Bson::WhereNeeded,
            first: Lsn(id * 10 - 9),
            last: Lsn(id * 10),
            log_bytes: 1,
            closed_ms: i64::try_from(id).expect("small") * 1_000,
            clocks: None,
            changed: Vec::new(),
            gaps: Vec::new(),
        };
        ledger.append(window).expect("append");
    }
    ledger.windows()
}

fn open(disk: &FaultDisk) -> Consumers {
    let windows = ledger(disk, 9);
    Consumers::open(Arc::new(disk.clone()), Path::new(DIR), LOG, windows).expect("open")
}

/// The sink `lake` has windows 3 to 8; all are closed up to 9.
fn reach(sink: &str) -> Option<Reach> {
    let at = |first, last| Some(Reach { first: WindowId(first), last: WindowId(last) });
    match sink {
        "" => at(1, 9),
        "lake" => at(3, 8),
        "empty" => at(5, 0),
        _ => None,
    }
}

fn wish(sink: &str, mark: Option<Mark>) -> Wish {
    Wish { sink: (!sink.is_empty()).then(|| sink.to_owned()), mark, ..Wish::default() }
}

#[allow(clippy::unnecessary_wraps, reason = "a wish has a mark or none")]
fn done(window: u64) -> Option<Mark> {
    Some(Mark::Done(WindowId(window)))
}

impl Consumers {
    fn asked(&self, name: &str, wish: Wish) -> Result<u64, ConsumerError> {
        self.set(name, wish, reach, 10_000).map(|consumer| consumer.window.0)
    }
}

#[test]
fn a_new_one_stands_where_it_is_asked_to() {
    let all = open(&FaultDisk::new());
    for (at, (sink, mark, expected)) in [
        ("", None, 0),
        ("", Some(Mark::Oldest), 0),
        ("", Some(Mark::Now), 9),
        ("", done(4), 4),
        ("lake", None, 2),
        ("lake", Some(Mark::Now), 8),
        ("lake", done(2), 2),
        ("empty", Some(Mark::Now), 4),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(all.asked(&format!("c{at}"), wish(sink, mark)).expect("set"), expected, "{sink} {mark:?}");
    }
    assert!(matches!(all.asked("x", wish("lake", done(1))), Err(ConsumerError::Gone { .. })));
    assert!(matches!(all.asked("x", wish("lake", done(9))), Err(ConsumerError::Ahead { .. })));
    assert!(matches!(all.asked("x", wish("moon", None)), Err(ConsumerError::Sink(_))));
    let long = "x".repeat(65);
    for name in ["", ".", "..", "-a", "a/b", "A", "é", &long] {
        assert!(matches!(all.asked(name, Wish::default()), Err(ConsumerError::Name(_))), "{name}");
    }
    let note = Some("line\nbreak".to_owned());
    assert!(matches!(all.asked("x", Wish { note, ..Wish::default() }), Err(ConsumerError::Note(_))));
    assert!(all.get("x").is_none());
}

#[test]
fn it_goes_forward_and_back_only_when_that_is_said() {
    let all = open(&FaultDisk::new());
    all.asked("a", wish("lake", done(4))).expect("set");
    assert_eq!(all.asked("a", wish("", done(6))).expect("forward"), 6, "its sink stays");
    let before = all.get("a");
    assert_eq!(all.set("a", wish("lake", done(6)), reach, 99_000).expect("again"), before.expect("there"));
    let error = all.asked("a", wish("", done(5))).expect_err("back");
    assert_eq!(error.to_string(), "consumer `a` is done with window 6: to read again from 6 on, say `back`");
    let back = |window| Wish { back: true, ..wish("", done(window)) };
    assert_eq!(all.asked("a", back(2)).expect("back"), 2);
    let error = all.asked("a", back(1)).expect_err("gone");
    assert_eq!(error.to_string(), "window 2 is no longer there: the oldest of sink `lake` is 3");
    assert!(matches!(all.asked("a", wish("", done(9))), Err(ConsumerError::Ahead { .. })));
    let other = Wish { sink: Some(String::new()), ..Wish::default() };
    assert!(matches!(all.asked("a", other), Err(ConsumerError::OtherSink { .. })));
    assert_eq!(all.asked("a", Wish { note: Some("books".into()), ..Wish::default() }).expect("note"), 2);
    all.forget("a").expect("forget");
    assert!(matches!(all.forget("a"), Err(ConsumerError::Unknown(_))));
}

#[test]
fn who_holds_what() {
    let all = open(&FaultDisk::new());
    all.asked("books", wish("", done(4))).expect("set");
    all.asked("lake-reader", wish("lake", done(6))).expect("set");
    assert_eq!(all.holders(), [("consumer books".to_owned(), WindowId(5))]);
    let at = |name: &str, window| (name.to_owned(), WindowId(window));
    all.reading("lake", |reading| assert_eq!(reading, [at("books", 4), at("lake-reader", 6)]));
    all.reading("folder", |reading| assert_eq!(reading, [at("books", 4)]));
}

#[test]
fn the_lag_grows_with_time_alone() {
    let all = open(&FaultDisk::new());
    all.asked("a", wish("lake", done(5))).expect("set");
    let measured = |now_ms| all.status(reach, now_ms).remove(0);
    let status = measured(12_500);
    // Windows 6 to 8; the first of them was closed at 6,000.
    assert_eq!((status.lag_windows, status.lag_records, status.lag_ms, status.still_ms), (3, 30, 6_500, 2_500));
    assert_eq!(measured(12_600).lag_ms, 6_600);
    all.asked("a", wish("", done(8))).expect("set");
    let status = measured(20_000);
    assert_eq!((status.lag_windows, status.lag_records, status.lag_ms), (0, 0, 0));
    let gone = all.status(|_| None, 20_000).remove(0);
    assert_eq!((gone.lag_windows, gone.trouble.as_str()), (0, "its sink `lake` is not in the settings"));
    let shorter = |_: &str| Some(Reach { first: WindowId(1), last: WindowId(7) });
    assert_eq!(all.status(shorter, 20_000).remove(0).trouble, "it is done with more than there is (7)");
}

#[test]
fn their_number_is_bounded() {
    let all = open(&FaultDisk::new());
    for n in 0..MAX_CONSUMERS {
        all.asked(&format!("c{n}"), Wish::default()).expect("set");
    }
    assert!(matches!(all.asked("more", Wish::default()), Err(ConsumerError::TooMany)));
    assert_eq!(all.asked("c7", wish("", done(3))).expect("those that are there move"), 3);
}

#[test]
fn a_damaged_file_holds_everything_until_it_is_set() {
    let disk = FaultDisk::new();
    open(&disk).asked("a", wish("lake", done(6))).expect("set");
    let path = Path::new(DIR).join("a.json");
    let text = String::from_utf8(disk.read(&path).expect("read")).expect("utf-8");
    for spoilt in [text.replace("\"window\": 6", "\"window\": 7"), text.replace(&LOG.to_string(), "ff"), String::new()]
    {
        disk.replace(&path, spoilt.as_bytes()).expect("write");
        let all = open(&disk);
        assert_eq!(all.holders(), [("consumer a".to_owned(), WindowId(1))]);
        assert!(all.status(reach, 0)[0].trouble.contains("set it anew or drop it"));
        assert_eq!(all.asked("a", wish("lake", done(7))).expect("set"), 7);
        assert_eq!(open(&disk).get("a").expect("there").window, WindowId(7));
    }
}

/// What was acknowledged is there; what was not is as before or as asked.
#[test]
fn a_cut_at_every_sync() {
    for stop in 1.. {
        let disk = FaultDisk::new();
        let all = open(&disk);
        disk.stop_at(disk.syncs() + stop);
        let steps = [
            all.asked("a", wish("lake", done(4))).ok(),
            all.asked("a", wish("", done(5))).ok(),
            all.forget("a").ok().map(|()| 0),
        ];
        let acknowledged = steps.iter().take_while(|step| step.is_some()).count();
        for seed in 0..8 {
            let after = disk.crash(seed);
            let found = open(&after).get("a").map_or(0, |consumer| consumer.window.0);
            let states = [0, 4, 5, 0];
            let allowed = states.get(acknowledged..(acknowledged + 2).min(4)).expect("states");
            assert!(allowed.contains(&found), "stop {stop} seed {seed}: {found}, {acknowledged} steps acknowledged");
        }
        if acknowledged == steps.len() {
            return;
        }
    }
}
