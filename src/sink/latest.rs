//! `_latest.json`: which window is the last and which the first, for readers who do not want to list a place.
//!
//! It is written last of all, and replaced as a whole: what it names is there and complete. It may be one window behind. Before
//! windows are taken away it names a later first one.

use crate::types::{Digest, LogId, WindowId};

/// Its name, beside the windows.
pub(super) const LATEST: &str = "_latest.json";

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Latest {
    /// The last window.
    pub(super) window: WindowId,
    /// The first window that is there; `None`: it was written by a program that did not say so.
    pub(super) first: Option<WindowId>,
    /// SHA-256 of the last window's manifest, hex.
    manifest_sha256: String,
}

impl Latest {
    /// After the delivery of `window`, with these bytes as its manifest.
    pub(super) fn new(window: WindowId, first: WindowId, manifest: &[u8]) -> Self {
        Self { window, first: Some(first), manifest_sha256: Digest::of(manifest).to_string() }
    }

    /// What stands there; `None`: nothing that can be read, or what another log left.
    pub(super) fn read(found: &[u8], log: LogId) -> Option<Self> {
        let told = serde_json::from_slice::<serde_json::Value>(found).ok()?;
        if told.get("log")?.as_str()? != log.to_string() {
            return None;
        }
        let number = |name| told.get(name).and_then(serde_json::Value::as_u64).map(WindowId);
        let manifest_sha256 = told.get("manifest_sha256")?.as_str()?.to_owned();
        Some(Self { window: number("window")?, first: number("first_window"), manifest_sha256 })
    }

    /// Its bytes.
    pub(super) fn text(&self, log: LogId) -> String {
        let (id, first, sha256) = (self.window.0, self.first.unwrap_or(self.window).0, &self.manifest_sha256);
        format!(
            "{{\n  \"format\": 1,\n  \"log\": \"{log}\",\n  \"first_window\": {first},\n  \"window\": {id},\n  \"manifest\": \"window-{id:010}/manifest.json\",\n  \"manifest_sha256\": \"{sha256}\"\n}}\n"
        )
    }

    /// What is to stand there after the delivery that `self` tells, where `found` stands; `None`: that stays. Windows that are
    /// delivered again do not set the last back; one before the first is there again.
    pub(super) fn after(self, found: Option<Self>) -> Option<Self> {
        match found.filter(|found| found.window > self.window) {
            None => Some(self),
            Some(found) if found.first > self.first => Some(Self { first: self.first, ..found }),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId([1; 16]);

    fn at(window: u64, first: u64) -> Latest {
        Latest::new(WindowId(window), WindowId(first), b"{}")
    }

    #[test]
    fn it_says_what_is_there() {
        let text = at(5, 2).text(LOG);
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (told["window"].as_u64(), told["first_window"].as_u64(), told["manifest"].as_str()),
            (Some(5), Some(2), Some("window-0000000005/manifest.json"))
        );
        assert_eq!(told["manifest_sha256"].as_str(), Some(Digest::of(b"{}").to_string().as_str()));
        assert_eq!(Latest::read(text.as_bytes(), LOG), Some(at(5, 2)));
        assert_eq!(Latest::read(text.as_bytes(), LogId([2; 16])), None);
        assert_eq!(Latest::read(b"{\"win", LOG), None);
        let older = text.replace("  \"first_window\": 2,\n", "");
        assert_eq!(Latest::read(older.as_bytes(), LOG), Some(Latest { first: None, ..at(5, 2) }));
    }

    #[test]
    fn the_last_is_never_set_back() {
        assert_eq!(at(5, 1).after(None), Some(at(5, 1)));
        assert_eq!(at(5, 1).after(Some(at(4, 1))), Some(at(5, 1)));
        assert_eq!(at(5, 1).after(Some(at(5, 1))), Some(at(5, 1)));
        assert_eq!(at(4, 1).after(Some(at(5, 1))), None);
        assert_eq!(at(2, 2).after(Some(at(9, 7))), Some(at(9, 2)), "it is there again");
    }
}
