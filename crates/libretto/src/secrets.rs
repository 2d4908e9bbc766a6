//! The values behind secret handles: keys of Secrets in the instance's namespace, and sensitive fields of the instance.
//!
//! Values are kept for a few seconds, to spare the API server a request per probe; those of Secrets that a package watches as long as
//! the watch tells of no change, for some minutes at most. Never logged, never in an error.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

use base64::Engine as _;
use futures::future::BoxFuture;
use libretto_actions::{MISPLACED, SecretSource, kube::Kube};
use libretto_api::{
    intent::{Failure, FailureKind},
    object::{Gvk, InstanceRef, ObjectRef},
    secret::SecretHandle,
};
use libretto_mirror::ColumnPath;
use parking_lot::Mutex;
use serde_json::Value;

/// How long a value is used without looking again: probes come every few seconds, a changed password should be noticed at the
/// second of them.
const FRESH: Duration = Duration::from_secs(5);
/// How long a value of a watched Secret is used: a thousand instances then ask three times a second instead of two hundred.
const WATCHED_FRESH: Duration = Duration::from_mins(5);
/// Objects remembered at once; beyond that the cluster has more tenants with passwords than fit in five seconds of probing.
const REMEMBERED: usize = 1024;

/// Reads secrets from the cluster.
pub struct KubeSecrets {
    kube: Kube,
    /// Paths of sensitive fields, by package and field name.
    fields: HashMap<(String, String), ColumnPath>,
    cache: Mutex<Cache>,
}

/// A changed field has another digest, and so is read anew at once.
type CacheKey = (ObjectRef, String);

#[derive(Default)]
struct Cache {
    values: HashMap<CacheKey, Cached>,
    /// Secrets whose changes are told. As many as the mirror holds.
    watched: HashSet<ObjectRef>,
    /// Counts what was told, so that an answer from before is not kept after.
    told: u64,
}

struct Cached {
    until: Instant,
    object: Value,
}

impl fmt::Debug for KubeSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeSecrets").finish_non_exhaustive()
    }
}

impl KubeSecrets {
    pub fn new(kube: Kube, fields: HashMap<(String, String), ColumnPath>) -> Self {
        Self {
            kube,
            fields,
            cache: Mutex::default(),
        }
    }

    async fn key(&self, instance: &InstanceRef, name: &str, key: &str) -> Result<String, Failure> {
        let object = ObjectRef {
            gvk: Gvk::new("", "v1", "Secret"),
            namespace: instance.namespace.clone(),
            name: name.to_owned(),
        };
        let secret = self
            .read(&object, "", |secret| secret["data"].clone())
            .await?
            .ok_or_else(|| missing(format!("{object} does not exist")))?;
        let encoded = secret[key]
            .as_str()
            .ok_or_else(|| missing(format!("{object} has no key {key:?}")))?;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map_err(|_error| missing(format!("key {key:?} of {object} is not base64")))?;
        String::from_utf8(bytes)
            .map_err(|_error| missing(format!("key {key:?} of {object} is not UTF-8 text")))
    }

    async fn field(
        &self,
        instance: &InstanceRef,
        field: &str,
        digest: &str,
    ) -> Result<String, Failure> {
        let path = self
            .fields
            .get(&(instance.package.clone(), field.to_owned()))
            .ok_or_else(|| {
                missing(format!(
                    "package {} declares no sensitive field {field:?}",
                    instance.package
                ))
            })?;
        let object = ObjectRef {
            gvk: instance.gvk.clone(),
            namespace: instance.namespace.clone(),
            name: instance.name.clone(),
        };
        let cache_key = format!("{}:{field}:{digest}", instance.uid);
        let value = self
            .read(&object, &cache_key, |live| {
                if live["metadata"]["uid"] == instance.uid.as_str() {
                    path.find(live).cloned().unwrap_or(Value::Null)
                } else {
                    Value::Null
                }
            })
            .await?
            .ok_or_else(|| missing(format!("{instance} does not exist any more")))?;
        match value {
            Value::String(text) => Ok(text),
            Value::Null => Err(missing(format!(
                "{instance} has no value for field {field:?}"
            ))),
            other => Ok(other.to_string()),
        }
    }

    /// Part of an object, not older than [`FRESH`]; `None` when the object is not there.
    async fn read(
        &self,
        object: &ObjectRef,
        discriminator: &str,
        part: impl FnOnce(&Value) -> Value,
    ) -> Result<Option<Value>, Failure> {
        let key = (object.clone(), discriminator.to_owned());
        let told = {
            let mut cache = self.cache.lock();
            let now = Instant::now();
            cache.values.retain(|_, cached| cached.until > now);
            if let Some(cached) = cache.values.get(&key) {
                return Ok(Some(cached.object.clone()));
            }
            cache.told
        };
        let live = self
            .kube
            .get(object)
            .await
            .map_err(|error| error.failure(&format!("read {object}")))?;
        let Some(live) = live else {
            return Ok(None);
        };
        let part = part(&live);
        let mut cache = self.cache.lock();
        if cache.values.len() < REMEMBERED {
            // Something was told while we asked: the answer may be from before it.
            let fresh = if cache.watched.contains(object) && cache.told == told {
                WATCHED_FRESH
            } else {
                FRESH
            };
            cache.values.insert(
                key,
                Cached {
                    until: Instant::now() + fresh,
                    object: part.clone(),
                },
            );
        }
        Ok(Some(part))
    }
}

impl SecretSource for KubeSecrets {
    fn value<'a>(
        &'a self,
        instance: &'a InstanceRef,
        handle: &'a SecretHandle,
    ) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move {
            match handle {
                SecretHandle::Key { name, key } => self.key(instance, name, key).await,
                SecretHandle::Field { field, digest } => self.field(instance, field, digest).await,
                SecretHandle::Made { .. } => Err(Failure {
                    kind: FailureKind::Invalid,
                    message: MISPLACED.to_owned(),
                }),
            }
        })
    }

    fn changed(&self, secret: Option<&ObjectRef>) {
        let mut cache = self.cache.lock();
        cache.told += 1;
        if let Some(secret) = secret {
            cache.values.retain(|(object, _), _| object != secret);
            cache.watched.insert(secret.clone());
        } else {
            cache.values.clear();
            cache.watched.clear();
        }
    }
}

fn missing(message: String) -> Failure {
    Failure {
        kind: FailureKind::SecretMissing,
        message,
    }
}
