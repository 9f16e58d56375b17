//! Compression of a file of lines with Zstandard, as one frame with a checksum.

use super::{Encoder, FormatError, Taken};
use crate::types::Record;
use std::fmt;
use std::io::Write as _;

/// The level: the speed of a sidecar that shares its machine matters more than the last percent.
const LEVEL: i32 = 3;

/// Compresses what another encoder writes.
pub struct Zstd {
    inner: Box<dyn Encoder>,
    plain: Vec<u8>,
    stream: Option<zstd::stream::write::Encoder<'static, Vec<u8>>>,
}

impl fmt::Debug for Zstd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstd").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Zstd {
    /// Begins a frame.
    ///
    /// # Errors
    /// Memory for the compressor is not to be had.
    pub fn around(inner: Box<dyn Encoder>) -> Result<Self, FormatError> {
        let mut stream = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map_err(failed)?;
        stream.include_checksum(true).map_err(failed)?;
        Ok(Self { inner, plain: Vec::new(), stream: Some(stream) })
    }
}

impl Encoder for Zstd {
    fn append(&mut self, out: &mut Vec<u8>, record: &Record) -> Result<Taken, FormatError> {
        self.plain.clear();
        let taken = self.inner.append(&mut self.plain, record)?;
        let stream = self.stream.as_mut().ok_or_else(ended)?;
        stream.write_all(&self.plain).map_err(failed)?;
        out.append(stream.get_mut());
        Ok(taken)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        self.plain.clear();
        self.inner.end(&mut self.plain)?;
        let mut stream = self.stream.take().ok_or_else(ended)?;
        stream.write_all(&self.plain).map_err(failed)?;
        out.append(&mut stream.finish().map_err(failed)?);
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn failed(error: std::io::Error) -> FormatError {
    FormatError::File(format!("zstd: {error}"))
}

fn ended() -> FormatError {
    FormatError::File("zstd: the file has ended".into())
}
