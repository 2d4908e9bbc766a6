//! Lists, pages and watches with selectors.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Api, Gvr, ListOptions, Target, WatchEvent, convert};
use crate::{
    error::ApiError,
    registry::Resource,
    selector::{FieldSelector, LabelSelector, text_at},
    store::{Change, Key, Source, Watcher},
};

/// About what Kubernetes does: often enough that a watcher of a quiet resource does not fall out of the history.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// What an HTTP list adds to `ListOptions`.
#[derive(Debug)]
pub(crate) struct ListQuery<'a> {
    pub namespace: Option<&'a str>,
    pub options: &'a ListOptions,
    /// `resourceVersionMatch=Exact`.
    pub at: Option<u64>,
}

/// Part of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub revision: u64,
    pub items: Vec<Arc<Value>>,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

/// Which objects a request is about.
#[derive(Debug, Clone)]
struct Filter {
    resource: Arc<Resource>,
    namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    fn new(
        target: &Target,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Self, ApiError> {
        let resource = target.resource.clone();
        let labels = LabelSelector::parse(options.label_selector.as_deref().unwrap_or_default())?;
        let text = options.field_selector.as_deref().unwrap_or_default();
        let fields = FieldSelector::parse(text)?;
        let version = resource.version(&target.version);
        for field in fields.fields() {
            let known = matches!(field, "metadata.name" | "metadata.namespace")
                || version.is_some_and(|version| version.selectable.iter().any(|one| one == field));
            if !known {
                let own = version.is_some_and(|version| !version.selectable.is_empty());
                return Err(ApiError::bad_request(if own || resource.custom.is_some() {
                    format!("field label not supported: {field}")
                } else {
                    format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                }));
            }
        }
        Ok(Self {
            namespace: namespace.filter(|_| resource.namespaced).map(str::to_owned),
            resource,
            labels,
            fields,
        })
    }

    fn matches_everything(&self) -> bool {
        self.labels.matches_everything() && self.fields.matches_everything()
    }

    /// `object` in its stored form.
    fn matches(&self, key: &Key, object: &Value) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == key.namespace)
            && self.labels.matches(object)
            && self
                .fields
                .matches(|field| field_text(&self.resource, object, field))
    }
}

fn field_text(resource: &Resource, object: &Value, field: &str) -> String {
    if resource.plural != "events" || resource.custom.is_some() {
        return text_at(object, field);
    }
    // Events are stored in the core group's form.
    match field {
        "source" => {
            let component = text_at(object, "source.component");
            if component.is_empty() {
                text_at(object, "reportingComponent")
            } else {
                component
            }
        }
        "reportingController" => text_at(object, "reportingComponent"),
        other => match other.strip_prefix("regarding.") {
            Some(rest) => text_at(object, &format!("involvedObject.{rest}")),
            None => text_at(object, other),
        },
    }
}

impl Api {
    /// One page of a list; without a limit all of it.
    pub(crate) fn page(&self, gvr: &Gvr, query: &ListQuery<'_>) -> Result<Page, ApiError> {
        let target = self.resolve(gvr)?;
        let filter = Filter::new(&target, query.namespace, query.options)?;
        let token = query
            .options
            .continue_token
            .as_deref()
            .filter(|token| !token.is_empty())
            .map(parse_token)
            .transpose()?;
        let at = token.as_ref().map(|(revision, _)| *revision).or(query.at);
        let snapshot = self
            .0
            .store
            .list(&target.resource.table, filter.namespace.as_deref(), at)
            .map_err(|_| {
                ApiError::expired(if token.is_some() {
                    "The provided continue parameter is too old to display a consistent list result. Start a new list without the continue parameter."
                } else {
                    "The resourceVersion for the provided list is too old or not known here."
                })
            })?;
        let limit = query
            .options
            .limit
            .filter(|limit| *limit > 0)
            .unwrap_or(usize::MAX);
        let mut rest = snapshot
            .items
            .iter()
            .skip_while(|(key, _)| token.as_ref().is_some_and(|(_, last)| key <= last))
            .filter(|(key, object)| filter.matches(key, object));
        let mut items = Vec::new();
        let mut last = None;
        for (key, object) in rest.by_ref().take(limit) {
            items.push(convert::from_storage(
                &target.resource,
                &target.version,
                object,
            ));
            last = Some(key);
        }
        let left = rest.count();
        let continue_token = last
            .filter(|_| left > 0)
            .map(|key| token_text(snapshot.revision, key));
        let remaining = (continue_token.is_some() && filter.matches_everything()).then_some(left);
        Ok(Page {
            revision: snapshot.revision,
            items,
            continue_token,
            remaining,
        })
    }

