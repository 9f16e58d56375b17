//! The actions of the transaction log, as far as a writer that only adds files must know them.
//!
//! Source: the Delta transaction log protocol, "Actions" and "Protocol Evolution",
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>.
//!
//! Does not: know files one by one. What a table holds is nothing to a writer that only adds.

use crate::types::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// A line of a commit, or a row of a checkpoint. Others than these fields are of no matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Action {
    pub(super) protocol: Option<Protocol>,
    pub(super) meta_data: Option<Value>,
    pub(super) txn: Option<Txn>,
    pub(super) add: Option<IgnoredAny>,
    pub(super) commit_info: Option<Value>,
}

/// What a reader and a writer must be able to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    min_writer_version: i32,
    #[serde(default)]
    writer_features: Option<Vec<String>>,
}

/// How far an application has come.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
}

/// Features that ask nothing of a writer that only adds files and writes no checkpoint: what they are about are removed rows
/// or files, checkpoints, or columns of types that we have none of.
const HARMLESS: &[&str] = &[
    "appendOnly",
    "changeDataFeed",
    "deletionVectors",
    "domainMetadata",
    "invariants",
    "timestampNtz",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];

impl Protocol {
    /// Whether we may write; otherwise what stands in the way.
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.min_writer_version, &self.writer_features) {
            (..=2, _) => Ok(()),
            (7, Some(features)) => {
                let strange: Vec<_> = features.iter().filter(|f| !HARMLESS.contains(&f.as_str())).cloned().collect();
                if strange.is_empty() { Ok(()) } else { Err(format!("the table features {}", strange.join(", "))) }
            }
            (version, _) => Err(format!("writer version {version}")),
        }
    }
}

/// A new table: the actions of its version 0.
pub(super) fn creation(id: &str, schema: &str, wall_ms: i64) -> String {
    let info = json!({
        "timestamp": wall_ms,
        "operation": "CREATE TABLE",
        "operationParameters": {"mode": "ErrorIfExists"},
        "engineInfo": engine(),
        "isBlindAppend": true,
    });
    let metadata = json!({
        "id": id,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": schema,
        "partitionColumns": [],
        "configuration": {"delta.dataSkippingStatsColumns": "lsn,wall,ns,key"},
        "createdTime": wall_ms,
    });
    lines(&[
        json!({"commitInfo": info}),
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        json!({"metaData": metadata}),
    ])
}

/// Columns are added.
pub(super) fn evolution(metadata: &Value, schema: &str, wall_ms: i64) -> String {
    let mut metadata = metadata.clone();
    if let Some(told) = metadata.get_mut("schemaString") {
        *told = schema.into();
    }
    let info = json!({
        "timestamp": wall_ms,
        "operation": "ADD COLUMNS",
        "operationParameters": {},
        "engineInfo": engine(),
        "isBlindAppend": false,
    });
    lines(&[json!({"commitInfo": info}), json!({"metaData": metadata})])
}

/// A file that a commit adds.
#[derive(Clone, Debug)]
pub(super) struct Add {
    /// From the table's folder on.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) records: u64,
    /// JSON.
    pub(super) stats: String,
}

/// The commit of a window, or of an amendment.
#[derive(Clone, Debug)]
pub(super) struct Append<'a> {
    pub(super) app: &'a str,
    pub(super) version: i64,
    pub(super) adds: &'a [Add],
    pub(super) manifest: &'a [u8],
    /// Where the manifest is, from the table's folder on.
    pub(super) manifest_path: &'a str,
    /// The folder of the files, likewise.
    pub(super) folder: &'a str,
}

