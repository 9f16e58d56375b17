//! The transactions that this process knows: the last one of each session.

use bson::raw::RawDocument;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use super::fields::Ident;
use super::spill::{Files, Spill};
use crate::entity::MarkOwner;
use crate::metrics;
use crate::types::{Control, Namespace};

/// How long transactions may take.
#[derive(Clone, Copy, Debug)]
pub struct TransactionLimits {
    /// After this time since its first command a transaction is taken for dead: more than the store's own
    /// `transactionLifetimeLimitSeconds`.
    pub lifetime: Duration,
    /// How long a statement or a commit waits for guards.
    pub wait: Duration,
}

impl Default for TransactionLimits {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(70), wait: Duration::from_secs(5) }
    }
}

/// Who a session belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey {
    pub(super) user: String,
    pub(super) lsid: Vec<u8>,
}

/// The transactions of this process: the last one of each session.
#[derive(Debug)]
pub(crate) struct Transactions {
    pub(super) sessions: Mutex<BTreeMap<SessionKey, Arc<Txn>>>,
    /// Those whose session has gone on before they were surely over.
    pub(super) left: Mutex<Vec<Arc<Txn>>>,
    pub(super) files: Arc<Files>,
    pub(super) limits: TransactionLimits,
    /// Those that are not over.
    pub(super) open: AtomicUsize,
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Txn {
    pub(super) key: SessionKey,
    /// `lsid.id`.
    pub(super) id: [u8; 16],
    pub(super) number: i64,
    pub(super) owner: MarkOwner,
    pub(super) begun: Instant,
    pub(super) state: tokio::sync::Mutex<State>,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Its commit was sent and the outcome is not known.
    Sent {
        since: Instant,
    },
    Committed,
    /// Nothing of it is in the log. `certain`: the store has been told to abort it, and has.
    Aborted {
        certain: bool,
    },
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// What it touched first, with the image before; `after` is not told.
    pub(super) touched: Spill,
    /// What it committed, or is about to.
    pub(super) last: Option<Spill>,
    /// The store's [life](crate::store::life_of) in which its commit was sent; empty: not known.
    pub(super) sent_to: String,
    /// What came of its commit is being found out entity by entity.
    pub(super) moved: bool,
    pub(super) namespaces: BTreeSet<Namespace>,
    /// Namespaces of which only the store can tell what changed.
    pub(super) blind: BTreeSet<Namespace>,
    /// Collections that it made.
    pub(super) controls: Vec<Control>,
}

/// What a command of a transaction found.
pub(super) enum Known {
    /// It is the transaction that its session has here.
    Here(Arc<Txn>),
    /// It begins one; the session's one before it ends with that.
    Begins(Arc<Txn>, Option<Arc<Txn>>),
    /// It repeats or belongs to an older one: the store refuses it.
    Stale,
    /// It is in the middle of one that nobody here saw begin.
    Unknown,
}

impl Transactions {
    pub(crate) fn new(files: Arc<Files>, limits: TransactionLimits) -> Self {
        Self { sessions: Mutex::default(), left: Mutex::default(), files, limits, open: AtomicUsize::new(0) }
    }

    /// None is open or unsettled.
    pub(crate) fn is_quiet(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    pub(super) fn begin(&self, key: SessionKey, id: [u8; 16], number: i64, phase: Phase) -> Arc<Txn> {
        self.open.fetch_add(1, Ordering::AcqRel);
        metrics::TRANSACTIONS_OPEN.inc();
        let state = State {
            phase,
            touched: Spill::new(&self.files),
            last: None,
            sent_to: String::new(),
            moved: false,
            namespaces: BTreeSet::new(),
            blind: BTreeSet::new(),
            controls: Vec::new(),
        };
        let (owner, begun) = (MarkOwner::default(), Instant::now());
        Arc::new(Txn { key, id, number, owner, begun, state: tokio::sync::Mutex::new(state) })
    }

    pub(super) fn find(&self, user: &str, ident: Ident) -> Known {
        let key = SessionKey { user: user.to_owned(), lsid: ident.lsid };
        let mut sessions = self.sessions.lock();
        let known = sessions.get(&key);
        match known {
            Some(txn) if txn.number == ident.number && !ident.start => Known::Here(Arc::clone(txn)),
            Some(txn) if txn.number >= ident.number => Known::Stale,
            _ if !ident.start => Known::Unknown,
            _ => {
                let older = known.cloned();
                self.left.lock().extend(older.clone());
                let txn = self.begin(key.clone(), ident.id, ident.number, Phase::Open);
                sessions.insert(key, Arc::clone(&txn));
                Known::Begins(txn, older)
            }
        }
    }

    /// The session's transaction, if a write of this number ends it.
    pub(super) fn superseded(&self, user: &str, lsid: &RawDocument, number: i64) -> Option<Arc<Txn>> {
        if self.is_quiet() {
            return None;
        }
        let key = SessionKey { user: user.to_owned(), lsid: lsid.as_bytes().to_vec() };
        self.sessions.lock().get(&key).filter(|txn| txn.number < number).cloned()
    }

    /// Takes one that is over off the list of those left behind; false: it was not there.
    pub(super) fn forget_left(&self, txn: &Arc<Txn>) -> bool {
        let mut left = self.left.lock();
        let place = left.iter().position(|one| Arc::ptr_eq(one, txn));
        place.map(|place| left.swap_remove(place)).is_some()
    }

    pub(super) fn all(&self) -> Vec<Arc<Txn>> {
        let mut all: Vec<_> = self.left.lock().clone();
        all.extend(self.sessions.lock().values().cloned());
        all
    }
}
