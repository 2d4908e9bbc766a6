//! `execute:` — rules: rows to effects.

use std::collections::{BTreeMap, BTreeSet};

use libretto_api::package::{CALLS, CALLS_NOT_YET, Modifiers, PACKAGE_FILE, VERBS};
use libretto_mirror::ColumnPath;

use super::{
    Action, Check, Document, EventTemplate, MetricRule, Query, Rule, Scope, StatusRule, alert,
    exec, helm, kubernetes, sense, suggestion,
};
use crate::{
    schedule::Schedule,
    template::{Names, Tree, is_template},
    yaml::{self, At, Data, Node},
};

#[derive(Default)]
pub(super) struct Executed {
    pub(super) rules: Vec<Rule>,
    pub(super) status: Option<StatusRule>,
    pub(super) metrics: Vec<MetricRule>,
}

pub(crate) const MODIFIERS: &[&str] = &[
    "name", "for", "key", "on", "stable", "repeat", "once", "after", "limit", "ignore", "adopt",
    "leave", "event", "own", "with", "undo", "during", "drift", "force", "ready", "schedule",
];

/// Modifiers that have no meaning with a verb.
pub(crate) const SENSELESS: &[(&str, &[&str])] = &[
    (
        "apply",
        &["with", "repeat", "once", "undo", "force", "schedule"],
    ),
    (
        "helm",
        &["with", "repeat", "once", "undo", "force", "schedule"],
    ),
    (
        "patch",
        &[
            "with", "repeat", "once", "adopt", "own", "undo", "drift", "ready", "schedule",
        ],
    ),
    (
        "call",
        &["own", "adopt", "ignore", "leave", "drift", "force", "ready"],
    ),
    (
        "alert",
        &[
            "with", "repeat", "once", "undo", "force", "own", "adopt", "ignore", "leave", "drift",
            "ready", "schedule", "after", "limit", "event", "during", "on",
        ],
    ),
];

/// Times that a condition of the status can have.
pub(super) const TIMES: &[&str] = &["lastUpdateTime", "lastTransitionTime"];

pub(super) fn rules(check: &mut Check<'_>, scope: &mut Scope, spec: &Node) -> Executed {
    let mut executed = Executed::default();
    let Some(node) = spec.get("execute") else {
        return executed;
    };
    let Data::List(items) = &node.data else {
        check.wrong(
            node.at,
            format!("execute must be a list of rules, this is {}", node.what()),
        );
        return executed;
    };
    let mut names: BTreeMap<String, At> = BTreeMap::new();
    let mut afters: Vec<(String, Vec<(String, At)>)> = Vec::new();
    for item in items {
        let keywords: Vec<&str> = VERBS.iter().chain(MODIFIERS).copied().collect();
        let verbs: Vec<&str> = VERBS
            .iter()
            .copied()
            .filter(|verb| item.get(verb).is_some())
            .collect();
        let label = item
            .get("name")
            .and_then(Node::text)
            .map_or_else(|| "a rule".to_owned(), |name| format!("rule {name}"));
        check.only(item, &label, &keywords);
        let verb = match verbs.as_slice() {
            [verb] => *verb,
            [] => {
                let unknown = item
                    .entries()
                    .iter()
                    .any(|(key, _)| !keywords.contains(&key.text.as_str()));
                // The unknown keyword was complained about; it was probably meant to be the verb.
                if !unknown && matches!(item.data, Data::Map(_)) {
                    check.wrong_hint(
                        item.at,
                        format!("{label} has no verb"),
                        format!("one of: {}", VERBS.join(", ")),
                    );
                }
                continue;
            }
            several => {
                check.wrong_hint(
                    item.at,
                    format!(
                        "{label} has {} verbs: {}",
                        several.len(),
                        several.join(", ")
                    ),
                    "a rule does one thing; write two rules over one view",
                );
                continue;
            }
        };
        match verb {
            "status" => status(check, scope, item, &mut executed),
            "metric" => metric(check, scope, item, &mut executed),
            _ => {
                let Some(name) = item.get("name").and_then(Node::text).map(str::to_owned) else {
                    check.wrong_hint(
                        item.at,
                        "a rule needs `name`",
                        "conditions, events and the record speak of it by name",
                    );
                    continue;
                };
                let at = item.get("name").map_or(item.at, |node| node.at);
                let fine = name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
                    && name.starts_with(|c: char| c.is_ascii_alphabetic())
                    && name.len() <= 63;
                if !fine {
                    check.wrong_hint(
                        at,
                        format!("`{name}` cannot be the name of a rule"),
                        "letters, digits, - and _, beginning with a letter, at most 63",
                    );
                }
                if let Some(first) = names.insert(name.clone(), at) {
                    check.wrong(
                        at,
                        format!(
                            "there are two rules `{name}`; the first is at line {}",
                            first.line
                        ),
                    );
                }
                if let Some(after) = item.get("after") {
                    afters.push((
                        name.clone(),
                        check.texts(after, &format!("rule {name}: after")),
                    ));
                }
                executed.rules.extend(rule(check, scope, item, name, verb));
            }
        }
    }
    check_after(check, &names, &afters);
    executed
}

