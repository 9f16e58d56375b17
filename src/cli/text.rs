//! Numbers, times and tables for people.

use std::io::{self, Write};

/// `1234567` → `1,234,567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 record`, `1,234 records`.
pub(super) fn things(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Bytes with a binary unit, one decimal: `1.2 GiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1_024 {
        return format!("{n} B");
    }
    let mut tenths = u128::from(n) * 10;
    let mut unit = "B";
    for name in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1_024;
        unit = name;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A span of time in its two greatest units: `3 h 12 min`.
pub(super) fn span(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s}.{} s", ms % 1_000 / 100),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// What a terminal must not interpret is shown as `?`.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// How a column stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a head, columns as wide as they must be.
pub(super) fn table(out: &mut dyn Write, head: &[(&str, Align)], rows: &[Vec<String>]) -> io::Result<()> {
    let wide = |at: usize, name: &str| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([name.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = head.iter().enumerate().map(|(at, (name, _))| wide(at, name)).collect();
    let names: Vec<_> = head.iter().map(|(name, _)| (*name).to_owned()).collect();
    for row in [&names].into_iter().chain(rows) {
        let mut line = String::new();
        for ((cell, (_, align)), width) in row.iter().zip(head).zip(&widths) {
            let text = match align {
                Align::Left => format!("{cell:<width$}  "),
                Align::Right => format!("{cell:>width$}  "),
            };
            line.push_str(&text);
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!((things(1, "gap"), things(1_000, "gap")), ("1 gap".into(), "1,000 gaps".into()));
        assert_eq!((bytes(1_023), bytes(1_024), bytes(86_221)), ("1023 B".into(), "1.0 KiB".into(), "84.2 KiB".into()));
        assert_eq!(bytes(u64::MAX), "15.9 EiB");
        assert_eq!((span(12), span(1_250), span(61_000)), ("12 ms".into(), "1.2 s".into(), "1 min 1 s".into()));
    }

    #[test]
    fn numbers_stand_right() {
        let mut out = Vec::new();
        let rows = [vec!["1".into(), "a".into()], vec!["1,000".into(), "long".into()]];
        table(&mut out, &[("n", Align::Right), ("w", Align::Left)], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "    n  w\n    1  a\n1,000  long\n");
    }
}
