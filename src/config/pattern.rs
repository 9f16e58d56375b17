//! `db.collection` or `db.*`: which namespaces a rule is about.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Some namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamespacePattern(String);

impl NamespacePattern {
    /// Whether the namespace is one of them. A database's name stands for what is about all of it.
    pub fn matches(&self, ns: &str) -> bool {
        match self.0.strip_suffix(".*") {
            Some(db) => ns.split('.').next() == Some(db),
            None => self.0 == ns || (!ns.contains('.') && self.0.split('.').next() == Some(ns)),
        }
    }
}

impl FromStr for NamespacePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = text.split_once('.').is_some_and(|(db, name)| !db.is_empty() && !name.is_empty());
        let stars = text.matches('*').count();
        if whole && (stars == 0 || (stars == 1 && text.ends_with(".*"))) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("found `{text}`, expected `db.collection` or `db.*`"))
    }
}

impl TryFrom<String> for NamespacePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<NamespacePattern> for String {
    fn from(pattern: NamespacePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for NamespacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_collection_or_all_of_a_database() {
        let pattern = |text: &str| text.parse::<NamespacePattern>();
        let one = pattern("shop.orders").unwrap();
        assert!(one.matches("shop.orders") && one.matches("shop"));
        assert!(!one.matches("shop.orders2") && !one.matches("shops") && !one.matches("shop.orders.x"));
        let all = pattern("shop.*").unwrap();
        assert!(all.matches("shop.orders") && all.matches("shop.a.b") && all.matches("shop"));
        assert!(!all.matches("shops.orders"));
        for wrong in ["", "shop", "*", "*.orders", "shop.o*", ".x", "x."] {
            assert!(pattern(wrong).is_err(), "{wrong}");
        }
    }
}
