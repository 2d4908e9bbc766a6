//! Request counters, in Prometheus' text form under the name Kubernetes uses.
//!
//! The label `client` (first word of the user agent) is ours: it lets a test say that a converged operator sends no writes.

use std::{collections::BTreeMap, fmt::Write};

use http::Method;
use parking_lot::Mutex;

use super::path::{Query, ResourcePath};

/// Series kept; more would only come from a client that invents names, and is counted under `other`.
const SERIES_LIMIT: usize = 10_000;

/// What is known of a request before it is answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels {
    verb: &'static str,
    resource: String,
    subresource: String,
    client: String,
}

impl Labels {
    pub(super) fn new(method: &Method, client: &str) -> Self {
        Self {
            verb: match method.as_str() {
                "GET" => "GET",
                "POST" => "POST",
                "PUT" => "PUT",
                "PATCH" => "PATCH",
                "DELETE" => "DELETE",
                _ => "other",
            },
            resource: String::new(),
            subresource: String::new(),
            client: client.to_owned(),
        }
    }

    pub(super) fn resource(&mut self, path: &ResourcePath, query: &Query) {
        self.resource = path.gvr.resource.to_string();
        self.subresource = path.subresource.clone().unwrap_or_default();
        let collection = path.name.is_none();
        self.verb = match self.verb {
            "GET" if query.flag("watch").unwrap_or(false) => "WATCH",
            "GET" if collection => "LIST",
            "DELETE" if collection => "DELETECOLLECTION",
            verb => verb,
        };
    }
}

#[derive(Debug, Default)]
pub(super) struct Metrics {
    requests: Mutex<BTreeMap<(Labels, u16), u64>>,
}

impl Metrics {
    pub(super) fn count(&self, labels: Labels, code: u16) {
        let mut requests = self.requests.lock();
        let full = requests.len() >= SERIES_LIMIT;
        let mut key = (labels, code);
        if full && !requests.contains_key(&key) {
            key.0.client = "other".to_owned();
            key.0.resource = "other".to_owned();
            key.0.subresource = String::new();
        }
        *requests.entry(key).or_default() += 1;
    }

    pub(super) fn render(&self) -> String {
        let mut text = String::from(
            "# HELP apiserver_request_total Requests answered, by verb, resource, subresource, HTTP code and client (first word of the user agent).\n\
             # TYPE apiserver_request_total counter\n",
        );
        for ((labels, code), count) in self.requests.lock().iter() {
            let Labels {
                verb,
                resource,
                subresource,
                client,
            } = labels;
            let _ = writeln!(
                text,
                "apiserver_request_total{{verb=\"{verb}\",resource=\"{}\",subresource=\"{}\",code=\"{code}\",client=\"{}\"}} {count}",
                escape(resource),
                escape(subresource),
                escape(client)
            );
        }
        text
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_bounded_and_escaped() {
        let metrics = Metrics::default();
        for index in 0..SERIES_LIMIT + 5 {
            metrics.count(Labels::new(&Method::GET, &format!("c{index}\"")), 200);
        }
        assert!(metrics.requests.lock().len() <= SERIES_LIMIT + 1);
        let text = metrics.render();
        assert!(text.contains("client=\"c0\\\"\"} 1"));
        assert!(
            text.contains("resource=\"other\",subresource=\"\",code=\"200\",client=\"other\"} 5")
        );
    }
}
