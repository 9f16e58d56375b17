//! Tools to spoil an export, and to mend the hashes around what was spoiled.

use crate::export::dir;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use tidelog::disk::{Disk as _, FaultDisk};

pub(crate) fn sha(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Computes a line's change hash anew.
pub(crate) fn rehash(line: &mut Value) {
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| line[name].to_string();
    let words = [
        number("epoch"),
        number("seq"),
        text("op"),
        text("before_sha256"),
        text("after_sha256"),
        text("key"),
        text("ns"),
    ];
    if line.get("change_hash").is_some() {
        line["change_hash"] = json!(sha(words.join(":").as_bytes()));
    }
}

/// A copy of an export that may be spoiled.
pub(crate) struct Forge(pub(crate) FaultDisk);

impl Forge {
    pub(crate) fn path(window: u64, name: &str) -> PathBuf {
        dir().join(format!("window-{window:010}")).join(name)
    }

    pub(crate) fn read(&self, window: u64, name: &str) -> Vec<u8> {
        self.0.read(&Self::path(window, name)).expect("read")
    }

    pub(crate) fn write(&self, window: u64, name: &str, bytes: &[u8]) {
        self.0.replace(&Self::path(window, name), bytes).expect("write");
    }

    pub(crate) fn write_raw(&self, name: &str, bytes: &[u8]) {
        let path = dir().join(name);
        self.0.create_dir_all(path.parent().expect("parent")).expect("folder");
        self.0.replace(&path, bytes).expect("write");
    }

    pub(crate) fn remove(&self, window: u64, name: &str) {
        self.0.remove(&Self::path(window, name)).expect("remove");
    }

    pub(crate) fn remove_window(&self, window: u64) {
        self.0.remove_dir_all(Self::path(window, "x").parent().expect("parent")).expect("remove");
    }

    pub(crate) fn swap_windows(&self, a: u64, b: u64) {
        for name in ["records.jsonl", "manifest.json"] {
            let (of_a, of_b) = (self.read(a, name), self.read(b, name));
            self.write(a, name, &of_b);
            self.write(b, name, &of_a);
        }
    }

    pub(crate) fn edit_manifest_text(&self, window: u64, edit: impl Fn(&str) -> String) {
        let text = String::from_utf8(self.read(window, "manifest.json")).expect("utf-8");
        self.write(window, "manifest.json", edit(&text).as_bytes());
    }

    /// Edits a manifest and keeps its form.
    pub(crate) fn edit_manifest(&self, window: u64, edit: impl Fn(&mut Value)) {
        let mut manifest: Value = serde_json::from_slice(&self.read(window, "manifest.json")).expect("json");
        edit(&mut manifest);
        let mut bytes = serde_json::to_vec_pretty(&manifest).expect("json");
        bytes.push(b'\n');
        self.write(window, "manifest.json", &bytes);
    }

    pub(crate) fn edit_bytes(&self, window: u64, edit: impl Fn(&mut Vec<u8>)) {
        let mut bytes = self.read(window, "records.jsonl");
        edit(&mut bytes);
        self.write(window, "records.jsonl", &bytes);
    }

    pub(crate) fn edit_lines(&self, window: u64, edit: impl Fn(&mut Vec<String>)) {
        let text = String::from_utf8(self.read(window, "records.jsonl")).expect("utf-8");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        edit(&mut lines);
        let text: String = lines.into_iter().map(|line| line + "\n").collect();
        self.write(window, "records.jsonl", text.as_bytes());
    }

    /// Edits one line and keeps its form.
    pub(crate) fn edit_line(&self, window: u64, line: usize, edit: impl Fn(&mut Value)) {
        self.edit_lines(window, |lines| {
            let mut value: Value = serde_json::from_str(&lines[line]).expect("json");
            edit(&mut value);
            lines[line] = value.to_string();
        });
    }

    /// Replaces the first place of `from` in the records.
    pub(crate) fn replace(&self, window: u64, from: &str, to: &str) {
        self.edit_bytes(window, |bytes| {
            let text = String::from_utf8(bytes.clone()).expect("utf-8");
            assert!(text.contains(from), "{from} is not there");
            *bytes = text.replacen(from, to, 1).into_bytes();
        });
    }

    /// Mends sizes and hashes of all files, whatever their form, and the chain of manifests.
    pub(crate) fn reseal_files(&self) {
        let mut previous = Value::Null;
        for window in 1.. {
            if !self.0.exists(&Self::path(window, "manifest.json")).expect("exists") {
                return;
            }
            self.edit_manifest(window, |m| {
                for file in m["files"].as_array_mut().expect("files") {
                    let bytes = self.read(window, file["name"].as_str().expect("a name"));
                    (file["bytes"], file["sha256"]) = (json!(bytes.len()), json!(sha(&bytes)));
                }
                m["previous_manifest_sha256"] = previous.clone();
            });
            previous = json!(sha(&self.read(window, "manifest.json")));
        }
    }

    /// Mends files' sizes and hashes and the chain of manifests.
    pub(crate) fn reseal(&self) {
        let mut previous = Value::Null;
        for window in 1.. {
            if !self.0.exists(&Self::path(window, "manifest.json")).expect("exists") {
                return;
            }
            let records = self.read(window, "records.jsonl");
            let lines = String::from_utf8(records.clone()).expect("utf-8").lines().count();
            self.edit_manifest(window, |m| {
                m["files"][0] = json!({ "name": "records.jsonl", "bytes": records.len(), "records": lines, "sha256": sha(&records) });
                m["records"] = json!(lines);
                m["previous_manifest_sha256"] = previous.clone();
            });
            previous = json!(sha(&self.read(window, "manifest.json")));
        }
    }
}
