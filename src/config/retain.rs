//! Settings of what is kept, and for how long.

use serde::{Deserialize, Serialize};

/// What may go when nobody needs it any more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Records of the changelog that are older may go; 0: age is no reason.
    pub log_max_age_ms: u64,
    /// When the changelog takes more bytes, its oldest records may go; 0: size is no reason.
    pub log_max_bytes: u64,
    /// How often it is looked at.
    pub every_ms: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { log_max_age_ms: 0, log_max_bytes: 0, every_ms: 60_000 }
    }
}
