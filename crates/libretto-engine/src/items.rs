//! From rows to items: what each rule wants, before anybody asks whether it is already so.

mod helm;
mod overlay;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use libretto_api::{
    intent::{
        Alert, Effect, EventKind, ExecCall, HttpBody, HttpCall, Millis, Probe, RedisCall,
        RedisCommand, Series,
    },
    object::{Gvk, INSTANCE_LABEL, ObjectRef, PACKAGE_LABEL},
    secret::{Piece, SecretHandle, pieces},
};
use libretto_mirror::{Answer, ColumnPath, Datum, ResultColumn, Rows, canonical_json, digest};
use serde_json::{Map, Value, json};

use crate::{
    compile::{
        Action, AlertTemplate, Ask, BodyTemplate, Document, EventTemplate, ExecTemplate,
        HttpTemplate, ProbeSpec, PrometheusTemplate, RedisTemplate, Rule,
    },
    controls,
    engine::Pass,
    ledger::{PendingEvent, object_id, reference},
    plan::ProbeTarget,
    schedule::Schedule,
    template::{self, Context, Tree, scalar_text, truthy},
};

/// A rule and what it wants.
pub(crate) struct RuleItems<'a> {
    pub(crate) rule: &'a Rule,
    pub(crate) items: Arc<Vec<Item>>,
    /// Why the rule's rows could not be computed; nothing of the rule is touched then.
    pub(crate) failure: Option<String>,
    /// What the rule waits for before its rows can be known (first answers of a probe, a chart's rendering); nothing of the rule is
    /// touched then either.
    pub(crate) blind: Option<String>,
    /// What the package says about its objects being ready, in the place of their Kinds' own rules.
    pub(crate) ready: Option<Readiness>,
}

/// The rows of `ready`.
pub(crate) enum Readiness {
    Known(Vec<Verdict>),
    /// Not known yet, and why.
    Waits(String),
}

/// One row: which objects it is about (absent: all of the rule), and whether they are ready.
pub(crate) struct Verdict {
    kind: Option<String>,
    name: Option<String>,
    ok: bool,
    message: String,
}

impl Readiness {
    /// `Err` with the reason when the object is not ready. An object that no row is about is not.
    pub(crate) fn of(&self, object: &ObjectRef) -> Result<(), String> {
        let verdicts = match self {
            Self::Waits(what) => return Err(format!("waits for {what}")),
            Self::Known(verdicts) => verdicts,
        };
        let fits =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let found = verdicts.iter().find(|verdict| {
            fits(&verdict.kind, &object.gvk.kind) && fits(&verdict.name, &object.name)
        });
        match found {
            Some(verdict) if verdict.ok => Ok(()),
            Some(verdict) => Err(verdict.message.clone()),
            None => Err(String::new()),
        }
    }
}

impl RuleItems<'_> {
    /// What is known of the rule's rows says nothing about what left.
    pub(crate) fn unknown(&self) -> bool {
        self.failure.is_some() || self.blind.is_some()
    }
}

/// One thing a rule wants.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Of an object its [`object_id`].
    pub(crate) key: String,
    pub(crate) fingerprint: String,
    pub(crate) effect: Effect,
    pub(crate) columns: Vec<(String, Datum)>,
    pub(crate) event: Option<PendingEvent>,
    /// The object, for apply and patch.
    pub(crate) object: Option<ObjectRef>,
    /// What takes back the effect, with the values of now.
    pub(crate) undo: Option<Effect>,
    /// The object has our owner reference.
    pub(crate) own: bool,
    /// The object stays when its row leaves.
    pub(crate) orphan: bool,
    /// Items of a rule are acted on when those of every smaller wave are done.
    pub(crate) wave: i64,
    /// What somebody is told for as long as the row is there and ripe; since when is the ledger's to say.
    pub(crate) alert: Option<Alert>,
}

/// Why there are no items.
#[derive(Debug)]
pub(crate) enum Missing {
    Failed(String),
    /// Not known yet.
    Waits(String),
}

