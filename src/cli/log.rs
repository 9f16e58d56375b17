//! `tidelog log`: the records of a data folder as JSON lines, in order, filtered. The sidecar may be running.

use super::CliError;
use crate::changelog::{Changelog, LogError};
use crate::clock::Clock;
use crate::config::DataDir;
use crate::disk::OsDisk;
use crate::entity::key_of;
use crate::format::jsonl::{Bson, Lines};
use crate::types::{Body, Control, EntityKey, Lsn, Namespace, Record};
use clap::Args;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The flags of `log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The data folder of a sidecar (which may be running)
    pub data_dir: PathBuf,
    /// Only records of this namespace: `db.collection`, or `db.*` for all of a database
    #[arg(long, value_name = "NS")]
    pub namespace: Option<String>,
    /// Only changes of the document with this _id: Extended JSON (`42`, `{"$oid": "…"}`, `"text"`) or plain text
    #[arg(long, value_name = "ID")]
    pub entity: Option<String>,
    /// Only records from this number on
    #[arg(long, value_name = "LSN", default_value_t = 1)]
    pub from_lsn: u64,
    /// Only records up to this number
    #[arg(long, value_name = "LSN", default_value_t = u64::MAX)]
    pub to_lsn: u64,
    /// Only records from this time on: RFC 3339, or an age such as `90s`, `15m`, `2h`, `3d`
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only records before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Print JSON (it always does: one object a line)
    #[arg(long)]
    pub json: bool,
}

/// What a record must be to be printed.
#[derive(Debug, Default)]
struct Filter {
    namespace: Option<String>,
    /// More than one where a plain text can be read as ids of several types.
    keys: Vec<EntityKey>,
    since_ms: Option<i64>,
    until_ms: Option<i64>,
}

pub(super) fn log(args: &LogArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let filter = Filter::of(args, Clock::system().wall_ms())?;
    let dir = DataDir::new(&args.data_dir).log();
    let failed = |e: &dyn std::fmt::Display| CliError::Failed(format!("{}: {e}", dir.display()));
    let inspection = Changelog::inspect(Arc::new(OsDisk), &dir).map_err(|e| match e {
        LogError::Missing { .. } => CliError::Call(format!("{}: {e}", dir.display())),
        LogError::Io { ref source, .. } if source.kind() == ErrorKind::NotFound => {
            CliError::Call(format!("{}: {e}", dir.display()))
        }
        _ => failed(&e),
    })?;
    let mut lines = Lines::new(inspection.log_id, Bson::WhereNeeded);
    let mut reader = inspection.reader(Lsn(args.from_lsn));
    let mut text = Vec::new();
    while let Some(record) = reader.next().map_err(|e| failed(&e))? {
        if record.lsn.0 > args.to_lsn {
            break;
        }
        if filter.takes(&record) {
            text.clear();
            lines.line(&mut text, &record);
            out.write_all(&text)?;
        }
    }
    Ok(())
}

impl Filter {
    fn of(args: &LogArgs, now_ms: i64) -> Result<Self, CliError> {
        let time = |flag: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => moment(text, now_ms).map(Some).ok_or_else(|| {
                CliError::Call(format!(
                    "{flag}: found `{text}`, expected a time like 2026-11-24T20:00:00Z or an age like 15m"
                ))
            }),
        };
        if let Some(ns) = args.namespace.as_ref().filter(|ns| !ns.contains('.')) {
            return Err(CliError::Call(format!("--namespace: found `{ns}`, expected `db.collection` or `db.*`")));
        }
        Ok(Self {
            namespace: args.namespace.clone(),
            keys: args.entity.as_deref().map(entity_keys).transpose()?.unwrap_or_default(),
            since_ms: time("--since", &args.since)?,
            until_ms: time("--until", &args.until)?,
        })
    }

    fn takes(&self, record: &Record) -> bool {
        let in_time =
            self.since_ms.is_none_or(|at| record.wall_ms >= at) && self.until_ms.is_none_or(|at| record.wall_ms < at);
        in_time && self.in_namespace(&record.body) && self.of_entity(&record.body)
    }

    fn of_entity(&self, body: &Body) -> bool {
        self.keys.is_empty() || matches!(body, Body::Change(change) if self.keys.contains(&change.key))
    }

    fn in_namespace(&self, body: &Body) -> bool {
        let Some(wanted) = &self.namespace else { return true };
        let is = |ns: &Namespace| match wanted.strip_suffix(".*") {
            Some(db) => ns.db() == db,
            None => ns.as_str() == wanted,
        };
        match body {
            Body::Change(change) => is(&change.ns),
            Body::Control(fact) => match fact {
                Control::Opened { ns, .. }
                | Control::Create { ns, .. }
                | Control::Drop { ns }
                | Control::CollMod { ns, .. }
                | Control::Completed { ns }
                | Control::Reconciled { ns, .. }
                | Control::GapOpened { ns, .. } => is(ns),
                Control::Rename { from, to } => is(from) || is(to),
                Control::DropDatabase { db } => wanted.split_once('.').is_some_and(|(of, _)| of == db),
                Control::GapClosed { .. } | Control::Node { .. } | Control::Started { .. } => false,
            },
        }
    }
}

/// The keys that an `_id` as typed can mean.
fn entity_keys(text: &str) -> Result<Vec<EntityKey>, CliError> {
    let json = serde_json::from_str::<serde_json::Value>(text).ok();
    let mut ids = Vec::new();
    match json.map(bson::Bson::try_from) {
        Some(Ok(id)) => ids.push(id),
        Some(Err(error)) => return Err(CliError::Call(format!("--entity: not Extended JSON: {error}"))),
        None => {
            ids.push(bson::Bson::String(text.to_owned()));
            ids.extend(bson::oid::ObjectId::parse_str(text).ok().map(bson::Bson::ObjectId));
        }
    }
    // Twenty-four digits are a number to JSON; who types them means an ObjectId as well.
    if text.len() == 24 && text.bytes().all(|b| b.is_ascii_digit()) {
        ids.extend(bson::oid::ObjectId::parse_str(text).ok().map(bson::Bson::ObjectId));
    }
    let key = |id: bson::Bson| {
        let raw = bson::RawBson::try_from(id).map_err(|e| CliError::Call(format!("--entity: {e}")))?;
        key_of(&raw.as_raw_bson_ref()).map_err(|e| CliError::Call(format!("--entity: {e}")))
    };
    ids.into_iter().map(key).collect()
}

/// A time as typed, in milliseconds since 1970.
fn moment(text: &str, now_ms: i64) -> Option<i64> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok();
    }
    let (number, unit_ms) = [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        .into_iter()
        .find_map(|(unit, ms)| text.strip_suffix(unit).map(|number| (number, ms)))?;
    let age = number.parse::<u32>().ok()?;
    now_ms.checked_sub(i64::from(age).checked_mul(unit_ms)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_typed() {
        assert_eq!(moment("1970-01-01T00:00:01.5Z", 0), Some(1_500));
        assert_eq!(moment("1970-01-01T01:00:00+01:00", 9), Some(0));
        assert_eq!(moment("15m", 1_000_000), Some(100_000));
        assert_eq!((moment("soon", 0), moment("-1s", 0), moment("", 0)), (None, None, None));
    }

    #[test]
    fn an_id_as_typed() {
        let of = |id: bson::Bson| key_of(&bson::RawBson::try_from(id).unwrap().as_raw_bson_ref()).unwrap();
        assert_eq!(entity_keys("42").unwrap(), [of(bson::Bson::Int32(42))]);
        assert_eq!(entity_keys("{\"$numberLong\": \"42\"}").unwrap(), [of(bson::Bson::Int32(42))]);
        assert_eq!(entity_keys("order-7").unwrap(), [of(bson::Bson::String("order-7".into()))]);
        assert_eq!(entity_keys("\"42\"").unwrap(), [of(bson::Bson::String("42".into()))]);
        assert_eq!(entity_keys("0123456789abcdef01234567").unwrap().len(), 2);
        assert!(entity_keys("{\"$oid\": \"x\"}").is_err());
    }

    #[test]
    fn namespaces_and_databases() {
        let filter = |ns: &str| Filter { namespace: Some(ns.into()), ..Filter::default() };
        let drop = |ns: &str| Body::Control(Control::Drop { ns: Namespace::from_full(ns) });
        assert!(filter("a.b").in_namespace(&drop("a.b")) && !filter("a.b").in_namespace(&drop("a.bc")));
        assert!(filter("a.*").in_namespace(&drop("a.b.c")) && !filter("a.*").in_namespace(&drop("ab.c")));
        assert!(filter("a.b").in_namespace(&Body::Control(Control::DropDatabase { db: "a".into() })));
    }
}
