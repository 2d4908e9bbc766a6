//! Why a rule has the rows it has, or none: what its queries stand on, with rows, and which of it is the first that is empty.
//!
//! Never here: deciding. It looks at the same working set as a plan and changes nothing.

mod sql;

use std::collections::{BTreeMap, BTreeSet};

use libretto_api::{
    intent::{Effect, Millis},
    object::Gvk,
    package::Modifiers,
};
use libretto_mirror::{Limits, Rows, Snapshot, Table};
use serde_json::Value;

use crate::{
    Compiled, Engine,
    compile::{Ask, Query},
    engine::Pass,
    items,
};

/// What can be asked about, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Rule,
    Status,
    Metric,
    View,
    Probe,
}

/// A rule, view or probe with everything it stands on.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    pub name: String,
    pub subject: Subject,
    /// None for a rule without `for`: the instance itself is its one row.
    pub queries: Vec<Reason>,
    /// Tables and views the queries stand on, the nearest first.
    pub relations: Vec<Relation>,
}

/// One query of the subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// The keyword it stands at: `for`, `fields`, `conditions.Healthy`.
    pub keyword: String,
    pub sql: String,
    pub reads: Vec<String>,
    pub rows: Result<Table, String>,
    /// When there are no rows: from the query down to what is to blame.
    pub empty: Vec<Empty>,
}

/// A table or view.
#[derive(Debug, Clone, PartialEq)]
pub struct Relation {
    pub name: String,
    pub source: Source,
    pub reads: Vec<String>,
    pub rows: Result<Table, String>,
}

/// Where a relation's rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `cr`, `clock` and `objects`.
    BuiltIn,
    Watch(Gvk),
    /// The probe's kind.
    Probe(&'static str),
    /// The view's query.
    View(String),
}

/// A query or relation without rows, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Empty {
    /// `None` for the subject's own query.
    pub relation: Option<String>,
    /// What it reads, with numbers of rows.
    pub inputs: Vec<(String, usize)>,
    pub cause: Cause,
}

/// Why there is no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A table: nothing of the kind is there.
    NoRows,
    /// It needs a row of this one, which has none.
    Input(String),
    /// How many rows FROM gives, and how many each further condition leaves, up to the one that leaves none.
    Conditions {
        from: usize,
        left: Vec<(String, usize)>,
    },
    /// The query is of a form that is not taken apart.
    Untold,
}

impl Compiled {
    /// What stands beside a rule's verb; `None` for `status` and `metric`, which have none.
    pub fn modifiers(&self, rule: &str) -> Option<&Modifiers> {
        let mut rules = self.rules.iter();
        rules
            .find(|known| known.name == rule)
            .map(|rule| &rule.modifiers)
    }

