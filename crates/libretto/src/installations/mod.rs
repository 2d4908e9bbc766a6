//! Packages that come and go while the process runs, as objects of the cluster say.
//!
//! - A `Package` becomes revisions that never change ([`packages`](self)); a change that cannot be compiled changes nothing.
//! - An `Installation` says where a package works and in whose name. Each of its spots (a namespace, or everywhere) has a runtime of
//!   its own with a mirror of its own, which connects as the installation's service account: what the account may not read
//!   is not there to be seen, and what it may not write is refused by the API server.
//! - A new revision takes the instances over in waves ([`rollout`]): for that time there are two runtimes at a spot, each with its
//!   [`Share`](crate::share::Share), and an instance is let go by one before the other takes it.
//!
//! How far everything is stands in the status of the objects, and nowhere else.

mod objects;
mod packages;
pub mod place;
pub mod rollout;
mod status;
mod teams;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use kube::api::ListParams;
use libretto_actions::{
    Allowed,
    kube::{CallError, Kube},
};
use libretto_api::{
    installation::{InstallationSpec, RolloutSpec, installation_gvk},
    intent::Millis,
    object::ObjectRef,
    package::parse_duration,
};
use libretto_engine::Compiled;
use libretto_mirror::ScopeMode;
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    objects::{Objects, Seen},
    packages::Packages,
    place::{Asked, Claim, Placed, Spot},
    rollout::{Rollout, Situation, Standing},
    status::Condition,
    teams::{Teams, Wanted},
};
use crate::{
    client, clock,
    drive::Driver,
    install,
    process::Process,
    runtime::StartError,
    share::{Kind, Part, Share},
};

/// How often everything is looked at although no object changed: ConfigMaps with packages, rights that were missing.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The same while a rollout is under way.
const ROLLING: Duration = Duration::from_secs(1);
/// What changes together is looked at together.
const TOGETHER: Duration = Duration::from_millis(100);
/// Instances that a condition names which a new definition would refuse.
const REFUSED: usize = 5;
/// How long a wave must be fine unless said otherwise.
const SOAK: Millis = 10_000;

/// What the keeper works with.
#[derive(Debug)]
pub struct Settings {
    pub process: Arc<Process>,
    /// How the cluster is reached; service accounts are impersonated with it.
    pub config: kube::Config,
    pub helm: PathBuf,
    pub loopback: bool,
    /// What the process runs by itself: installations leave its instances alone.
    pub own: Option<Arc<Driver>>,
    pub scope: ScopeMode,
}

/// Keeps what runs in step with the objects.
#[derive(Debug)]
pub struct Keeper {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Puts the definitions of packages and installations into the cluster, and begins.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let client = client::of(settings.config.clone()).map_err(StartError::Client)?;
        let metrics = Arc::clone(&settings.process.metrics);
        let kube = Kube::new(client.clone()).observed(Arc::new(move |method, code| {
            metrics.request(method, code);
        }));
        install::install_own(&kube).await?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let changed = Arc::<Notify>::default();
            let mut watches = JoinSet::new();
            let watching = Objects::watch(&client, &mut watches, &changed);
            let Some(objects) = stopped.run_until_cancelled(watching).await else {
                return;
            };
            let mut work = Work {
                teams: Teams::new(&settings),
                settings,
                kube,
                objects,
                packages: Packages::default(),
                definitions: BTreeMap::new(),
            };
            while !stopped.is_cancelled() {
                // Not interrupted: a hand-over that has begun is finished.
                let pause = if work.round().await {
                    ROLLING
                } else {
                    LOOK_EVERY
                };
                let due = async {
                    tokio::select! {
                        () = changed.notified() => tokio::time::sleep(TOGETHER).await,
                        () = tokio::time::sleep(pause) => {}
                    }
                };
                stopped.run_until_cancelled(due).await;
            }
            watches.shutdown().await;
            work.teams.stop().await;
        });
        Ok(Self { stop, task })
    }

    /// Ends every runtime in order.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "installations ended badly");
        }
    }
}

struct Work {
    settings: Settings,
    kube: Kube,
    objects: Objects,
    packages: Packages,
    teams: Teams,
    /// The revision whose definition the cluster has, as far as this process put it there.
    definitions: BTreeMap<Kind, String>,
}

/// Why an installation does not work, or not as it is asked: reason and message of its condition.
type Problem = (&'static str, String);

/// What a round found out about installations, by name.
struct Told<'a> {
    placed: BTreeMap<String, Placed>,
    problems: BTreeMap<&'a str, Problem>,
    failures: BTreeMap<String, Problem>,
    holds: BTreeMap<&'a str, Hold>,
}