fn check_after(
    check: &mut Check<'_>,
    names: &BTreeMap<String, At>,
    afters: &[(String, Vec<(String, At)>)],
) {
    for (rule, targets) in afters {
        for (target, at) in targets {
            if !names.contains_key(target) {
                let hint = suggestion(target, names.keys().filter(|name| *name != rule))
                    .unwrap_or_else(|| {
                        "`after` names rules with apply, patch, helm or call".to_owned()
                    });
                check.wrong_hint(
                    *at,
                    format!("rule {rule}: there is no rule `{target}` to come after"),
                    hint,
                );
            }
        }
    }
    let edges: BTreeMap<&str, Vec<&str>> = afters
        .iter()
        .map(|(rule, targets)| {
            (
                rule.as_str(),
                targets.iter().map(|(target, _)| target.as_str()).collect(),
            )
        })
        .collect();
    let mut told: BTreeSet<BTreeSet<&str>> = BTreeSet::new();
    for (rule, targets) in afters {
        // Every simple path back to the rule; packages have tens of rules.
        let mut paths = vec![vec![rule.as_str()]];
        let mut steps = 0;
        while let Some(path) = paths.pop() {
            steps += 1;
            if steps > 10_000 {
                break;
            }
            let last = path[path.len() - 1];
            for next in edges.get(last).into_iter().flatten() {
                if next == rule {
                    if told.insert(path.iter().copied().collect()) {
                        let at = targets.first().map(|(_, at)| *at).unwrap_or_default();
                        let mut circle: Vec<&str> = path.clone();
                        circle.push(rule);
                        check.wrong(
                            at,
                            format!(
                                "rule {rule}: rules wait for each other in a circle: {}",
                                circle.join(" -> ")
                            ),
                        );
                    }
                } else if !path.contains(next) {
                    let mut longer = path.clone();
                    longer.push(next);
                    paths.push(longer);
                }
            }
        }
    }
}

