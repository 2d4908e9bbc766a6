//! The cluster's processes in the order in which they start: arguments, configuration files, and when each counts as started. This is
//! the page to read for how the cluster differs from a default one.

use std::{net::TcpStream, os::unix::net::UnixStream, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    build::Programs,
    network,
    place::{
        API_PORT, ETCD_ADDRESS, ETCD_PEER_ADDRESS, IMAGES_PORT, NODE, NODE_ADDRESS, POD_CIDR,
        Place, SERVICE_CIDR,
    },
    processes, run,
};

/// Names in the order of starting; `down` ends them in the opposite order.
pub(crate) const ALL: &[&str] = &[
    "images",
    "containerd",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
    "local-path-provisioner",
];

/// On two busy cores the first start of the API server has taken 20 s; anything beyond these is stuck.
const FIRST_ANSWER: Duration = Duration::from_secs(60);
const NODE_READY: Duration = Duration::from_secs(120);

/// Starts every process that does not run yet and returns when the node is Ready.
pub(crate) fn up(place: &Place, programs: &Programs) -> Result<(), String> {
    let step = |name: &str, action: &dyn Fn() -> Result<(), String>| {
        crate::run::step(&format!("start {name}"), action)
    };
    step("images", &|| images(place))?;
    step("containerd", &|| containerd(place))?;
    step("etcd", &|| etcd(place, programs))?;
    step("kube-apiserver", &|| api_server(place, programs))?;
    step("kube-controller-manager", &|| {
        control(
            place,
            programs,
            "kube-controller-manager",
            10257,
            &[
                "--allocate-node-cidrs=false".to_owned(),
                format!("--cluster-cidr={POD_CIDR}"),
                format!("--service-cluster-ip-range={SERVICE_CIDR}"),
                "--use-service-account-credentials=true".to_owned(),
                format!("--flex-volume-plugin-dir={}", place.path("volume-plugins")),
                certificate(
                    place,
                    "service-account-private-key-file",
                    "service-account.key",
                ),
                certificate(place, "root-ca-file", "ca.crt"),
                certificate(place, "cluster-signing-cert-file", "ca.crt"),
                certificate(place, "cluster-signing-key-file", "ca.key"),
            ],
        )
    })?;
    step("kube-scheduler", &|| {
        control(place, programs, "kube-scheduler", 10259, &[])
    })?;
    step("kubelet", &|| kubelet(place, programs))?;
    // After the kubelet: it does nothing until the node exists, and then looks only every so often.
    step("kube-proxy", &|| proxy(place, programs))?;
    step("coredns", &|| dns(place, programs))?;
    step("local-path-provisioner", &|| storage(place, programs))?;
    crate::run::step("wait for the default service account", || {
        // Without it the API server refuses every pod.
        processes::wait(
            place,
            "kube-controller-manager",
            FIRST_ANSWER,
            "service account",
            || kubectl(place, programs, &["get", "serviceaccount", "default"]).map(|_| ()),
        )
    })
}

/// Serves images to containerd, so that `imagePullPolicy: Always` works without a registry elsewhere.
fn images(place: &Place) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    processes::start(
        place,
        "images",
        &program,
        &["kubernetes".to_owned(), "serve-images".to_owned()],
    )?;
    listens(place, "images", &format!("{NODE_ADDRESS}:{IMAGES_PORT}"))
}

fn containerd(place: &Place) -> Result<(), String> {
    let mirror = format!("http://{NODE_ADDRESS}:{IMAGES_PORT}");
    place.write(
        "registries/_default/hosts.toml",
        &format!(
            "server = \"{mirror}\"\n\n[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        ),
    )?;
    place.write(
        "cni/10-libretto.conflist",
        &network::configuration(place).to_string(),
    )?;
    let configuration = place.write("containerd.toml", &containerd_configuration(place))?;
    processes::start(
        place,
        "containerd",
        "containerd".as_ref(),
        &["--config".to_owned(), configuration.display().to_string()],
    )?;
    processes::wait(place, "containerd", FIRST_ANSWER, "answer", || {
        UnixStream::connect(place.containerd_socket())
            .map(|_| ())
            .map_err(|error| error.to_string())
    })
}

fn containerd_configuration(place: &Place) -> String {
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{optional}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "pause:1"
# Without CAP_SYS_RESOURCE nobody may lower a score.
restrict_oom_score_adj = true
# Unmounting what is below the state folder then ends every pod's network.
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{registries}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{runc}"
"#,
        root = place.path("containerd"),
        state = place.path("run/containerd"),
        socket = place.containerd_socket(),
        optional = place.path("containerd-opt"),
        cni = place.path("cni"),
        registries = place.path("registries"),
        runc = place.path("run/runc"),
    )
}

