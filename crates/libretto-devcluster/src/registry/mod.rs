//! Which resources are served: the built-in ones as data, and those that CustomResourceDefinitions add.
//!
//! One entry describes everything the generic handlers need to know of a resource; no resource has a handler of its own.

mod built_in;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use parking_lot::RwLock;

use crate::{
    api::Gvr,
    crd::{Column, CustomType, ScalePaths},
    openapi::ServedResource,
    schema::TypeSchema,
};

/// How objects of a resource may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// Lower-case letters, digits, `-` and `.`, at most 253 bytes.
    Subdomain,
    /// As above without dots, at most 63 bytes.
    Label,
    /// A label that starts with a letter.
    Label1035,
    /// Anything that fits into one path segment (RBAC).
    Segment,
}

/// A resource beside `status` and `scale` below another one, as discovery lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extra {
    pub name: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

/// One version of a resource.
#[derive(Debug)]
pub struct Version {
    pub name: String,
    /// The built-in definition is looked up once, on the first write.
    schema: OnceLock<Option<TypeSchema>>,
    pub status: bool,
    pub scale: Option<ScalePaths>,
    pub columns: Vec<Column>,
    /// Field selectors beside metadata.name and metadata.namespace, as dotted paths.
    pub selectable: Vec<String>,
}

/// A served resource.
#[derive(Debug)]
pub struct Resource {
    pub group: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Served versions, preferred first.
    pub versions: Vec<Version>,
    /// Version objects are stored in; not necessarily served.
    pub storage_version: String,
    /// Store table; two resources that share one are the same objects.
    pub table: String,
    pub extras: &'static [Extra],
    pub names: NameRule,
    /// Whether `metadata.generation` counts changes of the wanted state.
    pub generation: bool,
    /// Whether an update over HTTP must name the resourceVersion it is based on.
    pub conditional_updates: bool,
    /// Why nothing follows from objects of this kind here. Whoever writes one is warned: a 201 alone would be a promise.
    pub stored_only: Option<&'static str>,
    pub custom: Option<Arc<CustomType>>,
}

impl Resource {
    /// `pods`, `deployments.apps`: how messages name a resource.
    pub fn qualified(&self) -> String {
        qualified(&self.group, &self.plural)
    }

    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    pub fn gvr(&self, version: &str) -> Gvr {
        Gvr {
            group: self.group.clone().into(),
            version: version.to_owned().into(),
            resource: self.plural.clone().into(),
        }
    }

    /// Type of the objects in a version; `None` for a built-in kind missing in the table of definitions.
    pub fn schema(&self, version: &str) -> Option<TypeSchema> {
        let version = self.version(version)?;
        version
            .schema
            .get_or_init(|| TypeSchema::built_in(&self.group, &version.name, &self.kind))
            .clone()
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self, version: &str) -> String {
        api_version(&self.group, version)
    }

    /// Subresource names for discovery and OpenAPI.
    pub fn subresources(&self, version: &Version) -> Vec<String> {
        let mut names: Vec<_> = self
            .extras
            .iter()
            .map(|extra| extra.name.to_owned())
            .collect();
        if version.status {
            names.push("status".to_owned());
        }
        if version.scale.is_some() {
            names.push("scale".to_owned());
        }
        names.sort();
        names
    }
}

/// `pods`, `deployments.apps`.
pub fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

/// `v1`, `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Why a CustomResourceDefinition cannot have the names it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameConflict {
    /// `PluralConflict`, `KindConflict`, …
    pub reason: &'static str,
    pub message: String,
}

/// All served resources.
#[derive(Debug)]
pub struct Registry {
    resources: RwLock<BTreeMap<(String, String), Arc<Resource>>>,
}

impl Default for Registry {
    fn default() -> Self {
        let resources = built_in::resources()
            .into_iter()
            .map(|resource| {
                (
                    (resource.group.clone(), resource.plural.clone()),
                    Arc::new(resource),
                )
            })
            .collect();
        Self {
            resources: RwLock::new(resources),
        }
    }
}

impl Registry {
    pub fn find(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources
            .read()
            .get(&(group.to_owned(), plural.to_owned()))
            .cloned()
    }

