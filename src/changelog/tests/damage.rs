//! Bytes that went bad: a torn tail is cut, damage stops the log and says where.

use super::support::{DIR, open, put, read_all, segments, small};
use crate::changelog::segment::{self, HEADER_BYTES};
use crate::changelog::{Changelog, LogError};
use crate::disk::{Disk, FaultDisk};
use crate::types::Lsn;
use std::path::Path;
use std::sync::Arc;

/// A log of one segment with `count` records, each synced alone; and where each frame starts, and the end.
fn log_of(count: u64, closed: bool) -> (FaultDisk, Vec<u64>) {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1 << 20).unwrap();
    for n in 0..count {
        put(&log, vec![small(n)]).unwrap();
    }
    let mut offsets = Vec::new();
    let mut reader = log.reader(Lsn(1));
    while let Some(head) = reader.next_head().unwrap() {
        offsets.push(head.offset);
    }
    offsets.push(disk.read(&segments(&disk)[0]).unwrap().len() as u64);
    let disk = if closed {
        log.close().unwrap();
        disk
    } else {
        disk.kill()
    };
    (disk, offsets)
}

fn flip(disk: &FaultDisk, path: &Path, offset: u64) {
    let file = disk.open_rw(path).unwrap();
    let mut byte = [0];
    assert_eq!(file.read_at(offset, &mut byte).unwrap(), 1);
    file.write_at(offset, &[byte[0] ^ 0x20]).unwrap();
}

fn damage(error: &LogError) -> (String, u64) {
    let LogError::Damaged { segment, offset, .. } = error else { panic!("{error}") };
    assert!(error.to_string().contains("Remedy: "), "{error}");
    (segment.clone(), *offset)
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let (disk, offsets) = log_of(3, false);
    let path = segments(&disk)[0].clone();
    for cut in offsets[2]..offsets[3] {
        let disk = disk.kill();
        disk.open_rw(&path).unwrap().truncate(cut).unwrap();
        let (log, opened) = open(&disk, 1 << 20).unwrap();
        assert_eq!(opened.tail, Lsn(2));
        assert_eq!(read_all(&log).unwrap().len(), 2);
        let torn = opened.truncated.map(|t| (t.offset, t.bytes, t.after));
        let expected = (cut > offsets[2]).then_some((offsets[2], cut - offsets[2], Lsn(2)));
        assert_eq!(torn, expected);
        assert_eq!(put(&log, vec![small(9)]).unwrap(), Lsn(3));
    }
}

#[test]
fn zeros_and_noise_after_the_tail_are_cut() {
    for noise in [vec![0; 5000], vec![0xff; 5000], b"TIDELOG\n".repeat(700)] {
        let (disk, _) = log_of(3, false);
        disk.open_rw(&segments(&disk)[0]).unwrap().append(&noise).unwrap();
        let (_, opened) = open(&disk, 1 << 20).unwrap();
        assert_eq!((opened.tail, opened.truncated.unwrap().bytes), (Lsn(3), noise.len() as u64));
    }
}

#[test]
fn a_bad_record_before_a_good_one_that_saw_it_durable_is_damage() {
    let (disk, offsets) = log_of(4, false);
    let path = segments(&disk)[0].clone();
    for record in 0..3 {
        for at in offsets[record]..offsets[record + 1] {
            let disk = disk.kill();
            flip(&disk, &path, at);
            let error = open(&disk, 1 << 20).unwrap_err();
            assert_eq!(damage(&error), ("seg-00000000000000000001.tdl".to_owned(), offsets[record]), "{error}");
            assert!(matches!(open(&disk, 1 << 20), Err(LogError::Damaged { .. })), "it stays as it is");
        }
    }
}

#[test]
fn a_bad_last_record_is_cut_unless_the_log_was_closed_in_order() {
    for closed in [false, true] {
        let (disk, offsets) = log_of(4, closed);
        flip(&disk, &segments(&disk)[0], offsets[3] + 50);
        match open(&disk, 1 << 20) {
            Ok((_, opened)) => assert!(!closed && opened.tail == Lsn(3)),
            Err(error) => {
                assert!(closed, "{error}");
                assert_eq!(damage(&error).1, offsets[3]);
            }
        }
    }
}

#[test]
fn a_bad_record_within_the_last_group_is_a_torn_tail() {
    // Written by one write and never acknowledged: the disk may have kept the second half alone.
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1 << 20).unwrap();
    put(&log, vec![small(1)]).unwrap();
    put(&log, vec![small(2), small(3), small(4)]).unwrap();
    let mut reader = log.reader(Lsn(2));
    let offset = reader.next_head().unwrap().unwrap().offset;
    let disk = disk.kill();
    flip(&disk, &segments(&disk)[0], offset + 20);
    let (_, opened) = open(&disk, 1 << 20).unwrap();
    assert_eq!((opened.tail, opened.truncated.unwrap().offset), (Lsn(1), offset));
}

