//! A checkpoint in Parquet → its actions, all but the files.
//!
//! Source: the Delta protocol, "Checkpoints". Of `add` one field is read, to know that there is data. The sidecar files of a V2
//! checkpoint hold nothing but files, so they are not read.

use super::action::Action;
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Reads them. An error: why it cannot be read.
pub(super) fn actions(bytes: Bytes) -> Result<Vec<Action>, String> {
    let plain = |error: ParquetError| error.to_string();
    let reader = SerializedFileReader::new(bytes).map_err(plain)?;
    let wanted = projection(reader.metadata().file_metadata().schema()).map_err(plain)?;
    let mut actions = Vec::new();
    for row in reader.get_row_iter(Some(wanted)).map_err(plain)? {
        let value = object(&row.map_err(plain)?);
        if value.values().all(Value::is_null) {
            continue;
        }
        actions.push(serde_json::from_value(Value::Object(value)).map_err(|error| error.to_string())?);
    }
    Ok(actions)
}

/// The columns that are read.
fn projection(schema: &Type) -> Result<Type, ParquetError> {
    let mut fields = Vec::new();
    for field in schema.get_fields() {
        match field.name() {
            "protocol" | "metaData" | "txn" => fields.push(Arc::clone(field)),
            "add" => fields.push(Arc::new(only(field, "path")?)),
            _ => {}
        }
    }
    Type::group_type_builder(schema.name()).with_fields(fields).build()
}

/// The group with one of its fields.
fn only(group: &Type, name: &str) -> Result<Type, ParquetError> {
    let fields = group.get_fields().iter().filter(|field| field.name() == name).cloned().collect();
    let info = group.get_basic_info();
    Type::group_type_builder(group.name()).with_repetition(info.repetition()).with_fields(fields).build()
}

fn object(row: &Row) -> Map<String, Value> {
    row.get_column_iter().map(|(name, field)| (name.clone(), json(field))).collect()
}

fn json(field: &Field) -> Value {
    match field {
        Field::Bool(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::Str(value) => value.as_str().into(),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().map(json).collect(),
        Field::MapInternal(map) => {
            let key = |field: &Field| json(field).as_str().unwrap_or_default().to_owned();
            Value::Object(map.entries().iter().map(|(name, value)| (key(name), json(value))).collect())
        }
        // The actions that are read have no others.
        _ => Value::Null,
    }
}
