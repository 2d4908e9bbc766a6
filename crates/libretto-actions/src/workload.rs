//! What people do to workloads with `kubectl scale`, `kubectl rollout restart` and `kubectl drain`.

use kube::{
    api::{Patch, PatchParams},
    core::Request,
};
use libretto_api::{
    intent::{Failure, FailureKind, Outcome},
    object::{InstanceRef, ObjectRef},
};
use serde_json::json;

use crate::{DONE, failed, kube::Kube};

/// Who these changes are made by. Not the manager of what is applied: an apply would take back what it does not name.
fn manager(instance: &InstanceRef) -> PatchParams {
    PatchParams {
        field_manager: Some(format!("libretto-{}-calls", instance.package)),
        ..PatchParams::default()
    }
}

/// Sets the number of replicas.
pub(crate) async fn scale(
    kube: &Kube,
    instance: &InstanceRef,
    object: &ObjectRef,
    replicas: u32,
) -> Result<Outcome, Failure> {
    let body = json!({"spec": {"replicas": replicas}});
    kube.patch(
        object,
        Some("scale"),
        &manager(instance),
        &Patch::Merge(&body),
    )
    .await
    .map(|_scale| DONE)
    .map_err(|error| error.failure(&format!("scale {object} to {replicas}")))
}

/// Kinds whose controllers replace pods when the template changes.
const ROLLED: &[&str] = &["Deployment", "StatefulSet", "DaemonSet"];

/// Changes the pod template by the annotation that kubectl uses.
pub(crate) async fn restart(
    kube: &Kube,
    instance: &InstanceRef,
    object: &ObjectRef,
) -> Result<Outcome, Failure> {
    if object.gvk.group != "apps" || !ROLLED.contains(&object.gvk.kind.as_str()) {
        return Err(failed(
            FailureKind::Invalid,
            format!("restart {object}: only {} can be", ROLLED.join(", ")),
        ));
    }
    let now = jiff::Timestamp::now().to_string();
    let body = json!({"spec": {"template": {"metadata": {"annotations": {
        "kubectl.kubernetes.io/restartedAt": now,
    }}}}});
    let object = kube
        .patch(object, None, &manager(instance), &Patch::Merge(&body))
        .await
        .map_err(|error| error.failure(&format!("restart {object}")))?;
    Ok(Outcome::Done {
        object: Some(object),
    })
}

/// Asks for an eviction. What a disruption budget refuses (429) is a refusal like any other: tried again later.
pub(crate) async fn evict(
    kube: &Kube,
    pod: &ObjectRef,
    uid: Option<&str>,
) -> Result<Outcome, Failure> {
    let what = format!("evict {pod}");
    let mut body = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
    });
    if let Some(uid) = uid {
        body["deleteOptions"] = json!({"preconditions": {"uid": uid}});
    }
    let bytes = serde_json::to_vec(&body).expect("a JSON value serialises");
    let request = Request::new(
        kube.collection(pod)
            .await
            .map_err(|error| error.failure(&what))?,
    )
    .create_subresource(
        "eviction",
        &pod.name,
        &kube::api::PostParams::default(),
        bytes,
    )
    .map_err(|error| failed(FailureKind::Invalid, format!("{what}: {error}")))?;
    match kube.send(request).await {
        Ok(_) => Ok(DONE),
        Err(error) if error.code() == Some(404) => Ok(Outcome::Absent),
        // The only precondition sent is the uid: that incarnation is gone, another one has its name.
        Err(error) if error.code() == Some(409) && uid.is_some() => Ok(Outcome::Absent),
        Err(error) => Err(error.failure(&what)),
    }
}
