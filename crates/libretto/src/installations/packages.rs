//! Packages of the cluster: read, compiled, and kept as revisions that never change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use kube::api::{DeleteParams, Patch, PatchParams};
use libretto_actions::kube::{CallError, Kube};
use libretto_api::{
    installation::{
        IN_USE, PackageSpec, Place, REVISION_OF, RevisionSpec, package_gvk, revision_gvk,
    },
    object::{Gvk, ObjectRef},
};
use libretto_engine::{Compiled, Files};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    objects::{Objects, Seen},
    status::{self, Condition},
};
use crate::packages;

/// Mistakes that a condition lists; its message may have 32 KiB.
const MISTAKES: usize = 50;
/// Revisions that are kept although nobody uses them, unless the package says otherwise.
const HISTORY: usize = 10;

/// What packages are now.
#[derive(Debug, Default)]
pub(super) struct Packages {
    /// By revision; `Err` says why it cannot be run.
    compiled: HashMap<String, Result<Arc<Compiled>, String>>,
    /// Newest revision that can be installed, by package.
    newest: BTreeMap<String, String>,
}

/// A package's files, or why there are none: reason and message of its condition.
type Source = Result<Files, (&'static str, String)>;

impl Packages {
    /// The newest revision of a package.
    pub(super) fn newest(&self, package: &str) -> Option<&str> {
        self.newest.get(package).map(String::as_str)
    }

    /// Takes in what has changed; `used` are revisions that installations stand on.
    pub(super) async fn refresh(
        &mut self,
        kube: &Kube,
        objects: &Objects,
        used: &BTreeSet<String>,
        wanted: &BTreeSet<String>,
    ) {
        let revisions = objects.revisions();
        let seen: Vec<Seen<PackageSpec>> = objects.packages();
        self.newest
            .retain(|name, _| seen.iter().any(|package| package.name == *name));
        for package in &seen {
            let known = revisions.get(&package.name).map_or(&[][..], Vec::as_slice);
            if let Err(error) = self.take(kube, package, known, used, wanted).await {
                tracing::warn!(package = %package.name, %error, "package not taken in");
            }
        }
        for name in objects
            .leaving()
            .iter()
            .filter(|name| !used.contains(*name))
        {
            let patch = json!({"metadata": {"finalizers": null}});
            let released = kube
                .patch(
                    &revision_reference(name),
                    None,
                    &PatchParams::default(),
                    &Patch::Merge(&patch),
                )
                .await;
            match released {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(revision = %name, %error, "revision not let go");
                }
                _ => {}
            }
        }
        let all: BTreeSet<&String> = revisions.values().flatten().collect();
        self.compiled
            .retain(|revision, _| all.contains(revision) || used.contains(revision));
    }

    async fn take(
        &mut self,
        kube: &Kube,
        package: &Seen<PackageSpec>,
        known: &[String],
        used: &BTreeSet<String>,
        wanted: &BTreeSet<String>,
    ) -> Result<(), CallError> {
        let held = package.finalizers.iter().any(|name| name == IN_USE);
        if package.deleting {
            if held && !wanted.contains(&package.name) {
                hold(kube, package, false).await?;
            }
            return Ok(());
        }
        if !held {
            hold(kube, package, true).await?;
        }
        let former = package.status["revision"].as_str().map(str::to_owned);
        let accepted = match &package.spec {
            Ok(spec) => self.accept(kube, package, spec, known).await?,
            Err(error) => Err(("Invalid", error.clone())),
        };
        let (revision, condition) = match accepted {
            Ok((revision, version)) => {
                let message = format!("version {version} can be installed");
                (
                    Some(revision),
                    Condition::new("Ready", true, "Compiled", message),
                )
            }
            Err((reason, message)) => {
                let message = match &former {
                    Some(former) => format!("revision {former} stays: {message}"),
                    None => message,
                };
                (former, Condition::new("Ready", false, reason, message))
            }
        };
        let version = match &revision {
            Some(revision) => {
                self.newest.insert(package.name.clone(), revision.clone());
                self.compiled(kube, revision)
                    .await
                    .map(|compiled| compiled.version().to_owned())
                    .ok()
            }
            None => None,
        };
        let mut new = json!({"observedGeneration": package.generation});
        new["revision"] = revision.clone().into();
        new["version"] = version.into();
        status::write(
            kube,
            &reference(&package.name),
            package,
            new,
            Some(&[condition]),
        )
        .await?;
        let limit = match &package.spec {
            Ok(spec) => spec.revision_history_limit.unwrap_or(HISTORY),
            Err(_) => HISTORY,
        };
        let idle: Vec<&String> = known
            .iter()
            .filter(|name| !used.contains(*name) && Some(*name) != revision.as_ref())
            .collect();
        for name in idle.iter().take(idle.len().saturating_sub(limit)) {
            let revision = revision_reference(name);
            // Its finalizer goes when its deletion is seen.
            match kube.delete(&revision, &DeleteParams::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The revision of what the package is now, made when it is new; with the package's own version.
    async fn accept(
        &mut self,
        kube: &Kube,
        package: &Seen<PackageSpec>,
        spec: &PackageSpec,
        known: &[String],
    ) -> Result<Result<(String, String), (&'static str, String)>, CallError> {
        let files = match source(kube, spec).await? {
            Ok(files) => files,
            Err(problem) => return Ok(Err(problem)),
        };
        if let Some(path) = files.keys().find(|path| !inside(path)) {
            let message = format!("{path:?} is no file of a package: a path below its folder");
            return Ok(Err(("Invalid", message)));
        }
        let revision = revision_name(&package.name, &files);
        if !self.compiled.contains_key(&revision) {
            let compiled = compile(files.clone()).await;
            self.compiled.insert(revision.clone(), compiled);
        }
        let compiled = match &self.compiled[&revision] {
            Ok(compiled) => Arc::clone(compiled),
            Err(mistakes) => return Ok(Err(("Invalid", mistakes.clone()))),
        };
        if compiled.name() != package.name {
            return Ok(Err((
                "OtherName",
                format!(
                    "its package.yaml is named {}: name the object so, or the package",
                    compiled.name()
                ),
            )));
        }
        if !known.contains(&revision) {
            let spec = RevisionSpec {
                package: package.name.clone(),
                version: compiled.version().to_owned(),
                files,
            };
            let gvk = revision_gvk();
            let body = json!({
                "apiVersion": gvk.api_version(), "kind": gvk.kind,
                "metadata": {
                    "name": revision,
                    "labels": {REVISION_OF: package.name},
                    "finalizers": [IN_USE],
                    "ownerReferences": [{
                        "apiVersion": gvk.api_version(), "kind": package_gvk().kind,
                        "name": package.name, "uid": package.uid, "controller": true,
                    }],
                },
                "spec": spec,
            });
            match kube.create(&revision_reference(&revision), &body).await {
                // Made a moment ago; the watch has not told yet.
                Err(error) if error.code() == Some(409) => {}
                Err(error) if matches!(error.code(), Some(400 | 413 | 422)) => {
                    return Ok(Err((
                        "NotKept",
                        format!("its revision is refused: {error}"),
                    )));
                }
                Err(error) => return Err(error),
                Ok(_) => {
                    tracing::info!(%revision, "package taken in");
                }
            }
        }
        Ok(Ok((revision, compiled.version().to_owned())))
    }

    /// A revision ready to run.
    pub(super) async fn compiled(
        &mut self,
        kube: &Kube,
        revision: &str,
    ) -> Result<Arc<Compiled>, String> {
        if let Some(compiled) = self.compiled.get(revision) {
            return compiled.clone();
        }
        let object = kube
            .get(&revision_reference(revision))
            .await
            .map_err(|error| format!("read PackageRevision {revision}: {error}"))?
            .ok_or_else(|| format!("there is no PackageRevision {revision}"))?;
        let spec: RevisionSpec = serde_json::from_value(object["spec"].clone())
            .map_err(|error| format!("PackageRevision {revision}: {error}"))?;
        // Whoever may write revisions must not get them run under the name of others.
        if revision_name(&spec.package, &spec.files) != revision {
            return Err(format!(
                "PackageRevision {revision} was not made from its files: delete it"
            ));
        }
        let compiled = compile(spec.files).await;
        self.compiled.insert(revision.to_owned(), compiled.clone());
        compiled
    }
}

/// The path stays below the folder that it is relative to.
fn inside(path: &str) -> bool {
    !path.contains(['\\', '\0'])
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Keeps the package when it is deleted, or lets it go.
async fn hold(kube: &Kube, package: &Seen<PackageSpec>, hold: bool) -> Result<(), CallError> {
    let mut names: Vec<&str> = package.finalizers.iter().map(String::as_str).collect();
    names.retain(|name| *name != IN_USE);
    if hold {
        names.push(IN_USE);
    }
    // Not when somebody else has changed them meanwhile.
    let patch = json!({"metadata": {"uid": package.uid, "finalizers": names}});
    kube.patch(
        &reference(&package.name),
        None,
        &PatchParams::default(),
        &Patch::Merge(&patch),
    )
    .await
    .map(drop)
}

async fn source(kube: &Kube, spec: &PackageSpec) -> Result<Source, CallError> {
    if let Some(files) = &spec.files {
        return Ok(Ok(files.clone()));
    }
    if let Some(name) = &spec.bundled {
        let unknown = || {
            let known = packages::bundled_names().join(", ");
            format!("no package named {name:?} comes with libretto; there are: {known}")
        };
        return Ok(packages::bundled_files(name).ok_or_else(|| ("NotFound", unknown())));
    }
    if let Some(place) = &spec.config_map {
        return of_config_map(kube, place).await;
    }
    Ok(Err(("Invalid", "it has no source".to_owned())))
}

async fn of_config_map(kube: &Kube, place: &Place) -> Result<Source, CallError> {
    let object = ObjectRef {
        gvk: Gvk::new("", "v1", "ConfigMap"),
        namespace: place.namespace.clone(),
        name: place.name.clone(),
    };
    let Some(map) = kube.get(&object).await? else {
        return Ok(Err(("NotFound", format!("there is no ConfigMap {place}"))));
    };
    let mut files = Files::new();
    for (key, value) in map["data"].as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default().to_owned();
        files.insert(key.replace("__", "/"), text);
    }
    Ok(Ok(files))
}

/// What takes a moment is done beside whoever serves others.
async fn compile(files: Files) -> Result<Arc<Compiled>, String> {
    let compiling = tokio::task::spawn_blocking(move || {
        libretto_engine::load_files(&files).map_err(|mut mistakes| {
            let all = mistakes.len();
            mistakes.truncate(MISTAKES);
            let plural = if all == 1 { "" } else { "s" };
            let list = libretto_engine::render(&mistakes);
            format!("{all} mistake{plural}:\n{}", list.trim_end())
        })
    });
    match compiling.await {
        Ok(compiled) => compiled.map(Arc::new),
        Err(error) => Err(format!("it could not be compiled: {error}")),
    }
}

/// `cache-3f2a9c01b7`: the same files are the same revision.
pub(super) fn revision_name(package: &str, files: &Files) -> String {
    let mut digest = Sha256::new();
    for (path, text) in files {
        for part in [path, text] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
    }
    let short: String = digest
        .finalize()
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{package}-{short}")
}

fn reference(name: &str) -> ObjectRef {
    cluster_scoped(package_gvk(), name)
}

fn revision_reference(name: &str) -> ObjectRef {
    cluster_scoped(revision_gvk(), name)
}

fn cluster_scoped(gvk: Gvk, name: &str) -> ObjectRef {
    ObjectRef {
        gvk,
        namespace: String::new(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_same_files_are_the_same_revision() {
        let files = |pairs: &[(&str, &str)]| -> Files {
            pairs
                .iter()
                .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
                .collect()
        };
        let one = revision_name("p", &files(&[("a", "bc"), ("d", "")]));
        assert_eq!(one, revision_name("p", &files(&[("d", ""), ("a", "bc")])));
        assert_ne!(one, revision_name("p", &files(&[("ab", "c"), ("d", "")])));
        assert_eq!(one.len(), "p-".len() + 10);
    }

    #[test]
    fn files_lie_below_the_folder() {
        for path in ["package.yaml", "objects/a.yaml", "a b/..c"] {
            assert!(inside(path), "{path}");
        }
        for path in ["", "/a", "../a", "a/../b", "a//b", "./a", "a\\b"] {
            assert!(!inside(path), "{path}");
        }
    }

    #[tokio::test]
    async fn every_mistake_is_told() {
        let files = Files::from([(
            "package.yaml".to_owned(),
            "apiVersion: libretto.dev/v1alpha1\nkind: Package\nmetadata: {name: X}\nspec: {crd: {}, nope: 1}\n"
                .to_owned(),
        )]);
        let error = compile(files).await.unwrap_err();
        assert!(error.contains("mistakes:\n"), "{error}");
        assert!(error.contains("nope"), "{error}");
    }
}
