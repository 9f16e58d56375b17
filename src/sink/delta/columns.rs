//! The table's schema: our Parquet columns in the words of Delta, and whether a table that is there can take our files.
//!
//! Source: the Delta protocol, "Schema Serialization Format". All columns may be null: one that may not could never be dropped.

use crate::format::parquet::{Kind, columns};
use serde_json::{Value, json};

/// How a table's schema fits.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It has all our columns.
    Good,
    /// It lacks some of them, which can be added: the schema with them.
    Lacks(String),
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "string",
        Kind::Binary => "binary",
        Kind::Long => "long",
        Kind::Int => "integer",
        Kind::Time => "timestamp",
        Kind::Flag => "boolean",
    }
}

fn field(name: &str, kind: Kind) -> Value {
    json!({"name": name, "type": word(kind), "nullable": true, "metadata": {}})
}

/// The schema of a new table.
pub(super) fn schema() -> String {
    let fields: Vec<_> = columns().map(|(name, kind)| field(name, kind)).collect();
    json!({"type": "struct", "fields": fields}).to_string()
}

/// Whether our files can be added to a table with this `metaData`; otherwise what stands in the way.
pub(super) fn fit(metadata: &Value) -> Result<Fit, String> {
    let partitions = metadata.get("partitionColumns").and_then(Value::as_array).is_some_and(|c| !c.is_empty());
    if partitions {
        return Err("it is partitioned".into());
    }
    let settings = metadata.get("configuration").and_then(Value::as_object);
    let strict = |name: &String| name.starts_with("delta.constraints.");
    if let Some(name) = settings.into_iter().flat_map(serde_json::Map::keys).find(|name| strict(name)) {
        return Err(format!("it has `{name}`"));
    }
    let text = metadata.get("schemaString").and_then(Value::as_str).unwrap_or_default();
    let mut schema: Value =
        serde_json::from_str(text).map_err(|error| format!("its schema cannot be read: {error}"))?;
    let Some(fields) = schema.get_mut("fields").and_then(Value::as_array_mut) else {
        return Err("its schema has no columns".into());
    };
    let mut lacking = Vec::new();
    for (name, kind) in columns() {
        // Names are compared as Delta does: without regard to case.
        let same = |field: &&Value| name_of(field).eq_ignore_ascii_case(name);
        match fields.iter().find(same) {
            None => lacking.push(field(name, kind)),
            Some(found) if found.get("type").and_then(Value::as_str) != Some(word(kind)) => {
                let found = found.get("type").map(ToString::to_string).unwrap_or_default();
                return Err(format!("its column `{name}` is {found}, not \"{}\"", word(kind)));
            }
            Some(found) if name_of(found) != name => return Err(format!("its column `{name}` has other letters")),
            Some(_) => {}
        }
    }
    let ours = |name: &str| columns().any(|(known, _)| known == name);
    for field in fields.iter() {
        let name = name_of(field);
        if !ours(name) && field.get("nullable").and_then(Value::as_bool) != Some(true) {
            return Err(format!("its column `{name}` may not be null, and we know nothing of it"));
        }
        let told = field.get("metadata").and_then(Value::as_object);
        if let Some(rule) = told.into_iter().flat_map(serde_json::Map::keys).find(|key| key.starts_with("delta.")) {
            return Err(format!("its column `{name}` has `{rule}`"));
        }
    }
    if lacking.is_empty() {
        return Ok(Fit::Good);
    }
    fields.append(&mut lacking);
    Ok(Fit::Lacks(schema.to_string()))
}

fn name_of(field: &Value) -> &str {
    field.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(change: impl Fn(&mut Vec<Value>)) -> Result<Fit, String> {
        let mut schema: Value = serde_json::from_str(&schema()).unwrap();
        change(schema["fields"].as_array_mut().unwrap());
        fit(&json!({"schemaString": schema.to_string(), "partitionColumns": []}))
    }

    #[test]
    fn a_table_of_ours_fits() {
        assert_eq!(told(|_| {}), Ok(Fit::Good));
        assert_eq!(
            told(|fields| fields.push(json!({"name": "more", "type": "string", "nullable": true}))),
            Ok(Fit::Good)
        );
    }

    #[test]
    fn columns_of_a_later_version_are_added() {
        let Ok(Fit::Lacks(merged)) = told(|fields| fields.truncate(fields.len() - 2)) else { panic!("nothing lacks") };
        assert_eq!(merged, schema());
        assert_eq!(fit(&json!({"schemaString": merged})), Ok(Fit::Good));
    }

    #[test]
    fn what_cannot_be_written_into() {
        assert!(told(|fields| fields[1]["type"] = "string".into()).unwrap_err().contains("`lsn` is \"string\""));
        assert!(told(|fields| fields[1]["name"] = "LSN".into()).unwrap_err().contains("other letters"));
        let strict = json!({"name": "more", "type": "string", "nullable": false, "metadata": {}});
        assert!(told(|fields| fields.push(strict.clone())).unwrap_err().contains("may not be null"));
        assert!(
            told(|fields| fields[0]["metadata"] = json!({"delta.invariants": "x"})).unwrap_err().contains("delta.inv")
        );
        let parted = json!({"schemaString": schema(), "partitionColumns": ["ns"]});
        assert!(fit(&parted).unwrap_err().contains("partitioned"));
        let bound = json!({"schemaString": schema(), "configuration": {"delta.constraints.a": "lsn > 0"}});
        assert!(fit(&bound).unwrap_err().contains("delta.constraints.a"));
        assert!(fit(&json!({})).is_err() && fit(&json!({"schemaString": "{}"})).is_err());
    }
}
