//! From an [`Intent`] to its effect in the world, one file per action.
//!
//! [`Actions::execute`] carries out one intent and says what came of it; [`Actions::probe`] asks one question. Every client here
//! has a connect and a total timeout, refuses what it does not support with a sentence, and replaces secret handles at the
//! last moment so that no value is held longer than its request.
//!
//! Never here: deciding, retrying (the engine's ledger does both), the mirror, SQL.

mod apply;
mod delete;
mod dns;
mod event;
mod exec;
pub mod helm;
mod http;
mod inventory;
pub mod kube;
mod made;
mod patch;
mod prometheus;
mod reach;
mod redis;
mod secret;
mod status;
mod tcp;
mod workload;

use std::{collections::HashMap, sync::Arc};

use libretto_api::{
    intent::{Effect, Failure, HttpCall, Intent, Outcome, Probe},
    object::{Gvk, InstanceRef, ObjectRef},
};
use serde_json::Value;

pub use apply::belongs;
pub use inventory::{INVENTORY_KEY, INVENTORY_LABEL, inventory_name};
pub use reach::{Allowed, Reach};
pub use secret::{MISPLACED, NoSecrets, Resolver, SecretSource};

use crate::kube::Kube;

/// Carries out intents against one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Actions {
    kube: Kube,
    secrets: Arc<dyn SecretSource>,
    events: Arc<event::Recorder>,
    reach: Arc<Reach>,
}

impl std::fmt::Debug for Actions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Actions").finish_non_exhaustive()
    }
}

impl Actions {
    /// `reach` says where packages' probes and calls may go. `reporters` names the `reportingController` of a package's events; a package that is not in it reports as
    /// `libretto/<package>`.
    pub fn new(
        kube: Kube,
        secrets: Arc<dyn SecretSource>,
        reporters: HashMap<String, String>,
        reach: Reach,
    ) -> Self {
        Self {
            kube,
            secrets,
            events: Arc::new(event::Recorder::new(reporters)),
            reach: Arc::new(reach),
        }
    }

    /// Passes on what a watch tells of Secrets; see [`SecretSource::changed`].
    pub fn secret_changed(&self, secret: Option<&ObjectRef>) {
        self.secrets.changed(secret);
    }

    /// The client that the actions use, for whoever must read what they wrote.
    pub fn kube(&self) -> &Kube {
        &self.kube
    }

    /// Carries out one intent. `ours` says that the object of an apply is known to belong to the instance, which saves the
    /// look before the write; when in doubt say `false`.
    pub async fn execute(&self, intent: &Intent, ours: bool) -> Outcome {
        let Intent {
            instance, effect, ..
        } = intent;
        let resolver = Resolver::new(self.secrets.as_ref(), instance);
        let done = match effect {
            Effect::Apply { object, adopt } => {
                apply::apply(&self.kube, &resolver, object, *adopt, ours).await
            }
            Effect::Patch { object, force } => {
                patch::patch(&self.kube, &resolver, object, *force).await
            }
            Effect::Delete { object, uid } => {
                delete::delete(&self.kube, object, uid.as_deref()).await
            }
            Effect::Status { status } => status::status(&self.kube, instance, status).await,
            Effect::Event {
                kind,
                reason,
                message,
            } => {
                self.events
                    .record(&self.kube, instance, *kind, reason, message)
                    .await
            }
            Effect::Redis(call) => redis::call(&self.reach, &resolver, call)
                .await
                .map(|answer| answer.map_or(Outcome::Skipped, |_answer| DONE)),
            Effect::Http(call) => http::call(&self.reach, &resolver, call)
                .await
                .map(|()| DONE),
            Effect::Exec(call) => exec::call(&self.kube, &resolver, call).await.map(|()| DONE),
            Effect::Scale { object, replicas } => {
                workload::scale(&self.kube, instance, object, *replicas).await
            }
            Effect::Restart { object } => workload::restart(&self.kube, instance, object).await,
            Effect::Evict { pod, uid } => workload::evict(&self.kube, pod, uid.as_deref()).await,
            Effect::Inventory { inventory } => {
                inventory::write(&self.kube, instance, inventory).await
            }
        };
        match done {
            Ok(outcome) => outcome,
            // An API server may quote what it refuses; a value that was resolved for this very request must not come back out.
            Err(failure) => Outcome::Failed(Failure {
                kind: failure.kind,
                message: resolver.scrub(&failure.message),
            }),
        }
    }

    /// Asks one question; the answer's form is described at [`Probe`].
    pub async fn probe(&self, instance: &InstanceRef, probe: &Probe) -> Result<Value, Failure> {
        let resolver = Resolver::new(self.secrets.as_ref(), instance);
        match probe {
            Probe::Redis(call) => redis::call(&self.reach, &resolver, call)
                .await
                .map(Option::unwrap_or_default),
            Probe::Tcp {
                host,
                port,
                timeout_ms,
            } => tcp::probe(&self.reach, host, *port, *timeout_ms).await,
            Probe::Http(call) => http::probe(&self.reach, &resolver, call).await,
            Probe::Exec(call) => exec::probe(&self.kube, &resolver, call).await,
            Probe::Dns { name, timeout_ms } => dns::probe(name, *timeout_ms).await,
            Probe::Prometheus { page, read } => {
                prometheus::probe(&self.reach, &resolver, page, read).await
            }
        }
        .map_err(|failure| Failure {
            kind: failure.kind,
            message: resolver.scrub(&failure.message),
        })
    }
}

/// Sends one request of the runtime's own, to wherever its administrator said: no package has a say in it, and no secret is in it.
pub async fn send(call: &HttpCall) -> Result<(), Failure> {
    let anywhere = Reach {
        loopback: true,
        denied: Vec::new(),
        allowed: None,
    };
    let nobody = InstanceRef {
        package: String::new(),
        gvk: Gvk::new("", "", ""),
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
    };
    http::call(&anywhere, &Resolver::new(&NoSecrets, &nobody), call).await
}

const DONE: Outcome = Outcome::Done { object: None };

/// An action that did not work, on its way to an [`Outcome`].
pub(crate) fn failed(
    kind: libretto_api::intent::FailureKind,
    message: impl Into<String>,
) -> Failure {
    Failure {
        kind,
        message: message.into(),
    }
}
