//! What only pods have: initial status, binding to a node, eviction under a disruption budget.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, DeleteOptions, Gvr, PODS, Subresource, WriteOptions, metadata, support};
use crate::{
    error::{ApiError, FieldError},
    registry::table,
    selector::LabelSelector,
};

const BUDGETS: Gvr = Gvr::new("policy", "v1", "poddisruptionbudgets");

/// Fills in what depends on the pod as a whole.
pub(super) fn prepare(
    api: &Api,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Vec<FieldError>, ApiError> {
    if old.is_some() {
        if let Some(spec) = metadata::child(object, "spec") {
            tolerate_broken_nodes(spec);
        }
        return Ok(Vec::new());
    }
    let errors = support::refusals(&object["spec"]);
    let class = quality_of_service(&object["spec"]);
    let (namespace, name) = (
        metadata::text(object, "namespace").to_owned(),
        metadata::text(object, "name").to_owned(),
    );
    let Some(spec) = metadata::child(object, "spec") else {
        return Ok(Vec::new());
    };
    if spec
        .get("serviceAccountName")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        spec.insert("serviceAccountName".to_owned(), "default".into());
    }
    let account = spec["serviceAccountName"].clone();
    known_account(api, &namespace, &name, account.as_str().unwrap_or_default())?;
    spec.insert("serviceAccount".to_owned(), account);
    priority(api, &name, spec)?;
    tolerate_broken_nodes(spec);
    object["status"] = json!({"phase": "Pending", "qosClass": class});
    Ok(errors)
}

/// Upstream's ServiceAccount admission. `default` may not have been made yet; pods need nothing of it here.
fn known_account(api: &Api, namespace: &str, pod: &str, account: &str) -> Result<(), ApiError> {
    let key = crate::store::Key::new(namespace, account);
    if account == "default"
        || api
            .0
            .store
            .get(&table("", "serviceaccounts"), &key)
            .is_some()
    {
        return Ok(());
    }
    let mut error = ApiError::forbidden(format!(
        "pods {pod:?} is forbidden: error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
    ));
    error.details = json!({"name": pod});
    Err(error.within("", "pods"))
}

/// The class of pods that name none. Should there be two, the smaller number counts, as upstream has it.
fn default_class(api: &Api) -> Option<Arc<Value>> {
    api.0
        .store
        .list(&table("scheduling.k8s.io", "priorityclasses"), None, None)
        .ok()?
        .items
        .into_iter()
        .map(|(_, class)| class)
        .filter(|class| class["globalDefault"] == true)
        .min_by_key(|class| class["value"].as_i64())
}

/// The number behind a priority class, as the Priority admission plugin writes it.
fn priority(
    api: &Api,
    pod: &str,
    spec: &mut serde_json::Map<String, Value>,
) -> Result<(), ApiError> {
    if spec
        .get("priorityClassName")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
        && let Some(class) = default_class(api)
    {
        let name = class["metadata"]["name"].clone();
        spec.insert("priorityClassName".to_owned(), name);
    }
    let name = spec
        .get("priorityClassName")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let (value, policy) = match name {
        "" => (json!(0), json!("PreemptLowerPriority")),
        "system-node-critical" => (json!(2_000_001_000), json!("PreemptLowerPriority")),
        "system-cluster-critical" => (json!(2_000_000_000), json!("PreemptLowerPriority")),
        name => {
            let class = api.0.store.get(
                &table("scheduling.k8s.io", "priorityclasses"),
                &crate::store::Key::new("", name),
            );
            match class {
                Some(class) => (class["value"].clone(), class["preemptionPolicy"].clone()),
                None => {
                    let mut error = ApiError::forbidden(format!(
                        "pods {pod:?} is forbidden: no PriorityClass with name {name} was found"
                    ));
                    error.details = json!({"name": pod});
                    return Err(error.within("", "pods"));
                }
            }
        }
    };
    spec.insert("priority".to_owned(), value);
    if !policy.is_null() {
        spec.entry("preemptionPolicy").or_insert(policy);
    }
    Ok(())
}

