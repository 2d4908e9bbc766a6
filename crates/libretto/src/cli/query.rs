//! `libretto query`: a question to the cluster in SQL.
//!
//! Builds a mirror from the live cluster, with the packages' tables and tables of the common kinds, and asks it. Reads only what the
//! question names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use libretto_actions::kube::CallError;
use libretto_api::object::Gvk;
use libretto_engine::Compiled;
use libretto_mirror::{
    Column, ColumnType, Datum, INSTANCE_COLUMNS, InstanceSchema, Limits, Mirror, OBJECT_COLUMNS,
    PackageSchema, Reach, ScopeMode, Table, WATCH_COLUMNS, WatchTable,
};
use serde_json::{Map, Value};

use crate::{
    cli::{
        CliError,
        connect::{Cluster, ClusterArgs, NamespaceArgs},
        installed,
        look::list,
        print::{Document, Printer, headings, table},
    },
    packages,
};

/// Name under which the common kinds' tables are kept.
const COMMON: &str = "k8s";

const EXAMPLES: &str = "\
Examples:
  libretto query \"SELECT name, phase, node FROM pods WHERE NOT ready\"
  libretto query \"SELECT component, count(*) AS pods FROM redis__pods GROUP BY component\"
  libretto query \"SELECT name, size FROM redis__cr\"    # instances of package redis
  libretto query --tables                              # which tables and columns there are

The SQL is SQLite's, read-only, bounded in steps and rows. Common kinds are tables of their own
name; a package's tables are <package>__<table>.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct QueryArgs {
    /// One SELECT statement
    #[arg(required_unless_present = "tables")]
    pub sql: Option<String>,

    /// List the tables and their columns instead
    #[arg(long, conflicts_with = "sql")]
    pub tables: bool,

    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// Another form than a table
    #[arg(short, long, value_enum)]
    pub output: Option<QueryOutput>,

    /// Package whose tables to offer: a bundled name or a folder; repeatable (default: those installed in the cluster, and all bundled ones)
    #[arg(long = "package", value_name = "NAME|DIR")]
    pub packages: Vec<String>,

    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueryOutput {
    /// An array of objects
    Json,
    /// Tab-separated values with a heading
    Tsv,
}

pub(crate) async fn query(args: QueryArgs, out: &mut Printer) -> Result<(), CliError> {
    let sql = args.sql.as_deref().map(one_select).transpose()?;
    let cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await;
    let loaded = match &cluster {
        Ok(cluster) => installed::load(&args.packages, cluster).await,
        // Which tables there are is known without one, as far as packages of this machine go.
        Err(_) => {
            packages::load(&args.packages).map_err(|error| CliError::failed(error.to_string()))
        }
    };
    let schemas = schemas(&loaded?);
    let Some(sql) = sql else {
        return tables(&schemas, out);
    };
    let cluster = cluster?;
    if let Some(table) = probe_table(&schemas, sql) {
        return Err(CliError::failed(format!(
            "table {table} holds answers of probes, which only a running engine has; this command asks the API server"
        ))
        .hint("the instance's status and `libretto describe` show what came of them"));
    }
    let namespace = (!args.all_namespaces).then(|| cluster.namespace.clone());
    let mirror = fill(&cluster, namespace.as_deref(), &schemas, sql).await?;
    let answer = mirror
        .query(&with_common_tables(sql), Limits::QUERY)
        .map_err(|error| {
            CliError::failed(error.to_string())
                .hint("`libretto query --tables` lists tables and columns")
        })?;
    match args.output {
        None if answer.rows.is_empty() => out.line("No rows."),
        None => {
            let columns: Vec<String> = answer
                .columns
                .iter()
                .map(|name| name.to_uppercase())
                .collect();
            out.text(&table(&columns, &cells(&answer)))
        }
        Some(QueryOutput::Json) => out.document(&objects(&answer), Document::Json),
        Some(QueryOutput::Tsv) => {
            out.line(&answer.columns.join("\t"))?;
            for row in cells(&answer) {
                out.line(&row.join("\t"))?;
            }
            Ok(())
        }
    }
}

