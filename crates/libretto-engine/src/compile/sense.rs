//! `sense:` — the tables a package sees.

use std::collections::{BTreeMap, BTreeSet};

use libretto_api::package::{PROBES, PROBES_NOT_YET, RESERVED_TABLES};
use libretto_mirror::{Column, PROBE_COLUMNS, ProbeTable, Reach, WATCH_COLUMNS, WatchTable};

use super::{
    Ask, BodyTemplate, Check, CommandTemplate, HttpTemplate, ProbeSpec, RedisTemplate, Scope,
    crd::column_type, exec, prometheus, suggestion,
};
use crate::{
    template::{Names, is_template},
    yaml::{Data, Node},
};

#[derive(Default)]
pub(super) struct Sensed {
    pub(super) watches: Vec<WatchTable>,
    pub(super) probes: Vec<ProbeTable>,
    /// Names of tables with mistakes.
    pub(super) broken: BTreeSet<String>,
}

/// Probes and calls wait this long unless told otherwise: an answer from the same cluster takes milliseconds.
const TIMEOUT_MS: i64 = 2_000;
/// Methods of a request.
pub(super) const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/// How often a probe asks unless told otherwise.
const EVERY_MS: i64 = 5_000;

/// First half: names and columns of every table.
pub(super) fn tables(check: &mut Check<'_>, spec: &Node) -> Sensed {
    let mut sensed = Sensed::default();
    let Some(node) = spec.get("sense") else {
        return sensed;
    };
    for (key, table) in node.entries() {
        let before = check.diagnostics.len();
        let place = format!("sense.{}", key.text);
        if !check.identifier(&key.text, key.at, "table") {
            continue;
        }
        if RESERVED_TABLES.contains(&key.text.as_str()) {
            check.wrong(
                key.at,
                format!("`{}` is a table the runtime makes", key.text),
            );
            continue;
        }
        let sources: Vec<&str> = ["watch", "probe", "values"]
            .into_iter()
            .filter(|source| table.get(source).is_some())
            .collect();
        if let [first, second, ..] = sources.as_slice() {
            check.wrong(
                key.at,
                format!("{place} has both `{first}` and `{second}`: a table has one source"),
            );
            sensed.broken.insert(key.text.clone());
            continue;
        }
        match (table.get("watch"), table.get("probe")) {
            (Some(watch), _) => {
                check.only(table, &place, &["watch", "where", "reach", "cols"]);
                let gvk = check
                    .text(watch, &format!("{place}.watch"))
                    .and_then(|text| check.gvk(&text, watch.at));
                let labels = selector(check, table, &place);
                let reach = reach(check, table, &place);
                let columns = columns(
                    check,
                    table,
                    &place,
                    WATCH_COLUMNS.iter().map(|(name, _)| *name),
                );
                if let Some(gvk) = gvk {
                    sensed.watches.push(WatchTable {
                        name: key.text.clone(),
                        gvk,
                        reach,
                        labels,
                        columns,
                    });
                }
            }
            (None, Some(probe)) => {
                check.only(
                    table,
                    &place,
                    &["probe", "for", "every", "timeout", "with", "cols", "misses"],
                );
                kind(check, probe, &place);
                let mut columns = columns(
                    check,
                    table,
                    &place,
                    PROBE_COLUMNS.iter().map(|(name, _)| *name),
                );
                if let Some(name) = only_command(table) {
                    unwrap_paths(check, table, &place, name, &mut columns);
                }
                let misses = match table.get("misses").map(|node| (node, &node.data)) {
                    None => 3,
                    Some((_, Data::Int(int @ 1..=100))) => u32::try_from(*int).unwrap_or(3),
                    Some((node, _)) => {
                        check.wrong(
                            node.at,
                            format!("{place}.misses must be a number from 1 to 100"),
                        );
                        3
                    }
                };
                sensed.probes.push(ProbeTable {
                    name: key.text.clone(),
                    misses,
                    columns,
                });
            }
            // Made with the views.
            (None, None) if table.get("values").is_some() => {
                check.only(table, &place, &["values"]);
            }
            (None, None) => {
                check.only(table, &place, &["watch", "probe", "values"]);
                check.wrong_hint(
                    key.at,
                    format!("{place} has no source"),
                    "give it `watch: <apiVersion>/<Kind>`, `probe: redis` or `values: [...]`",
                );
            }
        }
        if check.diagnostics.len() > before {
            sensed.broken.insert(key.text.clone());
        }
    }
    sensed
}

