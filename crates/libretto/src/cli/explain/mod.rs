//! `libretto explain`: why an instance stands as it does, rule by rule; or one rule with everything it stands on. It only reads.

mod subject;

use std::collections::BTreeMap;

use anstyle::{AnsiColor, Style};
use clap::Args;
use libretto_api::{
    object::{ObjectRef, field_manager},
    package::Modifiers,
};
use libretto_engine::{Plan, RowState, RowView};
use libretto_mirror::{Datum, held_since};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    describe::section,
    events,
    helm::HelmArgs,
    installed,
    look::{self, Answer, Look},
    plan,
    print::{Document, Form, Printer, age_of, headings, table},
    spoken,
};

const EXAMPLES: &str = "\
Examples:
  libretto explain rediscluster/test                    # every rule, with its rows and what they wait for
  libretto explain rediscluster/test roll               # one rule, and why it has the rows it has
  libretto explain rediscluster/test nodes -o json      # a view or probe, with every row
  libretto explain greeting/hello --package ./my-operator

It only reads: what the API server knows, what the operator wrote down, and each probe asked once by a
port-forward. What the operator remembers only in its memory it cannot know, and says so.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExplainArgs {
    /// The instance of a package
    #[arg(value_name = "KIND/NAME")]
    pub instance: String,

    /// One rule, metric, view or probe, or the status
    #[arg(value_name = "RULE")]
    pub subject: Option<String>,

    /// Another form than text, with every row and column
    #[arg(short, long, value_enum)]
    pub output: Option<Form>,

    /// Package the instance is of: a bundled name or a folder; repeatable (default: those installed in the cluster, and all bundled ones)
    #[arg(long = "package", value_name = "NAME|DIR")]
    pub packages: Vec<String>,

    #[command(flatten)]
    pub helm: HelmArgs,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

pub(crate) async fn explain(args: ExplainArgs, out: &mut Printer) -> Result<(), CliError> {
    let (kind, name) = look::kind_and_name(&args.instance)?;
    let mut cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await?;
    cluster.kube = cluster.kube.only_reading();
    let package = look::package_of(kind, &installed::load(&args.packages, &cluster).await?)?;
    if let Some(subject) = &args.subject {
        subject::known(&package, subject)?;
    }
    let object = look::fetch(&cluster, &package, name).await?;
    let object = object.ok_or_else(|| {
        let kind = &package.gvk().kind;
        CliError::failed(format!(
            "{kind} {}/{name} does not exist",
            cluster.namespace
        ))
        .hint(format!(
            "`libretto get {} -A` lists them; -n names another namespace",
            kind.to_lowercase()
        ))
    })?;
    let helm = args.helm.program(None);
    let look = Look::at_cluster(&cluster, package, Some(&object), object.clone(), &helm).await?;
    let form = args.output.map(Document::from);
    // What people wrote stands in annotations too (`kubectl apply` keeps a copy), with the values of secret fields.
    let secrets = plan::secrets(&look, Some(&object));
    if let Some(subject) = &args.subject {
        let snapshot = look.snapshot()?;
        let explanation = look
            .engine
            .explain(&snapshot, look.now, subject)
            .expect("`known` found it in the same package");
        if let Some(form) = form {
            let document = secrets.scrubbed_value(&subject::document(&explanation));
            return out.document(&document, form);
        }
        out.text(&head(&look))?;
        let rules = reports(&look, &look.plan()?, &failures(&cluster, &look).await);
        let rule = rules.iter().find(|rule| rule.rule == *subject);
        return out.text(&secrets.scrubbed(&subject::text(&look, &explanation, rule)));
    }
    let rules = if look.unserved.is_empty() {
        reports(&look, &look.plan()?, &failures(&cluster, &look).await)
    } else {
        Vec::new()
    };
    match form {
        Some(form) => out.document(&secrets.scrubbed_value(&document(&look, &rules)), form),
        None => out.text(&secrets.scrubbed(&text(&look, &rules))),
    }
}

/// A rule as it stands.
#[derive(Debug, Serialize)]
struct RuleReport {
    rule: String,
    verb: String,
    rows: Vec<RowReport>,
    /// Why the rows are not known, when they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

/// One row, and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RowReport {
    key: String,
    columns: Map<String, Value>,
    state: State,
    /// What it waits for, or how it came to be so; empty when there is nothing to say.
    why: String,
    /// An RFC 3339 time; absent when nobody but the running operator knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<Failed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Nothing to do until it changes.
    Settled,
    /// Not acted on yet.
    Waits,
    /// To be acted on, or acted on already: the operator's memory tells.
    Open,
    /// Its last try failed.
    Fails,
    /// No row wants it any more.
    Leaving,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Waits => "waits",
            Self::Open => "open",
            Self::Fails => "fails",
            Self::Leaving => "leaving",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Settled => Style::new(),
            Self::Waits | Self::Leaving => AnsiColor::Yellow.on_default(),
            Self::Open => AnsiColor::Cyan.on_default(),
            Self::Fails => AnsiColor::Red.on_default(),
        }
    }
}