impl From<String> for Missing {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl Missing {
    fn within(self, row: impl Fn(String) -> String) -> Self {
        match self {
            Self::Failed(reason) => Self::Failed(row(reason)),
            waits @ Self::Waits(_) => waits,
        }
    }
}

/// Every rule's items. Rules are computed one by one: a failing one does not stop the next.
pub(crate) fn of_rules<'a>(pass: &Pass<'a>, blind: &BTreeSet<String>) -> Vec<RuleItems<'a>> {
    let mut wanted = Wanted::default();
    let mut rules: Vec<RuleItems<'a>> = pass
        .package
        .rules
        .iter()
        .map(|rule| {
            let waits_for = rule
                .query
                .as_ref()
                .and_then(|query| {
                    pass.package
                        .bases(query)
                        .find(|table| blind.contains(*table))
                })
                .map(str::to_owned);
            let mut found = RuleItems {
                rule,
                items: Arc::default(),
                failure: None,
                blind: None,
                ready: None,
            };
            if pass.deleting != rule.at_deletion {
                return found;
            }
            if let Some(table) = waits_for {
                found.blind = Some(format!("the first answers of {table}"));
                return found;
            }
            let items =
                of_rule(pass, rule).and_then(|items| Ok(distinct(rule, items, &mut wanted)?));
            match items {
                Ok(items) => found.items = items,
                Err(Missing::Failed(reason)) => found.failure = Some(reason),
                Err(Missing::Waits(what)) => found.blind = Some(what),
            }
            match readiness(pass, rule, blind) {
                Ok(ready) => found.ready = ready,
                Err(reason) => found.failure = Some(format!("ready: {reason}")),
            }
            if found.unknown() {
                found.items = Arc::default();
            }
            found
        })
        .collect();
    overlay::lay(&mut rules);
    rules
}

/// What `ready` says now.
fn readiness(
    pass: &Pass<'_>,
    rule: &Rule,
    blind: &BTreeSet<String>,
) -> Result<Option<Readiness>, String> {
    let Some(query) = &rule.ready else {
        return Ok(None);
    };
    if let Some(table) = pass
        .package
        .bases(query)
        .find(|table| blind.contains(*table))
    {
        return Ok(Some(Readiness::Waits(format!(
            "the first answers of {table}"
        ))));
    }
    let answer = pass.rows(query)?;
    let rows = &answer.rows;
    let verdicts = rows.rows.iter().map(|row| {
        let value = |name: &str| {
            let place = rows.columns.iter().position(|column| column.name == name)?;
            (!row[place].is_null()).then(|| &row[place])
        };
        let text = |name: &str| value(name).map(Datum::display);
        Verdict {
            kind: text("kind"),
            name: text("name"),
            ok: value("ok").is_some_and(Datum::is_true),
            message: text("message").unwrap_or_default(),
        }
    });
    Ok(Some(Readiness::Known(verdicts.collect())))
}

/// Who writes which object.
#[derive(Default)]
struct Wanted {
    applied: BTreeMap<String, String>,
    patched: BTreeMap<String, String>,
}

/// Two rules that write one object with one manager would undo each other's fields forever. (One that patches what another applies
/// is laid over it, see [`overlay`].)
fn distinct(
    rule: &Rule,
    items: Arc<Vec<Item>>,
    wanted: &mut Wanted,
) -> Result<Arc<Vec<Item>>, String> {
    let wanted = if matches!(rule.action, Action::Patch(_)) {
        &mut wanted.patched
    } else {
        &mut wanted.applied
    };
    let mut keys = BTreeSet::new();
    for item in items.iter() {
        if !keys.insert(&item.key) {
            return Err(match &item.object {
                Some(object) => format!("{object} is written twice"),
                None => format!("two rows have the key `{}`", item.key),
            });
        }
        if let Some(object) = &item.object
            && let Some(other) = wanted.get(&item.key)
        {
            return Err(format!("{object} is already written by rule {other}"));
        }
    }
    for item in items.iter() {
        if item.object.is_some() {
            wanted.insert(item.key.clone(), rule.name.clone());
        }
    }
    Ok(items)
}

