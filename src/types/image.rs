//! A document's bytes as stored, hashed once.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One BSON document exactly as the store holds it, with its SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    bytes: Bytes,
    sha: Digest,
}

impl Image {
    /// Takes the bytes of a whole BSON document (length prefix included) and hashes them.
    pub fn new(bytes: Bytes) -> Self {
        let sha = Digest::of(&bytes);
        Self { bytes, sha }
    }

    /// Puts together what a log stored; `sha` is trusted (the log's own CRC covers it).
    pub fn from_parts(bytes: Bytes, sha: Digest) -> Self {
        Self { bytes, sha }
    }

    /// The BSON bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// SHA-256 of the bytes.
    pub fn sha(&self) -> Digest {
        self.sha
    }
}

/// Documents never reach a log line: only the length and the hash are shown.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} bytes, {})", self.bytes.len(), self.sha)
    }
}