/// A failure that was told.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Failed {
    message: String,
    /// When it was told, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// It is what the instance's conditions say now.
    now: bool,
}

/// Failures by rule and key, from the instance's conditions and events.
type Failures = BTreeMap<(String, String), Failed>;

async fn failures(cluster: &Cluster, look: &Look) -> Failures {
    let mut told = Failures::new();
    // Who may not read events learns less.
    for event in events::list(cluster, &look.instance.namespace)
        .await
        .unwrap_or_default()
    {
        if event["regarding"]["uid"] == look.instance.uid.as_str()
            && event["reason"] == libretto_api::reason::REASON_EFFECT_FAILED
            && let Some((row, message)) = event["note"].as_str().and_then(row_of)
        {
            let at = events::last_seen(&event).as_str().map(str::to_owned);
            let now = false;
            told.insert(row, Failed { message, at, now });
        }
    }
    let conditions = look.object["status"]["conditions"].as_array();
    for condition in conditions.into_iter().flatten() {
        let telling = condition["type"] == "Stalled" || condition["type"] == "Reconciling";
        if telling
            && condition["status"] == "True"
            && let Some((row, message)) = condition["message"].as_str().and_then(row_of)
        {
            let at = condition["lastTransitionTime"].as_str().map(str::to_owned);
            let now = true;
            told.insert(row, Failed { message, at, now });
        }
    }
    told
}

/// `rule X, row Y: what went wrong`, as the runtime writes it.
fn row_of(message: &str) -> Option<((String, String), String)> {
    let rest = message.strip_prefix("rule ")?;
    let (rule, rest) = rest.split_once(", row ")?;
    let (key, message) = rest.split_once(": ")?;
    Some(((rule.to_owned(), key.to_owned()), message.to_owned()))
}

fn reports(look: &Look, plan: &Plan, failures: &Failures) -> Vec<RuleReport> {
    plan.rules
        .iter()
        .map(|view| RuleReport {
            rule: view.rule.clone(),
            verb: view.verb.clone(),
            rows: view
                .rows
                .iter()
                .map(|row| {
                    let failed = failures.get(&(view.rule.clone(), row.key.clone()));
                    let modifiers = look.package.modifiers(&view.rule);
                    judged(row, modifiers, object_of(look, row), look, failed)
                })
                .collect(),
            unknown: view.failure.as_deref().map(spoken::text),
        })
        .collect()
}

