//! Objects a pod refers to, read from the API as typed values.

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret, Service,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{environment::Lookup, volumes::VolumeLookup};
use crate::api::{Api, Gvr, ListOptions, SERVICES};

pub(crate) const CONFIG_MAPS: Gvr = Gvr::new("", "v1", "configmaps");
pub(crate) const SECRETS: Gvr = Gvr::new("", "v1", "secrets");
pub(crate) const CLAIMS: Gvr = Gvr::new("", "v1", "persistentvolumeclaims");
const VOLUMES: Gvr = Gvr::new("", "v1", "persistentvolumes");

/// Reads through to the API.
#[derive(Debug, Clone)]
pub(crate) struct ApiLookup {
    pub api: Api,
    /// PersistentVolumes below it are created when missing; others must exist.
    pub data_dir: PathBuf,
}

pub(crate) fn typed<T: DeserializeOwned>(object: &Value) -> Option<T> {
    T::deserialize(object)
        .inspect_err(
            |error| tracing::error!(%error, "stored object does not have its kind's shape"),
        )
        .ok()
}

impl ApiLookup {
    fn get<T: DeserializeOwned>(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<T> {
        typed(self.api.get(gvr, namespace, name).ok()?.as_ref())
    }
}

impl Lookup for ApiLookup {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.get(&CONFIG_MAPS, namespace, name).map(Arc::new)
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.get(&SECRETS, namespace, name).map(Arc::new)
    }

    fn services(&self, namespace: &str) -> Vec<Service> {
        self.api
            .list(&SERVICES, Some(namespace), &ListOptions::default())
            .map(|list| list.items.iter().filter_map(|item| typed(item)).collect())
            .unwrap_or_default()
    }
}

impl VolumeLookup for ApiLookup {
    fn claim_directory(&self, namespace: &str, name: &str) -> Result<PathBuf, String> {
        let claim: PersistentVolumeClaim = self
            .get(&CLAIMS, namespace, name)
            .ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        let bound = claim
            .status
            .and_then(|status| status.phase)
            .is_some_and(|phase| phase == "Bound");
        let volume = claim
            .spec
            .and_then(|spec| spec.volume_name)
            .filter(|_| bound);
        let volume = volume.ok_or_else(|| {
            format!("persistentvolumeclaim {name:?} is not bound to a volume yet")
        })?;
        let spec = self
            .get::<PersistentVolume>(&VOLUMES, "", &volume)
            .and_then(|volume| volume.spec)
            .ok_or_else(|| format!("persistentvolume {volume:?} of claim {name:?} not found"))?;
        let path = spec
            .local
            .map(|local| local.path)
            .or_else(|| spec.host_path.map(|host_path| host_path.path))
            .ok_or_else(|| format!("persistentvolume {volume:?} is neither local nor hostPath, which is all this node can mount"))?;
        let path = PathBuf::from(path);
        if path.starts_with(&self.data_dir) {
            std::fs::create_dir_all(&path).map_err(|error| {
                format!("creating the directory of persistentvolume {volume:?}: {error}")
            })?;
        }
        path.canonicalize().map_err(|error| {
            format!(
                "directory {} of persistentvolume {volume:?}: {error}",
                path.display()
            )
        })
    }
}
