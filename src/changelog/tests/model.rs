//! Any sequence of appends, closes, kills, power cuts and trims leaves what the model says.

use super::support::{DIR, batch, body_strategy, open_with, options, read_all, wait};
use crate::changelog::{Changelog, Durability, LogOptions, Opened};
use crate::clock::Clock;
use crate::disk::{FaultDisk, OsDisk};
use crate::types::{Body, Lsn};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Vec<Body>>),
    Close,
    Kill,
    PowerCut(u64),
    Trim(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let batches = prop::collection::vec(prop::collection::vec(body_strategy(), 1..5), 1..5);
    prop_oneof![
        6 => batches.prop_map(Step::Append),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::PowerCut),
        1 => (0..40_u64).prop_map(Step::Trim),
    ]
}

struct World {
    disk: FaultDisk,
    options: LogOptions,
    log: Changelog,
    opened: Opened,
    records: Vec<Body>,
    first: u64,
}

impl World {
    fn new(options: LogOptions) -> Self {
        let disk = FaultDisk::new();
        let (log, opened) = open_with(&disk, options).unwrap();
        Self { disk, options, log, opened, records: Vec::new(), first: 1 }
    }

    fn again(&mut self, disk: FaultDisk) {
        self.disk = disk;
        let (log, opened) = open_with(&self.disk, self.options).unwrap();
        assert_eq!(opened.log_id, self.opened.log_id);
        assert_eq!(opened.truncated, None, "every append was waited for");
        self.log = log;
        self.opened = opened;
        self.check();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append(batches) => {
                let tickets: Vec<_> = batches.iter().map(|b| self.log.append(batch(b.clone()))).collect();
                self.records.extend(batches.into_iter().flatten());
                let last = tickets.into_iter().map(|t| wait(t.wait()).unwrap()).last().unwrap();
                assert_eq!(last.last().0, self.records.len() as u64);
            }
            Step::Close => {
                self.log.close().unwrap();
                self.again(self.disk.clone());
                assert!(self.opened.clean);
            }
            Step::Kill => self.again(self.disk.kill()),
            Step::PowerCut(seed) => {
                let _durable = wait(self.log.sync().wait()).unwrap();
                self.again(self.disk.crash(seed));
            }
            Step::Trim(lsn) => {
                let first = self.log.trim(Lsn(lsn)).unwrap().0;
                assert!(first >= self.first && (first == self.first || first <= lsn + 1));
                self.first = first;
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.log.first().0, self.first);
        let records = read_all(&self.log).unwrap();
        let skip = usize::try_from(self.first - 1).unwrap();
        assert_eq!(records.len() + skip, self.records.len());
        for (record, body) in records.iter().zip(&self.records[skip..]) {
            assert_eq!(&record.body, body);
        }
        assert!(records.windows(2).all(|w| w[0].hlc < w[1].hlc && w[0].lsn.next() == w[1].lsn));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_life_leaves_what_was_appended(
        steps in prop::collection::vec(step(), 1..15),
        segment_bytes in prop::sample::select(vec![300_u64, 2_000, 1 << 20]),
        durability in prop::sample::select(vec![Durability::Always, Durability::Interval(1), Durability::Os]),
    ) {
        let mut world = World::new(LogOptions { durability, ..options(segment_bytes) });
        for step in steps {
            world.step(step);
        }
        world.check();
    }

    #[test]
    fn the_real_file_system_gives_back_what_was_appended(
        batches in prop::collection::vec(prop::collection::vec(body_strategy(), 1..5), 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<OsDisk> = Arc::new(OsDisk);
        let path = dir.path().join(DIR.trim_start_matches('/'));
        let open = || Changelog::open(disk.clone(), path.clone(), options(900), Clock::manual(5), Box::new(|_| {})).unwrap().0;
        let log = open();
        for batch_of in &batches {
            let _durable = wait(log.append(batch(batch_of.clone())).wait()).unwrap();
        }
        drop(log);
        let got: Vec<Body> = read_all(&open()).unwrap().into_iter().map(|r| r.body).collect();
        prop_assert_eq!(got, batches.concat());
    }
}