    /// The rule acts while its instance is being deleted, and only then.
    pub fn at_deletion(&self, rule: &str) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|known| known.name == rule && known.at_deletion)
    }

    /// Everything that [`Engine::explain`] knows by name.
    pub fn subjects(&self) -> Vec<(String, Subject)> {
        let of = |names: Vec<&String>, subject| -> Vec<(String, Subject)> {
            names
                .into_iter()
                .map(|name| (name.clone(), subject))
                .collect()
        };
        let mut subjects = of(
            self.rules.iter().map(|rule| &rule.name).collect(),
            Subject::Rule,
        );
        subjects.extend(of(
            self.status.iter().map(|rule| &rule.name).collect(),
            Subject::Status,
        ));
        subjects.extend(of(
            self.metrics.iter().map(|metric| &metric.name).collect(),
            Subject::Metric,
        ));
        subjects.extend(of(
            self.views.iter().map(|view| &view.name).collect(),
            Subject::View,
        ));
        subjects.extend(of(
            self.probes.iter().map(|probe| &probe.table).collect(),
            Subject::Probe,
        ));
        subjects
    }

    /// Queries of a subject by the keyword they stand at; `None` when there is no such subject.
    fn queries(&self, name: &str) -> Option<(Subject, Vec<(String, &Query)>)> {
        let one = |keyword: &str, query| vec![(keyword.to_owned(), query)];
        if let Some(rule) = self.rules.iter().find(|rule| rule.name == name) {
            let query = rule.query.as_ref();
            return Some((
                Subject::Rule,
                query.map_or_else(Vec::new, |query| one("for", query)),
            ));
        }
        if let Some(rule) = self.status.as_ref().filter(|rule| rule.name == name) {
            let mut queries = Vec::new();
            queries.extend(rule.ready.iter().flat_map(|query| one("ready", query)));
            queries.extend(rule.fields.iter().flat_map(|query| one("fields", query)));
            for (condition, query) in &rule.conditions {
                queries.push((format!("conditions.{condition}"), query));
            }
            return Some((Subject::Status, queries));
        }
        if let Some(metric) = self.metrics.iter().find(|metric| metric.name == name) {
            return Some((Subject::Metric, one("value", &metric.query)));
        }
        if let Some(view) = self.views.iter().find(|view| view.name == name) {
            return Some((Subject::View, one("decide", &view.query)));
        }
        let probe = self.probes.iter().find(|probe| probe.table == name)?;
        Some((Subject::Probe, one("for", &probe.query)))
    }

    fn source(&self, relation: &str) -> Source {
        if let Some(view) = self.views.iter().find(|view| view.name == relation) {
            return Source::View(view.query.sql.clone());
        }
        if let Some(watch) = self.schema.watches.iter().find(|w| w.name == relation) {
            return Source::Watch(watch.gvk.clone());
        }
        match self.probes.iter().find(|probe| probe.table == relation) {
            Some(probe) => Source::Probe(match probe.ask {
                Ask::Redis(_) => "redis",
                Ask::Tcp { .. } => "tcp",
                Ask::Http(_) => "http",
                Ask::Exec(_) => "exec",
                Ask::Dns { .. } => "dns",
                Ask::Prometheus(_) => "prometheus",
            }),
            None => Source::BuiltIn,
        }
    }

    fn reads(&self, relation: &str) -> &BTreeSet<String> {
        static NONE: BTreeSet<String> = BTreeSet::new();
        if let Some(view) = self.views.iter().find(|view| view.name == relation) {
            return &view.query.reads;
        }
        let mut probes = self.probes.iter();
        probes
            .find(|probe| probe.table == relation)
            .map_or(&NONE, |probe| &probe.query.reads)
    }
}

impl Engine {
    /// What a rule, view, probe, metric or the status stands on; `None` when the package has none of that name.
    pub fn explain(&self, snapshot: &Snapshot, now: Millis, name: &str) -> Option<Explanation> {
        let package = self.package();
        let (subject, queries) = package.queries(name)?;
        let pass = self.pass(snapshot, now, &BTreeMap::new());
        let mut names: Vec<String> = Vec::new();
        let mut next: Vec<&BTreeSet<String>> = queries.iter().map(|(_, q)| &q.reads).collect();
        while !next.is_empty() {
            let mut found = Vec::new();
            for name in next.into_iter().flatten() {
                // Functions such as `json_each` are read like tables.
                if !names.contains(name) && pass.sheet.columns_of(name).is_some() {
                    names.push(name.clone());
                    found.push(package.reads(name));
                }
            }
            next = found;
        }
        let relations: Vec<Relation> = names
            .into_iter()
            .map(|name| Relation {
                source: package.source(&name),
                reads: known(&pass, package.reads(&name)),
                rows: rows_of(&pass, &name),
                name,
            })
            .collect();
        let queries = queries
            .into_iter()
            .map(|(keyword, query)| {
                let rows = pass.rows(query).map(|answer| table(&answer.rows));
                let none = rows.as_ref().is_ok_and(|rows| rows.rows.is_empty());
                Reason {
                    keyword,
                    sql: query.sql.clone(),
                    reads: known(&pass, &query.reads),
                    empty: if none {
                        why_empty(&pass, query, &relations)
                    } else {
                        Vec::new()
                    },
                    rows,
                }
            })
            .collect();
        Some(Explanation {
            name: name.to_owned(),
            subject,
            queries,
            relations,
        })
    }
}

/// Of the names that a query reads, those of tables and views.
fn known(pass: &Pass<'_>, reads: &BTreeSet<String>) -> Vec<String> {
    let known = reads
        .iter()
        .filter(|name| pass.sheet.columns_of(name).is_some());
    known.cloned().collect()
}

