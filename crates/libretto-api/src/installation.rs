//! Packages and installations as objects of the cluster: what an administrator writes, and what the runtime tells about them.
//!
//! The definitions are in `crds.yaml` beside this file; what is said there about a field is not said here again.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::object::Gvk;

/// CustomResourceDefinitions of the Kinds on this page, as YAML documents.
pub const CRDS: &str = include_str!("crds.yaml");

const GROUP: &str = "libretto.dev";
const VERSION: &str = "v1alpha1";

/// An operator's files, or where they are.
pub fn package_gvk() -> Gvk {
    Gvk::new(GROUP, VERSION, "Package")
}

/// What a package once was; never changes.
pub fn revision_gvk() -> Gvk {
    Gvk::new(GROUP, VERSION, "PackageRevision")
}

/// Where a package works, and with whose rights.
pub fn installation_gvk() -> Gvk {
    Gvk::new(GROUP, VERSION, "Installation")
}

/// Label on a revision: the package's name.
pub const REVISION_OF: &str = "libretto.dev/package";

/// Keeps a package until no installation needs it.
pub const IN_USE: &str = "libretto.dev/in-use";

/// `spec` of a Package: one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageSpec {
    pub files: Option<BTreeMap<String, String>>,
    pub config_map: Option<Place>,
    pub bundled: Option<String>,
    pub revision_history_limit: Option<usize>,
}

/// `spec` of a PackageRevision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionSpec {
    pub package: String,
    pub version: String,
    pub files: BTreeMap<String, String>,
}

/// `spec` of an Installation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallationSpec {
    pub package: String,
    pub revision: Option<String>,
    pub service_account: Option<Place>,
    pub namespaces: Option<Namespaces>,
    pub permissions: Option<Permissions>,
    #[serde(default)]
    pub rollout: RolloutSpec,
}

/// A namespaced object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Some namespaces: by name, or all with these labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    #[serde(default)]
    pub names: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Namespaces {
    /// Whether the namespace is one of them.
    pub fn has(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        if !self.names.is_empty() {
            return self.names.iter().any(|other| other == name);
        }
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// What a package may do beside its service account's rights.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Names, addresses and networks that probes and calls may connect to.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// How a new revision reaches the instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    #[serde(default)]
    pub waves: Vec<Wave>,
    /// A duration of the package language, such as `30s`.
    pub soak: Option<String>,
    /// SQL over the table `instances`; see [`INSTANCE_COLUMNS`].
    pub pause: Option<String>,
    #[serde(default)]
    pub paused: bool,
}

/// Columns of the table `instances`, over which [`RolloutSpec::pause`] asks.
pub const INSTANCE_COLUMNS: &[(&str, &str)] = &[
    ("namespace", "the instance's namespace"),
    ("name", "its name"),
    ("updated", "1 when the new revision takes care of it"),
    (
        "ready",
        "1 when it is at rest and its condition Ready is True",
    ),
    ("reason", "reason of its condition Ready"),
    ("message", "message of its condition Ready"),
];

/// How many instances have the new revision at the end of a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawWave", into = "RawWave")]
pub enum Wave {
    Count(usize),
    Percent(u8),
}

impl Wave {
    /// Of so many instances; parts are rounded up, so that a wave is never nobody.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count.clamp(1, total.max(1)),
            Self::Percent(percent) => (total * usize::from(percent)).div_ceil(100).max(1),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawWave {
    Count(usize),
    Percent(String),
}

impl TryFrom<RawWave> for Wave {
    type Error = String;

    fn try_from(raw: RawWave) -> Result<Self, String> {
        let wrong = |text: &dyn fmt::Display| {
            format!("`{text}` is no wave: write a number of instances from 1, or a part like 10%")
        };
        match raw {
            RawWave::Count(0) => Err(wrong(&0)),
            RawWave::Count(count) => Ok(Self::Count(count)),
            RawWave::Percent(text) => text
                .strip_suffix('%')
                .and_then(|number| number.parse().ok())
                .filter(|percent| (1..=100).contains(percent))
                .map(Self::Percent)
                .ok_or_else(|| wrong(&text)),
        }
    }
}

impl From<Wave> for RawWave {
    fn from(wave: Wave) -> Self {
        match wave {
            Wave::Count(count) => Self::Count(count),
            Wave::Percent(percent) => Self::Percent(format!("{percent}%")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn waves_are_numbers_or_parts() {
        let read = |text: &str| serde_json::from_str::<Wave>(text).ok();
        assert_eq!(read("1"), Some(Wave::Count(1)));
        assert_eq!(read("\"10%\""), Some(Wave::Percent(10)));
        for wrong in ["0", "\"0%\"", "\"101%\"", "\"ten\"", "\"10\"", "-1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(Wave::Percent(10).of(5), 1);
        assert_eq!(Wave::Percent(50).of(5), 3);
        assert_eq!(Wave::Percent(100).of(0), 1);
        assert_eq!(Wave::Count(9).of(5), 5);
    }

    #[test]
    fn an_installation_is_read_as_it_is_written() {
        let spec: InstallationSpec = serde_json::from_value(serde_json::json!({
            "package": "cache",
            "serviceAccount": {"namespace": "team-a", "name": "pkg-cache"},
            "namespaces": {"labels": {"tenant": "a"}},
            "rollout": {"waves": [1, "10%"], "soak": "30s"},
        }))
        .unwrap();
        assert_eq!(spec.rollout.waves, [Wave::Count(1), Wave::Percent(10)]);
        let namespaces = spec.namespaces.unwrap();
        let labels = |value: &str| BTreeMap::from([("tenant".to_owned(), value.to_owned())]);
        assert!(namespaces.has("x", &labels("a")));
        assert!(!namespaces.has("x", &labels("b")));
        assert_eq!(
            spec.service_account.unwrap().to_string(),
            "team-a/pkg-cache"
        );
    }
}