fn etcd(place: &Place, programs: &Programs) -> Result<(), String> {
    let arguments = [
        format!("--name={NODE}"),
        format!("--data-dir={}", place.path("etcd")),
        format!("--listen-client-urls=https://{ETCD_ADDRESS}"),
        format!("--advertise-client-urls=https://{ETCD_ADDRESS}"),
        format!("--listen-peer-urls=http://{ETCD_PEER_ADDRESS}"),
        format!("--initial-advertise-peer-urls=http://{ETCD_PEER_ADDRESS}"),
        format!("--initial-cluster={NODE}=http://{ETCD_PEER_ADDRESS}"),
        "--client-cert-auth=true".to_owned(),
        certificate(place, "trusted-ca-file", "ca.crt"),
        certificate(place, "cert-file", "etcd.crt"),
        certificate(place, "key-file", "etcd.key"),
        // The state does not outlive the machine, so nothing is worth waiting for the disk.
        "--unsafe-no-fsync=true".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    processes::start(place, "etcd", &programs.path("etcd"), &arguments)?;
    listens(place, "etcd", ETCD_ADDRESS)
}

fn api_server(place: &Place, programs: &Programs) -> Result<(), String> {
    let audit = place.write("audit-policy.json", &audit_policy().to_string())?;
    let arguments = [
        format!("--audit-policy-file={}", audit.display()),
        format!("--audit-log-path={}", place.path("logs/audit.log")),
        // A day of tests is some megabytes; two files of this size bound it.
        "--audit-log-maxsize=100".to_owned(),
        "--audit-log-maxbackup=1".to_owned(),
        format!("--bind-address={NODE_ADDRESS}"),
        format!("--advertise-address={NODE_ADDRESS}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        format!("--etcd-servers=https://{ETCD_ADDRESS}"),
        certificate(place, "etcd-cafile", "ca.crt"),
        certificate(place, "etcd-certfile", "apiserver-client.crt"),
        certificate(place, "etcd-keyfile", "apiserver-client.key"),
        certificate(place, "tls-cert-file", "kube-apiserver.crt"),
        certificate(place, "tls-private-key-file", "kube-apiserver.key"),
        certificate(place, "client-ca-file", "ca.crt"),
        certificate(place, "kubelet-certificate-authority", "ca.crt"),
        certificate(place, "kubelet-client-certificate", "apiserver-client.crt"),
        certificate(place, "kubelet-client-key", "apiserver-client.key"),
        // The node's name is in nobody's DNS.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        certificate(place, "service-account-key-file", "service-account.pub"),
        certificate(
            place,
            "service-account-signing-key-file",
            "service-account.key",
        ),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
    ];
    processes::start(
        place,
        "kube-apiserver",
        &programs.path("kube-apiserver"),
        &arguments,
    )?;
    processes::wait(place, "kube-apiserver", FIRST_ANSWER, "readiness", || {
        kubectl(place, programs, &["get", "--raw", "/readyz"]).map(|_| ())
    })
}

/// What service accounts of installed programs ask for: the traffic of operators is judged by it. Kubernetes' own controllers and
/// whoever works as administrator are left out. Responses carry the resourceVersion, by which a write that changes nothing is seen.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "omitManagedFields": true,
        "rules": [
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system", "system:masters", "system:nodes"]},
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"], "resources": [{"group": "", "resources": ["secrets"]}]},
            {
                "level": "RequestResponse",
                "userGroups": ["system:serviceaccounts"],
                "verbs": ["create", "update", "patch", "delete", "deletecollection"],
            },
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        ],
    })
}