fn rule(
    check: &mut Check<'_>,
    scope: &mut Scope,
    item: &Node,
    name: String,
    verb: &str,
) -> Option<Rule> {
    let place = format!("rule {name}");
    let mut broken = false;
    let query = match item.get("for") {
        Some(node) => {
            let query = check.query(scope, node, &format!("{place}: for"));
            broken = query.is_none();
            query
        }
        None => None,
    };
    let (mut modifiers, ignore) = modifiers(check, item, &place, query.as_ref(), broken);
    // An alert that goes on over a restart is not a new one.
    modifiers.once |= verb == "alert";
    let mut names = scope.names_for(query.as_ref());
    let schedule = item
        .get("schedule")
        .and_then(|node| schedule(check, node, &place));
    // A schedule that is wrong is complained about once.
    if item.get("schedule").is_some() {
        names.row.insert("due".to_owned());
    }
    let ready = item
        .get("ready")
        .and_then(|node| readiness(check, scope, node, &place));
    // Without its columns every variable of the templates would be called undeclared.
    if broken {
        return None;
    }
    if modifiers.once
        && query.is_some()
        && modifiers.key.is_empty()
        && default_key(query.as_ref()).is_none()
    {
        check.wrong_hint(
            item.at,
            format!("{place}: `once` needs to know which row was done"),
            "select a column `key`, or name columns with `key:`",
        );
    }
    let event = item
        .get("event")
        .and_then(|node| event(check, node, &place, &names));
    forbid(check, item, &place, verb);
    let verb_node = item.get(verb)?;
    let mut shown = verb.to_owned();
    let action = match verb {
        "apply" => {
            let own = check.boolean(item.get("own"), &format!("{place}: own"), true);
            Action::Apply {
                documents: documents(check, verb_node, &place, &names),
                own,
            }
        }
        "helm" => {
            let own = check.boolean(item.get("own"), &format!("{place}: own"), true);
            Action::Helm(helm::helm(check, verb_node, &place, &names, own)?)
        }
        "alert" => Action::Alert(alert::alert(check, verb_node, &place, &names)?),
        "patch" => {
            if !matches!(verb_node.data, Data::Map(_) | Data::Text(_)) {
                check.wrong(
                    verb_node.at,
                    format!(
                        "{place}: patch must be an object or a file with one, this is {}",
                        verb_node.what()
                    ),
                );
                return None;
            }
            let before = check.diagnostics.len();
            let mut documents = documents(check, verb_node, &place, &names);
            if documents.len() > 1 {
                check.wrong(
                    verb_node.at,
                    format!(
                        "{place}: a patch is about one object, here are {}",
                        documents.len()
                    ),
                );
            } else if documents.is_empty() && check.diagnostics.len() == before {
                check.wrong(verb_node.at, format!("{place}: the file holds no object"));
            }
            Action::Patch(documents.pop()?)
        }
        _ => {
            let call = check.text(verb_node, &format!("{place}: call"))?;
            shown = format!("call {call}");
            let Some(with) = item.get("with") else {
                check.wrong(item.at, format!("{place}: `call` needs `with`"));
                return None;
            };
            self::call(check, &call, verb_node, with, &place, &names)?
        }
    };
    let undo = item
        .get("undo")
        .and_then(|node| undo(check, node, &place, &names));
    let at_deletion = match item.get("during").map(|node| (node, node.text())) {
        None => false,
        Some((_, Some("delete"))) => true,
        Some((node, _)) => {
            check.wrong_hint(
                node.at,
                format!("{place}: during is not known"),
                "delete: the rule acts while the instance is being deleted, and only then",
            );
            false
        }
    };
    if at_deletion && !matches!(verb, "call") {
        check.wrong_hint(
            item.at,
            format!("{place}: `during: delete` has no meaning with `{verb}`"),
            "what is applied for an instance goes with it; use `call`",
        );
    }
    if at_deletion && undo.is_some() {
        check.wrong(
            item.at,
            format!("{place}: nothing is left to undo what is done at deletion"),
        );
    }
    if schedule.is_some() {
        let because = "a scheduled call is made at its times, and never taken back";
        for key in ["once", "repeat", "undo", "during"] {
            if let Some(node) = item.get(key) {
                check.wrong_hint(
                    node.at,
                    format!("{place}: `{key}` has no meaning with `schedule`"),
                    because,
                );
            }
        }
    }
    Some(Rule {
        undo,
        at_deletion,
        ready,
        schedule,
        name,
        verb: shown,
        query,
        modifiers,
        ignore,
        event,
        action,
    })
}

