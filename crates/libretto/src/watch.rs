//! Keeps the mirror's tables in step with the cluster: one watch per Kind, for all packages together.
//!
//! A list replaces a Kind's rows in one step, so that what is gone in it is a real deletion; while it is being read no instance that
//! depends on it is decided. A Kind the cluster does not serve yet is waited for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use kube::{
    api::{Api, DynamicObject},
    runtime::watcher::{self, Event},
};
use libretto_actions::kube::{CallError, Kube, Resource};
use libretto_api::object::{Gvk, ObjectRef};
use libretto_engine::Compiled;
use libretto_mirror::Change;
use parking_lot::RwLock;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{drive::Driver, notice};

/// Objects per page of a list: what client-go and the API server's own cache are tuned for.
const PAGE: u32 = 500;
/// Waits after a failed list or watch; the longest is short because a whole package stands still meanwhile.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long a Kind may be missing before it is told: definitions that are applied together with their operator take a moment.
const SERVED_SOON: Duration = Duration::from_secs(3);

/// Which Kinds are watched for whom, and which are fully known.
#[derive(Debug, Default)]
pub struct Tables {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    complete: HashMap<Gvk, bool>,
    packages: BTreeMap<String, BTreeSet<Gvk>>,
    /// Kinds of a package without which it can do: while they are not served, there are none.
    optional: BTreeMap<String, BTreeSet<Gvk>>,
    /// Not served, and not just about to be.
    unserved: BTreeSet<Gvk>,
}

impl Tables {
    /// Every table of the package has been listed, and none is being listed again.
    pub fn complete(&self, package: &str) -> bool {
        let state = self.state.read();
        state.packages.get(package).is_some_and(|kinds| {
            kinds.iter().all(|gvk| {
                state.complete.get(gvk).copied().unwrap_or(false) || state.dispensable(package, gvk)
            })
        })
    }

    /// Kinds that are not fully known, for a message.
    pub fn missing(&self) -> Vec<Gvk> {
        let state = self.state.read();
        let mut missing: Vec<Gvk> = state
            .complete
            .iter()
            .filter(|(gvk, complete)| {
                !**complete
                    && !state
                        .packages
                        .iter()
                        .filter(|(_, kinds)| kinds.contains(gvk))
                        .all(|(package, _)| state.dispensable(package, gvk))
            })
            .map(|(gvk, _)| gvk.clone())
            .collect();
        missing.sort();
        missing
    }

    /// Somebody watches the Kind.
    pub fn watched(&self, gvk: &Gvk) -> bool {
        self.state.read().complete.contains_key(gvk)
    }

    fn set(&self, gvk: &Gvk, complete: bool) {
        self.state.write().complete.insert(gvk.clone(), complete);
    }

    /// Why the package's instances cannot be evaluated: a Kind that the cluster does not serve.
    pub fn unserved(&self, package: &str) -> Option<Gvk> {
        let state = self.state.read();
        let kinds = state.packages.get(package)?;
        kinds
            .iter()
            .find(|gvk| state.unserved.contains(*gvk) && !state.dispensable(package, gvk))
            .cloned()
    }

    /// Whether this is news.
    fn set_served(&self, gvk: &Gvk, served: bool) -> bool {
        let mut state = self.state.write();
        if served {
            state.unserved.remove(gvk)
        } else {
            state.unserved.insert(gvk.clone())
        }
    }

    /// The Kind's objects are all known.
    pub fn listed(&self, gvk: &Gvk) -> bool {
        self.state.read().complete.get(gvk) == Some(&true)
    }

    fn packages_of(&self, gvk: &Gvk) -> Vec<String> {
        let state = self.state.read();
        state
            .packages
            .iter()
            .filter(|(_, kinds)| kinds.contains(gvk))
            .map(|(package, _)| package.clone())
            .collect()
    }
}

impl State {
    /// The package can do without the Kind, and has to.
    fn dispensable(&self, package: &str, gvk: &Gvk) -> bool {
        self.unserved.contains(gvk)
            && self
                .optional
                .get(package)
                .is_some_and(|kinds| kinds.contains(gvk))
    }
}

/// One watch for all packages that need the Kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub gvk: Gvk,
    /// What the selectors of all packages have in common; the mirror filters the rest.
    pub labels: BTreeMap<String, String>,
}

/// Unites the watches of packages: one per Kind, with the labels that all of them ask for.
pub fn unite<'a>(packages: impl IntoIterator<Item = &'a Arc<Compiled>>) -> Vec<Watched> {
    let watches = packages
        .into_iter()
        .flat_map(|package| package.watches())
        .map(|watch| (watch.gvk.clone(), watch.labels.clone()));
    unite_selectors(watches)
}

