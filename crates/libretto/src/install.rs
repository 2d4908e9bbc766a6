//! Puts a package's CustomResourceDefinition into the cluster and waits until it is served.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use libretto_actions::kube::{CallError, Kube, object_ref};
use libretto_api::{
    installation::CRDS,
    object::{Gvk, ObjectRef, PACKAGE_LABEL, field_manager},
};
use libretto_engine::Compiled;
use serde_json::Value;
use tokio::time::Instant;

/// How long the API server may take to serve a new definition; it takes well under a second when healthy.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A definition could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("package {package}: its CustomResourceDefinition has no name")]
    Nameless { package: String },
    #[error(
        "package {package}: cannot install CustomResourceDefinition {name}: {source}{}",
        advice(source, package)
    )]
    Refused {
        package: String,
        name: String,
        source: CallError,
    },
    #[error("cannot install CustomResourceDefinition {name}: {source}")]
    RefusedOwn { name: String, source: CallError },
    #[error("CustomResourceDefinition {name} is not served after {} s: {state}", ESTABLISH_TIMEOUT.as_secs())]
    NotEstablishedOwn { name: String, state: String },
    #[error("package {package}: CustomResourceDefinition {name} is not served after {} s: {state}", ESTABLISH_TIMEOUT.as_secs())]
    NotEstablished {
        package: String,
        name: String,
        state: String,
    },
}

/// Applies the definition unless somebody else's, which serves the package's version, is already there.
pub async fn install(kube: &Kube, package: &Compiled) -> Result<(), InstallError> {
    let name_of = package.name().to_owned();
    let mut crd = package.crd().clone();
    crd["metadata"]["labels"][PACKAGE_LABEL] = package.name().into();
    let target = object_ref(&crd).map_err(|_failure| InstallError::Nameless {
        package: name_of.clone(),
    })?;
    let refused = |source| InstallError::Refused {
        package: name_of.clone(),
        name: target.name.clone(),
        source,
    };
    let live = kube.get(&target).await.map_err(refused)?;
    let foreign = live.as_ref().is_some_and(|live| {
        live["metadata"]["labels"][PACKAGE_LABEL] != package.name()
            && serves(live, &package.gvk().version)
    });
    if foreign {
        tracing::info!(crd = %target.name, package = package.name(), "definition is there already and not ours; left as it is");
    } else {
        let params = PatchParams::apply(&field_manager(package.name())).force();
        kube.patch(&target, None, &params, &Patch::Apply(&crd))
            .await
            .map_err(refused)?;
    }
    match await_served(kube, &target, package.gvk())
        .await
        .map_err(refused)?
    {
        None => Ok(()),
        Some(state) => Err(InstallError::NotEstablished {
            package: name_of.clone(),
            name: target.name.clone(),
            state,
        }),
    }
}

/// Applies the definitions of packages and installations themselves. Where that is not allowed it is enough that they are there.
pub async fn install_own(kube: &Kube) -> Result<(), InstallError> {
    for document in CRDS.split("\n---\n") {
        let crd: Value = serde_saphyr::from_str(document).expect("a constant that a test reads");
        let target = object_ref(&crd).expect("a constant that a test reads");
        let refused = |source| InstallError::RefusedOwn {
            name: target.name.clone(),
            source,
        };
        let params = PatchParams::apply("libretto").force();
        match kube
            .patch(&target, None, &params, &Patch::Apply(&crd))
            .await
        {
            Err(error) if error.code() == Some(403) => {
                tracing::debug!(crd = %target.name, %error, "definition not applied");
            }
            answer => {
                answer.map_err(refused)?;
            }
        }
        let version = crd["spec"]["versions"][0]["name"].as_str();
        let gvk = Gvk::new(
            crd["spec"]["group"].as_str().unwrap_or_default(),
            version.unwrap_or_default(),
            crd["spec"]["names"]["kind"].as_str().unwrap_or_default(),
        );
        if let Some(state) = await_served(kube, &target, &gvk).await.map_err(refused)? {
            return Err(InstallError::NotEstablishedOwn {
                name: target.name.clone(),
                state,
            });
        }
    }
    Ok(())
}

/// Waits until the Kind is served; its definition's conditions when it is not in time.
async fn await_served(
    kube: &Kube,
    target: &ObjectRef,
    gvk: &Gvk,
) -> Result<Option<String>, CallError> {
    let deadline = Instant::now() + ESTABLISH_TIMEOUT;
    loop {
        let served = kube.resource(gvk).await.is_ok();
        let live = match kube.get(target).await {
            // Who may not look at definitions sees what is served.
            Err(error) if error.code() == Some(403) && served => return Ok(None),
            live => live?.unwrap_or_default(),
        };
        // Established comes before the paths are in discovery.
        if established(&live) && served {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            return Ok(Some(conditions(&live)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Only a refusal can be helped by somebody with more rights.
fn advice(source: &CallError, package: &str) -> String {
    match source.code() {
        Some(401 | 403) => format!(
            "; an administrator can apply it with `libretto package crd {package} | kubectl apply --server-side -f -`, then use --no-install"
        ),
        _ => String::new(),
    }
}

fn serves(crd: &Value, version: &str) -> bool {
    crd["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|served| served["name"] == version && served["served"] == true)
}

fn established(crd: &Value) -> bool {
    crd["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

fn conditions(crd: &Value) -> String {
    let words: Vec<String> = crd["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| {
            format!(
                "{}={} ({})",
                condition["type"].as_str().unwrap_or_default(),
                condition["status"].as_str().unwrap_or_default(),
                condition["message"].as_str().unwrap_or_default()
            )
        })
        .collect();
    if words.is_empty() {
        "it has no conditions".to_owned()
    } else {
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn established_is_read_from_the_conditions() {
        let crd = json!({"status": {"conditions": [
            {"type": "NamesAccepted", "status": "False", "message": "plural taken"},
            {"type": "Established", "status": "True"},
        ]}});
        assert!(established(&crd));
        assert_eq!(
            conditions(&crd),
            "NamesAccepted=False (plural taken), Established=True ()"
        );
        assert!(!established(&json!({})));
    }

    #[test]
    fn only_served_versions_count() {
        let crd = json!({"spec": {"versions": [{"name": "v1", "served": false}, {"name": "v2", "served": true}]}});
        assert!(!serves(&crd, "v1"));
        assert!(serves(&crd, "v2"));
    }
}
