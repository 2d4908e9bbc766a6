//! `libretto get`: lists objects in the columns the API server chooses, as kubectl does.

use clap::Args;
use kube::core::request::Request;
use libretto_actions::kube::{Resource, collection_path};
use serde_json::{Value, json};

use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    kinds::{Asked, Kinds, read, short_name},
    print::{Document, Output, Printer, table},
};

const EXAMPLES: &str = "\
Examples:
  libretto get pods                       # pods of the namespace
  libretto get rediscluster,sts -A        # several kinds, in all namespaces
  libretto get rediscluster/test -o yaml  # one object, whole
  libretto get pods -o wide -l app.kubernetes.io/component=redis  # by label, with more columns";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GetArgs {
    /// KIND, KIND,KIND, KIND NAME… or KIND/NAME…
    #[arg(required = true, value_name = "KIND[/NAME]")]
    pub what: Vec<String>,

    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// Only objects with these labels (a=b,c!=d)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,

    /// Only objects with these fields (status.phase=Running)
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,

    /// Another form than a table
    #[arg(short, long, value_enum)]
    pub output: Option<Output>,

    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn get(args: GetArgs, out: &mut Printer) -> Result<(), CliError> {
    let asked = read(&args.what)?;
    let cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await?;
    let kinds = Kinds::discover(&cluster.kube).await?;
    let mut resources: Vec<(&Resource, Asked)> = Vec::new();
    for asked in asked {
        let category = kinds.category(&asked.kind);
        if category.is_empty() {
            resources.push((kinds.find(&asked.kind)?, asked));
        } else {
            resources.extend(category.into_iter().map(|kind| (kind, asked.clone())));
        }
    }
    match args.output {
        None | Some(Output::Wide) => tables(&args, &cluster, &resources, out).await,
        Some(output) => objects(&args, &cluster, &resources, output, out).await,
    }
}

async fn tables(
    args: &GetArgs,
    cluster: &Cluster,
    resources: &[(&Resource, Asked)],
    out: &mut Printer,
) -> Result<(), CliError> {
    let mut shown = 0;
    for (resource, asked) in resources {
        let mut rows = Vec::new();
        let mut columns = Vec::new();
        for request in requests(args, cluster, resource, asked) {
            let answer = fetch(cluster, resource, &request, true).await?;
            if answer["kind"] != "Table" {
                return Err(CliError::failed(format!(
                    "the cluster did not answer {} as a table; use -o json or -o yaml",
                    resource.api.plural
                )));
            }
            let all = args.all_namespaces && resource.namespaced;
            let read = read_table(&answer, all, args.output == Some(Output::Wide));
            columns = read.0;
            rows.extend(read.1);
        }
        if rows.is_empty() {
            continue;
        }
        if shown > 0 {
            out.line("")?;
        }
        if resources.len() > 1 {
            let prefix = resource.api.kind.to_lowercase();
            let name_column = usize::from(args.all_namespaces && resource.namespaced);
            for row in &mut rows {
                if let Some(name) = row.get_mut(name_column) {
                    *name = format!("{prefix}/{name}");
                }
            }
        }
        shown += rows.len();
        out.text(&table(&columns, &rows))?;
    }
    if shown == 0 {
        out.line(&nothing(args, cluster, resources))?;
    }
    Ok(())
}

fn nothing(args: &GetArgs, cluster: &Cluster, resources: &[(&Resource, Asked)]) -> String {
    let namespaced = resources.iter().any(|(resource, _)| resource.namespaced);
    if args.all_namespaces || !namespaced {
        "No resources found.".to_owned()
    } else {
        format!("No resources found in {} namespace.", cluster.namespace)
    }
}