/// Name of the one command under `commands`. The answer to a single command is the bare reply, so the name that leads the
/// columns' paths is taken off.
fn only_command(table: &Node) -> Option<&str> {
    let commands = table.get("with")?.get("commands")?;
    match &commands.data {
        Data::List(items) if items.len() == 1 => Some("0"),
        Data::Map(entries) => match entries.as_slice() {
            [(key, _)] => Some(&key.text),
            _ => None,
        },
        _ => None,
    }
}

fn unwrap_paths(
    check: &mut Check<'_>,
    table: &Node,
    place: &str,
    name: &str,
    columns: &mut [Column],
) {
    for column in columns {
        match column.path.strip(name) {
            Some(path) => column.path = path,
            None => {
                let at = table
                    .get("cols")
                    .and_then(|cols| cols.get(&column.name))
                    .map_or(table.at, |node| node.at);
                check.wrong_hint(
                    at,
                    format!(
                        "{place}.cols.{}: `{}` does not begin with the command's name",
                        column.name, column.path
                    ),
                    format!("write {name}.{}", column.path),
                );
            }
        }
    }
}

fn kind(check: &mut Check<'_>, probe: &Node, place: &str) -> Option<String> {
    let text = check.text(probe, &format!("{place}.probe"))?;
    if PROBES.contains(&text.as_str()) {
        return Some(text);
    }
    let known: Vec<String> = PROBES.iter().map(|name| (*name).to_owned()).collect();
    if PROBES_NOT_YET.contains(&text.as_str()) {
        check.wrong_hint(
            probe.at,
            format!("{place}: probe `{text}` is not supported by this version of libretto"),
            format!("probes are: {}", known.join(", ")),
        );
    } else {
        let hint = suggestion(&text, &known)
            .unwrap_or_else(|| format!("probes are: {}", known.join(", ")));
        check.wrong_hint(
            probe.at,
            format!("{place}: there is no probe `{text}`"),
            hint,
        );
    }
    None
}

fn selector(check: &mut Check<'_>, table: &Node, place: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let Some(node) = table.get("where") else {
        return labels;
    };
    check.only(node, &format!("{place}.where"), &["labels"]);
    for (key, value) in node.get("labels").map(Node::entries).unwrap_or_default() {
        if let Some(text) = check.text(value, &format!("{place}.where.labels.{}", key.text)) {
            if is_template(&text) {
                check.wrong_hint(
                    value.at,
                    format!("{place}.where is the same for every instance: no templates here"),
                    "select a label all objects have, and filter further in SQL",
                );
            }
            labels.insert(key.text.clone(), text);
        }
    }
    labels
}

fn reach(check: &mut Check<'_>, table: &Node, place: &str) -> Reach {
    let Some(node) = table.get("reach") else {
        return Reach::Own;
    };
    match node.text() {
        Some("own") => Reach::Own,
        Some("namespace") => Reach::Namespace,
        Some("all") => {
            check.wrong_hint(
                node.at,
                format!("{place}: `reach: all` is not supported by this version of libretto"),
                "own or namespace",
            );
            Reach::Own
        }
        _ => {
            check.wrong_hint(
                node.at,
                format!("{place}.reach is not known"),
                "own or namespace",
            );
            Reach::Own
        }
    }
}

