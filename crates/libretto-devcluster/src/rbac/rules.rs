//! Rules of roles: what one allows, whether some cover others, and how messages show them.

use std::{borrow::Borrow, fmt};

use serde_json::{Value, json};

use super::Attributes;

/// One rule of a role.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    pub(crate) api_groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) resource_names: Vec<String>,
    pub(crate) non_resource_urls: Vec<String>,
}

impl Rule {
    /// The rules of a stored role.
    pub(crate) fn all_of(role: &Value) -> Vec<Self> {
        role["rules"]
            .as_array()
            .into_iter()
            .flatten()
            .map(Self::of)
            .collect()
    }

    pub(crate) fn of(rule: &Value) -> Self {
        // What is no text counts as an empty one: a dropped name would turn a rule for some objects into one for all.
        let texts = |field: &str| -> Vec<String> {
            rule[field]
                .as_array()
                .into_iter()
                .flatten()
                .map(|text| text.as_str().unwrap_or_default().to_owned())
                .collect()
        };
        Self {
            verbs: texts("verbs"),
            api_groups: texts("apiGroups"),
            resources: texts("resources"),
            resource_names: texts("resourceNames"),
            non_resource_urls: texts("nonResourceURLs"),
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        let mut rule = json!({"verbs": self.verbs});
        for (field, texts) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !texts.is_empty() {
                rule[field] = json!(texts);
            }
        }
        rule
    }

    pub(super) fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        match &attributes.path {
            Some(path) => self
                .non_resource_urls
                .iter()
                .any(|url| url_covers(url, path)),
            None => {
                has(&self.api_groups, &attributes.group)
                    && self.allows_resource(attributes)
                    && (self.resource_names.is_empty()
                        || self.resource_names.contains(&attributes.name))
            }
        }
    }

    fn allows_resource(&self, attributes: &Attributes) -> bool {
        let combined = attributes.combined();
        self.resources.iter().any(|resource| {
            resource == "*"
                || *resource == combined
                || (!attributes.subresource.is_empty()
                    && resource.strip_prefix("*/") == Some(&attributes.subresource))
        })
    }

    /// One verb on one resource (and name) each.
    fn atoms(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut atoms = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let atom = Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(atom);
                        continue;
                    }
                    atoms.extend(self.resource_names.iter().map(|name| Self {
                        resource_names: one(name),
                        ..atom.clone()
                    }));
                }
            }
        }
        for url in &self.non_resource_urls {
            atoms.extend(self.verbs.iter().map(|verb| Self {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..Self::default()
            }));
        }
        atoms
    }

    fn covers(&self, atom: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|one| has(own, one));
        let resource = |wanted: &String| {
            has(&self.resources, wanted)
                || wanted.split_once('/').is_some_and(|(_, subresource)| {
                    self.resources
                        .iter()
                        .any(|own| own.strip_prefix("*/") == Some(subresource))
                })
        };
        all(&self.verbs, &atom.verbs)
            && all(&self.api_groups, &atom.api_groups)
            && atom.resources.iter().all(resource)
            && atom.non_resource_urls.iter().all(|url| {
                self.non_resource_urls
                    .iter()
                    .any(|own| url_covers(own, url))
            })
            && (self.resource_names.is_empty()
                || (!atom.resource_names.is_empty()
                    && atom
                        .resource_names
                        .iter()
                        .all(|name| self.resource_names.contains(name))))
    }

    /// Group, resource and name of a rule that says nothing else.
    fn simple(&self) -> Option<(&str, &str, Option<&str>)> {
        match (&self.api_groups[..], &self.resources[..]) {
            ([group], [resource])
                if self.non_resource_urls.is_empty() && self.resource_names.len() < 2 =>
            {
                Some((
                    group,
                    resource,
                    self.resource_names.first().map(String::as_str),
                ))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, texts)| !texts.is_empty())
        .map(|(name, texts)| format!("{name}:{}", quoted(texts)))
        .collect();
        write!(formatter, "{{{}}}", parts.join(", "))
    }
}

/// As Go shows a list of texts.
pub(crate) fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}

/// The smallest parts of `wanted` that no rule of `owned` covers alone.
pub(crate) fn uncovered(owned: &[impl Borrow<Rule>], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(Rule::atoms)
        .filter(|atom| !owned.iter().any(|rule| rule.borrow().covers(atom)))
        .collect()
}

/// Joins the verbs of rules that are for the same resource and say nothing else.
pub(crate) fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut compacted: Vec<Rule> = Vec::new();
    for rule in rules {
        let same = rule.simple().and_then(|key| {
            compacted
                .iter()
                .position(|earlier| earlier.simple() == Some(key))
        });
        match same {
            Some(index) => compacted[index].verbs.extend(rule.verbs),
            None => compacted.push(rule),
        }
    }
    compacted
}

/// `*` is every one.
fn has(set: &[String], wanted: &str) -> bool {
    set.iter().any(|one| one == "*" || one == wanted)
}

fn url_covers(own: &str, path: &str) -> bool {
    own == path || (own.ends_with('*') && path.starts_with(own.trim_end_matches('*')))
}
