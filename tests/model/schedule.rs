//! One schedule: everything is drawn from its seed, run in virtual time, brought to rest, and judged.

use crate::client::{Client, Command, Habits, update};
use crate::ledger::Ledger;
use crate::oracle::{self, Case};
use crate::sidecar::{Death, Sidecar, THIRD_LOOK, Ways};
use crate::store::docs::{Key, raw};
use crate::store::state::{By, Place};
use crate::store::write::{Change, Cx};
use crate::store::{Flavor, Store};
use crate::world::World;
use bson::raw::RawDocumentBuf;
use bson::{RawBson, rawdoc};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidelog::capture::range::Mode;
use tidelog::changelog::Durability;
use tidelog::types::{Body, Lsn, Record};

/// Virtual time after which a schedule hangs.
const PATIENCE: Duration = Duration::from_mins(15);

/// What goes wrong in a schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: &'static str,
    pub(crate) store: Flavor,
    pub(crate) habits: Habits,
    pub(crate) clients: u64,
    /// Deaths of the sidecar.
    pub(crate) deaths: u64,
    /// They may be power cuts.
    pub(crate) power: bool,
    pub(crate) crashes: u64,
    pub(crate) bypasses: u64,
    /// Transactions past the sidecar that nobody ends.
    pub(crate) orphans: u64,
    /// Writes before the sidecar comes.
    pub(crate) old: u64,
    pub(crate) durability: Durability,
    /// Log and store are compared meanwhile.
    pub(crate) walks: bool,
}

/// What a schedule came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) bad: Vec<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) kind: &'static str,
    pub(crate) changes: u64,
    pub(crate) acked: u64,
    pub(crate) txns: u64,
    pub(crate) faults: u64,
}

impl Plan {
    fn draw(world: &World) -> Self {
        let kinds = [
            "calm", "calm", "cuts", "cuts", "kills", "kills", "power", "crashes", "losses", "bypass", "refusals", "all",
        ];
        let kind = kinds[world.index(kinds.len())];
        let all = kind == "all";
        let is = |names: &[&str]| all || names.contains(&kind);
        let some = |yes: bool, range: std::ops::Range<u64>| if yes { world.draw(range) } else { 0 };
        Self {
            kind,
            store: Flavor {
                cut: some(is(&["cuts", "kills"]), 1..6),
                refuse: some(is(&["refusals"]), 5..20),
                blind: some(is(&["refusals"]), 0..10),
                unjournaled_ms: some(is(&["losses"]), 20..200),
                records_survive: world.chance(70),
                replica: world.chance(70),
                late_conflicts: world.chance(30),
                txn_lifetime_ms: world.draw(100..3_000),
            },
            habits: Habits {
                commands: world.draw(3..12),
                entities: if world.chance(70) { world.draw(1..6) } else { world.draw(6..24) },
                leave: some(is(&["cuts"]), 0..15),
                txns: if world.chance(60) { world.draw(10..60) } else { 0 },
                strangers: is(&["bypass", "cuts", "kills", "power"]),
            },
            clients: world.draw(1..5),
            deaths: some(is(&["kills", "power"]), 1..3),
            power: is(&["power"]),
            crashes: some(is(&["crashes", "losses"]), 1..3),
            bypasses: some(is(&["bypass"]), 1..5),
            orphans: some(is(&["cuts", "kills"]), 0..4),
            old: some(world.chance(20), 1..5),
            walks: world.chance(30),
            durability: if is(&["power"]) && world.chance(25) { Durability::Os } else { Durability::Always },
        }
    }

    fn ways(&self) -> Ways {
        Ways { durability: self.durability, walks: self.walks, strict: self.kind == "calm" && self.old == 0 }
    }

    /// Not everything can be found without a touch of the entity: a writer past the sidecar, what the store took back, and
    /// what a power cut left without an intent.
    fn needs_touch(&self) -> bool {
        self.power || self.bypasses + self.old > 0 || self.store.unjournaled_ms > 0
    }
}

/// Runs the schedule of a seed.
pub(crate) fn run(seed: u64, traced: bool) -> Report {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    // Who wakes first of several that wait for one value is tokio's own die.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().unwrap();
    runtime.block_on(async {
        let world = World::new(seed, traced);
        let mut report = match tokio::time::timeout(PATIENCE, Schedule::set(&world).play()).await {
            Ok(report) => report,
            Err(_elapsed) => Report { bad: vec!["it hangs".to_owned()], ..Report::default() },
        };
        report.trace = world.trace();
        report
    })
}

struct Schedule {
    world: Arc<World>,
    plan: Plan,
    store: Arc<Store>,
    side: Arc<Sidecar>,
    ledger: Arc<Ledger>,
    ops: Arc<AtomicU64>,
}

