//! What the lines add up to: per namespace the living and their sum, per entity the counter, the open gaps.

use super::line::{Change, Line, Sha, need};
use super::manifest::{GapEntry, NamespaceEntry, Reconciled};
use super::{GapTold, Kind, NamespaceTold, Wrong, expect, wrong};
use std::collections::{BTreeMap, BTreeSet, HashMap};

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

    /// What a manifest says; zero for what is no such number (the comparison then fails).
    fn from_hex(text: &str) -> Self {
        let mut sha = [0; 32];
        if hex::decode_to_slice(text, &mut sha).is_err() {
            return Self::default();
        }
        Self::of(&sha)
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
    /// Of a late beginning: those alive whose images have not come yet.
    before: (u64, Sum),
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

    /// One of those that were there before a late beginning shows its image.
    fn show(&mut self, key: &[u8], image: Sha) {
        self.living.insert(key.to_vec(), image);
        self.sum.add(Sum::of(&image));
        self.before.0 = self.before.0.wrapping_sub(1);
        self.before.1.add(Sum::of(&image).negated());
    }

    fn alive(&self) -> u64 {
        (self.living.len() as u64).wrapping_add(self.before.0)
    }

    fn print(&self) -> Sum {
        let mut sum = self.sum;
        sum.add(self.before.1);
        sum
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
    /// Of windows with changes alone: namespaces and databases that were dropped from, and whether anything was renamed.
    loose: BTreeSet<String>,
    adrift: bool,
    /// The windows begin later than the log.
    late: bool,
    /// And the first of them was read: what was there before it is known in sum.
    joined: bool,
}

impl Fold {
    /// The windows begin later than the log: what is not known of the time before is taken as the first of them tells it.
    pub(super) fn begin_late(&mut self) {
        self.late = true;
    }

    /// At the end of the first window of a late beginning: what its manifest says beyond the lines was there before.
    pub(super) fn join(&mut self, told: &[NamespaceEntry], gaps: &[GapEntry], first_lsn: u64) {
        if !self.late || std::mem::replace(&mut self.joined, true) {
            return;
        }
        for entry in told {
            self.believe(entry);
        }
        for gap in gaps.iter().filter(|gap| gap.since_lsn < first_lsn) {
            let (ns, cause, detail) = (gap.ns.clone(), gap.cause.clone(), gap.detail.clone());
            let until = gap.until_lsn.zip(gap.until.clone());
            let known = Gap { ns, cause, detail, since_lsn: gap.since_lsn, since: gap.since.clone(), until };
            if known.until.is_some() {
                self.closed.push((gap.id, known));
            } else {
                self.gaps.insert(gap.id, known);
            }
        }
        self.closed.sort_by_key(|(_, gap)| gap.until.as_ref().map(|(lsn, _)| *lsn));
    }

    /// After a window whose lines are gone: a late beginning, with what its manifest tells.
    pub(super) fn resume(&mut self, told: &[NamespaceEntry], gaps: &[GapEntry]) {
        *self = Self { late: true, ..Self::default() };
        self.join(told, gaps, u64::MAX);
        self.closed.clear();
    }

    /// Takes over what a manifest says of a namespace.
    fn believe(&mut self, entry: &NamespaceEntry) {
        let namespace = self.namespaces.entry(entry.ns.clone()).or_default();
        namespace.complete = entry.complete;
        let mut sum = Sum::from_hex(&entry.fingerprint);
        sum.add(namespace.print().negated());
        namespace.before.1.add(sum);
        let alive = namespace.alive();
        namespace.before.0 = namespace.before.0.wrapping_add(entry.alive.wrapping_sub(alive));
    }

    /// Before a window that has changes alone: what its manifest counts of drops and renames makes it unknown what is in the
    /// namespaces that they were about.
    pub(super) fn loosen(&mut self, counts: &BTreeMap<String, BTreeMap<String, u64>>) {
        for (about, words) in counts {
            self.adrift |= words.contains_key("rename");
            if words.contains_key("drop") || words.contains_key("dropDatabase") {
                self.loose.insert(about.clone());
            }
        }
    }

    /// Whether it is known what is in a namespace.
    fn is_firm(&self, ns: &str) -> bool {
        let db = ns.split_once('.').map_or(ns, |(db, _)| db);
        !self.adrift && !self.loose.contains(ns) && !self.loose.contains(db)
    }

    /// At the end of a window that has changes alone: compares what is known with what its manifest says, and believes the rest.
    pub(super) fn check_changes(&mut self, told: &[NamespaceEntry]) -> Result<(), Wrong> {
        for entry in told.iter().filter(|entry| self.is_firm(&entry.ns)) {
            let found = self.namespaces.get(&entry.ns);
            let (alive, print) = found.map_or((0, Sum::default().hex()), |found| (found.alive(), found.print().hex()));
            expect(entry.alive == alive && entry.fingerprint == print, Kind::Fingerprint, || {
                let (ns, told) = (&entry.ns, &entry.fingerprint);
                format!("{ns}: the manifest says {} alive, {told}; the lines give {alive}, {print}", entry.alive)
            })?;
        }
        let unknown = self.namespaces.keys().find(|ns| !told.iter().any(|entry| entry.ns == **ns));
        expect(unknown.is_none(), Kind::Namespaces, || format!("{unknown:?} is not in the manifest"))?;
        for entry in told {
            self.believe(entry);
        }
        self.closed.clear();
        Ok(())
    }

    /// Takes a change in.
    pub(super) fn change(&mut self, change: Change) -> Result<(), Wrong> {
        let Change { ns, key, epoch, seq, op, before, after } = change;
        let first = self.count(&ns, &key, epoch, seq)?;
        let firm = self.is_firm(&ns);
        let namespace = self.namespaces.entry(ns).or_default();
        // A rename moves what has shown its image under another name.
        if let Some(image) = before.filter(|_| self.late && first && !namespace.living.contains_key(&key)) {
            namespace.show(&key, image);
        }
        let held = if firm { namespace.living.get(&key).copied() } else { before };
        let show = |sha: Option<Sha>| sha.map_or_else(|| "nothing".to_owned(), hex::encode);
        expect(held == before, Kind::Chain, || format!("before is {}, the lines left {}", show(before), show(held)))?;
        // Who was acknowledged has a record also where somebody else hid the change (`deploy/docs/record.md`, `op`).
        expect(before != after || op == "observed", Kind::Op, || format!("{op} that changes nothing"))?;
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

    /// Tells whether it is the entity's first change here.
    fn count(&mut self, ns: &str, key: &[u8], epoch: u32, seq: u64) -> Result<bool, Wrong> {
        let counters = match self.counters.get_mut(ns) {
            Some(counters) => counters,
            None => self.counters.entry(ns.to_owned()).or_default(),
        };
        let known = counters.get(key).copied();
        let (last_epoch, last_seq) = known.unwrap_or((0, 0));
        let follows = (self.late && known.is_none())
            || (epoch == last_epoch && seq == last_seq + 1)
            || (epoch > last_epoch && seq == 1);
        if !follows {
            return wrong(Kind::Seq, format!("(epoch, seq) is ({epoch}, {seq}) after ({last_epoch}, {last_seq})"));
        }
        counters.insert(key.to_vec(), (epoch, seq));
        Ok(known.is_none())
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
            let (alive, print) = (found.alive(), found.print().hex());
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
            alive: n.alive(),
            fingerprint: n.print().hex(),
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
