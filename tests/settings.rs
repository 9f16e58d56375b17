//! The settings as people meet them: the example file, the reference pages, and what is said about a wrong file.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

use std::path::{Path, PathBuf};
use tidelog::config::{Config, ConfigError, Override, example_file, load, reference_page};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap_or_else(|e| panic!("deploy/{name}: {e}"))
}

/// What is said about a file, with the file's path taken out.
fn told(text: &str, overrides: &[Override]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::write(&path, text).unwrap();
    match load(Some(&path), overrides) {
        Ok(_) => String::new(),
        Err(error) => error.to_string().replace(&path.display().to_string(), "F"),
    }
}

fn flag(flag: &str, path: &str, value: &str) -> Override {
    Override { flag: flag.into(), path: path.into(), key: None, value: value.into() }
}

#[test]
fn the_example_is_the_defaults() {
    assert_eq!(load(Some(&deploy("tidelog.example.toml")), &[]).unwrap(), Config::default());
}

#[test]
fn the_pages_in_deploy_are_what_the_code_prints() {
    let hint = "print it again: tidelog docs …";
    assert_eq!(read("tidelog.example.toml"), example_file(), "{hint}");
    assert_eq!(read("docs/settings.md"), reference_page(), "{hint}");
    assert_eq!(read("docs/metrics.md"), tidelog::metrics::reference_page(), "{hint}");
}

#[test]
fn a_wrong_file_is_told_with_line_found_and_expected() {
    let cases = [
        (
            "[log]\ndurability = \"maybe\"\n",
            "F:2:14: unknown variant `maybe`, expected one of `always`, `interval`, `os`",
        ),
        ("[log]\n\ndurabilty = \"os\"\n", "F:3:1: unknown field `durabilty`, expected one of `data`"),
        ("[proxies]\n", "F:1:2: unknown field `proxies`, expected one of `proxy`"),
        ("[proxy]\nlisten = \"nowhere\"\n", "F:2:10: found `nowhere`, expected an address like"),
        ("[windows]\nmax_records = \"many\"\n", "F:2:15: invalid type: string \"many\", expected u64"),
        ("[windows]\nmax_records = 0\n", "F:2:15: windows.max_records: found 0, expected a whole number from 1 to"),
        ("[windows]\nidle_ms = -1\n", "F:2:11: invalid value: integer `-1`, expected u64"),
        ("[proxy\n", "F:1:7: "),
        (
            "[admin]\nlisten = \"0.0.0.0:9000\"\n",
            "F:2:10: admin.listen: found 0.0.0.0:9000, expected a loopback address",
        ),
        (
            "[proxy]\nadvertise = \"0.0.0.0:1\"\n",
            "F:2:13: proxy.advertise: found 0.0.0.0:1, expected an address that clients can",
        ),
        ("[store]\nuri = \"mongodb://u:p@h/\"\n", "F:2:7: store.uri: holds credentials; expected none"),
        ("[store]\nusername = \"u\"\n", "F:2:12: store.username: expected a password with it"),
        ("[proxy.hosts]\n\"a:1\" = \"b\"\n", "F:2:9: found `b`, expected an address"),
        (
            "[limits]\ninflight_bytes = 1048576\n",
            "F:2:18: limits.inflight_bytes: found 1048576, expected at least 96000000",
        ),
    ];
    for (text, expected) in cases {
        let said = told(text, &[]);
        assert!(said.starts_with(expected), "{text}\nsaid     {said}\nexpected {expected}");
    }
}

#[test]
fn a_password_is_not_repeated() {
    let said = told("[store]\nuri = \"mongodb://u:s3cret@h/\"\n", &[]);
    assert!(!said.contains("s3cret"), "{said}");
    // The driver's own spelling of a password is no setting.
    let said = told("[store]\npassword = \"s3cret\"\n", &[]);
    assert!(said.contains("unknown field `password`") && !said.contains("s3cret"), "{said}");
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let said = told("[windows]\nmax_records = 0\nsettle_ms = 99999999999\n", &[]);
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn flags_win_and_are_named_when_wrong() {
    let over = [flag("--listen", "proxy.listen", "127.0.0.1:9"), flag("--set", "windows.idle_ms", "1_000")];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::write(&path, "[proxy]\nlisten = \"127.0.0.1:8\"\n").unwrap();
    let config = load(Some(&path), &over).unwrap();
    assert_eq!((config.proxy.listen.to_string(), config.windows.idle_ms), ("127.0.0.1:9".into(), 1_000));

    let said = told("", &[flag("--set", "windows.idle_ms", "soon")]);
    assert_eq!(said, "--set: windows.idle_ms: found `soon`, expected a whole number from 10 to 604800000");
    let said = told("", &[flag("--set windows.idle_ms", "windows.idle_ms", "1")]);
    assert_eq!(said, "--set windows.idle_ms: windows.idle_ms: found 1, expected a whole number from 10 to 604800000");
    let said = told("", &[flag("--durability", "log.durability", "never")]);
    assert_eq!(said, "--durability: log.durability: found `never`, expected one of \"always\", \"interval\", \"os\"");
    assert!(told("", &[flag("--set", "log.nothing", "1")]).contains("unknown setting"));

    let host = Override { key: Some("db2:27017".into()), ..flag("--host", "proxy.hosts", "db2:27117") };
    assert_eq!(load(None, &[host]).unwrap().proxy.hosts.len(), 1);
}

#[test]
fn a_missing_file_is_an_error_of_reading() {
    assert!(matches!(load(Some(Path::new("/nonexistent/t.toml")), &[]), Err(ConfigError::Read { .. })));
}
