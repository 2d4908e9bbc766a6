//! `libretto install` and `uninstall`: the manifests of an installation, for `kubectl apply -f -` and `kubectl delete -f -`.
//!
//! What they look like is the Helm chart's matter: `cargo xtask generate` renders it into `deploy/manifests`, which is part of the
//! binary. Only the place, the image and the packages are put in here. Asks no cluster.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use libretto_api::installation::CRDS;
use libretto_engine::Compiled;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    cli::{
        CliError, manifest, package,
        print::{Document, Printer},
    },
    packages, rights,
};

const CLUSTER: &str = include_str!("../../../../deploy/manifests/cluster.yaml");
const NAMESPACE: &str = include_str!("../../../../deploy/manifests/namespace.yaml");

/// Where a cluster-wide installation lives unless told otherwise.
const DEFAULT_NAMESPACE: &str = "libretto-system";
/// `kubectl apply` notes what it applied in an annotation, and annotations end at 256 KiB.
const CONFIG_MAP_LIMIT: usize = 250_000;

const INSTALL_EXAMPLES: &str = "\
Examples:
  libretto install --image registry.example/libretto:0.1.0 | kubectl apply -f -
  libretto install --scope namespace -n team-a | kubectl apply -f -
  libretto install --package redis --package ./my-operator | kubectl apply -f -
  libretto install --installations | kubectl apply --server-side -f -

With --scope cluster it takes the instances of all namespaces that ask for a cluster-wide
operator; the namespace (default: libretto-system) and the packages' definitions are printed too.
Packages with charts need an image with Helm: `docker build --target with-helm` of deploy/Dockerfile.
With --scope namespace it takes those of the namespace that do not ask, and needs no right
outside of it: an administrator applies `libretto package crd NAME` once. Both may run side by side.
The Helm chart in deploy/libretto installs the same and has more settings.";

const UNINSTALL_EXAMPLES: &str = "\
Examples:
  libretto uninstall | kubectl delete -f -
  libretto uninstall --scope namespace -n team-a | kubectl delete -f -

Custom resources and their pods stay and go on without an operator; a later install takes them
over again. So neither the definitions nor the namespace are printed. `libretto package crd NAME |
kubectl delete -f -` deletes a definition, and with it every custom resource of that kind and what
belongs to them: delete those before, while the operator runs.";

/// Whose instances an installation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Scope {
    /// Those of all namespaces that ask for a cluster-wide operator
    #[default]
    Cluster,
    /// Those of its own namespace that do not
    Namespace,
}

/// Which installation.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// Namespace it runs in [default: libretto-system; none with --scope namespace]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Whose instances it takes
    #[arg(long, value_enum, default_value_t)]
    pub scope: Scope,

    /// Package to run: a bundled name or a folder, which becomes a ConfigMap; repeatable (default: all bundled ones)
    #[arg(long = "package", value_name = "NAME|DIR")]
    pub packages: Vec<String>,

    /// Let it run what the cluster's Installation objects say too; without --package, only that
    #[arg(long)]
    pub installations: bool,
}

#[derive(Debug, Args)]
#[command(after_help = INSTALL_EXAMPLES)]
pub struct InstallArgs {
    #[command(flatten)]
    pub place: PlaceArgs,

    /// Image of libretto [default: libretto:VERSION; libretto-helm:VERSION, which has Helm, for packages with charts]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = UNINSTALL_EXAMPLES)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
}

pub(crate) fn install(args: &InstallArgs, out: &mut Printer) -> Result<(), CliError> {
    let objects = objects(&args.place, Some(args.image.as_deref()))?;
    print(&objects, out)
}

pub(crate) fn uninstall(args: &UninstallArgs, out: &mut Printer) -> Result<(), CliError> {
    let mut objects = objects(&args.place, None)?;
    objects.retain(|object| {
        object["kind"] != "Namespace" && object["kind"] != "CustomResourceDefinition"
    });
    // The pod is asked to end before its rights are gone.
    objects.reverse();
    print(&objects, out)
}

