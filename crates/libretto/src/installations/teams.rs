//! The runtimes of installations: started, divided, stopped.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use kube::api::ListParams;
use libretto_actions::{
    Allowed,
    kube::{CallError, Kube},
};
use libretto_api::installation::{INSTANCE_COLUMNS, Place};
use libretto_engine::Compiled;
use libretto_mirror::{ColumnType, Datum, Limits, MirrorError, ScopeMode};
use serde_json::Value;

use super::{
    Problem, Ready, Settings,
    place::{self, Claim, Spot},
    rollout::Standing,
};
use crate::{
    client,
    drive::Driver,
    process::Process,
    rights,
    runtime::{Options, Runtime},
    share::{Part, Share, hash},
};

/// A runtime as it should be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    installation: String,
    account: Option<Place>,
    allowed: Option<Allowed>,
    spot: Spot,
    revision: String,
    compiled: Arc<Compiled>,
    mode: ScopeMode,
    share: Share,
}

impl Wanted {
    pub(super) fn new(
        ready: &Ready<'_>,
        spot: &Spot,
        revision: &str,
        compiled: &Arc<Compiled>,
        part: Part,
        claims: &[Claim],
    ) -> Self {
        let annotated = compiled.schema().instance.scope.is_some();
        let mode = place::mode(spot, annotated);
        let except = match spot {
            Spot::Everywhere => place::except(claims, &super::kind(compiled), mode),
            Spot::Namespace(_) => std::collections::BTreeSet::new(),
        };
        Self {
            installation: ready.seen.name.clone(),
            account: ready.spec.service_account.clone(),
            allowed: ready.allowed.clone(),
            spot: spot.clone(),
            revision: revision.to_owned(),
            compiled: Arc::clone(compiled),
            mode,
            share: Share { part, except },
        }
    }

    /// The same runtime, whatever its share.
    fn is(&self, other: &Self) -> bool {
        self.installation == other.installation
            && self.account == other.account
            && self.allowed == other.allowed
            && self.spot == other.spot
            && self.revision == other.revision
    }
}

#[derive(Debug)]
struct Team {
    wanted: Wanted,
    runtime: Runtime,
}

/// All runtimes of all installations.
#[derive(Debug)]
pub(super) struct Teams {
    process: Arc<Process>,
    config: kube::Config,
    helm: PathBuf,
    loopback: bool,
    teams: Vec<Team>,
}

/// An instance in a rollout.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) hash: u64,
    namespace: String,
    name: String,
    /// Somebody with the new revision takes care of it.
    pub(super) updated: bool,
    /// Evaluated, at rest, and Ready.
    pub(super) ready: bool,
    reason: String,
    message: String,
}

impl std::fmt::Display for Sight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.message.is_empty() {
            write!(f, " ({})", self.message)?;
        }
        Ok(())
    }
}