/// Upstream's DefaultTolerationSeconds admission: a pod stays five minutes on a node that is in trouble.
fn tolerate_broken_nodes(spec: &mut serde_json::Map<String, Value>) {
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else {
        return;
    };
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = tolerations.iter().any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            matches!(text("key"), own if own == key || own.is_empty())
                && matches!(text("effect"), "" | "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

/// `Guaranteed` when every container's limits equal its requests, `BestEffort` when there are none at all, else `Burstable`.
fn quality_of_service(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = ["containers", "initContainers"]
        .iter()
        .flat_map(|field| spec[field].as_array().into_iter().flatten())
        .collect();
    let amount = |container: &Value, part: &str, resource: &str| {
        container["resources"][part].get(resource).cloned()
    };
    let mut any = false;
    let mut guaranteed = true;
    for container in containers {
        for resource in ["cpu", "memory"] {
            let limit = amount(container, "limits", resource);
            let request = amount(container, "requests", resource).or_else(|| limit.clone());
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

impl Api {
    /// Binds a pod to a node, as a scheduler does; a pod that is bound already is a conflict.
    pub fn bind(
        &self,
        namespace: &str,
        name: &str,
        node: &str,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let target = self.resolve(&PODS)?;
        if node.is_empty() {
            return Err(ApiError::bad_request(
                "a binding needs target.name, the node",
            ));
        }
        let _lock = self.0.writes.lock();
        let live = self.stored(&target, namespace, name)?;
        let conflict =
            |why: String| ApiError::conflict("pods/binding", name, &why).within("", "pods");
        if metadata::terminating(&live) {
            return Err(conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        if let Some(bound) = live["spec"]["nodeName"]
            .as_str()
            .filter(|bound| !bound.is_empty())
        {
            return Err(conflict(format!(
                "pod {name} is already assigned to node {bound:?}"
            )));
        }
        if dry_run {
            return Ok(());
        }
        let mut pod = (*live).clone();
        pod["spec"]["nodeName"] = node.into();
        if let Some(status) = metadata::child(&mut pod, "status") {
            let conditions = status.entry("conditions").or_insert_with(|| json!([]));
            if let Some(conditions) = conditions.as_array_mut() {
                conditions.retain(|one| one["type"] != "PodScheduled");
                conditions.push(
                    json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                    "lastTransitionTime": metadata::now()}),
                );
            }
        }
        self.0
            .store
            .put(&target.resource.table, target.key(namespace, name), pod)?;
        Ok(())
    }

    /// Deletes a pod unless a disruption budget forbids it (429).
    pub fn evict(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let pod = self.get(&PODS, namespace, name)?;
        if let Some(budget) = self.budget_of(namespace, &pod)? {
            self.spend(namespace, &budget, name, options.dry_run)?;
        }
        self.delete(&PODS, namespace, name, options).map(|_| ())
    }

    /// The budget that must be asked before this pod may go.
    fn budget_of(&self, namespace: &str, pod: &Value) -> Result<Option<Arc<Value>>, ApiError> {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        if metadata::terminating(pod) || matches!(phase, "Pending" | "Succeeded" | "Failed") {
            return Ok(None);
        }
        let target = self.resolve(&BUDGETS)?;
        let budgets = self
            .0
            .store
            .list(&target.resource.table, Some(namespace), None)
            .map(|snapshot| snapshot.items)
            .unwrap_or_default();
        let mut matching = Vec::new();
        for (_, budget) in budgets {
            let selector = &budget["spec"]["selector"];
            if !selector.is_null() && LabelSelector::from_object(selector)?.matches(pod) {
                matching.push(budget);
            }
        }
        if matching.len() > 1 {
            return Err(ApiError::internal(
                "this pod has more than one PodDisruptionBudget, which the eviction subresource does not support",
            ));
        }
        let Some(budget) = matching.pop() else {
            return Ok(None);
        };
        let ready = pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True");
        let status = &budget["status"];
        let healthy = status["currentHealthy"].as_i64().unwrap_or(0);
        let desired = status["desiredHealthy"].as_i64().unwrap_or(0);
        let policy = budget["spec"]["unhealthyPodEvictionPolicy"]
            .as_str()
            .unwrap_or("IfHealthyBudget");
        // A pod that is not ready does not count as healthy; removing it costs the budget nothing.
        if !ready && (policy == "AlwaysAllow" || (healthy >= desired && desired > 0)) {
            return Ok(None);
        }
        Ok(Some(budget))
    }

    fn spend(
        &self,
        namespace: &str,
        budget: &Value,
        pod: &str,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let name = metadata::text(budget, "name");
        let status = &budget["status"];
        let observed = status["observedGeneration"].as_i64().unwrap_or(0);
        let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
        if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
            return Err(refused(&format!(
                "The disruption budget {name} is still being processed by the server."
            )));
        }
        if allowed <= 0 {
            return Err(refused(&format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                status["desiredHealthy"].as_i64().unwrap_or(0),
                status["currentHealthy"].as_i64().unwrap_or(0)
            )));
        }
        let mut changed = budget.clone();
        changed["status"]["disruptionsAllowed"] = (allowed - 1).into();
        if let Some(pods) = metadata::child(&mut changed["status"], "disruptedPods") {
            pods.insert(pod.to_owned(), metadata::now().into());
        }
        let options = WriteOptions {
            dry_run,
            ..WriteOptions::default()
        };
        // The body carries the revision read: two evictions cannot spend the same allowance.
        self.update(
            &BUDGETS,
            namespace,
            name,
            Subresource::Status,
            changed,
            &options,
        )
        .map_err(|error| match error.code {
            409 => refused(&format!("The disruption budget {name} has just changed.")),
            _ => error,
        })?;
        Ok(())
    }
}

fn refused(why: &str) -> ApiError {
    let mut error = ApiError::new(
        429,
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
    );
    error.details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service_follows_the_resources() {
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                "Guaranteed",
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
                "Burstable",
            ),
        ] {
            let spec = json!({"containers": [{"name": "a", "resources": resources}]});
            assert_eq!(quality_of_service(&spec), class, "{resources}");
        }
    }
}