impl Schedule {
    fn set(world: &Arc<World>) -> Self {
        let plan = Plan::draw(world);
        world.note(|| format!("{plan:?}"));
        let store = Store::new(Arc::clone(world), plan.store);
        let ledger = Arc::new(Ledger::default());
        let side = Sidecar::new(Arc::clone(world), Arc::clone(&store), Arc::clone(&ledger), plan.ways());
        if plan.power && world.chance(50) {
            side.fault(world.draw(1..60), world.chance(50));
        }
        Self { world: Arc::clone(world), plan, store, side, ledger, ops: Arc::new(AtomicU64::new(1)) }
    }

    async fn play(self) -> Report {
        for _ in 0..self.plan.old {
            self.bypass().await;
        }
        self.side.start();
        let clients: Vec<_> = (1..=self.plan.clients).map(|n| tokio::spawn(self.client(n).run())).collect();
        let faults = self.trouble(&clients).await;
        for client in clients {
            if client.await.is_err() {
                self.ledger.complain("a client panicked");
            }
        }
        self.rest().await;
        let mut report = self.judge().await;
        report.faults = faults;
        report
    }

    fn client(&self, number: u64) -> Client {
        Client {
            world: Arc::clone(&self.world),
            store: Arc::clone(&self.store),
            side: Arc::clone(&self.side),
            ledger: Arc::clone(&self.ledger),
            habits: self.plan.habits,
            ops: Arc::clone(&self.ops),
            lsid: [u8::try_from(number).unwrap(); 16],
            txn_number: 0,
            conn: None,
            requests: 0,
        }
    }

    /// What goes wrong, at random times, while clients are at work.
    async fn trouble(&self, clients: &[tokio::task::JoinHandle<()>]) -> u64 {
        let (mut deaths, mut crashes, mut bypasses) = (self.plan.deaths, self.plan.crashes, self.plan.bypasses);
        let mut orphans = self.plan.orphans;
        let mut faults = 0;
        while clients.iter().any(|c| !c.is_finished()) {
            self.world.sleep_ms(self.world.draw(1..80)).await;
            if !self.side.is_alive() {
                self.side.start();
            } else if self.side.is_poisoned() {
                self.side.die(Death::Kill);
                faults += 1;
            }
            match self.world.draw(0..6) {
                0 if deaths > 0 => {
                    deaths -= 1;
                    faults += 1;
                    let cut = self.plan.power && self.world.chance(50);
                    self.side.die(if cut { Death::Power(self.world.draw(0..1 << 40)) } else { Death::Kill });
                }
                1 if crashes > 0 => {
                    crashes -= 1;
                    faults += 1;
                    self.store.crash(self.world.draw(1..200)).await;
                }
                2 if bypasses > 0 => {
                    bypasses -= 1;
                    faults += 1;
                    self.bypass().await;
                }
                3 if orphans > 0 => {
                    orphans -= 1;
                    faults += 1;
                    self.orphan().await;
                    self.world.sleep_ms(self.world.draw(1..60)).await;
                    // Who waits for it then has lost his connection.
                    if deaths > 0 && self.world.chance(60) {
                        deaths -= 1;
                        faults += 1;
                        self.side.die(Death::Kill);
                    }
                }
                _ => {}
            }
        }
        faults
    }

    /// A write past the sidecar.
    async fn bypass(&self) {
        let op = self.ops.fetch_add(1, Ordering::Relaxed);
        let (ns, id) = self.client(200).entity();
        let cx = Cx { op: 0, lsid: None, retryable: false, txn: false, deadline: None, stmt_ids: None };
        let filter = rawdoc! {"_id": id.clone()};
        let mark = rawdoc! {"$set": {"w": i64::try_from(op * 10).unwrap(), "g": 0}};
        let update = if self.world.chance(30) { None } else { Some(&*mark) };
        self.world.note(|| format!("bypass: {ns} {id:?} {}", if update.is_some() { "upsert" } else { "delete" }));
        let change = Change { ns, filter: &filter, update, multi: false, upsert: update.is_some() };
        let _whatever = self.store.change(&cx, &change).await;
    }

    /// A transaction past the sidecar that holds one document until the store gives it up. Nothing of it ever counts.
    async fn orphan(&self) {
        let lsid = [255; 16];
        let (ns, id) = self.client(201).entity();
        let expires = tokio::time::Instant::now() + Duration::from_millis(self.plan.store.txn_lifetime_ms);
        self.store.state.lock().begin(lsid, 0, expires);
        let cx = Cx { op: 0, lsid: Some(lsid), retryable: false, txn: true, deadline: None, stmt_ids: None };
        let filter = rawdoc! {"_id": id.clone()};
        let change = Change {
            ns,
            filter: &filter,
            update: Some(&rawdoc! {"$set": {"w": -1, "g": 0}}),
            multi: false,
            upsert: true,
        };
        self.world.note(|| format!("orphan: {ns} {id:?}"));
        let _whatever = self.store.change(&cx, &change).await;
    }

