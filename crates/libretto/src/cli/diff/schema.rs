//! What became of a definition's schema, field by field, and whether what people have written still fits. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

/// One difference of a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// Path of the field, such as `spec.size`; the version's name for a version.
    pub(super) field: String,
    pub(super) what: String,
    /// Objects or clients that were fine may not be so any more.
    pub(super) breaking: bool,
}

/// Version by version, of two definitions.
pub(super) fn differences(old: &Value, new: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    for (name, old) in versions(old) {
        match versions(new).into_iter().find(|(other, _)| *other == name) {
            Some((_, new)) => schema(old, new, "", &mut found),
            None => found.push(Difference {
                field: name.to_owned(),
                what: "version is not served any more".to_owned(),
                breaking: true,
            }),
        }
    }
    for (name, _) in versions(new) {
        if !versions(old).iter().any(|(other, _)| *other == name) {
            found.push(Difference {
                field: name.to_owned(),
                what: "version is new".to_owned(),
                breaking: false,
            });
        }
    }
    for (what, pointer) in [
        ("group", "/spec/group"),
        ("kind", "/spec/names/kind"),
        ("plural", "/spec/names/plural"),
        ("scope", "/spec/scope"),
    ] {
        if old.pointer(pointer) != new.pointer(pointer) {
            found.push(Difference {
                field: what.to_owned(),
                what: changed(old.pointer(pointer), new.pointer(pointer)),
                breaking: true,
            });
        }
    }
    found
}

