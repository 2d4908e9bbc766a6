//! Custom resources: structural schemas, CEL rules, printer columns, subresources.
//!
//! A definition is read once into what the API server needs of it; nothing here stores or serves anything.

mod cel;
mod check;
mod defaulting;
mod format;
mod parse;
mod structural;
#[cfg(test)]
mod tests;
mod validate;

use serde_json::Value;

use self::check::Check;
use crate::{
    error::FieldError,
    schema::{definitions, node::Node},
};

/// A parsed, ready to use `openAPIV3Schema` with its compiled CEL rules.
#[derive(Debug)]
pub struct CustomSchema {
    /// As written in the definition.
    pub root: Value,
    /// With the fields every object has (`metadata`) filled in.
    node: Node,
    check: Check,
    /// `status` is written through its own subresource.
    status: bool,
}

/// What a CustomResourceDefinition defines.
#[derive(Debug, Clone)]
pub struct CustomType {
    pub group: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub versions: Vec<CustomVersion>,
}

/// One version of a custom type.
#[derive(Debug, Clone)]
pub struct CustomVersion {
    pub name: String,
    pub served: bool,
    pub storage: bool,
    pub schema: std::sync::Arc<CustomSchema>,
    pub status: bool,
    pub scale: Option<ScalePaths>,
    pub columns: Vec<Column>,
    /// JSON paths usable in field selectors.
    pub selectable: Vec<String>,
}

/// `subresources.scale` of a CRD, as dotted paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub selector: Option<String>,
}

/// `additionalPrinterColumns` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: String,
    pub format: String,
    pub description: String,
    pub priority: i64,
    pub json_path: String,
}

/// Reads a CustomResourceDefinition; every error at once.
pub fn parse(crd: &Value) -> Result<CustomType, Vec<FieldError>> {
    parse::parse(crd)
}

impl CustomSchema {
    /// `root` has been found structural.
    fn new(root: Value, status: bool) -> Self {
        let mut node = Node::from_openapi(&root, &|_| None);
        add_object_fields(&mut node, true);
        let check = Check::compile(&root);
        Self {
            root,
            node,
            check,
            status,
        }
    }

    /// A schema as a test writes it, not checked for being structural.
    #[cfg(test)]
    pub(crate) fn for_tests(root: &Value) -> Self {
        Self::new(root.clone(), true)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) fn has_status_subresource(&self) -> bool {
        self.status
    }

    /// Fills in the declared defaults.
    pub(crate) fn default(&self, object: &mut Value) {
        defaulting::default(&self.check, object);
    }

    /// Everything wrong with `new`, apart from its metadata.
    pub(crate) fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        validate::validate(&self.check, new, old, "")
    }
}

/// Every object has these fields, declared or not; so do embedded objects.
fn add_object_fields(node: &mut Node, root: bool) {
    if root || node.embedded {
        let metadata =
            definitions::table().index("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        node.properties.insert(
            "metadata".into(),
            Node {
                reference: metadata,
                ..Node::default()
            },
        );
        for name in ["apiVersion", "kind"] {
            let kind = crate::schema::node::Kind::String;
            node.properties.insert(
                name.into(),
                Node {
                    kind,
                    ..Node::default()
                },
            );
        }
    }
    for property in node.properties.values_mut() {
        add_object_fields(property, false);
    }
    for inner in [&mut node.items, &mut node.values].into_iter().flatten() {
        add_object_fields(inner, false);
    }
}