fn schemas(loaded: &[Arc<Compiled>]) -> Vec<PackageSchema> {
    let mut schemas: Vec<PackageSchema> = loaded
        .iter()
        .map(|package| package.schema().clone())
        .collect();
    schemas.push(common());
    schemas
}

/// A mirror with the rows of every kind that the question may concern.
async fn fill(
    cluster: &Cluster,
    namespace: Option<&str>,
    schemas: &[PackageSchema],
    sql: &str,
) -> Result<Mirror, CliError> {
    let broken = |error: libretto_mirror::MirrorError| CliError::failed(format!("mirror: {error}"));
    let mut mirror = Mirror::new(ScopeMode::Any);
    for schema in schemas {
        mirror.declare(schema.clone());
    }
    for gvk in needed(schemas, sql) {
        let (objects, namespaced) = match list(cluster, &gvk, namespace, "").await {
            Ok(listed) => listed,
            // A package's kind that is not installed is an empty table.
            Err(CallError::NotServed(_)) => continue,
            Err(error) => return Err(CliError::call(&format!("list {}", gvk.kind), &error)),
        };
        let scope = namespace.filter(|_| namespaced);
        mirror.replace_all(&gvk, scope, &objects).map_err(broken)?;
    }
    Ok(mirror)
}

/// The statement, without what surrounds it. The mirror refuses writes by itself, in SQLite's words; this says it in ours, and
/// before anything is listed.
fn one_select(sql: &str) -> Result<&str, CliError> {
    let refused = |found: &str| {
        CliError::usage(format!(
            "one SELECT statement only: {found}; `libretto query --help` has examples"
        ))
    };
    let tokens = tokens(sql);
    let end = tokens
        .iter()
        .position(|token| token.text == ";")
        .unwrap_or(tokens.len());
    if let Some(more) = tokens[end..].iter().find(|token| token.text != ";") {
        return Err(refused(&format!(
            "{:?} begins another one after the semicolon",
            more.text
        )));
    }
    let (Some(first), Some(last)) = (tokens[..end].first(), tokens[..end].last()) else {
        return Err(refused("there is none"));
    };
    let is = |token: &Token<'_>, words: &[&str]| {
        words
            .iter()
            .any(|word| token.text.eq_ignore_ascii_case(word))
    };
    let verb = if is(first, &["with"]) {
        // Behind the common table expressions, which stand in parentheses.
        tokens[1..end].iter().find(|token| {
            token.depth == 0
                && is(
                    token,
                    &["select", "values", "insert", "replace", "update", "delete"],
                )
        })
    } else {
        Some(first)
    };
    match verb {
        Some(verb) if is(verb, &["select", "values"]) => {
            Ok(&sql[first.at..last.at + last.text.len()])
        }
        Some(verb) => Err(refused(&format!("this is {}", verb.text.to_uppercase()))),
        None => Err(refused("nothing follows WITH")),
    }
}

/// A word, a quoted text or a sign of SQL.
struct Token<'a> {
    text: &'a str,
    at: usize,
    /// Parentheses around it.
    depth: usize,
}

/// As much of SQL's grammar as is needed to tell statements apart: words, quotes, comments and parentheses.
fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(letter) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let through = |end: &str, from: usize| {
            rest[from..]
                .find(end)
                .map_or(rest.len(), |found| from + found + end.len())
        };
        let word = |letter: char| letter.is_alphanumeric() || letter == '_';
        let comment = rest.starts_with("--") || rest.starts_with("/*");
        let length = match letter {
            '-' if comment => through("\n", 2),
            '/' if comment => through("*/", 2),
            // A doubled quote ends one text and begins the next, which comes to the same here.
            '\'' | '"' | '`' => through(letter.encode_utf8(&mut [0; 4]), 1),
            '[' => through("]", 1),
            _ if word(letter) => rest.find(|letter| !word(letter)).unwrap_or(rest.len()),
            _ => letter.len_utf8(),
        };
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if !comment && !letter.is_whitespace() {
            let text = &rest[..length];
            tokens.push(Token { text, at, depth });
        }
        at += length;
    }
    tokens
}