fn print(objects: &[Value], out: &mut Printer) -> Result<(), CliError> {
    for object in objects {
        out.line("---")?;
        out.document(object, Document::Yaml)?;
    }
    Ok(())
}

/// Everything an installation consists of, in the order in which it can be applied.
fn objects(place: &PlaceArgs, image: Option<Option<&str>>) -> Result<Vec<Value>, CliError> {
    let namespace = match (&place.namespace, place.scope) {
        (Some(namespace), _) => namespace.as_str(),
        (None, Scope::Cluster) => DEFAULT_NAMESPACE,
        (None, Scope::Namespace) => {
            return Err(CliError::usage(
                "--scope namespace needs --namespace NAME, the one whose instances it takes; see `libretto install --help`",
            ));
        }
    };
    if place.installations && place.scope == Scope::Namespace {
        return Err(CliError::usage(
            "--installations needs --scope cluster: packages and installations are objects of the whole cluster",
        ));
    }
    let names = if place.packages.is_empty() && !place.installations {
        packages::bundled_names()
    } else {
        place.packages.clone()
    };
    let mut installed = Vec::new();
    for name in &names {
        installed.push(Installed::read(name)?);
    }
    let mut objects = Vec::new();
    if place.scope == Scope::Cluster {
        objects.push(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        );
        objects.extend(
            installed
                .iter()
                .map(|package| package.compiled.crd().clone()),
        );
    }
    if place.installations {
        objects.extend(manifest::parse("definitions", CRDS)?);
    }
    objects.extend(
        installed
            .iter()
            .filter_map(|package| package.config_map(namespace)),
    );
    // Without an image nothing is installed, so none is chosen.
    let image = image.map(|image| match image {
        Some(image) => image.to_owned(),
        None => {
            let charts = installed
                .iter()
                .any(|package| package.compiled.has_charts());
            let name = if charts { "libretto-helm" } else { "libretto" };
            format!("{name}:{}", env!("CARGO_PKG_VERSION"))
        }
    });
    let template = match place.scope {
        Scope::Cluster => CLUSTER,
        Scope::Namespace => NAMESPACE,
    };
    for mut object in manifest::parse("manifests", template)? {
        fill(&mut object, namespace, image.as_deref(), &installed);
        if place.installations {
            fill_installations(&mut object);
        }
        objects.push(object);
    }
    Ok(objects)
}

/// Puts the place, the image and the packages into an object of the chart.
fn fill(object: &mut Value, namespace: &str, image: Option<&str>, packages: &[Installed]) {
    if object["metadata"].get("namespace").is_some() {
        object["metadata"]["namespace"] = namespace.into();
    }
    match object["kind"].as_str().unwrap_or_default() {
        "ClusterRole" | "Role" => {
            object["rules"] = packages
                .iter()
                .flat_map(|package| rights::rules(&package.compiled))
                .collect();
        }
        "ClusterRoleBinding" | "RoleBinding" => {
            object["subjects"][0]["namespace"] = namespace.into();
        }
        "Deployment" => {
            let pod = &mut object["spec"]["template"];
            let folders: Vec<_> = packages.iter().filter_map(|p| p.folder.as_ref()).collect();
            if !folders.is_empty() {
                // A changed package is a new pod.
                pod["metadata"]["annotations"]["libretto.dev/packages"] = digest(&folders).into();
                pod["spec"]["volumes"] = packages.iter().filter_map(Installed::volume).collect();
            }
            let container = &mut pod["spec"]["containers"][0];
            if let Some(image) = image {
                container["image"] = image.into();
            }
            if !folders.is_empty() {
                container["volumeMounts"] = packages.iter().filter_map(Installed::mount).collect();
            }
            if packages.iter().any(|package| package.compiled.has_charts()) {
                push(
                    &mut container["volumeMounts"],
                    json!({"name": "tmp", "mountPath": "/tmp"}),
                );
                let charts =
                    json!({"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}});
                push(&mut object["spec"]["template"]["spec"]["volumes"], charts);
            }
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            if let Some(arguments) = container["args"].as_array_mut() {
                arguments.retain(|word| !starts(word, "--package="));
                arguments.extend(packages.iter().map(Installed::argument));
                for word in arguments {
                    if starts(word, "--namespace=") {
                        *word = format!("--namespace={namespace}").into();
                    }
                }
            }
        }
        _ => {}
    }
}

/// What it needs to run installations.
fn fill_installations(object: &mut Value) {
    match object["kind"].as_str().unwrap_or_default() {
        "ClusterRole" => {
            if let Some(rules) = object["rules"].as_array_mut() {
                rules.extend(rights::of_installations());
            }
        }
        "Deployment" => {
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            push(&mut container["args"], "--installations".into());
        }
        _ => {}
    }
}

/// Where Helm writes charts and values; the root file system cannot be written.
fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        _ => *list = json!([item]),
    }
}

