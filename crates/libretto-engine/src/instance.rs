//! An instance that no API server has seen yet: its defaults, and what would be refused of it.

use serde_json::Value;

use crate::{Compiled, scenario::schema};

impl Compiled {
    /// Puts in the defaults of the definition, or says what of the instance the definition does not allow (no CEL, no formats).
    pub fn admit(&self, instance: &mut Value) -> Result<(), String> {
        let version = &self.gvk().version;
        let wrong = schema::refused(self.crd(), version, instance);
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        schema::default(self.crd(), version, instance);
        Ok(())
    }
}
