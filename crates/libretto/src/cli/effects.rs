//! What an intent would do, in words: for people who want to know before it is done. Pure; secrets are named, never shown.

use libretto_api::{
    intent::{Effect, EventKind, HttpBody, HttpCall, Intent, RedisCall},
    object::ObjectRef,
};
use libretto_mirror::canonical_json;
use serde::Serialize;
use serde_json::Value;

use crate::cli::spoken;

/// What kind of thing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Does {
    Create,
    Change,
    Delete,
    /// Gives back fields of an object that is somebody else's.
    Release,
    Call,
    Event,
    Status,
    /// The instance's finalizer is set or taken off.
    Finalizer,
    /// What must be remembered is written down.
    Inventory,
    /// It would not be done: the object is somebody else's.
    Refuse,
}

impl Does {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Delete => "delete",
            Self::Release => "release",
            Self::Call => "call",
            Self::Event => "event",
            Self::Status => "status",
            Self::Finalizer => "finalizer",
            Self::Inventory => "inventory",
            Self::Refuse => "refuse",
        }
    }
}

/// The object that the effect writes or deletes, if it is about one.
pub(crate) fn target(effect: &Effect) -> Option<ObjectRef> {
    match effect {
        Effect::Apply { object, .. } | Effect::Patch { object, .. } => {
            libretto_actions::kube::object_ref(object).ok()
        }
        Effect::Delete { object, .. } => Some(object.clone()),
        _ => None,
    }
}

/// What it does, and to what, in one line. `there`: the object that it writes exists.
pub(crate) fn headline(intent: &Intent, there: bool) -> (Does, String) {
    let name = || target(&intent.effect).map_or_else(String::new, |target| target.to_string());
    match &intent.effect {
        Effect::Patch { object, .. } if intent.rule == "@finalizer" => {
            let set = !object["metadata"]["finalizers"].is_null();
            let word = if set { "hold" } else { "let go of" };
            (Does::Finalizer, format!("{word} {}", intent.instance))
        }
        Effect::Patch { .. } if intent.fingerprint.is_empty() => (Does::Release, name()),
        Effect::Apply { .. } | Effect::Patch { .. } if there => (Does::Change, name()),
        Effect::Apply { .. } | Effect::Patch { .. } => (Does::Create, name()),
        Effect::Delete { .. } => (Does::Delete, name()),
        Effect::Status { .. } => (Does::Status, intent.instance.to_string()),
        Effect::Event {
            kind,
            reason,
            message,
        } => {
            let kind = match kind {
                EventKind::Normal => "Normal",
                EventKind::Warning => "Warning",
            };
            (
                Does::Event,
                format!("{kind} {reason}: {}", spoken::text(message)),
            )
        }
        Effect::Redis(call) => (Does::Call, format!("redis {}:{}", call.host, call.port)),
        Effect::Http(call) => (
            Does::Call,
            format!("{} {}", call.method, spoken::text(&call.url)),
        ),
        Effect::Exec(call) => {
            let command = spoken::text(&call.command.join(" "));
            (Does::Call, format!("exec in pod {}: {command}", call.pod))
        }
        Effect::Scale { object, replicas } => {
            (Does::Call, format!("kube.scale {object} to {replicas}"))
        }
        Effect::Restart { object } => (Does::Call, format!("kube.restart {object}")),
        Effect::Evict { pod, .. } => (Does::Call, format!("kube.evict {pod}")),
        Effect::Inventory { inventory } => {
            let objects = inventory["objects"].as_array().map_or(0, Vec::len);
            (Does::Inventory, format!("remember {objects} objects"))
        }
    }
}

/// The whole of it in a line, with whose it is.
pub(crate) fn sentence(intent: &Intent, there: bool) -> String {
    let (does, what) = headline(intent, there);
    let verb = match does {
        Does::Status => {
            return format!("write the status of {what}: {}", conditions(&intent.effect));
        }
        Does::Event => "record the event",
        Does::Finalizer | Does::Inventory => "",
        does => does.word(),
    };
    let of = if intent.rule.starts_with('@') {
        format!("   ({})", intent.instance)
    } else {
        format!(
            "   ({}, rule {}, row {})",
            intent.instance, intent.rule, intent.key
        )
    };
    format!("{verb} {what}{of}").trim_start().to_owned()
}

/// Conditions of a status, as far as a line holds them.
fn conditions(effect: &Effect) -> String {
    let Effect::Status { status } = effect else {
        return String::new();
    };
    let told: Vec<String> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            format!("{}={} ({})", text("type"), text("status"), text("reason"))
        })
        .collect();
    told.join(", ")
}