/// The controller manager and the scheduler: clients of the API server with a port for their health.
fn control(
    place: &Place,
    programs: &Programs,
    name: &str,
    port: u16,
    more: &[String],
) -> Result<(), String> {
    let kubeconfig = place.path(&format!("{name}.kubeconfig"));
    let mut arguments = vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        format!("--bind-address={NODE_ADDRESS}"),
        format!("--secure-port={port}"),
        // There is one of each.
        "--leader-elect=false".to_owned(),
    ];
    arguments.extend_from_slice(more);
    processes::start(place, name, &programs.path(name), &arguments)?;
    listens(place, name, &format!("{NODE_ADDRESS}:{port}"))
}

fn proxy(place: &Place, programs: &Programs) -> Result<(), String> {
    let arguments = [
        format!("--kubeconfig={}", place.path("kube-proxy.kubeconfig")),
        format!("--hostname-override={NODE}"),
        format!("--cluster-cidr={POD_CIDR}"),
        format!("--healthz-bind-address={NODE_ADDRESS}:10256"),
        format!("--metrics-bind-address={NODE_ADDRESS}:10249"),
        "--proxy-mode=iptables".to_owned(),
        "--oom-score-adj=0".to_owned(),
        // These sysctls are the machine's, and without CAP_SYS_RESOURCE they cannot be set anyway.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-tcp-timeout-established=0".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0".to_owned(),
        "--iptables-localhost-nodeports=false".to_owned(),
    ];
    processes::start(
        place,
        "kube-proxy",
        &programs.path("kube-proxy"),
        &arguments,
    )?;
    listens(place, "kube-proxy", &format!("{NODE_ADDRESS}:10256"))
}

fn kubelet(place: &Place, programs: &Programs) -> Result<(), String> {
    let configuration = place.write("kubelet.json", &kubelet_configuration(place).to_string())?;
    let arguments = [
        format!("--config={}", configuration.display()),
        format!("--kubeconfig={}", place.path("kubelet.kubeconfig")),
        format!("--root-dir={}", place.path("kubelet")),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={NODE_ADDRESS}"),
    ];
    processes::start(place, "kubelet", &programs.path("kubelet"), &arguments)?;
    processes::wait(
        place,
        "kubelet",
        NODE_READY,
        "Ready node",
        || match node_ready(place, programs) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the node is not Ready".to_owned()),
            Err(message) => Err(message),
        },
    )
}

fn kubelet_configuration(place: &Place) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "healthzBindAddress": NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": place.path("certificates/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": place.path("certificates/kubelet-server.crt"),
        "tlsPrivateKeyFile": place.path("certificates/kubelet-server.key"),
        "containerRuntimeEndpoint": format!("unix://{}", place.containerd_socket()),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": [NODE_ADDRESS],
        "podLogsDir": place.path("pods"),
        "volumePluginDir": place.path("volume-plugins"),
        // Only a canary that nobody needs, and that kube-proxy does not clean up.
        "makeIPTablesUtilChains": false,
        "oomScoreAdj": 0,
        // The machine's disk is shared with everything else on it; what is full there is not this cluster's doing.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
    })
}

fn dns(place: &Place, programs: &Programs) -> Result<(), String> {
    let hosts = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let configuration = place.write("Corefile", &corefile(place, &hosts))?;
    let arguments = ["-conf".to_owned(), configuration.display().to_string()];
    processes::start(place, "coredns", &programs.path("coredns"), &arguments)?;
    listens(place, "coredns", &format!("{NODE_ADDRESS}:53"))
}

