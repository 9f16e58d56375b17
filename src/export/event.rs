//! Business events that close windows: a document that comes to be as a rule says, and a schedule in a time zone.
//!
//! Promises: which record closes a window follows from the log alone, so it is the same after a restart. A document fires its
//! rule when it comes to fulfil it, not again while it goes on to. A schedule that passed while nothing ran fires once at the
//! start.

use crate::config::{FieldValue, MarkerConfig};
use crate::types::{Body, Image, Record};
use bson::raw::{RawBsonRef, RawDocument};
use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A label is cut off here.
const LABEL_BYTES: usize = 256;

/// Rules on documents.
#[derive(Clone, Debug, Default)]
pub struct Markers {
    rules: Vec<(String, MarkerConfig)>,
}

impl Markers {
    /// These, by name.
    pub fn new(rules: impl IntoIterator<Item = (String, MarkerConfig)>) -> Self {
        Self { rules: rules.into_iter().collect() }
    }

    /// Whether a change in this namespace may fire one.
    pub(super) fn watch(&self, ns: &str) -> bool {
        self.rules.iter().any(|(_, rule)| matches(rule, ns))
    }

    /// The label of the window that ends with this record, if it fires a rule.
    pub(super) fn label(&self, record: &Record) -> Option<String> {
        let Body::Change(change) = &record.body else { return None };
        let fulfils = |rule: &MarkerConfig, image: Option<&Image>| image.is_some_and(|image| fulfils(rule, image));
        let fired = |(_, rule): &&(String, MarkerConfig)| {
            matches(rule, change.ns.as_str())
                && fulfils(rule, change.after.as_ref())
                && !fulfils(rule, change.before.as_ref())
        };
        let (name, rule) = self.rules.iter().find(fired)?;
        Some(label(if rule.label.is_empty() { name } else { &rule.label }, change.after.as_ref()?))
    }
}

fn matches(rule: &MarkerConfig, ns: &str) -> bool {
    rule.namespace.as_ref().is_some_and(|pattern| pattern.matches(ns))
}

fn fulfils(rule: &MarkerConfig, image: &Image) -> bool {
    let Ok(document) = RawDocument::from_bytes(image.bytes()) else { return false };
    rule.fields.iter().all(|(path, wanted)| field(document, path).is_some_and(|found| is(found, wanted)))
}

/// The value at `a.b`.
fn field<'d>(document: &'d RawDocument, path: &str) -> Option<RawBsonRef<'d>> {
    match path.split_once('.') {
        None => document.get(path).ok()?,
        Some((first, rest)) => field(document.get(first).ok()??.as_document()?, rest),
    }
}

fn is(found: RawBsonRef<'_>, wanted: &FieldValue) -> bool {
    match wanted {
        FieldValue::Flag(wanted) => found.as_bool() == Some(*wanted),
        FieldValue::Text(wanted) => found.as_str() == Some(wanted),
        FieldValue::Number(wanted) => match found {
            RawBsonRef::Int32(number) => i64::from(number) == *wanted,
            RawBsonRef::Int64(number) => number == *wanted,
            // A double that is a whole number has this text in Rust.
            RawBsonRef::Double(number) => number.fract() == 0.0 && format!("{number:.0}") == wanted.to_string(),
            _ => false,
        },
    }
}

/// A template with its fields put in.
fn label(template: &str, image: &Image) -> String {
    let document = RawDocument::from_bytes(image.bytes()).ok();
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, (path, after))) = rest.split_once('{').and_then(|(b, r)| Some((b, r.split_once('}')?))) {
        out.push_str(before);
        let value = document.and_then(|document| field(document, path));
        out.push_str(&value.map_or_else(|| "?".to_owned(), shown));
        rest = after;
    }
    out.push_str(rest);
    while out.len() > LABEL_BYTES {
        out.pop();
    }
    out
}

fn shown(value: RawBsonRef<'_>) -> String {
    match value {
        RawBsonRef::String(text) => text.to_owned(),
        RawBsonRef::Int32(number) => number.to_string(),
        RawBsonRef::Int64(number) => number.to_string(),
        RawBsonRef::Double(number) => number.to_string(),
        RawBsonRef::Boolean(flag) => flag.to_string(),
        RawBsonRef::ObjectId(id) => id.to_hex(),
        RawBsonRef::DateTime(at) => at.try_to_rfc3339_string().unwrap_or_else(|_| "?".to_owned()),
        _ => "?".to_owned(),
    }
}

/// Times at which windows close.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
    /// The next one, ms since 1970; `None`: there is none any more.
    next_ms: Option<i64>,
}

