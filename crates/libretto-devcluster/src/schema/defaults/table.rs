//! Constant defaults: definition → (path, JSON).

type Constants = &'static [(&'static str, &'static [(&'static str, &'static str)])];

pub(super) const CONSTANTS: Constants = &[
    // Pods.
    (
        "core.v1.Pod",
        &[
            ("spec.enableServiceLinks", "true"),
            ("status.phase", r#""Pending""#),
        ],
    ),
    (
        "core.v1.PodSpec",
        &[
            ("restartPolicy", r#""Always""#),
            ("dnsPolicy", r#""ClusterFirst""#),
            ("schedulerName", r#""default-scheduler""#),
            ("terminationGracePeriodSeconds", "30"),
            ("securityContext", "{}"),
        ],
    ),
    (
        "core.v1.Container",
        &[
            ("terminationMessagePath", r#""/dev/termination-log""#),
            ("terminationMessagePolicy", r#""File""#),
            ("resources", "{}"),
        ],
    ),
    (
        "core.v1.EphemeralContainer",
        &[
            ("terminationMessagePath", r#""/dev/termination-log""#),
            ("terminationMessagePolicy", r#""File""#),
            ("resources", "{}"),
        ],
    ),
    ("core.v1.ContainerPort", &[("protocol", r#""TCP""#)]),
    (
        "core.v1.Probe",
        &[
            ("timeoutSeconds", "1"),
            ("periodSeconds", "10"),
            ("successThreshold", "1"),
            ("failureThreshold", "3"),
        ],
    ),
    (
        "core.v1.HTTPGetAction",
        &[("path", r#""/""#), ("scheme", r#""HTTP""#)],
    ),
    ("core.v1.GRPCAction", &[("service", r#""""#)]),
    ("core.v1.ObjectFieldSelector", &[("apiVersion", r#""v1""#)]),
    // Volumes; 420 is 0644.
    ("core.v1.ConfigMapVolumeSource", &[("defaultMode", "420")]),
    ("core.v1.SecretVolumeSource", &[("defaultMode", "420")]),
    ("core.v1.DownwardAPIVolumeSource", &[("defaultMode", "420")]),
    ("core.v1.ProjectedVolumeSource", &[("defaultMode", "420")]),
    ("core.v1.HostPathVolumeSource", &[("type", r#""""#)]),
    (
        "core.v1.ServiceAccountTokenProjection",
        &[("expirationSeconds", "3600")],
    ),
    // Storage.
    (
        "core.v1.PersistentVolumeClaim",
        &[("status.phase", r#""Pending""#)],
    ),
    (
        "core.v1.PersistentVolumeClaimSpec",
        &[("volumeMode", r#""Filesystem""#), ("resources", "{}")],
    ),
    (
        "core.v1.PersistentVolume",
        &[
            ("status.phase", r#""Pending""#),
            ("spec.persistentVolumeReclaimPolicy", r#""Retain""#),
            ("spec.volumeMode", r#""Filesystem""#),
        ],
    ),
    (
        "storage.v1.StorageClass",
        &[
            ("reclaimPolicy", r#""Delete""#),
            ("volumeBindingMode", r#""Immediate""#),
        ],
    ),
    // Services.
    (
        "core.v1.Service",
        &[
            ("spec.type", r#""ClusterIP""#),
            ("spec.sessionAffinity", r#""None""#),
            ("status.loadBalancer", "{}"),
        ],
    ),
    ("core.v1.ServicePort", &[("protocol", r#""TCP""#)]),
    ("core.v1.EndpointPort", &[("protocol", r#""TCP""#)]),
    (
        "discovery.v1.EndpointPort",
        &[("protocol", r#""TCP""#), ("name", r#""""#)],
    ),
    (
        "networking.v1.NetworkPolicyPort",
        &[("protocol", r#""TCP""#)],
    ),
    // Workloads.
    (
        "apps.v1.Deployment",
        &[
            ("spec.replicas", "1"),
            ("spec.revisionHistoryLimit", "10"),
            ("spec.progressDeadlineSeconds", "600"),
            ("spec.strategy.type", r#""RollingUpdate""#),
        ],
    ),
    ("apps.v1.ReplicaSet", &[("spec.replicas", "1")]),
    (
        "apps.v1.StatefulSet",
        &[
            ("spec.replicas", "1"),
            ("spec.podManagementPolicy", r#""OrderedReady""#),
            ("spec.revisionHistoryLimit", "10"),
            ("spec.updateStrategy.type", r#""RollingUpdate""#),
            (
                "spec.persistentVolumeClaimRetentionPolicy.whenDeleted",
                r#""Retain""#,
            ),
            (
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled",
                r#""Retain""#,
            ),
        ],
    ),
    (
        "apps.v1.DaemonSet",
        &[
            ("spec.revisionHistoryLimit", "10"),
            ("spec.updateStrategy.type", r#""RollingUpdate""#),
        ],
    ),
    (
        "batch.v1.Job",
        &[
            ("spec.backoffLimit", "6"),
            ("spec.completionMode", r#""NonIndexed""#),
            ("spec.manualSelector", "false"),
            ("spec.parallelism", "1"),
            ("spec.suspend", "false"),
        ],
    ),
    (
        "batch.v1.CronJob",
        &[
            ("spec.concurrencyPolicy", r#""Allow""#),
            ("spec.suspend", "false"),
            ("spec.successfulJobsHistoryLimit", "3"),
            ("spec.failedJobsHistoryLimit", "1"),
        ],
    ),
    (
        "autoscaling.v2.HorizontalPodAutoscaler",
        &[("spec.minReplicas", "1")],
    ),
    // Cluster.
    ("core.v1.Namespace", &[("status.phase", r#""Active""#)]),
    ("core.v1.Secret", &[("type", r#""Opaque""#)]),
    (
        "rbac.v1.RoleRef",
        &[("apiGroup", r#""rbac.authorization.k8s.io""#)],
    ),
    (
        "scheduling.v1.PriorityClass",
        &[("preemptionPolicy", r#""PreemptLowerPriority""#)],
    ),
    // Admission webhooks.
    (
        "admissionregistration.v1.ValidatingWebhook",
        &[
            ("failurePolicy", r#""Fail""#),
            ("matchPolicy", r#""Equivalent""#),
            ("namespaceSelector", "{}"),
            ("objectSelector", "{}"),
            ("timeoutSeconds", "10"),
        ],
    ),
    (
        "admissionregistration.v1.MutatingWebhook",
        &[
            ("failurePolicy", r#""Fail""#),
            ("matchPolicy", r#""Equivalent""#),
            ("namespaceSelector", "{}"),
            ("objectSelector", "{}"),
            ("reinvocationPolicy", r#""Never""#),
            ("timeoutSeconds", "10"),
        ],
    ),
    (
        "admissionregistration.v1.RuleWithOperations",
        &[("scope", r#""*""#)],
    ),
    (
        "admissionregistration.v1.ServiceReference",
        &[("port", "443")],
    ),
    // Custom resources.
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        &[("spec.conversion.strategy", r#""None""#)],
    ),
];
