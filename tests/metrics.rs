//! Every metric of the table is counted somewhere: one that stands still for ever would lie.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

use std::fs;
use std::path::{Path, PathBuf};

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("read src") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The names of the statics in the table.
fn statics(table: &str) -> Vec<&str> {
    let lines = table.lines().filter_map(|line| line.strip_prefix("pub static "));
    lines.filter_map(|line| line.split(':').next()).collect()
}

#[test]
fn each_metric_is_counted_somewhere() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let users: String = files
        .iter()
        .filter(|file| !file.starts_with(src.join("metrics")))
        .map(|file| fs::read_to_string(file).expect("read"))
        .collect();
    let words: std::collections::HashSet<_> = users.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let table = ["metrics/table.rs", "metrics/audit.rs", "metrics/retention.rs"]
        .map(|f| fs::read_to_string(src.join(f)).expect("table"))
        .concat();
    let names = statics(&table);
    assert!(names.len() > 40);
    let idle: Vec<_> = names.into_iter().filter(|name| !words.contains(name)).collect();
    assert!(idle.is_empty(), "nobody counts {idle:?}: count them, or take them out of the table");
}