fn of_rule(pass: &Pass<'_>, rule: &Rule) -> Result<Arc<Vec<Item>>, Missing> {
    let answer = match &rule.query {
        Some(query) => pass.rows(query)?,
        // The instance itself is the one row.
        None => Arc::new(Answer {
            rows: Rows {
                columns: Vec::new(),
                rows: vec![Vec::new()],
            },
            version: 0,
        }),
    };
    // What is left to others has its live value in the item, and what is due has its time; neither is one of the rows.
    let follows = rule.modifiers.ignore.is_empty() && rule.schedule.is_none();
    if follows && let Some(items) = pass.recall.borrow().items(&rule.name, answer.version) {
        return Ok(items);
    }
    let items = Arc::new(of_rows(pass, rule, &answer.rows)?);
    if follows {
        let mut recall = pass.recall.borrow_mut();
        recall.keep_items(&rule.name, answer.version, &items);
    }
    Ok(items)
}

fn of_rows(pass: &Pass<'_>, rule: &Rule, rows: &Rows) -> Result<Vec<Item>, Missing> {
    let mut items = Vec::new();
    for row in &rows.rows {
        let context = template::row_context(&pass.cr, &rows.columns, row);
        let context = match &rule.schedule {
            Some(schedule) => due(schedule, pass.now, &context),
            None => context,
        };
        let columns: Vec<(String, Datum)> = rows
            .columns
            .iter()
            .zip(row)
            .map(|(column, datum)| (column.name.clone(), datum.clone()))
            .collect();
        let key = row_key(rule, &columns);
        let within = |reason: String| {
            if rule.query.is_some() {
                format!("row {key}: {reason}")
            } else {
                reason
            }
        };
        let event = match &rule.event {
            Some(event) => Some(told(event, &context).map_err(within)?),
            None => None,
        };
        match &rule.action {
            Action::Apply { documents, own } => {
                for document in documents {
                    items.extend(
                        apply(pass, rule, document, *own, &context, &columns)
                            .map_err(within)?
                            .map(|item| Item {
                                event: event.clone(),
                                ..item
                            }),
                    );
                }
            }
            Action::Helm(template) => {
                let rendered = helm::items(pass, rule, template, &context, &columns)
                    .map_err(|missing| missing.within(within))?;
                items.extend(rendered.into_iter().map(|item| Item {
                    event: event.clone(),
                    ..item
                }));
            }
            Action::Patch(document) => {
                items.extend(
                    patch(pass, rule, document, &context, &columns)
                        .map_err(within)?
                        .map(|item| Item { event, ..item }),
                );
            }
            Action::Alert(template) => {
                items.push(alert(rule, template, key.clone(), columns, &context).map_err(within)?);
            }
            call => {
                let effect = call_effect(pass, call, &context).map_err(within)?;
                let undo = match &rule.undo {
                    Some(undo) => Some(call_effect(pass, undo, &context).map_err(within)?),
                    None => None,
                };
                items.push(Item {
                    undo,
                    ..call_item(rule, key, columns, effect, event)
                });
            }
        }
    }
    Ok(items)
}

/// The row's variables and `due`, the time that the rule acts for.
fn due(schedule: &Schedule, now: Millis, context: &Context) -> Context {
    let at = schedule.before(now).unwrap_or(now);
    minijinja::context! { due => crate::status::timestamp(at), ..context.clone() }
}