    pub(super) fn watch_from(
        &self,
        gvr: &Gvr,
        namespace: Option<&str>,
        options: &ListOptions,
        from: u64,
    ) -> Result<Watch, ApiError> {
        let target = self.resolve(gvr)?;
        let filter = Filter::new(&target, namespace, options)?;
        let watcher = self.0.store.watch(&target.resource.table, from);
        Ok(Watch {
            watcher,
            filter,
            version: target.version,
            bookmark_at: Instant::now() + BOOKMARK_INTERVAL,
        })
    }
}

fn token_text(revision: u64, key: &Key) -> String {
    let token = json!({"rv": revision, "ns": key.namespace, "name": key.name});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn parse_token(token: &str) -> Result<(u64, Key), ApiError> {
    let parsed = URL_SAFE_NO_PAD
        .decode(token.trim_end_matches('='))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    parsed
        .as_ref()
        .and_then(|token| {
            Some((
                token["rv"].as_u64()?,
                Key::new(token["ns"].as_str()?, token["name"].as_str()?),
            ))
        })
        .ok_or_else(|| {
            ApiError::bad_request("continue key is not valid: it was not issued by this server")
        })
}

/// A running watch. After `Expired` it yields nothing more.
#[derive(Debug)]
pub struct Watch {
    watcher: Watcher,
    filter: Filter,
    version: String,
    bookmark_at: Instant,
}

impl Watch {
    /// The next change; `None` when the store is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(source) = self.watcher.ready() {
                if let Some(event) = self.event(source) {
                    return Some(event);
                }
                continue;
            }
            tokio::select! {
                source = self.watcher.next() => {
                    if let Some(event) = self.event(source?) {
                        return Some(event);
                    }
                }
                () = tokio::time::sleep_until(self.bookmark_at) => {
                    self.bookmark_at = Instant::now() + BOOKMARK_INTERVAL;
                    match self.watcher.ready() {
                        None => return Some(WatchEvent::Bookmark(self.watcher.position())),
                        Some(source) => {
                            if let Some(event) = self.event(source) {
                                return Some(event);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Everything up to this revision has been yielded, provided the last `next` is still waiting.
    pub fn position(&self) -> u64 {
        self.watcher.position()
    }

    fn event(&self, source: Source) -> Option<WatchEvent> {
        let change = match source {
            Source::Expired => return Some(WatchEvent::Expired),
            Source::Change(change) => change,
        };
        let Change {
            revision,
            key,
            before,
            object,
            deleted,
        } = change;
        let present = |object: &Arc<Value>| {
            convert::from_storage(&self.filter.resource, &self.version, object)
        };
        let was = before
            .as_ref()
            .is_some_and(|before| self.filter.matches(&key, before));
        if deleted {
            return was.then(|| WatchEvent::Deleted(present(&object)));
        }
        let is = self.filter.matches(&key, &object);
        match (was, is) {
            (true, true) => Some(WatchEvent::Modified(present(&object))),
            (false, true) => Some(WatchEvent::Added(present(&object))),
            (true, false) => {
                // It left the selection: the state the watcher knew, at the revision it left.
                let mut last = before.map_or(Value::Null, Arc::unwrap_or_clone);
                last["metadata"]["resourceVersion"] = revision.to_string().into();
                Some(WatchEvent::Deleted(present(&Arc::new(last))))
            }
            (false, false) => None,
        }
    }
}
