//! Names of Kubernetes objects and of instances.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Group, version and kind, written `v1/Pod` or `apps/v1/StatefulSet` in packages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Gvk {
    /// API group; empty for the core group.
    pub group: String,
    /// API version without the group, such as `v1`.
    pub version: String,
    /// Kind in CamelCase, such as `StatefulSet`.
    pub kind: String,
}

impl Gvk {
    /// Names a kind; `group` is empty for the core group.
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
        }
    }

    /// `v1` or `apps/v1`, as in an object's `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Reads `apiVersion` and `kind` of an object; `None` when one is missing or malformed.
    pub fn of(object: &serde_json::Value) -> Option<Self> {
        let api_version = object.get("apiVersion")?.as_str()?;
        let kind = object.get("kind")?.as_str()?;
        format!("{api_version}/{kind}").parse().ok()
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.kind)
    }
}

/// The text is not `version/Kind` or `group/version/Kind`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no kind: write `version/Kind` for the core group (v1/Pod) or `group/version/Kind` (apps/v1/StatefulSet)"
)]
pub struct GvkError(pub String);

impl std::str::FromStr for Gvk {
    type Err = GvkError;

    fn from_str(text: &str) -> Result<Self, GvkError> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [version, kind] if !version.is_empty() && !kind.is_empty() => {
                Ok(Self::new("", version, kind))
            }
            [group, version, kind]
                if !group.is_empty() && !version.is_empty() && !kind.is_empty() =>
            {
                Ok(Self::new(group, version, kind))
            }
            _ => Err(GvkError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Gvk {
    type Error = GvkError;

    fn try_from(text: String) -> Result<Self, GvkError> {
        text.parse()
    }
}

impl From<Gvk> for String {
    fn from(gvk: Gvk) -> Self {
        gvk.to_string()
    }
}

/// One object of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectRef {
    pub gvk: Gvk,
    /// Empty for a cluster-scoped object.
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.gvk.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.gvk.kind, self.namespace, self.name)
        }
    }
}

/// One custom resource that a package takes care of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceRef {
    /// Name of the package whose Kind this is.
    pub package: String,
    pub gvk: Gvk,
    pub namespace: String,
    pub name: String,
    /// `metadata.uid`; a same-named later instance has another one.
    pub uid: String,
}

impl fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.gvk.kind, self.namespace, self.name)
    }
}

/// Label that the runtime puts on every object it applies; the value is the instance's uid.
pub const INSTANCE_LABEL: &str = "libretto.dev/instance";

/// Label on every object the runtime applies; the value is the package's name.
pub const PACKAGE_LABEL: &str = "libretto.dev/package";

/// Field manager of everything a package applies: `libretto:<package>`.
pub fn field_manager(package: &str) -> String {
    format!("libretto:{package}")
}