/// What a call does for a row.
fn call_effect(pass: &Pass<'_>, action: &Action, context: &Context) -> Result<Effect, String> {
    Ok(match action {
        Action::Redis(template) => Effect::Redis(redis(template, context, template.timeout_ms)?),
        Action::Http(template) => Effect::Http(http(template, context)?),
        Action::Delete { kind, name, uid } => Effect::Delete {
            object: neighbour(pass, kind.clone(), name, context)?,
            uid: match uid {
                Some(uid) => optional_text(uid, context, "uid")?,
                None => None,
            },
        },
        Action::Exec(template) => Effect::Exec(exec(template, context)?),
        Action::Scale {
            kind,
            name,
            replicas,
        } => Effect::Scale {
            object: neighbour(pass, kind.clone(), name, context)?,
            replicas: {
                let text = text(replicas, context, "replicas")?;
                text.parse()
                    .map_err(|_| format!("`{text}` is not a number of replicas"))?
            },
        },
        Action::Restart { kind, name } => Effect::Restart {
            object: neighbour(pass, kind.clone(), name, context)?,
        },
        Action::Evict { name, uid } => Effect::Evict {
            pod: neighbour(pass, Gvk::new("", "v1", "Pod"), name, context)?,
            uid: match uid {
                Some(uid) => optional_text(uid, context, "uid")?,
                None => None,
            },
        },
        Action::Event(template) => {
            let PendingEvent {
                kind,
                reason,
                message,
            } = told(template, context)?;
            Effect::Event {
                kind,
                reason,
                message,
            }
        }
        Action::Apply { .. } | Action::Patch(_) | Action::Helm(_) | Action::Alert(_) => {
            return Err("this is no call".to_owned());
        }
    })
}

/// An alert begins with an event. What it says may change while it goes on: that is neither another alert nor another event.
fn alert(
    rule: &Rule,
    template: &AlertTemplate,
    key: String,
    columns: Vec<(String, Datum)>,
    context: &Context,
) -> Result<Item, String> {
    let severity = text(&template.severity, context, "severity")?;
    let summary = text(&template.summary, context, "summary")?;
    let description = match &template.description {
        Some(tree) => optional_text(tree, context, "description")?,
        None => None,
    };
    let mut labels = Vec::new();
    for (name, tree) in &template.labels {
        if let Some(value) = optional_text(tree, context, name)? {
            labels.push((name.clone(), value));
        }
    }
    let begins = Effect::Event {
        kind: EventKind::Warning,
        reason: "Alert".to_owned(),
        message: format!("{}: {summary}", rule.name),
    };
    Ok(Item {
        fingerprint: digest(key.as_bytes()),
        alert: Some(Alert {
            rule: rule.name.clone(),
            key: key.clone(),
            severity,
            summary,
            description,
            labels,
            since: 0,
        }),
        ..call_item(rule, key, columns, begins, None)
    })
}

/// An object of the instance's namespace.
fn neighbour(
    pass: &Pass<'_>,
    gvk: Gvk,
    name: &Tree,
    context: &Context,
) -> Result<ObjectRef, String> {
    Ok(ObjectRef {
        gvk,
        namespace: pass.snapshot.instance.namespace.clone(),
        name: text(name, context, "name")?,
    })
}

fn told(event: &EventTemplate, context: &Context) -> Result<PendingEvent, String> {
    let kind = match text(&event.kind, context, "event type")?.as_str() {
        "Normal" => EventKind::Normal,
        "Warning" => EventKind::Warning,
        other => return Err(format!("event type is `{other}`: Normal or Warning")),
    };
    Ok(PendingEvent {
        kind,
        reason: text(&event.reason, context, "event reason")?,
        message: text(&event.message, context, "event message")?,
    })
}

fn call_item(
    rule: &Rule,
    key: String,
    columns: Vec<(String, Datum)>,
    effect: Effect,
    event: Option<PendingEvent>,
) -> Item {
    let fingerprint = if columns.is_empty() {
        let effect = serde_json::to_value(&effect).expect("effects are plain data");
        digest(canonical_json(&effect).as_bytes())
    } else {
        let said: Map<String, Value> = columns
            .iter()
            .filter(|(name, _)| rule.modifiers.on.is_empty() || rule.modifiers.on.contains(name))
            .map(|(name, datum)| (name.clone(), datum.to_json()))
            .collect();
        digest(canonical_json(&Value::Object(said)).as_bytes())
    };
    Item {
        key,
        fingerprint,
        effect,
        columns,
        event,
        object: None,
        undo: None,
        own: false,
        orphan: false,
        wave: 0,
        alert: None,
    }
}

