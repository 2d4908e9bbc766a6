//! Paths and query parameters of the Kubernetes API. Pure.

use axum::extract::Query as AxumQuery;
use http::Uri;

use crate::{api::Gvr, error::ApiError};

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Version,
    Health,
    Metrics,
    /// `/api`
    Core,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`
    GroupVersion(String, String),
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/…`
    OpenApi(String, String),
    /// `/openapi/v2`
    OpenApiV2,
    Resource(ResourcePath),
    Unknown,
}

/// A resource, an object of it, or something below the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResourcePath {
    pub gvr: Gvr,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl ResourcePath {
    /// Whether the request is about bytes from or to a running pod.
    pub(super) fn streams(&self) -> bool {
        self.gvr.group.is_empty()
            && self.gvr.resource == "pods"
            && matches!(
                self.subresource.as_deref(),
                Some("log" | "exec" | "attach" | "portforward")
            )
    }
}

pub(super) fn route(path: &str) -> Route {
    let Some(segments) = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(decode)
        .collect::<Option<Vec<_>>>()
    else {
        return Route::Unknown;
    };
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    match words[..] {
        ["version"] => Route::Version,
        ["healthz" | "readyz" | "livez", ..] => Route::Health,
        ["metrics"] => Route::Metrics,
        ["api"] => Route::Core,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group(group.to_owned()),
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", "api", version] => Route::OpenApi(String::new(), version.to_owned()),
        ["openapi", "v3", "apis", group, version] => {
            Route::OpenApi(group.to_owned(), version.to_owned())
        }
        ["api", version] => Route::GroupVersion(String::new(), version.to_owned()),
        ["apis", group, version] => Route::GroupVersion(group.to_owned(), version.to_owned()),
        ["api", version, ref rest @ ..] => resource("", version, rest),
        ["apis", group, version, ref rest @ ..] => resource(group, version, rest),
        _ => Route::Unknown,
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Route {
    let of = |namespace: Option<&str>, words: &[&str]| {
        let (resource, name, subresource) = match *words {
            [resource] => (resource, None, None),
            [resource, name] => (resource, Some(name), None),
            [resource, name, subresource] => (resource, Some(name), Some(subresource)),
            // `pods/x/proxy/some/path` is one subresource with a path of its own.
            [resource, name, "proxy", ..] => (resource, Some(name), Some("proxy")),
            _ => return Route::Unknown,
        };
        Route::Resource(ResourcePath {
            gvr: Gvr {
                group: group.to_owned().into(),
                version: version.to_owned().into(),
                resource: resource.to_owned().into(),
            },
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    };
    match *rest {
        ["namespaces"] | ["namespaces", _] => of(None, rest),
        ["namespaces", _, "status" | "finalize"] if group.is_empty() => of(None, rest),
        ["namespaces", namespace, ref words @ ..] => of(Some(namespace), words),
        _ => of(None, rest),
    }
}

/// Percent-decoding of one segment; `None` when it is not UTF-8.
pub(super) fn decode(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        if bytes[index] == b'%' {
            let digits = segment.get(index + 1..index + 3)?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
            index += 3;
        } else {
            decoded.push(bytes[index]);
            index += 1;
        }
    }
    String::from_utf8(decoded).ok()
}

/// Query parameters; the first of a name counts.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        AxumQuery::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|AxumQuery(pairs)| Self(pairs))
            .map_err(|error| ApiError::bad_request(format!("cannot read the query: {error}")))
    }

    /// The value of a parameter that is there and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        // Upstream takes everything but these two as true, also a bare `?watch`.
        if self
            .0
            .iter()
            .any(|(key, value)| key == name && value.is_empty())
        {
            return Ok(true);
        }
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some(_) => Ok(true),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "strconv.ParseInt: parsing {text:?}: invalid syntax"
                    ))
                })
            })
            .transpose()
    }

    /// `resourceVersion`; absent is `None`, "0" is `Some(0)`.
    pub(super) fn revision(&self) -> Result<Option<u64>, ApiError> {
        self.get("resourceVersion")
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                    ))
                })
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn text(path: &str) -> String {
        match route(path) {
            Route::Resource(path) => format!(
                "{}/{}/{} ns={} name={} sub={}",
                path.gvr.group,
                path.gvr.version,
                path.gvr.resource,
                path.namespace.unwrap_or_default(),
                path.name.unwrap_or_default(),
                path.subresource.unwrap_or_default()
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn paths_route() {
        for (path, expected) in [
            ("/api", "Core"),
            ("/apis/", "Groups"),
            ("/apis/apps", "Group(\"apps\")"),
            ("/apis/apps/v1", "GroupVersion(\"apps\", \"v1\")"),
            ("/api/v1/pods", "/v1/pods ns= name= sub="),
            ("/api/v1/namespaces", "/v1/namespaces ns= name= sub="),
            ("/api/v1/namespaces/a", "/v1/namespaces ns= name=a sub="),
            (
                "/api/v1/namespaces/a/finalize",
                "/v1/namespaces ns= name=a sub=finalize",
            ),
            (
                "/api/v1/namespaces/a/pods/b/log",
                "/v1/pods ns=a name=b sub=log",
            ),
            (
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                "apps/v1/deployments ns=a name=b sub=scale",
            ),
            (
                "/apis/x.io/v1/namespaces/a/status",
                "x.io/v1/status ns=a name= sub=",
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "rbac.authorization.k8s.io/v1/clusterroles ns= name=system:node sub=",
            ),
            (
                "/api/v1/nodes/n/proxy/metrics/cadvisor",
                "/v1/nodes ns= name=n sub=proxy",
            ),
            ("/api/v1/namespaces/a/pods/b/log/c", "Unknown"),
            ("/openapi/v3/apis/apps/v1", "OpenApi(\"apps\", \"v1\")"),
            ("/readyz/etcd", "Health"),
            ("/", "Unknown"),
        ] {
            assert_eq!(text(path), expected, "{path}");
        }
    }

    #[test]
    fn query_values_are_typed() {
        let query = Query::parse(
            &"/x?watch&limit=5&labelSelector=a%3Db&resourceVersion=0&f=false"
                .parse()
                .unwrap(),
        )
        .unwrap();
        assert!(query.flag("watch").unwrap());
        assert!(!query.flag("f").unwrap());
        assert!(!query.flag("absent").unwrap());
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.get("labelSelector"), Some("a=b"));
        assert_eq!(query.revision().unwrap(), Some(0));
        assert!(
            Query::parse(&"/x?resourceVersion=abc".parse().unwrap())
                .unwrap()
                .revision()
                .is_err()
        );
    }
}