impl Schedule {
    /// A cron expression of five fields, in the time zone of this IANA name.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn new(expression: &str, zone: &str) -> Result<Self, String> {
        let cron = expression.parse().map_err(|e: croner::errors::CronError| format!("`{expression}`: {e}"))?;
        let zone = TimeZone::get(zone).map_err(|e| format!("`{zone}`: {e}"))?;
        Ok(Self { cron, zone, next_ms: None })
    }

    /// Begins after this moment: that of the last window, or now.
    pub(super) fn begin(&mut self, after_ms: i64) {
        self.next_ms = self.after(after_ms);
    }

    /// If its time has come: the label of the window, which is the time in the zone. Times passed over count once.
    pub(super) fn due(&mut self, now_ms: i64) -> Option<String> {
        let mut at = self.next_ms.filter(|next| *next <= now_ms)?;
        // A year of minutes is the most that is walked through one by one.
        for _ in 0..600_000 {
            match self.after(at) {
                Some(next) if next <= now_ms => at = next,
                next => {
                    self.next_ms = next;
                    break;
                }
            }
        }
        let zoned = Timestamp::from_millisecond(at).ok()?.to_zoned(self.zone.clone());
        Some(zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
    }

    fn after(&self, ms: i64) -> Option<i64> {
        let from = Timestamp::from_millisecond(ms).ok()?.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&from, false).ok().map(|next| next.timestamp().as_millisecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;
    use bytes::Bytes;
    use std::collections::BTreeMap;

    fn image(document: &RawDocument) -> Image {
        Image::new(Bytes::copy_from_slice(document.as_bytes()))
    }

    #[test]
    fn a_rule_looks_at_fields_of_any_number_type() {
        let fields =
            [("kind".to_owned(), FieldValue::Text("close".into())), ("run.n".to_owned(), FieldValue::Number(3))];
        let rule = MarkerConfig { fields: BTreeMap::from(fields), ..MarkerConfig::default() };
        for yes in [
            rawdoc! { "kind": "close", "run": { "n": 3 } },
            rawdoc! { "kind": "close", "run": { "n": 3_i64 } },
            rawdoc! { "kind": "close", "run": { "n": 3.0 } },
        ] {
            assert!(fulfils(&rule, &image(&yes)), "{yes:?}");
        }
        for no in [
            rawdoc! { "kind": "close", "run": { "n": 3.5 } },
            rawdoc! { "kind": "closed", "run": { "n": 3 } },
            rawdoc! { "kind": "close", "run": 3 },
            rawdoc! { "kind": true, "run": { "n": "3" } },
        ] {
            assert!(!fulfils(&rule, &image(&no)), "{no:?}");
        }
    }

    #[test]
    fn a_label_has_the_documents_fields() {
        let document = image(&rawdoc! { "_id": 7, "day": "2026-11-25", "run": { "ok": true } });
        assert_eq!(label("close {day} #{_id} {run.ok} {none}", &document), "close 2026-11-25 #7 true ?");
        assert_eq!(label("open { end", &document), "open { end");
        assert_eq!(label(&"é".repeat(300), &document).len(), 256);
    }

    #[test]
    fn a_schedule_is_in_its_zone_and_counts_what_was_passed_over_once() {
        // 2026-03-29: in Berlin there is no 02:30.
        let mut daily = Schedule::new("30 2 * * *", "Europe/Berlin").expect("a schedule");
        let at = |text: &str| text.parse::<Timestamp>().expect("a time").as_millisecond();
        daily.begin(at("2026-03-27T12:00:00Z"));
        assert_eq!(daily.due(at("2026-03-28T01:29:59Z")), None);
        assert_eq!(daily.due(at("2026-03-28T01:30:00Z")).as_deref(), Some("2026-03-28T02:30:00+01:00"));
        assert_eq!(daily.due(at("2026-03-28T01:30:00Z")), None, "once");
        let shifted = daily.due(at("2026-03-29T12:00:00Z")).expect("the day of the change has one too");
        assert!(shifted.starts_with("2026-03-29T0"), "{shifted}");
        assert_eq!(
            daily.due(at("2026-04-05T12:00:00Z")).as_deref(),
            Some("2026-04-05T02:30:00+02:00"),
            "seven days are one"
        );
        assert_eq!(daily.due(at("2026-04-05T13:00:00Z")), None);
        assert!(Schedule::new("30 25 * * *", "Europe/Berlin").is_err());
        assert!(Schedule::new("30 2 * * *", "Europe/Atlantis").is_err());
    }
}
