//! What the pages for people say, held against the code: names of metrics and settings, files that they link to.

#![allow(clippy::expect_used, reason = "a test may fail loudly")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The pages: README and everything under `deploy/docs`.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    for entry in fs::read_dir(root().join("deploy/docs")).expect("deploy/docs") {
        paths.push(entry.expect("entry").path());
    }
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("a page"))).collect()
}

/// Words in backticks or code blocks that start with `prefix`.
fn names<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    text.split(word).filter(|w| w.starts_with(prefix) && w.len() > prefix.len()).collect()
}

#[test]
fn metrics_that_pages_name_are_there() {
    let table = fs::read_to_string(root().join("deploy/docs/metrics.md")).expect("metrics.md");
    for (path, text) in pages() {
        for name in names(&text, "tidelog_") {
            let name = name.trim_end_matches('.');
            let base = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(table.contains(&format!("`{base}`")), "{}: {name} is no metric", path.display());
        }
    }
}

#[test]
fn settings_that_pages_name_are_there() {
    let table = fs::read_to_string(root().join("deploy/docs/settings.md")).expect("settings.md");
    let sections = [
        "proxy.",
        "store.",
        "capture.",
        "snapshot.",
        "follower.",
        "reconcile.",
        "log.",
        "retention.",
        "windows.",
        "export.",
        "admin.",
        "limits.",
        "logging.",
    ];
    for (path, text) in pages() {
        // Settings are told in backticks, alone.
        for quoted in text.split('`').skip(1).step_by(2) {
            let setting = sections.iter().any(|s| quoted.starts_with(s))
                && quoted.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '.' | '_'));
            if setting {
                assert!(table.contains(&format!("`{quoted}`")), "{}: {quoted} is no setting", path.display());
            }
        }
    }
}

#[test]
fn links_lead_somewhere() {
    for (path, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file: &Path = path.parent().expect("a folder");
            assert!(file.join(target).is_file(), "{} links to {link}", path.display());
        }
    }
}
