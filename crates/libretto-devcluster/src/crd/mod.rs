//! Custom resources: structural schemas, CEL rules, printer columns, subresources.

use serde_json::Value;

use crate::error::FieldError;

/// A parsed, ready to use `openAPIV3Schema` with its compiled CEL rules.
#[derive(Debug)]
pub struct CustomSchema {
    pub root: Value,
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
pub fn parse(_crd: &Value) -> Result<CustomType, Vec<FieldError>> {
    todo!()
}
