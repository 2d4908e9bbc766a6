//! The package format: the words an author writes in `package.yaml`, and the small types behind them.
//!
//! Reading files, positions and checks are the engine's (`libretto_engine::load_files`); this page is the vocabulary that the
//! engine, the linter and the documentation share.

use serde::{Deserialize, Serialize};

use crate::intent::EventKind;

/// `apiVersion` of `package.yaml`.
pub const API_VERSION: &str = "libretto.dev/v1alpha1";

/// `kind` of `package.yaml`.
pub const KIND: &str = "Package";

/// File names every package folder may have.
pub const PACKAGE_FILE: &str = "package.yaml";
/// Scenarios.
pub const TESTS_FILE: &str = "tests.yaml";

/// Names of tables that the runtime makes; no table or view of a package may be called so.
pub const RESERVED_TABLES: &[&str] = &["cr", "clock", "objects"];

/// Verbs a rule may have, one each.
pub const VERBS: &[&str] = &[
    "apply", "patch", "helm", "call", "alert", "status", "metric",
];

/// Verbs and keywords of the language's design that this version does not have yet.
pub const NOT_YET: &[&str] = &[
    "json",
    "parameters",
    "layers",
    "import",
    "export",
    "versions",
    "conversion",
    "deny",
    "ttl",
];

/// Actions of `call:`.
pub const CALLS: &[&str] = &[
    "redis",
    "http",
    "exec",
    "kube.delete",
    "kube.scale",
    "kube.restart",
    "kube.evict",
    "event",
];

/// Actions of the design that this version does not have yet.
pub const CALLS_NOT_YET: &[&str] = &["sql", "job", "zookeeper", "nft"];

/// Probes of `probe:`.
pub const PROBES: &[&str] = &["redis", "tcp", "http", "exec", "dns", "prometheus"];

/// Probes of the design that this version does not have yet.
pub const PROBES_NOT_YET: &[&str] = &["sql", "zookeeper"];

/// What stands beside a rule's verb.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modifiers {
    /// Columns that identify a row; empty means `key`, else `name`, else all.
    pub key: Vec<String>,
    /// Columns whose change counts; empty means all.
    pub on: Vec<String>,
    /// Act only on rows that stayed unchanged this long.
    pub stable_ms: Option<i64>,
    /// The row should vanish: run again this long after a success, twice as long each time, at most ten times as long.
    pub repeat_ms: Option<i64>,
    /// Run once per key and fingerprint, remembered in the inventory while the row is there.
    pub once: bool,
    /// Rules that must be settled first.
    pub after: Vec<String>,
    /// Most rows under way at a time.
    pub limit: Option<usize>,
    /// Paths left to others once the object exists.
    pub ignore: Vec<String>,
    /// Take over an existing object instead of failing.
    pub adopt: bool,
    /// Leave the object behind when its row leaves.
    pub orphan: bool,
    /// Leave alone what others change in an applied object, until the row changes.
    pub keep_drift: bool,
    /// Take patched fields from their managers.
    pub force: bool,
}

/// An event that a rule records when a row's effect succeeded; texts are templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventText {
    pub kind: EventKind,
    pub reason: String,
    pub message: String,
}

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: write a whole number and ms, s, m or h, like 500ms, 15s, 2m, 1h")]
pub struct DurationError(pub String);

/// Milliseconds of `500ms`, `5s`, `2m`, `1h`.
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let fail = || DurationError(text.to_owned());
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
    let (number, unit) = text.split_at(split);
    let number: i64 = number.parse().map_err(|_| fail())?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(fail()),
    };
    number.checked_mul(factor).ok_or_else(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("500ms", Some(500)),
            ("5s", Some(5_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("0s", Some(0)),
            ("5", None),
            ("s", None),
            ("", None),
            ("-5s", None),
            ("1.5s", None),
            ("5 s", None),
            ("99999999999999999h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text).ok(), expected, "{text}");
        }
    }
}
