//! The two tasks: one looks, one draws the conclusions.

use super::correct::correct;
use super::look::Look;
use super::proof::Proof;
use crate::capture::Capture;
use crate::changelog::record::HeadBody;
use crate::changelog::{Changelog, Horizon, LogError};
use crate::entity::{Index, NodeSeen};
use crate::metrics::{NODE_CHANGES, NODE_CORRECTING, VERIFY_FAILURES};
use crate::store::{Upstream, UpstreamError};
use crate::types::{Control, Epoch, Lsn};
use crate::wire::Limits;
use bson::rawdoc;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Time between looks while there is something to prove.
const BUSY: Duration = Duration::from_millis(50);
/// Time between looks otherwise.
const IDLE: Duration = Duration::from_millis(500);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often at least a member is asked for its rollback id.
const RBID_EVERY: Duration = Duration::from_secs(5);
/// Pause between tries of a correction that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// How the node is watched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of the node.
    pub address: String,
    /// How long a connection may take.
    pub connect: Duration,
    /// A record is in no window before the node was seen alive so long after it, in ms.
    pub need_ms: u64,
    /// The end of the last window: what is before it needs no proof.
    pub windows_end: Lsn,
}

/// What is known of the node, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `primary`, `not primary`, `standalone`; empty: it has not answered yet.
    pub role: String,
    /// Identity of its process; empty: it tells none.
    pub process: String,
    /// Election term; 0: none.
    pub term: u64,
    /// What it may have lost is being verified.
    pub correcting: bool,
}

/// An answer and what the log was when it was asked for.
#[derive(Clone, Debug)]
struct Answer {
    asked: Instant,
    tail: Lsn,
    /// Counts connections: another one may be another process.
    connection: u64,
    look: Look,
}

/// The watch.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    capture: Arc<Capture>,
    log: Arc<Changelog>,
    index: Arc<Index>,
    horizon: Arc<Horizon>,
    facts: Mutex<NodeFacts>,
}

/// Who the node was at the last change.
#[derive(Debug)]
struct Known {
    node: NodeSeen,
    connection: u64,
    primary: bool,
    /// When the rollback id was asked for last; `None`: not by this process.
    asked: Option<Instant>,
}

impl Watch {
    /// Puts the watch together; [`run`](Self::run) runs it.
    pub fn new(
        settings: Settings,
        capture: Arc<Capture>,
        log: Arc<Changelog>,
        index: Arc<Index>,
        horizon: Arc<Horizon>,
    ) -> Arc<Self> {
        capture.epochs().watched();
        Arc::new(Self { settings, capture, log, index, horizon, facts: Mutex::default() })
    }

    /// What is known of the node.
    pub fn facts(&self) -> NodeFacts {
        self.facts.lock().clone()
    }

    /// Watches until `stop` ends; proves nothing before `recovered`: what the last process left open is settled.
    pub async fn run(self: Arc<Self>, recovered: impl Future<Output = ()>, stop: impl Future<Output = ()>) {
        let (answers, heard) = watch::channel(None);
        tokio::select! {
            () = self.look_on(&answers) => {}
            () = async { recovered.await; self.conclude(heard).await } => {}
            () = stop => {}
        }
    }