/// `schedule:` of a rule with `call`: a cron expression, or one with its time zone.
fn schedule(check: &mut Check<'_>, node: &Node, place: &str) -> Option<Schedule> {
    let place = format!("{place}: schedule");
    let (cron, zone) = match &node.data {
        Data::Map(_) => {
            check.only(node, &place, &["cron", "zone"]);
            let zone = node
                .get("zone")
                .and_then(|zone| check.text(zone, &format!("{place}.zone")));
            (check.required_text(node, &place, "cron")?, zone)
        }
        _ => (check.text(node, &place)?, None),
    };
    match Schedule::parse(&cron, zone.as_deref()) {
        Ok(schedule) => Some(schedule),
        Err(problem) => {
            check.wrong_hint(
                node.at,
                format!("{place}: {problem}"),
                "minute, hour, day of the month, month, day of the week: \"0 3 * * *\" is every night at three",
            );
            None
        }
    }
}

/// `ready:` of a rule with `apply` or `helm`.
fn readiness(check: &mut Check<'_>, scope: &mut Scope, node: &Node, place: &str) -> Option<Query> {
    verdict(
        check,
        scope,
        node,
        &format!("{place}: ready"),
        &["ok", "kind", "name", "message"],
    )
}

/// `undo:` of a rule with `call`: another call.
fn undo(check: &mut Check<'_>, node: &Node, place: &str, names: &Names) -> Option<Action> {
    let place = format!("{place}: undo");
    check.only(node, &place, &["call", "with"]);
    let call_node = node.get("call").or_else(|| {
        check.wrong(node.at, format!("{place} needs `call`"));
        None
    })?;
    let call = check.text(call_node, &place)?;
    let with = node.get("with").or_else(|| {
        check.wrong(node.at, format!("{place} needs `with`"));
        None
    })?;
    self::call(check, &call, call_node, with, &place, names)
}

fn forbid(check: &mut Check<'_>, item: &Node, place: &str, verb: &str) {
    let keys = SENSELESS
        .iter()
        .find(|(known, _)| *known == verb)
        .map_or(&[][..], |(_, keys)| *keys);
    for (key, _) in item.entries() {
        if keys.contains(&key.text.as_str()) {
            check.wrong(
                key.at,
                format!("{place}: `{}` has no meaning with `{verb}`", key.text),
            );
        }
    }
}

/// The column that identifies rows when `key:` does not say.
pub(crate) fn default_key(query: Option<&Query>) -> Option<&'static str> {
    ["key", "name"].into_iter().find(|name| {
        query.is_some_and(|query| query.columns.iter().any(|column| column.name == *name))
    })
}