fn starts(word: &Value, with: &str) -> bool {
    word.as_str().is_some_and(|word| word.starts_with(with))
}

fn digest(folders: &[&BTreeMap<String, String>]) -> String {
    let text = json!(folders).to_string();
    Sha256::digest(text)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A package of an installation.
struct Installed {
    compiled: std::sync::Arc<Compiled>,
    /// Its files, when it is not in the image.
    folder: Option<BTreeMap<String, String>>,
}

impl Installed {
    fn read(place: &str) -> Result<Self, CliError> {
        let compiled = package::compile(place)?;
        if packages::bundled(place) {
            return Ok(Self {
                compiled,
                folder: None,
            });
        }
        let (files, size) =
            packages::files_to_run(place).map_err(|error| CliError::failed(error.to_string()))?;
        if size > CONFIG_MAP_LIMIT {
            return Err(CliError::failed(format!(
                "package {place}: {size} bytes do not fit into a ConfigMap ({CONFIG_MAP_LIMIT})"
            ))
            .hint(
                "put it into an image or a volume, and install the Helm chart with packages.volume",
            ));
        }
        let keys: std::collections::BTreeSet<String> = files.keys().map(|path| key(path)).collect();
        if keys.len() < files.len() {
            return Err(CliError::failed(format!(
                "package {place}: the names of two files differ only in characters that a ConfigMap's key cannot have"
            ))
            .hint("keys hold letters, digits, `-`, `_` and `.`; rename one of them"));
        }
        Ok(Self {
            compiled,
            folder: Some(files),
        })
    }

    fn config_map_name(&self) -> String {
        format!("libretto-package-{}", self.compiled.name())
    }

    fn volume_name(&self) -> String {
        format!("package-{}", self.compiled.name())
    }

    fn mount_path(&self) -> String {
        format!("/packages/{}", self.compiled.name())
    }

    fn argument(&self) -> Value {
        let place = match self.folder {
            Some(_) => self.mount_path(),
            None => self.compiled.name().to_owned(),
        };
        format!("--package={place}").into()
    }

    fn config_map(&self, namespace: &str) -> Option<Value> {
        let files = self.folder.as_ref()?;
        let data: BTreeMap<String, &String> =
            files.iter().map(|(path, text)| (key(path), text)).collect();
        Some(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.config_map_name(), "namespace": namespace},
            "data": data,
        }))
    }

    fn volume(&self) -> Option<Value> {
        let items: Vec<Value> = self
            .folder
            .as_ref()?
            .keys()
            .map(|path| json!({"key": key(path), "path": path}))
            .collect();
        Some(json!({
            "name": self.volume_name(),
            "configMap": {"name": self.config_map_name(), "items": items},
        }))
    }

    fn mount(&self) -> Option<Value> {
        self.folder.as_ref()?;
        Some(json!({"name": self.volume_name(), "mountPath": self.mount_path(), "readOnly": true}))
    }
}

