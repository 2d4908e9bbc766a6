//! The mirror through its door: objects and answers in, rows and dirty instances out.

#![allow(clippy::unwrap_used)]

mod ingest;
mod order;
mod sql;

use libretto_api::object::Gvk;
use serde_json::{Value, json};

use crate::{
    Change, Column, ColumnType, Datum, Dirty, Field, InstanceSchema, Mirror, ObjectKind,
    PackageSchema, ProbeTable, Reach, Scope, ScopeMode, Snapshot, WatchTable,
};

pub(super) fn gvk(text: &str) -> Gvk {
    text.parse().unwrap()
}

pub(super) fn column(name: &str, path: &str, kind: ColumnType) -> Column {
    Column {
        name: name.into(),
        path: path.parse().unwrap(),
        kind,
        only: Vec::new(),
    }
}

#[test]
fn a_column_keeps_only_the_members_it_names() {
    let mut replicas = column("replicas", "replicas", ColumnType::Json);
    replicas.only = vec!["ip".into(), "flags".into()];
    for (value, expected) in [
        (
            json!({"replicas": [{"ip": "10.0.0.1", "flags": "slave", "ping": 1}, {"ip": "10.0.0.2"}, 7]}),
            r#"[{"flags":"slave","ip":"10.0.0.1"},{"ip":"10.0.0.2"},7]"#,
        ),
        (
            json!({"replicas": {"ip": "10.0.0.1", "ping": 2}}),
            r#"{"ip":"10.0.0.1"}"#,
        ),
    ] {
        assert_eq!(replicas.read(&value), Datum::from(expected), "{value}");
    }
    assert_eq!(replicas.read(&json!({})), Datum::Null);
}

/// A package `demo` of Kind `Thing` that sees its Pods, all Services of its namespace, and one probe.
pub(super) fn schema() -> PackageSchema {
    PackageSchema {
        package: "demo".into(),
        instance: InstanceSchema {
            gvk: gvk("example.dev/v1/Thing"),
            fields: vec![
                Field {
                    name: "size".into(),
                    path: "spec.size".parse().unwrap(),
                    kind: ColumnType::Int,
                    default: Datum::Int(3),
                    sensitive: false,
                },
                Field {
                    name: "password".into(),
                    path: "spec.password".parse().unwrap(),
                    kind: ColumnType::String,
                    default: "".into(),
                    sensitive: true,
                },
            ],
            unmanaged: vec![Scope {
                annotation: "libretto.dev/unmanaged".into(),
                value: "true".into(),
            }],
            scope: Some(Scope {
                annotation: "example.dev/scope".into(),
                value: "cluster".into(),
            }),
        },
        watches: vec![
            WatchTable {
                name: "pods".into(),
                gvk: gvk("v1/Pod"),
                reach: Reach::Own,
                labels: [("app".to_owned(), "thing".to_owned())].into(),
                columns: vec![
                    column("ip", "status.podIP", ColumnType::String),
                    column(
                        "ready",
                        "status.conditions[type=Ready].status",
                        ColumnType::Bool,
                    ),
                ],
            },
            WatchTable {
                name: "services".into(),
                gvk: gvk("v1/Service"),
                reach: Reach::Namespace,
                labels: [].into(),
                columns: vec![column(
                    "port",
                    "spec.ports[name=http].port",
                    ColumnType::Int,
                )],
            },
        ],
        probes: vec![ProbeTable {
            name: "info".into(),
            misses: 2,
            columns: vec![column("role", "role", ColumnType::String)],
        }],
        objects: vec![ObjectKind {
            gvk: gvk("apps/v1/StatefulSet"),
            ignore: vec!["spec.replicas".parse().unwrap()],
        }],
        lineage: vec![gvk("apps/v1/ReplicaSet")],
    }
}

pub(super) fn mirror() -> Mirror {
    let mut mirror = Mirror::new(ScopeMode::Any);
    mirror.declare(schema());
    mirror
}

pub(super) fn thing(name: &str, version: u64) -> Value {
    json!({
        "apiVersion": "example.dev/v1", "kind": "Thing",
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": version.to_string(), "generation": 1},
        "spec": {"size": 5},
    })
}

/// An object of the core group with a controller.
pub(super) fn child(kind: &str, name: &str, parent: Option<&str>, version: u64) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}"), "resourceVersion": version.to_string(), "labels": {"app": "thing"}},
    });
    if let Some(parent) = parent {
        object["metadata"]["ownerReferences"] = json!([{"uid": parent, "controller": true}]);
    }
    object
}

pub(super) fn apply(mirror: &mut Mirror, object: &Value) -> Dirty {
    mirror
        .ingest(&Gvk::of(object).unwrap(), Change::Applied(object))
        .unwrap()
}

pub(super) fn delete(mirror: &mut Mirror, kind: &str, name: &str, uid: Option<&str>) -> Dirty {
    mirror
        .ingest(
            &gvk(kind),
            Change::Deleted {
                namespace: "ns",
                name,
                uid,
            },
        )
        .unwrap()
}

pub(super) fn snapshot(mirror: &Mirror, uid: &str) -> Snapshot {
    mirror.snapshot("demo", uid).unwrap().unwrap()
}

/// Values of one column of a table.
pub(super) fn values(snapshot: &Snapshot, table: &str, column: &str) -> Vec<String> {
    let table = &snapshot.tables[table];
    (0..table.rows.len())
        .map(|row| table.get(row, column).unwrap().display())
        .collect()
}

/// Names of woken instances.
pub(super) fn woken(dirty: &Dirty) -> Vec<&str> {
    dirty
        .instances
        .iter()
        .map(|instance| instance.name.as_str())
        .collect()
}
