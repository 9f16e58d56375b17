//! The last comparison of log and store, namespace by namespace: the only metrics whose series are not fixed at compile time.
//!
//! Promises: at most [`NAMESPACES`] namespaces are told, each with its last comparison only; for a new one beyond that the one
//! whose comparison is the longest ago is left out. A namespace comes here by a comparison only, which an operator asks for or
//! schedules: no client makes series grow.
//!
//! # Decisions
//! The fingerprint is a label of an info series (always 1), as is the custom: it is 256 bits, a sample holds 53. It is that of the log
//! when the comparison ended, of all the namespace also where only a part was compared; manifests and reports show it in the same form.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Most namespaces that are told.
const NAMESPACES: usize = 200;

/// What a comparison of one namespace came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastComparison {
    /// All of it was compared, not a range or a sample.
    pub whole: bool,
    /// Entities compared.
    pub entities: u64,
    /// Of them, those of which log and store said different things.
    pub differing: u64,
    /// Of those, how many were put right.
    pub repaired: u64,
    /// Entities that the log held alive at the end.
    pub alive: u64,
    /// The fingerprint of their images, hex.
    pub fingerprint: String,
    /// When it ended, milliseconds since 1970.
    pub ended_ms: i64,
}

/// The last comparisons.
#[derive(Debug)]
pub struct Comparisons(Mutex<BTreeMap<String, LastComparison>>);

/// The last comparison of each namespace.
pub static COMPARISONS: Comparisons = Comparisons(Mutex::new(BTreeMap::new()));

/// Name, unit and help of each family; all are gauges with the label `namespace`.
pub(super) type Row = (&'static str, &'static str, &'static str);

const INFO: Row = (
    "tidelog_reconciled_info",
    "count",
    "Fingerprint of a namespace in the log when its last comparison with the store ended, always 1.",
);

/// What a family shows of a comparison.
type Shown = fn(&LastComparison) -> String;

/// The families that hold a number.
const NUMBERS: [(Row, Shown); 5] = [
    (("tidelog_reconciled_entities", "count", "Documents compared by the last comparison of a namespace."), |last| {
        last.entities.to_string()
    }),
    (
        (
            "tidelog_reconciled_differing",
            "count",
            "Documents of which log and store differed in the last comparison of a namespace.",
        ),
        |last| last.differing.to_string(),
    ),
    (("tidelog_reconciled_repaired", "count", "Documents put right by the last comparison of a namespace."), |last| {
        last.repaired.to_string()
    }),
    (
        ("tidelog_reconciled_alive", "count", "Documents of a namespace in the log when its last comparison ended."),
        |last| last.alive.to_string(),
    ),
    (
        (
            "tidelog_reconciled_timestamp_seconds",
            "seconds",
            "When the last comparison of a namespace ended, since 1970.",
        ),
        |last| super::render::seconds(last.ended_ms, 1_000),
    ),
];

impl Comparisons {
    /// Tells the last comparison of a namespace.
    pub fn tell(&self, ns: &str, last: LastComparison) {
        let mut all = self.0.lock();
        if !all.contains_key(ns) && all.len() >= NAMESPACES {
            let oldest = all.iter().min_by_key(|(_, last)| last.ended_ms).map(|(ns, _)| ns.clone());
            oldest.and_then(|oldest| all.remove(&oldest));
        }
        all.insert(ns.to_owned(), last);
    }

    /// The series, in the Prometheus text format.
    pub(super) fn render(&self, out: &mut String) {
        let all = self.0.lock();
        head(out, INFO);
        for (ns, last) in all.iter() {
            let (ns, whole, fingerprint) = (escaped(ns), last.whole, &last.fingerprint);
            let labels = format!("namespace=\"{ns}\",whole=\"{whole}\",fingerprint=\"{fingerprint}\"");
            put(out, format_args!("{}{{{labels}}} 1\n", INFO.0));
        }
        for (row, number) in NUMBERS {
            head(out, row);
            for (ns, last) in all.iter() {
                put(out, format_args!("{}{{namespace=\"{}\"}} {}\n", row.0, escaped(ns), number(last)));
            }
        }
    }

    /// Their rows of the reference page.
    pub(super) fn reference(out: &mut String) {
        let bound = format!("at most {NAMESPACES}, those compared last");
        let mut row = |(name, unit, help): Row, more: &str| {
            put(out, format_args!("| `{name}` | gauge | {unit} | `namespace`: {bound}{more} | {help} |\n"));
        };
        row(INFO, "; `whole`: true, false; `fingerprint`: hex, as in manifests");
        for (family, _) in NUMBERS {
            row(family, "");
        }
    }
}

pub(super) fn head(out: &mut String, (name, _, help): Row) {
    put(out, format_args!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
}

pub(super) fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _always_ok = out.write_fmt(text);
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_comparison_of_each_is_told_and_their_number_is_bounded() {
        let all = Comparisons(Mutex::default());
        let at = |ended_ms| LastComparison {
            ended_ms,
            fingerprint: "ab12".to_owned(),
            entities: 7,
            ..LastComparison::default()
        };
        for n in 0..250 {
            all.tell(&format!("db.c{n}"), at(n));
        }
        all.tell("db.c249", LastComparison { whole: true, ..at(1_500) });
        all.tell("db.\"x\\", at(2_000));
        let mut text = String::new();
        all.render(&mut text);
        let infos: Vec<&str> = text.lines().filter(|l| l.starts_with("tidelog_reconciled_info{")).collect();
        assert_eq!(infos.len(), NAMESPACES);
        assert!(infos.contains(&r#"tidelog_reconciled_info{namespace="db.c249",whole="true",fingerprint="ab12"} 1"#));
        assert!(text.contains(r#"tidelog_reconciled_entities{namespace="db.\"x\\"} 7"#), "{text}");
        assert!(text.contains(r#"tidelog_reconciled_timestamp_seconds{namespace="db.c249"} 1.5"#));
        assert!(!text.contains("db.c5\"") && text.contains("db.c100\""), "the oldest is left out");
    }
}
