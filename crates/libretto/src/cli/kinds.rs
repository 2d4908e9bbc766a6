//! From what a person types (`po`, `rediscluster/test`, `sts`) to a kind the cluster serves.

use std::sync::Arc;

use libretto_actions::kube::{Kube, Resource};
use libretto_api::object::{Gvk, ObjectRef};
use serde_json::Value;

use crate::cli::CliError;

/// Everything the cluster serves, core group first, each group in its preferred version.
pub(crate) struct Kinds(Vec<Resource>);

impl Kinds {
    pub(crate) async fn discover(kube: &Kube) -> Result<Self, CliError> {
        let failed = |error| CliError::call("ask which kinds the cluster serves", &error);
        let request = http::Request::get("/apis")
            .body(Vec::new())
            .expect("a constant path is a valid URI");
        let (core, groups) = futures::join!(kube.resources("", "v1"), kube.send(request));
        let core = core.map_err(failed)?;
        let groups = groups.map_err(failed)?;
        let versions: Vec<(String, String)> = groups["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(versions_of)
            .collect();
        let named = futures::future::join_all(
            versions
                .iter()
                .map(|(group, version)| kube.resources(group, version)),
        )
        .await;
        let mut resources = core.as_ref().clone();
        for group in named {
            // An aggregated API that does not answer must not hide all others.
            for resource in group.unwrap_or_else(|_error| Arc::default()).iter() {
                let known = resources.iter().any(|known| {
                    known.api.group == resource.api.group && known.api.kind == resource.api.kind
                });
                if !known {
                    resources.push(resource.clone());
                }
            }
        }
        Ok(Self(resources))
    }

    /// The kind that `word` means: plural, singular, short name or kind, optionally with its group (`events.events.k8s.io`).
    pub(crate) fn find(&self, word: &str) -> Result<&Resource, CliError> {
        let word = word.to_lowercase();
        self.0
            .iter()
            .find(|resource| names(resource, &word))
            .ok_or_else(|| {
                let error = CliError::failed(format!("the cluster serves no kind called {word:?}"));
                match self.similar(&word) {
                    Some(similar) => error.hint(format!("did you mean {similar:?}?")),
                    None => error.hint(self.told()),
                }
            })
    }

    /// What there is beside Kubernetes' own kinds.
    fn told(&self) -> String {
        let mut own: Vec<String> = self
            .0
            .iter()
            .map(|resource| &resource.api)
            .filter(|api| api.group.contains('.') && !api.group.ends_with(".k8s.io"))
            .map(|api| format!("{}.{}", api.plural, api.group))
            .collect();
        own.dedup();
        if own.is_empty() {
            return "it serves Kubernetes' own kinds only; a package's kind is there once the package is installed".to_owned();
        }
        // More would hide the message.
        if own.len() > 20 {
            own.truncate(20);
            own.push("and more".to_owned());
        }
        format!(
            "beside Kubernetes' own kinds it serves {}; a package's kind is there once the package is installed",
            own.join(", ")
        )
    }

    /// Kinds of a category, such as `all`.
    pub(crate) fn category(&self, word: &str) -> Vec<&Resource> {
        self.0
            .iter()
            .filter(|resource| resource.categories.iter().any(|category| category == word))
            .collect()
    }

    fn similar(&self, word: &str) -> Option<&str> {
        self.0
            .iter()
            .map(|resource| resource.api.plural.as_str())
            .find(|plural| {
                plural.starts_with(word) || word.starts_with(plural.trim_end_matches('s'))
            })
    }
}

fn names(resource: &Resource, word: &str) -> bool {
    let api = &resource.api;
    let kind = api.kind.to_lowercase();
    let singular = if resource.singular.is_empty() {
        &kind
    } else {
        &resource.singular
    };
    let bare = word == api.plural
        || word == singular
        || word == kind
        || resource.short_names.iter().any(|short| short == word);
    bare || (!api.group.is_empty()
        && (word == format!("{}.{}", api.plural, api.group)
            || word == format!("{singular}.{}", api.group)
            || word == format!("{}.{}.{}", api.plural, api.version, api.group)))
}

/// Which objects of which kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) kind: String,
    /// Empty means all.
    pub(crate) names: Vec<String>,
}

/// Reads `TYPE`, `TYPE,TYPE`, `TYPE NAME…` or `TYPE/NAME…`.
pub(crate) fn read(words: &[String]) -> Result<Vec<Asked>, CliError> {
    let Some((first, rest)) = words.split_first() else {
        return Err(CliError::usage("name a kind, such as `pods`, or KIND/NAME"));
    };
    if words.iter().any(|word| word.contains('/')) {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !kind.is_empty() && !name.is_empty() => Ok(Asked {
                    kind: kind.to_owned(),
                    names: vec![name.to_owned()],
                }),
                _ => Err(CliError::usage(format!(
                    "{word:?} is not KIND/NAME; when one argument is, all must be"
                ))),
            })
            .collect();
    }
    let kinds: Vec<&str> = first.split(',').filter(|kind| !kind.is_empty()).collect();
    Ok(kinds
        .into_iter()
        .map(|kind| Asked {
            kind: kind.to_owned(),
            names: rest.to_vec(),
        })
        .collect())
}

