//! Which columns a built-in kind has, and which function fills them.

use serde_json::{Value, json};

use super::{cells, cluster, network, pods, storage, workloads};

/// One column: title, OpenAPI type, and whether only `-o wide` shows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) wide: bool,
}

/// The columns of a kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) headers: &'static [Header],
    /// Object and time of day → cells, as many as headers.
    pub(super) row: fn(&Value, i64) -> Vec<Value>,
}

impl Layout {
    pub(super) fn definitions(&self) -> Vec<Value> {
        self.headers
            .iter()
            .map(|header| {
                let format = if header.name == "Name" { "name" } else { "" };
                let description = match header.name {
                    "Name" => super::described("name"),
                    "Age" => super::described("creationTimestamp"),
                    _ => "",
                };
                json!({
                    "name": header.name, "type": header.kind, "format": format,
                    "description": description, "priority": i32::from(header.wide),
                })
            })
            .collect()
    }
}

/// `"Name"`, `"Ready:integer"`, `"IP+"`: title, type after a colon, `+` for wide only.
const fn header(text: &'static str) -> Header {
    let bytes = text.as_bytes();
    let mut length = bytes.len();
    let wide = bytes[length - 1] == b'+';
    if wide {
        length -= 1;
    }
    let mut colon = length;
    let mut index = 0;
    while index < length {
        if bytes[index] == b':' {
            colon = index;
        }
        index += 1;
    }
    let (rest, _) = text.split_at(length);
    let (name, kind) = rest.split_at(colon);
    let kind = if kind.is_empty() {
        "string"
    } else {
        kind.split_at(1).1
    };
    Header { name, kind, wide }
}

macro_rules! layout {
    ([$($text:literal),* $(,)?], $row:path) => {
        Layout { headers: const { &[$(header($text)),*] }, row: $row }
    };
}