/// A file's key in a ConfigMap, which has no folders.
fn key(path: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    path.replace('/', "__")
        .replace(|letter| !plain(letter), "_")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PACKAGE: &str = "\
apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {name: note, version: 0.1.0, description: One ConfigMap for each Note.}
spec:
  crd: {file: objects/crd.yaml, version: v1}
  execute:
    - name: text
      for: SELECT 1
      apply:
        apiVersion: v1
        kind: ConfigMap
        metadata: {name: \"{{ cr.name }}-text\"}
";
    const CRD: &str = "\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: notes.example.org}
spec:
  group: example.org
  names: {kind: Note, listKind: NoteList, plural: notes, singular: note}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

    fn place(scope: Scope, namespace: Option<&str>, packages: &[&str]) -> PlaceArgs {
        PlaceArgs {
            namespace: namespace.map(str::to_owned),
            scope,
            packages: packages.iter().map(|&name| name.to_owned()).collect(),
            installations: false,
        }
    }

    fn rendered(scope: Scope) -> Vec<Value> {
        objects(&place(scope, Some("x"), &[]), Some(Some("image:1"))).unwrap()
    }

    fn kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
        let mut found = objects.iter().filter(|object| object["kind"] == kind);
        let object = found.next().unwrap_or_else(|| panic!("no {kind}"));
        assert!(found.next().is_none(), "two {kind}");
        object
    }

    fn bundled_rules() -> Value {
        packages::load(&[])
            .unwrap()
            .iter()
            .flat_map(|package| rights::rules(package))
            .collect()
    }

    #[test]
    fn the_pod_can_do_nothing_that_it_does_not_need() {
        for scope in [Scope::Cluster, Scope::Namespace] {
            let objects = rendered(scope);
            let deployment = &kind(&objects, "Deployment")["spec"];
            assert_eq!(deployment["replicas"], 1, "it elects no leader");
            assert_eq!(deployment["strategy"]["type"], "Recreate");
            let pod = &deployment["template"]["spec"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["runAsUser"], 65532);
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"],
                "RuntimeDefault"
            );
            assert_eq!(pod["enableServiceLinks"], false);
            for sharing in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
                assert!(pod[sharing].is_null(), "{sharing}");
            }
            let containers = pod["containers"].as_array().unwrap();
            assert_eq!(containers.len(), 1);
            let container = &containers[0];
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
            assert_eq!(container["image"], "image:1");
            for (probe, path) in [
                ("startupProbe", "/livez"),
                ("livenessProbe", "/livez"),
                ("readinessProbe", "/readyz"),
            ] {
                assert_eq!(container[probe]["httpGet"]["path"], path);
            }
            for bound in ["requests", "limits"] {
                assert!(container["resources"][bound]["memory"].is_string());
            }
        }
    }

    #[test]
    fn rights_are_those_of_the_packages_and_name_everything() {
        for (scope, role, binding) in [
            (Scope::Cluster, "ClusterRole", "ClusterRoleBinding"),
            (Scope::Namespace, "Role", "RoleBinding"),
        ] {
            let objects = rendered(scope);
            let role = kind(&objects, role);
            assert_eq!(role["rules"], bundled_rules());
            assert!(!role["rules"].to_string().contains('*'), "a wildcard");
            let crds = "customresourcedefinitions";
            assert!(!role["rules"].to_string().contains(crds), "the chart's");
            let binding = kind(&objects, binding);
            assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
            assert_eq!(binding["roleRef"]["kind"], role["kind"]);
            let account = kind(&objects, "ServiceAccount");
            assert_eq!(binding["subjects"].as_array().unwrap().len(), 1);
            assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
            assert_eq!(binding["subjects"][0]["namespace"], "x");
        }
    }

    #[test]
    fn what_is_generated_is_of_this_version() {
        for (text, scope) in [(CLUSTER, "cluster"), (NAMESPACE, "namespace")] {
            let objects = manifest::parse(scope, text).unwrap();
            let role = objects.iter().find(|object| object["rules"].is_array());
            assert_eq!(
                role.unwrap()["rules"],
                bundled_rules(),
                "`cargo xtask generate`"
            );
            let pod = &kind(&objects, "Deployment")["spec"]["template"]["spec"];
            let image = concat!("libretto:", env!("CARGO_PKG_VERSION"));
            assert_eq!(
                pod["containers"][0]["image"], image,
                "deploy/libretto/Chart.yaml"
            );
        }
    }

    #[test]
    fn a_namespaced_installation_stays_in_its_namespace() {
        let objects = rendered(Scope::Namespace);
        for object in &objects {
            assert_eq!(object["metadata"]["namespace"], "x", "{object}");
        }
        let arguments =
            &kind(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
        assert!(
            arguments
                .as_array()
                .unwrap()
                .contains(&"--namespace=x".into())
        );
        let error = objects_of(&place(Scope::Namespace, None, &[]));
        assert!(error.contains("needs --namespace"), "{error}");
    }

    #[test]
    fn installations_bring_their_definitions_and_rights() {
        let mut place = place(Scope::Cluster, None, &[]);
        place.installations = true;
        let objects = objects(&place, Some(None)).unwrap();
        let definitions = objects
            .iter()
            .filter(|object| object["kind"] == "CustomResourceDefinition")
            .count();
        assert_eq!(definitions, 3);
        let role = kind(&objects, "ClusterRole");
        assert_eq!(role["rules"], Value::Array(rights::of_installations()));
        let deployment = kind(&objects, "Deployment").to_string();
        assert!(deployment.contains("--installations"), "{deployment}");
        assert!(!deployment.contains("--package"), "{deployment}");
        place.scope = Scope::Namespace;
        place.namespace = Some("x".to_owned());
        assert!(objects_of(&place).contains("needs --scope cluster"));
    }

    fn objects_of(place: &PlaceArgs) -> String {
        objects(place, None).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_becomes_a_mounted_config_map() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("objects")).unwrap();
        std::fs::write(folder.path().join("package.yaml"), PACKAGE).unwrap();
        std::fs::write(folder.path().join("README.md"), "# For people").unwrap();
        std::fs::write(folder.path().join("objects/crd.yaml"), CRD).unwrap();
        let path = folder.path().to_str().unwrap();
        let objects = objects(&place(Scope::Cluster, None, &["redis", path]), None).unwrap();
        let map = kind(&objects, "ConfigMap");
        let data = json!({"objects__crd.yaml": CRD, "package.yaml": PACKAGE});
        assert_eq!(map["data"], data);
        assert_eq!(map["metadata"]["namespace"], DEFAULT_NAMESPACE);
        let template = &kind(&objects, "Deployment")["spec"]["template"];
        let volume = &template["spec"]["volumes"][0];
        assert_eq!(volume["configMap"]["name"], map["metadata"]["name"]);
        let item = json!({"key": "objects__crd.yaml", "path": "objects/crd.yaml"});
        assert_eq!(volume["configMap"]["items"][0], item);
        let container = &template["spec"]["containers"][0];
        assert_eq!(container["volumeMounts"][0]["name"], volume["name"]);
        let arguments: Vec<&str> = container["args"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .filter(|word| word.starts_with("--package"))
            .collect();
        assert_eq!(arguments, ["--package=redis", "--package=/packages/note"]);
        assert!(template["metadata"]["annotations"]["libretto.dev/packages"].is_string());
        let rules = kind(&objects, "ClusterRole")["rules"].to_string();
        assert!(rules.contains("notes/status"), "{rules}");
    }
}
