//! One instance as an operator that starts now would see it: rows from the cluster or from files, what the last operator wrote down,
//! answers of probes that were asked once. Never here: writing anything, or deciding.

mod ask;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use kube::api::ListParams;
use libretto_actions::kube::{CallError, object_ref};
use libretto_api::{
    chart::{Charts, NoCharts},
    intent::Millis,
    object::{Gvk, InstanceRef, ObjectRef},
    secret::MARK,
};
use libretto_engine::{Compiled, Engine, Ledger, Plan};
use libretto_mirror::{Change, Datum, Mirror, MirrorError, ScopeMode, Snapshot};
use serde_json::{Value, json};

pub(crate) use ask::{Answer, Asked};

use crate::{
    charts::AtOnce,
    cli::{CliError, connect::Cluster},
    clock, inventory,
    watch::selector,
};

/// Objects per page of a list, as for watches.
const PAGE: u32 = 500;
/// Uid of an instance that is in no cluster yet.
const UNBORN: &str = "uid-of-the-instance";

/// What was looked at.
pub(crate) struct Look {
    pub(crate) package: Arc<Compiled>,
    pub(crate) engine: Engine,
    pub(crate) instance: InstanceRef,
    /// The instance itself.
    pub(crate) object: Value,
    /// Everything else of the Kinds that the package watches, as the API server gave it.
    pub(crate) live: BTreeMap<ObjectRef, Value>,
    pub(crate) ledger: Ledger,
    /// An operator wrote down what it did for the instance.
    pub(crate) remembered: bool,
    /// Kinds that the cluster does not serve and without which nothing is decided.
    pub(crate) unserved: Vec<Gvk>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) now: Millis,
    mirror: Mirror,
}

impl Look {
    /// Looks at `object`, which is the instance of the cluster (`live`) or what it shall become.
    pub(crate) async fn at_cluster(
        cluster: &Cluster,
        package: Arc<Compiled>,
        live: Option<&Value>,
        object: Value,
        helm: &Path,
    ) -> Result<Self, CliError> {
        let version = if package.has_charts() {
            cluster.kube.client().apiserver_version().await.ok()
        } else {
            None
        };
        let charts = charts(&package, helm, version.map(|version| version.git_version));
        let mut look = Self::new(package, object, charts);
        let read = inventory::read(&cluster.kube, &look.instance)
            .await
            .map_err(|error| {
                CliError::failed(format!("inventory of {}: {error}", look.instance))
            })?;
        look.remembered = !read.is_null();
        look.ledger = Ledger::from_inventory(&read).map_err(CliError::failed)?;
        for watch in look.package.watches().to_vec() {
            let listed = list(
                cluster,
                &watch.gvk,
                Some(&look.instance.namespace),
                &selector(&watch.labels),
            )
            .await;
            match listed {
                Ok((objects, namespaced)) => look.take(&watch.gvk, objects, namespaced)?,
                Err(CallError::NotServed(gvk)) if watch.optional => {
                    look.mirror.replace_all(&gvk, None, &[]).map_err(broken)?;
                }
                Err(CallError::NotServed(gvk)) => look.unserved.push(gvk),
                Err(error) => {
                    let failed = CliError::call(&format!("list {}", watch.gvk.kind), &error);
                    return Err(match error.code() {
                        Some(403) => failed.hint(format!(
                            "`libretto package rbac {}` prints the rights to read what the package sees",
                            look.package.name()
                        )),
                        _ => failed,
                    });
                }
            }
        }
        look.fetch_elsewhere(cluster, &read).await?;
        // Values of the instance's own secret fields are those of the cluster; a file's are in no cluster.
        let known = match live {
            Some(_) => handles(&look.snapshot()?),
            None => BTreeSet::new(),
        };
        look.become_the_object()?;
        if look.unserved.is_empty() {
            ask::ask(&mut look, cluster, &known).await?;
        }
        Ok(look)
    }

