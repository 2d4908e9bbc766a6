//! Packages that come, change in waves, go back and go, while Libretto runs.

use std::{fs, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt as _};
use libretto_e2e::{Step, cluster::Cluster, wait};
use serde_json::Value;

/// Waves soak for a second; a killed operator is started again within some.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for several looks of the runtime.
const A_WHILE: Duration = Duration::from_secs(4);
const NAMES: [&str; 3] = ["one", "two", "three"];

/// A Kind `Note`, whose text becomes a ConfigMap, in two namespaces of its own; nobody else's, also in a shared cluster.
struct Notes {
    cluster: Cluster,
    id: String,
}

impl Notes {
    /// Namespaces, and in each a service account that may do what the package needs.
    async fn prepare() -> Step<Self> {
        let cluster = Cluster::for_installations().await?;
        let unique = cluster
            .folder()
            .file_name()
            .ok_or("the folder has no name")?;
        let unique = unique.to_string_lossy().to_lowercase();
        let id = format!("note-{}", unique.rsplit('-').next().unwrap_or_default());
        let notes = Self { cluster, id };
        let package = notes.package("1.0.0", "")?;
        let role = notes
            .cluster
            .libretto(&["package", "rbac", &package.to_string_lossy()])?
            .ok()?;
        let mut manifest = format!("{role}\n");
        for namespace in notes.namespaces() {
            manifest += &format!(
                "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{notes: {}}}}}\n",
                notes.id
            );
        }
        manifest += &format!(
            "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: notes, namespace: {}-0}}\n",
            notes.id
        );
        notes.cluster.kubectl_apply(&manifest, &[])?.ok()?;
        notes.bind()?;
        Ok(notes)
    }

