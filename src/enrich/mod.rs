//! Enrichment: the stage between a record as captured and its bytes. Rules that tag, mask, hash or drop fields go here.
//!
//! Promises: it sees each record of a window once, in order, before any format does; what it returns is what every format
//! writes. It never changes what is in the log.
//!
//! There are no rules yet: [`Enrichment`] hands each record on as it is.

use crate::types::Record;

/// What is done to each record of one sink.
#[derive(Clone, Debug, Default)]
pub struct Enrichment {
    _private: (),
}

impl Enrichment {
    /// The record as the sink gets it.
    #[must_use]
    pub fn apply(&self, record: Record) -> Record {
        record
    }
}