/// Identity of a row: `key:`, else column `key`, else `name`, else all columns; the instance's only row is `instance`.
fn row_key(rule: &Rule, columns: &[(String, Datum)]) -> String {
    if columns.is_empty() {
        return "instance".to_owned();
    }
    let value = |name: &str| {
        columns
            .iter()
            .find(|(column, _)| column == name)
            .map(|(_, datum)| datum.display())
    };
    if !rule.modifiers.key.is_empty() {
        return rule
            .modifiers
            .key
            .iter()
            .map(|name| value(name).unwrap_or_default())
            .collect::<Vec<_>>()
            .join("/");
    }
    value("key").or_else(|| value("name")).unwrap_or_else(|| {
        columns
            .iter()
            .map(|(_, datum)| datum.display())
            .collect::<Vec<_>>()
            .join("/")
    })
}

fn apply(
    pass: &Pass<'_>,
    rule: &Rule,
    document: &Document,
    own: bool,
    context: &Context,
    columns: &[(String, Datum)],
) -> Result<Option<Item>, String> {
    let Some((object, reference)) = rendered(pass, document, own, context)? else {
        return Ok(None);
    };
    dressed(pass, rule, object, reference, own, &document.place, columns).map(Some)
}

/// A manifest with what marks it as the instance's.
fn dressed(
    pass: &Pass<'_>,
    rule: &Rule,
    mut object: Value,
    reference: ObjectRef,
    own: bool,
    place: &str,
    columns: &[(String, Datum)],
) -> Result<Item, String> {
    let instance = &pass.snapshot.instance;
    pass.controls.lay_over(&mut object);
    made_in_place(&object).map_err(|problem| format!("{place}: {problem}"))?;
    let metadata = object["metadata"]
        .as_object_mut()
        .expect("`placed` checked that metadata is a map");
    let labels = metadata
        .entry("labels")
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or_else(|| format!("{place}: metadata.labels is not a map"))?;
    labels.insert(INSTANCE_LABEL.to_owned(), json!(instance.uid));
    labels.insert(PACKAGE_LABEL.to_owned(), json!(instance.package));
    if own {
        metadata.insert(
            "ownerReferences".to_owned(),
            json!([{
                "apiVersion": instance.gvk.api_version(),
                "kind": instance.gvk.kind,
                "name": instance.name,
                "uid": instance.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }]),
        );
    }
    let fingerprint = fingerprint(pass, rule, &mut object, &reference);
    Ok(Item {
        key: object_id(&reference),
        fingerprint,
        effect: Effect::Apply {
            object,
            adopt: rule.modifiers.adopt,
        },
        columns: columns.to_vec(),
        event: None,
        object: Some(reference),
        undo: None,
        own,
        orphan: rule.modifiers.orphan,
        wave: 0,
        alert: None,
    })
}

fn patch(
    pass: &Pass<'_>,
    rule: &Rule,
    document: &Document,
    context: &Context,
    columns: &[(String, Datum)],
) -> Result<Option<Item>, String> {
    let Some((mut object, reference)) = rendered(pass, document, true, context)? else {
        return Ok(None);
    };
    let fingerprint = fingerprint(pass, rule, &mut object, &reference);
    Ok(Some(Item {
        key: object_id(&reference),
        fingerprint,
        effect: Effect::Patch {
            object,
            force: rule.modifiers.force,
        },
        columns: columns.to_vec(),
        event: None,
        object: Some(reference),
        undo: None,
        own: false,
        orphan: rule.modifiers.orphan,
        wave: 0,
        alert: None,
    }))
}