async fn objects(
    args: &GetArgs,
    cluster: &Cluster,
    resources: &[(&Resource, Asked)],
    output: Output,
    out: &mut Printer,
) -> Result<(), CliError> {
    let mut objects = Vec::new();
    let mut named = false;
    for (resource, asked) in resources {
        named |= !asked.names.is_empty();
        for request in requests(args, cluster, resource, asked) {
            let answer = fetch(cluster, resource, &request, false).await?;
            match answer.get("items").and_then(Value::as_array) {
                None => objects.push(answer),
                Some(items) => objects.extend(items.iter().cloned().map(|mut item| {
                    item["apiVersion"] = resource.api.api_version.clone().into();
                    item["kind"] = resource.api.kind.clone().into();
                    item
                })),
            }
        }
    }
    if output == Output::Name {
        for object in &objects {
            out.line(&short_name(object))?;
        }
        return Ok(());
    }
    for object in &mut objects {
        // Bookkeeping of the API server that nobody reads; kubectl hides it too.
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
    let format = if output == Output::Json {
        Document::Json
    } else {
        Document::Yaml
    };
    match objects.as_slice() {
        [object] if named => out.document(object, format),
        _ => out.document(
            &json!({"apiVersion": "v1", "kind": "List", "items": objects}),
            format,
        ),
    }
}

/// Paths to ask for: one per name, or one list.
fn requests(args: &GetArgs, cluster: &Cluster, resource: &Resource, asked: &Asked) -> Vec<String> {
    let namespace = if args.all_namespaces {
        ""
    } else {
        &cluster.namespace
    };
    let path = collection_path(resource, namespace);
    if asked.names.is_empty() {
        let mut list = kube::api::ListParams::default();
        list.label_selector.clone_from(&args.selector);
        list.field_selector.clone_from(&args.field_selector);
        // Building the query is the client library's; only the text is taken.
        return match Request::new(&path).list(&list) {
            Ok(request) => vec![request.uri().to_string()],
            Err(_error) => vec![path],
        };
    }
    asked
        .names
        .iter()
        .map(|name| format!("{path}/{name}"))
        .collect()
}

async fn fetch(
    cluster: &Cluster,
    resource: &Resource,
    path: &str,
    as_table: bool,
) -> Result<Value, CliError> {
    let accept = if as_table {
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    } else {
        "application/json"
    };
    let request = http::Request::get(path)
        .header("accept", accept)
        .body(Vec::new())
        .map_err(|_error| {
            CliError::usage(format!("{path} cannot be asked for: is the name right?"))
        })?;
    cluster
        .kube
        .send(request)
        .await
        .map_err(|error| CliError::call(&format!("get {}", resource.api.plural), &error))
}

/// Headings and rows of a server-side table.
fn read_table(answer: &Value, with_namespace: bool, wide: bool) -> (Vec<String>, Vec<Vec<String>>) {
    let definitions = answer["columnDefinitions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let shown: Vec<usize> = (0..definitions.len())
        .filter(|&index| wide || definitions[index]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut columns: Vec<String> = shown
        .iter()
        .map(|&index| {
            definitions[index]["name"]
                .as_str()
                .unwrap_or_default()
                .to_uppercase()
        })
        .collect();
    if with_namespace {
        columns.insert(0, "NAMESPACE".to_owned());
    }
    let rows = answer["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let mut cells: Vec<String> = shown
                .iter()
                .map(|&index| cell(&row["cells"][index]))
                .collect();
            if with_namespace {
                cells.insert(0, cell(&row["object"]["metadata"]["namespace"]));
            }
            cells
        })
        .collect();
    (columns, rows)
}

pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_side_table_becomes_headings_and_rows() {
        let answer = json!({
            "kind": "Table",
            "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "Node", "priority": 1}],
            "rows": [{"cells": ["a", 1, null], "object": {"metadata": {"namespace": "ns"}}}],
        });
        let (columns, rows) = read_table(&answer, false, false);
        assert_eq!(columns, ["NAME", "READY"]);
        assert_eq!(rows, [["a", "1"]]);
        let (columns, rows) = read_table(&answer, true, true);
        assert_eq!(columns, ["NAMESPACE", "NAME", "READY", "NODE"]);
        assert_eq!(rows, [["ns", "a", "1", "<none>"]]);
    }
}
