//! The built-in resources, as a table. Adding one is a line here (and its definition in the schema table).

use std::sync::OnceLock;

use super::{Extra, NameRule, Resource, Version, table};
use crate::crd::ScalePaths;

/// What differs between built-in resources.
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    traits: &'static [Trait],
    extras: &'static [Extra],
    /// Field selectors beside the metadata ones.
    selectable: &'static [&'static str],
    /// See [`Resource::stored_only`].
    stored_only: Option<&'static str>,
}

/// Properties few resources have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trait {
    ClusterScoped,
    Status,
    Scale,
    Generation,
    /// Updates must carry a resourceVersion.
    Conditional,
    LabelNames,
    ServiceNames,
    SegmentNames,
}

use Trait::{
    ClusterScoped, Conditional, Generation, LabelNames, Scale, SegmentNames, ServiceNames, Status,
};

const ALL: &[&str] = &["all"];
const EXTENSIONS: &[&str] = &["api-extensions"];

const CONNECT: &[&str] = &["create", "get"];

const POD_EXTRAS: &[Extra] = &[
    extra("attach", "", "v1", "PodAttachOptions", CONNECT),
    extra("binding", "", "v1", "Binding", &["create"]),
    extra("eviction", "policy", "v1", "Eviction", &["create"]),
    extra("exec", "", "v1", "PodExecOptions", CONNECT),
    extra("log", "", "v1", "Pod", &["get"]),
    extra("portforward", "", "v1", "PodPortForwardOptions", CONNECT),
];
const NAMESPACE_EXTRAS: &[Extra] = &[extra("finalize", "", "v1", "Namespace", &["update"])];
const ACCOUNT_EXTRAS: &[Extra] = &[extra(
    "token",
    "authentication.k8s.io",
    "v1",
    "TokenRequest",
    &["create"],
)];

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const NEW_EVENT_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];
const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];

const fn extra(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Extra {
    Extra {
        name,
        group,
        version,
        kind,
        verbs,
    }
}

const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    (plural, singular): (&'static str, &'static str),
    short_names: &'static [&'static str],
    traits: &'static [Trait],
) -> Row {
    Row {
        group,
        version,
        kind,
        plural,
        singular,
        short_names,
        categories: &[],
        traits,
        extras: &[],
        selectable: &[],
        stored_only: None,
    }
}

impl Row {
    const fn all(mut self) -> Self {
        self.categories = ALL;
        self
    }

    const fn extensions(mut self) -> Self {
        self.categories = EXTENSIONS;
        self
    }

    const fn extras(mut self, extras: &'static [Extra]) -> Self {
        self.extras = extras;
        self
    }

    const fn fields(mut self, fields: &'static [&'static str]) -> Self {
        self.selectable = fields;
        self
    }

    const fn stored(mut self, why: &'static str) -> Self {
        self.stored_only = Some(why);
        self
    }
}

