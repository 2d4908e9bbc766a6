//! `libretto describe`: one object for a person: its conditions, what it owns, what happened to it.

use clap::Args;
use kube::api::ListParams;
use libretto_api::object::{Gvk, INSTANCE_LABEL};
use serde_json::Value;

use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    events,
    kinds::{self, Kinds},
    print::{Document, Printer, age_of, document, headings, table},
};

const EXAMPLES: &str = "\
Examples:
  libretto describe rediscluster test
  libretto describe pod/redis-cluster-test-0";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DescribeArgs {
    /// KIND NAME… or KIND/NAME…
    #[arg(required = true, value_name = "KIND/NAME")]
    pub what: Vec<String>,

    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn describe(args: DescribeArgs, out: &mut Printer) -> Result<(), CliError> {
    let cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await?;
    let known = Kinds::discover(&cluster.kube).await?;
    let mut first = true;
    for asked in kinds::read(&args.what)? {
        if asked.names.is_empty() {
            return Err(CliError::usage(format!(
                "name the {} to describe",
                asked.kind
            )));
        }
        for name in &asked.names {
            let target = kinds::object(known.find(&asked.kind)?, &cluster.namespace, name);
            let object = cluster
                .kube
                .get(&target)
                .await
                .map_err(|error| CliError::call(&format!("read {target}"), &error))?
                .ok_or_else(|| CliError::failed(format!("{target} does not exist")))?;
            if !std::mem::take(&mut first) {
                out.line("")?;
            }
            out.text(&summary(&object)?)?;
            let owned = owned(&cluster, &object).await?;
            if !owned.is_empty() {
                out.text(&section(
                    "Objects",
                    &table(&headings(&["KIND", "NAME", "AGE"]), &owned),
                ))?;
            }
            let mut happened = events::list(&cluster, &target.namespace).await?;
            happened.retain(|event| event["regarding"]["uid"] == object["metadata"]["uid"]);
            if happened.is_empty() {
                out.line("Events:       <none>")?;
            } else {
                let (columns, rows) = events::rows(&happened, false);
                out.text(&section("Events", &table(&columns, &rows)))?;
            }
        }
    }
    Ok(())
}

/// Everything that is in the object itself.
fn summary(object: &Value) -> Result<String, CliError> {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or("<none>").to_owned();
    let mut lines = vec![
        format!("Name:         {}", text(&metadata["name"])),
        format!(
            "Kind:         {} ({})",
            text(&object["kind"]),
            text(&object["apiVersion"])
        ),
    ];
    if metadata["namespace"].is_string() {
        lines.push(format!("Namespace:    {}", text(&metadata["namespace"])));
    }
    lines.push(format!("Labels:       {}", pairs(&metadata["labels"])));
    lines.push(format!("Annotations:  {}", pairs(&metadata["annotations"])));
    lines.push(format!(
        "Age:          {}",
        age_of(&metadata["creationTimestamp"])
    ));
    if metadata["deletionTimestamp"].is_string() {
        lines.push(format!(
            "Deleting:     since {}, held by {}",
            text(&metadata["deletionTimestamp"]),
            metadata["finalizers"]
        ));
    }
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        lines.push(format!(
            "Controlled By: {}/{}",
            text(&owner["kind"]),
            text(&owner["name"])
        ));
    }
    let mut summary = lines.join("\n");
    summary.push('\n');
    for (title, field) in [("Spec", "spec"), ("Data", "data"), ("Status", "status")] {
        let mut value = object[field].clone();
        if field == "data" && object["kind"] == "Secret" {
            hide_values(&mut value);
        }
        if let Some(status) = value.as_object_mut() {
            // Shown as a table below.
            status.remove("conditions");
        }
        let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty {
            summary.push_str(&section(title, &document(&value, Document::Yaml)?));
        }
    }
    let conditions = conditions(&object["status"]["conditions"]);
    if !conditions.is_empty() {
        let columns = headings(&["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]);
        summary.push_str(&section("Conditions", &table(&columns, &conditions)));
    }
    Ok(summary)
}

fn conditions(conditions: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    conditions
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| {
            vec![
                text(&condition["type"]),
                text(&condition["status"]),
                age_of(&condition["lastTransitionTime"]),
                text(&condition["reason"]),
                text(&condition["message"]),
            ]
        })
        .collect()
}

/// What the runtime applied for the object.
async fn owned(cluster: &Cluster, object: &Value) -> Result<Vec<Vec<String>>, CliError> {
    let (Some(uid), Some(namespace)) = (
        object["metadata"]["uid"].as_str(),
        object["metadata"]["namespace"].as_str(),
    ) else {
        return Ok(Vec::new());
    };
    // Only instances of packages have labelled objects; asking for others finds nothing, cheaply.
    if Gvk::of(object).is_some_and(|gvk| !gvk.group.contains('.') || gvk.group.ends_with(".k8s.io"))
    {
        return Ok(Vec::new());
    }
    let params = ListParams::default().labels(&format!("{INSTANCE_LABEL}={uid}"));
    let kinds = [
        Gvk::new("apps", "v1", "StatefulSet"),
        Gvk::new("apps", "v1", "Deployment"),
        Gvk::new("", "v1", "Service"),
        Gvk::new("", "v1", "ConfigMap"),
        Gvk::new("", "v1", "Secret"),
        Gvk::new("policy", "v1", "PodDisruptionBudget"),
    ];
    let lists = futures::future::join_all(
        kinds
            .iter()
            .map(|gvk| cluster.kube.list(gvk, namespace, &params)),
    )
    .await;
    let mut rows = Vec::new();
    for (gvk, list) in kinds.iter().zip(lists) {
        // A kind that may not be listed is left out: the rest is still worth seeing.
        let Ok(list) = list else { continue };
        for item in list["items"].as_array().into_iter().flatten() {
            rows.push(vec![
                gvk.kind.clone(),
                item["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                age_of(&item["metadata"]["creationTimestamp"]),
            ]);
        }
    }
    Ok(rows)
}

fn hide_values(data: &mut Value) {
    for value in data
        .as_object_mut()
        .into_iter()
        .flat_map(|map| map.values_mut())
    {
        let length = value.as_str().map_or(0, str::len);
        *value = format!("<{length} characters of base64>").into();
    }
}

fn pairs(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join("\n              ")
    }
}

pub(crate) fn section(title: &str, body: &str) -> String {
    let mut text = format!("{title}:\n");
    for line in body.lines() {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_reads_from_top_to_bottom() {
        let object = json!({
            "apiVersion": "redis.kun/v1beta1", "kind": "RedisCluster",
            "metadata": {"name": "test", "namespace": "default", "labels": {"a": "b"}},
            "spec": {"size": 3},
            "status": {"conditions": [{"type": "Healthy", "status": "True", "reason": "Ok", "message": "fine"}], "ready": 3},
        });
        let text = anstream::adapter::strip_str(&summary(&object).unwrap()).to_string();
        assert_eq!(
            text,
            "\
Name:         test
Kind:         RedisCluster (redis.kun/v1beta1)
Namespace:    default
Labels:       a=b
Annotations:  <none>
Age:          <unknown>
Spec:
  size: 3
Status:
  ready: 3
Conditions:
  TYPE      STATUS   SINCE       REASON   MESSAGE
  Healthy   True     <unknown>   Ok       fine
"
        );
    }

    #[test]
    fn values_of_secrets_are_not_shown() {
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"password": "aHVudGVyMg=="}});
        let text = summary(&object).unwrap();
        assert!(!text.contains("aHVudGVy"), "{text}");
        assert!(text.contains("<12 characters of base64>"), "{text}");
    }
}