/// Digest of the object without what is left to others; those fields get their live values, so that applying again for
/// another reason changes nothing about them.
fn fingerprint(pass: &Pass<'_>, rule: &Rule, object: &mut Value, reference: &ObjectRef) -> String {
    let mut ours = object.clone();
    for path in &rule.ignore {
        if !(pass.controls.stopped && starts_or_stops(pass, object, path, &Value::Null)) {
            path.remove(&mut ours);
        }
    }
    if let Some(live) = pass.snapshot.object(reference) {
        for path in &rule.ignore {
            match live.ignored.get(&path.to_string()) {
                Some(value) if starts_or_stops(pass, object, path, value) => {}
                Some(value) => {
                    path.set(object, value.clone());
                }
                None => {
                    path.remove(object);
                }
            }
        }
    }
    digest(canonical_json(&ours).as_bytes())
}

/// A made value is kept in the Secret that it stands in; anywhere else it would be another one each time.
fn made_in_place(object: &Value) -> Result<(), &'static str> {
    fn made(value: &Value) -> bool {
        match value {
            Value::String(text) => pieces(text)
                .iter()
                .any(|piece| matches!(piece, Piece::Handle(SecretHandle::Made { .. }))),
            Value::Array(items) => items.iter().any(made),
            Value::Object(map) => map.values().any(made),
            _ => false,
        }
    }
    let secret = object["apiVersion"] == "v1" && object["kind"] == "Secret";
    let elsewhere = object
        .as_object()
        .into_iter()
        .flatten()
        .any(|(key, value)| {
            if secret && key == "stringData" {
                value.as_object().into_iter().flatten().any(|(_, value)| {
                    made(value) && value.as_str().and_then(SecretHandle::made).is_none()
                })
            } else {
                made(value)
            }
        });
    if elsewhere {
        return Err(
            "random() is for whole values of a Secret's stringData; elsewhere refer to it by secret(name, key)",
        );
    }
    Ok(())
}

/// Replicas that are left to somebody else (an autoscaler) are set all the same while the instance is stopped, and given back when
/// there are none: who scales lets alone what has no replicas.
fn starts_or_stops(pass: &Pass<'_>, object: &Value, path: &ColumnPath, live: &Value) -> bool {
    path.to_string() == "spec.replicas"
        && controls::has_replicas(object)
        && (pass.controls.stopped || *live == json!(0))
}

/// The manifest with its namespace, and its name; `None` when `$when` says no.
fn rendered(
    pass: &Pass<'_>,
    document: &Document,
    namespaced: bool,
    context: &Context,
) -> Result<Option<(Value, ObjectRef)>, String> {
    if let Some(when) = &document.when {
        match when.render(context)? {
            Some(value) if truthy(&value) => {}
            _ => return Ok(None),
        }
    }
    let place = &document.place;
    let object = document
        .tree
        .render(context)?
        .ok_or_else(|| format!("{place}: the whole object is omit; use $when"))?;
    placed(pass, object, namespaced, place).map(Some)
}

/// The manifest in the instance's namespace, unless it says another, and its name.
fn placed(
    pass: &Pass<'_>,
    mut object: Value,
    namespaced: bool,
    place: &str,
) -> Result<(Value, ObjectRef), String> {
    let home = &pass.snapshot.instance.namespace;
    let title = format!(
        "{} {}",
        object["kind"].as_str().unwrap_or("the object"),
        object["metadata"]["name"].as_str().unwrap_or_default()
    );
    let metadata = object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| format!("{place}: metadata is not a map"))?;
    match metadata.get("namespace").map(Value::as_str) {
        None => {
            metadata.insert("namespace".to_owned(), json!(home));
        }
        // An empty namespace says that the Kind has none.
        Some(Some("")) if !namespaced => {
            metadata.remove("namespace");
        }
        Some(Some(namespace)) if !namespaced || namespace == home => {}
        Some(_) => {
            return Err(format!(
                "{place}: {title} is in another namespace than the instance ({home}): objects elsewhere need `own: false`"
            ));
        }
    }
    match metadata.get("name").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => {}
        _ => return Err(format!("{place}: metadata.name is not a text")),
    }
    let reference =
        reference(&object).ok_or_else(|| format!("{place}: apiVersion or kind is missing"))?;
    Ok((object, reference))
}

