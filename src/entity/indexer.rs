//! The thread that applies durable records to the index, off the commit thread.

use super::apply::Step;
use super::index::Index;
use crate::types::Committed;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::park_timeout;
use std::time::Duration;

/// Groups that may wait for the index; when it is full the committer waits, and with it the writers.
const QUEUE_GROUPS: usize = 1024;
/// Waiting groups are applied together up to about that many records.
const BATCH_RECORDS: usize = 8192;

/// What the log calls with each durable group.
pub type Observer = Box<dyn FnMut(&[Committed]) + Send>;

/// Pause after each application. While the thread pauses, the committer hands over without waking it: a wake-up for each
/// group costs more than the index itself. What waits for the index (a first touch, a drop) waits this much longer.
const PAUSE: Duration = Duration::from_millis(3);

/// Makes the indexer.
#[derive(Debug)]
pub struct Indexer;

impl Indexer {
    /// Starts the thread and gives the log's observer, which hands groups over and never fails. The thread ends when the observer is
    /// dropped and all it was given is applied, or when the index stops.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn spawn(index: Arc<Index>) -> std::io::Result<Observer> {
        let (hand_over, groups) = sync_channel::<Vec<Step>>(QUEUE_GROUPS);
        std::thread::Builder::new().name("tidelog-index".to_owned()).spawn(move || run(&index, &groups))?;
        Ok(Box::new(move |group| {
            // Fails only when the index is stopped, which refuses further writes by itself; the log goes on.
            hand_over.send(group.iter().map(Step::of).collect()).ok();
        }))
    }
}

fn run(index: &Index, groups: &Receiver<Vec<Step>>) {
    while let Ok(mut steps) = groups.recv() {
        while steps.len() < BATCH_RECORDS {
            let Ok(more) = groups.try_recv() else { break };
            steps.extend(more);
        }
        if index.apply_steps(&steps).is_err() {
            return; // The index told it and is stopped.
        }
        park_timeout(PAUSE);
    }
}
