//! Condition types, reasons and annotation keys that the runtime itself writes or reads, for every Kind.

/// The instance serves and nothing is left to do.
pub const READY: &str = "Ready";
/// There are rows left to act on.
pub const RECONCILING: &str = "Reconciling";
/// A rule cannot make progress without somebody's help; the message says which and why.
pub const STALLED: &str = "Stalled";

/// Every rule's rows are settled.
pub const REASON_SETTLED: &str = "Settled";
/// Rows wait to be acted on or to ripen.
pub const REASON_IN_PROGRESS: &str = "InProgress";
/// An effect failed; retried with back-off.
pub const REASON_EFFECT_FAILED: &str = "EffectFailed";
/// Another field manager owns a field that a rule wants to set.
pub const REASON_CONFLICT: &str = "FieldConflict";
/// The package's own `ready` says no and gives no reason.
pub const REASON_NOT_READY: &str = "NotReady";
/// The cluster does not serve a Kind that the package stands on.
pub const REASON_KIND_NOT_SERVED: &str = "KindNotServed";
/// A query or template of the package failed for this instance.
pub const REASON_RULE_FAILED: &str = "RuleFailed";

/// The instance is left as it is, because somebody asked for it.
pub const REASON_PAUSED: &str = "Paused";
/// The instance has no replicas, because somebody asked for it.
pub const REASON_STOPPED: &str = "Stopped";

/// The conditions that the runtime writes, for the reference.
pub const CONDITIONS: &[(&str, &str)] = &[
    (READY, "the instance serves and nothing is left to do"),
    (RECONCILING, "there are rows left to act on"),
    (
        STALLED,
        "a rule needs somebody's help; the message says which and why",
    ),
];

/// Their reasons.
pub const REASONS: &[(&str, &str)] = &[
    (REASON_SETTLED, "every rule's rows are settled"),
    (REASON_IN_PROGRESS, "rows wait to be acted on or to ripen"),
    (
        REASON_EFFECT_FAILED,
        "an effect failed; it is tried again, later each time",
    ),
    (
        REASON_CONFLICT,
        "another field manager owns a field that a rule sets; the message names both",
    ),
    (
        REASON_NOT_READY,
        "the package's own `ready` says no and gives no reason",
    ),
    (
        REASON_KIND_NOT_SERVED,
        "the cluster does not serve a Kind that the package stands on",
    ),
    (
        REASON_RULE_FAILED,
        "a query or template of the package failed for this instance",
    ),
    (
        REASON_PAUSED,
        "the instance is left as it is, because somebody asked for it",
    ),
    (
        REASON_STOPPED,
        "the instance has no replicas, because somebody asked for it",
    ),
];
