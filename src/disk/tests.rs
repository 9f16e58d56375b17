//! Both disks do the same; `FaultDisk` loses what was not synced.

use super::{Disk, FaultDisk, OsDisk};
use std::io::ErrorKind;
use std::path::Path;

fn on_both(test: impl Fn(&dyn Disk, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    test(&OsDisk, dir.path());
    let disk = FaultDisk::new();
    disk.create_dir_all(Path::new("/a/b")).unwrap();
    test(&disk, Path::new("/a/b"));
}

#[test]
fn files_read_back_what_was_written() {
    on_both(|disk, dir| {
        let path = dir.join("f");
        let mut file = disk.create_new(&path).unwrap();
        assert_eq!(disk.create_new(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        file.append(b"hello ").unwrap();
        file.append(b"world").unwrap();
        file.write_at(0, b"J").unwrap();
        let mut buf = [0; 8];
        assert_eq!(file.read_at(6, &mut buf).unwrap(), 5);
        assert_eq!(&buf[..5], b"world");
        file.truncate(5).unwrap();
        file.append(b"!").unwrap();
        assert_eq!(file.len().unwrap(), 6);
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        assert_eq!(disk.read(&path).unwrap(), b"Jello!");
        let mut again = disk.open_rw(&path).unwrap();
        again.append(b"?").unwrap();
        assert_eq!(disk.read(&path).unwrap(), b"Jello!?");
        let missing = disk.open_read(&dir.join("g")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("open ") && missing.to_string().contains("/g"), "{missing}");
    });
}

#[test]
fn folders_list_rename_replace_and_remove() {
    on_both(|disk, dir| {
        disk.create_dir_all(&dir.join("x/y")).unwrap();
        disk.replace(&dir.join("x/one"), b"1").unwrap();
        disk.replace(&dir.join("x/one"), b"2").unwrap();
        assert_eq!(disk.read(&dir.join("x/one")).unwrap(), b"2");
        assert_eq!(disk.list(&dir.join("x")).unwrap(), ["one", "y"]);
        disk.rename(&dir.join("x"), &dir.join("z")).unwrap();
        assert!(!disk.exists(&dir.join("x")).unwrap());
        assert_eq!(disk.list(&dir.join("z")).unwrap(), ["one", "y"]);
        disk.remove(&dir.join("z/one")).unwrap();
        assert_eq!(disk.remove(&dir.join("z/one")).unwrap_err().kind(), ErrorKind::NotFound);
        disk.remove_dir_all(&dir.join("z")).unwrap();
        disk.remove_dir_all(&dir.join("z")).unwrap();
        assert!(!disk.exists(&dir.join("z")).unwrap());
        assert!(disk.free_bytes(dir).unwrap() > 0);
    });
}

#[test]
fn a_lock_excludes_and_ends() {
    on_both(|disk, dir| {
        let path = dir.join("LOCK");
        let held = disk.lock(&path).unwrap();
        let refused = disk.lock(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        assert!(refused.to_string().contains("held by"), "{refused}");
        drop(held);
        disk.lock(&path).unwrap();
    });
}

#[test]
fn a_power_cut_leaves_what_was_synced() {
    let disk = FaultDisk::new();
    let dir = Path::new("/d");
    disk.create_dir_all(dir).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let mut file = disk.create_new(&dir.join("f")).unwrap();
    file.append(b"one").unwrap();
    file.sync_data().unwrap();
    assert!(!disk.crash(0).exists(&dir.join("f")).unwrap(), "its name was not synced");
    disk.sync_dir(dir).unwrap();
    file.append(b"two").unwrap();
    assert_eq!(disk.crash(0).read(&dir.join("f")).unwrap(), b"one");
    assert_eq!(disk.kill().read(&dir.join("f")).unwrap(), b"onetwo");
    for seed in 1..100 {
        let left = disk.crash(seed).read(&dir.join("f")).unwrap();
        assert!(b"onetwo".starts_with(left.as_slice()) && left.len() >= 3, "{left:?}");
    }
}

#[test]
fn a_failed_sync_loses_its_bytes_for_good() {
    let disk = FaultDisk::new();
    let path = Path::new("/f");
    let mut file = disk.create_new(path).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.fail_at(2);
    file.append(b"abc").unwrap();
    file.sync_data().unwrap_err();
    file.append(b"def").unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.read(path).unwrap(), b"abcdef");
    assert_eq!(disk.crash(0).read(path).unwrap(), b"\0\0\0def");
}

#[test]
fn a_stopped_machine_answers_nothing_and_a_full_one_writes_what_fits() {
    let disk = FaultDisk::new();
    disk.set_capacity(4);
    let mut file = disk.create_new(Path::new("/f")).unwrap();
    assert_eq!(file.append(b"abcdef").unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.read(Path::new("/f")).unwrap(), b"abcd");
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 0);
    disk.stop_at(1);
    file.sync_data().unwrap_err();
    disk.read(Path::new("/f")).unwrap_err();
    assert!(!disk.crash(0).exists(Path::new("/f")).unwrap());
}
