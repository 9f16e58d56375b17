//! Who speaks on a connection: learnt from hello and from the authentication that passes through, and stamped on each change.
//!
//! A user is named only after the node said that the authentication succeeded. Payloads are never kept or logged.

use crate::types::Origin;
use crate::wire::auth::{Claim, Step};
use crate::wire::hello::ClientFacts;
use std::sync::Arc;

/// What is known of the client.
#[derive(Debug)]
pub(super) struct Identity {
    origin: Arc<Origin>,
    claim: Option<Claim>,
}

impl Identity {
    /// A client that said nothing yet.
    pub(super) fn new(connection: u64, client: String) -> Self {
        Self { origin: Arc::new(Origin { connection, client, ..Origin::default() }), claim: None }
    }

    /// The origin of changes made now.
    pub(super) fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// What the first hello told; a node takes it only once per connection, and so do we.
    pub(super) fn introduce(&mut self, facts: ClientFacts) {
        if self.origin.app.is_empty() && self.origin.driver.is_empty() {
            let origin = Arc::make_mut(&mut self.origin);
            origin.app = facts.app;
            origin.driver = facts.driver;
        }
    }

    /// An authentication began.
    pub(super) fn claim(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }

    /// The node answered a message of it.
    pub(super) fn settle(&mut self, step: Step) {
        match step {
            Step::Continues => {}
            Step::Failed => self.claim = None,
            Step::Done(named) => {
                let Some(mut claim) = self.claim.take() else { return };
                if let Some(user) = named {
                    claim.user = user;
                }
                let origin = Arc::make_mut(&mut self.origin);
                origin.user = claim.name();
                origin.mechanism = claim.mechanism;
            }
        }
    }

    /// The node took a `logout`.
    pub(super) fn forget(&mut self) {
        let origin = Arc::make_mut(&mut self.origin);
        origin.user.clear();
        origin.mechanism.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_holds_once_it_is_proved() {
        let mut identity = Identity::new(1, "127.0.0.1:5".into());
        let claim = Claim { user: "joe".into(), db: "admin".into(), mechanism: "SCRAM-SHA-256".into() };
        identity.claim(claim.clone());
        identity.settle(Step::Continues);
        assert_eq!(identity.origin().user, "");
        identity.settle(Step::Failed);
        identity.settle(Step::Done(None));
        assert_eq!(identity.origin().user, "");
        identity.claim(claim);
        let before = Arc::clone(identity.origin());
        identity.settle(Step::Done(None));
        assert_eq!(
            (identity.origin().user.as_str(), identity.origin().mechanism.as_str()),
            ("joe@admin", "SCRAM-SHA-256")
        );
        assert_eq!(before.user, "");
        identity.forget();
        assert_eq!(identity.origin().user, "");
    }
}