/// A table of probe answers that occurs in the text: it would be empty here, which is not the truth.
fn probe_table(schemas: &[PackageSchema], sql: &str) -> Option<String> {
    let words = words(sql);
    schemas
        .iter()
        .flat_map(|schema| {
            let prefix = schema.package.replace('-', "_").to_lowercase();
            schema
                .probes
                .iter()
                .map(move |probe| format!("{prefix}__{}", probe.name))
        })
        .find(|table| words.contains(&table.to_lowercase()))
}

fn words(sql: &str) -> BTreeSet<String> {
    sql.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .map(str::to_lowercase)
        .collect()
}

/// Kinds of the tables that occur in the text, with everything that links them to their owners. Naming one too many costs a list;
/// one too few would be a wrong answer.
fn needed(schemas: &[PackageSchema], sql: &str) -> BTreeSet<Gvk> {
    let words = words(sql);
    let mut kinds = BTreeSet::new();
    for schema in schemas {
        let prefix = schema.package.replace('-', "_").to_lowercase();
        if schema.package == COMMON {
            for watch in &schema.watches {
                if words.contains(&watch.name)
                    || words.contains(&format!("{prefix}__{}", watch.name))
                {
                    kinds.insert(watch.gvk.clone());
                }
            }
            // Owner chains: a pod's owner is known through its set.
            continue;
        }
        if words
            .iter()
            .any(|word| word.starts_with(&format!("{prefix}__")))
        {
            kinds.insert(schema.instance.gvk.clone());
            kinds.extend(schema.watches.iter().map(|watch| watch.gvk.clone()));
            kinds.extend(schema.objects.iter().map(|object| object.gvk.clone()));
            kinds.extend(schema.lineage.iter().cloned());
        }
    }
    kinds
}

/// Lets the common tables be called by their own name: each becomes a common table expression before the statement.
fn with_common_tables(sql: &str) -> String {
    let names = common().watches;
    let definitions: Vec<String> = names
        .iter()
        .map(|watch| {
            format!(
                "{name} AS (SELECT * FROM {COMMON}__{name})",
                name = watch.name
            )
        })
        .collect();
    let definitions = definitions.join(", ");
    let trimmed = sql.trim_start();
    match strip_word(trimmed, "with") {
        None => format!("WITH {definitions} {sql}"),
        // The user's own come after ours, so that a name of theirs may use, and may not hide, one of ours.
        Some(rest) => match strip_word(rest, "recursive") {
            None => format!("WITH {definitions}, {rest}"),
            Some(rest) => format!("WITH RECURSIVE {definitions}, {rest}"),
        },
    }
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let text = text.trim_start();
    let (head, rest) = text.split_at_checked(word.len())?;
    let ends = rest.chars().next().is_some_and(char::is_whitespace);
    (head.eq_ignore_ascii_case(word) && ends).then(|| rest.trim_start())
}

fn cells(answer: &Table) -> Vec<Vec<String>> {
    answer
        .rows
        .iter()
        .map(|row| {
            row.iter()
                .map(|datum| datum.display().replace(['\n', '\t'], " "))
                .collect()
        })
        .collect()
}

fn objects(answer: &Table) -> Value {
    let rows = answer
        .rows
        .iter()
        .map(|row| {
            let fields: Map<String, Value> = answer
                .columns
                .iter()
                .cloned()
                .zip(row.iter().map(Datum::to_json))
                .collect();
            Value::Object(fields)
        })
        .collect();
    Value::Array(rows)
}