pub(crate) fn gvk(resource: &Resource) -> Gvk {
    Gvk::new(
        &resource.api.group,
        &resource.api.version,
        &resource.api.kind,
    )
}

/// One named object of a kind.
pub(crate) fn object(resource: &Resource, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        gvk: gvk(resource),
        namespace: if resource.namespaced {
            namespace.to_owned()
        } else {
            String::new()
        },
        name: name.to_owned(),
    }
}

/// `pod/x`, `rediscluster.redis.kun/test`: as kubectl names what it did.
pub(crate) fn short_name(object: &Value) -> String {
    let gvk = Gvk::of(object);
    let kind = gvk
        .as_ref()
        .map_or_else(String::new, |gvk| gvk.kind.to_lowercase());
    let group = gvk
        .filter(|gvk| !gvk.group.is_empty())
        .map_or_else(String::new, |gvk| format!(".{}", gvk.group));
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    format!("{kind}{group}/{name}")
}

/// Group and version of everything a group serves, the preferred version first: a Kind may be in another one alone.
fn versions_of(group: &Value) -> Vec<(String, String)> {
    let name = group["name"].as_str().unwrap_or_default();
    let preferred = group["preferredVersion"]["version"].as_str();
    let others = group["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|version| version["version"].as_str())
        .filter(|version| Some(*version) != preferred);
    preferred
        .into_iter()
        .chain(others)
        .map(|version| (name.to_owned(), version.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kube::{core::GroupVersionKind, discovery::ApiResource};
    use serde_json::json;

    use super::*;

    fn resource(group: &str, kind: &str, plural: &str, short: &[&str]) -> Resource {
        Resource {
            api: ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk(group, "v1", kind),
                plural,
            ),
            namespaced: true,
            subresources: Vec::new(),
            verbs: Vec::new(),
            short_names: short.iter().map(|&name| name.to_owned()).collect(),
            singular: kind.to_lowercase(),
            categories: Vec::new(),
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn kinds_are_found_by_every_name_they_have() {
        let kinds = Kinds(vec![
            resource("", "Event", "events", &["ev"]),
            resource("events.k8s.io", "Event", "events", &["ev"]),
            resource("redis.kun", "RedisCluster", "redisclusters", &["rec"]),
        ]);
        for (word, group) in [
            ("ev", ""),
            ("Events", ""),
            ("events.events.k8s.io", "events.k8s.io"),
            ("rec", "redis.kun"),
            ("RedisCluster", "redis.kun"),
            ("redisclusters.redis.kun", "redis.kun"),
            ("redisclusters.v1.redis.kun", "redis.kun"),
        ] {
            assert_eq!(kinds.find(word).unwrap().api.group, group, "{word}");
        }
        let error = kinds.find("redis").err().unwrap().to_string();
        assert!(error.contains("redisclusters"), "{error}");
    }

    #[test]
    fn what_is_asked_can_be_written_in_three_ways() {
        let asked = |kind: &str, names: &[&str]| Asked {
            kind: kind.into(),
            names: words(names),
        };
        for (typed, expected) in [
            (&["pods"][..], vec![asked("pods", &[])]),
            (&["pods", "a", "b"], vec![asked("pods", &["a", "b"])]),
            (&["po,svc"], vec![asked("po", &[]), asked("svc", &[])]),
            (
                &["po/a", "svc/b"],
                vec![asked("po", &["a"]), asked("svc", &["b"])],
            ),
        ] {
            assert_eq!(read(&words(typed)).unwrap(), expected, "{typed:?}");
        }
        assert_eq!(read(&words(&["po/a", "b"])).unwrap_err().exit_code(), 2);
        assert_eq!(read(&[]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn short_names_carry_the_group() {
        let object = json!({"apiVersion": "redis.kun/v1beta1", "kind": "RedisCluster", "metadata": {"name": "test"}});
        assert_eq!(short_name(&object), "rediscluster.redis.kun/test");
    }

    #[test]
    fn every_version_of_a_group_is_asked_the_preferred_first() {
        let group = json!({
            "name": "example.com", "preferredVersion": {"version": "v1"},
            "versions": [{"version": "v1alpha1"}, {"version": "v1"}],
        });
        let found: Vec<String> = versions_of(&group)
            .into_iter()
            .map(|(group, version)| format!("{group}/{version}"))
            .collect();
        assert_eq!(found, ["example.com/v1", "example.com/v1alpha1"]);
    }
}