    /// Asks again and again.
    async fn look_on(&self, answers: &watch::Sender<Option<Result<Answer, String>>>) {
        let (mut node, mut connection) = (None, 0);
        loop {
            let (asked, tail) = (Instant::now(), self.log.tail());
            let answer = match timeout(PATIENCE.max(self.settings.connect), self.ask(&mut node, &mut connection)).await
            {
                Ok(Ok(look)) => Ok(Answer { asked, tail, connection, look }),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_late) => Err("hello was not answered in time".to_owned()),
            };
            match &answer {
                Ok(answer) => self.follow_term(&answer.look).await,
                Err(_) => node = None,
            }
            answers.send_replace(Some(answer));
            self.pause().await;
        }
    }

    async fn ask(&self, node: &mut Option<Upstream>, connection: &mut u64) -> Result<Look, UpstreamError> {
        let node = if let Some(node) = node {
            node
        } else {
            let made = Upstream::connect(&self.settings.address, Limits::default(), self.settings.connect).await?;
            *connection += 1;
            node.insert(made)
        };
        let reply = node.run("admin", rawdoc! { "hello": 1 }).await?;
        Ok(Look::of(reply.body()))
    }

    /// Brings the epoch up to the term of a primary.
    async fn follow_term(&self, look: &Look) {
        let epochs = self.capture.epochs();
        let term = u32::try_from(look.term()).unwrap_or(u32::MAX);
        if look.primary && Epoch(term) > epochs.current() {
            let log = Arc::clone(&self.log);
            let raised = tokio::task::spawn_blocking(move || log.raise_epoch(Epoch(term))).await;
            if let Ok(Err(error)) = raised {
                tracing::warn!(%error, term, "the log's epoch could not be written down; it is tried again");
            }
            epochs.raise(Epoch(term));
        }
        epochs.looked(look.member, look.primary);
    }

    /// Until the next look.
    async fn pause(&self) {
        let began = Instant::now();
        let mut tail = self.log.subscribe();
        tokio::select! {
            () = self.capture.epochs().asked() => return,
            () = sleep(IDLE) => return,
            _moved = tail.wait_for(|tail| *tail > self.horizon.upto()) => {}
        }
        tokio::select! {
            () = self.capture.epochs().asked() => {}
            () = sleep(BUSY.saturating_sub(began.elapsed())) => {}
        }
    }

    /// Draws conclusions from answers.
    async fn conclude(&self, mut answers: watch::Receiver<Option<Result<Answer, String>>>) {
        let start = Instant::now();
        while let Err(error) = self.remember().await {
            self.horizon.hold(&format!("the log cannot be read: {error}"));
            tracing::error!(%error, "the log cannot be read for what the node may have lost; trying again");
            sleep(AGAIN).await;
        }
        let mut proof = Proof::new(self.horizon.upto(), self.settings.need_ms);
        let mut known = self.index.node().map(|node| Known { node, connection: 0, primary: false, asked: None });
        while answers.changed().await.is_ok() {
            let answer = answers.borrow_and_update().clone();
            match answer {
                None => {}
                Some(Err(error)) => self.horizon.hold(&format!("the node does not answer: {error}")),
                Some(Ok(answer)) => {
                    let kind = self.changed(known.as_mut(), &answer).await;
                    if let Some(kind) = kind {
                        known = self.another(kind, &answer).await.or(known);
                        proof.begin_anew();
                        continue;
                    }
                    if let Some(known) = &mut known {
                        (known.connection, known.primary) = (answer.connection, answer.look.primary);
                    }
                    let asked = u64::try_from(answer.asked.duration_since(start).as_millis()).unwrap_or(u64::MAX);
                    self.horizon.advance(proof.see(asked, answer.tail, &answer.look));
                    self.horizon.hold(proof.waits_for(&answer.look));
                    self.tell(&answer.look, false);
                }
            }
        }
    }

    /// The intervals of the log in which no window ends, as far as no window ended after them.
    async fn remember(&self) -> Result<(), LogError> {
        let (mut reader, horizon) = (self.log.reader(self.settings.windows_end.next()), Arc::clone(&self.horizon));
        let windows_end = self.settings.windows_end;
        let read = move || {
            let mut proved = windows_end;
            while let Some(found) = reader.next_head()? {
                let lsn = found.head.stamp.lsn;
                match found.head.body {
                    HeadBody::Control(Control::Node { unproven, .. }) => horizon.forbid(unproven, lsn),
                    // It says nothing of the store, so it needs no proof as long as nothing before it does.
                    HeadBody::Control(Control::Started { .. }) if lsn == proved.next() => proved = lsn,
                    _ => {}
                }
            }
            horizon.advance(proved);
            Ok(())
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(done) => done,
            Err(_panicked) => Err(LogError::Closed),
        }
    }

    /// What is new about the node, in one word.
    async fn changed(&self, known: Option<&mut Known>, answer: &Answer) -> Option<&'static str> {
        let Some(Known { node, connection, primary, asked }) = known else { return Some("first") };
        let look = &answer.look;
        if look.process != node.process || (look.process.is_empty() && *connection != answer.connection) {
            return Some("process");
        }
        if look.term() != node.term {
            return Some("term");
        }
        // A rollback mostly shows in the term as well. The counter is asked where something is new, and now and then.
        let new = *connection != answer.connection || *primary != look.primary;
        let due = asked.is_none_or(|at| at.elapsed() >= RBID_EVERY);
        if !look.member || !(new || due) {
            return None;
        }
        *asked = Some(Instant::now());
        self.rbid().await.is_some_and(|rbid| rbid != node.rbid).then_some("rollback")
    }

    async fn rbid(&self) -> Option<u64> {
        match timeout(PATIENCE, self.capture.rollback_id()).await {
            Ok(Ok(rbid)) => Some(rbid),
            _ => None,
        }
    }

    /// The node is another: verify what it may have lost, write down who it is. `None`: try again at the next answer.
    async fn another(&self, kind: &'static str, answer: &Answer) -> Option<Known> {
        let look = &answer.look;
        self.tell(look, true);
        self.horizon.hold("the node is another than before: what it may have lost is being verified");
        tracing::warn!(
            kind,
            process = look.process,
            term = look.term(),
            role = look.role(),
            "the node is another than before"
        );
        let done = self.verify(kind, look).await;
        match done {
            Ok(node) => {
                NODE_CHANGES.inc_for(kind);
                self.tell(look, false);
                Some(Known { node, connection: answer.connection, primary: look.primary, asked: Some(Instant::now()) })
            }
            Err(error) => {
                VERIFY_FAILURES.inc();
                tracing::warn!(%error, "what the node may have lost cannot be verified yet; trying again");
                self.horizon.hold(&format!("what the node may have lost cannot be verified yet: {error}"));
                sleep(AGAIN).await;
                None
            }
        }
    }

    async fn verify(&self, kind: &str, look: &Look) -> Result<NodeSeen, super::correct::CorrectError> {
        self.capture.forget_namespaces();
        self.capture.ask_life().await?;
        // Entities of a commit whose outcome is not known must not be read before it is settled.
        if kind == "process" {
            self.capture.transactions_lost(true).await;
        }
        let unproven = self.horizon.upto();
        let tail = self.capture.quiet().await?;
        let rbid = if look.member { self.capture.rollback_id().await? } else { 0 };
        let checked = correct(&self.capture, &self.log, unproven, tail).await?;
        let (process, term, epoch) = (look.process.clone(), look.term(), self.capture.epochs().current());
        let control = Control::Node { process: process.clone(), term, rbid, epoch, unproven };
        let lsn = self.capture.state(control).await?;
        self.horizon.forbid(unproven, lsn);
        tracing::info!(
            records = checked,
            unproven = unproven.0,
            lsn = lsn.0,
            epoch = epoch.0,
            "what the node may have lost is verified"
        );
        Ok(NodeSeen { process, term, rbid, lsn })
    }

    fn tell(&self, look: &Look, correcting: bool) {
        NODE_CORRECTING.set_flag(correcting);
        *self.facts.lock() =
            NodeFacts { role: look.role().to_owned(), process: look.process.clone(), term: look.term(), correcting };
    }
}
