//! What a package needs to be allowed, and whether somebody is.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use kube::{core::GroupVersionKind, discovery::ApiResource};
use libretto_actions::kube::{CallError, Kube};
use libretto_api::object::Gvk;
use libretto_engine::Compiled;
use serde_json::{Value, json};

/// Questions asked at once; the API server answers them from memory.
const AT_ONCE: usize = 8;

/// What the runtime does in the name of a package: watch what it senses, write what it applies, change what it patches, what its calls
/// and probes ask for, its own Kind's status (and finalizer, where objects outlive their owner), its inventory, events, and read the Secrets
/// its handles name.
pub fn rules(package: &Compiled) -> Vec<Value> {
    let mut verbs: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    let mut allow = |gvk: &Gvk, suffix: &str, words: &[&'static str]| {
        let resource = format!("{}{suffix}", plural(gvk, package.crd()));
        verbs
            .entry((gvk.group.clone(), resource))
            .or_default()
            .extend(words);
    };
    for watch in package.watches() {
        allow(&watch.gvk, "", &["get", "list", "watch"]);
    }
    for gvk in package.applied() {
        allow(gvk, "", &["create", "delete"]);
    }
    for gvk in package.written() {
        allow(gvk, "", &["get", "patch"]);
    }
    for (gvk, subresource, words) in package.requests() {
        allow(&gvk, subresource, words);
    }
    if package.holds_instances() {
        allow(package.gvk(), "", &["patch"]);
    }
    allow(package.gvk(), "/status", &["get", "patch"]);
    // Owner references with blockOwnerDeletion need it where the admission plugin is on.
    allow(package.gvk(), "/finalizers", &["update"]);
    allow(
        &Gvk::new("", "v1", "ConfigMap"),
        "",
        &["get", "create", "patch"],
    );
    if package.reads_secrets() {
        allow(&Gvk::new("", "v1", "Secret"), "", &["get"]);
    }
    allow(
        &Gvk::new("events.k8s.io", "v1", "Event"),
        "",
        &["create", "patch"],
    );
    verbs
        .into_iter()
        .map(|((group, resource), verbs)| {
            json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
        })
        .collect()
}

fn plural(gvk: &Gvk, crd: &Value) -> String {
    if crd["spec"]["group"] == gvk.group.as_str()
        && crd["spec"]["names"]["kind"] == gvk.kind.as_str()
        && let Some(plural) = crd["spec"]["names"]["plural"].as_str()
    {
        return plural.to_owned();
    }
    ApiResource::from_gvk(&GroupVersionKind::gvk(&gvk.group, &gvk.version, &gvk.kind)).plural
}

/// What whoever runs installations needs.
pub fn of_installations() -> Vec<Value> {
    let role: Value = serde_saphyr::from_str(include_str!("installations/rbac.yaml"))
        .expect("a constant that a test reads");
    role["rules"].as_array().cloned().unwrap_or_default()
}

/// Rights that the client does not have of those that the package needs, in a namespace or everywhere: `get, patch statefulsets.apps`.
pub async fn missing(
    kube: &Kube,
    package: &Compiled,
    namespace: Option<&str>,
) -> Result<Vec<String>, CallError> {
    let mut questions = Vec::new();
    for rule in rules(package) {
        let group = rule["apiGroups"][0].as_str().unwrap_or_default().to_owned();
        let resource = rule["resources"][0].as_str().unwrap_or_default().to_owned();
        for verb in rule["verbs"].as_array().into_iter().flatten() {
            let verb = verb.as_str().unwrap_or_default().to_owned();
            questions.push((verb, group.clone(), resource.clone()));
        }
    }
    let answers: Vec<Result<Option<(String, String)>, CallError>> =
        futures::stream::iter(questions)
            .map(|(verb, group, resource)| async move {
                let (plain, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
                let review = json!({
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": {
                        "namespace": namespace.unwrap_or_default(),
                        "verb": verb, "group": group, "resource": plain, "subresource": subresource,
                    }},
                });
                let request =
                    http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
                        .header(http::header::CONTENT_TYPE, "application/json")
                        .body(review.to_string().into_bytes())
                        .expect("a constant path is a valid URI");
                let answer = kube.send(request).await?;
                let dot = if group.is_empty() { "" } else { "." };
                let slash = if subresource.is_empty() { "" } else { "/" };
                Ok((answer["status"]["allowed"] != true)
                    .then(|| (format!("{plain}{dot}{group}{slash}{subresource}"), verb)))
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for answer in answers {
        if let Some((resource, verb)) = answer? {
            missing.entry(resource).or_default().push(verb);
        }
    }
    let words = missing
        .into_iter()
        .map(|(resource, verbs)| format!("{} {resource}", verbs.join(", ")));
    Ok(words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installations_need_no_right_of_any_package() {
        let rules = of_installations();
        assert!(rules.len() > 3);
        let text = Value::Array(rules).to_string();
        assert!(
            !text.contains("secrets") && !text.contains("\"*\""),
            "{text}"
        );
    }

    #[test]
    fn plurals_come_from_the_definition_or_from_convention() {
        let crd = json!({"spec": {"group": "redis.kun", "names": {"kind": "RedisCluster", "plural": "rclusters"}}});
        for (gvk, expected) in [
            (
                Gvk::new("redis.kun", "v1beta1", "RedisCluster"),
                "rclusters",
            ),
            (Gvk::new("apps", "v1", "StatefulSet"), "statefulsets"),
            (Gvk::new("networking.k8s.io", "v1", "Ingress"), "ingresses"),
            (
                Gvk::new("networking.k8s.io", "v1", "NetworkPolicy"),
                "networkpolicies",
            ),
        ] {
            assert_eq!(plural(&gvk, &crd), expected);
        }
    }
}
