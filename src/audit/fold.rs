//! What the lines add up to: per namespace the living and their sum, per entity the counter, the open gaps.

use super::line::{Change, Line, Sha, need};
use super::manifest::{GapEntry, NamespaceEntry, Reconciled};
use super::{GapTold, Kind, NamespaceTold, Wrong, expect, wrong};
use std::collections::{BTreeMap, HashMap};

/// A sum modulo 2^256, lowest limb first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum([u64; 4]);

impl Sum {
    fn of(sha: &Sha) -> Self {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(sha.rchunks_exact(8)) {
            *limb = bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
        }
        Self(limbs)
    }

    fn add(&mut self, term: Self) {
        let mut carry = 0u128;
        for (limb, term) in self.0.iter_mut().zip(term.0) {
            let total = u128::from(*limb) + u128::from(term) + carry;
            *limb = u64::try_from(total & u128::from(u64::MAX)).unwrap_or(0);
            carry = total >> 64;
        }
    }

    /// What has to be added to come to zero.
    fn negated(self) -> Self {
        let mut flipped = Self(self.0.map(|limb| !limb));
        flipped.add(Self([1, 0, 0, 0]));
        flipped
    }

    fn hex(self) -> String {
        let [a, b, c, d] = self.0;
        format!("{d:016x}{c:016x}{b:016x}{a:016x}")
    }
}

#[derive(Debug, Default)]
struct Namespace {
    living: HashMap<Vec<u8>, Sha>,
    sum: Sum,
    complete: bool,
}

impl Namespace {
    fn empty() -> Self {
        Self { complete: true, ..Self::default() }
    }

    fn put(&mut self, key: Vec<u8>, image: Option<Sha>) {
        let old = match image {
            Some(sha) => {
                self.sum.add(Sum::of(&sha));
                self.living.insert(key, sha)
            }
            None => self.living.remove(&key),
        };
        if let Some(old) = old {
            self.sum.add(Sum::of(&old).negated());
        }
    }
}

#[derive(Clone, Debug)]
struct Gap {
    ns: String,
    cause: String,
    detail: String,
    since_lsn: u64,
    since: String,
    /// Record and time that closed it.
    until: Option<(u64, String)>,
}

/// The state after the lines read so far.
#[derive(Debug, Default)]
pub(super) struct Fold {
    namespaces: BTreeMap<String, Namespace>,
    counters: HashMap<String, HashMap<Vec<u8>, (u32, u64)>>,
    gaps: BTreeMap<u64, Gap>,
    /// Gaps closed and comparisons ended since the last manifest.
    closed: Vec<(u64, Gap)>,
    reconciled: Vec<Reconciled>,
}

impl Fold {
    /// Takes a change in.
    pub(super) fn change(&mut self, change: Change) -> Result<(), Wrong> {
        let Change { ns, key, epoch, seq, op, before, after } = change;
        self.count(&ns, &key, epoch, seq)?;
        let namespace = self.namespaces.entry(ns).or_default();
        let held = namespace.living.get(&key).copied();
        let show = |sha: Option<Sha>| sha.map_or_else(|| "nothing".to_owned(), hex::encode);
        expect(held == before, Kind::Chain, || format!("before is {}, the lines left {}", show(before), show(held)))?;
        expect(before != after, Kind::Op, || format!("{op} that changes nothing"))?;
        let fits = match op.as_str() {
            "insert" => before.is_none() && after.is_some(),
            "update" | "replace" => before.is_some() && after.is_some(),
            "delete" => before.is_some() && after.is_none(),
            "observed" => true,
            _ => false,
        };
        expect(fits, Kind::Op, || format!("{op} from {} to {}", show(before), show(after)))?;
        namespace.put(key, after);
        Ok(())
    }

    fn count(&mut self, ns: &str, key: &[u8], epoch: u32, seq: u64) -> Result<(), Wrong> {
        let counters = match self.counters.get_mut(ns) {
            Some(counters) => counters,
            None => self.counters.entry(ns.to_owned()).or_default(),
        };
        let (last_epoch, last_seq) = counters.get(key).copied().unwrap_or((0, 0));
        let follows = (epoch == last_epoch && seq == last_seq + 1) || (epoch > last_epoch && seq == 1);
        if !follows {
            return wrong(Kind::Seq, format!("(epoch, seq) is ({epoch}, {seq}) after ({last_epoch}, {last_seq})"));
        }
        counters.insert(key.to_vec(), (epoch, seq));
        Ok(())
    }