fn modifiers(
    check: &mut Check<'_>,
    item: &Node,
    place: &str,
    query: Option<&Query>,
    broken: bool,
) -> (Modifiers, Vec<ColumnPath>) {
    let mut columns = |key: &str| -> Vec<String> {
        let Some(node) = item.get(key) else {
            return Vec::new();
        };
        let texts = check.texts(node, &format!("{place}: {key}"));
        if broken {
            return Vec::new();
        }
        let known: Vec<String> = query
            .into_iter()
            .flat_map(|query| query.columns.iter().map(|column| column.name.clone()))
            .collect();
        for (text, at) in &texts {
            if !known.contains(text) {
                let hint = suggestion(text, &known).unwrap_or_else(|| {
                    if known.is_empty() {
                        "this rule has no `for`, so its one row has no columns".to_owned()
                    } else {
                        format!("the row has: {}", known.join(", "))
                    }
                });
                check.wrong_hint(
                    *at,
                    format!("{place}: `{key}` names a column `{text}` that the row does not have"),
                    hint,
                );
            }
        }
        texts.into_iter().map(|(text, _)| text).collect()
    };
    let key = columns("key");
    let on = columns("on");
    let mut span = |key: &str| {
        item.get(key)
            .and_then(|node| check.duration(node, &format!("{place}: {key}"), 1))
    };
    let (stable_ms, repeat_ms) = (span("stable"), span("repeat"));
    let once = check.boolean(item.get("once"), &format!("{place}: once"), false);
    if once && repeat_ms.is_some() {
        check.wrong(
            item.at,
            format!("{place}: `once` and `repeat` contradict each other"),
        );
    }
    let limit = match item.get("limit").map(|node| (node, &node.data)) {
        None => None,
        Some((_, Data::Int(int))) if *int >= 1 => usize::try_from(*int).ok(),
        Some((node, Data::Map(_))) => {
            check.wrong_hint(
                node.at,
                format!(
                    "{place}: `limit` over the fleet is not supported by this version of libretto"
                ),
                "a number: rows of one instance under way at a time",
            );
            None
        }
        Some((node, _)) => {
            check.wrong(
                node.at,
                format!("{place}: limit must be a number of at least 1"),
            );
            None
        }
    };
    let orphan = match item.get("leave").map(|node| (node, node.text())) {
        None => false,
        Some((_, Some("orphan"))) => true,
        Some((node, _)) => {
            check.wrong_hint(
                node.at,
                format!("{place}: leave is not known"),
                "orphan, or leave it out to have objects deleted with their rows",
            );
            false
        }
    };
    let keep_drift = match item.get("drift").map(|node| (node, node.text())) {
        None | Some((_, Some("repair"))) => false,
        Some((_, Some("keep"))) => true,
        Some((node, text)) => {
            check.wrong_hint(
                node.at,
                format!(
                    "{place}: drift: `{}` is not known",
                    text.unwrap_or_default()
                ),
                "repair (default), or keep: what others change stays until the row changes",
            );
            false
        }
    };
    let ignored = match item.get("ignore") {
        Some(node) => check.texts(node, &format!("{place}: ignore")),
        None => Vec::new(),
    };
    let ignore = ignored
        .iter()
        .filter_map(|(text, at)| check.path(text, *at))
        .collect();
    let after = match item.get("after") {
        Some(node) => check.texts(node, &format!("{place}: after")),
        None => Vec::new(),
    };
    // Texts that are not texts were told of twice; once is enough, the list is deduplicated in the end.
    let modifiers = Modifiers {
        key,
        on,
        stable_ms,
        repeat_ms,
        once,
        after: after.into_iter().map(|(text, _)| text).collect(),
        limit,
        ignore: ignored.into_iter().map(|(text, _)| text).collect(),
        adopt: check.boolean(item.get("adopt"), &format!("{place}: adopt"), false),
        orphan,
        keep_drift,
        force: check.boolean(item.get("force"), &format!("{place}: force"), false),
    };
    (modifiers, ignore)
}

fn event(check: &mut Check<'_>, node: &Node, place: &str, names: &Names) -> Option<EventTemplate> {
    let place = format!("{place}: event");
    check.only(node, &place, &["type", "reason", "message"]);
    let kind = match node.get("type") {
        None => Tree::Plain("Normal".into()),
        Some(node) => {
            match node.text() {
                Some("Normal" | "Warning") => {}
                Some(text) if is_template(text) => {}
                _ => check.wrong_hint(
                    node.at,
                    format!("{place}: type is not known"),
                    "Normal or Warning",
                ),
            }
            check.tree(node, names)
        }
    };
    let reason = sense::required(check, node, &place, "reason", names)?;
    let message = sense::required(check, node, &place, "message", names)?;
    Some(EventTemplate {
        kind,
        reason,
        message,
    })
}

fn call(
    check: &mut Check<'_>,
    call: &str,
    call_node: &Node,
    with: &Node,
    place: &str,
    names: &Names,
) -> Option<Action> {
    let with_place = format!("{place}: with");
    match call {
        "redis" => sense::redis(check, with, &with_place, names, None).map(Action::Redis),
        "http" => sense::http(check, with, &with_place, names, None).map(Action::Http),
        "exec" => exec::exec(check, with, &with_place, names, None).map(Action::Exec),
        "kube.delete" | "kube.scale" | "kube.restart" | "kube.evict" => {
            let what = call.trim_start_matches("kube.");
            kubernetes::call(check, what, with, &with_place, names)
        }
        "event" => event(check, with, &with_place, names).map(Action::Event),
        other => {
            let known: Vec<String> = CALLS.iter().map(|name| (*name).to_owned()).collect();
            let all = format!("calls are: {}", known.join(", "));
            if CALLS_NOT_YET.contains(&other) {
                check.wrong_hint(
                    call_node.at,
                    format!(
                        "{place}: `call: {other}` is not supported by this version of libretto"
                    ),
                    all,
                );
            } else {
                let hint = suggestion(other, &known).unwrap_or(all);
                check.wrong_hint(
                    call_node.at,
                    format!("{place}: there is no call `{other}`"),
                    hint,
                );
            }
            None
        }
    }
}

