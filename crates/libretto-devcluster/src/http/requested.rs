//! What a request needs the right to, as upstream reads it off method, path and query. Pure.

use http::{Method, Uri};

use super::path::{self, Query, ResourcePath, Route};
use crate::{rbac::Attributes, selector::FieldSelector};

/// What must be allowed before the request is carried out.
pub(super) fn attributes(route: &Route, method: &Method, uri: &Uri, query: &Query) -> Attributes {
    match route {
        Route::Resource(path) => resource(path, method, query),
        // Also paths below a version that lead nowhere: who may look around there is told so.
        _ => Attributes {
            verb: method.as_str().to_ascii_lowercase(),
            path: Some(path::decode(uri.path()).unwrap_or_else(|| uri.path().to_owned())),
            ..Attributes::default()
        },
    }
}

/// Commands in pods are more than reading, whatever the method: WebSocket clients always say GET.
pub(super) fn connecting(path: &ResourcePath, wanted: &Attributes) -> Option<Attributes> {
    let running = path.streams() && wanted.subresource != "log" && wanted.verb != "create";
    running.then(|| Attributes {
        verb: "create".to_owned(),
        ..wanted.clone()
    })
}

fn resource(path: &ResourcePath, method: &Method, query: &Query) -> Attributes {
    let mut name = path.name.clone().unwrap_or_default();
    let verb = match (method.as_str(), name.is_empty()) {
        ("POST", _) => "create",
        ("GET" | "HEAD", false) => "get",
        ("GET" | "HEAD", true) => {
            // A list of one object by name is as good as reading it.
            name = query
                .get("fieldSelector")
                .and_then(|text| FieldSelector::parse(text).ok())
                .and_then(|selector| selector.required("metadata.name").map(str::to_owned))
                .filter(|name| !matches!(&name[..], "." | "..") && !name.contains(['/', '%']))
                .unwrap_or_default();
            if query.flag("watch").unwrap_or(false) {
                "watch"
            } else {
                "list"
            }
        }
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", false) => "delete",
        ("DELETE", true) => "deletecollection",
        _ => "",
    };
    // A namespace is in itself, so that a role in it can be about it.
    let namespace = match &path.namespace {
        Some(namespace) => namespace.clone(),
        None if path.gvr.resource == "namespaces" => path.name.clone().unwrap_or_default(),
        None => String::new(),
    };
    Attributes {
        verb: verb.to_owned(),
        group: path.gvr.group.to_string(),
        resource: path.gvr.resource.to_string(),
        subresource: path.subresource.clone().unwrap_or_default(),
        namespace,
        name,
        path: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::http::path::route;

    fn text(method: &str, uri: &str) -> String {
        let uri: Uri = uri.parse().unwrap();
        let query = Query::parse(&uri).unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let wanted = attributes(&route(uri.path()), &method, &uri, &query);
        match wanted.path {
            Some(path) => format!("{} {path}", wanted.verb),
            None => [
                wanted.verb,
                wanted.group,
                wanted.resource,
                wanted.subresource,
                wanted.namespace,
                wanted.name,
            ]
            .join("|"),
        }
    }

    #[test]
    fn requests_need_what_upstream_says() {
        for (method, uri, expected) in [
            ("GET", "/version", "get /version"),
            ("GET", "/api/v1", "get /api/v1"),
            ("GET", "/%6Detrics", "get /metrics"),
            ("POST", "/apis/apps", "post /apis/apps"),
            ("GET", "/api/v1/pods", "list||pods|||"),
            ("GET", "/api/v1/pods?watch=1", "watch||pods|||"),
            ("HEAD", "/api/v1/namespaces/a/pods/b", "get||pods||a|b"),
            (
                "GET",
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db",
                "list||pods||a|b",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods?watch=true&fieldSelector=spec.nodeName%3Dn,metadata.name%3D%3Db",
                "watch||pods||a|b",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name!%3Db",
                "list||pods||a|",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Da/b",
                "list||pods||a|",
            ),
            ("POST", "/api/v1/namespaces/a/pods", "create||pods||a|"),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db",
                "deletecollection||pods||a|",
            ),
            ("DELETE", "/api/v1/namespaces/a/pods/b", "delete||pods||a|b"),
            (
                "PUT",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "update|apps|deployments|scale|a|d",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d",
                "patch|apps|deployments||a|d",
            ),
            (
                "POST",
                "/api/v1/namespaces/a/pods/b/exec?command=ls",
                "create||pods|exec|a|b",
            ),
            ("GET", "/api/v1/namespaces", "list||namespaces|||"),
            ("GET", "/api/v1/namespaces/a", "get||namespaces||a|a"),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "update||namespaces|finalize|a|a",
            ),
            (
                "GET",
                "/api/v1/nodes/n/proxy/metrics",
                "get||nodes|proxy||n",
            ),
            ("OPTIONS", "/api/v1/pods", "||pods|||"),
            (
                "GET",
                "/api/v1/namespaces/a/pods/b/log/c",
                "get /api/v1/namespaces/a/pods/b/log/c",
            ),
        ] {
            assert_eq!(text(method, uri), expected, "{method} {uri}");
        }
    }
}
