//! What is said of an instance that cannot be evaluated, because the cluster does not serve a Kind its package stands on.
//!
//! Nothing is decided then: rows of a Kind that nobody serves are not known to be gone. The rest of the status stays as it was.

use libretto_api::{
    intent::{Effect, EventKind, Intent, Millis},
    reason::REASON_KIND_NOT_SERVED,
};
use libretto_mirror::{Snapshot, canonical_json, digest};

use crate::{
    Engine, Ledger, Plan,
    ledger::{BLOCKED, STATUS},
    status,
};

impl Engine {
    /// A plan that only says so: the condition Stalled, and an event the first time.
    pub fn blocked(
        &self,
        snapshot: &Snapshot,
        ledger: &Ledger,
        now: Millis,
        seed: u64,
        message: &str,
    ) -> Plan {
        let mut plan = Plan {
            intents: Vec::new(),
            ledger: Ledger {
                seed,
                ..ledger.clone()
            },
            probes: Vec::new(),
            probes_kept: self
                .package()
                .probes
                .iter()
                .map(|probe| probe.table.clone())
                .collect(),
            wake_at: None,
            metrics: Vec::new(),
            alerts: Vec::new(),
            settled: false,
            rules: Vec::new(),
        };
        let intent = |rule: &str, key: &str, fingerprint: String, effect: Effect| Intent {
            instance: snapshot.instance.clone(),
            rule: rule.to_owned(),
            key: key.to_owned(),
            fingerprint,
            effect,
        };
        let rule = self.package().status.as_ref();
        // Nobody reads the status of what is going; the event says why it does not go.
        let shown = rule.is_none_or(|rule| rule.runtime) && !snapshot.cr("deleting").is_true();
        let status = shown
            .then(|| status::stalled(snapshot, rule, REASON_KIND_NOT_SERVED, message, now))
            .flatten();
        // A former process may have told already; then the status says it.
        let told = ledger
            .row(BLOCKED, "event")
            .is_some_and(|row| row.fingerprint == message)
            || (shown && status.is_none());
        if !told {
            plan.intents.push(intent(
                BLOCKED,
                "event",
                message.to_owned(),
                Effect::Event {
                    kind: EventKind::Warning,
                    reason: REASON_KIND_NOT_SERVED.to_owned(),
                    message: message.to_owned(),
                },
            ));
        }
        if let Some(status) = status {
            let failed = ledger.row(STATUS, "status").and_then(|row| row.retry_at);
            match failed.filter(|at| *at > now) {
                Some(at) => plan.wake_at = Some(at),
                None => plan.intents.push(intent(
                    STATUS,
                    "status",
                    digest(canonical_json(&status).as_bytes()),
                    Effect::Status { status },
                )),
            }
        }
        plan
    }
}
