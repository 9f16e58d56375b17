//! Commands that change collections, and writes that are not observed (gaps).
//!
//! Promises: a successful `create`, `drop`, `dropDatabase`, `renameCollection`, `collMod` is a control record in the order
//! in which it took effect among the writes of its entities (they wait for each other). What writes past the entities
//! (`$out`, `$merge`, `mapReduce`, …) stands in the gap ledger, durably, before it is forwarded.

use bson::raw::{RawBsonRef, RawDocument};

use super::command::merge::is_ok;
use super::command::{body_without, extended_json};
use super::compare::Cause;
use super::error::CaptureError;
use super::intent::Scope;
use super::piece::with_number;
use super::txn::limit_of;
use super::write::{answer, correlation};
use super::{Capture, Outcome, Session, unchanged};
use crate::metrics;
use crate::store::Upstream;
use crate::types::{Control, Namespace};
use crate::wire::command::DdlKind;
use crate::wire::msg::OpMsg;

/// Fields of a command that are not options of the collection.
const NOT_OPTIONS: [&str; 10] = [
    "create",
    "collMod",
    "$db",
    "lsid",
    "$clusterTime",
    "writeConcern",
    "comment",
    "$readPreference",
    "txnNumber",
    "maxTimeMS",
];

/// What a command of this kind means.
#[derive(Debug)]
pub(crate) struct Ddl {
    pub scope: Scope,
    pub controls: Vec<Control>,
}

impl Ddl {
    /// Reads a command; `None`: it is malformed, and the store will say so.
    pub(crate) fn parse(kind: DdlKind, message: &OpMsg) -> Option<Self> {
        let db = message.db()?;
        let named = || message.command().1.filter(|c| !c.is_empty()).map(|c| Namespace::new(db, c));
        let options = || {
            let options = body_without(message.body(), &NOT_OPTIONS).ok()?;
            Some(extended_json(RawBsonRef::Document(&options)))
        };
        let one = |ns: &Namespace| Scope::Namespaces(vec![ns.clone()]);
        Some(match kind {
            DdlKind::Create => {
                let ns = named()?;
                Self { scope: one(&ns), controls: vec![Control::Create { ns, options: options()? }] }
            }
            DdlKind::CollMod => {
                let ns = named()?;
                Self { scope: one(&ns), controls: vec![Control::CollMod { ns, options: options()? }] }
            }
            DdlKind::Drop => {
                let ns = named()?;
                Self { scope: one(&ns), controls: vec![Control::Drop { ns }] }
            }
            DdlKind::DropDatabase => Self {
                scope: Scope::Database(db.to_owned()),
                controls: vec![Control::DropDatabase { db: db.to_owned() }],
            },
            DdlKind::Rename => {
                let from = Namespace::from_full(message.command().1?);
                let to = Namespace::from_full(message.body().get_str("to").ok()?);
                let scope = Scope::Namespaces(vec![from.clone(), to.clone()]);
                // A server that takes a rename to the same name (mongod refuses) moves nothing: a record of it would empty the name.
                let controls = if from == to { Vec::new() } else { vec![Control::Rename { from, to }] };
                Self { scope, controls }
            }
        })
    }
}

