//! Amendments: records that a window lacked, delivered later in a folder beside it.

use super::manifest::{self, Manifest, Missing};
use super::merge::{Broken, Merge, Reading};
use super::window::{Audit, at};
use super::{Kind, Stop, Wrong, expect, wrong};
use sha2::{Digest as _, Sha256};
use std::path::Path;

/// Checks the amendments of a window that lacks these records: each hangs on the manifest before it and holds nothing but what
/// is missing, with the same change. What is still missing after them is counted.
pub(super) fn check(audit: &mut Audit<'_>, number: u64, missing: Vec<Missing>, all: &[&String]) -> Result<(), Stop> {
    let mut missing = missing;
    let prefix = format!("window-{number:010}.amendment-");
    let mut previous = audit.previous.clone().unwrap_or_default();
    for (name, count) in all.iter().filter(|name| name.starts_with(&prefix)).zip(1u32..) {
        let dir = audit.dir.join(name);
        let place = format!("{name}/manifest.json");
        let here = || at(number, Some(&place), None);
        let follows = **name == format!("{prefix}{count:04}");
        expect(follows, Kind::WindowMissing, || format!("amendment {count} is not there")).map_err(here())?;
        if !audit.disk.exists(&dir.join("manifest.json"))? {
            break;
        }
        let bytes = audit.disk.read(&dir.join("manifest.json"))?;
        let manifest = manifest::parse(&bytes).map_err(here())?;
        let same = manifest.window == number && manifest.amendment == Some(count) && manifest.log == audit.verdict.log;
        expect(same, Kind::ManifestIdentity, || format!("it is not amendment {count}")).map_err(here())?;
        let hangs = manifest.previous_manifest_sha256.as_deref() == Some(&previous);
        expect(hangs, Kind::ManifestChain, || "it does not hang on the manifest before".into()).map_err(here())?;
        let sha = hex::encode(Sha256::digest(&bytes));
        audit.committed(number, &dir, (&bytes, &sha), &manifest)?;
        audit.files(number, &dir, &manifest)?;
        audit.bytes(number, &dir, &manifest)?;
        if audit.lacks(&dir, &manifest)? {
            brought(&manifest, &mut missing);
        } else if manifest.is_read() {
            contents(audit, number, &dir, &manifest, &mut missing)?;
        }
        audit.verdict.amended += manifest.records;
        previous = sha;
    }
    audit.verdict.missing += missing.len() as u64;
    Ok(())
}

/// An amendment whose files are gone: what it brought is known where it is all of its range.
fn brought(manifest: &Manifest, missing: &mut Vec<Missing>) {
    let range = manifest.first_lsn..=manifest.last_lsn;
    if missing.iter().filter(|known| range.contains(&known.lsn)).count() as u64 == manifest.records {
        missing.retain(|known| !range.contains(&known.lsn));
    }
}

fn contents(
    audit: &Audit<'_>,
    number: u64,
    dir: &Path,
    manifest: &Manifest,
    missing: &mut Vec<Missing>,
) -> Result<(), Stop> {
    let name = |file: usize| manifest.files.get(file).map(|f| f.name.as_str());
    let stop = |broken: Broken| match broken {
        Broken::At((file, line), wrong) => at(number, name(file), Some(line))(wrong),
        Broken::Io(error) => Stop::Io(error),
    };
    let reading = Reading { prints: false, envelope: manifest.is_enveloped() };
    let mut merge = Merge::open(audit.disk, dir, &manifest.files, reading).map_err(stop)?;
    while let Some(((file, count), line)) = merge.next().map_err(stop)? {
        let lsn = line.lsn;
        let checked = line.change().and_then(|change| {
            let Some(at) = missing.iter().position(|known| known.lsn == lsn) else {
                return wrong(Kind::Lsn, format!("the window does not lack lsn {lsn}"));
            };
            let same = missing.get(at).is_some_and(|known| known.change().is_ok_and(|known| known == change));
            missing.remove(at);
            expect(same, Kind::ChangeHash, || format!("lsn {lsn} is not the change that the window lacks"))
        });
        checked.map_err(|wrong: Wrong| at(number, name(file), Some(count))(wrong))?;
    }
    Ok(())
}