fn columns<'a>(
    check: &mut Check<'_>,
    table: &Node,
    place: &str,
    fixed: impl Iterator<Item = &'a str>,
) -> Vec<Column> {
    let fixed: BTreeSet<&str> = fixed.collect();
    let mut columns = Vec::new();
    for (key, node) in table.get("cols").map(Node::entries).unwrap_or_default() {
        let place = format!("{place}.cols.{}", key.text);
        if !check.identifier(&key.text, key.at, "column") {
            continue;
        }
        if fixed.contains(key.text.as_str()) {
            check.wrong(key.at, format!("{place}: this column is always there"));
            continue;
        }
        let mut only = Vec::new();
        let (text, at, kind) = if let Some(text) = node.text() {
            (
                Some(text.to_owned()),
                node.at,
                libretto_mirror::ColumnType::String,
            )
        } else {
            check.only(node, &place, &["path", "type", "only"]);
            let at = node.get("path").map_or(node.at, |path| path.at);
            let kind = column_type(check, node, &place);
            if let Some(names) = node.get("only") {
                only = members(check, names, &place, kind);
            }
            (check.required_text(node, &place, "path"), at, kind)
        };
        if let Some(path) = text.and_then(|text| check.path(&text, at)) {
            columns.push(Column {
                name: key.text.clone(),
                path,
                kind,
                only,
            });
        }
    }
    columns
}

/// `only:` of a column.
fn members(
    check: &mut Check<'_>,
    node: &Node,
    place: &str,
    kind: libretto_mirror::ColumnType,
) -> Vec<String> {
    if kind != libretto_mirror::ColumnType::Json {
        check.wrong(
            node.at,
            format!("{place}: `only` is for columns of type json"),
        );
    }
    let names = match &node.data {
        Data::List(items) => items.iter().map(Node::text).collect(),
        _ => None,
    };
    let names: Vec<&str> = names.unwrap_or_default();
    if names.is_empty() {
        check.wrong_hint(
            node.at,
            format!("{place}: `only` is a list of members to keep"),
            "such as [ip, flags]",
        );
    }
    names.into_iter().map(str::to_owned).collect()
}

/// Second half, when views are known: what probes ask.
pub(super) fn probes(check: &mut Check<'_>, scope: &mut Scope, spec: &Node) -> Vec<ProbeSpec> {
    let mut probes = Vec::new();
    for (key, table) in spec.get("sense").map(Node::entries).unwrap_or_default() {
        let Some(probe) = table.get("probe") else {
            continue;
        };
        // Its own mistakes come first.
        if scope.broken.contains(&key.text) && table.get("watch").is_some() {
            continue;
        }
        let place = format!("sense.{}", key.text);
        let every_ms = match table.get("every") {
            // Ten times a second is what a failover drill needs; faster is a load test.
            Some(node) => check
                .duration(node, &format!("{place}.every"), 100)
                .unwrap_or(EVERY_MS),
            None => EVERY_MS,
        };
        let timeout_ms = match table.get("timeout") {
            Some(node) => check
                .duration(node, &format!("{place}.timeout"), 1)
                .unwrap_or(TIMEOUT_MS),
            None => TIMEOUT_MS,
        };
        let Some(query_node) = table.get("for") else {
            check.wrong_hint(
                key.at,
                format!("{place} needs `for`"),
                "a SELECT of the targets, with a column `key`",
            );
            continue;
        };
        let query = check.query(scope, query_node, &format!("{place}.for"));
        let Some(query) = query else { continue };
        if !query.columns.iter().any(|column| column.name == "key") {
            check.wrong_hint(
                query_node.at,
                format!("{place}.for must select a column `key`"),
                "such as `uid AS key`: it says which target a row belongs to",
            );
        }
        let names = scope.names_for(Some(&query));
        let Some(with) = table.get("with") else {
            check.wrong(key.at, format!("{place} needs `with`"));
            continue;
        };
        let with_place = format!("{place}.with");
        let ask = match probe.text() {
            Some("redis") => {
                let template = redis(check, with, &with_place, &names, Some(timeout_ms));
                if template.as_ref().is_some_and(|template| {
                    template
                        .commands
                        .iter()
                        .any(|command| command.when.is_some())
                }) {
                    check.wrong_hint(
                        with.at,
                        format!("{with_place}: `when` has no meaning in a probe"),
                        "select fewer targets in `for`",
                    );
                }
                template.map(Ask::Redis)
            }
            Some("tcp") => {
                check.only(with, &with_place, &["host", "port"]);
                match (
                    required(check, with, &with_place, "host", &names),
                    required(check, with, &with_place, "port", &names),
                ) {
                    (Some(host), Some(port)) => Some(Ask::Tcp { host, port }),
                    _ => None,
                }
            }
            Some("http") => http(check, with, &with_place, &names, Some(timeout_ms)).map(Ask::Http),
            Some("exec") => {
                exec::exec(check, with, &with_place, &names, Some(timeout_ms)).map(Ask::Exec)
            }
            Some("dns") => {
                check.only(with, &with_place, &["name"]);
                required(check, with, &with_place, "name", &names).map(|name| Ask::Dns { name })
            }
            Some("prometheus") => {
                prometheus::prometheus(check, with, &with_place, &names, timeout_ms)
                    .map(Ask::Prometheus)
            }
            // Complained about with the table's columns.
            _ => None,
        };
        if let Some(ask) = ask {
            probes.push(ProbeSpec {
                table: key.text.clone(),
                query,
                every_ms: u64::try_from(every_ms).unwrap_or(5_000),
                timeout_ms: u64::try_from(timeout_ms).unwrap_or(2_000),
                ask,
            });
        }
    }
    probes
}