impl Teams {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            process: Arc::clone(&settings.process),
            config: settings.config.clone(),
            helm: settings.helm.clone(),
            loopback: settings.loopback,
            teams: Vec::new(),
        }
    }

    /// What the installation has now is wanted again.
    pub(super) fn keep(&self, installation: &str, desired: &mut Vec<Wanted>) {
        let own = self
            .of(installation)
            .filter(|team| !desired.iter().any(|wanted| wanted.is(&team.wanted)))
            .map(|team| team.wanted.clone());
        let own: Vec<Wanted> = own.collect();
        desired.extend(own);
    }

    /// What the installation takes care of now.
    pub(super) fn claims(&self, installation: &str) -> Vec<Claim> {
        self.of(installation)
            .map(|team| Claim {
                who: format!("installation {installation}"),
                kind: super::kind(&team.wanted.compiled),
                spot: team.wanted.spot.clone(),
                mode: team.wanted.mode,
            })
            .collect()
    }

    fn of(&self, installation: &str) -> impl Iterator<Item = &Team> {
        self.teams
            .iter()
            .filter(move |team| team.wanted.installation == installation)
    }

    /// Anything of the installation runs.
    pub(super) fn works(&self, installation: &str) -> bool {
        self.of(installation).next().is_some()
    }

    /// Each of its runtimes knows its instances.
    pub(super) fn listed(&self, installation: &str) -> bool {
        self.of(installation).all(|team| {
            let package = team.wanted.compiled.name();
            team.runtime.driver().tables.complete(package)
        })
    }

    /// Something that its service account may not do any more, if anything.
    pub(super) fn refusal(&self, installation: &str) -> Option<String> {
        self.of(installation)
            .find_map(|team| team.runtime.driver().refusal())
    }

    /// Instances that the installation takes care of.
    pub(super) fn count(&self, installation: &str) -> usize {
        self.of(installation)
            .map(|team| team.runtime.driver().own().len())
            .sum()
    }

    /// Of those, how many have the revision of the rollout, and all.
    pub(super) fn counts(&self, installation: &str, standing: &Standing) -> (usize, usize) {
        let to = standing.rollout.as_ref().map(|rollout| rollout.to.as_str());
        let updated = self
            .of(installation)
            .filter(|team| Some(team.wanted.revision.as_str()) == to)
            .map(|team| team.runtime.driver().own().len())
            .sum();
        (updated, self.count(installation))
    }

    /// Makes the runtimes what they should be, and gives `own`, the process's runtime, its share. Nobody takes an instance before
    /// whoever had it has let it go. Says which installations could not begin everywhere.
    pub(super) async fn reach(
        &mut self,
        desired: Vec<Wanted>,
        own: Option<(&Driver, Share)>,
    ) -> BTreeMap<String, Problem> {
        let mut index = 0;
        while index < self.teams.len() {
            if desired
                .iter()
                .any(|wanted| wanted.is(&self.teams[index].wanted))
            {
                index += 1;
                continue;
            }
            let team = self.teams.swap_remove(index);
            tracing::info!(installation = %team.wanted.installation, revision = %team.wanted.revision, "stops {}", team.wanted.spot);
            team.runtime.stop().await;
        }
        if let Some((driver, share)) = &own {
            reduce(driver, share).await;
        }
        for team in &self.teams {
            if let Some(wanted) = desired.iter().find(|wanted| wanted.is(&team.wanted)) {
                reduce(team.runtime.driver(), &wanted.share).await;
            }
        }
        if let Some((driver, share)) = own {
            extend(driver, share).await;
        }
        let mut failures = BTreeMap::new();
        for wanted in desired {
            if let Some(team) = self.teams.iter_mut().find(|team| wanted.is(&team.wanted)) {
                extend(team.runtime.driver(), wanted.share.clone()).await;
                team.wanted = wanted;
                continue;
            }
            match self.begin(&wanted).await {
                Ok(runtime) => self.teams.push(Team { wanted, runtime }),
                Err(problem) => {
                    failures.insert(wanted.installation, problem);
                }
            }
        }
        failures
    }

    async fn begin(&self, wanted: &Wanted) -> Result<Runtime, Problem> {
        let account = wanted.account.as_ref();
        let client = client_as(&self.config, account)?;
        check_rights(
            client.clone(),
            account,
            &wanted.spot,
            &wanted.revision,
            &wanted.compiled,
        )
        .await?;
        let options = Options {
            packages: vec![Arc::clone(&wanted.compiled)],
            scope: wanted.mode,
            namespace: wanted.spot.namespace().map(str::to_owned),
            // The definition is the administrator's: it was put there in their name.
            install: false,
            helm: self.helm.clone(),
            loopback: self.loopback,
            allowed: wanted.allowed.clone(),
            rehearsal: None,
            share: wanted.share.clone(),
        };
        tracing::info!(installation = %wanted.installation, revision = %wanted.revision, "begins {}", wanted.spot);
        Runtime::start(&self.process, client, options)
            .await
            .map_err(|error| ("NotStarted", error.to_string()))
    }

    /// The installation's instances in a rollout to `to`.
    pub(super) async fn look(
        &self,
        installation: &str,
        package: &Compiled,
        to: &str,
    ) -> Result<Vec<Sight>, CallError> {
        let mut sights = Vec::new();
        let mut listed: BTreeMap<Spot, BTreeMap<String, Value>> = BTreeMap::new();
        for team in self.of(installation) {
            let spot = &team.wanted.spot;
            if !listed.contains_key(spot) {
                let namespace = spot.namespace().unwrap_or_default();
                // In the account's name: Libretto's own may not see them.
                let list = team
                    .runtime
                    .kube()
                    .list(package.gvk(), namespace, &ListParams::default())
                    .await?;
                listed.insert(spot.clone(), by_uid(list));
            }
            let objects = &listed[spot];
            let updated = team.wanted.revision == to;
            let driver = team.runtime.driver();
            for instance in driver.own() {
                let settled = driver
                    .standing(&instance.gvk, &instance.namespace, &instance.name)
                    .is_some_and(|standing| standing.settled && standing.instance == instance);
                let (ready, reason, message) = objects
                    .get(&instance.uid)
                    .map_or((false, String::new(), String::new()), readiness);
                sights.push(Sight {
                    hash: hash(&instance.uid),
                    namespace: instance.namespace,
                    name: instance.name,
                    updated,
                    ready: settled && ready,
                    reason,
                    message,
                });
            }
        }
        Ok(sights)
    }

    /// Ends all of them in order.
    pub(super) async fn stop(self) {
        futures::future::join_all(self.teams.into_iter().map(|team| team.runtime.stop())).await;
    }
}

