//! The oracle of transactions: in the log entirely or not at all, contiguous, as the store committed them.

use crate::ledger::Acked;
use crate::oracle::{Case, place};
use crate::store::state::{By, Lsid, Place, Transition};
use bytes::Bytes;
use std::collections::BTreeMap;
use tidelog::types::{Body, Change, Record};

/// Changes by place.
type Effects = BTreeMap<Place, Option<Bytes>>;

/// Adds what is wrong.
pub(crate) fn check(case: &Case<'_>, acked: &BTreeMap<u64, Acked>, bad: &mut Vec<String>) {
    let logged = logged(case.records, bad);
    let mut committed: BTreeMap<(Lsid, i64), Vec<&Transition>> = BTreeMap::new();
    for transition in case.history {
        if let Some(txn) = transition.txn {
            committed.entry(txn).or_default().push(transition);
        }
    }
    for (txn, effects) in &logged {
        let Some(of) = committed.get(txn) else {
            bad.push(format!(
                "atomic: transaction {} of {:?} is in the log, the store never committed it",
                txn.1, txn.0[0]
            ));
            continue;
        };
        let stored: Effects = of.iter().map(|t| (t.place.clone(), t.after.clone())).collect();
        if stored != *effects {
            bad.push(format!(
                "atomic: transaction {} of {:?} has {} changes in the log, {} in the store, or others",
                txn.1,
                txn.0[0],
                effects.len(),
                stored.len()
            ));
        }
    }
    for (txn, of) in &committed {
        let clean = of.first().is_some_and(|t| match t.by {
            By::Command { op } => acked.get(&op).is_some_and(|a| a.clean),
            By::Bypass | By::Loss => false,
        });
        if clean && !case.forgetful && !logged.contains_key(txn) {
            bad.push(format!(
                "atomic: transaction {} of {:?} was acknowledged and is not in the log as one",
                txn.1, txn.0[0]
            ));
        }
    }
}

/// The log's transactions; each must stand together, numbered, and be one batch.
fn logged(records: &[Record], bad: &mut Vec<String>) -> BTreeMap<(Lsid, i64), Effects> {
    let mut out: BTreeMap<(Lsid, i64), Effects> = BTreeMap::new();
    let mut open: Option<(&Change, u32)> = None;
    for record in records {
        let Body::Change(change) = &record.body else {
            end(&mut open, bad);
            continue;
        };
        let Some(part) = &change.txn else {
            end(&mut open, bad);
            continue;
        };
        let id = (part.lsid, part.txn_number);
        match open {
            Some((first, index)) if first.txn.as_ref().is_some_and(|t| (t.lsid, t.txn_number) == id) => {
                if part.index != index + 1 {
                    bad.push(format!("atomic: lsn {}: part {} after part {index}", record.lsn, part.index));
                }
            }
            _ => {
                end(&mut open, bad);
                if part.index != 1 || out.contains_key(&id) {
                    bad.push(format!("atomic: lsn {}: a transaction that does not begin here", record.lsn));
                }
            }
        }
        out.entry(id).or_default().insert(place(change), change.after.as_ref().map(|i| i.bytes().clone()));
        if record.continued != (part.index < part.count) {
            bad.push(format!("atomic: lsn {}: part {} of {} is (not) continued", record.lsn, part.index, part.count));
        }
        open = (part.index < part.count).then_some((&**change, part.index));
    }
    end(&mut open, bad);
    out
}

fn end(open: &mut Option<(&Change, u32)>, bad: &mut Vec<String>) {
    if open.take().is_some() {
        bad.push("atomic: a transaction is interrupted".to_owned());
    }
}