    /// Everything, by group and plural.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        self.resources.read().values().cloned().collect()
    }

    /// Whether a custom type's names are free (its own registration aside).
    pub fn conflict(&self, custom: &CustomType) -> Option<NameConflict> {
        let resources = self.resources.read();
        for other in resources.values() {
            if other.group != custom.group {
                continue;
            }
            if other.plural == custom.plural {
                if other.custom.is_none() {
                    return Some(NameConflict {
                        reason: "PluralConflict",
                        message: format!("{:?} is a built-in resource", custom.plural),
                    });
                }
                continue;
            }
            let taken = |name: &str| {
                other.plural == name
                    || other.singular == name
                    || other.short_names.iter().any(|short| short == name)
            };
            if other.kind == custom.kind || other.list_kind == custom.kind {
                return Some(NameConflict {
                    reason: "KindConflict",
                    message: format!("{:?} is already in use", custom.kind),
                });
            }
            if other.kind == custom.list_kind || other.list_kind == custom.list_kind {
                return Some(NameConflict {
                    reason: "ListKindConflict",
                    message: format!("{:?} is already in use", custom.list_kind),
                });
            }
            if let Some(name) = [&custom.plural, &custom.singular]
                .into_iter()
                .find(|name| taken(name))
            {
                return Some(NameConflict {
                    reason: "PluralConflict",
                    message: format!("{name:?} is already in use"),
                });
            }
            if let Some(name) = custom.short_names.iter().find(|name| taken(name)) {
                return Some(NameConflict {
                    reason: "ShortNamesConflict",
                    message: format!("{name:?} is already in use"),
                });
            }
        }
        None
    }

    /// Serves a custom type, replacing an earlier definition of it.
    pub fn register(&self, custom: &Arc<CustomType>) {
        let mut versions: Vec<_> = custom
            .versions
            .iter()
            .filter(|version| version.served)
            .map(|version| Version {
                name: version.name.clone(),
                schema: OnceLock::from(Some(TypeSchema::Custom(version.schema.clone()))),
                status: version.status,
                scale: version.scale.clone(),
                columns: version.columns.clone(),
                selectable: version
                    .selectable
                    .iter()
                    .map(|path| path.trim_start_matches('.').to_owned())
                    .collect(),
            })
            .collect();
        versions.sort_by_key(|version| std::cmp::Reverse(version_priority(&version.name)));
        let storage_version = custom
            .versions
            .iter()
            .find(|version| version.storage)
            .map_or_else(String::new, |version| version.name.clone());
        let resource = Resource {
            group: custom.group.clone(),
            kind: custom.kind.clone(),
            list_kind: custom.list_kind.clone(),
            plural: custom.plural.clone(),
            singular: custom.singular.clone(),
            short_names: custom.short_names.clone(),
            categories: custom.categories.clone(),
            namespaced: custom.namespaced,
            versions,
            storage_version,
            table: table(&custom.group, &custom.plural),
            extras: &[],
            names: NameRule::Subdomain,
            generation: true,
            conditional_updates: true,
            stored_only: None,
            custom: Some(custom.clone()),
        };
        self.resources.write().insert(
            (custom.group.clone(), custom.plural.clone()),
            Arc::new(resource),
        );
    }

    /// Stops serving a custom type; built-in ones stay.
    pub fn unregister(&self, group: &str, plural: &str) {
        let key = (group.to_owned(), plural.to_owned());
        let mut resources = self.resources.write();
        if resources
            .get(&key)
            .is_some_and(|found| found.custom.is_some())
        {
            resources.remove(&key);
        }
    }

    /// What OpenAPI documents describe.
    pub fn served(&self) -> Vec<ServedResource> {
        let mut served = Vec::new();
        for resource in self.all() {
            for version in &resource.versions {
                served.push(ServedResource {
                    group: resource.group.clone(),
                    version: version.name.clone(),
                    kind: resource.kind.clone(),
                    plural: resource.plural.clone(),
                    namespaced: resource.namespaced,
                    subresources: resource.subresources(version),
                    custom: resource.custom.clone(),
                });
            }
        }
        served
    }
}

/// Name of the store table of a resource.
pub fn table(group: &str, plural: &str) -> String {
    format!("{group}/{plural}")
}

/// Kubernetes' order of versions: stable before beta before alpha, higher numbers first, other names last by name.
pub fn version_priority(name: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = || (0, 0, 0, std::cmp::Reverse(name.to_owned()));
    let Some(rest) = name.strip_prefix('v') else {
        return other();
    };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Ok(major) = rest[..digits].parse() else {
        return other();
    };
    let tail = &rest[digits..];
    let (stage, minor) = if tail.is_empty() {
        (3, "0")
    } else if let Some(minor) = tail.strip_prefix("beta") {
        (2, minor)
    } else if let Some(minor) = tail.strip_prefix("alpha") {
        (1, minor)
    } else {
        return other();
    };
    match minor.parse() {
        Ok(minor) => (stage, major, minor, std::cmp::Reverse(String::new())),
        Err(_) => other(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_does() {
        let mut names = vec![
            "foo1",
            "v1",
            "v10",
            "v2beta1",
            "v11alpha2",
            "v3beta1",
            "v12alpha1",
            "v11beta2",
            "foo10",
            "v2",
        ];
        names.sort_by_key(|name| std::cmp::Reverse(version_priority(name)));
        assert_eq!(
            names,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v3beta1",
                "v2beta1",
                "v12alpha1",
                "v11alpha2",
                "foo1",
                "foo10"
            ]
        );
    }

    #[test]
    fn names_of_built_in_resources_are_unique_in_their_group() {
        let registry = Registry::default();
        let all = registry.all();
        assert!(all.len() >= 40, "{}", all.len());
        let mut names = std::collections::BTreeSet::new();
        for resource in &all {
            let mut own = vec![&resource.plural, &resource.singular, &resource.kind];
            own.extend(&resource.short_names);
            // `endpoints` is its own singular.
            own.sort();
            own.dedup();
            for name in own {
                let fresh = names.insert((resource.group.clone(), name.clone()));
                assert!(fresh, "{name}");
            }
        }
    }

    #[test]
    fn both_events_share_their_objects() {
        let registry = Registry::default();
        let core = registry.find("", "events").unwrap();
        let events = registry.find("events.k8s.io", "events").unwrap();
        assert_eq!(core.table, events.table);
    }
}