/// A client in the account's name, or in Libretto's own.
pub(super) fn client_as(
    config: &kube::Config,
    account: Option<&Place>,
) -> Result<kube::Client, Problem> {
    match account {
        Some(account) => client::impersonating(config, account),
        None => client::of(config.clone()),
    }
    .map_err(|error| ("NotConnected", error.to_string()))
}

/// Whether the account, or Libretto itself, may do what the package needs at the spot.
pub(super) async fn check_rights(
    client: kube::Client,
    account: Option<&Place>,
    spot: &Spot,
    revision: &str,
    package: &Compiled,
) -> Result<(), Problem> {
    let who = account.map_or_else(
        || "libretto itself".to_owned(),
        |account| format!("service account {account}"),
    );
    let missing = rights::missing(&Kube::new(client), package, spot.namespace())
        .await
        .map_err(|error| {
            let message = format!("ask what {who} may do: {error}");
            ("MissingRights", message)
        })?;
    if missing.is_empty() {
        return Ok(());
    }
    Err((
        "MissingRights",
        format!(
            "{who} may not do {spot} what revision {revision} needs: {}; `libretto package rbac` prints a role that allows it",
            missing.join(", ")
        ),
    ))
}

/// Whether a rollout waits: the first value of the answer is neither 0 nor NULL.
pub(super) fn pauses(sql: &str, sights: &[Sight]) -> Result<bool, MirrorError> {
    let kinds = [
        ColumnType::String,
        ColumnType::String,
        ColumnType::Bool,
        ColumnType::Bool,
        ColumnType::String,
        ColumnType::String,
    ];
    let columns: Vec<(String, ColumnType)> = INSTANCE_COLUMNS
        .iter()
        .zip(kinds)
        .map(|((name, _), kind)| ((*name).to_owned(), kind))
        .collect();
    let rows: Vec<Vec<Datum>> = sights
        .iter()
        .map(|sight| {
            vec![
                sight.namespace.as_str().into(),
                sight.name.as_str().into(),
                sight.updated.into(),
                sight.ready.into(),
                sight.reason.as_str().into(),
                sight.message.as_str().into(),
            ]
        })
        .collect();
    let answer = libretto_mirror::ask("instances", &columns, &rows, sql, Limits::PACKAGE)?;
    let value = answer.rows.first().and_then(|row| row.first());
    Ok(value.is_some_and(|value| value.as_float().is_some_and(|number| number != 0.0)))
}

async fn reduce(driver: &Driver, wanted: &Share) {
    let now = driver.share();
    let both = now.and(wanted);
    if both != now {
        driver.take_over(both).await;
    }
}

async fn extend(driver: &Driver, wanted: Share) {
    if driver.share() != wanted {
        driver.take_over(wanted).await;
    }
}

fn by_uid(mut list: Value) -> BTreeMap<String, Value> {
    let Value::Array(items) = list["items"].take() else {
        return BTreeMap::new();
    };
    items
        .into_iter()
        .filter_map(|item| Some((item["metadata"]["uid"].as_str()?.to_owned(), item)))
        .collect()
}

/// Whether the instance's own condition says so, for what is wanted now; with its reason and message.
fn readiness(object: &Value) -> (bool, String, String) {
    let condition = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    let Some(condition) = condition else {
        return (false, String::new(), String::new());
    };
    let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
    let current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
    (
        current && condition["status"] == "True",
        text("reason"),
        text("message"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn sight(name: &str, updated: bool, ready: bool) -> Sight {
        Sight {
            hash: 0,
            namespace: "a".into(),
            name: name.into(),
            updated,
            ready,
            reason: String::new(),
            message: String::new(),
        }
    }

    #[test]
    fn a_question_decides_whether_a_rollout_waits() {
        let sights = [sight("x", true, false), sight("y", false, true)];
        let ask = |sql: &str| pauses(sql, &sights);
        assert!(ask("SELECT count(*) FROM instances WHERE updated AND NOT ready").unwrap());
        assert!(!ask("SELECT count(*) > 1 FROM instances WHERE NOT ready").unwrap());
        assert!(!ask("SELECT name FROM instances WHERE name = 'none'").unwrap());
        assert!(ask("SELECT nothing FROM instances").is_err());
        assert!(ask("ATTACH 'x' AS y").is_err());
    }

    #[test]
    fn ready_is_what_is_said_of_the_present_generation() {
        let object = |generation: i64, status: &str| {
            json!({"metadata": {"generation": generation}, "status": {
                "observedGeneration": 2,
                "conditions": [{"type": "Ready", "status": status, "reason": "Settled"}],
            }})
        };
        assert!(readiness(&object(2, "True")).0);
        assert!(!readiness(&object(3, "True")).0);
        assert!(!readiness(&object(2, "False")).0);
        assert!(!readiness(&json!({})).0);
    }
}
