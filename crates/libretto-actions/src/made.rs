//! Values that are made when a Secret is first written, and kept from then on.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libretto_api::{
    intent::Failure,
    object::ObjectRef,
    secret::{Letters, SecretHandle},
};
use rand::Rng as _;
use serde_json::Value;

use crate::{kube::Kube, secret::Resolver};

/// The manifest with every made value that stands in its `stringData`: the one that is there, or a new one.
pub(crate) async fn fill(
    kube: &Kube,
    resolver: &Resolver<'_>,
    target: &ObjectRef,
    object: &Value,
) -> Result<Value, Failure> {
    let mut object = object.clone();
    let asks = object["kind"] == "Secret"
        && object["stringData"]
            .as_object()
            .into_iter()
            .flatten()
            .any(|(_, value)| value.as_str().and_then(SecretHandle::made).is_some());
    if !asks {
        return Ok(object);
    }
    let live = kube
        .get(target)
        .await
        .map_err(|error| error.failure(&format!("read {target}")))?;
    for value in put_in(&mut object, live.as_ref()) {
        resolver.reveal(value);
    }
    Ok(object)
}

/// Puts values in the place of their handles, and returns them.
fn put_in(object: &mut Value, live: Option<&Value>) -> Vec<String> {
    let Some(strings) = object["stringData"].as_object_mut() else {
        return Vec::new();
    };
    let mut values = Vec::new();
    for (key, text) in strings {
        let Some((letters, length)) = text.as_str().and_then(SecretHandle::made) else {
            continue;
        };
        let value = live
            .and_then(|live| there(live, key))
            .unwrap_or_else(|| make(letters, length));
        values.push(value.clone());
        *text = Value::String(value);
    }
    values
}

/// What the Secret has under a key; an empty value is none.
fn there(live: &Value, key: &str) -> Option<String> {
    let bytes = STANDARD.decode(live["data"][key].as_str()?).ok()?;
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.is_empty())
}

fn make(letters: Letters, length: u16) -> String {
    // Of the operating system, by way of a generator fit for keys (ChaCha12).
    let mut random = rand::rng();
    let letters = letters.all();
    (0..length)
        .map(|_| char::from(letters[random.random_range(0..letters.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(name: &str) -> Value {
        let handle = SecretHandle::Made {
            letters: Letters::Alnum,
            length: 24,
        };
        json!({"kind": "Secret", "stringData": {name: handle.text(), "plain": "text"}})
    }

    #[test]
    fn a_value_is_made_once_and_kept() {
        let mut first = secret("password");
        let made = put_in(&mut first, None);
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].len(), 24);
        assert!(made[0].bytes().all(|letter| letter.is_ascii_alphanumeric()));
        assert_eq!(first["stringData"]["password"], made[0]);
        assert_eq!(first["stringData"]["plain"], "text");
        let live = json!({"data": {"password": STANDARD.encode(&made[0])}});
        let mut again = secret("password");
        assert_eq!(put_in(&mut again, Some(&live)), made);
        let mut other = secret("another");
        assert_ne!(put_in(&mut other, Some(&live)), made);
    }
}