impl Capture {
    /// Carries a command that changes collections through.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn ddl(
        &self,
        session: &mut Session,
        upstream: &mut Upstream,
        kind: DdlKind,
        message: &OpMsg,
    ) -> Result<Outcome, CaptureError> {
        self.admit(false)?;
        let forward = message.with_body(message.body(), 0);
        let Some(ddl) = Ddl::parse(kind, message) else {
            let ns = Namespace::new(message.db().unwrap_or_default(), "*");
            let under_way = self.foreign.begin(&ns, self.looks.bound());
            let reply = forward_alone(upstream, forward).await?;
            under_way.ended();
            if is_ok(reply.body()) {
                self.open_gap(&ns, "ddl", "a command that was not understood succeeded").await?;
            }
            return Ok(Outcome { reply: answer(&reply, message.request_id()), durable: self.log.nothing_to_log()? });
        };
        let cause =
            Cause { origin: session.origin.clone(), correlation: correlation(session, message), ..Cause::default() };
        // What moves must be known: whether the log holds all of it goes with it.
        if let [Control::Rename { from, .. }] = ddl.controls.as_slice() {
            self.namespace(from).await?;
        }
        let limit = limit_of(message.body());
        let hold = match &ddl.scope {
            Scope::Database(db) => self.guard_database(db, limit).await?,
            Scope::Namespaces(namespaces) => self.guard_alone(namespaces, limit).await?,
            Scope::Entities(_) => self.guard_alone(&[], limit).await?,
        };
        match &ddl.scope {
            Scope::Database(db) => session.slot()?.database(db)?,
            Scope::Namespaces(namespaces) => session.slot()?.namespaces(namespaces)?,
            Scope::Entities(_) => {}
        }
        let reply = match forward_alone(upstream, forward).await {
            Ok(reply) => reply,
            Err(error) => {
                drop(hold);
                self.look_later(session, ddl.scope);
                return Err(error);
            }
        };
        let durable = self.conclude(session, ddl, &cause, &reply).await?;
        drop(hold);
        Ok(Outcome { reply: answer(&reply, message.request_id()), durable })
    }

    async fn conclude(
        &self,
        session: &mut Session,
        ddl: Ddl,
        cause: &Cause,
        reply: &OpMsg,
    ) -> Result<crate::changelog::Durable, CaptureError> {
        let mut durable = self.log.nothing_to_log()?;
        match &ddl.scope {
            Scope::Database(db) => self.namespaces.forget(|ns| ns.db() == db),
            Scope::Namespaces(changed) => self.namespaces.forget(|ns| changed.contains(ns)),
            Scope::Entities(_) => {}
        }
        if is_ok(reply.body()) {
            self.note_ddl(&ddl.scope, reply.body());
            let controls = self.with_opened(ddl.controls);
            if !controls.is_empty() {
                durable = self.control(controls).await?;
            }
        } else if !unchanged(reply.body())
            && existed_all_along(reply.body())
            && let Scope::Namespaces(namespaces) = &ddl.scope
        {
            for ns in namespaces {
                durable = match self.verify_failed(ns, cause).await {
                    Ok(durable) => durable,
                    Err(error) => {
                        self.look_later(session, ddl.scope.clone());
                        return Err(error);
                    }
                };
            }
        }
        session.close_slot()?;
        Ok(durable)
    }

    /// What a command that failed left in `ns`, which may have come to be by it. Alone in it.
    async fn verify_failed(&self, ns: &Namespace, cause: &Cause) -> Result<crate::changelog::Durable, CaptureError> {
        if self.namespace_alone(ns).await?.excluded {
            return Ok(self.log.nothing_to_log()?);
        }
        self.verify_namespace(ns, cause).await
    }

    /// The change stream will tell of this command, too.
    fn note_ddl(&self, scope: &Scope, reply: &RawDocument) {
        let Ok(time) = reply.get_timestamp("operationTime") else { return };
        let time = u64::from(time.time) << 32 | u64::from(time.increment);
        match scope {
            Scope::Database(db) => self.own.note_ddl(format!("{db}."), time),
            Scope::Namespaces(all) => all.iter().for_each(|ns| self.own.note_ddl(ns.as_str().to_owned(), time)),
            Scope::Entities(_) => {}
        }
    }

    /// A namespace that a `create` made held nothing: the log holds all of it.
    pub(crate) fn with_opened(&self, controls: Vec<Control>) -> Vec<Control> {
        let mut out = Vec::new();
        for control in controls {
            if let Control::Create { ns, .. } = &control {
                let view = matches!(&control, Control::Create { options, .. } if options.contains("\"viewOn\""));
                if !view && self.index.known(ns).is_none() {
                    out.push(Control::Opened { ns: ns.clone(), complete: true });
                }
            }
            out.push(control);
        }
        out
    }

    /// Forwards a command that writes past the entities of `ns`, after the gap is durable. Alone in the namespace.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn unobserved(
        &self,
        session: &mut Session,
        upstream: &mut Upstream,
        gap: &(Namespace, &'static str),
        message: &OpMsg,
    ) -> Result<Outcome, CaptureError> {
        self.admit(false)?;
        let (ns, cause) = gap;
        // What it held before is known to the log, or known to be missing.
        self.namespace(ns).await?;
        let hold = self.guard_alone(std::slice::from_ref(ns), limit_of(message.body())).await?;
        let who = format!("{} from {}", session.origin.app, session.origin.client);
        let under_way = self.foreign.begin(ns, self.looks.bound());
        self.open_gap(ns, cause, who.trim()).await?;
        let reply = forward_alone(upstream, message.with_body(message.body(), 0)).await?;
        under_way.ended();
        self.namespaces.forget(|known| known == ns);
        drop(hold);
        Ok(Outcome { reply: answer(&reply, message.request_id()), durable: self.log.nothing_to_log()? })
    }

    /// Writes a gap into the log, durably; once for a namespace and cause, while it is open.
    ///
    /// # Errors
    /// When the log cannot make it durable.
    pub async fn open_gap(&self, ns: &Namespace, cause: &str, detail: &str) -> Result<(), CaptureError> {
        let _turn = self.gap_turn.lock().await;
        if self.index.gaps().values().any(|gap| gap.ns == *ns && gap.cause == cause) {
            return Ok(());
        }
        // Its record has this lsn or a greater one, and the next gap waits for it: no number is given twice, in no process.
        let id = self.log.tail().next().0;
        metrics::GAPS_OPENED.add_for(cause, 1);
        let gap = Control::GapOpened { id, ns: ns.clone(), cause: cause.to_owned(), detail: detail.to_owned() };
        let _durable = self.control(vec![gap]).await?;
        Ok(())
    }
}

