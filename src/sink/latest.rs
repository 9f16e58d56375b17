//! `_latest.json`: which window is the last, for readers who do not want to list a place.
//!
//! It is written last of all, and replaced as a whole: what it names is there and complete. It may be one window behind.

use crate::types::{Digest, LogId, WindowId};

/// Its name, beside the windows.
pub(super) const LATEST: &str = "_latest.json";

/// What stands in it after the window `window` with this manifest.
pub(super) fn text(log: LogId, window: WindowId, manifest: &[u8]) -> String {
    let (id, sha256) = (window.0, Digest::of(manifest));
    format!(
        "{{\n  \"format\": 1,\n  \"log\": \"{log}\",\n  \"window\": {id},\n  \"manifest\": \"window-{id:010}/manifest.json\",\n  \"manifest_sha256\": \"{sha256}\"\n}}\n"
    )
}

/// Whether `found` names a window after `window`: windows that are delivered again do not set it back.
pub(super) fn is_ahead(found: &[u8], log: LogId, window: WindowId) -> bool {
    let Ok(told) = serde_json::from_slice::<serde_json::Value>(found) else { return false };
    let same = told.get("log").and_then(|v| v.as_str()) == Some(log.to_string().as_str());
    same && told.get("window").and_then(serde_json::Value::as_u64).is_some_and(|id| id > window.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId([1; 16]);

    #[test]
    fn it_is_never_set_back() {
        let five = text(LOG, WindowId(5), b"{}");
        let told: serde_json::Value = serde_json::from_str(&five).unwrap();
        assert_eq!(
            (told["window"].as_u64(), told["manifest"].as_str()),
            (Some(5), Some("window-0000000005/manifest.json"))
        );
        assert_eq!(told["manifest_sha256"].as_str(), Some(Digest::of(b"{}").to_string().as_str()));
        assert!(is_ahead(five.as_bytes(), LOG, WindowId(4)));
        assert!(!is_ahead(five.as_bytes(), LOG, WindowId(5)));
        assert!(!is_ahead(five.as_bytes(), LogId([2; 16]), WindowId(4)));
        assert!(!is_ahead(b"{\"win", LOG, WindowId(4)));
    }
}
