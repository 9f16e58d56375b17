//! A whole capture for one test: a log in memory, an index in a folder of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidelog::capture::{Capture, Parts};
use tidelog::changelog::{Changelog, LogOptions};
use tidelog::clock::Clock;
use tidelog::disk::{Disk, FaultDisk};
use tidelog::entity::{Index, IndexOptions, Indexer};
use tidelog::store::Privileged;
use tidelog::types::{Body, Committed, Lsn, Origin};

/// What a sidecar is in front of the wire's own part.
pub(crate) struct Captured {
    pub(crate) capture: Arc<Capture>,
    pub(crate) log: Arc<Changelog>,
    _folder: tempfile::TempDir,
}

type Observer = Box<dyn FnMut(&[Committed]) + Send>;

/// Builds it for the node at `address` (`user:password@host:port`).
pub(crate) async fn captured(address: &str) -> Captured {
    let folder = tempfile::tempdir().expect("a folder");
    let (disk, clock): (Arc<dyn Disk>, _) = (Arc::new(FaultDisk::new()), Clock::system());
    let late: Arc<Mutex<Option<Observer>>> = Arc::default();
    let slot = Arc::clone(&late);
    let observer: Observer = Box::new(move |group| {
        if let Some(observer) = slot.lock().expect("observer").as_mut() {
            observer(group);
        }
    });
    let (log, opened) =
        Changelog::open(Arc::clone(&disk), "/log".into(), LogOptions::default(), Arc::clone(&clock), observer)
            .expect("a log");
    let index = Index::open(folder.path(), opened.log_id, opened.tail, &IndexOptions::default()).expect("an index");
    let index = Arc::new(index);
    *late.lock().expect("observer") = Some(Indexer::spawn(Arc::clone(&index)).expect("a thread"));
    let log = Arc::new(log);
    let uri = format!("mongodb://{address}/?directConnection=true");
    let privileged = Privileged::new(&uri, None, Duration::from_secs(5)).await.expect("an address");
    let parts = Parts {
        log: Arc::clone(&log),
        index,
        privileged: Arc::new(privileged),
        clock,
        disk,
        intents: "/intents".into(),
        epoch: opened.epoch,
        second_look: Duration::from_secs(1),
        transactions: tidelog::capture::TransactionLimits::default(),
    };
    Captured { capture: Arc::new(Capture::new(parts).expect("capture")), log, _folder: folder }
}

impl Captured {
    /// Who made the last change in the log.
    pub(crate) fn last_origin(&self) -> Arc<Origin> {
        let mut reader = self.log.reader(Lsn(1));
        let mut last = None;
        while let Some(record) = reader.next().expect("a good log") {
            if let Body::Change(change) = record.body {
                last = Some(change.origin);
            }
        }
        last.expect("a change")
    }
}
