//! What clients do: the commands, drawn.

use crate::client::{Client, Command, update};
use bson::raw::{RawDocumentBuf, cstr};
use bson::{RawBson, rawdoc};

impl Client {
    /// A command outside a transaction.
    pub(crate) fn draw(&self) -> Command {
        let op = self.op();
        let (ns, id) = self.entity();
        match self.world.draw(0..20) {
            0..=3 => self.inserts(op, ns, id),
            4..=8 => self.command("updates", ns, op, vec![self.by_id(op, id)], true),
            9..=10 => self.command("deletes", ns, op, vec![rawdoc! {"q": {"_id": id}, "limit": 1}], true),
            11..=13 => self.fam(op, ns, id),
            14 => self.by_group(op, ns, true),
            15 => self.by_group(op, ns, false),
            16 if self.world.chance(50) => {
                // Two of them at a time: only one inserts.
                let q = rawdoc! {"g": 7_i32, "v": {"$gte": 0_i32}};
                let u = rawdoc! {"$set": {"w": Self::mark(op, 0), "v": 1, "g": 7}, "$setOnInsert": {"_id": id}};
                self.command("updates", ns, op, vec![update(q, u, false, true)], true)
            }
            16 => {
                let limit = i32::from(self.world.chance(50));
                let q = rawdoc! {"g": self.group()};
                self.command("deletes", ns, op, vec![rawdoc! {"q": q, "limit": limit}], limit == 1)
            }
            17 => {
                let none = rawdoc! {"$unset": {"nosuch": 1}};
                let statement = update(rawdoc! {"_id": id}, none, false, false);
                self.command("updates", ns, op, vec![statement], true)
            }
            _ => self.batch(op, ns),
        }
    }

    /// Inserts of every entity of the first collection.
    pub(crate) fn fill(&self) -> Command {
        let op = self.op();
        let ids = (0..self.habits.entities).filter(|n| n % 3 != 2);
        let docs = ids.map(|n| self.doc(op, n, RawBson::Int32(i32::try_from(n).unwrap()))).collect();
        let mut fields = RawDocumentBuf::new();
        fields.append(cstr!("ordered"), false);
        Command { name: "insert", ns: "m.a", op, fields, statements: Some(("documents", docs)), retryable: true }
    }

    fn command(
        &self,
        array: &'static str,
        ns: &'static str,
        op: u64,
        statements: Vec<RawDocumentBuf>,
        retryable: bool,
    ) -> Command {
        let name = match array {
            "documents" => "insert",
            "updates" => "update",
            _ => "delete",
        };
        let mut fields = RawDocumentBuf::new();
        if self.world.chance(25) {
            fields.append(cstr!("ordered"), false);
        }
        if self.world.chance(10) {
            fields.append(cstr!("maxTimeMS"), i32::try_from(self.world.draw(5..400)).unwrap());
        }
        Command { name, ns, op, fields, statements: Some((array, statements)), retryable }
    }

    /// A command inside a transaction: the `index`-th of it.
    pub(crate) fn draw_joined(&self, op: u64, index: u64) -> Command {
        let (ns, id) = self.entity();
        let mut command = match self.world.draw(0..12) {
            0..=1 => {
                let doc = self.doc(op, index, id);
                self.command("documents", ns, op, vec![doc], true)
            }
            2..=5 => {
                let upsert = self.world.chance(30);
                let statement = update(rawdoc! {"_id": id}, self.change(op, index), false, upsert);
                self.command("updates", ns, op, vec![statement], true)
            }
            6..=7 => self.command("deletes", ns, op, vec![rawdoc! {"q": {"_id": id}, "limit": 1}], true),
            8 => {
                let mut fields = rawdoc! {"query": {"_id": id}, "update": self.change(op, index)};
                if self.world.chance(50) {
                    fields.append(cstr!("new"), true);
                }
                Command { name: "findAndModify", ns, op, fields, statements: None, retryable: true }
            }
            9 => {
                let u = rawdoc! {"$set": {"w": Self::mark(op, index)}, "$inc": {"v": 1}};
                let many = self.world.chance(60);
                self.command("updates", ns, op, vec![update(rawdoc! {"g": self.group()}, u, many, false)], true)
            }
            10 => {
                let fields = rawdoc! {"filter": {"g": self.group()}};
                Command { name: "find", ns, op, fields, statements: None, retryable: true }
            }
            _ => self.command("deletes", ns, op, vec![rawdoc! {"q": {"g": self.group()}, "limit": 0}], true),
        };
        if crate::txn::has(&command.fields, "maxTimeMS") {
            command.fields = RawDocumentBuf::new();
        }
        command
    }