/// `forward` refuses a file without name servers, so it is there only when the machine has one.
fn corefile(place: &Place, resolv_conf: &str) -> String {
    let servers: Vec<&str> = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver "))
        .map(str::trim)
        .collect();
    let forward = if servers.is_empty() {
        String::new()
    } else {
        format!("    forward . {}\n", servers.join(" "))
    };
    format!(
        ".:53 {{\n    bind {NODE_ADDRESS}\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        kubeconfig {}\n        pods insecure\n        fallthrough in-addr.arpa ip6.arpa\n        ttl 5\n    }}\n    cache 5\n{forward}}}\n",
        place.kubeconfig().display(),
    )
}

fn storage(place: &Place, programs: &Programs) -> Result<(), String> {
    let objects = place.write("storage.json", &storage_objects().to_string())?;
    kubectl(
        place,
        programs,
        &["apply", "--filename", &objects.display().to_string()],
    )?;
    let paths = json!({"nodePathMap": [{
        "node": "DEFAULT_PATH_FOR_NON_LISTED_NODES",
        "paths": [place.path("volumes")],
    }]});
    let configuration = place.write("provisioner.json", &paths.to_string())?;
    let helper = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper"},
        "spec": {"containers": [{"name": "helper", "image": "busybox", "imagePullPolicy": "IfNotPresent"}]},
    });
    let helper = place.write("provisioner-pod.json", &helper.to_string())?;
    let arguments = [
        "start".to_owned(),
        format!("--config={}", configuration.display()),
        format!("--kubeconfig={}", place.kubeconfig().display()),
        format!("--helper-pod-file={}", helper.display()),
        "--service-account-name=default".to_owned(),
    ];
    processes::start(
        place,
        "local-path-provisioner",
        &programs.path("local-path-provisioner"),
        &arguments,
    )?;
    Ok(())
}

fn storage_objects() -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "local-path-storage"},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "local-path-config", "namespace": "local-path-storage"},
            "data": {
                "setup": "mkdir -m 0777 -p \"$VOL_DIR\"\n",
                "teardown": "rm -rf \"$VOL_DIR\"\n",
            },
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "standard",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
    ]})
}

/// Whether the API server says that the node is Ready.
pub(crate) fn node_ready(place: &Place, programs: &Programs) -> Result<bool, String> {
    let path = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}".to_owned();
    kubectl(place, programs, &["get", "nodes", "--output", &path])
        .map(|answer| answer.trim() == "True")
}

/// Runs our kubectl as the cluster's administrator.
pub(crate) fn kubectl(
    place: &Place,
    programs: &Programs,
    arguments: &[&str],
) -> Result<String, String> {
    run(Command::new(programs.path("kubectl"))
        .arg(format!("--kubeconfig={}", place.kubeconfig().display()))
        // A look must end before the bound of whoever looks.
        .arg("--request-timeout=10s")
        .args(arguments))
}

fn listens(place: &Place, name: &str, address: &str) -> Result<(), String> {
    processes::wait(place, name, FIRST_ANSWER, "listener", || {
        TcpStream::connect(address)
            .map(|_| ())
            .map_err(|error| format!("{address}: {error}"))
    })
}

fn certificate(place: &Place, flag: &str, file: &str) -> String {
    format!("--{flag}={}", place.path(&format!("certificates/{file}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            state: "/state".into(),
            cache: "/cache".into(),
        }
    }

    #[test]
    fn names_outside_the_cluster_are_asked_of_the_machines_servers() {
        let text = corefile(&place(), "search x\nnameserver 192.0.2.1\nnameserver ::1\n");
        assert!(text.contains("    forward . 192.0.2.1 ::1\n"));
        assert!(!corefile(&place(), "# none\n").contains("forward"));
    }

    #[test]
    fn everything_written_is_below_the_state_folder() {
        let kubelet = kubelet_configuration(&place());
        for name in ["podLogsDir", "volumePluginDir", "tlsCertFile"] {
            assert!(
                kubelet[name]
                    .as_str()
                    .is_some_and(|path| path.starts_with("/state/")),
                "{name}"
            );
        }
        for line in containerd_configuration(&place()).lines() {
            if let Some((name, path)) = line.split_once(" = \"/") {
                assert!(path.starts_with("state/") || name == "bin_dir", "{line}");
            }
        }
    }
}