    /// Grants the role in each namespace.
    fn bind(&self) -> Step<String> {
        let mut manifest = String::new();
        for namespace in self.namespaces() {
            manifest += &format!(
                "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
                 metadata: {{name: notes, namespace: {namespace}}}\n\
                 roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: libretto-{id}}}\n\
                 subjects: [{{kind: ServiceAccount, name: notes, namespace: {id}-0}}]\n",
                id = self.id
            );
        }
        self.cluster.kubectl_apply(&manifest, &[])?.ok()
    }

    fn namespaces(&self) -> [String; 2] {
        [0, 1].map(|number| format!("{}-{number}", self.id))
    }

    /// The package's folder, with what stands at the end of its rules.
    fn package(&self, version: &str, more: &str) -> Step<PathBuf> {
        let folder = self.cluster.folder().join("note");
        fs::create_dir_all(&folder)?;
        let text = format!(
            "apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {{name: {id}, version: {version}, description: One ConfigMap for each Note.}}
spec:
  crd:
    group: {id}.example.com
    kind: Note
    version: v1
    schema:
      text: {{default: empty}}
  execute:
    - name: text
      apply:
        apiVersion: v1
        kind: ConfigMap
        metadata: {{name: \"{{{{ cr.name }}}}-note\"}}
        data: {{text: \"{{{{ cr.text }}}}\", version: \"{version}\"}}
{more}",
            id = self.id,
        );
        fs::write(folder.join("package.yaml"), text)?;
        Ok(folder)
    }

    /// Publishes it; the name of the revision that it became.
    async fn publish(&self, version: &str, more: &str) -> Step<String> {
        let folder = self.package(version, more)?;
        let (said, _) = wait::until("packages can be written", PATIENCE, || async {
            self.cluster
                .libretto(&["package", "publish", &folder.to_string_lossy()])?
                .ok()
        })
        .await?;
        let revision = said.trim().rsplit(' ').next().unwrap_or_default();
        Ok(revision.to_owned())
    }

    /// Installs it as soon as the cluster serves installations, which is a moment after a Libretto starts.
    async fn install(&self, rollout: &str) -> Step {
        let manifest = format!(
            "apiVersion: libretto.dev/v1alpha1\nkind: Installation\nmetadata: {{name: {id}}}\n\
             spec:\n  package: {id}\n  serviceAccount: {{namespace: {id}-0, name: notes}}\n\
             \x20 namespaces: {{labels: {{notes: {id}}}}}\n  rollout: {rollout}\n",
            id = self.id
        );
        wait::until("an installation can be written", PATIENCE, || async {
            self.cluster.kubectl_apply(&manifest, &[])?.ok()
        })
        .await?;
        Ok(())
    }

    /// Writes the same into every note, as soon as the cluster serves them.
    async fn write(&self, text: &str) -> Step {
        let mut manifest = String::new();
        for namespace in self.namespaces() {
            for name in NAMES {
                manifest += &format!(
                    "apiVersion: {}.example.com/v1\nkind: Note\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{text: {text}}}\n---\n",
                    self.id
                );
            }
        }
        wait::until("notes can be written", PATIENCE, || async {
            self.cluster.kubectl_apply(&manifest, &[])?.ok()
        })
        .await?;
        Ok(())
    }

    fn patch(&self, spec: &str) -> Step<String> {
        let patch = format!("{{\"spec\": {spec}}}");
        self.cluster
            .kubectl(&[
                "patch",
                "installation",
                &self.id,
                "--type=merge",
                "-p",
                &patch,
            ])?
            .ok()
    }

    fn status(&self, kind: &str) -> Step<Value> {
        let text = self
            .cluster
            .kubectl(&["get", kind, &self.id, "-o", "jsonpath={.status}"])?
            .ok()?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Waits for a condition of the package or the installation, by status and reason; its message.
    async fn stands(
        &self,
        kind: &str,
        condition: &str,
        status: &str,
        reason: &str,
    ) -> Step<String> {
        let what = format!("{kind} {condition} is {status}, {reason}");
        let (message, _) = wait::until(&what, PATIENCE, || async {
            let all = self.status(kind)?;
            let found = all["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|found| found["type"] == condition);
            match found {
                Some(found) if found["status"] == status && found["reason"] == reason => {
                    Ok(found["message"].as_str().unwrap_or_default().to_owned())
                }
                _ => Err(all.to_string().into()),
            }
        })
        .await?;
        Ok(message)
    }

    /// Versions of the package that made the ConfigMaps, by how many they made.
    async fn versions(&self, text: &str) -> Step<Vec<(String, usize)>> {
        let mut counts = std::collections::BTreeMap::new();
        let client = self.cluster.client().await?;
        for namespace in self.namespaces() {
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
            for map in maps.list(&kube::api::ListParams::default()).await? {
                let name = map.name_any();
                if !name.ends_with("-note") {
                    continue;
                }
                let data = map.data.unwrap_or_default();
                if data.get("text").is_some_and(|found| found == text) {
                    let version = data.get("version").cloned().unwrap_or_default();
                    *counts.entry(version).or_insert(0) += 1;
                }
            }
        }
        Ok(counts.into_iter().collect())
    }

    async fn made_by(&self, text: &str, wanted: &[(&str, usize)]) -> Step {
        let what = format!("notes say {text:?}, by {wanted:?}");
        wait::until(&what, PATIENCE, || async {
            let found = self.versions(text).await?;
            let same = found
                .iter()
                .map(|(version, count)| (version.as_str(), *count))
                .eq(wanted.iter().copied());
            if same {
                Ok(())
            } else {
                Err(format!("{found:?}; {}", self.status("installation")?).into())
            }
        })
        .await?;
        Ok(())
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        // Of a shared cluster; the namespaces take the rest with them.
        for (kind, name) in [
            ("installation", self.id.clone()),
            ("crd", format!("notes.{}.example.com", self.id)),
            ("package", self.id.clone()),
            ("clusterrole", format!("libretto-{}", self.id)),
            ("namespace", format!("{}-0", self.id)),
            ("namespace", format!("{}-1", self.id)),
        ] {
            let _ = self
                .cluster
                .kubectl(&["delete", kind, &name, "--wait=false"]);
        }
    }
}

#[tokio::test]
async fn a_package_is_upgraded_in_waves_and_rolled_back() -> Step {
    let mut notes = Notes::prepare().await?;

    // An installation without its package says so, and works as soon as it is there.
    notes.install("{waves: [1, 50%], soak: 1s}").await?;
    let message = notes
        .stands("installation", "Ready", "False", "NoPackage")
        .await?;
    assert_eq!(message, format!("there is no Package {}", notes.id));
    let first = notes.publish("1.0.0", "").await?;
    let message = notes
        .stands("installation", "Ready", "True", "Working")
        .await?;
    assert!(message.ends_with("in 2 namespaces"), "{message}");
    notes.write("a").await?;
    notes.made_by("a", &[("1.0.0", 6)]).await?;

    // A revision with mistakes names them all and changes nothing.
    let folder = notes.package("1.1.0", "    - name: text\n      aply: {}\n    - nme: x\n")?;
    let broken = fs::read_to_string(folder.join("package.yaml"))?.replace('\n', "\n      ");
    let manifest = format!(
        "apiVersion: libretto.dev/v1alpha1\nkind: Package\nmetadata: {{name: {}}}\nspec:\n  files:\n    package.yaml: |\n      {broken}",
        notes.id
    );
    notes
        .cluster
        .kubectl_apply(&manifest, &["--server-side", "--force-conflicts"])?
        .ok()?;
    let message = notes.stands("package", "Ready", "False", "Invalid").await?;
    for part in [first.as_str(), "stays", "aply", "nme", "package.yaml:"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    notes.write("b").await?;
    notes.made_by("b", &[("1.0.0", 6)]).await?;

    // One instance first; nothing more while the rollout is paused.
    notes.patch("{\"rollout\": {\"paused\": true}}")?;
    let second = notes.publish("2.0.0", "").await?;
    let one_of_six = [("1.0.0", 5), ("2.0.0", 1)];
    notes.made_by("b", &one_of_six).await?;
    let told = format!("wave 1 of 3: 1 of 6 instances have revision {second}");
    wait::until(&told, PATIENCE, || async {
        let message = notes
            .stands("installation", "Progressing", "True", "Paused")
            .await?;
        if message == told {
            Ok(())
        } else {
            Err(message.into())
        }
    })
    .await?;
    wait::never("a second instance is upgraded", A_WHILE, || async {
        Ok(notes.versions("b").await?.len() != 2 || notes.versions("b").await?[0].1 != 5)
    })
    .await?;

    // Whoever comes after a crash goes on from there, and each instance is still one revision's.
    notes.cluster.kill().await?;
    notes.cluster.resume().await?;
    notes.write("c").await?;
    notes.made_by("c", &[("1.0.0", 5), ("2.0.0", 1)]).await?;
    notes.patch("{\"rollout\": {\"paused\": false}}")?;
    notes.made_by("c", &[("2.0.0", 6)]).await?;
    notes
        .stands("installation", "Progressing", "False", "Complete")
        .await?;

    // An instance that is not ready under a new revision holds the rollout; back is at once.
    let never_ready =
        "    - status: {ready: \"SELECT 0 AS ok, 'Never' AS reason, 'never ready' AS message\"}\n";
    notes.publish("3.0.0", never_ready).await?;
    notes.made_by("c", &[("2.0.0", 5), ("3.0.0", 1)]).await?;
    wait::never("the rollout goes on", A_WHILE, || async {
        Ok(notes.versions("c").await?[0].1 != 5)
    })
    .await?;
    notes.patch(&format!("{{\"revision\": \"{second}\"}}"))?;
    notes.made_by("c", &[("2.0.0", 6)]).await?;

    // Nor does one begin whose definition refuses what people have written.
    let folder = notes.package("4.0.0", "")?;
    let text = fs::read_to_string(folder.join("package.yaml"))?;
    fs::write(
        folder.join("package.yaml"),
        text.replace("{default: empty}", "{enum: [empty, full], default: empty}"),
    )?;
    notes
        .cluster
        .libretto(&["package", "publish", &folder.to_string_lossy()])?
        .ok()?;
    notes.patch("{\"revision\": null}")?;
    let message = notes
        .stands("installation", "Ready", "False", "InstancesRefused")
        .await?;
    for part in ["/one: ", "spec.text", &second] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    notes.patch(&format!("{{\"revision\": \"{second}\"}}"))?;
    notes
        .stands("installation", "Ready", "True", "Working")
        .await?;

    // A package in use cannot go; without its installation nobody takes care of the instances, which stay.
    notes
        .cluster
        .kubectl(&["delete", "package", &notes.id, "--wait=false"])?
        .ok()?;
    notes.write("d").await?;
    notes.made_by("d", &[("2.0.0", 6)]).await?;
    notes
        .cluster
        .kubectl(&["delete", "installation", &notes.id])?
        .ok()?;
    wait::until("the package is gone", PATIENCE, || async {
        let got = notes.cluster.kubectl(&["get", "package", &notes.id])?;
        if got.stderr.contains("NotFound") {
            Ok(())
        } else {
            Err(got.stdout.into())
        }
    })
    .await?;
    notes.write("e").await?;
    wait::never("somebody takes care of them", A_WHILE, || async {
        Ok(!notes.versions("e").await?.is_empty())
    })
    .await?;
    assert_eq!(notes.versions("d").await?, [("2.0.0".to_owned(), 6)]);
    Ok(())
}

#[tokio::test]
async fn a_package_gets_no_more_than_its_service_account_may() -> Step {
    let notes = Notes::prepare().await?;
    let first = notes.publish("1.0.0", "").await?;
    notes.install("{}").await?;
    notes.write("a").await?;
    notes.made_by("a", &[("1.0.0", 6)]).await?;

    // A revision that needs more than was granted does not begin.
    let greedy = "    - name: more\n      apply: {apiVersion: v1, kind: Secret, metadata: {name: \"{{ cr.name }}-more\"}}\n";
    notes.publish("2.0.0", greedy).await?;
    let message = notes
        .stands("installation", "Ready", "False", "MissingRights")
        .await?;
    for part in [
        "create",
        " secrets",
        &format!("{}-0/notes", notes.id),
        &first,
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    notes.write("b").await?;
    notes.made_by("b", &[("1.0.0", 6)]).await?;

    // Granted, it begins without being asked again.
    let folder = notes.package("2.0.0", greedy)?;
    let role = notes
        .cluster
        .libretto(&["package", "rbac", &folder.to_string_lossy()])?
        .ok()?;
    notes.cluster.kubectl_apply(&role, &[])?.ok()?;
    notes.made_by("b", &[("2.0.0", 6)]).await?;

    // Taken away again, somebody says so.
    let binding = [
        "delete",
        "rolebinding",
        "notes",
        "--namespace",
        &notes.namespaces()[1],
    ];
    notes.cluster.kubectl(&binding)?.ok()?;
    notes.write("c").await?;
    let message = notes
        .stands("installation", "Ready", "False", "MissingRights")
        .await?;
    assert!(message.contains("forbidden"), "{message}");
    notes.bind()?;
    notes.made_by("c", &[("2.0.0", 6)]).await?;
    notes
        .stands("installation", "Ready", "True", "Working")
        .await?;

    // Nor does it connect to where it may not.
    let nosy = "    - status: {conditions: {Door: \"SELECT ok, 'Asked' AS reason, error AS message FROM door\"}}
  sense:
    door: {probe: tcp, for: SELECT 'door' AS key, every: 1s, with: {host: 192.0.2.1, port: 80}}
";
    notes.patch("{\"permissions\": {\"hosts\": [\"*.svc\", \"10.0.0.0/8\"]}}")?;
    notes.publish("3.0.0", nosy).await?;
    wait::until("the refusal is told", PATIENCE, || async {
        let said = notes
            .cluster
            .kubectl(&[
                "get",
                &format!("notes.{}.example.com", notes.id),
                "one",
                "--namespace",
                &notes.namespaces()[0],
                "--output",
                "jsonpath={.status.conditions}",
            ])?
            .ok()?;
        if said.contains("permissions.hosts does not allow it, only *.svc, 10.0.0.0/8") {
            Ok(())
        } else {
            Err(said.into())
        }
    })
    .await?;
    Ok(())
}