    /// Takes a control record in.
    pub(super) fn control(&mut self, word: &str, line: Line) -> Result<(), Wrong> {
        match word {
            "opened" => {
                let complete = need(line.complete, "complete")?;
                let fresh = Namespace { complete, ..Namespace::default() };
                let ns = need(line.ns, "ns")?;
                self.namespaces.entry(ns).and_modify(|known| known.complete &= complete).or_insert(fresh);
            }
            "drop" => {
                self.namespaces.insert(need(line.ns, "ns")?, Namespace::empty());
            }
            "dropDatabase" => {
                let db = need(line.db, "db")?;
                let inside = |ns: &str| ns.split_once('.').map_or(ns, |(db, _)| db) == db;
                self.namespaces.iter_mut().filter(|(ns, _)| inside(ns)).for_each(|(_, n)| *n = Namespace::empty());
            }
            "rename" => {
                let moved = self.namespaces.insert(need(line.from, "from")?, Namespace::empty());
                self.namespaces.insert(need(line.to, "to")?, moved.unwrap_or_default());
            }
            "gapOpened" => {
                let id = number(line.id)?;
                let (ns, cause, detail) =
                    (need(line.ns, "ns")?, need(line.cause, "cause")?, need(line.detail, "detail")?);
                self.gaps.insert(id, Gap { ns, cause, detail, since_lsn: line.lsn, since: line.wall, until: None });
            }
            "gapClosed" => {
                let id = number(line.id)?;
                if let Some(gap) = self.gaps.remove(&id) {
                    self.closed.push((id, Gap { until: Some((line.lsn, line.wall)), ..gap }));
                }
            }
            "completed" => {
                let ns = need(line.ns, "ns")?;
                self.namespaces.entry(ns).and_modify(|known| known.complete = true);
            }
            "reconciled" => self.reconciled.push(Reconciled {
                ns: need(line.ns, "ns")?,
                lsn: line.lsn,
                whole: need(line.whole, "whole")?,
                entities: need(line.entities, "entities")?,
                differing: need(line.differing, "differing")?,
                repaired: need(line.repaired, "repaired")?,
            }),
            "create" | "collMod" | "node" | "started" => {}
            other => return wrong(Kind::LineForm, format!("control {other:?}")),
        }
        Ok(())
    }

    /// Compares with what a manifest says of the namespaces.
    pub(super) fn check_namespaces(&self, told: &[NamespaceEntry]) -> Result<(), Wrong> {
        for (entry, (ns, found)) in told.iter().zip(&self.namespaces) {
            expect(entry.ns == *ns, Kind::Namespaces, || format!("{} stands where {ns} belongs", entry.ns))?;
            let (alive, print) = (found.living.len() as u64, found.sum.hex());
            let same = entry.alive == alive && entry.fingerprint == print;
            expect(same, Kind::Fingerprint, || {
                format!(
                    "{ns}: the manifest says {} alive, {}; the lines give {alive}, {print}",
                    entry.alive, entry.fingerprint
                )
            })?;
            let what = || format!("{ns}: complete is {}, the lines give {}", entry.complete, found.complete);
            expect(entry.complete == found.complete, Kind::Namespaces, what)?;
        }
        let counts = (told.len(), self.namespaces.len());
        expect(counts.0 == counts.1, Kind::Namespaces, || {
            format!("{} in the manifest, {} in the lines", counts.0, counts.1)
        })
    }

    /// Compares with what a manifest says of the gaps (those that closed inside its window first) and of the comparisons; the
    /// next window begins.
    pub(super) fn check_events(&mut self, told: &[GapEntry], reconciled: Option<&[Reconciled]>) -> Result<(), Wrong> {
        let (closed, ended) = (std::mem::take(&mut self.closed), std::mem::take(&mut self.reconciled));
        let closed = if reconciled.is_some() { closed } else { Vec::new() };
        let open = self.gaps.iter().map(|(id, gap)| (*id, gap.clone()));
        let found: Vec<(u64, Gap)> = closed.into_iter().chain(open).collect();
        let same = |(entry, (id, gap)): (&GapEntry, &(u64, Gap))| {
            entry.id == *id
                && (&entry.ns, &entry.cause, &entry.detail) == (&gap.ns, &gap.cause, &gap.detail)
                && (entry.since_lsn, &entry.since) == (gap.since_lsn, &gap.since)
                && entry.until_lsn.zip(entry.until.clone()) == gap.until
        };
        let all = told.len() == found.len() && told.iter().zip(&found).all(same);
        expect(all, Kind::Gaps, || {
            format!("the {} gaps of the manifest are not the {} of the lines", told.len(), found.len())
        })?;
        let what = || "the comparisons of the manifest are not those of the lines".to_owned();
        expect(reconciled.is_none_or(|told| told == ended), Kind::Gaps, what)
    }

    /// The namespaces, for the verdict.
    pub(super) fn told(&self) -> Vec<NamespaceTold> {
        let told = |(ns, n): (&String, &Namespace)| NamespaceTold {
            ns: ns.clone(),
            alive: n.living.len() as u64,
            fingerprint: n.sum.hex(),
            complete: n.complete,
        };
        self.namespaces.iter().map(told).collect()
    }

    /// The open gaps, for the verdict.
    pub(super) fn gaps_told(&self) -> Vec<GapTold> {
        let told = |(id, gap): (&u64, &Gap)| GapTold {
            id: *id,
            ns: gap.ns.clone(),
            cause: gap.cause.clone(),
            since_lsn: gap.since_lsn,
        };
        self.gaps.iter().map(told).collect()
    }
}

fn number(id: Option<serde_json::Value>) -> Result<u64, Wrong> {
    let id = need(id, "id")?;
    id.as_u64().ok_or_else(|| Wrong { kind: Kind::LineForm, what: "id is not a number".into() })
}