fn unite_selectors(
    watches: impl IntoIterator<Item = (Gvk, BTreeMap<String, String>)>,
) -> Vec<Watched> {
    let mut united: BTreeMap<Gvk, BTreeMap<String, String>> = BTreeMap::new();
    for (gvk, labels) in watches {
        match united.get_mut(&gvk) {
            None => {
                united.insert(gvk, labels);
            }
            Some(common) => common.retain(|key, value| labels.get(key) == Some(value)),
        }
    }
    united
        .into_iter()
        .map(|(gvk, labels)| Watched { gvk, labels })
        .collect()
}

/// Notes what must be listed before anything is decided. Called once, before the watches start.
pub fn expect(driver: &Driver, watched: &[Watched]) {
    for watch in watched {
        driver.tables.set(&watch.gvk, false);
    }
    let mut state = driver.tables.state.write();
    for (name, package) in &driver.packages {
        let kinds = package.watches().iter().map(|watch| watch.gvk.clone());
        state.packages.insert(name.clone(), kinds.collect());
        let optional = package.watches().iter().filter(|watch| watch.optional);
        let optional = optional.map(|watch| watch.gvk.clone()).collect();
        state.optional.insert(name.clone(), optional);
    }
}

/// Watches one Kind until `stop`, in one namespace or in all.
pub async fn watch(
    driver: Arc<Driver>,
    kube: Kube,
    watched: Watched,
    namespace: Option<String>,
    stop: CancellationToken,
) {
    let mut wait = FIRST_WAIT;
    let mut absent_since: Option<Instant> = None;
    loop {
        let resource = tokio::select! {
            () = stop.cancelled() => return,
            resource = kube.resource(&watched.gvk) => resource,
        };
        match resource {
            Ok(resource) => {
                absent_since = None;
                if driver.tables.set_served(&watched.gvk, true) {
                    notice::warn(&format!("the cluster serves {} now", watched.gvk));
                }
                let follow = follow(&driver, &kube, &resource, &watched, namespace.as_deref());
                tokio::select! {
                    () = stop.cancelled() => return,
                    listed = follow => if listed { wait = FIRST_WAIT },
                }
                kube.forget(&watched.gvk);
            }
            Err(CallError::NotServed(gvk)) => {
                tracing::info!(%gvk, "the cluster does not serve this kind yet");
                // It was served before and its definition was deleted: so were its objects.
                if driver.tables.state.read().complete.get(&gvk) == Some(&true) {
                    replace(&driver, &watched.gvk, namespace.as_deref(), &[]);
                    driver.tables.set(&gvk, false);
                }
                let since = *absent_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= SERVED_SOON && driver.tables.set_served(&gvk, false) {
                    tell_unserved(&driver, &gvk);
                }
            }
            Err(error) => tracing::warn!(gvk = %watched.gvk, %error, "discovery failed"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Says which packages stand still, in the log and on their instances.
fn tell_unserved(driver: &Driver, gvk: &Gvk) {
    let packages = driver.tables.packages_of(gvk);
    let stand_still: Vec<String> = packages
        .iter()
        .filter(|package| driver.tables.unserved(package).is_some())
        .cloned()
        .collect();
    if !stand_still.is_empty() {
        notice::warn(&format!(
            "{} Until it is served, nothing is done by {} {}",
            CallError::NotServed(gvk.clone()),
            if stand_still.len() == 1 {
                "package"
            } else {
                "packages"
            },
            stand_still.join(", ")
        ));
    }
    for package in packages {
        driver.mark_package(&package);
    }
}

/// Follows the watch until the Kind is not there any more; says whether it ever completed a list.
async fn follow(
    driver: &Driver,
    kube: &Kube,
    resource: &Resource,
    watched: &Watched,
    namespace: Option<&str>,
) -> bool {
    let client = kube.client().clone();
    let namespace = namespace.filter(|_| resource.namespaced);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource.api),
        None => Api::all_with(client, &resource.api),
    };
    let mut config = watcher::Config::default().page_size(PAGE);
    if !watched.labels.is_empty() {
        config = config.labels(&selector(&watched.labels));
    }
    let mut events = pin!(watcher::watcher(api, config));
    let mut listing: Vec<Value> = Vec::new();
    let mut listed = false;
    let mut wait = FIRST_WAIT;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => {
                driver.tables.set(&watched.gvk, false);
                listing.clear();
                if is_secret(&watched.gvk) {
                    driver.secret_changed(None);
                }
            }
            Ok(Event::InitApply(object)) => {
                tell_secret(driver, &watched.gvk, &object);
                listing.push(value(&object, &watched.gvk));
            }
            Ok(Event::InitDone) => {
                tracing::debug!(gvk = %watched.gvk, objects = listing.len(), "listed");
                replace(
                    driver,
                    &watched.gvk,
                    namespace,
                    &std::mem::take(&mut listing),
                );
                listed = true;
                wait = FIRST_WAIT;
                driver.refused(&watched.gvk.to_string(), None);
            }
            Ok(Event::Apply(object)) => {
                tell_secret(driver, &watched.gvk, &object);
                let object = value(&object, &watched.gvk);
                ingest(driver, &watched.gvk, Change::Applied(&object));
                wait = FIRST_WAIT;
            }
            Ok(Event::Delete(object)) => {
                tell_secret(driver, &watched.gvk, &object);
                let change = Change::Deleted {
                    namespace: object.metadata.namespace.as_deref().unwrap_or_default(),
                    name: object.metadata.name.as_deref().unwrap_or_default(),
                    uid: object.metadata.uid.as_deref(),
                };
                ingest(driver, &watched.gvk, change);
            }
            Err(error) if is_not_served(&error) => return listed,
            Err(error) => {
                driver.metrics.watch_error(&watched.gvk);
                if is_forbidden(&error) {
                    driver.refused(&watched.gvk.to_string(), Some(innermost(&error)));
                }
                tracing::warn!(gvk = %watched.gvk, error = %innermost(&error), "watch interrupted");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
    listed
}

fn is_secret(gvk: &Gvk) -> bool {
    gvk.group.is_empty() && gvk.kind == "Secret"
}

/// Values of Secrets are kept as long as nothing is told of them.
fn tell_secret(driver: &Driver, gvk: &Gvk, object: &DynamicObject) {
    if is_secret(gvk) {
        driver.secret_changed(Some(&ObjectRef {
            gvk: gvk.clone(),
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
        }));
    }
}

fn replace(driver: &Driver, gvk: &Gvk, namespace: Option<&str>, objects: &[Value]) {
    let dirty = driver.mirror.lock().replace_all(gvk, namespace, objects);
    match dirty {
        Ok(dirty) => {
            driver.tables.set(gvk, true);
            driver.take(dirty);
            // Instances that were asked for during the list were put off.
            for package in driver.tables.packages_of(gvk) {
                if driver.tables.complete(&package) {
                    driver.mark_package(&package);
                }
            }
        }
        Err(error) => tracing::error!(%gvk, %error, "list not taken into the mirror"),
    }
}

fn ingest(driver: &Driver, gvk: &Gvk, change: Change<'_>) {
    let dirty = driver.mirror.lock().ingest(gvk, change);
    match dirty {
        Ok(dirty) => driver.take(dirty),
        Err(error) => tracing::error!(%gvk, %error, "change not taken into the mirror"),
    }
}

/// The object as JSON. Items of a list come without their type.
fn value(object: &DynamicObject, gvk: &Gvk) -> Value {
    let mut value = serde_json::to_value(object).expect("an object read from JSON is JSON");
    if value.get("kind").is_none() {
        value["apiVersion"] = gvk.api_version().into();
        value["kind"] = gvk.kind.clone().into();
    }
    value
}

pub(crate) fn selector(labels: &BTreeMap<String, String>) -> String {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

fn is_not_served(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 403,
        _ => false,
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn watches_of_one_kind_are_united_to_what_they_have_in_common() {
        let pod = Gvk::new("", "v1", "Pod");
        let united = unite_selectors([
            (pod.clone(), labels(&[("app", "redis"), ("tier", "db")])),
            (pod, labels(&[("app", "redis"), ("tier", "web")])),
            (Gvk::new("", "v1", "Service"), labels(&[])),
        ]);
        assert_eq!(united.len(), 2);
        assert_eq!(united[0].labels, labels(&[("app", "redis")]));
        assert_eq!(selector(&labels(&[("a", "1"), ("b", "2")])), "a=1,b=2");
    }

    #[test]
    fn a_package_is_complete_when_all_its_kinds_are() {
        let tables = Tables::default();
        let (pod, service) = (Gvk::new("", "v1", "Pod"), Gvk::new("", "v1", "Service"));
        tables.state.write().packages.insert(
            "redis".into(),
            [pod.clone(), service.clone()].into_iter().collect(),
        );
        tables.set(&pod, true);
        tables.set(&service, false);
        assert!(!tables.complete("redis"));
        assert_eq!(tables.missing(), std::slice::from_ref(&service));
        tables.set(&service, true);
        assert!(tables.complete("redis"));
        assert!(
            !tables.complete("unknown"),
            "an unknown package has no complete tables"
        );
        tables.set(&pod, false);
        assert!(!tables.complete("redis"), "a list in progress");
    }

    #[test]
    fn items_of_a_list_get_their_type_back() {
        let object = DynamicObject {
            types: None,
            metadata: kube::api::ObjectMeta::default(),
            data: serde_json::json!({"spec": {}}),
        };
        let value = value(&object, &Gvk::new("apps", "v1", "StatefulSet"));
        assert_eq!(value["apiVersion"], "apps/v1");
        assert_eq!(value["kind"], "StatefulSet");
    }
}