pub(super) fn layout(group: &str, kind: &str) -> Layout {
    match (group, kind) {
        ("", "Pod") => layout!(
            [
                "Name",
                "Ready",
                "Status",
                "Restarts",
                "Age",
                "IP+",
                "Node+",
                "Nominated Node+",
                "Readiness Gates+"
            ],
            pods::pod
        ),
        ("", "Service") => layout!(
            [
                "Name",
                "Type",
                "Cluster-IP",
                "External-IP",
                "Port(s)",
                "Age",
                "Selector+"
            ],
            network::service
        ),
        ("", "Endpoints") => layout!(["Name", "Endpoints", "Age"], network::endpoints),
        ("discovery.k8s.io", "EndpointSlice") => {
            layout!(
                ["Name", "AddressType", "Ports", "Endpoints", "Age"],
                network::endpoint_slice
            )
        }
        ("networking.k8s.io", "Ingress") => {
            layout!(
                ["Name", "Class", "Hosts", "Address", "Ports", "Age"],
                network::ingress
            )
        }
        ("networking.k8s.io", "IngressClass") => {
            layout!(
                ["Name", "Controller", "Parameters", "Age"],
                network::ingress_class
            )
        }
        ("networking.k8s.io", "NetworkPolicy") => {
            layout!(["Name", "Pod-Selector", "Age"], network::policy)
        }
        ("apps", "Deployment") => layout!(
            [
                "Name",
                "Ready",
                "Up-to-date:integer",
                "Available:integer",
                "Age",
                "Containers+",
                "Images+",
                "Selector+",
            ],
            workloads::deployment
        ),
        ("apps", "ReplicaSet") => layout!(
            [
                "Name",
                "Desired:integer",
                "Current:integer",
                "Ready:integer",
                "Age",
                "Containers+",
                "Images+",
                "Selector+",
            ],
            workloads::replica_set
        ),
        ("apps", "StatefulSet") => {
            layout!(
                ["Name", "Ready", "Age", "Containers+", "Images+"],
                workloads::stateful_set
            )
        }
        ("apps", "DaemonSet") => layout!(
            [
                "Name",
                "Desired:integer",
                "Current:integer",
                "Ready:integer",
                "Up-to-date:integer",
                "Available:integer",
                "Node Selector",
                "Age",
                "Containers+",
                "Images+",
                "Selector+",
            ],
            workloads::daemon_set
        ),
        ("apps", "ControllerRevision") => {
            layout!(
                ["Name", "Controller", "Revision:integer", "Age"],
                workloads::controller_revision
            )
        }
        ("batch", "Job") => layout!(
            [
                "Name",
                "Status",
                "Completions",
                "Duration",
                "Age",
                "Containers+",
                "Images+",
                "Selector+"
            ],
            workloads::job
        ),
        ("batch", "CronJob") => layout!(
            [
                "Name",
                "Schedule",
                "Timezone",
                "Suspend:boolean",
                "Active:integer",
                "Last Schedule",
                "Age",
                "Containers+",
                "Images+",
                "Selector+",
            ],
            workloads::cron_job
        ),
        ("policy", "PodDisruptionBudget") => layout!(
            [
                "Name",
                "Min Available",
                "Max Unavailable",
                "Allowed Disruptions:integer",
                "Age"
            ],
            workloads::disruption_budget
        ),
        ("autoscaling", "HorizontalPodAutoscaler") => layout!(
            [
                "Name",
                "Reference",
                "Targets",
                "MinPods",
                "MaxPods",
                "Replicas",
                "Age"
            ],
            workloads::autoscaler
        ),
        ("", "ConfigMap") => layout!(["Name", "Data:integer", "Age"], storage::config_map),
        ("", "Secret") => layout!(["Name", "Type", "Data:integer", "Age"], storage::secret),
        ("", "PersistentVolumeClaim") => layout!(
            [
                "Name",
                "Status",
                "Volume",
                "Capacity",
                "Access Modes",
                "StorageClass",
                "VolumeAttributesClass",
                "Age",
                "VolumeMode+",
            ],
            storage::claim
        ),
        ("", "PersistentVolume") => layout!(
            [
                "Name",
                "Capacity",
                "Access Modes",
                "Reclaim Policy",
                "Status",
                "Claim",
                "StorageClass",
                "VolumeAttributesClass",
                "Reason",
                "Age",
                "VolumeMode+",
            ],
            storage::volume
        ),
        ("storage.k8s.io", "StorageClass") => layout!(
            [
                "Name",
                "Provisioner",
                "ReclaimPolicy",
                "VolumeBindingMode",
                "AllowVolumeExpansion:boolean",
                "Age"
            ],
            storage::class
        ),
        ("", "Node") => layout!(
            [
                "Name",
                "Status",
                "Roles",
                "Age",
                "Version",
                "Internal-IP+",
                "External-IP+",
                "OS-Image+",
                "Kernel-Version+",
                "Container-Runtime+",
            ],
            cluster::node
        ),
        ("", "Namespace") => layout!(["Name", "Status", "Age"], cluster::namespace),
        ("", "Event") | ("events.k8s.io", "Event") => layout!(
            [
                "Last Seen",
                "Type",
                "Reason",
                "Object",
                "Subobject+",
                "Source+",
                "Message",
                "First Seen+",
                "Count+",
                "Name+",
            ],
            cluster::event
        ),
        ("", "ServiceAccount") => {
            layout!(["Name", "Age"], cluster::service_account)
        }
        ("coordination.k8s.io", "Lease") => layout!(["Name", "Holder", "Age"], cluster::lease),
        ("scheduling.k8s.io", "PriorityClass") => {
            layout!(
                [
                    "Name",
                    "Value:integer",
                    "Global-Default:boolean",
                    "Age",
                    "PreemptionPolicy"
                ],
                cluster::priority_class
            )
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            layout!(["Name", "Created At"], cluster::role)
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => layout!(
            [
                "Name",
                "Role",
                "Age",
                "Users+",
                "Groups+",
                "ServiceAccounts+"
            ],
            cluster::role_binding
        ),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            layout!(["Name", "Created At"], cluster::role)
        }
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration",
        ) => {
            layout!(["Name", "Webhooks:integer", "Age"], cluster::webhooks)
        }
        _ => layout!(["Name", "Age"], cells::name_and_age),
    }
}
