//! What those who keep the log true ask for beside pages of a [`range`](super::range): single entities, whole namespaces, and
//! the facts that follow from a walk that has ended.

use bson::RawBson;

use super::Capture;
use super::compare::Cause;
use super::error::CaptureError;
use super::observe::Target;
use super::range::{Done, Limits, Mode};
use crate::metrics;
use crate::types::{Control, Found, LogId, Lsn, Namespace};

impl Capture {
    /// Verifies single entities under their guards.
    ///
    /// # Errors
    /// When the store or the log fails; then the same may be asked again.
    pub async fn verify_entities(&self, ns: &Namespace, ids: &[RawBson], found: Found) -> Result<Done, CaptureError> {
        let mut done = Done::default();
        let info = self.namespace(ns).await?;
        if info.excluded {
            return Ok(done);
        }
        let targets = Target::all(ns, ids)?;
        metrics::VERIFY_ENTITIES.add(targets.len() as u64);
        done.entities = targets.len() as u64;
        let range = self.new_range(ns, Cause { found, ..Cause::default() }, Mode::Append, info.collated);
        self.compare_guarded(&range, &targets, Limits::default(), &mut done).await?;
        Ok(done)
    }

    /// Makes a namespace known to the log, as its first write would. `false`: writes to it are not recorded.
    ///
    /// # Errors
    /// As [`verify_entities`](Self::verify_entities).
    pub async fn meet(&self, ns: &Namespace) -> Result<bool, CaptureError> {
        Ok(!self.namespace(ns).await?.excluded)
    }

    /// The record that last emptied the namespace or put another in its place; a walk over it that began before proves nothing.
    pub fn emptied(&self, ns: &Namespace) -> Lsn {
        self.index.emptied(ns)
    }

    /// Writes down that the log holds all of a namespace: a walk has ended that began when [`emptied`](Self::emptied) was what is
    /// given here. `false`: the namespace is another one by now.
    ///
    /// # Errors
    /// When the log fails.
    pub async fn complete(&self, ns: &Namespace, emptied: Lsn) -> Result<bool, CaptureError> {
        let _shared = self.ns_guards.shared(ns).await;
        if self.index.emptied(ns) != emptied {
            return Ok(false);
        }
        if self.index.known(ns).is_some_and(|known| !known.complete) {
            let _durable = self.control(vec![Control::Completed { ns: ns.clone() }]).await?;
        }
        Ok(true)
    }

    /// Everything appended so far is on the disk, whatever the log's durability.
    ///
    /// # Errors
    /// When the log fails.
    pub async fn sync(&self) -> Result<(), CaptureError> {
        let _durable = self.log.sync().wait().await?;
        Ok(())
    }

    /// The log's identity.
    pub fn log_id(&self) -> LogId {
        self.log.log_id()
    }
}