pub(super) fn required(
    check: &mut Check<'_>,
    node: &Node,
    place: &str,
    key: &str,
    names: &Names,
) -> Option<crate::template::Tree> {
    match node.get(key) {
        Some(value) => Some(check.tree(value, names)),
        None => {
            check.wrong(node.at, format!("{place} needs `{key}`"));
            None
        }
    }
}

/// `with:` of an HTTP call or probe (whose timeout stands beside `every`).
pub(super) fn http(
    check: &mut Check<'_>,
    with: &Node,
    place: &str,
    names: &Names,
    probe_timeout_ms: Option<i64>,
) -> Option<HttpTemplate> {
    let mut keywords = vec!["method", "url", "headers", "json", "body"];
    if probe_timeout_ms.is_none() {
        keywords.extend(["ok", "timeout"]);
    }
    check.only(with, place, &keywords);
    let body = match (with.get("json"), with.get("body")) {
        (Some(_), Some(body)) => {
            check.wrong(
                body.at,
                format!("{place} has both `json` and `body`: a request has one"),
            );
            None
        }
        (Some(json), None) => Some(BodyTemplate::Json(check.tree(json, names))),
        (None, Some(body)) => Some(BodyTemplate::Text(check.tree(body, names))),
        (None, None) => None,
    };
    let method = match with.get("method") {
        Some(node) => check.text(node, &format!("{place}.method"))?,
        None if body.is_some() => "POST".to_owned(),
        None => "GET".to_owned(),
    };
    if !METHODS.contains(&method.as_str()) {
        let at = with.get("method").map_or(with.at, |node| node.at);
        check.wrong_hint(
            at,
            format!("{place}: there is no method `{method}`"),
            format!("methods are: {}", METHODS.join(", ")),
        );
    }
    let mut headers = Vec::new();
    for (key, value) in with.get("headers").map(Node::entries).unwrap_or_default() {
        let fine = !key.text.is_empty()
            && key
                .text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !fine {
            check.wrong(
                key.at,
                format!("{place}: `{}` cannot be the name of a header", key.text),
            );
        }
        headers.push((key.text.clone(), check.tree(value, names)));
    }
    let mut ok = Vec::new();
    if let Some(node) = with.get("ok") {
        let codes: Option<Vec<u16>> = match &node.data {
            Data::List(items) => items
                .iter()
                .map(|item| match item.data {
                    Data::Int(code @ 100..=599) => u16::try_from(code).ok(),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        match codes {
            Some(codes) if !codes.is_empty() => ok = codes,
            _ => check.wrong_hint(
                node.at,
                format!("{place}.ok must be a list of status codes"),
                "such as [200, 404]; without it 200 to 299 are fine",
            ),
        }
    }
    let timeout_ms = match with.get("timeout") {
        Some(node) if probe_timeout_ms.is_none() => check
            .duration(node, &format!("{place}.timeout"), 1)
            .unwrap_or(TIMEOUT_MS),
        _ => probe_timeout_ms.unwrap_or(TIMEOUT_MS),
    };
    Some(HttpTemplate {
        method,
        url: required(check, with, place, "url", names)?,
        headers,
        body,
        ok,
        timeout_ms: u64::try_from(timeout_ms).unwrap_or(2_000),
    })
}

/// `with:` of a Redis probe (whose timeout stands beside `every`) or call.
pub(super) fn redis(
    check: &mut Check<'_>,
    with: &Node,
    place: &str,
    names: &Names,
    probe_timeout_ms: Option<i64>,
) -> Option<RedisTemplate> {
    check.only(
        with,
        place,
        &[
            "host", "port", "username", "password", "timeout", "command", "commands",
        ],
    );
    let timeout_ms = match (with.get("timeout"), probe_timeout_ms) {
        (Some(node), Some(known)) => {
            check.wrong_hint(
                node.at,
                format!("{place}: a probe's timeout is not one of its `with`"),
                "write `timeout` beside `every`",
            );
            known
        }
        (Some(node), None) => check
            .duration(node, &format!("{place}.timeout"), 1)
            .unwrap_or(TIMEOUT_MS),
        (None, known) => known.unwrap_or(TIMEOUT_MS),
    };
    let host = required(check, with, place, "host", names);
    let mut optional = |key: &str| with.get(key).map(|node| check.tree(node, names));
    let (port, username, password) = (optional("port"), optional("username"), optional("password"));
    let mut commands = Vec::new();
    match (with.get("command"), with.get("commands")) {
        (Some(node), None) => commands.extend(command(check, node, place, names, "reply")),
        (None, Some(node)) => match &node.data {
            Data::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    commands.extend(command(check, item, place, names, &index.to_string()));
                }
            }
            Data::Map(entries) => {
                for (key, item) in entries {
                    commands.extend(command(check, item, place, names, &key.text));
                }
            }
            _ => check.wrong(
                node.at,
                format!("{place}.commands must be a list, or a map of named commands"),
            ),
        },
        (Some(node), Some(_)) => check.wrong(
            node.at,
            format!("{place} has both `command` and `commands`"),
        ),
        (None, None) => check.wrong(with.at, format!("{place} needs `command` or `commands`")),
    }
    Some(RedisTemplate {
        host: host?,
        port,
        username,
        password,
        timeout_ms: u64::try_from(timeout_ms).unwrap_or(2_000),
        commands,
    })
}

fn command(
    check: &mut Check<'_>,
    node: &Node,
    place: &str,
    names: &Names,
    name: &str,
) -> Option<CommandTemplate> {
    let (arguments, when, ignore, expect) = match &node.data {
        Data::Map(_) => {
            check.only(
                node,
                &format!("{place}.commands"),
                &["command", "when", "ignore", "expect"],
            );
            let Some(arguments) = node.get("command") else {
                check.wrong(node.at, format!("{place}.commands needs `command`"));
                return None;
            };
            let ignore = match node.get("ignore") {
                Some(ignore) => check
                    .texts(ignore, &format!("{place}.ignore"))
                    .into_iter()
                    .map(|(text, _)| text)
                    .collect(),
                None => Vec::new(),
            };
            let expect: Vec<&Node> = match node.get("expect") {
                Some(expect) => match &expect.data {
                    Data::List(items) if !items.is_empty() => items.iter().collect(),
                    _ => {
                        check.wrong_hint(
                            expect.at,
                            format!("{place}.expect is a list of the words a reply begins with, this is {}", expect.what()),
                            "[master]",
                        );
                        Vec::new()
                    }
                },
                None => Vec::new(),
            };
            (arguments, node.get("when"), ignore, expect)
        }
        _ => (node, None, Vec::new(), Vec::new()),
    };
    let shape = match &arguments.data {
        Data::List(items) => !items.is_empty(),
        Data::Text(text) => is_template(text),
        _ => false,
    };
    if !shape {
        check.wrong_hint(
            arguments.at,
            format!(
                "{place}: a command is a list of words, this is {}",
                arguments.what()
            ),
            "[INFO, replication]",
        );
        return None;
    }
    Some(CommandTemplate {
        name: name.to_owned(),
        when: when.map(|when| check.tree(when, names)),
        arguments: check.tree(arguments, names),
        ignore,
        expect: expect
            .into_iter()
            .map(|word| check.tree(word, names))
            .collect(),
        place: format!("package.yaml:{}", arguments.at.line),
    })
}