    /// Looks at objects of files: the instance and what else there is. No probe was ever answered.
    pub(crate) fn at_files(
        package: Arc<Compiled>,
        object: Value,
        others: &[Value],
        helm: &Path,
    ) -> Result<Self, CliError> {
        let charts = charts(&package, helm, None);
        let mut look = Self::new(package, object, charts);
        let mut by_kind: BTreeMap<Gvk, Vec<Value>> = BTreeMap::new();
        for (number, other) in others.iter().enumerate() {
            let mut other = other.clone();
            let name = object_ref(&other).map_err(|failure| CliError::failed(failure.message))?;
            let metadata = &mut other["metadata"];
            if metadata["uid"].is_null() {
                metadata["uid"] = json!(format!("uid-{number}"));
            }
            if metadata["resourceVersion"].is_null() {
                metadata["resourceVersion"] = json!("1");
            }
            // Whether the Kind is in a namespace only a cluster knows; these are there for the instance.
            if metadata["namespace"].is_null() {
                metadata["namespace"] = json!(look.instance.namespace);
            }
            by_kind.entry(name.gvk).or_default().push(other);
        }
        for watch in look.package.watches().to_vec() {
            let objects = by_kind.remove(&watch.gvk).unwrap_or_default();
            look.take(&watch.gvk, objects, false)?;
        }
        look.become_the_object()?;
        Ok(look)
    }

    fn new(package: Arc<Compiled>, object: Value, charts: Arc<dyn Charts>) -> Self {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let instance = InstanceRef {
            package: package.name().to_owned(),
            gvk: package.gvk().clone(),
            namespace: text("namespace").to_owned(),
            name: text("name").to_owned(),
            uid: text("uid").to_owned(),
        };
        let mut mirror = Mirror::new(ScopeMode::Any);
        mirror.declare(package.schema().clone());
        Self {
            engine: Engine::new(Arc::clone(&package), charts),
            package,
            instance,
            object,
            live: BTreeMap::new(),
            ledger: Ledger::default(),
            remembered: false,
            unserved: Vec::new(),
            asked: Vec::new(),
            now: clock::now(),
            mirror,
        }
    }

    fn take(&mut self, gvk: &Gvk, objects: Vec<Value>, namespaced: bool) -> Result<(), CliError> {
        let scope = namespaced.then_some(self.instance.namespace.as_str());
        self.mirror
            .replace_all(gvk, scope, &objects)
            .map_err(broken)?;
        for object in objects {
            if let Ok(name) = object_ref(&object) {
                self.live.insert(name, object);
            }
        }
        Ok(())
    }

    /// Objects that the instance applied in other namespaces.
    async fn fetch_elsewhere(
        &mut self,
        cluster: &Cluster,
        inventory: &Value,
    ) -> Result<(), CliError> {
        for entry in inventory["objects"].as_array().into_iter().flatten() {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let (Ok(gvk), namespace) = (text("kind").parse::<Gvk>(), text("namespace")) else {
                continue;
            };
            if namespace.is_empty() || namespace == self.instance.namespace {
                continue;
            }
            let name = ObjectRef {
                gvk,
                namespace,
                name: text("name"),
            };
            let found = cluster.kube.get(&name).await;
            let found = found.map_err(|error| CliError::call(&format!("read {name}"), &error))?;
            if let Some(object) = found {
                self.mirror
                    .ingest(&name.gvk, Change::Applied(&object))
                    .map_err(broken)?;
                self.live.insert(name, object);
            }
        }
        Ok(())
    }

