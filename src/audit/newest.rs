//! What the latest files of a window must hold, from the words of the docs: each drop, database drop and rename; and of what is alive in
//! a namespace's name or went elsewhere by a rename, the last change of each entity since the name was last emptied.

use super::line::{Line, Sha, need};
use super::{Kind, Wrong, expect};
use std::collections::{BTreeMap, HashMap};

/// Number and print of a record.
type Told = (u64, Sha);

/// A namespace's name in the window.
#[derive(Debug, Default)]
struct Inside {
    /// Key → the last change under this name.
    own: HashMap<String, Told>,
    /// Changes under names that were renamed into this one.
    moved: Vec<Told>,
}

/// Gathers it while the history of a window is read.
#[derive(Debug, Default)]
pub(super) struct Newest {
    namespaces: BTreeMap<String, Inside>,
    controls: Vec<Told>,
}

impl Newest {
    /// Takes the next line in.
    pub(super) fn line(&mut self, line: &Line) -> Result<(), Wrong> {
        let told = (line.lsn, need(line.print, "print")?);
        let Some(word) = &line.control else {
            let (ns, key) = (need(line.ns.as_ref(), "ns")?, need(line.key.as_ref(), "key")?);
            let inside = match self.namespaces.get_mut(ns) {
                Some(inside) => inside,
                None => self.namespaces.entry(ns.clone()).or_default(),
            };
            inside.own.insert(key.clone(), told);
            return Ok(());
        };
        match word.as_str() {
            "drop" => drop(self.namespaces.remove(need(line.ns.as_ref(), "ns")?)),
            "dropDatabase" => {
                let db = need(line.db.as_ref(), "db")?;
                self.namespaces.retain(|ns, _| ns.split_once('.').map_or(ns.as_str(), |(db, _)| db) != db);
            }
            "rename" => {
                let Inside { own, mut moved } =
                    self.namespaces.remove(need(line.from.as_ref(), "from")?).unwrap_or_default();
                moved.extend(own.into_values());
                let there = Inside { own: HashMap::new(), moved };
                self.namespaces.insert(need(line.to.clone(), "to")?, there);
            }
            _ => return Ok(()),
        }
        self.controls.push(told);
        Ok(())
    }

    /// All of it, the first record last.
    pub(super) fn settle(self) -> Expected {
        let inside =
            self.namespaces.into_values().flat_map(|inside| inside.moved.into_iter().chain(inside.own.into_values()));
        let mut records: Vec<Told> = inside.chain(self.controls).collect();
        records.sort_unstable_by_key(|(lsn, _)| std::cmp::Reverse(*lsn));
        Expected(records)
    }
}

/// The records that latest files must hold, in this order from the end.
#[derive(Debug)]
pub(super) struct Expected(Vec<Told>);

impl Expected {
    /// Compares the next line.
    pub(super) fn line(&mut self, line: &Line) -> Result<(), Wrong> {
        let Some((lsn, print)) = self.0.pop() else {
            let what = format!("lsn {} is not the last change of its entity in the window", line.lsn);
            return Err(Wrong { kind: Kind::Latest, what });
        };
        expect(line.lsn == lsn, Kind::Latest, || format!("lsn {} where the last change is lsn {lsn}", line.lsn))?;
        expect(line.print == Some(print), Kind::Latest, || format!("lsn {lsn} is not the record of the history"))
    }

    /// After the last line.
    pub(super) fn end(mut self) -> Result<(), Wrong> {
        let next = self.0.pop().map(|(lsn, _)| lsn);
        expect(next.is_none(), Kind::Latest, || format!("lsn {} is not there", next.unwrap_or(0)))
    }
}
