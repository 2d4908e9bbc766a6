//! `libretto events`: what happened, oldest first.

use clap::Args;
use kube::api::ListParams;
use libretto_api::object::Gvk;
use serde_json::Value;

use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    print::{Document, Printer, age_of, headings, table},
};

const EXAMPLES: &str = "\
Examples:
  libretto events
  libretto events -A --warnings
  libretto events --for rediscluster/test";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct EventsArgs {
    /// Only events about this object
    #[arg(long = "for", value_name = "KIND/NAME")]
    pub about: Option<String>,

    /// Only warnings
    #[arg(long)]
    pub warnings: bool,

    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// As JSON instead of a table
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn events(args: EventsArgs, out: &mut Printer) -> Result<(), CliError> {
    let about = match &args.about {
        None => None,
        Some(word) => Some(word.split_once('/').ok_or_else(|| {
            CliError::usage(format!(
                "--for {word:?}: write KIND/NAME, such as pod/redis-cluster-test-0"
            ))
        })?),
    };
    let cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await?;
    let about = match about {
        None => None,
        Some((kind, name)) => {
            let kinds = super::kinds::Kinds::discover(&cluster.kube).await?;
            Some((kinds.find(kind)?.api.kind.clone(), name.to_owned()))
        }
    };
    let namespace = if args.all_namespaces {
        ""
    } else {
        &cluster.namespace
    };
    let mut events = list(&cluster, namespace).await?;
    events.retain(|event| {
        (!args.warnings || event["type"] == "Warning")
            && about.as_ref().is_none_or(|(kind, name)| {
                event["regarding"]["kind"] == kind.as_str()
                    && event["regarding"]["name"] == name.as_str()
            })
    });
    if args.json {
        return out.document(&Value::Array(events), Document::Json);
    }
    if events.is_empty() {
        return out.line("No events found.");
    }
    let (headings, rows) = rows(&events, args.all_namespaces);
    out.text(&table(&headings, &rows))
}

/// Events of a namespace (all when empty), oldest first.
pub(crate) async fn list(cluster: &Cluster, namespace: &str) -> Result<Vec<Value>, CliError> {
    let gvk = Gvk::new("events.k8s.io", "v1", "Event");
    let list = cluster
        .kube
        .list(&gvk, namespace, &ListParams::default())
        .await
        .map_err(|error| CliError::call("list events", &error))?;
    let mut events = list["items"].as_array().cloned().unwrap_or_default();
    events.sort_by_key(|event| last_seen(event).as_str().unwrap_or_default().to_owned());
    Ok(events)
}

/// Rows for a table of events.
pub(crate) fn rows(events: &[Value], with_namespace: bool) -> (Vec<String>, Vec<Vec<String>>) {
    let mut columns = headings(&["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    if with_namespace {
        columns.insert(0, "NAMESPACE".to_owned());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = events
        .iter()
        .map(|event| {
            let regarding = &event["regarding"];
            let count = event["series"]["count"]
                .as_i64()
                .or_else(|| event["deprecatedCount"].as_i64())
                .unwrap_or(1);
            let seen = age_of(last_seen(event));
            let mut row = vec![
                if count > 1 {
                    format!("{seen} (x{count})")
                } else {
                    seen
                },
                text(&event["type"]),
                text(&event["reason"]),
                format!(
                    "{}/{}",
                    text(&regarding["kind"]).to_lowercase(),
                    text(&regarding["name"])
                ),
                text(&event["note"]).trim().replace('\n', " "),
            ];
            if with_namespace {
                row.insert(0, text(&event["metadata"]["namespace"]));
            }
            row
        })
        .collect();
    (columns, rows)
}

/// When the event last happened, wherever its writer put that.
pub(crate) fn last_seen(event: &Value) -> &Value {
    [
        &event["series"]["lastObservedTime"],
        &event["deprecatedLastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ]
    .into_iter()
    .find(|time| time.is_string())
    .unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn series_are_counted_and_lines_kept_single() {
        let event = json!({
            "metadata": {"namespace": "ns"}, "type": "Warning", "reason": "Failed", "note": "a\nb\n",
            "regarding": {"kind": "Pod", "name": "x"}, "eventTime": "2020-01-01T00:00:00.000000Z", "series": {"count": 4},
        });
        let (columns, rows) = rows(&[event], true);
        assert_eq!(columns[0], "NAMESPACE");
        assert!(rows[0][1].ends_with("(x4)"), "{:?}", rows[0]);
        assert_eq!(rows[0][2..], ["Warning", "Failed", "pod/x", "a b"]);
    }

    #[test]
    fn the_newest_of_the_times_counts() {
        let event = json!({"eventTime": "2020-01-01T00:00:00Z", "series": {"lastObservedTime": "2021-01-01T00:00:00Z"}});
        assert_eq!(last_seen(&event), "2021-01-01T00:00:00Z");
        assert_eq!(
            last_seen(&json!({"metadata": {"creationTimestamp": "t"}})),
            "t"
        );
    }
}
