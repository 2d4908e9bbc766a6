//! Helm charts: what is rendered, with what, and who renders it.
//!
//! The engine does not run programs. It says which [`Rendering`] it needs and is given the manifests by a [`Charts`]; until they are
//! there it leaves alone what depends on them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::object::InstanceRef;

/// The files of one chart.
#[derive(Debug, PartialEq, Eq)]
pub struct Chart {
    /// As the package calls it, for messages.
    pub name: String,
    /// Text by path below the chart's folder (`Chart.yaml`, `templates/service.yaml`).
    pub files: BTreeMap<String, String>,
    /// Of the files; two charts with the same digest render the same.
    pub digest: String,
}

/// One rendering of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendering {
    pub chart: Arc<Chart>,
    pub release: String,
    pub namespace: String,
    /// Laid over the chart's own values.
    pub values: Value,
    /// Of all of the above.
    pub digest: String,
}

/// What a chart gave: its manifests in the order Helm installs them, or why there are none.
pub type Rendered = Arc<Result<Vec<Value>, String>>;

/// Renders charts, or knows who does.
pub trait Charts: Send + Sync + std::fmt::Debug {
    /// What the rendering gave; `None` when that is not known yet, and `instance` is looked at again when it is. The same rendering
    /// always gives the same.
    fn rendered(&self, instance: &InstanceRef, rendering: &Rendering) -> Option<Rendered>;
}

/// Renders nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCharts;

impl Charts for NoCharts {
    fn rendered(&self, _instance: &InstanceRef, rendering: &Rendering) -> Option<Rendered> {
        Some(Arc::new(Err(format!(
            "chart {}: there is nobody here who renders charts",
            rendering.chart.name
        ))))
    }
}
