//! Each bound closes; batches and young records stay together and out.

use super::*;
use crate::changelog::record::{Head, Stamp};
use crate::types::{Control, Digest, Hlc, Namespace, Op};

fn limits() -> Limits {
    Limits { max_bytes: 1000, max_records: 5, max_age_ms: 100, idle_ms: 50, min_age_ms: 0, min_bytes: 0, settle_ms: 10 }
}

fn cutter() -> Cutter {
    Cutter::new(limits(), Bson::WhereNeeded, None, &LogState::default())
}

fn head(lsn: u64, bytes: u64, continued: bool) -> RecordHead {
    let stamp = Stamp { kind: 1, continued, lsn: Lsn(lsn), hlc: Hlc(lsn), wall_ms: 7, synced: Lsn(lsn - 1) };
    let body = HeadBody::Change {
        ns: Namespace::new("d", "c"),
        op: Op::Insert,
        before_sha: None,
        after_sha: Some(Digest([1; 32])),
        image_bytes: 5,
    };
    RecordHead { head: Head { stamp, body }, offset: 0, bytes }
}

fn newest(at_ms: u64, tail: u64) -> Mark {
    Mark { at_ms, wall_ms: 0, tail: Lsn(tail) }
}

#[test]
fn bounds() {
    let mut open = cutter();
    assert_eq!(open.ripe(1_000, newest(0, 0)), None, "nothing in it");
    open.take(&head(1, 400, false), 0, true);
    assert_eq!((open.full(), open.ripe(20, newest(0, 1))), (None, None));
    assert_eq!(open.ripe(50, newest(0, 1)), Some(Cause::Idle));
    assert_eq!(open.ripe(50, newest(0, 2)), None, "one more is settling");
    assert_eq!(open.ripe(99, newest(90, 1)), None);
    assert_eq!(open.ripe(100, newest(90, 1)), Some(Cause::Age));
    open.take(&head(2, 600, false), 0, true);
    assert_eq!(open.full(), Some(Cause::Size));
    let mut open = cutter();
    (1..=5).for_each(|lsn| open.take(&head(lsn, 1, false), 0, true));
    assert_eq!(open.full(), Some(Cause::Count));
}

#[test]
fn a_batch_is_not_split() {
    let mut open = cutter();
    (1..=9).for_each(|lsn| open.take(&head(lsn, 1_000, lsn < 9), 0, true));
    assert_eq!(open.window(Cause::Size, None, 0).records(), 9);
    assert!(open.may_close());
    open.take(&head(10, 1, true), 0, true);
    assert!(!open.may_close());
    assert_eq!((open.full(), open.ripe(10_000, newest(0, 10))), (None, None));
}

#[test]
fn windows_carry_only_what_changed() {
    let mut open = cutter();
    open.take(&head(1, 1, false), 0, true);
    let first = open.window(Cause::Cut, Some("x".into()), 3);
    assert_eq!((first.id, first.first, first.last, first.changed.len()), (WindowId(1), Lsn(1), Lsn(1), 1));
    open.closed();
    let empty = open.window(Cause::Cut, None, 4);
    assert_eq!((empty.id, empty.records(), empty.changed.len(), empty.clocks), (WindowId(2), 0, 0, None));
    let mut started = head(2, 1, false);
    started.head.body = HeadBody::Control(Control::Started { version: "1".into() });
    open.take(&started, 0, true);
    assert_eq!(open.window(Cause::Cut, None, 4).changed, vec![]);
    let again = Cutter::new(limits(), Bson::Always, Some(&first), &open.state);
    assert_eq!((again.id(), again.last()), (WindowId(2), Lsn(1)));
}

#[test]
fn records_settle() {
    let mark = |at_ms, tail| Mark { at_ms, wall_ms: 0, tail: Lsn(tail) };
    let mut settling = Settling::new(10);
    settling.observe(mark(0, 5));
    settling.observe(mark(4, 5));
    settling.observe(mark(5, 8));
    assert_eq!((settling.settled(), settling.newest().at_ms), (Lsn(0), 5));
    settling.observe(mark(10, 9));
    assert_eq!((settling.settled(), settling.seen_at(Lsn(9)).at_ms), (Lsn(5), 10));
    settling.observe(mark(40, 9));
    assert_eq!((settling.settled(), settling.newest().at_ms), (Lsn(9), 10));
    assert_eq!(settling.oldest_waiting(), Some(mark(0, 5)), "settled, and nobody took them");
    assert_eq!(settling.seen_at(Lsn(7)).at_ms, 5);
    settling.took(Lsn(8));
    assert_eq!(settling.oldest_waiting(), Some(mark(10, 9)));
    settling.took(Lsn(9));
    assert_eq!(settling.oldest_waiting(), None);
}
