//! How far consumers are behind: series by name, which come and go with the consumers (there are at most 256).

use super::namespaces::{Row, head, put};
use parking_lot::Mutex;

/// One consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerLag {
    /// Its name: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Windows that it is not done with.
    pub windows: u64,
    /// Records in them.
    pub records: u64,
    /// Age of the first of them, ms.
    pub age_ms: u64,
}

/// All consumers.
#[derive(Debug)]
pub struct ConsumerLags(Mutex<Vec<ConsumerLag>>);

/// All consumers, as they were last looked at.
pub static CONSUMERS: ConsumerLags = ConsumerLags(Mutex::new(Vec::new()));

/// What a family shows of a consumer.
type Shown = fn(&ConsumerLag) -> String;

const FAMILIES: [(Row, Shown); 3] = [
    (("tidelog_consumer_lag_windows", "count", "Windows that a consumer is not done with."), |lag| {
        lag.windows.to_string()
    }),
    (("tidelog_consumer_lag_records", "count", "Records in the windows that a consumer is not done with."), |lag| {
        lag.records.to_string()
    }),
    (
        (
            "tidelog_consumer_lag_seconds",
            "seconds",
            "Time since the oldest window was closed that a consumer is not done with; 0: it has all.",
        ),
        |lag| super::render::seconds(i64::try_from(lag.age_ms).unwrap_or(i64::MAX), 1_000),
    ),
];

impl ConsumerLags {
    /// Tells all of them; those told before are forgotten.
    pub fn tell(&self, all: Vec<ConsumerLag>) {
        *self.0.lock() = all;
    }

    /// The series, in the Prometheus text format.
    pub(super) fn render(&self, out: &mut String) {
        let all = self.0.lock();
        for (row, shown) in FAMILIES {
            head(out, row);
            for lag in all.iter() {
                put(out, format_args!("{}{{consumer=\"{}\"}} {}\n", row.0, lag.name, shown(lag)));
            }
        }
    }

    /// Their rows of the reference page.
    pub(super) fn reference(out: &mut String) {
        for ((name, unit, help), _) in FAMILIES {
            put(out, format_args!("| `{name}` | gauge | {unit} | `consumer`: the names of the consumers | {help} |\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_gone_are_forgotten() {
        let all = ConsumerLags(Mutex::default());
        let lag = |name: &str| ConsumerLag { name: name.into(), windows: 3, records: 70, age_ms: 1_500 };
        all.tell(vec![lag("a"), lag("b")]);
        all.tell(vec![lag("b")]);
        let mut text = String::new();
        all.render(&mut text);
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "tidelog_consumer_lag_windows{consumer=\"b\"} 3",
                "tidelog_consumer_lag_records{consumer=\"b\"} 70",
                "tidelog_consumer_lag_seconds{consumer=\"b\"} 1.5"
            ]
        );
    }
}