fn optional_text(tree: &Tree, context: &Context, what: &str) -> Result<Option<String>, String> {
    match tree.render(context)? {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match scalar_text(&value) {
            Some(text) => Ok(Some(text)),
            None => Err(format!("{what} must be a scalar, it is {value}")),
        },
    }
}

fn text(tree: &Tree, context: &Context, what: &str) -> Result<String, String> {
    optional_text(tree, context, what)?
        .ok_or_else(|| format!("{what} is NULL: filter such rows out in `for`"))
}

fn port(tree: &Tree, context: &Context) -> Result<u16, String> {
    let port = text(tree, context, "port")?;
    port.parse()
        .map_err(|_| format!("`{port}` is not a port: a number from 1 to 65535"))
}

fn redis(
    template: &RedisTemplate,
    context: &Context,
    timeout_ms: u64,
) -> Result<RedisCall, String> {
    let optional = |tree: &Option<Tree>, what: &str| match tree {
        Some(tree) => {
            optional_text(tree, context, what).map(|text| text.filter(|text| !text.is_empty()))
        }
        None => Ok(None),
    };
    let mut commands = Vec::new();
    for command in &template.commands {
        if let Some(when) = &command.when {
            match when.render(context)? {
                Some(value) if truthy(&value) => {}
                _ => continue,
            }
        }
        let rendered = command.arguments.render(context)?;
        let Some(Value::Array(words)) = rendered else {
            return Err(format!("{}: a command must be a list", command.place));
        };
        let mut arguments = Vec::with_capacity(words.len());
        for word in &words {
            arguments.push(scalar_text(word).ok_or_else(|| {
                format!(
                    "{}: a word of the command is {word}, not a scalar",
                    command.place
                )
            })?);
        }
        if arguments.is_empty() {
            return Err(format!("{}: the command is empty", command.place));
        }
        let mut expect = Vec::with_capacity(command.expect.len());
        for word in &command.expect {
            let rendered = word.render(context)?.as_ref().and_then(scalar_text);
            expect.push(
                rendered.ok_or_else(|| {
                    format!("{}: a word of `expect` is not a scalar", command.place)
                })?,
            );
        }
        commands.push(RedisCommand {
            name: command.name.clone(),
            arguments,
            ignore_errors: command.ignore.clone(),
            expect,
        });
    }
    Ok(RedisCall {
        host: text(&template.host, context, "host")?,
        port: match &template.port {
            Some(tree) => port(tree, context)?,
            None => 6379,
        },
        username: optional(&template.username, "username")?,
        password: optional(&template.password, "password")?,
        timeout_ms,
        commands,
    })
}

fn exec(template: &ExecTemplate, context: &Context) -> Result<ExecCall, String> {
    let place = &template.place;
    let Some(Value::Array(words)) = template.command.render(context)? else {
        return Err(format!("{place}: a command must be a list"));
    };
    let mut command = Vec::with_capacity(words.len());
    for word in &words {
        command
            .push(scalar_text(word).ok_or_else(|| {
                format!("{place}: a word of the command is {word}, not a scalar")
            })?);
    }
    if command.is_empty() {
        return Err(format!("{place}: the command is empty"));
    }
    let optional = |tree: &Option<Tree>, what: &str| match tree {
        Some(tree) => optional_text(tree, context, what),
        None => Ok(None),
    };
    Ok(ExecCall {
        pod: text(&template.pod, context, "pod")?,
        container: optional(&template.container, "container")?.filter(|name| !name.is_empty()),
        command,
        stdin: optional(&template.stdin, "stdin")?,
        ok: template.ok.clone(),
        timeout_ms: template.timeout_ms,
    })
}

