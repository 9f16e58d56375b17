//! What lies in `deploy/` and beside it, checked without installing it: the unit, the image, the licence, the bans.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// `Key=value` lines of a unit file, by section.
fn unit(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut out: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.into();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no `=` in {line:?}"));
        assert!(!key.ends_with(' ') && !value.starts_with(' '), "{line:?}");
        out.entry(section.clone()).or_default().push((key.into(), value.into()));
    }
    out
}

#[test]
fn the_unit_is_hardened() {
    let unit = unit(&read("deploy/tidelog.service"));
    assert_eq!(unit.keys().collect::<Vec<_>>(), ["Install", "Service", "Unit"]);
    let service = &unit["Service"];
    let has = |key: &str, value: &str| service.iter().any(|(k, v)| k == key && v == value);
    for key in
        ["NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "ProtectKernelTunables", "RestrictSUIDSGID"]
    {
        assert!(has(key, "true"), "{key}");
    }
    assert!(has("ProtectSystem", "strict") && has("CapabilityBoundingSet", "") && has("StateDirectory", "tidelog"));
    assert!(service.iter().any(|(k, v)| k == "User" && v != "root"));
    // The drain must be over before systemd kills.
    let stop = service.iter().find(|(k, _)| k == "TimeoutStopSec").map(|(_, v)| v.parse::<u64>().unwrap()).unwrap();
    assert!(stop * 1_000 > tidelog::config::Config::default().proxy.drain_ms + 20_000);
}

#[test]
fn systemd_accepts_the_unit() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    if version.is_err() {
        eprintln!("systemd-analyze is not here: the unit is only parsed (the_unit_is_hardened)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tidelog.service");
    // The program is not installed where tests run; everything else stands as it is.
    std::fs::write(&path, read("deploy/tidelog.service").replace("/usr/local/bin/tidelog", "/bin/true")).unwrap();
    let done = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    let ours: Vec<_> = said.lines().filter(|l| l.contains("tidelog.service")).collect();
    assert!(done.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn the_image_is_pinned_and_runs_as_nobody_special() {
    let text = read("deploy/Dockerfile");
    let lines: Vec<_> = text.lines().filter(|l| !l.trim_start().starts_with('#')).collect();
    let bases: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix("FROM ")).collect();
    assert_eq!(bases.len(), 2);
    for base in bases {
        let tag = base.split(' ').next().unwrap().split_once(':').expect("a tag").1;
        assert!(tag.contains('.') && !tag.contains("latest"), "{base} is not pinned");
    }
    let user = lines.iter().rev().find_map(|l| l.strip_prefix("USER ")).expect("USER");
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id != 0)), "USER {user}");
    let low = text.to_lowercase();
    for word in ["password", "secret", "token", "add http", "curl ", "arg "] {
        assert!(!low.contains(word), "{word}");
    }
    // What is copied from the tree exists.
    for line in lines.iter().filter(|l| l.starts_with("COPY ") && !l.contains("--from")) {
        let words: Vec<_> = line.split(' ').skip(1).collect();
        for source in &words[..words.len() - 1] {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(source).try_exists().unwrap(), "{source}");
        }
    }
    let rust = format!("rust:{}", rust_version());
    assert!(text.contains(&rust), "the image builds with another Rust than Cargo.toml asks for: {rust}");
}

fn rust_version() -> String {
    let cargo = read("Cargo.toml");
    let line = cargo.lines().find(|l| l.starts_with("rust-version")).expect("rust-version");
    line.split('"').nth(1).expect("quoted").into()
}

#[test]
fn the_licence_is_whole() {
    let text = read("LICENSE");
    for part in ["Apache License", "Version 2.0, January 2004", "9. Accepting Warranty", "END OF TERMS AND CONDITIONS"]
    {
        assert!(text.contains(part), "{part}");
    }
    assert!(read("Cargo.toml").contains("license = \"Apache-2.0\""));
}

/// Versions of each package in the lock file.
fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).unwrap();
    for package in lock["package"].as_array().unwrap() {
        let text = |key: &str| package[key].as_str().unwrap().to_owned();
        out.entry(text("name")).or_default().insert(text("version"));
    }
    out
}

/// What depends on a package, by the lock file; a package without dependents is itself what should not be there.
fn dependents(name: &str) -> BTreeSet<String> {
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).unwrap();
    let packages = lock["package"].as_array().unwrap();
    let needs = |package: &&toml::Value| {
        let all = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
        all.map(|one| one.as_str().unwrap()).any(|one| one.split(' ').next() == Some(name))
    };
    packages.iter().filter(needs).map(|package| package["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_duplicate_in_the_tree_has_a_reason() {
    let deny: toml::Table = toml::from_str(&read("deny.toml")).unwrap();
    let mut skipped: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in deny["bans"]["skip"].as_array().unwrap() {
        assert!(entry["reason"].as_str().is_some_and(|r| !r.is_empty()), "{entry}");
        let (name, version) = entry["crate"].as_str().unwrap().split_once('@').unwrap();
        skipped.entry(name.into()).or_default().insert(version.into());
    }
    let locked = locked();
    for (name, versions) in locked.iter().filter(|(_, versions)| versions.len() > 1) {
        let rest = versions.difference(skipped.get(name).unwrap_or(&BTreeSet::new())).count();
        assert!(rest <= 1, "{name} is in the tree as {versions:?}: take one, or give the reason in deny.toml");
    }
    for (name, versions) in &skipped {
        for version in versions {
            let there = locked.get(name).is_some_and(|all| all.contains(version) && all.len() > 1);
            assert!(there, "deny.toml skips {name}@{version}, which is no duplicate any more");
        }
    }
    for entry in deny["bans"]["deny"].as_array().unwrap() {
        let name = entry["crate"].as_str().unwrap();
        // What may depend on it all the same, and nothing else.
        let wrappers = entry.get("wrappers").and_then(toml::Value::as_array).into_iter().flatten();
        let allowed: BTreeSet<_> = wrappers.map(|wrapper| wrapper.as_str().unwrap().to_owned()).collect();
        assert_eq!(dependents(name), allowed, "{name}: {}", entry["reason"]);
    }
}