    /// The instance in the mirror is the one that is looked at.
    fn become_the_object(&mut self) -> Result<(), CliError> {
        let mut object = self.object.clone();
        // A version that is not newer would not be taken.
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0);
        object["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        self.mirror
            .ingest(&self.instance.gvk, Change::Applied(&object))
            .map_err(broken)?;
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, CliError> {
        self.mirror
            .snapshot(&self.instance.package, &self.instance.uid)
            .map_err(broken)?
            .ok_or_else(|| CliError::failed(format!("{} is gone", self.instance)))
    }

    /// What an operator that starts now would do in its first pass.
    pub(crate) fn plan(&self) -> Result<Plan, CliError> {
        // The seed is for the jitter of retries, and nothing was tried yet.
        Ok(self
            .engine
            .plan(&self.snapshot()?, &self.ledger, self.now, 0))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
fn broken(error: MirrorError) -> CliError {
    CliError::failed(format!("mirror: {error}"))
}

/// Texts of the handles among the instance's own columns.
fn handles(snapshot: &Snapshot) -> BTreeSet<String> {
    let rows = snapshot.tables.get("cr").map(|cr| cr.rows.as_slice());
    rows.into_iter()
        .flatten()
        .flat_map(|row| row.iter())
        .filter_map(Datum::as_str)
        .filter(|text| text.contains(MARK))
        .map(str::to_owned)
        .collect()
}

fn charts(package: &Compiled, helm: &Path, version: Option<String>) -> Arc<dyn Charts> {
    if package.has_charts() {
        Arc::new(AtOnce::new(helm, version))
    } else {
        Arc::new(NoCharts)
    }
}

/// Every object of a Kind with these labels, in one namespace or in all; and whether the Kind is in namespaces.
pub(crate) async fn list(
    cluster: &Cluster,
    gvk: &Gvk,
    namespace: Option<&str>,
    labels: &str,
) -> Result<(Vec<Value>, bool), CallError> {
    let resource = cluster.kube.resource(gvk).await?;
    let namespace = namespace.unwrap_or_default();
    let mut objects = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    if !labels.is_empty() {
        params = params.labels(labels);
    }
    loop {
        let mut page = cluster.kube.list(gvk, namespace, &params).await?;
        if let Value::Array(items) = page["items"].take() {
            objects.extend(items.into_iter().map(|mut item| {
                // Items of a list come without their type.
                item["apiVersion"] = gvk.api_version().into();
                item["kind"] = gvk.kind.clone().into();
                item
            }));
        }
        match page["metadata"]["continue"].as_str() {
            Some(token) if !token.is_empty() => params = params.continue_token(token),
            _ => return Ok((objects, resource.namespaced)),
        }
    }
}

/// The package whose Kind a person calls `word`.
pub(crate) fn package_of(word: &str, loaded: &[Arc<Compiled>]) -> Result<Arc<Compiled>, CliError> {
    let found = loaded
        .iter()
        .find(|package| names(package.crd(), &word.to_lowercase()));
    if let Some(package) = found {
        return Ok(Arc::clone(package));
    }
    let known: Vec<String> = loaded
        .iter()
        .map(|package| format!("{} ({})", package.gvk().kind, package.name()))
        .collect();
    Err(
        CliError::failed(format!("no package here is about a Kind called {word:?}")).hint(format!(
            "there are {}; --package names another",
            known.join(", ")
        )),
    )
}

/// The definition's Kind has this name.
fn names(crd: &Value, word: &str) -> bool {
    let names = &crd["spec"]["names"];
    let group = crd["spec"]["group"].as_str().unwrap_or_default();
    let bare = word
        .strip_suffix(group)
        .and_then(|word| word.strip_suffix('.'))
        .unwrap_or(word);
    let is = |name: &Value| {
        name.as_str()
            .is_some_and(|name| name.to_lowercase() == bare)
    };
    ["kind", "plural", "singular"]
        .iter()
        .any(|key| is(&names[*key]))
        || names["shortNames"].as_array().into_iter().flatten().any(is)
}

/// `KIND/NAME`, in two words.
pub(crate) fn kind_and_name(word: &str) -> Result<(&str, &str), CliError> {
    match word.split_once('/') {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((kind, name))
        }
        _ => Err(CliError::usage(format!(
            "{word:?} is not KIND/NAME, such as rediscluster/test"
        ))),
    }
}

/// The instance as it is in the cluster.
pub(crate) async fn fetch(
    cluster: &Cluster,
    package: &Compiled,
    name: &str,
) -> Result<Option<Value>, CliError> {
    let target = ObjectRef {
        gvk: package.gvk().clone(),
        namespace: cluster.namespace.clone(),
        name: name.to_owned(),
    };
    cluster.kube.get(&target).await.map_err(|error| {
        let failed = CliError::call(&format!("read {target}"), &error);
        match error {
            CallError::NotServed(_) => failed.hint(format!(
                "`libretto package crd {} | libretto apply -f -` installs it",
                package.name()
            )),
            _ => failed,
        }
    })
}

/// An instance of a file as the API server would make it of the one that is there, or anew.
pub(crate) fn admitted(
    package: &Compiled,
    live: Option<&Value>,
    file: &Value,
    namespace: &str,
) -> Result<Value, CliError> {
    let gvk = package.gvk();
    let name = object_ref(file).map_err(|failure| CliError::failed(failure.message))?;
    if name.gvk != *gvk {
        return Err(CliError::failed(format!(
            "the file has a {}, package {} works with {gvk}",
            name.gvk,
            package.name()
        )));
    }
    let mut wanted = file.clone();
    package.admit(&mut wanted).map_err(|wrong| {
        CliError::failed(format!(
            "the definition does not allow {}/{}: {wrong}",
            gvk.kind, name.name
        ))
    })?;
    let Some(live) = live else {
        let metadata = &mut wanted["metadata"];
        for (key, value) in [
            ("namespace", namespace),
            ("uid", UNBORN),
            ("resourceVersion", "0"),
        ] {
            if metadata[key].is_null() {
                metadata[key] = json!(value);
            }
        }
        if metadata["generation"].is_null() {
            metadata["generation"] = json!(1);
        }
        return Ok(wanted);
    };
    let mut object = live.clone();
    for (key, value) in wanted.as_object().into_iter().flatten() {
        if !["apiVersion", "kind", "metadata", "status"].contains(&key.as_str()) {
            object[key] = value.clone();
        }
    }
    for map in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][map].as_object().into_iter().flatten() {
            object["metadata"][map][key] = value.clone();
        }
    }
    if object["spec"] != live["spec"]
        && let Some(generation) = live["metadata"]["generation"].as_i64()
    {
        object["metadata"]["generation"] = json!(generation + 1);
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packages;

    fn redis() -> Arc<Compiled> {
        packages::load(&["redis".to_owned()]).unwrap().remove(0)
    }

    #[test]
    fn a_package_is_found_by_every_name_of_its_kind() {
        for word in ["RedisCluster", "redisclusters", "rediscluster.redis.kun"] {
            assert_eq!(
                package_of(word, &[redis()]).unwrap().name(),
                "redis",
                "{word}"
            );
        }
        let error = package_of("pod", &[redis()]).err().unwrap().to_string();
        assert!(error.contains("RedisCluster (redis)"), "{error}");
        assert_eq!(kind_and_name("a/b").unwrap(), ("a", "b"));
        assert_eq!(kind_and_name("a").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_file_takes_the_place_of_the_spec() {
        let file = json!({"apiVersion": "redis.kun/v1beta1", "kind": "RedisCluster",
            "metadata": {"name": "test", "labels": {"a": "1"}}, "spec": {"size": 5}});
        let made = admitted(&redis(), None, &file, "ns").unwrap();
        assert_eq!(made["metadata"]["namespace"], "ns");
        assert_eq!(made["metadata"]["uid"], UNBORN);
        let mut live = made;
        live["metadata"]["uid"] = json!("u");
        live["spec"]["size"] = json!(3);
        live["status"] = json!({"x": 1});
        let changed = admitted(&redis(), Some(&live), &file, "ns").unwrap();
        assert_eq!(changed["spec"]["size"], 5);
        assert_eq!(changed["metadata"]["generation"], 2);
        assert_eq!(changed["metadata"]["uid"], "u");
        assert_eq!(changed["status"], json!({"x": 1}));
        let wrong = json!({"apiVersion": "redis.kun/v1beta1", "kind": "RedisCluster", "metadata": {"name": "t"}, "spec": {"size": "x"}});
        let error = admitted(&redis(), None, &wrong, "ns").unwrap_err();
        assert!(error.to_string().contains("spec.size"), "{error}");
    }
}