/// Why the next wave of a rollout does not begin, whatever the time.
enum Hold {
    Nothing,
    /// Watches of a runtime that has just begun are not listed.
    Listing,
    /// `rollout.paused`.
    Somebody,
    /// `rollout.pause`.
    Query,
    /// One that is not ready: namespace/name.
    Instance(String),
}

/// An installation with what it needs to work.
struct Ready<'a> {
    seen: &'a Seen<InstallationSpec>,
    spec: &'a InstallationSpec,
    target: String,
    compiled: Arc<Compiled>,
    allowed: Option<Allowed>,
}

impl Work {
    /// Looks at everything once; says whether a rollout is under way.
    async fn round(&mut self) -> bool {
        let mut installations: Vec<Seen<InstallationSpec>> = self.objects.installations();
        installations.retain(|installation| !installation.deleting);
        let (used, wanted) = used(&installations);
        self.packages
            .refresh(&self.kube, &self.objects, &used, &wanted)
            .await;

        let mut problems: BTreeMap<&str, Problem> = BTreeMap::new();
        let mut ready = Vec::new();
        for seen in &installations {
            match self.resolve(seen).await {
                Ok(resolved) => ready.push(resolved),
                Err(problem) => {
                    problems.insert(&seen.name, problem);
                }
            }
        }
        let asked = ready.iter().map(|ready| Asked {
            name: &ready.seen.name,
            spec: ready.spec,
            kind: kind(&ready.compiled),
            annotated: ready.compiled.schema().instance.scope.is_some(),
        });
        let mut own = self.own_claims();
        // Whoever goes on as it was keeps what it has.
        for name in problems.keys() {
            own.extend(self.teams.claims(name));
        }
        let (placed, claims) = place::place(&own, asked, &self.objects.namespaces());

        let newest = newest(&ready, &self.objects.revisions());
        let mut rolling = false;
        let mut holds: BTreeMap<&str, Hold> = BTreeMap::new();
        let mut desired = Vec::new();
        let mut done: Vec<(&Ready<'_>, Standing)> = Vec::new();
        for ready in &ready {
            let name = ready.seen.name.as_str();
            let placed = &placed[name];
            let before = standing(&ready.seen.status);
            let defines = newest.get(&kind(&ready.compiled)) == Some(&ready.target);
            let (after, problem) = match self.advance(ready, placed, &before, defines).await {
                Ok((after, hold)) => {
                    holds.insert(name, hold);
                    (after, None)
                }
                Err(problem) => (before.clone(), Some(problem)),
            };
            // Known to whoever comes next before anybody acts on it.
            if after != before
                && let Err(error) = self.write(ready.seen, &after, None).await
            {
                tracing::warn!(installation = name, %error, "status not written");
                problems.insert(name, ("NotWritten", error.to_string()));
                self.teams.keep(name, &mut desired);
                continue;
            }
            if let Some(problem) = problem {
                problems.insert(name, problem);
            }
            rolling |= after.rollout.is_some();
            if let Err(problem) = self
                .want(ready, placed, &claims, &after, &mut desired)
                .await
            {
                problems.insert(name, problem);
                self.teams.keep(name, &mut desired);
            }
            done.push((ready, after));
        }
        // An installation that cannot be read or resolved goes on as it was.
        for seen in &installations {
            if problems.contains_key(seen.name.as_str())
                && !done.iter().any(|(ready, _)| ready.seen.name == seen.name)
            {
                self.teams.keep(&seen.name, &mut desired);
            }
        }
        let own = self.settings.own.as_deref();
        let own = own.map(|driver| (driver, self.own_share(&claims)));
        let mut failures = self.teams.reach(desired, own).await;
        for seen in &installations {
            if let Some(refusal) = self.teams.refusal(&seen.name) {
                let entry = failures.entry(seen.name.clone());
                entry.or_insert(("MissingRights", refusal));
            }
        }
        let told = Told {
            placed,
            problems,
            failures,
            holds,
        };
        self.tell(&installations, &done, &told).await;
        rolling
    }

    /// The revision that the installation asks for, ready to run.
    async fn resolve<'a>(
        &mut self,
        seen: &'a Seen<InstallationSpec>,
    ) -> Result<Ready<'a>, Problem> {
        let spec = seen
            .spec
            .as_ref()
            .map_err(|error| ("Invalid", error.clone()))?;
        let target = match (&spec.revision, self.packages.newest(&spec.package)) {
            (Some(revision), _) => revision.clone(),
            (None, Some(newest)) => newest.to_owned(),
            (None, None) => {
                let packages: Vec<Seen<Value>> = self.objects.packages();
                let there = packages.iter().any(|package| package.name == spec.package);
                let package = &spec.package;
                return Err(if there {
                    let message = format!(
                        "Package {package} has no revision that can be installed; its condition Ready says why"
                    );
                    ("NoRevision", message)
                } else {
                    ("NoPackage", format!("there is no Package {package}"))
                });
            }
        };
        let compiled = self
            .packages
            .compiled(&self.kube, &target)
            .await
            .map_err(|message| ("NoRevision", message))?;
        if compiled.name() != spec.package {
            let message = format!(
                "revision {target} is one of package {}, not of {}",
                compiled.name(),
                spec.package
            );
            return Err(("NoRevision", message));
        }
        let hosts = spec.permissions.as_ref().map(|given| &given.hosts);
        let allowed = hosts
            .map(|hosts| Allowed::parse(hosts))
            .transpose()
            .map_err(|error| ("Invalid", format!("spec.permissions.hosts: {error}")))?;
        Ok(Ready {
            seen,
            spec,
            target,
            compiled,
            allowed,
        })
    }

    /// What the packages of the process itself take.
    fn own_claims(&self) -> Vec<Claim> {
        let Some(own) = &self.settings.own else {
            return Vec::new();
        };
        own.packages
            .values()
            .map(|package| {
                let annotated = package.schema().instance.scope.is_some();
                Claim {
                    who: format!("libretto itself (it runs package {})", package.name()),
                    kind: kind(package),
                    spot: Spot::Everywhere,
                    mode: if annotated {
                        self.settings.scope
                    } else {
                        ScopeMode::Any
                    },
                }
            })
            .collect()
    }

    /// What of them is not left to installations.
    fn own_share(&self, claims: &[Claim]) -> Share {
        let except = self
            .own_claims()
            .iter()
            .flat_map(|own| place::except(claims, &own.kind, own.mode))
            .collect();
        Share {
            part: Part::All,
            except,
        }
    }

    /// The next step of the installation; nothing begins that cannot work.
    async fn advance(
        &mut self,
        ready: &Ready<'_>,
        placed: &Placed,
        before: &Standing,
        defines: bool,
    ) -> Result<(Standing, Hold), Problem> {
        if placed.spots.is_empty() {
            return Ok((before.clone(), Hold::Nothing));
        }
        let target = ready.target.as_str();
        let going_to = before
            .rollout
            .as_ref()
            .map_or(before.revision.as_str(), |rollout| rollout.to.as_str());
        if going_to != target {
            let account = ready.spec.service_account.as_ref();
            let client = teams::client_as(&self.settings.config, account)?;
            for spot in &placed.spots {
                teams::check_rights(client.clone(), account, spot, target, &ready.compiled).await?;
                check_instances(&Kube::new(client.clone()), spot, target, &ready.compiled).await?;
            }
        }
        if defines {
            self.define(ready).await?;
        }
        let rollout = &ready.spec.rollout;
        let mut hashes = Vec::new();
        let mut hold = Hold::Nothing;
        if before.rollout.is_some() || going_to != target {
            let sights = self
                .teams
                .look(&ready.seen.name, &ready.compiled, going_to)
                .await
                .map_err(|error| not_seen(&error))?;
            hashes = sights.iter().map(|sight| sight.hash).collect();
            // Whoever has not seen its instances yet has not found them fine.
            if !self.teams.listed(&ready.seen.name) {
                hold = Hold::Listing;
            }
            let waited_for = sights.iter().find(|sight| sight.updated && !sight.ready);
            let judged = match &rollout.pause {
                None => waited_for.map_or(Hold::Nothing, |sight| Hold::Instance(sight.to_string())),
                Some(sql) => {
                    let pauses = teams::pauses(sql, &sights)
                        .map_err(|error| ("PauseFailed", format!("spec.rollout.pause: {error}")))?;
                    if pauses { Hold::Query } else { Hold::Nothing }
                }
            };
            if matches!(hold, Hold::Nothing) {
                hold = judged;
            }
        }
        let situation = Situation {
            target,
            waves: &rollout.waves,
            soak: soak(rollout)?,
            hashes: &hashes,
            fine: matches!(hold, Hold::Nothing),
            paused: rollout.paused,
            now: clock::now(),
        };
        if rollout.paused && matches!(hold, Hold::Nothing) {
            hold = Hold::Somebody;
        }
        Ok((rollout::next(before, &situation), hold))
    }

    /// Puts the Kind's definition into the cluster, of the newest revision that is asked for.
    async fn define(&mut self, ready: &Ready<'_>) -> Result<(), Problem> {
        let kind = kind(&ready.compiled);
        if self.definitions.get(&kind) == Some(&ready.target) {
            return Ok(());
        }
        install::install(&self.kube, &ready.compiled)
            .await
            .map_err(|error| ("DefinitionRefused", error.to_string()))?;
        self.definitions.insert(kind, ready.target.clone());
        Ok(())
    }

    /// Adds the runtimes that the installation should have.
    async fn want(
        &mut self,
        ready: &Ready<'_>,
        placed: &Placed,
        claims: &[Claim],
        standing: &Standing,
        desired: &mut Vec<Wanted>,
    ) -> Result<(), Problem> {
        for (revision, part) in rollout::parts(standing) {
            let compiled = self
                .packages
                .compiled(&self.kube, &revision)
                .await
                .map_err(|message| ("NoRevision", message))?;
            for spot in &placed.spots {
                desired.push(Wanted::new(ready, spot, &revision, &compiled, part, claims));
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        seen: &Seen<InstallationSpec>,
        standing: &Standing,
        conditions: Option<&[Condition]>,
    ) -> Result<(), CallError> {
        let rollout = serde_json::to_value(&standing.rollout).unwrap_or_default();
        let mut fields = json!({
            "revision": standing.revision, "former": standing.former, "rollout": rollout,
        });
        if standing.revision.is_empty() {
            fields["revision"] = Value::Null;
        }
        let target = ObjectRef {
            gvk: installation_gvk(),
            namespace: String::new(),
            name: seen.name.clone(),
        };
        if conditions.is_some() {
            fields["observedGeneration"] = seen.generation.into();
        }
        status::write(&self.kube, &target, seen, fields, conditions).await
    }

    /// Says on each installation how it is.
    async fn tell(
        &self,
        installations: &[Seen<InstallationSpec>],
        done: &[(&Ready<'_>, Standing)],
        told: &Told<'_>,
    ) {
        for seen in installations {
            let name = seen.name.as_str();
            let standing = done
                .iter()
                .find(|(ready, _)| ready.seen.name == name)
                .map_or_else(|| standing(&seen.status), |(_, standing)| standing.clone());
            let waves = seen
                .spec
                .as_ref()
                .map_or(0, |spec| spec.rollout.waves.len() + 1);
            let problem = told.problems.get(name).or_else(|| told.failures.get(name));
            let works = self.teams.works(name);
            let conditions = [
                readiness(
                    works.then_some(standing.revision.as_str()),
                    told.placed.get(name),
                    problem,
                    self.teams.count(name),
                ),
                progress(
                    works.then_some(&standing),
                    waves,
                    &self.teams.counts(name, &standing),
                    told.holds.get(name),
                ),
            ];
            if let Err(error) = self.write(seen, &standing, Some(&conditions)).await {
                tracing::warn!(installation = name, %error, "status not written");
            }
        }
    }
}

/// Instances could not be listed.
fn not_seen(error: &CallError) -> Problem {
    let reason = match error.code() {
        Some(403) => "MissingRights",
        _ => "NotSeen",
    };
    (reason, error.to_string())
}

/// A definition that refuses what people have written would leave them with objects that nobody can change any more.
async fn check_instances(
    kube: &Kube,
    spot: &Spot,
    revision: &str,
    package: &Compiled,
) -> Result<(), Problem> {
    let namespace = spot.namespace().unwrap_or_default();
    let listed = kube
        .list(package.gvk(), namespace, &ListParams::default())
        .await;
    let mut list = match listed {
        Ok(list) => list,
        // There are none of a Kind that is not there yet.
        Err(CallError::NotServed(_)) => return Ok(()),
        Err(error) => return Err(not_seen(&error)),
    };
    let mut refused = Vec::new();
    for item in list["items"].as_array_mut().into_iter().flatten() {
        item["apiVersion"] = package.gvk().api_version().into();
        item["kind"] = package.gvk().kind.clone().into();
        if let Err(wrong) = package.admit(item) {
            let text = |key: &str| {
                item["metadata"][key]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            refused.push(format!("{}/{}: {wrong}", text("namespace"), text("name")));
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    let all = refused.len();
    refused.truncate(REFUSED);
    let more = if all > REFUSED {
        format!("; and {} more", all - REFUSED)
    } else {
        String::new()
    };
    Err((
        "InstancesRefused",
        format!(
            "the definition of revision {revision} does not allow what is there: {}{more}; change these, or the definition",
            refused.join("; ")
        ),
    ))
}

fn readiness(
    works: Option<&str>,
    placed: Option<&Placed>,
    problem: Option<&Problem>,
    instances: usize,
) -> Condition {
    let goes_on = |message: &str| match works {
        Some(revision) => format!("{message} (revision {revision} goes on)"),
        None => message.to_owned(),
    };
    if let Some((reason, message)) = problem {
        return Condition::new("Ready", false, reason, goes_on(message));
    }
    let Some(placed) = placed else {
        return Condition::new("Ready", false, "NotPlaced", "");
    };
    if let Some((spot, who)) = placed.taken.first_key_value() {
        let message = format!("instances {spot} are taken care of by {who}");
        return Condition::new("Ready", false, "Taken", goes_on(&message));
    }
    let absent = match placed.absent.as_slice() {
        [] => None,
        [one] => Some(format!("there is no namespace {one}")),
        several => Some(format!("there are no namespaces {}", several.join(", "))),
    };
    let plural = if instances == 1 { "" } else { "s" };
    let place = match placed.spots.len() {
        0 => {
            let message = absent.unwrap_or_else(|| "no namespace has the labels".to_owned());
            return Condition::new("Ready", false, "NoNamespace", message);
        }
        1 => placed.spots.iter().map(Spot::to_string).collect(),
        spots => format!("in {spots} namespaces"),
    };
    let absent = absent
        .map(|absent| format!("; {absent}"))
        .unwrap_or_default();
    let message = format!("takes care of {instances} instance{plural} {place}{absent}");
    Condition::new("Ready", true, "Working", message)
}

fn progress(
    works: Option<&Standing>,
    waves: usize,
    counts: &(usize, usize),
    hold: Option<&Hold>,
) -> Condition {
    let Some(standing) = works else {
        return Condition::new("Progressing", false, "NotWorking", "no revision is at work");
    };
    let Some(rollout) = &standing.rollout else {
        let message = format!("every instance has revision {}", standing.revision);
        return Condition::new("Progressing", false, "Complete", message);
    };
    let (updated, all) = counts;
    let mut message = format!(
        "wave {} of {}: {updated} of {all} instances have revision {}",
        (rollout.wave + 1).min(waves),
        waves,
        rollout.to
    );
    let reason = match hold {
        Some(Hold::Somebody) => "Paused",
        Some(Hold::Query) => "Held",
        Some(Hold::Listing) => "Waiting",
        Some(Hold::Instance(name)) => {
            message.push_str(&format!("; waits for {name}"));
            "Waiting"
        }
        Some(Hold::Nothing) | None if rollout.good_since.is_some() => "Soaking",
        Some(Hold::Nothing) | None => "Waiting",
    };
    Condition::new("Progressing", true, reason, message)
}

fn soak(rollout: &RolloutSpec) -> Result<Millis, Problem> {
    rollout.soak.as_deref().map_or(Ok(SOAK), |text| {
        parse_duration(text).map_err(|error| ("Invalid", format!("spec.rollout.soak: {error}")))
    })
}

fn standing(status: &Value) -> Standing {
    Standing {
        revision: status["revision"].as_str().unwrap_or_default().to_owned(),
        former: status["former"].as_str().map(str::to_owned),
        rollout: serde_json::from_value::<Option<Rollout>>(status["rollout"].clone())
            .ok()
            .flatten(),
    }
}

fn kind(package: &Compiled) -> Kind {
    let gvk = package.gvk();
    (gvk.group.clone(), gvk.kind.clone())
}

/// The newest revision of each Kind that is asked for: its definition serves the others too.
fn newest(
    ready: &[Ready<'_>],
    revisions: &BTreeMap<String, Vec<String>>,
) -> BTreeMap<Kind, String> {
    let age = |ready: &Ready<'_>| {
        let all = revisions.get(&ready.spec.package)?;
        all.iter().position(|name| *name == ready.target)
    };
    let mut newest: BTreeMap<Kind, &Ready<'_>> = BTreeMap::new();
    for one in ready {
        let best = newest.entry(kind(&one.compiled)).or_insert(one);
        if age(one) > age(best) {
            *best = one;
        }
    }
    newest
        .into_iter()
        .map(|(kind, ready)| (kind, ready.target.clone()))
        .collect()
}

/// Revisions and packages that installations stand on.
fn used(installations: &[Seen<InstallationSpec>]) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut revisions, mut packages) = (BTreeSet::new(), BTreeSet::new());
    for seen in installations {
        let standing = standing(&seen.status);
        revisions.extend(standing.rollout.map(|rollout| rollout.to));
        revisions.insert(standing.revision);
        revisions.extend(standing.former);
        if let Ok(spec) = &seen.spec {
            revisions.extend(spec.revision.clone());
            packages.insert(spec.package.clone());
        }
    }
    (revisions, packages)
}
