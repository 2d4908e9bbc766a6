//! Acting as somebody else: the `Impersonate-*` headers, each of which the requester must be allowed to give.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::path;
use crate::{
    api::Api,
    error::ApiError,
    rbac::{Attributes, User, split_service_account},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user a request acts as: the requester unless headers say otherwise.
pub(super) fn effective(api: &Api, headers: &HeaderMap, requester: User) -> Result<User, ApiError> {
    let Some((user, wanted)) = asked(headers)? else {
        return Ok(requester);
    };
    for attributes in &wanted {
        api.authorize(&requester, attributes)?;
    }
    Ok(user)
}

/// Who is meant, and what must be allowed for it. Pure.
fn asked(headers: &HeaderMap) -> Result<Option<(User, Vec<Attributes>)>, ApiError> {
    let texts = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    };
    let first = |name: &str| texts(name).into_iter().next().unwrap_or_default();
    let (name, groups, uid) = (first(USER), texts(GROUP), first(UID));
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            let key = path::decode(key).unwrap_or_else(|| key.to_owned());
            extra.entry(key).or_default().extend(texts(header.as_str()));
        }
    }
    if name.is_empty() {
        return if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            Ok(None)
        } else {
            Err(without_user(&groups, &extra, &uid))
        };
    }
    let impersonate = |group: &str, resource: &str, name: &str| Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    let mut wanted = Vec::new();
    let mut user = match split_service_account(&name) {
        Some((namespace, account)) => {
            wanted.push(Attributes {
                namespace: namespace.to_owned(),
                ..impersonate("", "serviceaccounts", account)
            });
            User::service_account(namespace, account)
        }
        None => {
            wanted.push(impersonate("", "users", &name));
            User {
                name,
                ..User::default()
            }
        }
    };
    wanted.extend(groups.iter().map(|group| impersonate("", "groups", group)));
    for (key, values) in &extra {
        wanted.extend(values.iter().map(|value| Attributes {
            subresource: key.clone(),
            ..impersonate(AUTHENTICATION, "userextras", value)
        }));
    }
    if !uid.is_empty() {
        wanted.push(impersonate(AUTHENTICATION, "uids", &uid));
    }
    if !groups.is_empty() {
        user.groups = groups;
    }
    user.uid = uid;
    user.extra = extra;
    Ok(Some((user.with_authentication(), wanted)))
}

/// Upstream shows what it took the headers for, as a list of Go structures.
fn without_user(groups: &[String], extra: &BTreeMap<String, Vec<String>>, uid: &str) -> ApiError {
    let reference = |kind: &str, name: &str, version: &str, field: &str| {
        format!("{{{kind}  {name}  {version}  {field}}}")
    };
    let version = format!("{AUTHENTICATION}/v1");
    let mut references: Vec<String> = groups
        .iter()
        .map(|group| reference("Group", group, "", ""))
        .collect();
    for (key, values) in extra {
        references.extend(
            values
                .iter()
                .map(|value| reference("UserExtra", value, &version, key)),
        );
    }
    if !uid.is_empty() {
        references.push(reference("UID", uid, &version, ""));
    }
    ApiError::bad_request(format!(
        "requested [{}] without impersonating a user",
        references.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    fn text(pairs: &[(&str, &str)]) -> (String, String) {
        let (user, wanted) = asked(&headers(pairs)).unwrap().unwrap();
        let wanted: Vec<String> = wanted
            .iter()
            .map(|one| {
                [
                    &one.group,
                    &one.resource,
                    &one.subresource,
                    &one.namespace,
                    &one.name,
                ]
                .map(String::as_str)
                .join("|")
            })
            .collect();
        (
            format!("{} {}", user.name, user.groups.join(",")),
            wanted.join(" "),
        )
    }

    #[test]
    fn users_have_the_groups_that_go_without_saying() {
        for (pairs, user, wanted) in [
            (
                &[("Impersonate-User", "u")][..],
                "u system:authenticated",
                "|users|||u",
            ),
            (
                &[
                    ("Impersonate-User", "u"),
                    ("Impersonate-Group", "g"),
                    ("Impersonate-Group", "h"),
                ],
                "u g,h,system:authenticated",
                "|users|||u |groups|||g |groups|||h",
            ),
            (
                &[
                    ("Impersonate-User", "u"),
                    ("Impersonate-Group", "system:unauthenticated"),
                ],
                "u system:unauthenticated",
                "|users|||u |groups|||system:unauthenticated",
            ),
            (
                &[("Impersonate-User", "system:anonymous")],
                "system:anonymous system:unauthenticated",
                "|users|||system:anonymous",
            ),
            (
                &[("Impersonate-User", "system:serviceaccount:a:b")],
                "system:serviceaccount:a:b system:serviceaccounts,system:serviceaccounts:a,system:authenticated",
                "|serviceaccounts||a|b",
            ),
            (
                &[
                    ("Impersonate-User", "system:serviceaccount:a:b"),
                    ("Impersonate-Group", "g"),
                ],
                "system:serviceaccount:a:b g,system:authenticated",
                "|serviceaccounts||a|b |groups|||g",
            ),
            (
                // No namespace is called so: just somebody's name.
                &[("Impersonate-User", "system:serviceaccount:A:b")],
                "system:serviceaccount:A:b system:authenticated",
                "|users|||system:serviceaccount:A:b",
            ),
            (
                &[("Impersonate-User", "system:serviceaccount:a:b:c")],
                "system:serviceaccount:a:b:c system:authenticated",
                "|users|||system:serviceaccount:a:b:c",
            ),
        ] {
            assert_eq!(
                text(pairs),
                (user.to_owned(), wanted.to_owned()),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn uid_and_extra_are_asked_for_one_by_one() {
        let (user, wanted) = asked(&headers(&[
            ("Impersonate-User", "u"),
            ("Impersonate-Uid", "i"),
            ("Impersonate-Extra-Scopes", "x"),
            ("Impersonate-Extra-scopes", "y"),
            ("Impersonate-Extra-a.io%2Fb", "z"),
        ]))
        .unwrap()
        .unwrap();
        assert_eq!(user.uid, "i");
        assert_eq!(user.extra["scopes"], ["x", "y"]);
        assert_eq!(user.extra["a.io/b"], ["z"]);
        let resources: Vec<String> = wanted
            .iter()
            .map(|one| format!("{}/{} {}", one.resource, one.subresource, one.name))
            .collect();
        assert_eq!(
            resources,
            [
                "users/ u",
                "userextras/a.io/b z",
                "userextras/scopes x",
                "userextras/scopes y",
                "uids/ i"
            ]
        );
    }

    #[test]
    fn nobody_with_groups_is_refused() {
        assert!(asked(&headers(&[("Accept", "*/*")])).unwrap().is_none());
        let error = asked(&headers(&[
            ("Impersonate-Group", "g"),
            ("Impersonate-Uid", "i"),
        ]))
        .unwrap_err();
        assert_eq!(error.code, 400);
        assert_eq!(
            error.message,
            "requested [{Group  g    } {UID  i  authentication.k8s.io/v1  }] without impersonating a user"
        );
    }
}