/// Manifests of an `apply`: an object in place, a file, a glob, or a list of files.
fn documents(check: &mut Check<'_>, node: &Node, place: &str, names: &Names) -> Vec<Document> {
    if matches!(node.data, Data::Map(_)) {
        return document(check, PACKAGE_FILE, node, place, names)
            .into_iter()
            .collect();
    }
    let mut documents = Vec::new();
    for (pattern, at) in check.texts(node, &format!("{place}: apply")) {
        let files: Vec<String> = check
            .files
            .keys()
            .filter(|file| matches_glob(&pattern, file))
            .cloned()
            .collect();
        if files.is_empty() {
            let known: Vec<String> = check.files.keys().cloned().collect();
            let hint = suggestion(&pattern, &known)
                .unwrap_or_else(|| format!("the package has: {}", known.join(", ")));
            check.wrong_hint(at, format!("{place}: no file matches `{pattern}`"), hint);
        }
        for file in files {
            let source = check.files[&file].clone();
            match yaml::parse(&file, &source) {
                Ok(nodes) => {
                    for node in &nodes {
                        documents.extend(document(check, &file, node, place, names));
                    }
                }
                Err(diagnostic) => check.diagnostics.push(diagnostic),
            }
        }
    }
    documents
}

/// `*` stands for anything but `/`.
fn matches_glob(pattern: &str, file: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = file.strip_prefix(first) else {
        return false;
    };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else {
        return rest.is_empty();
    };
    for piece in middle {
        match rest.find(piece) {
            Some(index) if !rest[..index].contains('/') => rest = &rest[index + piece.len()..],
            _ => return false,
        }
    }
    rest.len() >= last.len()
        && rest.ends_with(last)
        && !rest[..rest.len() - last.len()].contains('/')
}

fn document(
    check: &mut Check<'_>,
    file: &str,
    node: &Node,
    place: &str,
    names: &Names,
) -> Option<Document> {
    let mut fixed = |key: &str| -> Option<String> {
        match node.get(key) {
            Some(value) => match value.text() {
                Some(text) if !is_template(text) => Some(text.to_owned()),
                _ => {
                    check.error(
                        file,
                        value.at,
                        format!("{place}: {key} must be plain text: what is watched depends on it"),
                        None,
                    );
                    None
                }
            },
            None => {
                check.error(
                    file,
                    node.at,
                    format!("{place}: the object needs `{key}`"),
                    None,
                );
                None
            }
        }
    };
    let (api_version, kind) = (fixed("apiVersion"), fixed("kind"));
    if node
        .get("metadata")
        .and_then(|metadata| metadata.get("name"))
        .is_none()
    {
        check.error(
            file,
            node.at,
            format!("{place}: the object needs `metadata.name`"),
            None,
        );
    }
    for key in ["ownerReferences", "managedFields", "resourceVersion"] {
        if let Some(found) = node.get("metadata").and_then(|metadata| metadata.get(key)) {
            check.error(
                file,
                found.at,
                format!("{place}: metadata.{key} is the runtime's to set"),
                None,
            );
        }
    }
    if let Some(status) = node.get("status") {
        check.error(
            file,
            status.at,
            format!("{place}: status is not applied with the object"),
            Some("leave it out".to_owned()),
        );
    }
    let when = node
        .get("$when")
        .map(|when| check.tree_in(file, when, names));
    let body = Node {
        at: node.at,
        data: Data::Map(
            node.entries()
                .iter()
                .filter(|(key, _)| key.text != "$when")
                .cloned()
                .collect(),
        ),
    };
    let tree = check.tree_in(file, &body, names);
    let gvk = format!("{}/{}", api_version?, kind?);
    match gvk.parse() {
        Ok(gvk) => Some(Document {
            gvk,
            when,
            tree,
            place: format!("{file}:{}", node.at.line),
        }),
        Err(error) => {
            check.error(file, node.at, format!("{place}: {error}"), None);
            None
        }
    }
}