fn tables(schemas: &[PackageSchema], out: &mut Printer) -> Result<(), CliError> {
    let mut rows = Vec::new();
    for schema in schemas {
        let prefix = schema.package.replace('-', "_");
        let declared = |columns: &[Column]| -> Vec<String> {
            columns.iter().map(|column| column.name.clone()).collect()
        };
        let built_in = |columns: &[(&str, ColumnType)]| -> Vec<String> {
            columns.iter().map(|(name, _)| (*name).to_owned()).collect()
        };
        let common = schema.package == COMMON;
        if !common {
            let mut columns = built_in(INSTANCE_COLUMNS);
            columns.extend(
                schema
                    .instance
                    .fields
                    .iter()
                    .map(|field| field.name.clone()),
            );
            rows.push((
                format!("{prefix}__cr"),
                schema.instance.gvk.to_string(),
                columns,
            ));
            rows.push((
                format!("{prefix}__objects"),
                "what the package applied".to_owned(),
                built_in(OBJECT_COLUMNS),
            ));
        }
        for watch in &schema.watches {
            let mut columns = built_in(WATCH_COLUMNS);
            columns.extend(declared(&watch.columns));
            let name = if common {
                watch.name.clone()
            } else {
                format!("{prefix}__{}", watch.name)
            };
            rows.push((name, watch.gvk.to_string(), columns));
        }
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, of, columns)| vec![name, of, columns.join(", ")])
        .collect();
    out.text(&table(&headings(&["TABLE", "OF", "COLUMNS"]), &rows))
}

/// Tables of the kinds that everybody has.
fn common() -> PackageSchema {
    let watches = COMMON_TABLES
        .iter()
        .map(|(name, (group, version, kind), columns)| WatchTable {
            name: (*name).to_owned(),
            gvk: Gvk::new(group, version, kind),
            reach: Reach::Namespace,
            labels: BTreeMap::new(),
            columns: columns
                .iter()
                .map(|(name, path, kind)| Column {
                    name: (*name).to_owned(),
                    path: path
                        .parse()
                        .expect("the constant paths are well formed; a test reads them all"),
                    kind: *kind,
                    only: Vec::new(),
                })
                .collect(),
        })
        .collect();
    PackageSchema {
        package: COMMON.to_owned(),
        // A package must have a kind of its own; namespaces serve, nobody decides anything here.
        instance: InstanceSchema {
            gvk: Gvk::new("", "v1", "Namespace"),
            fields: Vec::new(),
            scope: None,
            unmanaged: Vec::new(),
        },
        watches,
        probes: Vec::new(),
        objects: Vec::new(),
        lineage: Vec::new(),
    }
}

