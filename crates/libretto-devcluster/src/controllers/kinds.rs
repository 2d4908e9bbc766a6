//! The resources the controllers know by name. Everything else (custom resources, roles, leases, …) is known only by its metadata.

use crate::api::Gvr;

macro_rules! kinds {
    ($($name:ident = $group:literal $version:literal $resource:literal;)*) => {
        $(pub(crate) static $name: Gvr = Gvr::new($group, $version, $resource);)*

        /// The version in which each known resource is read, should the API serve it in several.
        pub(crate) static KNOWN: &[&Gvr] = &[$(&$name),*];
    };
}

kinds! {
    CONFIG_MAPS = "" "v1" "configmaps";
    CONTROLLER_REVISIONS = "apps" "v1" "controllerrevisions";
    CRON_JOBS = "batch" "v1" "cronjobs";
    CUSTOM_RESOURCE_DEFINITIONS = "apiextensions.k8s.io" "v1" "customresourcedefinitions";
    DAEMON_SETS = "apps" "v1" "daemonsets";
    DEPLOYMENTS = "apps" "v1" "deployments";
    ENDPOINTS = "" "v1" "endpoints";
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices";
    EVENTS = "" "v1" "events";
    JOBS = "batch" "v1" "jobs";
    NAMESPACES = "" "v1" "namespaces";
    NODES = "" "v1" "nodes";
    PERSISTENT_VOLUMES = "" "v1" "persistentvolumes";
    PERSISTENT_VOLUME_CLAIMS = "" "v1" "persistentvolumeclaims";
    PODS = "" "v1" "pods";
    POD_DISRUPTION_BUDGETS = "policy" "v1" "poddisruptionbudgets";
    REPLICA_SETS = "apps" "v1" "replicasets";
    SERVICES = "" "v1" "services";
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts";
    STATEFUL_SETS = "apps" "v1" "statefulsets";
    STORAGE_CLASSES = "storage.k8s.io" "v1" "storageclasses";
}

/// `apiVersion` and `kind` of a known resource, as written into owner references.
pub(crate) fn type_of(gvr: &Gvr) -> (String, &'static str) {
    let api_version = if gvr.group.is_empty() {
        gvr.version.to_string()
    } else {
        format!("{}/{}", gvr.group, gvr.version)
    };
    let kind = match gvr.resource.as_ref() {
        "configmaps" => "ConfigMap",
        "controllerrevisions" => "ControllerRevision",
        "cronjobs" => "CronJob",
        "customresourcedefinitions" => "CustomResourceDefinition",
        "daemonsets" => "DaemonSet",
        "deployments" => "Deployment",
        "endpoints" => "Endpoints",
        "endpointslices" => "EndpointSlice",
        "events" => "Event",
        "jobs" => "Job",
        "namespaces" => "Namespace",
        "nodes" => "Node",
        "persistentvolumes" => "PersistentVolume",
        "persistentvolumeclaims" => "PersistentVolumeClaim",
        "pods" => "Pod",
        "poddisruptionbudgets" => "PodDisruptionBudget",
        "replicasets" => "ReplicaSet",
        "services" => "Service",
        "serviceaccounts" => "ServiceAccount",
        "statefulsets" => "StatefulSet",
        "storageclasses" => "StorageClass",
        _ => "",
    };
    (api_version, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_resource_has_a_kind() {
        for gvr in KNOWN {
            assert_ne!(type_of(gvr).1, "", "{gvr:?}");
        }
    }
}