    /// Everything works again; what is under way ends; what only a touch finds is touched.
    async fn rest(&self) {
        self.store.rough.store(false, Ordering::Relaxed);
        self.side.mend();
        if self.side.is_poisoned() {
            self.side.die(Death::Kill);
        }
        if self.side.is_alive() && self.plan.deaths > 0 && self.world.chance(30) {
            self.side.die(Death::Kill);
        }
        for _ in 0..3 {
            if !self.side.is_alive() {
                self.side.start();
            }
        }
        self.world.sleep_ms(u64::try_from(THIRD_LOOK.as_millis()).unwrap() + 1_500).await;
        if self.plan.needs_touch() {
            if self.world.chance(50) { self.touch().await } else { self.walk().await }
        }
        self.world.sleep_ms(500).await;
    }

    /// A write that changes nothing, to each entity that ever was.
    async fn touch(&self) {
        let places: BTreeSet<Place> = self.store.state.lock().history.iter().map(|t| t.place.clone()).collect();
        let mut client = self.client(100);
        client.habits.leave = 0;
        for (ns, key) in places {
            let id = match key {
                Key::Int(n) => RawBson::Int64(n),
                Key::Text(s) => RawBson::String(s),
                Key::Oid(bytes) => RawBson::ObjectId(bson::oid::ObjectId::from_bytes(bytes)),
            };
            let statement = update(rawdoc! {"_id": id}, rawdoc! {"$unset": {"nosuch": 1}}, false, false);
            let ns = if ns == "m.a" { "m.a" } else { "m.b" };
            let command = Command {
                name: "update",
                ns,
                op: client.op(),
                fields: RawDocumentBuf::new(),
                statements: Some(("updates", vec![statement])),
                retryable: true,
            };
            client.single(&command).await;
        }
    }

    /// A comparison of all that is, which appends what the log lacks.
    async fn walk(&self) {
        let Some(capture) = self.side.capture() else { return };
        for ns in ["m.a", "m.b"] {
            if let Err(error) = crate::walk::walk(&self.world, &capture, ns, Mode::Append).await {
                self.ledger.complain(&format!("the last walk over {ns} failed: {error}"));
            }
        }
    }

    async fn judge(&self) -> Report {
        let records = self.records().await;
        let state = self.store.state.lock();
        let forgetful = self.plan.durability != Durability::Always;
        let case =
            Case { records: &records, history: &state.history, dump: state.dump(), ledger: &self.ledger, forgetful };
        let mut bad = oracle::check(&case);
        bad.extend(self.side.index().and_then(|index| crate::index::check(&records, &index)));
        if !bad.is_empty() {
            for record in &records {
                self.world.note(|| tell(record));
            }
            for t in &state.history {
                self.world.note(|| format!("  {} {:?} {:?} -> {}", t.at_ms, t.by, t.place, show(t.after.as_deref())));
            }
        }
        let txns: BTreeSet<_> = state.history.iter().filter_map(|t| t.txn).collect();
        Report {
            bad,
            kind: self.plan.kind,
            changes: state.history.iter().filter(|t| t.by != By::Loss).count() as u64,
            acked: self.ledger.acked().len() as u64,
            txns: txns.len() as u64,
            ..Report::default()
        }
    }

    /// The whole log, once what is in its queue is durable.
    async fn records(&self) -> Vec<Record> {
        let Some(log) = self.side.log() else { return Vec::new() };
        if let Err(error) = log.append(Vec::new()).wait().await {
            self.ledger.complain(&format!("the log is not usable at the end: {error}"));
        }
        let mut reader = log.reader(Lsn(1));
        let mut out = Vec::new();
        while let Some(record) = reader.next().unwrap() {
            out.push(record);
        }
        out
    }
}

fn show(doc: Option<&[u8]>) -> String {
    doc.map_or("nothing".to_owned(), |doc| crate::store::command::short(raw(doc)))
}

/// A record, for the trace.
fn tell(record: &Record) -> String {
    match &record.body {
        Body::Change(change) => format!(
            "  lsn {} {} {:?} ({}, {}) {:?} -> {}",
            record.lsn,
            change.op.name(),
            oracle::place(change),
            change.epoch.0,
            change.seq.0,
            change.txn.as_ref().map(|t| (t.lsid[0], t.txn_number, t.index, t.count)),
            show(change.after.as_ref().map(|i| &i.bytes()[..]))
        ),
        Body::Control(control) => format!("  lsn {} {control:?}", record.lsn),
    }
}