/// The object that a row of `apply`, `patch` or `helm` is about, when the row is about one; and whether it is there.
fn object_of<'a>(look: &'a Look, row: &RowView) -> Option<Option<&'a Value>> {
    let mut known = look.package.written().iter();
    let gvk = known.find(|gvk| {
        row.key
            .strip_prefix(&gvk.to_string())
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    let (namespace, name) = row.key.rsplit(' ').next()?.split_once('/')?;
    let reference = ObjectRef {
        gvk: gvk.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Some(look.live.get(&reference))
}

fn judged(
    row: &RowView,
    modifiers: Option<&Modifiers>,
    object: Option<Option<&Value>>,
    look: &Look,
    failed: Option<&Failed>,
) -> RowReport {
    let (state, why) = standing(row, modifiers, object.map(|live| live.is_some()));
    let failing = failed.filter(|failed| failed.now && state != State::Settled);
    let manager = field_manager(look.package.name());
    RowReport {
        key: row.key.clone(),
        columns: columns(&row.columns),
        state: if failing.is_some() {
            State::Fails
        } else {
            state
        },
        why: failing.map_or(why, |failed| failed.message.clone()),
        since: object
            .flatten()
            .filter(|_| state == State::Settled || row.note.starts_with("applied"))
            .and_then(|live| held_since(live, &manager))
            .map(str::to_owned),
        last_failure: failed.cloned(),
    }
}

/// How a row stands, as far as it can be told without the operator's memory.
fn standing(row: &RowView, modifiers: Option<&Modifiers>, there: Option<bool>) -> (State, String) {
    let note = || spoken::text(&row.note);
    match (row.state, there) {
        (RowState::Done, None) => (
            State::Settled,
            "done once, as the operator wrote down".to_owned(),
        ),
        (RowState::Done, Some(_)) => (State::Settled, String::new()),
        (RowState::Leaving, _) => (State::Leaving, note()),
        (RowState::Failing, _) => (State::Fails, note()),
        (RowState::Waiting, _) => match modifiers.and_then(|modifiers| modifiers.stable_ms) {
            // The engine was told of the row just now, the operator perhaps long ago.
            Some(stable) if row.note == "not there long enough" => (
                State::Waits,
                format!(
                    "until it has been there unchanged for {} (stable); since when, only the operator knows",
                    duration(stable)
                ),
            ),
            _ => (State::Waits, note()),
        },
        (RowState::Acting, Some(false)) => (State::Open, "to be made: it is not there".to_owned()),
        (RowState::Acting, Some(true)) => (
            State::Open,
            "to be written: it is not as wanted (`libretto plan` shows how)".to_owned(),
        ),
        (RowState::Acting, None) => {
            let (repeat, once) = modifiers.map_or((None, false), |modifiers| {
                (modifiers.repeat_ms, modifiers.once)
            });
            let why = match (repeat, once) {
                (Some(repeat), _) => format!(
                    "acted on, and again {} later while the row is there (repeat); when, only the operator knows",
                    duration(repeat)
                ),
                (None, true) => {
                    "to be done: the operator has not written down that it was".to_owned()
                }
                (None, false) => {
                    "to be done, or done already: only the operator's memory tells".to_owned()
                }
            };
            (State::Open, why)
        }
    }
}

/// As a package writes it.
fn duration(ms: i64) -> String {
    match ms {
        _ if ms % 3_600_000 == 0 && ms > 0 => format!("{}h", ms / 3_600_000),
        _ if ms % 60_000 == 0 && ms > 0 => format!("{}m", ms / 60_000),
        _ if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

fn columns(columns: &[(String, Datum)]) -> Map<String, Value> {
    columns
        .iter()
        .map(|(name, datum)| (name.clone(), spoken::value(&datum.to_json())))
        .collect()
}

/// How many targets of each probe were asked, and why others were not.
fn probes(look: &Look) -> Vec<(String, String)> {
    let mut by_table: BTreeMap<&str, Vec<&look::Asked>> = BTreeMap::new();
    for probe in &look.package.schema().probes {
        by_table.insert(&probe.name, Vec::new());
    }
    for asked in &look.asked {
        by_table.entry(&asked.table).or_default().push(asked);
    }
    let mut lines = Vec::new();
    for (table, asked) in by_table {
        let mut parts = Vec::new();
        let answered = asked
            .iter()
            .filter(|asked| asked.answer == Answer::Answered)
            .count();
        if answered > 0 {
            parts.push(format!("{answered} answered"));
        }
        for asked in asked {
            match &asked.answer {
                Answer::Answered => {}
                Answer::Missed(why) => parts.push(format!("{} missed: {why}", asked.key)),
                Answer::NotFromHere(why) => {
                    parts.push(format!("{} cannot be asked from here: {why}", asked.key));
                }
            }
        }
        if parts.is_empty() {
            parts.push("nobody to ask".to_owned());
        }
        lines.push((table.to_owned(), parts.join("; ")));
    }
    lines
}

/// What is to be known before the rules are read.
fn remarks(look: &Look) -> Vec<String> {
    let mut remarks = Vec::new();
    for gvk in &look.unserved {
        remarks.push(format!(
            "Nothing is decided while the cluster serves no {gvk}: rows of a Kind that nobody serves are not known to be gone."
        ));
    }
    if !look.object["metadata"]["deletionTimestamp"].is_null() {
        remarks.push(format!(
            "It is being deleted; finalizers: {}. Only rules with `during: delete` act now.",
            look.object["metadata"]["finalizers"]
        ));
    }
    if !look.remembered && look.object["status"]["conditions"].is_null() {
        let scope = look.package.schema().instance.scope.as_ref();
        remarks.push(match scope {
            Some(scope) => format!(
                "No operator has taken it yet. A cluster-wide one takes what has the annotation {}: {}, one of a namespace what has not.",
                scope.annotation, scope.value
            ),
            None => "No operator has taken it yet.".to_owned(),
        });
    }
    remarks
}

fn head(look: &Look) -> String {
    let metadata = &look.object["metadata"];
    let generation = metadata["generation"].as_i64().unwrap_or_default();
    let mut text = format!(
        "{}, package {} {}, generation {generation}",
        look.instance,
        look.package.name(),
        look.package.version()
    );
    match look.object["status"]["observedGeneration"].as_i64() {
        Some(observed) if observed != generation => {
            text.push_str(&format!(" (its status is of generation {observed})"));
        }
        _ => {}
    }
    text.push('\n');
    let conditions: Vec<Vec<String>> = look.object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|condition| {
            ["Ready", "Reconciling", "Stalled"]
                .iter()
                .any(|kind| condition["type"] == *kind)
        })
        .map(|condition| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            vec![
                text("type"),
                text("status"),
                age_of(&condition["lastTransitionTime"]),
                text("reason"),
                text("message"),
            ]
        })
        .collect();
    if !conditions.is_empty() {
        let columns = headings(&["CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"]);
        text.push_str(&section("Conditions", &table(&columns, &conditions)));
    }
    for remark in remarks(look) {
        text.push_str(&format!("{remark}\n"));
    }
    text
}

fn text(look: &Look, rules: &[RuleReport]) -> String {
    let mut text = head(look);
    if !look.unserved.is_empty() {
        return text;
    }
    let probes: Vec<Vec<String>> = probes(look)
        .into_iter()
        .map(|(table, what)| vec![table, spoken::short(&what, 160)])
        .collect();
    if !probes.is_empty() {
        let title = "Probes, each asked once from here, through the API server";
        let columns = headings(&["PROBE", "ANSWERS"]);
        text.push_str(&section(title, &table(&columns, &probes)));
    }
    text.push_str(&section("Rules", &rules_table(rules)));
    let without: Vec<&str> = rules
        .iter()
        .filter(|rule| rule.rows.is_empty() && rule.unknown.is_none())
        .map(|rule| rule.rule.as_str())
        .collect();
    if !without.is_empty() {
        text.push_str(&format!("Without rows: {}\n", without.join(", ")));
    }
    if rules
        .iter()
        .flat_map(|rule| &rule.rows)
        .any(|row| row.since.is_none())
    {
        text.push_str(
            "SINCE is when the operator last changed the object. Since when other rows have been there, and when a call was made or\n\
             will be tried again, is in the running operator's memory only.\n",
        );
    }
    text
}

/// Rules with rows, or whose rows are not known.
fn rules_table(rules: &[RuleReport]) -> String {
    let mut rows = Vec::new();
    let mut styles = Vec::new();
    for rule in rules {
        let mut name = rule.rule.as_str();
        let mut verb = rule.verb.as_str();
        if let Some(unknown) = &rule.unknown {
            rows.push(vec![
                name.to_owned(),
                verb.to_owned(),
                "?".to_owned(),
                "unknown".to_owned(),
                "-".to_owned(),
                spoken::short(unknown, 120),
            ]);
            styles.push(State::Waits.style());
            continue;
        }
        for row in &rule.rows {
            let since = row.since.as_ref().map_or_else(
                || "-".to_owned(),
                |since| age_of(&Value::from(since.as_str())),
            );
            let mut why = row.why.clone();
            if let Some(failed) = row.last_failure.as_ref().filter(|failed| !failed.now) {
                let at = failed.at.as_ref().map_or_else(String::new, |at| {
                    format!(" {} ago", age_of(&Value::from(at.as_str())))
                });
                let separator = if why.is_empty() { "" } else { "; " };
                why.push_str(&format!("{separator}failed{at}: {}", failed.message));
            }
            rows.push(vec![
                name.to_owned(),
                verb.to_owned(),
                spoken::short(&key(row), 60),
                row.state.word().to_owned(),
                since,
                spoken::short(&why, 160),
            ]);
            styles.push(row.state.style());
            (name, verb) = ("", "");
        }
    }
    let text = table(
        &headings(&["RULE", "VERB", "ROW", "STATE", "SINCE", "WHY"]),
        &rows,
    );
    let mut lines = text.lines();
    let mut coloured: Vec<String> = lines.next().map(str::to_owned).into_iter().collect();
    coloured.extend(
        lines
            .zip(styles)
            .map(|(line, style)| format!("{style}{line}{style:#}")),
    );
    coloured.join("\n")
}

/// A row's key with what else it says, when it is no object.
fn key(row: &RowReport) -> String {
    let mut text = row.key.clone();
    let shown: Vec<String> = row
        .columns
        .iter()
        .filter(|(name, value)| {
            let said = value.as_str().is_some_and(|value| row.key.contains(value));
            !["key", "labels"].contains(&name.as_str())
                && !said
                && !value.is_null()
                && !row.key.contains(' ')
        })
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        })
        .collect();
    if !shown.is_empty() {
        text.push_str(&format!(" ({})", shown.join(", ")));
    }
    text
}

