//! Operators around a Helm chart: SREWorks' sample as it was written, and the same in today's form.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service},
    networking::v1::Ingress,
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use libretto_e2e::{Step, cluster::Cluster, wait};
use serde_json::{Value, json};

/// Charts are rendered, a server in a pod starts and is asked.
const PATIENCE: Duration = Duration::from_secs(60);
const PLATFORM: &str = "sample-ververica-platform";
/// By their full names: both may be in one cluster.
const CLASSIC: &str = "ververicaplatforms.sreworks.example.com";
const MODERN: &str = "ververicaplatforms.example.com";

#[tokio::test]
async fn the_ingress_follows_the_service_in_sreworks_form() -> Step {
    let cluster = Cluster::start_with(&["examples/sreworks"]).await?;
    let client = cluster.client().await?;
    create(
        &cluster,
        "sreworks.example.com/v1",
        "{host: vvp.example.com}",
    )
    .await?;
    ready(&cluster, CLASSIC).await?;
    routed(&client, "sample", 80).await?;
    // By the custom resource, through the chart; by hand, at the Service, where it stays and the Ingress follows; and again by the custom
    // resource, which has the last word although the port by hand is another entry of the list.
    let by_chart = |port: u16| {
        let patch = json!({"spec": {"port": port}}).to_string();
        cluster
            .kubectl(&["patch", CLASSIC, "sample", "--type=merge", "-p", &patch])?
            .ok()
    };
    by_chart(8081)?;
    routed(&client, "sample", 8081).await?;
    port(&cluster, 8082)?;
    routed(&client, "sample", 8082).await?;
    by_chart(8090)?;
    routed(&client, "sample", 8090).await?;
    cluster.kubectl(&["delete", CLASSIC, "sample"])?.ok()?;
    gone(&client).await
}

#[tokio::test]
async fn an_ingress_of_somebody_else_and_functions_are_taken_care_of() -> Step {
    let cluster = Cluster::start_with(&["examples/ververica-platform"]).await?;
    let client = cluster.client().await?;
    let shared = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shared"},
        "spec": {"ingressClassName": "nginx", "rules": [{"host": "old.example.com"}]},
    });
    cluster.kubectl_apply(&shared.to_string(), &[])?.ok()?;
    let spec =
        "{host: vvp.example.com, ingress: shared, udfs: [{name: geo, jar: \"s3://geo.jar\"}]}";
    create(&cluster, "example.com/v1", spec).await?;
    ready(&cluster, MODERN).await?;
    routed(&client, "shared", 80).await?;
    registered(&cluster, &["geo"]).await?;
    // A Service that moves is no reason to register again, which would write the file anew.
    let written = modified(&cluster)?;
    port(&cluster, 8082)?;
    routed(&client, "shared", 8082).await?;
    let udfs = |names: &[&str]| {
        let udfs: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "jar": format!("s3://{name}.jar")}))
            .collect();
        let patch = json!({"spec": {"udfs": udfs}}).to_string();
        cluster
            .kubectl(&["patch", MODERN, "sample", "--type=merge", "-p", &patch])?
            .ok()
    };
    udfs(&["geo", "text"])?;
    registered(&cluster, &["geo", "text"]).await?;
    assert_eq!(modified(&cluster)?, written, "registered once");
    udfs(&["text"])?;
    registered(&cluster, &["text"]).await?;
    let events = cluster
        .kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?
        .ok()?;
    assert!(events.contains("UdfRegistered"), "{events}");
    cluster.kubectl(&["delete", MODERN, "sample"])?.ok()?;
    gone(&client).await?;
    let ingresses: Api<Ingress> = Api::default_namespaced(client);
    let left = json!(ingresses.get("shared").await?.spec);
    assert_eq!(
        left["ingressClassName"], "nginx",
        "somebody else's fields stay"
    );
    Ok(())
}