fn status(check: &mut Check<'_>, scope: &mut Scope, item: &Node, executed: &mut Executed) {
    let allowed = ["name", "status"];
    check.only(item, "the status rule", &allowed);
    let name = item
        .get("name")
        .and_then(Node::text)
        .unwrap_or("status")
        .to_owned();
    let Some(node) = item.get("status") else {
        return;
    };
    if executed.status.is_some() {
        check.wrong(
            item.at,
            "there are two status rules: one instance has one status",
        );
        return;
    }
    check.only(
        node,
        "status",
        &[
            "fields",
            "json",
            "conditions",
            "ready",
            "order",
            "times",
            "runtime",
        ],
    );
    let mut complete = true;
    let fields = node.get("fields").and_then(|fields| {
        let query = check.query(scope, fields, "status.fields");
        complete &= query.is_some();
        query
    });
    let mut json = BTreeSet::new();
    if let Some(list) = node.get("json") {
        for (text, at) in check.texts(list, "status.json") {
            if let Some(query) = &fields
                && !query.columns.iter().any(|column| column.name == text)
            {
                check.wrong(
                    at,
                    format!("status.json names a column `{text}` that status.fields does not have"),
                );
            }
            json.insert(text);
        }
    }
    let mut conditions = Vec::new();
    for (key, sql) in node
        .get("conditions")
        .map(Node::entries)
        .unwrap_or_default()
    {
        let place = format!("condition {}", key.text);
        if !key.text.starts_with(|c: char| c.is_ascii_alphabetic())
            || !key
                .text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        {
            check.wrong(
                key.at,
                format!("`{}` cannot be the type of a condition", key.text),
            );
        }
        if let Some(query) = verdict(check, scope, sql, &place, &["ok", "reason", "message"]) {
            conditions.push((key.text.clone(), query));
        }
    }
    let ready = node.get("ready").and_then(|sql| {
        verdict(
            check,
            scope,
            sql,
            "status.ready",
            &["ok", "reason", "message", "stalled"],
        )
    });
    let newest = match node.get("order").map(|node| (node, node.text())) {
        None | Some((_, Some("declared"))) => false,
        Some((_, Some("newest"))) => true,
        Some((node, _)) => {
            check.wrong_hint(node.at, "status.order is not known", "declared or newest");
            false
        }
    };
    let (mut update_time, mut transition_time) = (false, true);
    if let Some(times) = node.get("times") {
        transition_time = false;
        for (text, at) in check.texts(times, "status.times") {
            match text.as_str() {
                "lastUpdateTime" => update_time = true,
                "lastTransitionTime" => transition_time = true,
                _ => check.wrong_hint(
                    at,
                    format!("status.times: there is no time `{text}`"),
                    TIMES.join(", "),
                ),
            }
        }
    }
    let runtime = check.boolean(node.get("runtime"), "status.runtime", true);
    if let Some(ready) = node.get("ready")
        && !runtime
    {
        check.wrong_hint(
            ready.at,
            "status.ready is about the runtime's conditions, and `runtime: false` leaves them out",
            "leave one of the two out",
        );
    }
    if runtime {
        for (name, _) in &conditions {
            if [
                libretto_api::reason::READY,
                libretto_api::reason::RECONCILING,
                libretto_api::reason::STALLED,
            ]
            .contains(&name.as_str())
            {
                check.wrong_hint(node.at, format!("condition {name} is the runtime's"), "choose another name, or write `runtime: false` to have none of the runtime's conditions");
            }
        }
    }
    if complete {
        executed.status = Some(StatusRule {
            name,
            fields,
            json,
            conditions,
            newest,
            update_time,
            transition_time,
            runtime,
            ready,
        });
    }
}