fn document(look: &Look, rules: &[RuleReport]) -> Value {
    let probes: Map<String, Value> = probes(look)
        .into_iter()
        .map(|(table, what)| (table, what.into()))
        .collect();
    json!({
        "instance": {
            "kind": look.instance.gvk, "namespace": look.instance.namespace,
            "name": look.instance.name, "uid": look.instance.uid,
        },
        "package": {"name": look.package.name(), "version": look.package.version()},
        "notServed": look.unserved,
        "remarks": remarks(look),
        "conditions": look.object["status"]["conditions"],
        "probes": probes,
        "rules": rules,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(state: RowState, note: &str) -> RowView {
        RowView {
            key: "k".into(),
            columns: Vec::new(),
            state,
            note: note.into(),
        }
    }

    #[test]
    fn what_only_the_operator_knows_is_said_to_be_so() {
        let with = |change: fn(&mut Modifiers)| {
            let mut modifiers = Modifiers::default();
            change(&mut modifiers);
            modifiers
        };
        for (view, modifiers, there, state, word) in [
            (
                row(RowState::Done, ""),
                Modifiers::default(),
                Some(true),
                State::Settled,
                "",
            ),
            (
                row(RowState::Done, ""),
                with(|m| m.once = true),
                None,
                State::Settled,
                "wrote down",
            ),
            (
                row(RowState::Acting, ""),
                with(|m| m.once = true),
                None,
                State::Open,
                "not written down",
            ),
            (
                row(RowState::Acting, ""),
                with(|m| m.repeat_ms = Some(90_000)),
                None,
                State::Open,
                "again 90s later",
            ),
            (
                row(RowState::Acting, ""),
                Modifiers::default(),
                None,
                State::Open,
                "memory",
            ),
            (
                row(RowState::Acting, ""),
                Modifiers::default(),
                Some(false),
                State::Open,
                "not there",
            ),
            (
                row(RowState::Acting, ""),
                Modifiers::default(),
                Some(true),
                State::Open,
                "not as wanted",
            ),
            (
                row(RowState::Waiting, "not there long enough"),
                with(|m| m.stable_ms = Some(5_000)),
                None,
                State::Waits,
                "for 5s (stable)",
            ),
            (
                row(RowState::Waiting, "after rule x"),
                with(|m| m.stable_ms = Some(5_000)),
                None,
                State::Waits,
                "after rule x",
            ),
        ] {
            let (found, why) = standing(&view, Some(&modifiers), there);
            assert_eq!(found, state, "{why}");
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn failures_are_read_off_what_the_runtime_writes() {
        let (row, message) = row_of("rule roll, row a/b: delete Pod x: forbidden").unwrap();
        assert_eq!(row, ("roll".to_owned(), "a/b".to_owned()));
        assert_eq!(message, "delete Pod x: forbidden");
        assert_eq!(row_of("2 of 3"), None);
    }

    #[test]
    fn durations_are_as_packages_write_them() {
        for (ms, text) in [
            (500, "500ms"),
            (5_000, "5s"),
            (90_000, "90s"),
            (120_000, "2m"),
            (7_200_000, "2h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