#[test]
fn a_batch_without_its_end_is_cut() {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 1 << 20).unwrap();
    put(&log, vec![small(1)]).unwrap();
    put(&log, vec![small(2), small(3), small(4)]).unwrap();
    let mut reader = log.reader(Lsn(2));
    let start = reader.next_head().unwrap().unwrap().offset;
    let _second = reader.next_head().unwrap();
    let last = reader.next_head().unwrap().unwrap().offset;
    let disk = disk.kill();
    disk.open_rw(&segments(&disk)[0]).unwrap().truncate(last).unwrap();
    let (log, opened) = open(&disk, 1 << 20).unwrap();
    assert_eq!((opened.tail, opened.truncated.unwrap().offset), (Lsn(1), start));
    assert_eq!(read_all(&log).unwrap().len(), 1);
}

/// A log of several segments.
fn rolled() -> FaultDisk {
    let disk = FaultDisk::new();
    let (log, _) = open(&disk, 700).unwrap();
    for n in 0..30 {
        put(&log, vec![small(n)]).unwrap();
    }
    drop(log);
    assert!(segments(&disk).len() > 4);
    disk
}

fn refused(disk: &FaultDisk) -> LogError {
    open(disk, 700).unwrap_err()
}

#[test]
fn damage_to_an_older_segment_is_told() {
    let whole = rolled();
    let paths = segments(&whole);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    for path in &paths[..paths.len() - 1] {
        let disk = whole.kill();
        let bytes = disk.read(path).unwrap().len() as u64;
        disk.open_rw(path).unwrap().truncate(bytes - 1).unwrap();
        assert_eq!(damage(&refused(&disk)), (name(path), bytes - 1), "cut");

        let disk = whole.kill();
        flip(&disk, path, 40);
        assert_eq!(damage(&refused(&disk)), (name(path), 0), "header");

        let disk = whole.kill();
        disk.remove(path).unwrap();
        let error = refused(&disk);
        assert!(matches!(&error, LogError::Missing { file, .. } if *file == name(path)), "{error}");

        let disk = whole.kill();
        flip(&disk, path, HEADER_BYTES as u64 + 60);
        let (log, _) = open(&disk, 700).unwrap();
        assert_eq!(damage(&read_all(&log).unwrap_err()), (name(path), HEADER_BYTES as u64), "a record");
        let inspection = Changelog::inspect(Arc::new(disk), Path::new(DIR)).unwrap();
        assert_eq!(damage(&inspection.check().unwrap_err()).0, name(path));
    }
}

#[test]
fn a_missing_or_bad_identity_and_missing_segments_are_told() {
    let whole = rolled();
    let identity = Path::new(DIR).join("LOG");
    let disk = whole.kill();
    disk.remove(&identity).unwrap();
    assert!(matches!(refused(&disk), LogError::Missing { .. }));

    let disk = whole.kill();
    flip(&disk, &identity, 20);
    assert_eq!(damage(&refused(&disk)), ("LOG".to_owned(), 0));

    let disk = whole.kill();
    for path in segments(&disk) {
        disk.remove(&path).unwrap();
    }
    assert!(matches!(refused(&disk), LogError::Missing { .. }));

    let disk = whole.kill();
    disk.remove(segments(&disk).last().unwrap()).unwrap();
    damage(&refused(&disk));
}

#[test]
fn another_logs_segment_is_not_taken() {
    let (one, two) = (rolled(), rolled());
    let path = &segments(&one)[2];
    let foreign = two.read(path).unwrap();
    one.remove(path).unwrap();
    one.create_new(path).unwrap().append(&foreign).unwrap();
    assert_eq!(damage(&refused(&one)).1, 0);
}

#[test]
fn the_leftover_of_a_cut_roll_is_removed() {
    for left in [0, 10, HEADER_BYTES] {
        let disk = rolled();
        let (log, opened) = open(&disk, 1 << 20).unwrap();
        put(&log, vec![small(7)]).unwrap();
        let disk = disk.kill();
        let path = Path::new(DIR).join(segment::name(Lsn(opened.tail.0 + 2)));
        disk.create_new(&path).unwrap().append(&vec![0; left]).unwrap();
        let (log, opened) = open(&disk, 700).unwrap();
        assert_eq!(opened.tail, Lsn(31));
        assert!(!disk.exists(&path).unwrap());
        assert_eq!(put(&log, vec![small(8)]).unwrap(), Lsn(32));
    }
}

#[test]
fn a_newer_format_is_told_apart_from_damage() {
    let (disk, _) = log_of(2, true);
    let path = segments(&disk)[0].clone();
    let mut bytes = disk.read(&path).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    disk.open_rw(&path).unwrap().write_at(0, &bytes).unwrap();
    let error = open(&disk, 1 << 20).unwrap_err();
    assert!(matches!(error, LogError::Version { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_length_is_believed_only_as_far_as_there_are_bytes() {
    let (disk, offsets) = log_of(2, false);
    let path = segments(&disk)[0].clone();
    let mut lie = vec![0; 8];
    lie[4..8].copy_from_slice(&(100_u32 << 20).to_le_bytes());
    disk.open_rw(&path).unwrap().append(&lie).unwrap();
    let (log, opened) = open(&disk, 1 << 20).unwrap();
    assert_eq!(opened.truncated.unwrap().offset, offsets[2]);
    assert_eq!(read_all(&log).unwrap().len(), 2);
}
