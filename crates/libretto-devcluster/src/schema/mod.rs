//! What a value means by schema: which lists are keyed, which maps are atomic, which fields exist.

use std::sync::Arc;

use serde_json::Value;

use crate::error::FieldError;

/// The type of a resource's objects.
#[derive(Debug, Clone)]
pub enum TypeSchema {
    /// A definition of the built-in table, such as `io.k8s.api.core.v1.Pod`.
    BuiltIn(&'static str),
    /// A custom resource's structural schema.
    Custom(Arc<crate::crd::CustomSchema>),
}

impl TypeSchema {
    /// Definition name for a built-in kind; `None` when the table has no such kind.
    pub fn built_in(_group: &str, _version: &str, _kind: &str) -> Option<Self> {
        todo!()
    }

    /// Removes fields the schema does not know and returns their paths (`spec.foo`), in order.
    pub fn prune(&self, _object: &mut Value) -> Vec<String> {
        todo!()
    }

    /// Fills in defaults, as the API server does before storing.
    pub fn default(&self, _object: &mut Value) {
        todo!()
    }

    /// Everything wrong with `new`; `old` is given on updates (immutable fields, transition rules). Includes wrong JSON types.
    pub fn validate(&self, _new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        todo!()
    }
}