/// What a call says, one line each.
pub(crate) fn said(effect: &Effect) -> Vec<String> {
    match effect {
        Effect::Redis(call) => redis(call),
        Effect::Http(call) => http(call),
        _ => Vec::new(),
    }
}

fn redis(call: &RedisCall) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    if let Some(password) = &call.password {
        let user = call
            .username
            .as_ref()
            .map_or_else(String::new, |user| format!("{} ", spoken::text(user)));
        lines.push(format!("AUTH {user}{}", spoken::text(password)));
    }
    for command in &call.commands {
        let words: Vec<String> = command.arguments.iter().map(|word| quoted(word)).collect();
        let mut line = words.join(" ");
        if !command.expect.is_empty() {
            let words: Vec<String> = command.expect.iter().map(|word| quoted(word)).collect();
            line.push_str(&format!(
                "   (go on only if the reply is {})",
                words.join(" ")
            ));
        }
        lines.push(line);
    }
    lines
}

/// A word of a command, in quotes where it would not be one without.
fn quoted(word: &str) -> String {
    let said = spoken::text(word);
    let plain =
        !word.is_empty() && !word.contains(|letter: char| letter.is_whitespace() || letter == '"');
    if plain || said != word {
        said
    } else {
        Value::from(said).to_string()
    }
}

fn http(call: &HttpCall) -> Vec<String> {
    let mut lines: Vec<String> = call
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", spoken::text(value)))
        .collect();
    match &call.body {
        None => {}
        Some(HttpBody::Text(text)) => lines.extend(spoken::text(text).lines().map(str::to_owned)),
        Some(HttpBody::Json(value)) => lines.push(canonical_json(&spoken::value(value))),
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use libretto_api::{
        intent::RedisCommand,
        object::{Gvk, InstanceRef},
        secret::SecretHandle,
    };
    use serde_json::json;

    use super::*;

    fn intent(rule: &str, fingerprint: &str, effect: Effect) -> Intent {
        Intent {
            instance: InstanceRef {
                package: "p".into(),
                gvk: Gvk::new("g", "v1", "Kind"),
                namespace: "ns".into(),
                name: "demo".into(),
                uid: "u".into(),
            },
            rule: rule.into(),
            key: "k".into(),
            fingerprint: fingerprint.into(),
            effect,
        }
    }

    #[test]
    fn effects_are_told_in_a_line() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns"}});
        let apply = Effect::Apply {
            object: object.clone(),
            adopt: false,
        };
        let patch = Effect::Patch {
            object,
            force: false,
        };
        let hold = Effect::Patch {
            object: json!({"metadata": {"finalizers": ["f"]}}),
            force: false,
        };
        for (intent, there, does, what) in [
            (
                intent("r", "f", apply.clone()),
                false,
                Does::Create,
                "ConfigMap ns/a",
            ),
            (
                intent("r", "f", apply),
                true,
                Does::Change,
                "ConfigMap ns/a",
            ),
            (
                intent("r", "", patch),
                true,
                Does::Release,
                "ConfigMap ns/a",
            ),
            (
                intent("@finalizer", "", hold),
                true,
                Does::Finalizer,
                "hold Kind ns/demo",
            ),
            (
                intent(
                    "r",
                    "f",
                    Effect::Event {
                        kind: EventKind::Warning,
                        reason: "R".into(),
                        message: "m".into(),
                    },
                ),
                false,
                Does::Event,
                "Warning R: m",
            ),
        ] {
            assert_eq!(headline(&intent, there), (does, what.to_owned()));
        }
    }

    #[test]
    fn secrets_in_calls_are_named() {
        let handle = SecretHandle::Key {
            name: "auth".into(),
            key: "password".into(),
        };
        let call = RedisCall {
            host: "10.0.0.1".into(),
            port: 6379,
            username: None,
            password: Some(handle.text()),
            timeout_ms: 1,
            commands: vec![RedisCommand {
                name: "c".into(),
                arguments: vec![
                    "CONFIG".into(),
                    "SET".into(),
                    "save".into(),
                    "900 1".into(),
                    String::new(),
                ],
                ignore_errors: Vec::new(),
                expect: vec!["slave".into()],
            }],
        };
        assert_eq!(
            said(&Effect::Redis(call)),
            [
                "AUTH <secret auth/password>",
                "CONFIG SET save \"900 1\" \"\"   (go on only if the reply is slave)"
            ]
        );
    }
}