impl Engine {
    /// Every object that rules want, whatever they wait for; and rules whose rows are not known.
    pub fn wanted(&self, snapshot: &Snapshot, now: Millis) -> (Vec<Value>, Vec<String>) {
        let pass = self.pass(snapshot, now, &BTreeMap::new());
        let blind = self.blind(&pass);
        let (mut objects, mut unknown) = (Vec::new(), Vec::new());
        for rule in items::of_rules(&pass, &blind) {
            if rule.unknown() {
                unknown.push(rule.rule.name.clone());
            }
            for item in rule.items.iter() {
                if let Effect::Apply { object, .. } = &item.effect {
                    objects.push(object.clone());
                }
            }
        }
        (objects, unknown)
    }
}

fn table(rows: &Rows) -> Table {
    Table {
        columns: rows.columns.iter().map(|c| c.name.clone()).collect(),
        rows: rows.rows.iter().map(|row| row.as_slice().into()).collect(),
    }
}

fn rows_of(pass: &Pass<'_>, relation: &str) -> Result<Table, String> {
    if let Some(reason) = pass.failed.get(relation) {
        return Err(reason.clone());
    }
    // Names of tables and views are words (`Check::identifier`), and quoted nevertheless: a keyword of SQL is a word too.
    let rows = pass
        .sheet
        .rows(&format!("SELECT * FROM \"{relation}\""), Limits::PACKAGE);
    rows.map(|rows| table(&rows))
        .map_err(|error| error.to_string())
}

/// From the query down to the first that is empty for a reason of its own.
fn why_empty(pass: &Pass<'_>, query: &Query, relations: &[Relation]) -> Vec<Empty> {
    let count = |name: &str| {
        relations
            .iter()
            .find(|relation| relation.name.eq_ignore_ascii_case(name))
            .and_then(|relation| Some(relation.rows.as_ref().ok()?.rows.len()))
    };
    let mut steps = Vec::new();
    let (mut query, mut relation) = (query, None);
    // Views come in an order without cycles, so that this ends.
    loop {
        let inputs = query
            .reads
            .iter()
            .filter_map(|name| Some((name.clone(), count(name)?)))
            .collect();
        let shape = sql::shape(&query.sql);
        let missing = shape.as_ref().and_then(|shape| {
            let mut needed = shape.needed.iter();
            needed.find(|name| count(name) == Some(0)).cloned()
        });
        let cause = match (&missing, &shape) {
            (Some(name), _) => Cause::Input(name.clone()),
            (None, Some(shape)) => conditions(pass, shape).unwrap_or(Cause::Untold),
            (None, None) => Cause::Untold,
        };
        steps.push(Empty {
            relation: relation.take(),
            inputs,
            cause,
        });
        let Some(name) = missing else {
            return steps;
        };
        let mut views = pass.package.views.iter();
        match views.find(|view| view.name.eq_ignore_ascii_case(&name)) {
            Some(view) => {
                query = &view.query;
                relation = Some(view.name.clone());
            }
            None => {
                let inputs = pass.package.reads(&name);
                steps.push(Empty {
                    inputs: inputs
                        .iter()
                        .filter_map(|name| Some((name.clone(), count(name)?)))
                        .collect(),
                    relation: Some(name),
                    cause: Cause::NoRows,
                });
                return steps;
            }
        }
    }
}

/// Counts rows under one condition more each time; `None` when the query cannot be cut so (a name of its columns in WHERE, say).
fn conditions(pass: &Pass<'_>, shape: &sql::Shape<'_>) -> Option<Cause> {
    let sql::Shape {
        with,
        from,
        conditions,
        ..
    } = shape;
    let count = |conditions: &[&str]| {
        // Each part may end with a comment.
        let mut sql = format!("{with}\nSELECT count(*) FROM {from}\n");
        for (place, condition) in conditions.iter().enumerate() {
            let word = if place == 0 { "WHERE" } else { "AND" };
            sql.push_str(&format!(" {word} ({condition}\n)"));
        }
        let rows = pass.sheet.rows(&sql, Limits::PACKAGE).ok()?;
        usize::try_from(rows.rows.first()?.first()?.as_int()?).ok()
    };
    let joined = count(&[])?;
    let mut left = Vec::new();
    for end in 1..=conditions.len() {
        if joined == 0 {
            break;
        }
        let rows = count(&conditions[..end])?;
        left.push((one_line(conditions[end - 1]), rows));
        if rows == 0 {
            break;
        }
    }
    Some(Cause::Conditions { from: joined, left })
}

/// SQL in one line, for a sentence.
fn one_line(sql: &str) -> String {
    sql.lines()
        .map(|line| line.split("--").next().unwrap_or_default())
        .flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ")
}
