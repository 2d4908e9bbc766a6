//! What the engine wants done, and what came of it.
//!
//! Nothing is written to a cluster or a server that was not first an [`Intent`] of a plan.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::object::{InstanceRef, ObjectRef};

/// Milliseconds since the Unix epoch. The only form of time inside the engine.
pub type Millis = i64;

/// One row of one rule that must be acted on now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub instance: InstanceRef,
    /// Name of the rule; unique in its package.
    pub rule: String,
    /// Identity of the row within its rule.
    pub key: String,
    /// Digest of what the row says; a later row with the same key and another fingerprint is a change.
    pub fingerprint: String,
    pub effect: Effect,
}

/// The closed list of things Libretto can do to the world.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Server-side apply of an object the instance owns. Carries owner reference and runtime labels already. Fields owned by
    /// others are taken back (`force`) only for objects the instance owns; an object of that name that exists without our
    /// owner reference is refused unless `adopt`.
    Apply { object: Value, adopt: bool },
    /// Server-side apply of some fields of an object we do not own; with `force` they are taken from their managers.
    Patch {
        object: Value,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// Deletes an object; with `uid`, only that incarnation.
    Delete {
        object: ObjectRef,
        uid: Option<String>,
    },
    /// Sets the whole `status` of the instance.
    Status { status: Value },
    /// Records a Kubernetes event on the instance.
    Event {
        kind: EventKind,
        reason: String,
        message: String,
    },
    /// Sends commands to a Redis or Sentinel over one connection, in order, stopping at the first error.
    Redis(RedisCall),
    /// Sends one request to an HTTP server.
    Http(HttpCall),
    /// Runs a command in a container.
    Exec(ExecCall),
    /// Sets the number of replicas, through the subresource `scale`.
    Scale { object: ObjectRef, replicas: u32 },
    /// Has a workload replace its pods by its own rules, as `kubectl rollout restart` does.
    Restart { object: ObjectRef },
    /// Asks for a pod's eviction, which disruption budgets may refuse; with `uid`, only of that incarnation.
    Evict { pod: ObjectRef, uid: Option<String> },
    /// Writes the instance's inventory object.
    Inventory { inventory: Value },
}

/// `Normal` or `Warning`, as Kubernetes knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    Normal,
    Warning,
}

/// Commands for one Redis-protocol server. Strings may hold secret handles.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RedisCall {
    /// Host name or IP address (v4, or v6 without brackets).
    pub host: String,
    pub port: u16,
    /// ACL user; absent means the default user.
    pub username: Option<String>,
    /// Password, as a handle; absent or empty means no AUTH is sent.
    pub password: Option<String>,
    /// For connecting and for each command.
    pub timeout_ms: u64,
    pub commands: Vec<RedisCommand>,
}

/// One command and what to do with its error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RedisCommand {
    /// Name under which the reply is found in a probe's result; unused in calls.
    pub name: String,
    pub arguments: Vec<String>,
    /// Error replies that begin with one of these words count as success (`ERR No such master` on SENTINEL REMOVE).
    pub ignore_errors: Vec<String>,
    /// When not empty, the reply must be a list that begins with these words (or one value equal to the one word); otherwise what
    /// the row says is no longer so, and the remaining commands are not sent. That is no failure: the row will go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<String>,
}

/// One HTTP request. Strings may hold secret handles.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpCall {
    /// In capitals.
    pub method: String,
    /// `http://` or `https://`; certificates are verified.
    pub url: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<HttpBody>,
    /// Status codes that count as success; empty means 200 to 299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ok: Vec<u16>,
    /// For everything, from the name's resolution to the end of the answer.
    pub timeout_ms: u64,
}

/// What a request carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HttpBody {
    /// As it is.
    Text(String),
    /// As `application/json`.
    Json(Value),
}

/// A command in a container of a pod of the instance's namespace. Strings may hold secret handles.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExecCall {
    pub pod: String,
    /// Absent: the pod's only container, or the one its annotation `kubectl.kubernetes.io/default-container` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Program and arguments; no shell is between.
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Exit codes that count as success; empty means 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ok: Vec<u8>,
    /// For everything, from the connection to the command's end.
    pub timeout_ms: u64,
}

/// What a probe asks. Its answer is a JSON value that the table's columns are read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Probe {
    /// The answer is the one reply, or an object of replies by command name when there are several. `INFO` text becomes an
    /// object of its `field:value` lines; flat arrays of even length (`CONFIG GET`, `SENTINEL MASTER`) become objects; arrays
    /// of such arrays (`SENTINEL REPLICAS`) become arrays of objects.
    Redis(RedisCall),
    /// Whether a TCP connection can be made. The answer is `{"open": true}`.
    Tcp {
        host: String,
        port: u16,
        timeout_ms: u64,
    },
    /// The answer is `{"status": 200, "body": …}`, the body as JSON when it is JSON, else as text (at most 1 MiB). Any status is an
    /// answer.
    Http(HttpCall),
    /// The answer is `{"code": 0, "stdout": …, "stderr": "…"}`, standard output as JSON when it is a JSON object or list, else as text
    /// (at most 64 KiB of either). Any exit code is an answer.
    Exec(ExecCall),
    /// The answer is `{"addresses": ["10.1.2.3", …]}`, sorted.
    Dns { name: String, timeout_ms: u64 },
    /// What a Prometheus endpoint or server tells. Each series is an object of its labels and `value`.
    Prometheus { page: HttpCall, read: Series },
}

/// How a Prometheus page is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Series {
    /// The text format of an endpoint: the answer is an object by metric, each a list of its series. When not empty, only these metrics.
    Scrape { only: Vec<String> },
    /// A server's answer to an instant query: the answer is `{"series": […]}`.
    Query,
}

/// Something that somebody should know of, for as long as it is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The rule and the row it is about.
    pub rule: String,
    pub key: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    pub summary: String,
    pub description: Option<String>,
    /// The package's own labels.
    pub labels: Vec<(String, String)>,
    /// Since when the row has been there.
    pub since: Millis,
}

/// What came of an intent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The effect holds. For apply, patch and status: the object as the API server answered it, for write-through.
    Done { object: Option<Value> },
    /// The object was not there (delete): as good as done.
    Absent,
    /// A guard of the call (`expect`) did not hold: the state has moved on, and nothing was sent after it.
    Skipped,
    /// It did not work; the row is retried with back-off.
    Failed(Failure),
}

/// Why an effect failed, in words for the person who reads the instance's conditions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// One sentence that names the object or host and what it answered. Secret values never appear.
    pub message: String,
}

/// What kind of failure it was, for back-off and for the condition's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// Another field manager owns a field.
    Conflict,
    /// The API server refused the object: retrying the same does not help until something changes.
    Invalid,
    /// We may not do this.
    Forbidden,
    /// Could not reach it, or it did not answer in time.
    Unreachable,
    /// It answered with an error.
    Refused,
    /// A Secret or field that a handle names is missing.
    SecretMissing,
}