fn versions(crd: &Value) -> Vec<(&str, &Value)> {
    crd["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version["served"] != false)
        .filter_map(|version| {
            Some((
                version["name"].as_str()?,
                &version["schema"]["openAPIV3Schema"],
            ))
        })
        .collect()
}

fn changed(old: Option<&Value>, new: Option<&Value>) -> String {
    let text = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    format!("{} became {}", text(old), text(new))
}

fn schema(old: &Value, new: &Value, path: &str, found: &mut Vec<Difference>) {
    let mut tell = |what: String, breaking: bool| {
        let field = if path.is_empty() { "(whole)" } else { path }.to_owned();
        found.push(Difference {
            field,
            what,
            breaking,
        });
    };
    for (keyword, tighter) in [
        ("type", Tighter::Always),
        ("format", Tighter::Always),
        ("pattern", Tighter::WhenThere),
        ("minimum", Tighter::More),
        ("minItems", Tighter::More),
        ("minLength", Tighter::More),
        ("maximum", Tighter::Less),
        ("maxItems", Tighter::Less),
        ("maxLength", Tighter::Less),
        ("nullable", Tighter::WhenGone),
        ("x-kubernetes-preserve-unknown-fields", Tighter::WhenGone),
        ("x-kubernetes-int-or-string", Tighter::Always),
        ("x-kubernetes-list-type", Tighter::Always),
        ("x-kubernetes-list-map-keys", Tighter::Always),
        ("x-kubernetes-validations", Tighter::WhenThere),
        ("default", Tighter::Never),
    ] {
        let (before, after) = (old.get(keyword), new.get(keyword));
        if before != after {
            let what = format!("{keyword}: {}", changed(before, after));
            tell(what, tighter.is(before, after));
        }
    }
    enums(&old["enum"], &new["enum"], &mut tell);
    let names = |value: &Value| -> BTreeSet<String> {
        let listed = value["required"].as_array().into_iter().flatten();
        listed
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    };
    let (before, after) = (names(old), names(new));
    for name in after.difference(&before) {
        let default = new["properties"][name].get("default").is_some();
        tell(format!("`{name}` is required now"), !default);
    }
    for name in before.difference(&after) {
        tell(format!("`{name}` is not required any more"), false);
    }
    properties(old, new, path, found);
    for (keyword, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if old[keyword].is_object() && new[keyword].is_object() {
            schema(
                &old[keyword],
                &new[keyword],
                &format!("{path}{mark}"),
                found,
            );
        }
    }
}

fn properties(old: &Value, new: &Value, path: &str, found: &mut Vec<Difference>) {
    let empty = Map::new();
    let of = |value: &'_ Value| value["properties"].as_object().cloned();
    let (before, after) = (
        of(old).unwrap_or_else(|| empty.clone()),
        of(new).unwrap_or_else(|| empty.clone()),
    );
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    let open = new["x-kubernetes-preserve-unknown-fields"] == true;
    for (name, old) in &before {
        match after.get(name) {
            Some(new) => schema(old, new, &below(name), found),
            None => found.push(Difference {
                field: below(name),
                what: if open {
                    "is not described any more".to_owned()
                } else {
                    "is gone: the API server drops it from what is written".to_owned()
                },
                breaking: !open,
            }),
        }
    }
    for name in after.keys().filter(|name| !before.contains_key(*name)) {
        found.push(Difference {
            field: below(name),
            what: "is new".to_owned(),
            breaking: false,
        });
    }
}

fn enums(old: &Value, new: &Value, tell: &mut impl FnMut(String, bool)) {
    match (old.as_array(), new.as_array()) {
        (Some(old), Some(new)) => {
            for value in old.iter().filter(|value| !new.contains(value)) {
                tell(format!("{value} is not allowed any more"), true);
            }
            for value in new.iter().filter(|value| !old.contains(value)) {
                tell(format!("{value} is allowed too"), false);
            }
        }
        (None, Some(new)) => tell(
            format!("only {} are allowed now", Value::Array(new.clone())),
            true,
        ),
        (Some(_), None) => tell("anything is allowed now".to_owned(), false),
        (None, None) => {}
    }
}

/// When a change of a keyword refuses what was taken before.
#[derive(Clone, Copy)]
enum Tighter {
    Always,
    Never,
    /// A bound that grew.
    More,
    /// A bound that shrank.
    Less,
    WhenThere,
    WhenGone,
}

impl Tighter {
    fn is(self, old: Option<&Value>, new: Option<&Value>) -> bool {
        let number = |value: Option<&Value>| value.and_then(Value::as_f64);
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::WhenThere => new.is_some(),
            Self::WhenGone => new != Some(&Value::Bool(true)),
            Self::More => number(new).is_some_and(|new| number(old).is_none_or(|old| new > old)),
            Self::Less => number(new).is_some_and(|new| number(old).is_none_or(|old| new < old)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn crd(properties: &Value, required: &[&str]) -> Value {
        json!({"spec": {"group": "g", "names": {"kind": "K", "plural": "ks"}, "versions": [{"name": "v1", "served": true, "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"spec": {"type": "object", "properties": properties, "required": required}}}}}]}})
    }

    #[test]
    fn what_refuses_what_was_taken_is_breaking() {
        let old = crd(
            &json!({"size": {"type": "integer", "minimum": 1, "default": 3}, "mode": {"type": "string", "enum": ["a", "b"]}, "old": {"type": "string"}}),
            &[],
        );
        let new = crd(
            &json!({"size": {"type": "integer", "minimum": 3, "default": 5}, "mode": {"type": "string", "enum": ["a", "c"]}, "new": {"type": "string"}}),
            &["new"],
        );
        let told: Vec<(String, bool)> = differences(&old, &new)
            .into_iter()
            .map(|found| (format!("{} {}", found.field, found.what), found.breaking))
            .collect();
        let expected = [
            ("spec `new` is required now", true),
            ("spec.mode \"b\" is not allowed any more", true),
            ("spec.mode \"c\" is allowed too", false),
            (
                "spec.old is gone: the API server drops it from what is written",
                true,
            ),
            ("spec.size minimum: 1 became 3", true),
            ("spec.size default: 3 became 5", false),
            ("spec.new is new", false),
        ];
        let expected: Vec<(String, bool)> = expected
            .iter()
            .map(|(text, breaking)| ((*text).to_owned(), *breaking))
            .collect();
        assert_eq!(told, expected);
        assert_eq!(differences(&old, &old), []);
    }

    #[test]
    fn a_version_that_goes_breaks_its_clients() {
        let old = crd(&json!({}), &[]);
        let mut new = old.clone();
        new["spec"]["versions"][0]["name"] = json!("v2");
        let told = differences(&old, &new);
        assert_eq!(told.len(), 2);
        assert!(told[0].breaking && !told[1].breaking);
    }
}