#[tokio::test]
async fn a_chart_that_fails_says_so_and_nobody_else_notices() -> Step {
    let cluster = Cluster::start_with(&["examples/ververica-platform"]).await?;
    create(&cluster, "example.com/v1", "{host: vvp.example.com}").await?;
    ready(&cluster, MODERN).await?;
    // Longer than Helm lets a release's name be.
    let name = "a-name-that-is-longer-than-what-helm-takes-as-the-name-of-a-release";
    let manifest = format!(
        "apiVersion: example.com/v1\nkind: VervericaPlatform\nmetadata: {{name: {name}}}\nspec: {{host: x.example.com}}\n"
    );
    cluster.kubectl_apply(&manifest, &[])?.ok()?;
    wait::until("the condition says why", PATIENCE, || async {
        let status = cluster
            .kubectl(&["get", MODERN, name, "-o", "jsonpath={.status.conditions}"])?
            .ok()?;
        if status.contains("chart charts/ververica-platform") && status.contains("release name") {
            Ok(())
        } else {
            Err(status.into())
        }
    })
    .await?;
    ready(&cluster, MODERN).await
}

async fn create(cluster: &Cluster, version: &str, spec: &str) -> Step {
    let manifest = format!(
        "apiVersion: {version}\nkind: VervericaPlatform\nmetadata: {{name: sample}}\nspec: {spec}\n"
    );
    wait::until("the kind is served", PATIENCE, || async {
        cluster.kubectl_apply(&manifest, &[])?.ok()
    })
    .await?;
    Ok(())
}

async fn ready(cluster: &Cluster, kind: &str) -> Step {
    wait::until("the platform is Ready", PATIENCE, || async {
        let conditions = cluster
            .kubectl(&["get", kind, "sample", "-o", "jsonpath={.status.conditions}"])?
            .ok()?;
        let parsed: Value = serde_json::from_str(&conditions)?;
        let ready = parsed
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        if ready {
            Ok(())
        } else {
            Err(conditions.into())
        }
    })
    .await?;
    Ok(())
}

/// Changes the Service's port as somebody at a terminal would.
fn port(cluster: &Cluster, port: u16) -> Step<String> {
    let patch = json!([{"op": "replace", "path": "/spec/ports/0/port", "value": port}]).to_string();
    cluster
        .kubectl(&["patch", "service", PLATFORM, "--type=json", "-p", &patch])?
        .ok()
}

/// Service and Ingress have this port.
async fn routed(client: &Client, ingress: &str, port: i32) -> Step {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let ingresses: Api<Ingress> = Api::default_namespaced(client.clone());
    wait::until("the Ingress has the Service's port", PATIENCE, || async {
        let service = json!(services.get(PLATFORM).await?.spec)["ports"][0]["port"].clone();
        let rule = json!(ingresses.get(ingress).await?.spec)["rules"][0].clone();
        let backend = rule["http"]["paths"][0]["backend"]["service"].clone();
        if service == port
            && rule["host"] == "vvp.example.com"
            && backend == json!({"name": PLATFORM, "port": {"number": port}})
        {
            Ok(())
        } else {
            Err(format!("Service {service}, Ingress {rule}").into())
        }
    })
    .await?;
    Ok(())
}

/// Exactly these functions are known to the platform.
async fn registered(cluster: &Cluster, names: &[&str]) -> Step {
    let expected: Vec<String> = names
        .iter()
        .map(|name| format!("sql_v1beta1_namespaces_default_udfartifacts_{name}"))
        .collect();
    wait::until("the functions are registered", PATIENCE, || async {
        let found = inside(cluster, "ls /data")?;
        let found: Vec<&str> = found.split_whitespace().collect();
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}").into())
        }
    })
    .await?;
    Ok(())
}

/// When the first function's file was written.
fn modified(cluster: &Cluster) -> Step<String> {
    inside(cluster, "stat -c %y /data/*_geo")
}

fn inside(cluster: &Cluster, script: &str) -> Step<String> {
    let pod = format!("deployment/{PLATFORM}");
    cluster
        .kubectl(&["exec", &pod, "--", "sh", "-c", script])?
        .ok()
}

async fn names<K>(objects: &Api<K>) -> Step<Vec<String>>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let list = objects.list(&ListParams::default()).await?;
    Ok(list.items.iter().map(ResourceExt::name_any).collect())
}

/// Nothing of the instance is left.
async fn gone(client: &Client) -> Step {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let ingresses: Api<Ingress> = Api::default_namespaced(client.clone());
    wait::until("everything is gone", PATIENCE, || async {
        let mut left = names(&services).await?;
        left.extend(names(&deployments).await?);
        left.extend(names(&maps).await?);
        left.extend(names(&ingresses).await?);
        left.retain(|name| name.starts_with("sample"));
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join(", ").into())
        }
    })
    .await?;
    Ok(())
}

