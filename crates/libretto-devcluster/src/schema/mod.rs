//! What a value means by schema: which lists are keyed, which maps are atomic, which fields exist.

mod defaults;
pub(crate) mod definitions;
pub(crate) mod field;
pub(crate) mod names;
pub(crate) mod node;
mod prune;
pub(crate) mod quantity;
mod types;
mod validate;

use std::sync::Arc;

use serde_json::Value;

use self::node::Node;
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
    pub fn built_in(group: &str, version: &str, kind: &str) -> Option<Self> {
        definitions::table()
            .kind(group, version, kind)
            .map(Self::BuiltIn)
    }

    /// Removes fields the schema does not know and returns their paths (`spec.foo`), in order.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune::prune(self.root(), object)
    }

    /// What Go's decoder would refuse before anything else, in its words (`json: cannot unmarshal string into …`). The API server answers
    /// it with 400. Custom objects are never refused here; their wrong types are validation errors.
    pub fn decode_error(&self, object: &Value) -> Option<String> {
        match self {
            Self::BuiltIn(name) => {
                let kind = name.rsplit('.').next().unwrap_or(name);
                types::check(self.root(), kind, object)
                    .first()
                    .map(types::Mismatch::decode_error)
            }
            Self::Custom(_) => None,
        }
    }

    /// Fills in defaults, as the API server does before storing. For built-in kinds it also drops nulls, writes quantities canonically
    /// and moves a Secret's `stringData`.
    pub fn default(&self, object: &mut Value) {
        match self {
            Self::BuiltIn(name) => defaults::default(name, object),
            Self::Custom(schema) => schema.default(object),
        }
    }

    /// Everything wrong with `new`; `old` is given on updates (immutable fields, transition rules). Includes wrong JSON types.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        validate::validate(self, new, old)
    }

    /// The structure of the objects.
    pub(crate) fn root(&self) -> &Node {
        match self {
            Self::BuiltIn(name) => definitions::table()
                .get(name)
                .expect("names of built-in schemas come from the table"),
            Self::Custom(schema) => schema.node(),
        }
    }

    /// Whether `status` is written through its own subresource only.
    pub(crate) fn has_status(&self) -> bool {
        match self {
            Self::BuiltIn(_) => self.root().properties.contains_key("status"),
            Self::Custom(schema) => schema.has_status_subresource(),
        }
    }
}