/// A query whose row says whether something is so, and why.
fn verdict(
    check: &mut Check<'_>,
    scope: &mut Scope,
    sql: &Node,
    place: &str,
    columns: &[&str],
) -> Option<Query> {
    let query = check.query(scope, sql, place)?;
    if !query.columns.iter().any(|column| column.name == "ok") {
        check.wrong_hint(
            sql.at,
            format!("{place} must select a column `ok`"),
            "SELECT ... AS ok, 'Reason' AS reason, 'message' AS message",
        );
    }
    for column in &query.columns {
        if !columns.contains(&column.name.as_str()) {
            check.wrong(
                sql.at,
                format!(
                    "{place}: column `{}` is none of {}",
                    column.name,
                    columns.join(", ")
                ),
            );
        }
    }
    Some(query)
}

fn metric(check: &mut Check<'_>, scope: &mut Scope, item: &Node, executed: &mut Executed) {
    check.only(item, "the metric rule", &["name", "metric"]);
    let Some(node) = item.get("metric") else {
        return;
    };
    check.only(node, "metric", &["name", "help", "value", "labels"]);
    let Some(name) = check.required_text(node, "metric", "name") else {
        return;
    };
    let at = node.get("name").map_or(node.at, |name| name.at);
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    {
        check.wrong_hint(
            at,
            format!("`{name}` cannot be the name of a metric"),
            "lower-case letters, digits and _, beginning with a letter",
        );
    }
    if executed.metrics.iter().any(|metric| metric.name == name) {
        check.wrong(at, format!("there are two metrics `{name}`"));
    }
    let help = match node.get("help") {
        Some(help) => check.text(help, "metric.help").unwrap_or_default(),
        None => String::new(),
    };
    let labels: Vec<(String, At)> = match node.get("labels") {
        Some(labels) => check.texts(labels, "metric.labels"),
        None => Vec::new(),
    };
    let Some(value) = node.get("value") else {
        check.wrong(node.at, "metric needs `value`");
        return;
    };
    let Some(query) = check.query(scope, value, &format!("metric {name}")) else {
        return;
    };
    let has = |column: &str| query.columns.iter().any(|known| known.name == column);
    // One column alone is the value, whatever it is called.
    let alone = query.columns.len() == 1 && labels.is_empty();
    if !has("value") && !alone {
        check.wrong(
            value.at,
            format!("metric {name}: the query must select a column `value`"),
        );
    }
    for (label, at) in &labels {
        if !has(label) {
            check.wrong(
                *at,
                format!("metric {name}: label `{label}` is no column of the query"),
            );
        }
        if label == "namespace" || label == "name" {
            check.wrong(
                *at,
                format!("metric {name}: label `{label}` is the instance's"),
            );
        }
    }
    executed.metrics.push(MetricRule {
        name,
        help,
        query,
        labels: labels.into_iter().map(|(label, _)| label).collect(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_stay_in_their_folder() {
        let cases = [
            ("objects/*.yaml", "objects/redis.yaml", true),
            ("objects/*.yaml", "objects/deep/redis.yaml", false),
            ("objects/*.yaml", "objects/redis.yml", false),
            ("objects/redis.yaml", "objects/redis.yaml", true),
            ("objects/redis.yaml", "objects/redis.yaml2", false),
            ("objects/r*s.y*l", "objects/redis.yaml", true),
            ("*", "package.yaml", true),
            ("*.yaml", "objects/a.yaml", false),
        ];
        for (pattern, file, expected) in cases {
            assert_eq!(matches_glob(pattern, file), expected, "{pattern} {file}");
        }
    }
}