/// A chart that does what its instance asks for, good and bad.
const MOODS: &[(&str, &str)] = &[
    (
        "package.yaml",
        r#"apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {name: mood, version: 1.0.0}
spec:
  crd: {group: example.com, kind: Mood, version: v1, schema: {mood: {required: true}}}
  execute:
    - name: chart
      helm: {chart: mood, values: {mood: "{{ cr.mood }}", secret: "{{ secret('s', 'k') if cr.mood in ['secret', 'encoded'] else '' }}"}, kinds: [v1/ConfigMap]}
"#,
    ),
    (
        "mood/Chart.yaml",
        "apiVersion: v2\nname: mood\nversion: 1.0.0\n",
    ),
    // Of a Kind that nobody serves, and nobody asks for.
    (
        "mood/templates/optional.yaml",
        "{{- if .Values.optional }}\napiVersion: optional.example.com/v1\nkind: Nothing\nmetadata: {name: x}\n{{- end }}\n",
    ),
    (
        "mood/templates/all.yaml",
        r#"{{- if eq .Values.mood "fails" }}{{ fail "a host is needed" }}{{ end }}
apiVersion: v1
kind: {{ ternary "Secret" "ConfigMap" (eq .Values.mood "kind") }}
metadata:
  name: mood-{{ .Release.Name }}
data:
  {{- if eq .Values.mood "random" }}
  key: {{ randAlphaNum 12 | quote }}
  {{- else if eq .Values.mood "explodes" }}
  key: "{{ range until 400000000 }}xxxxxxxxxxxxxxxx{{ end }}"
  {{- else if eq .Values.mood "long" }}
  key: "{{ range until 600000 }}xxxxxxxxxxxxxxxx{{ end }}"
  {{- else if eq .Values.mood "encoded" }}
  key: {{ .Values.secret | b64enc | quote }}
  {{- else }}
  key: {{ .Values.secret | quote }}
  {{- end }}
"#,
    ),
];

#[tokio::test]
async fn charts_that_misbehave_are_refused_one_by_one() -> Step {
    let folder = tempfile::tempdir()?;
    for (name, text) in MOODS {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().ok_or("a file is in a folder")?)?;
        std::fs::write(path, text)?;
    }
    let place = folder.path().to_string_lossy().into_owned();
    let cluster = Cluster::start_with(&[&place]).await?;
    let moods = [
        ("fails", "a host is needed"),
        (
            "kind",
            "mood-kind is a v1/Secret, and the package only knows of v1/ConfigMap",
        ),
        (
            "random",
            "chart mood gives something else each time in ConfigMap mood-random at `key`",
        ),
        ("explodes", "Helm needs more than"),
        // Where Helm has less memory, that is what ends first.
        ("long", "more than"),
        (
            "encoded",
            "key k of Secret s, which is among the values, is encoded or left out by the chart",
        ),
    ];
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "p4ss"}});
    cluster.kubectl_apply(&secret.to_string(), &[])?.ok()?;
    for mood in moods
        .iter()
        .map(|(mood, _)| *mood)
        .chain(["good", "secret"])
    {
        let manifest = format!(
            "apiVersion: example.com/v1\nkind: Mood\nmetadata: {{name: {mood}}}\nspec: {{mood: {mood}}}\n"
        );
        wait::until("the kind is served", PATIENCE, || async {
            cluster.kubectl_apply(&manifest, &[])?.ok()
        })
        .await?;
    }
    for (mood, expected) in moods {
        wait::until(&format!("{mood} is refused"), PATIENCE, || async {
            let status = cluster
                .kubectl(&["get", "mood", mood, "-o", "jsonpath={.status.conditions}"])?
                .ok()?;
            if status.contains(expected) {
                Ok(())
            } else {
                Err(status.into())
            }
        })
        .await?;
        let map = cluster.kubectl(&["get", "configmap", &format!("mood-{mood}")])?;
        assert!(map.stderr.contains("not found"), "{map:?}");
    }
    for (name, expected) in [("good", ""), ("secret", "p4ss")] {
        wait::until(&format!("{name} is made"), PATIENCE, || async {
            let map = format!("mood-{name}");
            let value = cluster
                .kubectl(&["get", "configmap", &map, "-o", "jsonpath={.data.key}"])?
                .ok()?;
            if value == expected {
                Ok(())
            } else {
                Err(value.into())
            }
        })
        .await?;
    }
    Ok(())
}
