//! What an installed Libretto asked of the API server, as the API server's audit log tells it.

use std::{fs, path::Path};

use serde_json::Value;

use crate::Step;

/// The requests of one user, oldest first.
#[derive(Debug)]
pub struct Traffic {
    requests: Vec<Value>,
}

impl Traffic {
    /// Reads the requests of a user (`system:serviceaccount:NAMESPACE:NAME`) from a log in the format of audit.k8s.io/v1.
    pub fn of(log: &Path, user: &str) -> Step<Self> {
        let mut requests = Vec::new();
        for line in fs::read_to_string(log)?.lines() {
            // The last line may still be on its way.
            let Ok(request) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            if request["user"]["username"] == user {
                requests.push(request);
            }
        }
        Ok(Self { requests })
    }

    /// Number of requests that change something.
    pub fn writes(&self) -> u64 {
        self.requests
            .iter()
            .filter(|request| writes(request))
            .count() as u64
    }

    /// Requests that were not granted; what the server failed at is not among them. Part of the protocol are conflicts, finding
    /// nothing, and being asked to come back later (429). An API server that has just started answers before it has read the roles and
    /// who has them, and refuses what it granted before. Everything else is a defect.
    pub fn refused(&self) -> Vec<String> {
        self.requests
            .iter()
            .filter(|request| {
                let code = request["responseStatus"]["code"]
                    .as_u64()
                    .unwrap_or_default();
                match code {
                    409 | 429 => false,
                    404 => request["verb"] != "get",
                    403 => !self.granted_before(request),
                    _ => (400..500).contains(&code),
                }
            })
            .map(describe)
            .collect()
    }

    /// Nobody takes rights away here, so what was granted once is refused only by a server that is starting.
    fn granted_before(&self, refused: &Value) -> bool {
        let right = |request: &Value| {
            let about = &request["objectRef"];
            ["apiGroup", "resource", "subresource", "namespace"]
                .map(|part| about[part].as_str().unwrap_or_default().to_owned())
        };
        self.requests.iter().any(|request| {
            let code = request["responseStatus"]["code"].as_u64();
            code.is_some_and(|code| code < 300)
                // Times of this format compare as text.
                && request["requestReceivedTimestamp"].as_str()
                    < refused["requestReceivedTimestamp"].as_str()
                && request["verb"] == refused["verb"]
                && right(request) == right(refused)
        })
    }

    /// Writes that changed nothing. A resourceVersion counts all changes of the cluster: an answer whose number is not above one that
    /// was given out before the request came is about an object that nobody changed.
    pub fn idle_writes(&self) -> Vec<String> {
        self.requests
            .iter()
            .filter(|request| writes(request))
            .filter(|request| {
                let (Some(version), Some(came)) = (
                    version(request),
                    request["requestReceivedTimestamp"].as_str(),
                ) else {
                    return false;
                };
                // Times of this format compare as text.
                self.requests.iter().any(|other| {
                    other["stageTimestamp"]
                        .as_str()
                        .is_some_and(|answered| answered < came)
                        && version_at_least(other, version)
                })
            })
            .map(describe)
            .collect()
    }
}

fn writes(request: &Value) -> bool {
    ["create", "update", "patch", "delete", "deletecollection"]
        .iter()
        .any(|verb| request["verb"] == *verb)
}

fn version(request: &Value) -> Option<u64> {
    request["responseObject"]["metadata"]["resourceVersion"]
        .as_str()?
        .parse()
        .ok()
}

fn version_at_least(request: &Value, least: u64) -> bool {
    version(request).is_some_and(|version| version >= least)
}

fn describe(request: &Value) -> String {
    format!(
        "{} {} {}: {} {}",
        request["requestReceivedTimestamp"]
            .as_str()
            .unwrap_or_default(),
        request["verb"].as_str().unwrap_or_default(),
        request["requestURI"].as_str().unwrap_or_default(),
        request["responseStatus"]["code"],
        request["responseStatus"]["message"]
            .as_str()
            .unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(verb: &str, came: &str, answered: &str, code: u64, version: &str) -> Value {
        json!({
            "verb": verb, "requestReceivedTimestamp": came, "stageTimestamp": answered, "requestURI": "/x",
            "responseStatus": {"code": code}, "responseObject": {"metadata": {"resourceVersion": version}},
        })
    }

    #[test]
    fn a_write_whose_version_was_known_before_changed_nothing() {
        let traffic = Traffic {
            requests: vec![
                request(
                    "patch",
                    "2026-01-01T00:00:01.0Z",
                    "2026-01-01T00:00:02.0Z",
                    200,
                    "7",
                ),
                request(
                    "patch",
                    "2026-01-01T00:00:03.0Z",
                    "2026-01-01T00:00:04.0Z",
                    200,
                    "9",
                ),
                request(
                    "patch",
                    "2026-01-01T00:00:05.0Z",
                    "2026-01-01T00:00:06.0Z",
                    200,
                    "7",
                ),
                // Side by side: which came first is unknown.
                request(
                    "patch",
                    "2026-01-01T00:00:05.5Z",
                    "2026-01-01T00:00:06.0Z",
                    200,
                    "10",
                ),
                request(
                    "get",
                    "2026-01-01T00:00:07.0Z",
                    "2026-01-01T00:00:08.0Z",
                    200,
                    "7",
                ),
            ],
        };
        let idle = traffic.idle_writes();
        assert_eq!(idle.len(), 1, "{idle:?}");
        assert!(idle[0].starts_with("2026-01-01T00:00:05.0Z"), "{idle:?}");
        assert_eq!(traffic.writes(), 4);
    }

    #[test]
    fn conflicts_and_finding_nothing_are_no_refusals() {
        let at = "2026-01-01T00:00:01.0Z";
        let traffic = Traffic {
            requests: vec![
                request("patch", at, at, 409, ""),
                request("get", at, at, 404, ""),
                request("patch", at, at, 404, ""),
                request("list", at, at, 403, ""),
            ],
        };
        assert_eq!(traffic.refused().len(), 2);
    }

    #[test]
    fn what_was_granted_before_is_refused_by_a_starting_server_only() {
        let (first, later) = ("2026-01-01T00:00:01.0Z", "2026-01-01T00:00:02.0Z");
        let about = |resource: &str, request: Value| {
            let mut request = request;
            request["objectRef"] = json!({"resource": resource, "namespace": "ns"});
            request
        };
        let traffic = Traffic {
            requests: vec![
                about("pods", request("watch", later, later, 403, "")),
                about("pods", request("watch", first, first, 200, "")),
                about("pods", request("list", later, later, 403, "")),
                about("secrets", request("watch", later, later, 403, "")),
            ],
        };
        assert_eq!(traffic.refused().len(), 2, "{:?}", traffic.refused());
    }
}
