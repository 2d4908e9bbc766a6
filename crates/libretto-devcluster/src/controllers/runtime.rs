//! Runs the controllers: feeds the cache from list and watch, hands dirty keys to their controller one at a time, and carries out the
//! plans through the API. It decides nothing itself.
//!
//! One task does everything in turn, so a controller never sees its own writes late: each write is read back into the cache before
//! the next pass. API calls take microseconds to a millisecond, which makes turns fast enough for a development cluster.

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{Either, FutureExt};
use futures::stream::{AbortHandle, Abortable, BoxStream, SelectAll, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::cache::{Cache, ObjectKey};
use super::plan::{Action, Controller, Note};
use super::queue::{Outcome, Queue, Work};
use super::recorder::{Record, Recorder};
use super::{VolumeStore, kinds, object};
use crate::api::{
    Api, DeleteOptions, Gvr, ListOptions, Patch, Propagation, Subresource, WatchEvent, WriteOptions,
};
use crate::error::ApiError;

/// Recorded in managedFields.
pub(crate) const FIELD_MANAGER: &str = "libretto-controller-manager";

/// Watch events taken in before the next pass: enough to catch up after a burst, few enough that passes go on during a flood.
const EVENTS_PER_TURN: usize = 1024;
/// Pause before listing again a resource whose list or watch failed.
const RELIST_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Runtime {
    api: Api,
    volumes: Arc<dyn VolumeStore>,
    controllers: Vec<Box<dyn Controller>>,
    cache: Cache,
    queue: Queue,
    recorder: Recorder,
    watches: SelectAll<BoxStream<'static, (Gvr, WatchEvent)>>,
    /// Watches by resource, to end them when a resource is no longer served.
    running: HashMap<Gvr, AbortHandle>,
    /// Resources that must be listed (again).
    unlisted: BTreeSet<Gvr>,
}

impl Runtime {
    pub(crate) fn new(
        api: Api,
        volumes: Arc<dyn VolumeStore>,
        controllers: Vec<Box<dyn Controller>>,
        first: Vec<Work>,
    ) -> Self {
        let mut queue = Queue::default();
        for work in first {
            queue.mark(work);
        }
        Self {
            api,
            volumes,
            controllers,
            cache: Cache::default(),
            queue,
            recorder: Recorder::default(),
            watches: SelectAll::new(),
            running: HashMap::new(),
            unlisted: BTreeSet::new(),
        }
    }

    /// Runs until the store closes or the task is aborted.
    pub(crate) async fn run(mut self) {
        self.follow_resources();
        loop {
            self.list_missing();
            if !self.take_in() {
                return;
            }
            self.queue.wake(Instant::now());
            // Deciding on half a cluster would collect the dependents of owners not yet listed.
            if self.unlisted.is_empty()
                && let Some(work) = self.queue.take()
            {
                self.pass(work);
                tokio::task::yield_now().await;
                continue;
            }
            let relist = (!self.unlisted.is_empty()).then(|| Instant::now() + RELIST_PAUSE);
            let timer = match [relist, self.queue.next()].into_iter().flatten().min() {
                Some(at) => Either::Left(tokio::time::sleep_until(at.into())),
                None => Either::Right(std::future::pending()),
            };
            tokio::select! {
                event = self.watches.next() => match event {
                    Some((gvr, event)) => self.ingest(&gvr, event),
                    // No watch at all: either nothing could be listed yet, or the store is closed.
                    None if self.unlisted.is_empty() => return,
                    None => tokio::time::sleep(RELIST_PAUSE).await,
                },
                () = timer => {}
            }
        }
    }

    /// Takes in what has arrived, without waiting. `false` when the store is closed.
    fn take_in(&mut self) -> bool {
        for _ in 0..EVENTS_PER_TURN {
            match self.watches.next().now_or_never() {
                Some(Some((gvr, event))) => self.ingest(&gvr, event),
                Some(None) => return !self.unlisted.is_empty(),
                None => break,
            }
        }
        true
    }

    fn ingest(&mut self, gvr: &Gvr, event: WatchEvent) {
        match event {
            WatchEvent::Added(value) | WatchEvent::Modified(value) => self.learn(gvr, &value),
            WatchEvent::Deleted(value) => {
                let key = ObjectKey::of(gvr, &value);
                if let Some(old) = self.cache.deleted(gvr, &value) {
                    self.touch(&key, &old);
                }
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Expired => {
                tracing::debug!(resource = %gvr.resource, "watch expired, listing again");
                self.unlisted.insert(gvr.clone());
            }
        }
        if *gvr == kinds::CUSTOM_RESOURCE_DEFINITIONS {
            self.follow_resources();
        }
    }

    /// Puts a state into the cache and marks everyone it concerns.
    fn learn(&mut self, gvr: &Gvr, value: &Arc<Value>) {
        let key = ObjectKey::of(gvr, value);
        let Some(old) = self.cache.put(gvr, Arc::clone(value)) else {
            return;
        };
        if let Some(old) = old {
            self.touch(&key, &old);
        }
        self.touch(&key, value);
    }

    fn touch(&mut self, key: &ObjectKey, value: &Value) {
        let mut dirty = Vec::new();
        for (index, controller) in self.controllers.iter().enumerate() {
            controller.touched(&self.cache, key, value, &mut dirty);
            for key in dirty.drain(..) {
                self.queue.mark((index, key));
            }
        }
    }

    /// Starts to follow resources that appeared, forgets those that vanished.
    fn follow_resources(&mut self) {
        let (appeared, lost) = self.cache.serve(&self.api.resources());
        for gvr in lost {
            if let Some(watch) = self.running.remove(&gvr) {
                watch.abort();
            }
            self.unlisted.remove(&gvr);
            // A definition outlives its objects, so without it they are deleted for sure; a version merely no longer served keeps them.
            let definition = format!("{}.{}", gvr.resource, gvr.group);
            let deleted = self
                .api
                .get(&kinds::CUSTOM_RESOURCE_DEFINITIONS, "", &definition)
                .is_err_and(|error| error.code == 404);
            for key in self.cache.keys(&gvr) {
                let old = if deleted {
                    self.cache.vanished(&key)
                } else {
                    self.cache.forget(&key)
                };
                if let Some(old) = old {
                    self.touch(&key, &old);
                }
            }
            self.cache.relisted(&gvr);
        }
        self.unlisted.extend(appeared);
    }

    fn list_missing(&mut self) {
        for gvr in std::mem::take(&mut self.unlisted) {
            if let Err(error) = self.list(&gvr) {
                if error.code == 404 {
                    // The resource went away between discovery and now; its definition's event drops it from the cache.
                    continue;
                }
                tracing::warn!(resource = %gvr.resource, %error, "cannot list, trying again");
                self.unlisted.insert(gvr);
            }
        }
    }

    /// Replaces everything known about a resource by a fresh list and watches from there.
    fn list(&mut self, gvr: &Gvr) -> Result<(), ApiError> {
        let options = ListOptions::default();
        let list = self.api.list(gvr, None, &options)?;
        let watch = self.api.watch(gvr, None, &options, list.resource_version)?;
        self.cache.relisted(gvr);
        let listed: BTreeSet<ObjectKey> = list
            .items
            .iter()
            .map(|value| ObjectKey::of(gvr, value))
            .collect();
        for key in self.cache.keys(gvr) {
            if !listed.contains(&key)
                && let Some(old) = self.cache.vanished(&key)
            {
                self.touch(&key, &old);
            }
        }
        self.cache.relisted(gvr);
        for value in list.items {
            self.learn(gvr, &value);
        }
        let of = gvr.clone();
        let stream = futures::stream::unfold(Some(watch), move |state| {
            let of = of.clone();
            async move {
                let mut watch = state?;
                let event = watch.next().await?;
                let rest = (!matches!(event, WatchEvent::Expired)).then_some(watch);
                Some(((of, event), rest))
            }
        });
        let (handle, registration) = AbortHandle::new_pair();
        if let Some(old) = self.running.insert(gvr.clone(), handle) {
            old.abort();
        }
        self.watches
            .push(Abortable::new(stream, registration).boxed());
        Ok(())
    }

    /// One look at one key.
    fn pass(&mut self, work: Work) {
        let now = Timestamp::now();
        let controller = &self.controllers[work.0];
        let component = controller.component();
        // Deciding only reads, so a panic leaves nothing half done: this key waits, everything else goes on.
        let decided = std::panic::catch_unwind(AssertUnwindSafe(|| {
            controller.reconcile(&self.cache, &work.1, now)
        }));
        let Ok(plan) = decided else {
            tracing::error!(component, key = ?work.1, "a controller panicked; it looks again later. This is a defect: please report it");
            self.queue.done(work, Outcome::Failed, None, Instant::now());
            return;
        };
        let mut outcome = if plan.actions.is_empty() {
            Outcome::Quiet
        } else {
            Outcome::Wrote
        };
        if self.cache.at(&work.1).is_none() {
            self.cache.set_refusal(&work.1, None);
        }
        for action in plan.actions {
            let makes_pod = matches!(&action, Action::Create { gvr, .. } if *gvr == kinds::PODS);
            let result = self.carry_out(component, action);
            if makes_pod {
                let why = result.as_ref().err().map(|error| error.message.clone());
                self.cache.set_refusal(&work.1, why);
            }
            if let Err(error) = result {
                // A conflict is the API saying "look again"; anything else somebody may want to know about.
                if error.reason == "Conflict" {
                    tracing::debug!(component, key = ?work.1, %error, "looking again");
                } else {
                    tracing::info!(component, key = ?work.1, %error, "pass failed");
                }
                outcome = Outcome::Failed;
                break;
            }
        }
        let again = plan.again.map(|time| {
            let wait = time.duration_since(now).unsigned_abs();
            let wait = if time > now { wait } else { Duration::ZERO };
            // Never a busy loop: the earliest next look is a moment away.
            Instant::now() + wait.max(Duration::from_millis(5))
        });
        let busy = outcome == Outcome::Wrote;
        let key = busy.then(|| work.1.clone());
        let pause = self.queue.done(work, outcome, again, Instant::now());
        if let (Some(key), Some(_)) = (key, pause) {
            tracing::warn!(
                component,
                ?key,
                "keeps writing without settling, slowing down"
            );
        }
    }

    fn carry_out(&mut self, component: &str, action: Action) -> Result<(), ApiError> {
        let write = WriteOptions {
            field_manager: FIELD_MANAGER.to_owned(),
            ..WriteOptions::default()
        };
        match action {
            Action::Create {
                gvr,
                object,
                done,
                failed,
            } => {
                let key = ObjectKey::of(&gvr, &object);
                let result = self.api.create(&gvr, &key.namespace, object, &write);
                let created = match result {
                    Ok(value) => {
                        let name = object::name(&value).to_owned();
                        self.learn(&gvr, &value);
                        name
                    }
                    Err(error) => {
                        self.refresh(&key);
                        // The namespace is going away: upstream's controllers keep quiet about that, too.
                        if error.reason != "AlreadyExists" && !terminating(&error) {
                            self.note_failure(component, failed, &error);
                        }
                        return Err(error);
                    }
                };
                if let Some(mut note) = done {
                    if note.message.ends_with(": ") {
                        note.message.push_str(&created);
                    }
                    self.note(component, &note);
                }
                Ok(())
            }
            Action::Update {
                gvr,
                object,
                subresource,
            } => {
                let key = ObjectKey::of(&gvr, &object);
                let result =
                    self.api
                        .update(&gvr, &key.namespace, &key.name, subresource, object, &write);
                self.refresh(&key);
                gone_is_fine(result.map(drop))
            }
            Action::Merge { key, patch } => {
                let result = self.api.patch(
                    &key.gvr,
                    &key.namespace,
                    &key.name,
                    Subresource::None,
                    Patch::Merge(patch),
                    &write,
                );
                self.refresh(&key);
                gone_is_fine(result.map(drop))
            }
            Action::Bind { key, node } => {
                let result = self.api.bind(&key.namespace, &key.name, &node, false);
                self.refresh(&key);
                gone_is_fine(result)
            }
            Action::Delete {
                key,
                uid,
                propagation,
                grace_seconds,
                done,
                failed,
            } => {
                let result = self.delete(&key, uid, None, propagation, grace_seconds);
                match &result {
                    Ok(()) => {
                        if let Some(note) = done {
                            self.note(component, &note);
                        }
                    }
                    Err(error) => self.note_failure(component, failed, error),
                }
                result
            }
            Action::Collect {
                key,
                uid,
                resource_version,
                owners,
                propagation,
            } => {
                for (owner, owner_uid) in owners {
                    if self.exists(&owner, &owner_uid)? {
                        self.refresh(&owner);
                        return Ok(());
                    }
                }
                self.delete(&key, uid, Some(resource_version), propagation, None)
            }
            Action::RemoveVolume { volume, failed } => {
                self.volumes.remove(&volume).map_err(|error| {
                    let error = ApiError::new(
                        500,
                        "InternalError",
                        format!("cannot remove the directory of volume {volume:?}: {error}"),
                    );
                    self.note_failure(component, Some(failed), &error);
                    error
                })
            }
            Action::PurgeEvents { namespace } => self.purge_events(&namespace),
            Action::FinishNamespace { name } => self.finish_namespace(&name, &write),
            Action::Note(note) => {
                self.note(component, &note);
                Ok(())
            }
        }
    }

    fn delete(
        &mut self,
        key: &ObjectKey,
        uid: String,
        resource_version: Option<String>,
        propagation: Propagation,
        grace_period_seconds: Option<i64>,
    ) -> Result<(), ApiError> {
        let options = DeleteOptions {
            propagation: Some(propagation),
            uid: Some(uid).filter(|uid| !uid.is_empty()),
            resource_version,
            grace_period_seconds,
            ..DeleteOptions::default()
        };
        let result = self
            .api
            .delete(&key.gvr, &key.namespace, &key.name, &options);
        self.refresh(key);
        gone_is_fine(result.map(drop))
    }

    /// Whether this incarnation is alive, asked of the API.
    fn exists(&self, key: &ObjectKey, uid: &str) -> Result<bool, ApiError> {
        match self.api.get(&key.gvr, &key.namespace, &key.name) {
            Ok(value) => Ok(object::uid(&value) == uid),
            Err(error) if error.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads an object back, so that the next pass sees it as it is.
    fn refresh(&mut self, key: &ObjectKey) {
        match self.api.get(&key.gvr, &key.namespace, &key.name) {
            Ok(value) => self.learn(&key.gvr, &value),
            Err(error) if error.code == 404 => {
                if let Some(old) = self.cache.vanished(key) {
                    self.touch(key, &old);
                }
            }
            Err(error) => tracing::debug!(?key, %error, "cannot read back"),
        }
    }

    fn note_failure(&mut self, component: &str, note: Option<Note>, error: &ApiError) {
        let quiet = matches!(error.reason, "Conflict" | "NotFound");
        if let Some(mut note) = note
            && !quiet
        {
            note.message.push_str(&error.message);
            self.note(component, &note);
        }
    }

    /// Records an event. Events are a courtesy: failing to write one is logged and never fails a pass.
    fn note(&mut self, component: &str, note: &Note) {
        let write = WriteOptions {
            field_manager: FIELD_MANAGER.to_owned(),
            ..WriteOptions::default()
        };
        let now = Timestamp::now();
        let result = match self.recorder.record(component, note, now) {
            None => return,
            Some(Record::Create(event)) => {
                let namespace = object::namespace(&event).to_owned();
                self.api.create(&kinds::EVENTS, &namespace, event, &write)
            }
            Some(Record::Repeat {
                namespace,
                name,
                patch,
            }) => {
                let patched = self.api.patch(
                    &kinds::EVENTS,
                    &namespace,
                    &name,
                    Subresource::None,
                    Patch::Merge(patch),
                    &write,
                );
                match patched {
                    Err(error) if error.code == 404 => {
                        self.recorder.forget(&namespace, &name);
                        match self.recorder.record(component, note, now) {
                            Some(Record::Create(event)) => {
                                self.api.create(&kinds::EVENTS, &namespace, event, &write)
                            }
                            _ => return,
                        }
                    }
                    other => other,
                }
            }
        };
        if let Err(error) = result
            && !terminating(&error)
        {
            tracing::debug!(component, reason = note.reason, %error, "cannot record event");
        }
    }

    fn purge_events(&self, namespace: &str) -> Result<(), ApiError> {
        let list = self
            .api
            .list(&kinds::EVENTS, Some(namespace), &ListOptions::default())?;
        for event in list.items {
            let result = self.api.delete(
                &kinds::EVENTS,
                namespace,
                object::name(&event),
                &DeleteOptions::default(),
            );
            gone_is_fine(result.map(drop))?;
        }
        Ok(())
    }

    fn finish_namespace(&mut self, name: &str, write: &WriteOptions) -> Result<(), ApiError> {
        let key = ObjectKey::new(&kinds::NAMESPACES, "", name);
        let one = ListOptions {
            limit: Some(1),
            ..ListOptions::default()
        };
        for (gvr, _, namespaced) in self.api.resources() {
            if !namespaced {
                continue;
            }
            let list = self.api.list(&gvr, Some(name), &one)?;
            if let Some(left) = list.items.first() {
                return Err(ApiError::conflict(
                    "namespaces",
                    name,
                    &format!("it still holds {} {:?}", gvr.resource, object::name(left)),
                ));
            }
        }
        let live = match self.api.get(&key.gvr, "", name) {
            Ok(live) => live,
            Err(error) if error.code == 404 => {
                self.refresh(&key);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut released = (*live).clone();
        released["spec"] = json!({"finalizers": []});
        let result = self
            .api
            .update(&key.gvr, "", name, Subresource::Finalize, released, write);
        self.refresh(&key);
        gone_is_fine(result.map(drop))
    }
}

/// What is to be changed or deleted is gone already: the next pass decides what that means.
fn gone_is_fine(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if error.code == 404 => Ok(()),
        other => other,
    }
}

/// Refused because the namespace is being deleted.
fn terminating(error: &ApiError) -> bool {
    error.code == 403 && error.message.contains("being terminated")
}
