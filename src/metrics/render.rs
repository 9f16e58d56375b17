//! The table as text: for Prometheus (exposition format 0.0.4) and as the reference page for people.

use super::{COMPARISONS, CONSUMERS, Comparisons, ConsumerLags, Family, Histogram, TABLE, Unit};
use std::fmt::Write as _;

/// All metrics in the Prometheus text format, version 0.0.4.
pub fn render() -> String {
    let mut out = String::with_capacity(16 * 1024);
    for family in TABLE {
        let def = family.def();
        let (name, kind) = (def.name, family.kind());
        line(&mut out, format_args!("# HELP {name} {}", def.help));
        line(&mut out, format_args!("# TYPE {name} {kind}"));
        match family {
            Family::Histogram(h) => histogram(&mut out, h),
            Family::Counter(c) => {
                for slot in 0..def.series() {
                    line(&mut out, format_args!("{name}{} {}", labels(*family, slot), c.value(slot)));
                }
            }
            Family::Gauge(g) => {
                for slot in 0..def.series() {
                    let value = g.value(slot);
                    let labels = labels(*family, slot);
                    if def.unit == Unit::Seconds {
                        line(&mut out, format_args!("{name}{labels} {}", seconds(value, 1_000)));
                    } else {
                        line(&mut out, format_args!("{name}{labels} {value}"));
                    }
                }
            }
        }
    }
    COMPARISONS.render(&mut out);
    CONSUMERS.render(&mut out);
    line(&mut out, format_args!("# HELP tidelog_build_info The version of the program, always 1."));
    line(&mut out, format_args!("# TYPE tidelog_build_info gauge"));
    line(&mut out, format_args!("tidelog_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    if out.write_fmt(text).is_ok() {
        out.push('\n');
    }
}

fn labels(family: Family, slot: usize) -> String {
    let def = family.def();
    def.values().get(slot).map_or_else(String::new, |value| format!("{{{}=\"{value}\"}}", def.label))
}

fn histogram(out: &mut String, h: &Histogram) {
    let name = h.def.name;
    let show = |value: u64| match h.def.unit {
        Unit::Seconds => seconds(i64::try_from(value).unwrap_or(i64::MAX), 1_000_000),
        _ => value.to_string(),
    };
    let mut below = 0;
    for (at, bound) in h.bounds.iter().enumerate() {
        below += h.bucket(at);
        line(out, format_args!("{name}_bucket{{le=\"{}\"}} {below}", show(*bound)));
    }
    // Read once, so that `+Inf` and `_count` agree and never lie below the last bucket.
    let all = h.total().max(below);
    line(out, format_args!("{name}_bucket{{le=\"+Inf\"}} {all}"));
    line(out, format_args!("{name}_sum {}", show(h.sum())));
    line(out, format_args!("{name}_count {all}"));
}

/// A whole number of `per`-ths of a second as a decimal, exactly.
pub(super) fn seconds(value: i64, per: i64) -> String {
    let (sign, value) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
    let per = per.unsigned_abs();
    let width = per.ilog10() as usize;
    let text = format!("{sign}{}.{:0width$}", value / per, value % per);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The reference page `deploy/docs/metrics.md`.
pub fn reference_page() -> String {
    let mut out = String::from(
        "# Metrics\n\nServed at `/metrics` of the admin address, in the Prometheus text format. This page is printed by \
         `tidelog docs metrics`;\na test compares it with the table in the code. A label has a closed set of values: what is \
         none of them is counted under the last.\nOnly `namespace` and `consumer` are open: the namespaces that were last compared, at most 200; the consumers, at most 256.\n\n| name | kind | unit | label | what it says |\n|---|---|---|---|---|\n",
    );
    for family in TABLE {
        let def = family.def();
        let label = match def.label {
            "" => String::new(),
            label if def.is_by_sink() => format!("`{label}`: the names of the sinks"),
            label => format!("`{label}`: {}", def.values().join(", ")),
        };
        let (name, kind, unit, help) = (def.name, family.kind(), def.unit.name(), def.help);
        line(&mut out, format_args!("| `{name}` | {kind} | {unit} | {label} | {help} |"));
    }
    Comparisons::reference(&mut out);
    ConsumerLags::reference(&mut out);
    line(
        &mut out,
        format_args!("| `tidelog_build_info` | gauge | count | `version` | The version of the program, always 1. |"),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        assert_eq!(seconds(1_500, 1_000), "1.5");
        assert_eq!(seconds(-20, 1_000), "-0.02");
        assert_eq!(seconds(3_000_000, 1_000_000), "3");
        assert_eq!(seconds(50, 1_000_000), "0.00005");
        assert_eq!(seconds(0, 1_000), "0");
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let text = render();
        for line in text.lines() {
            let sample = line.split_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok());
            assert!(line.starts_with("# HELP tidelog_") || line.starts_with("# TYPE tidelog_") || sample, "{line}");
        }
        assert!(text.contains("tidelog_log_sync_seconds_bucket{le=\"+Inf\"}"));
    }
}