    fn group(&self) -> i32 {
        i32::try_from(self.world.draw(0..2)).unwrap()
    }

    fn mark(op: u64, index: u64) -> i64 {
        i64::try_from(op * 10 + index).unwrap()
    }

    fn doc(&self, op: u64, index: u64, id: RawBson) -> RawDocumentBuf {
        rawdoc! {"_id": id, "w": Self::mark(op, index), "v": 0, "g": self.group()}
    }

    fn inserts(&self, op: u64, ns: &'static str, id: RawBson) -> Command {
        let mut docs = vec![self.doc(op, 0, id)];
        if self.world.chance(40) {
            for index in 1..=self.world.draw(1..3) {
                let (other, id) = self.entity();
                if other == ns {
                    docs.push(self.doc(op, index, id));
                }
            }
        }
        self.command("documents", ns, op, docs, true)
    }

    /// A modification of one document, by operators or by replacement.
    pub(crate) fn change(&self, op: u64, index: u64) -> RawDocumentBuf {
        let (mark, group) = (Self::mark(op, index), self.group());
        match self.world.draw(0..4) {
            0 => rawdoc! {"w": mark, "v": 100, "g": group},
            1 => rawdoc! {"$set": {"w": mark, "g": group}},
            _ => rawdoc! {"$set": {"w": mark}, "$inc": {"v": 1}},
        }
    }

    pub(crate) fn by_id(&self, op: u64, id: RawBson) -> RawDocumentBuf {
        let mut q = rawdoc! {"_id": id};
        if self.world.chance(15) {
            q.append(cstr!("g"), self.group());
        }
        let upsert = self.world.chance(20) && q.get("g").unwrap().is_none();
        update(q, self.change(op, 0), false, upsert)
    }

    fn by_group(&self, op: u64, ns: &'static str, multi: bool) -> Command {
        let u = rawdoc! {"$set": {"w": Self::mark(op, 0)}, "$inc": {"v": 1}};
        let q = if self.world.chance(30) {
            rawdoc! {"v": {"$gte": 1}}
        } else {
            rawdoc! {"g": self.group()}
        };
        self.command("updates", ns, op, vec![update(q, u, multi, false)], !multi)
    }

    fn fam(&self, op: u64, ns: &'static str, id: RawBson) -> Command {
        let q = if self.world.chance(70) {
            rawdoc! {"_id": id}
        } else {
            rawdoc! {"g": self.group()}
        };
        let by_id = q.get("_id").unwrap().is_some();
        let mut fields = rawdoc! {"query": q};
        if self.world.chance(25) {
            fields.append(cstr!("remove"), true);
        } else {
            fields.append(cstr!("update"), self.change(op, 0));
            if self.world.chance(50) {
                fields.append(cstr!("new"), true);
            }
            if by_id && self.world.chance(25) {
                fields.append(cstr!("upsert"), true);
            }
        }
        Command { name: "findAndModify", ns, op, fields, statements: None, retryable: true }
    }

    fn batch(&self, op: u64, ns: &'static str) -> Command {
        let count = self.world.draw(2..4);
        let deletes = self.world.chance(25);
        let mut statements = Vec::new();
        for index in 0..count {
            let (other, id) = self.entity();
            if other != ns {
                continue;
            }
            statements.push(if deletes {
                let mut q = rawdoc! {"_id": id};
                if self.world.chance(40) {
                    q.append(cstr!("g"), self.group());
                }
                rawdoc! {"q": q, "limit": 1}
            } else {
                update(rawdoc! {"_id": id}, self.change(op, index), false, self.world.chance(15))
            });
        }
        if statements.is_empty() {
            let id = if ns == "m.a" { RawBson::Int32(0) } else { RawBson::String("k2".to_owned()) };
            statements.push(rawdoc! {"q": {"_id": id}, "limit": 1});
            return self.command("deletes", ns, op, statements, true);
        }
        if deletes {
            self.command("deletes", ns, op, statements, true)
        } else {
            self.command("updates", ns, op, statements, true)
        }
    }
}