impl Append<'_> {
    /// The lines of the commit.
    pub(super) fn text(&self, wall_ms: i64) -> String {
        let sum = |of: fn(&Add) -> u64| self.adds.iter().map(of).sum::<u64>().to_string();
        let info = json!({
            "timestamp": wall_ms,
            "operation": "WRITE",
            "operationParameters": {"mode": "Append", "partitionBy": "[]"},
            "operationMetrics": {
                "numFiles": self.adds.len().to_string(),
                "numOutputRows": sum(|add| add.records),
                "numOutputBytes": sum(|add| add.bytes),
            },
            "engineInfo": engine(),
            "isBlindAppend": true,
            "userMetadata": self.about().to_string(),
        });
        let txn = json!({"appId": self.app, "version": self.version, "lastUpdated": wall_ms});
        let mut all = vec![json!({"commitInfo": info}), json!({"txn": txn})];
        all.extend(self.adds.iter().map(|add| {
            json!({"add": {
                "path": add.path,
                "partitionValues": {},
                "size": add.bytes,
                "modificationTime": wall_ms,
                "dataChange": true,
                "stats": add.stats,
            }})
        }));
        lines(&all)
    }

    /// What is told of the window, for people and for us.
    fn about(&self) -> Value {
        let manifest = serde_json::from_slice::<Value>(self.manifest).unwrap_or_default();
        let of = |name: &str| manifest.get(name).cloned().unwrap_or_default();
        json!({
            "log": of("log"),
            "window": of("window"),
            "amendment": of("amendment"),
            "first_lsn": of("first_lsn"),
            "last_lsn": of("last_lsn"),
            "label": of("label"),
            "folder": self.folder,
            "manifest": self.manifest_path,
            "manifest_sha256": Digest::of(self.manifest).to_string(),
        })
    }
}

/// The SHA-256 of the manifest that a commit tells, hex.
pub(super) fn manifest_sha(commit_info: &Value) -> Option<String> {
    let about: Value = serde_json::from_str(commit_info.get("userMetadata")?.as_str()?).ok()?;
    Some(about.get("manifest_sha256")?.as_str()?.to_owned())
}

fn engine() -> String {
    format!("tidelog/{}", env!("CARGO_PKG_VERSION"))
}

fn lines(actions: &[Value]) -> String {
    let mut text = actions.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(text: &str) -> Result<(), String> {
        serde_json::from_str::<Protocol>(text).unwrap().check()
    }

    #[test]
    fn what_may_be_written() {
        assert_eq!(protocol(r#"{"minReaderVersion":1,"minWriterVersion":2}"#), Ok(()));
        let features = |names: &str| protocol(&format!(r#"{{"minWriterVersion":7,"writerFeatures":[{names}]}}"#));
        assert_eq!(features(r#""appendOnly","invariants","deletionVectors","v2Checkpoint""#), Ok(()));
        let told = features(r#""appendOnly","columnMapping","rowTracking""#).unwrap_err();
        assert_eq!(told, "the table features columnMapping, rowTracking");
        for version in 3..=6 {
            let told = protocol(&format!(r#"{{"minWriterVersion":{version}}}"#)).unwrap_err();
            assert_eq!(told, format!("writer version {version}"));
        }
        assert_eq!(protocol(r#"{"minWriterVersion":8,"writerFeatures":[]}"#).unwrap_err(), "writer version 8");
        assert!(protocol(r#"{"minWriterVersion":7}"#).is_err());
    }

    #[test]
    fn a_commit_reads_back() {
        let manifest = br#"{"window":7,"first_lsn":3,"last_lsn":9,"label":"a \"b\""}"#;
        let add = Add { path: "w/x.parquet".into(), bytes: 5, records: 2, stats: "{\"numRecords\":2}".into() };
        let append = Append { app: "app", version: 7, adds: &[add], manifest, manifest_path: "_m", folder: "w" };
        let text = append.text(12);
        let actions: Vec<Action> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let info = actions[0].commit_info.as_ref().unwrap();
        assert_eq!(manifest_sha(info), Some(Digest::of(manifest).to_string()));
        let about: Value = serde_json::from_str(info["userMetadata"].as_str().unwrap()).unwrap();
        assert_eq!((about["window"].as_u64(), about["label"].as_str()), (Some(7), Some("a \"b\"")));
        let txn = actions[1].txn.as_ref().unwrap();
        assert_eq!((txn.app_id.as_str(), txn.version), ("app", 7));
        assert!(actions[2].add.is_some() && actions.len() == 3);
    }
}
