//! What the lines of one transaction owe each other: together, in order, all of them.

use super::{Kind, Wrong, expect};
use serde::Deserialize;

/// The place of a change in its transaction, as a line tells it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    pub(super) lsid: String,
    pub(super) txn_number: i64,
    pub(super) index: u32,
    pub(super) count: u32,
}

/// The transaction that is under way, if it lacks some of its changes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    open: Option<Place>,
}

impl Batch {
    /// Takes the next line: its place, if it is a change that has one, and whether the batch goes on after it.
    pub(super) fn line(&mut self, place: Option<Place>, continued: bool) -> Result<(), Wrong> {
        let fits = match (&self.open, &place) {
            (None, None) => true,
            (None, Some(place)) => place.index == 1,
            (Some(_), None) => false,
            (Some(last), Some(place)) => {
                let Place { lsid, txn_number, index, count } = last;
                *place == Place { lsid: lsid.clone(), txn_number: *txn_number, index: index + 1, count: *count }
            }
        };
        let show = |place: &Option<Place>| {
            place
                .as_ref()
                .map_or_else(|| "none".into(), |p| format!("{} of {}, number {}", p.index, p.count, p.txn_number))
        };
        expect(fits, Kind::Transaction, || format!("place {} after place {}", show(&place), show(&self.open)))?;
        let goes_on = place.as_ref().is_some_and(|p| p.index < p.count);
        expect(place.as_ref().is_none_or(|p| p.index <= p.count), Kind::Transaction, || {
            format!("place {}", show(&place))
        })?;
        expect(place.is_none() || continued == goes_on, Kind::Transaction, || {
            format!("place {}, continued: {continued}", show(&place))
        })?;
        self.open = place.filter(|_| goes_on);
        Ok(())
    }
}