async fn forward_alone(upstream: &mut Upstream, forward: bytes::Bytes) -> Result<OpMsg, CaptureError> {
    let id = upstream.next_id();
    Ok(upstream.exchange(&with_number(forward, 4, id)).await?)
}

/// The error is not one that says that there was nothing to do: `NamespaceExists` 48.
fn existed_all_along(reply: &RawDocument) -> bool {
    super::command::number(reply.get("code").ok().flatten()) != Some(48)
}

/// What an `aggregate` or `mapReduce` would write, and the word for the gap; `None`: it only reads.
pub fn written_by(message: &OpMsg) -> Option<(Namespace, &'static str)> {
    let body = message.body();
    let db = message.db()?;
    if body.get_bool("explain").unwrap_or(false) {
        return None;
    }
    if let Ok(stages) = body.get_array("pipeline") {
        let last = stages.into_iter().last()?.ok()?;
        let stage = last.as_document()?.iter_elements().next()?.ok()?;
        let value = stage.value().ok()?;
        return match stage.key().as_str() {
            "$out" => Some((output(db, value, "coll"), "out")),
            "$merge" => Some((output(db, merge_target(value), "coll"), "merge")),
            _ => None,
        };
    }
    match body.get("out").ok()?? {
        RawBsonRef::Document(out) if out.get("inline").ok().flatten().is_some() => None,
        RawBsonRef::Document(out) => {
            let target = ["replace", "merge", "reduce"].iter().find_map(|f| out.get_str(f).ok())?;
            Some((Namespace::new(out.get_str("db").unwrap_or(db), target), "mapReduce"))
        }
        value => Some((output(db, value, "coll"), "mapReduce")),
    }
}

fn merge_target(value: RawBsonRef<'_>) -> RawBsonRef<'_> {
    match value {
        RawBsonRef::Document(doc) => doc.get("into").ok().flatten().unwrap_or(value),
        other => other,
    }
}

fn output(db: &str, value: RawBsonRef<'_>, field: &str) -> Namespace {
    match value {
        RawBsonRef::String(collection) => Namespace::new(db, collection),
        RawBsonRef::Document(doc) => Namespace::new(doc.get_str("db").unwrap_or(db), doc.get_str(field).unwrap_or("*")),
        _ => Namespace::new(db, "*"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::build::Builder;
    use bson::rawdoc;

    fn renamed(to: &str) -> Ddl {
        let body = rawdoc! { "renameCollection": "d.a", "to": to, "$db": "admin" };
        let message = OpMsg::from_bytes(Builder::request(1, 0).body(&body).finish()).unwrap();
        Ddl::parse(DdlKind::Rename, &message).unwrap()
    }

    #[test]
    fn a_rename_to_the_same_name_moves_nothing() {
        let (from, to) = (Namespace::new("d", "a"), Namespace::new("d", "b"));
        assert_eq!(renamed("d.b").controls, [Control::Rename { from, to }]);
        assert!(renamed("d.a").controls.is_empty());
    }
}
