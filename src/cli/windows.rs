//! `tidelog windows`: what an export folder holds, or what a running sidecar has closed.
//!
//! Reads manifests as any outsider would; whether they are true is for `tidelog verify`.

use super::CliError;
use super::admin_client::ask;
use super::text::{Align, bytes, count, plain, table, things};
use crate::admin::WindowRow;
use crate::config::Address;
use crate::disk::{Disk, OsDisk};
use serde::Deserialize;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

/// How long the ledger's answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The fields of a manifest that the table shows.
#[derive(Deserialize)]
struct Shown {
    window: u64,
    cause: String,
    label: Option<String>,
    records: u64,
    first_lsn: u64,
    last_lsn: u64,
    last_wall: Option<String>,
    files: Vec<ShownFile>,
    gaps: Vec<serde_json::Value>,
    #[serde(default)]
    amendment: u32,
    #[serde(default)]
    missing: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct ShownFile {
    bytes: u64,
}

pub(super) fn windows(
    dir: Option<&Path>,
    admin: Option<&Address>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let rows = match (dir, admin) {
        (Some(dir), _) => folder(dir)?,
        (None, Some(admin)) => ask(admin, "GET", "/v1/windows", PATIENCE)?.json()?,
        (None, None) => return Err(CliError::Call("expected EXPORT_DIR or --admin".into())),
    };
    if json {
        writeln!(out, "{}", serde_json::json!(rows))?;
        return Ok(());
    }
    print(&rows, out)
}

/// The windows of an export folder, oldest first. A folder without a manifest is no window.
fn folder(dir: &Path) -> Result<Vec<WindowRow>, CliError> {
    let disk = OsDisk;
    let names = disk.list(dir).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => CliError::Call(e.to_string()),
        _ => CliError::Failed(e.to_string()),
    })?;
    let mut rows = Vec::new();
    for name in names.iter().filter(|name| name.starts_with("window-")) {
        let path = dir.join(name).join("manifest.json");
        let wrong = |what: &dyn std::fmt::Display| CliError::Failed(format!("{}: {what}", path.display()));
        if !disk.exists(&path).map_err(|e| wrong(&e))? {
            continue;
        }
        let text = disk.read(&path).map_err(|e| wrong(&e))?;
        let shown: Shown = serde_json::from_slice(&text).map_err(|e| wrong(&e))?;
        rows.push(WindowRow {
            id: shown.window,
            cause: shown.cause,
            label: shown.label.unwrap_or_default(),
            first_lsn: shown.first_lsn,
            last_lsn: shown.last_lsn,
            records: shown.records,
            bytes: shown.files.iter().map(|f| f.bytes).sum(),
            last_wall: shown.last_wall.unwrap_or_default(),
            gaps: shown.gaps.iter().filter(|gap| gap.get("until_lsn").is_none_or(serde_json::Value::is_null)).count()
                as u64,
            exported: true,
            amendment: shown.amendment,
            missing: shown.missing.len() as u64,
        });
    }
    rows.sort_by_key(|row| (row.id, row.amendment));
    Ok(rows)
}

fn print(rows: &[WindowRow], out: &mut dyn Write) -> Result<(), CliError> {
    if rows.is_empty() {
        writeln!(out, "no windows yet")?;
        return Ok(());
    }
    let (l, r) = (Align::Left, Align::Right);
    let head = [
        ("window", r),
        ("records", r),
        ("size", r),
        ("first lsn", r),
        ("last lsn", r),
        ("last record", l),
        ("gaps", r),
        ("missing", r),
        ("cause", l),
        ("label", l),
    ];
    let cells: Vec<_> = rows.iter().map(row).collect();
    table(out, &head, &cells)?;
    let (records, size) = rows.iter().fold((0, 0), |(n, b), row| (n + row.records, b + row.bytes));
    let amendments = rows.iter().filter(|row| row.amendment > 0).count() as u64;
    let windows = things(rows.len() as u64 - amendments, "window");
    let windows = if amendments == 0 { windows } else { format!("{windows}, {}", things(amendments, "amendment")) };
    writeln!(out, "{windows}, {}, {}", things(records, "record"), bytes(size))?;
    Ok(())
}

fn row(w: &WindowRow) -> Vec<String> {
    // A window that was cut over nothing has no records to number.
    let lsn = |n: u64| if w.records == 0 { "–".into() } else { count(n) };
    vec![
        if w.amendment == 0 { w.id.to_string() } else { format!("{} + {}", w.id, w.amendment) },
        count(w.records),
        if w.exported { bytes(w.bytes) } else { "waiting".into() },
        lsn(w.first_lsn),
        lsn(w.last_lsn),
        w.last_wall.clone(),
        count(w.gaps),
        count(w.missing),
        plain(&w.cause),
        plain(&w.label),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_reads_well() {
        let dir = tempfile::tempdir().unwrap();
        let window = dir.path().join("window-0000000001");
        std::fs::create_dir_all(&window).unwrap();
        std::fs::create_dir_all(dir.path().join("window-0000000002")).unwrap();
        let manifest = r#"{"format":1,"window":1,"cause":"cut","label":"month-end","records":1200,"first_lsn":1,
            "last_lsn":1200,"last_wall":"2026-11-24T20:00:00.000Z","files":[{"name":"records.jsonl","bytes":86221}],"gaps":[]}"#;
        let lacking = manifest.replace(r#""gaps":[]"#, r#""gaps":[],"missing":[{"lsn":5},{"lsn":6}]"#);
        std::fs::write(window.join("manifest.json"), lacking).unwrap();
        let amendment = dir.path().join("window-0000000001.amendment-0001");
        std::fs::create_dir_all(&amendment).unwrap();
        let manifest = manifest.replace(r#""window":1,"#, r#""window":1,"amendment":1,"#).replace("1200,", "2,");
        std::fs::write(amendment.join("manifest.json"), manifest).unwrap();
        let mut out = Vec::new();
        windows(Some(dir.path()), None, false, &mut out).unwrap();
        let expected = "\
window  records      size  first lsn  last lsn  last record               gaps  missing  cause  label
     1    1,200  84.2 KiB          1     1,200  2026-11-24T20:00:00.000Z     0        2  cut    month-end
 1 + 1        2  84.2 KiB          1         2  2026-11-24T20:00:00.000Z     0        0  cut    month-end
1 window, 1 amendment, 1,202 records, 168.4 KiB
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