type CommonTable = (
    &'static str,
    (&'static str, &'static str, &'static str),
    &'static [(&'static str, &'static str, ColumnType)],
);

const COMMON_TABLES: &[CommonTable] = &[
    (
        "pods",
        ("", "v1", "Pod"),
        &[
            ("phase", "status.phase", ColumnType::String),
            (
                "ready",
                "status.conditions[type=Ready].status",
                ColumnType::Bool,
            ),
            ("ip", "status.podIP", ColumnType::String),
            ("node", "spec.nodeName", ColumnType::String),
            (
                "restarts",
                "status.containerStatuses[0].restartCount",
                ColumnType::Int,
            ),
            ("image", "spec.containers[0].image", ColumnType::String),
            ("reason", "status.reason", ColumnType::String),
        ],
    ),
    (
        "statefulsets",
        ("apps", "v1", "StatefulSet"),
        &[
            ("replicas", "spec.replicas", ColumnType::Int),
            ("ready", "status.readyReplicas", ColumnType::Int),
            ("service", "spec.serviceName", ColumnType::String),
            ("revision", "status.updateRevision", ColumnType::String),
        ],
    ),
    (
        "deployments",
        ("apps", "v1", "Deployment"),
        &[
            ("replicas", "spec.replicas", ColumnType::Int),
            ("ready", "status.readyReplicas", ColumnType::Int),
        ],
    ),
    (
        "services",
        ("", "v1", "Service"),
        &[
            ("type", "spec.type", ColumnType::String),
            ("cluster_ip", "spec.clusterIP", ColumnType::String),
            ("ports", "spec.ports", ColumnType::Json),
        ],
    ),
    (
        "configmaps",
        ("", "v1", "ConfigMap"),
        &[("data", "data", ColumnType::Json)],
    ),
    (
        "nodes",
        ("", "v1", "Node"),
        &[
            (
                "ready",
                "status.conditions[type=Ready].status",
                ColumnType::Bool,
            ),
            (
                "version",
                "status.nodeInfo.kubeletVersion",
                ColumnType::String,
            ),
        ],
    ),
    (
        "namespaces",
        ("", "v1", "Namespace"),
        &[("phase", "status.phase", ColumnType::String)],
    ),
    (
        "events",
        ("events.k8s.io", "v1", "Event"),
        &[
            ("type", "type", ColumnType::String),
            ("reason", "reason", ColumnType::String),
            ("note", "note", ColumnType::String),
            ("kind", "regarding.kind", ColumnType::String),
            ("object", "regarding.name", ColumnType::String),
            ("at", "eventTime", ColumnType::Time),
        ],
    ),
    (
        "persistentvolumeclaims",
        ("", "v1", "PersistentVolumeClaim"),
        &[
            ("phase", "status.phase", ColumnType::String),
            ("volume", "spec.volumeName", ColumnType::String),
        ],
    ),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_common_table_is_well_formed() {
        assert_eq!(common().watches.len(), COMMON_TABLES.len());
    }

    #[test]
    fn only_kinds_that_the_question_names_are_listed() {
        let kinds = needed(&[common()], "SELECT count(*) FROM Pods p, k8s__services");
        let kinds: Vec<&str> = kinds.iter().map(|gvk| gvk.kind.as_str()).collect();
        assert_eq!(kinds, ["Pod", "Service"]);
    }

    #[test]
    fn one_select_statement_only() {
        for (sql, statement) in [
            ("SELECT 1", "SELECT 1"),
            (" select ';' ; -- done", "select ';'"),
            ("/* why */ SELECT a--b\n;;", "SELECT a"),
            (
                "WITH x AS (SELECT 1), \"delete\" AS (VALUES (2)) SELECT * FROM x",
                "WITH x AS (SELECT 1), \"delete\" AS (VALUES (2)) SELECT * FROM x",
            ),
            (
                "SELECT replace(name, 'it''s; x', '') FROM pods",
                "SELECT replace(name, 'it''s; x', '') FROM pods",
            ),
            ("VALUES (1)", "VALUES (1)"),
        ] {
            assert_eq!(one_select(sql).unwrap(), statement, "{sql}");
        }
        for (sql, because) in [
            ("DELETE FROM pods", "this is DELETE"),
            ("SELECT 1; DROP TABLE x", "\"DROP\" begins another one"),
            (
                "WITH x AS (SELECT 1) DELETE FROM pods WHERE name IN x",
                "this is DELETE",
            ),
            ("PRAGMA table_info(pods)", "this is PRAGMA"),
            ("WITH x AS (SELECT 1)", "nothing follows WITH"),
            (" ; ", "there is none"),
            ("", "there is none"),
        ] {
            let error = one_select(sql).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let message = error.to_string();
            assert!(
                message.starts_with("one SELECT statement only: ") && message.contains(because),
                "{sql}: {message}"
            );
        }
    }

    #[test]
    fn answers_of_probes_are_not_pretended() {
        let mut schema = common();
        schema.package = "my-redis".to_owned();
        schema.probes = vec![libretto_mirror::ProbeTable {
            name: "info".to_owned(),
            misses: 3,
            columns: Vec::new(),
        }];
        let asked = probe_table(&[schema], "SELECT * FROM My_Redis__Info");
        assert_eq!(asked.as_deref(), Some("my_redis__info"));
    }

    #[test]
    fn the_users_own_tables_come_after_the_common_ones() {
        let plain = with_common_tables("SELECT 1");
        assert!(
            plain.starts_with("WITH pods AS (SELECT * FROM k8s__pods), "),
            "{plain}"
        );
        assert!(plain.ends_with(") SELECT 1"), "{plain}");
        let own = with_common_tables(" with x AS (SELECT 1) SELECT * FROM x");
        assert!(own.ends_with("), x AS (SELECT 1) SELECT * FROM x"), "{own}");
        let recursive = with_common_tables("WITH RECURSIVE x AS (SELECT 1) SELECT 2");
        assert!(
            recursive.starts_with("WITH RECURSIVE pods AS "),
            "{recursive}"
        );
        assert!(with_common_tables("SELECT within FROM x").ends_with("SELECT within FROM x"));
    }
}
