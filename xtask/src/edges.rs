//! The architecture as a test: which crate must never reach which, directly or through others.
//!
//! The table is the one of ARCHITECTURE.md; each crate exists because of its row.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde::Deserialize;

/// What must not be found among a crate's dependencies, at any depth (normal dependencies only).
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "libretto-api",
        &["tokio", "kube", "kube-client", "rusqlite", "axum", "hyper"],
    ),
    (
        "libretto-mirror",
        &["tokio", "kube", "kube-client", "libretto-engine", "axum"],
    ),
    (
        "libretto-engine",
        &[
            "tokio",
            "kube",
            "kube-client",
            "axum",
            "rand",
            "libretto-actions",
        ],
    ),
    (
        "libretto-actions",
        &["rusqlite", "libretto-mirror", "libretto-engine"],
    ),
    ("libretto-server", &["libretto-actions", "kube-client"]),
    (
        "libretto-devcluster",
        &[
            "libretto-api",
            "libretto-mirror",
            "libretto-engine",
            "libretto-actions",
            "libretto-server",
            "libretto",
        ],
    ),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None` for a normal dependency.
    kind: Option<String>,
}

/// Fails with every forbidden edge there is.
pub(crate) fn check(workspace: &Path) -> Result<(), String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(workspace)
        .args(["metadata", "--format-version", "1"])
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("read cargo metadata: {error}"))?;
    let found = violations(&metadata);
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("\n"))
    }
}

fn violations(metadata: &Metadata) -> Vec<String> {
    let names: BTreeMap<&str, &str> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package.name.as_str()))
        .collect();
    let edges: BTreeMap<&str, Vec<&str>> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node
                .deps
                .iter()
                .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()))
                .map(|dependency| dependency.pkg.as_str());
            (node.id.as_str(), normal.collect())
        })
        .collect();
    let mut found = Vec::new();
    for (name, forbidden) in FORBIDDEN {
        let Some((start, _)) = names.iter().find(|(_, candidate)| *candidate == name) else {
            found.push(format!(
                "crate {name} is in the table of forbidden edges but not in the workspace"
            ));
            continue;
        };
        let mut reached = BTreeSet::from([*start]);
        let mut open = vec![*start];
        while let Some(id) = open.pop() {
            for next in edges.get(id).into_iter().flatten() {
                if reached.insert(next) {
                    open.push(next);
                }
            }
        }
        for id in &reached {
            let reached_name = names.get(id).copied().unwrap_or_default();
            if forbidden.contains(&reached_name) {
                found.push(format!(
                    "{name} must never reach {reached_name} (see ARCHITECTURE.md, crates)"
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(edges: &[(&str, &str, Option<&str>)]) -> Metadata {
        let mut names: BTreeSet<&str> = FORBIDDEN.iter().map(|(name, _)| *name).collect();
        names.extend(edges.iter().flat_map(|(from, to, _)| [*from, *to]));
        Metadata {
            packages: names
                .iter()
                .map(|name| Package {
                    id: (*name).into(),
                    name: (*name).into(),
                })
                .collect(),
            resolve: Resolve {
                nodes: names
                    .iter()
                    .map(|name| Node {
                        id: (*name).into(),
                        deps: edges
                            .iter()
                            .filter(|(from, _, _)| from == name)
                            .map(|(_, to, kind)| Dependency {
                                pkg: (*to).into(),
                                dep_kinds: vec![Kind {
                                    kind: kind.map(str::to_owned),
                                }],
                            })
                            .collect(),
                    })
                    .collect(),
            },
        }
    }

    #[test]
    fn an_edge_through_another_crate_is_found() {
        let found = violations(&metadata(&[
            ("libretto-engine", "middle", None),
            ("middle", "tokio", None),
        ]));
        assert_eq!(
            found,
            ["libretto-engine must never reach tokio (see ARCHITECTURE.md, crates)"]
        );
    }

    #[test]
    fn test_only_edges_are_allowed() {
        assert!(violations(&metadata(&[("libretto-engine", "tokio", Some("dev"))])).is_empty());
    }
}