fn prometheus(template: &PrometheusTemplate, context: &Context) -> Result<Probe, String> {
    let mut page = http(&template.page, context)?;
    let read = match &template.query {
        None => Series::Scrape {
            only: template.only.clone(),
        },
        Some(query) => {
            let query = text(query, context, "query")?;
            let query =
                percent_encoding::utf8_percent_encode(&query, percent_encoding::NON_ALPHANUMERIC);
            page.url = format!(
                "{}/api/v1/query?query={query}",
                page.url.trim_end_matches('/')
            );
            Series::Query
        }
    };
    Ok(Probe::Prometheus { page, read })
}

fn http(template: &HttpTemplate, context: &Context) -> Result<HttpCall, String> {
    let mut headers = Vec::new();
    for (name, value) in &template.headers {
        if let Some(value) = optional_text(value, context, name)? {
            headers.push((name.clone(), value));
        }
    }
    let body = match &template.body {
        None => None,
        Some(BodyTemplate::Text(tree)) => optional_text(tree, context, "body")?.map(HttpBody::Text),
        Some(BodyTemplate::Json(tree)) => tree.render(context)?.map(HttpBody::Json),
    };
    Ok(HttpCall {
        method: template.method.clone(),
        url: text(&template.url, context, "url")?,
        headers,
        body,
        ok: template.ok.clone(),
        timeout_ms: template.timeout_ms,
    })
}

/// Targets of one probe table.
pub(crate) fn probe_targets(
    pass: &Pass<'_>,
    spec: &ProbeSpec,
) -> Result<Arc<Vec<ProbeTarget>>, String> {
    let answer = pass.rows(&spec.query)?;
    if let Some(targets) = pass.recall.borrow().targets(&spec.table, answer.version) {
        return Ok(targets);
    }
    let targets = Arc::new(targets_of(pass, spec, &answer.rows)?);
    let mut recall = pass.recall.borrow_mut();
    recall.keep_targets(&spec.table, answer.version, &targets);
    Ok(targets)
}

fn targets_of(pass: &Pass<'_>, spec: &ProbeSpec, rows: &Rows) -> Result<Vec<ProbeTarget>, String> {
    let key_at = rows
        .columns
        .iter()
        .position(|column: &ResultColumn| column.name == "key")
        .ok_or_else(|| "the query has no column `key`".to_owned())?;
    let mut keys = BTreeSet::new();
    let mut targets = Vec::new();
    for row in &rows.rows {
        let key = row[key_at].display();
        if row[key_at].is_null() {
            return Err("a target's key is NULL: filter such rows out in `for`".to_owned());
        }
        if !keys.insert(key.clone()) {
            return Err(format!("two targets have the key `{key}`"));
        }
        let context = template::row_context(&pass.cr, &rows.columns, row);
        let within = |reason: String| format!("target {key}: {reason}");
        let probe = match &spec.ask {
            Ask::Redis(template) => {
                Probe::Redis(redis(template, &context, spec.timeout_ms).map_err(within)?)
            }
            Ask::Tcp {
                host,
                port: port_tree,
            } => Probe::Tcp {
                host: text(host, &context, "host").map_err(within)?,
                port: port(port_tree, &context).map_err(within)?,
                timeout_ms: spec.timeout_ms,
            },
            Ask::Http(template) => Probe::Http(http(template, &context).map_err(within)?),
            Ask::Exec(template) => Probe::Exec(exec(template, &context).map_err(within)?),
            Ask::Dns { name } => Probe::Dns {
                name: text(name, &context, "name").map_err(within)?,
                timeout_ms: spec.timeout_ms,
            },
            Ask::Prometheus(template) => prometheus(template, &context).map_err(within)?,
        };
        targets.push(ProbeTarget {
            table: spec.table.clone(),
            key,
            probe,
            every_ms: spec.every_ms,
            timeout_ms: spec.timeout_ms,
        });
    }
    Ok(targets)
}