const NO_WEBHOOKS: &str = "this cluster calls no admission webhooks";
const NO_INGRESS: &str = "no ingress controller runs here; use libretto port-forward";
const NO_CSI: &str = "no CSI driver runs here; use the StorageClass local";

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("", "v1", "ConfigMap", ("configmaps", "configmap"), &["cm"], &[]),
    row("", "v1", "Endpoints", ("endpoints", "endpoints"), &["ep"], &[]),
    row("", "v1", "Event", ("events", "event"), &["ev"], &[]).fields(EVENT_FIELDS),
    row("", "v1", "LimitRange", ("limitranges", "limitrange"), &["limits"], &[]).stored("its defaults and bounds are not applied; set requests and limits in the pods"),
    row("", "v1", "Namespace", ("namespaces", "namespace"), &["ns"], &[ClusterScoped, Status, LabelNames]).extras(NAMESPACE_EXTRAS).fields(&["status.phase"]),
    row("", "v1", "Node", ("nodes", "node"), &["no"], &[ClusterScoped, Status]).fields(&["spec.unschedulable"]),
    row("", "v1", "PersistentVolume", ("persistentvolumes", "persistentvolume"), &["pv"], &[ClusterScoped, Status]),
    row("", "v1", "PersistentVolumeClaim", ("persistentvolumeclaims", "persistentvolumeclaim"), &["pvc"], &[Status]),
    row("", "v1", "Pod", ("pods", "pod"), &["po"], &[Status, Generation]).all().extras(POD_EXTRAS).fields(POD_FIELDS),
    row("", "v1", "PodTemplate", ("podtemplates", "podtemplate"), &[], &[Generation]),
    row("", "v1", "ReplicationController", ("replicationcontrollers", "replicationcontroller"), &["rc"], &[Status, Generation]).all().fields(&["status.replicas"]).stored("no pods are made for it; use a Deployment or a ReplicaSet"),
    row("", "v1", "ResourceQuota", ("resourcequotas", "resourcequota"), &["quota"], &[Status]).stored("nothing is counted and no request is refused because of it"),
    row("", "v1", "Secret", ("secrets", "secret"), &[], &[]).fields(&["type"]),
    row("", "v1", "Service", ("services", "service"), &["svc"], &[Status, ServiceNames]).all().fields(&["spec.clusterIP", "spec.type"]),
    row("", "v1", "ServiceAccount", ("serviceaccounts", "serviceaccount"), &["sa"], &[]).extras(ACCOUNT_EXTRAS),
    row(ADMISSION, "v1", "MutatingWebhookConfiguration", ("mutatingwebhookconfigurations", "mutatingwebhookconfiguration"), &[], &[ClusterScoped, Generation]).extensions().stored(NO_WEBHOOKS),
    row(ADMISSION, "v1", "ValidatingWebhookConfiguration", ("validatingwebhookconfigurations", "validatingwebhookconfiguration"), &[], &[ClusterScoped, Generation]).extensions().stored(NO_WEBHOOKS),
    row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", ("customresourcedefinitions", "customresourcedefinition"), &["crd", "crds"], &[ClusterScoped, Status, Generation, Conditional]).extensions(),
    row("apps", "v1", "ControllerRevision", ("controllerrevisions", "controllerrevision"), &[], &[]),
    row("apps", "v1", "DaemonSet", ("daemonsets", "daemonset"), &["ds"], &[Status, Generation]).all(),
    row("apps", "v1", "Deployment", ("deployments", "deployment"), &["deploy"], &[Status, Scale, Generation]).all(),
    row("apps", "v1", "ReplicaSet", ("replicasets", "replicaset"), &["rs"], &[Status, Scale, Generation]).all(),
    row("apps", "v1", "StatefulSet", ("statefulsets", "statefulset"), &["sts"], &[Status, Scale, Generation]).all(),
    row("autoscaling", "v2", "HorizontalPodAutoscaler", ("horizontalpodautoscalers", "horizontalpodautoscaler"), &["hpa"], &[Status]).all().stored("nothing is scaled by it; set the number of replicas yourself"),
    row("batch", "v1", "CronJob", ("cronjobs", "cronjob"), &["cj"], &[Status, Generation]).all(),
    row("batch", "v1", "Job", ("jobs", "job"), &[], &[Status, Generation]).all().fields(&["status.successful"]),
    row("coordination.k8s.io", "v1", "Lease", ("leases", "lease"), &[], &[Conditional]),
    row("discovery.k8s.io", "v1", "EndpointSlice", ("endpointslices", "endpointslice"), &[], &[Generation]),
    row("events.k8s.io", "v1", "Event", ("events", "event"), &["ev"], &[]).fields(NEW_EVENT_FIELDS),
    row("networking.k8s.io", "v1", "Ingress", ("ingresses", "ingress"), &["ing"], &[Status, Generation]).stored(NO_INGRESS),
    row("networking.k8s.io", "v1", "IngressClass", ("ingressclasses", "ingressclass"), &[], &[ClusterScoped, Generation]).stored(NO_INGRESS),
    row("networking.k8s.io", "v1", "NetworkPolicy", ("networkpolicies", "networkpolicy"), &["netpol"], &[Generation]).stored("no traffic is restricted by it"),
    row("policy", "v1", "PodDisruptionBudget", ("poddisruptionbudgets", "poddisruptionbudget"), &["pdb"], &[Status, Generation, Conditional]),
    row(RBAC, "v1", "ClusterRole", ("clusterroles", "clusterrole"), &[], &[ClusterScoped, SegmentNames]),
    row(RBAC, "v1", "ClusterRoleBinding", ("clusterrolebindings", "clusterrolebinding"), &[], &[ClusterScoped, SegmentNames]),
    row(RBAC, "v1", "Role", ("roles", "role"), &[], &[SegmentNames]),
    row(RBAC, "v1", "RoleBinding", ("rolebindings", "rolebinding"), &[], &[SegmentNames]),
    row("scheduling.k8s.io", "v1", "PriorityClass", ("priorityclasses", "priorityclass"), &["pc"], &[ClusterScoped, Generation]),
    row("storage.k8s.io", "v1", "CSIDriver", ("csidrivers", "csidriver"), &[], &[ClusterScoped]).stored(NO_CSI),
    row("storage.k8s.io", "v1", "CSINode", ("csinodes", "csinode"), &[], &[ClusterScoped]).stored(NO_CSI),
    row("storage.k8s.io", "v1", "StorageClass", ("storageclasses", "storageclass"), &["sc"], &[ClusterScoped]),
    row("storage.k8s.io", "v1", "VolumeAttachment", ("volumeattachments", "volumeattachment"), &[], &[ClusterScoped, Status]).stored(NO_CSI),
];

pub(super) fn resources() -> Vec<Resource> {
    ROWS.iter().map(resource).collect()
}

fn resource(row: &Row) -> Resource {
    let has = |wanted: Trait| row.traits.contains(&wanted);
    let owned = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>()
    };
    // Both event kinds are one stored object, in the core group's form.
    let table = if row.plural == "events" {
        table("", "events")
    } else {
        table(row.group, row.plural)
    };
    let names = if has(LabelNames) {
        NameRule::Label
    } else if has(ServiceNames) {
        NameRule::Label1035
    } else if has(SegmentNames) {
        NameRule::Segment
    } else {
        NameRule::Subdomain
    };
    Resource {
        group: row.group.to_owned(),
        kind: row.kind.to_owned(),
        list_kind: format!("{}List", row.kind),
        plural: row.plural.to_owned(),
        singular: row.singular.to_owned(),
        short_names: owned(row.short_names),
        categories: owned(row.categories),
        namespaced: !has(ClusterScoped),
        versions: vec![Version {
            name: row.version.to_owned(),
            schema: OnceLock::new(),
            status: has(Status),
            scale: has(Scale).then(|| ScalePaths {
                spec_replicas: "spec.replicas".to_owned(),
                status_replicas: "status.replicas".to_owned(),
                selector: Some("spec.selector".to_owned()),
            }),
            columns: Vec::new(),
            selectable: owned(row.selectable),
        }],
        storage_version: row.version.to_owned(),
        table,
        extras: row.extras,
        names,
        generation: has(Generation),
        conditional_updates: has(Conditional),
        stored_only: row.stored_only,
        custom: None,
    }
}
