//! What lies on the disk: the changelog, and the index that follows it.

use super::AppError;
use crate::changelog::{Changelog, Durability, LogOptions, Observer, Opened};
use crate::clock::Clock;
use crate::config::{self, Config, DataDir};
use crate::disk::{Disk, OsDisk};
use crate::entity::{Basis, Index, IndexOptions, Indexer, Snapshots};
use crate::types::{Body, Committed, Control, Draft, Lsn};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records that are applied to the index together while it is rebuilt.
const REPLAY_RECORDS: usize = 4_096;
/// How often a long replay tells how far it is.
const TELL: Duration = Duration::from_secs(5);

/// The opened parts.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<Clock>,
    pub(super) log: Arc<Changelog>,
    pub(super) index: Arc<Index>,
    pub(super) opened: Opened,
    pub(super) data: DataDir,
}

/// Takes the log over and brings the index up to its tail. Blocks.
pub(super) fn open(config: &Config) -> Result<Storage, AppError> {
    let (disk, clock): (Arc<dyn Disk>, _) = (Arc::new(OsDisk), Clock::system());
    clock.set_max_ahead_ms(config.capture.clock_ahead_ms);
    let data = DataDir::new(&config.log.data);
    // The log wants its observer before there is an index to observe with. Nothing is appended in between.
    let follower: Arc<Mutex<Option<Observer>>> = Arc::default();
    let (log, opened) = {
        let follower = Arc::clone(&follower);
        let observer = Box::new(move |group: &[Committed]| {
            if let Some(follow) = follower.lock().as_mut() {
                follow(group);
            }
        });
        Changelog::open(Arc::clone(&disk), data.log(), options(&config.log), Arc::clone(&clock), observer)?
    };
    tracing::info!(
        log = %opened.log_id, tail = opened.tail.0, epoch = opened.epoch.0, clean = opened.clean, data = %data.path().display(),
        "changelog opened"
    );
    let snapshots = Snapshots::new(Arc::clone(&disk), data.index_snapshots());
    let Opened { log_id, first, tail, .. } = opened;
    let basis = Basis { log: log_id, first, tail, snapshots: Some(&snapshots) };
    let index = Arc::new(Index::open_over(&data.index(), &basis, &IndexOptions::default())?);
    replay(&log, &index, opened.tail)?;
    let observer = Indexer::spawn(Arc::clone(&index))
        .map_err(|source| AppError::System { what: "start the thread of the index", source })?;
    *follower.lock() = Some(observer);
    Ok(Storage { disk, clock, log: Arc::new(log), index, opened, data })
}

fn options(log: &config::LogConfig) -> LogOptions {
    LogOptions {
        segment_bytes: log.segment_bytes,
        durability: match log.durability {
            config::Durability::Always => Durability::Always,
            config::Durability::Interval => Durability::Interval(log.sync_interval_ms),
            config::Durability::Os => Durability::Os,
        },
        queue_bytes: log.queue_bytes,
        min_free_bytes: log.min_free_bytes,
    }
}

/// Applies what the index lacks.
pub(super) fn replay(log: &Changelog, index: &Index, tail: Lsn) -> Result<(), AppError> {
    let from = index.applied();
    if from >= tail {
        return Ok(());
    }
    tracing::info!(from = from.0, to = tail.0, "the entity index catches up with the log");
    let mut reader = log.reader(from.next());
    let mut batch = Vec::with_capacity(REPLAY_RECORDS);
    let mut told = Instant::now();
    while let Some(record) = reader.next_committed()? {
        batch.push(record);
        if batch.len() == REPLAY_RECORDS {
            index.apply(&batch)?;
            batch.clear();
            if told.elapsed() >= TELL {
                told = Instant::now();
                tracing::info!(at = index.applied().0, to = tail.0, "the entity index catches up with the log");
            }
        }
    }
    Ok(index.apply(&batch)?)
}

impl Storage {
    /// Writes into the log that this process took it over.
    pub(super) async fn announce(&self) -> Result<(), AppError> {
        let started = Control::Started { version: env!("CARGO_PKG_VERSION").to_owned() };
        let draft = Draft { body: Body::Control(started), continued: false };
        let _durable = self.log.append(vec![draft]).wait().await?;
        Ok(())
    }
}
