//! Puts secret values in the place of their handles, just before a request, and keeps them out of what is said about it.
//!
//! Never here: where values come from (see [`SecretSource`]'s implementors), caching.

use std::sync::Mutex;

use base64::Engine as _;
use futures::future::BoxFuture;
use libretto_api::{
    intent::{Failure, FailureKind},
    object::{InstanceRef, ObjectRef},
    secret::{MARK, Piece, SecretHandle, pieces},
};
use serde_json::Value;

use crate::failed;

/// What is said of a made value that does not stand where it would be kept.
pub const MISPLACED: &str = "random() is for whole values of an applied Secret's stringData; elsewhere refer to it by secret(name, key)";

/// Knows the values behind handles.
pub trait SecretSource: Send + Sync {
    /// The value of one handle, as seen by `instance`. A missing Secret, key or field is a [`FailureKind::SecretMissing`]
    /// whose message names it.
    fn value<'a>(
        &'a self,
        instance: &'a InstanceRef,
        handle: &'a SecretHandle,
    ) -> BoxFuture<'a, Result<String, Failure>>;

    /// A watch tells of this Secret: values of before are not used any more, and the next change will be told too. `None` when the
    /// watch starts anew and may have missed something.
    fn changed(&self, _secret: Option<&ObjectRef>) {}
}

/// A source without any secret: every handle is missing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSecrets;

impl SecretSource for NoSecrets {
    fn value<'a>(
        &'a self,
        _instance: &'a InstanceRef,
        _handle: &'a SecretHandle,
    ) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async {
            Err(failed(
                FailureKind::SecretMissing,
                "secrets cannot be read here",
            ))
        })
    }
}

/// Resolves the handles of one request and remembers the values to strike them from its messages.
pub struct Resolver<'a> {
    source: &'a dyn SecretSource,
    instance: &'a InstanceRef,
    /// Values given out so far; a request has a handful.
    revealed: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Resolver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("instance", self.instance)
            .finish_non_exhaustive()
    }
}

impl<'a> Resolver<'a> {
    pub fn new(source: &'a dyn SecretSource, instance: &'a InstanceRef) -> Self {
        Self {
            source,
            instance,
            revealed: Mutex::new(Vec::new()),
        }
    }

    /// Whose secrets these are.
    pub fn instance(&self) -> &InstanceRef {
        self.instance
    }

    /// The text with every handle replaced by its value.
    pub async fn text(&self, text: &str) -> Result<String, Failure> {
        if !text.contains(MARK) {
            return Ok(text.to_owned());
        }
        let mut resolved = String::new();
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) => resolved.push_str(text),
                Piece::Handle(handle) => {
                    let value = self.source.value(self.instance, &handle).await?;
                    resolved.push_str(&value);
                    self.reveal(value);
                }
            }
        }
        Ok(resolved)
    }

    /// Replaces the handles in every string of an object. A Secret's `stringData` becomes `data`: server-side apply of the
    /// write-only field would own nothing of what it stores.
    pub async fn object(&self, object: &Value) -> Result<Value, Failure> {
        let mut object = object.clone();
        let mut strings = Vec::new();
        collect_handles(&mut object, &mut strings);
        for string in strings {
            *string = self.text(string).await?;
        }
        if object["kind"] == "Secret" && object["apiVersion"] == "v1" {
            string_data_to_data(&mut object);
        }
        Ok(object)
    }

    /// Replaces every value given out by `***`.
    pub fn scrub(&self, message: &str) -> String {
        let mut message = libretto_api::secret::redact(message);
        let revealed = self
            .revealed
            .lock()
            .expect("no code panics under this lock");
        for value in revealed.iter().filter(|value| !value.is_empty()) {
            message = message.replace(value.as_str(), "***");
        }
        message
    }

    pub(crate) fn reveal(&self, value: String) {
        let mut revealed = self
            .revealed
            .lock()
            .expect("no code panics under this lock");
        if !revealed.contains(&value) {
            revealed.push(base64::engine::general_purpose::STANDARD.encode(&value));
            revealed.push(value);
        }
    }
}

fn collect_handles<'v>(value: &'v mut Value, strings: &mut Vec<&'v mut String>) {
    match value {
        Value::String(text) if text.contains(MARK) => strings.push(text),
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| collect_handles(item, strings)),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|field| collect_handles(field, strings)),
        _ => {}
    }
}

fn string_data_to_data(secret: &mut Value) {
    let Some(fields) = secret.as_object_mut() else {
        return;
    };
    let Some(Value::Object(strings)) = fields.remove("stringData") else {
        return;
    };
    let data = fields
        .entry("data")
        .or_insert_with(|| Value::Object(serde_json::Map::new()));
    for (key, value) in strings {
        let text = value.as_str().unwrap_or_default();
        data[key] = base64::engine::general_purpose::STANDARD
            .encode(text)
            .into();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use libretto_api::object::Gvk;
    use serde_json::json;

    use super::*;

    struct One;

    impl SecretSource for One {
        fn value<'a>(
            &'a self,
            _instance: &'a InstanceRef,
            handle: &'a SecretHandle,
        ) -> BoxFuture<'a, Result<String, Failure>> {
            Box::pin(async move {
                match handle {
                    SecretHandle::Key { name, .. } if name == "auth" => Ok("hunter2".into()),
                    _ => Err(failed(FailureKind::SecretMissing, "no such secret")),
                }
            })
        }
    }

    fn instance() -> InstanceRef {
        InstanceRef {
            package: "p".into(),
            gvk: Gvk::new("example.dev", "v1", "Thing"),
            namespace: "default".into(),
            name: "x".into(),
            uid: "u".into(),
        }
    }

    fn handle(name: &str) -> String {
        SecretHandle::Key {
            name: name.into(),
            key: "password".into(),
        }
        .text()
    }

    #[tokio::test]
    async fn handles_become_values_and_never_come_back_out() {
        let instance = instance();
        let resolver = Resolver::new(&One, &instance);
        let url = resolver
            .text(&format!("redis://:{}@host", handle("auth")))
            .await
            .unwrap();
        assert_eq!(url, "redis://:hunter2@host");
        assert_eq!(
            resolver.scrub("Invalid value: \"hunter2\" (aHVudGVyMg==)"),
            "Invalid value: \"***\" (***)"
        );
    }

    #[tokio::test]
    async fn string_data_is_sent_as_data() {
        let instance = instance();
        let resolver = Resolver::new(&One, &instance);
        let secret = resolver
            .object(&json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"password": handle("auth")}}))
            .await
            .unwrap();
        assert_eq!(
            secret,
            json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "aHVudGVyMg=="}})
        );
    }

    #[tokio::test]
    async fn a_missing_secret_is_a_failure_not_an_empty_string() {
        let instance = instance();
        let resolver = Resolver::new(&One, &instance);
        let error = resolver.text(&handle("other")).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::SecretMissing);
    }
}
