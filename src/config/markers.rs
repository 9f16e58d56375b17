//! `[markers.NAME]`: documents that close a window, and what the window is then called.

use super::NamespacePattern;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a field must be.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum FieldValue {
    /// This truth value.
    Flag(bool),
    /// This whole number, whatever its BSON type.
    Number(i64),
    /// This text.
    Text(String),
}

impl Eq for FieldValue {}

/// A document that closes a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarkerConfig {
    /// Where it is written: one namespace, or a database.
    pub namespace: Option<NamespacePattern>,
    /// Fields (`a.b` for nested ones) and what they must be; empty: every document that comes.
    pub fields: BTreeMap<String, FieldValue>,
    /// The window's label; `{a.b}` stands for a field of the document. Empty: the marker's name.
    pub label: String,
}

/// All that is wrong with the marker `name`: the setting, and what is expected.
pub(super) fn check(name: &str, marker: &MarkerConfig) -> Vec<(String, String)> {
    let mut bad = Vec::new();
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(letters) {
        bad.push((String::new(), "expected a name of letters, digits, - and _".into()));
    }
    if marker.namespace.is_none() {
        bad.push(("namespace".into(), "expected `db.collection` or `db.*`: where such documents are written".into()));
    }
    if marker.label.matches('{').count() != marker.label.matches('}').count() {
        bad.push(("label".into(), format!("found `{}`, expected fields as `{{name}}`", marker.label)));
    }
    bad
}
