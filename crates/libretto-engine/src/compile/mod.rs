//! From files to a checked package. Everything that can be found wrong is found here, all of it at once.

mod alert;
mod crd;
mod decide;
mod exec;
pub(crate) mod execute;
mod fits;
mod helm;
mod kind;
mod kubernetes;
pub(crate) mod mistakes;
mod prometheus;
pub(crate) mod schema;
mod sense;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use libretto_api::{
    chart::Chart,
    object::Gvk,
    package::{API_VERSION, KIND, Modifiers, NOT_YET, PACKAGE_FILE},
};
use libretto_mirror::{
    Asked, ColumnPath, ColumnType, Described, Field, INSTANCE_COLUMNS, ObjectKind, PackageSchema,
    ResultColumn, Sheet, SqlError,
};
use serde_json::Value;

use crate::{
    Diagnostic,
    folder::{Files, read_dir, whole_file},
    schedule::Schedule,
    template::{Compiler, Names, Tree, UsedFields, suggestion},
    yaml::{self, At, Data, Node},
};

/// A package without mistakes, ready to be evaluated.
#[derive(Debug)]
pub struct Compiled {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: String,
    pub(crate) crd: Value,
    /// Schema of `status` in the CRD, for the types of its fields.
    pub(crate) status_schema: Value,
    pub(crate) schema: PackageSchema,
    /// Types of the columns of `cr`.
    pub(crate) cr_kinds: BTreeMap<String, ColumnType>,
    /// Columns of `cr` that templates use.
    pub(crate) used: UsedFields,
    /// In an order in which each comes after what it reads.
    pub(crate) views: Vec<View>,
    pub(crate) probes: Vec<ProbeSpec>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) status: Option<StatusRule>,
    pub(crate) metrics: Vec<MetricRule>,
    metric_specs: Vec<MetricSpec>,
    /// Shortest period of the clock that anything reads.
    pub(crate) clock: Option<i64>,
    /// Tables each view stands on, through other views.
    bases: BTreeMap<String, BTreeSet<String>>,
    watches: Vec<Watch>,
    written: BTreeSet<Gvk>,
    secrets: bool,
}

/// A Kind to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    pub gvk: Gvk,
    /// Label selector that covers every use of the Kind in the package; empty means all objects. Two packages that watch one
    /// Kind need the labels both have in common; the mirror filters by each table's own labels again.
    pub labels: BTreeMap<String, String>,
    /// A chart could give it, and nothing else of the package is about it: where the Kind is not served, there are none.
    pub optional: bool,
}

/// A metric the package exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricSpec {
    pub name: String,
    pub help: String,
}

/// A checked query.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) sql: String,
    pub(crate) columns: Vec<ResultColumn>,
    /// Tables and views it reads.
    pub(crate) reads: BTreeSet<String>,
    /// Fields of the instance it uses as `:parameters`.
    pub(crate) parameters: Vec<String>,
}

impl Query {
    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked {
            sql: &self.sql,
            reads: &self.reads,
            parameters: &self.parameters,
        }
    }
}

#[derive(Debug)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) query: Query,
}

#[derive(Debug)]
pub(crate) struct ProbeSpec {
    pub(crate) table: String,
    pub(crate) query: Query,
    pub(crate) every_ms: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) ask: Ask,
}

#[derive(Debug)]
pub(crate) enum Ask {
    Redis(RedisTemplate),
    Tcp { host: Tree, port: Tree },
    Http(HttpTemplate),
    Exec(ExecTemplate),
    Dns { name: Tree },
    Prometheus(PrometheusTemplate),
}

#[derive(Debug)]
pub(crate) struct RedisTemplate {
    pub(crate) host: Tree,
    pub(crate) port: Option<Tree>,
    pub(crate) username: Option<Tree>,
    pub(crate) password: Option<Tree>,
    pub(crate) timeout_ms: u64,
    pub(crate) commands: Vec<CommandTemplate>,
}

#[derive(Debug)]
pub(crate) struct HttpTemplate {
    pub(crate) method: String,
    pub(crate) url: Tree,
    pub(crate) headers: Vec<(String, Tree)>,
    pub(crate) body: Option<BodyTemplate>,
    pub(crate) ok: Vec<u16>,
    pub(crate) timeout_ms: u64,
}

#[derive(Debug)]
pub(crate) struct ExecTemplate {
    pub(crate) pod: Tree,
    pub(crate) container: Option<Tree>,
    pub(crate) command: Tree,
    pub(crate) stdin: Option<Tree>,
    pub(crate) ok: Vec<u8>,
    pub(crate) timeout_ms: u64,
    pub(crate) place: String,
}

/// A page to scrape or, with `query`, a server to ask.
#[derive(Debug)]
pub(crate) struct PrometheusTemplate {
    pub(crate) page: HttpTemplate,
    pub(crate) only: Vec<String>,
    pub(crate) query: Option<Tree>,
}

#[derive(Debug)]
pub(crate) enum BodyTemplate {
    Text(Tree),
    Json(Tree),
}

#[derive(Debug)]
pub(crate) struct CommandTemplate {
    pub(crate) name: String,
    pub(crate) when: Option<Tree>,
    pub(crate) arguments: Tree,
    pub(crate) ignore: Vec<String>,
    /// Words the reply must begin with, for the rest to be sent.
    pub(crate) expect: Vec<Tree>,
    pub(crate) place: String,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) verb: String,
    pub(crate) query: Option<Query>,
    pub(crate) modifiers: Modifiers,
    /// Parsed `ignore`.
    pub(crate) ignore: Vec<ColumnPath>,
    pub(crate) event: Option<EventTemplate>,
    pub(crate) action: Action,
    /// The call that takes back what the rule's call did.
    pub(crate) undo: Option<Action>,
    /// Its rows are those of an instance that is being deleted.
    pub(crate) at_deletion: bool,
    /// Whether the objects it applies are ready: rows of `ok` and, where not all are meant, `kind` and `name`.
    pub(crate) ready: Option<Query>,
    /// When its calls are made.
    pub(crate) schedule: Option<Schedule>,
}

#[derive(Debug)]
pub(crate) struct EventTemplate {
    /// `Normal` or `Warning`.
    pub(crate) kind: Tree,
    pub(crate) reason: Tree,
    pub(crate) message: Tree,
}

#[derive(Debug)]
pub(crate) enum Action {
    Apply {
        documents: Vec<Document>,
        own: bool,
    },
    Patch(Document),
    Helm(HelmTemplate),
    Redis(RedisTemplate),
    Http(HttpTemplate),
    Delete {
        kind: Gvk,
        name: Tree,
        uid: Option<Tree>,
    },
    Scale {
        kind: Gvk,
        name: Tree,
        replicas: Tree,
    },
    Restart {
        kind: Gvk,
        name: Tree,
    },
    Evict {
        name: Tree,
        uid: Option<Tree>,
    },
    Exec(ExecTemplate),
    Event(EventTemplate),
    Alert(AlertTemplate),
}

impl Action {
    /// Kinds that the action applies: creates, changes and deletes.
    pub(crate) fn applies(&self) -> Vec<&Gvk> {
        match self {
            Self::Apply { documents, .. } => {
                documents.iter().map(|document| &document.gvk).collect()
            }
            Self::Helm(template) => template.kinds.iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The Kind of which the action changes fields.
    pub(crate) fn patches(&self) -> Option<&Gvk> {
        match self {
            Self::Patch(document) => Some(&document.gvk),
            _ => None,
        }
    }

    /// What it applies has owner references to the instance.
    pub(crate) fn owns(&self) -> bool {
        match self {
            Self::Apply { own, .. } => *own,
            Self::Helm(template) => template.own,
            _ => false,
        }
    }
}

/// What is said of a row that somebody should know of.
#[derive(Debug)]
pub(crate) struct AlertTemplate {
    pub(crate) severity: Tree,
    pub(crate) summary: Tree,
    pub(crate) description: Option<Tree>,
    pub(crate) labels: Vec<(String, Tree)>,
}

/// A chart and what goes into it.
#[derive(Debug)]
pub(crate) struct HelmTemplate {
    pub(crate) chart: Arc<Chart>,
    /// Absent: the instance's name.
    pub(crate) release: Option<Tree>,
    /// Each is laid over the one before.
    pub(crate) values: Vec<Tree>,
    /// Kinds its manifests may have.
    pub(crate) kinds: BTreeSet<Gvk>,
    /// Of these, the ones that the author named.
    pub(crate) named: BTreeSet<Gvk>,
    /// Hooks other than those of the installation are left out.
    pub(crate) hooks_skipped: bool,
    pub(crate) own: bool,
}

/// One manifest.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) gvk: Gvk,
    pub(crate) when: Option<Tree>,
    pub(crate) tree: Tree,
    /// `file:line`, for messages.
    pub(crate) place: String,
}

#[derive(Debug)]
pub(crate) struct StatusRule {
    pub(crate) name: String,
    pub(crate) fields: Option<Query>,
    /// Columns of `fields` whose text is JSON.
    pub(crate) json: BTreeSet<String>,
    pub(crate) conditions: Vec<(String, Query)>,
    pub(crate) newest: bool,
    pub(crate) update_time: bool,
    pub(crate) transition_time: bool,
    pub(crate) runtime: bool,
    /// What the package says about Ready: at most one row of ok, reason, message, stalled.
    pub(crate) ready: Option<Query>,
}

#[derive(Debug)]
pub(crate) struct MetricRule {
    pub(crate) name: String,
    pub(crate) help: String,
    pub(crate) query: Query,
    pub(crate) labels: Vec<String>,
}

impl Compiled {
    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `metadata.version`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `metadata.description`; empty when absent.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The Kind of its instances.
    pub fn gvk(&self) -> &Gvk {
        &self.schema.instance.gvk
    }

    /// For `Mirror::declare`.
    pub fn schema(&self) -> &PackageSchema {
        &self.schema
    }

    /// Every Kind to watch: its instances, sensed Kinds, Kinds it writes, and those between.
    pub fn watches(&self) -> &[Watch] {
        &self.watches
    }

    /// The CustomResourceDefinition to install.
    pub fn crd(&self) -> &Value {
        &self.crd
    }

    /// The instance's declared fields; a sensitive one's path is where an action finds the value of its handle.
    pub fn fields(&self) -> &[Field] {
        &self.schema.instance.fields
    }

    /// The metrics it exports.
    pub fn metrics(&self) -> &[MetricSpec] {
        &self.metric_specs
    }

    /// Kinds its rules write.
    pub fn written(&self) -> &BTreeSet<Gvk> {
        &self.written
    }

    /// Kinds that it applies: created, changed and deleted. Those of [`Compiled::written`] beside them are only patched.
    pub fn applied(&self) -> impl Iterator<Item = &Gvk> {
        self.rules.iter().flat_map(|rule| rule.action.applies())
    }

    /// Values of Secrets may be asked for.
    pub fn reads_secrets(&self) -> bool {
        self.secrets
    }

    /// Some rule renders a chart.
    pub fn has_charts(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| matches!(rule.action, Action::Helm(_)))
    }

    /// What its calls and probes ask of the API server beside writing objects: Kind, subresource with its slash (empty for the
    /// object itself), verbs.
    pub fn requests(&self) -> Vec<(Gvk, &'static str, &'static [&'static str])> {
        let pod = || Gvk::new("", "v1", "Pod");
        // The protocol begins with GET over WebSocket and with POST over SPDY.
        let exec = || (pod(), "/exec", &["create", "get"][..]);
        let probes = self
            .probes
            .iter()
            .filter(|probe| matches!(probe.ask, Ask::Exec(_)))
            .map(|_| exec());
        let calls = self
            .rules
            .iter()
            .flat_map(|rule| std::iter::once(&rule.action).chain(&rule.undo))
            .filter_map(|action| match action {
                Action::Delete { kind, .. } => Some((kind.clone(), "", &["get", "delete"][..])),
                Action::Scale { kind, .. } => Some((kind.clone(), "/scale", &["patch"][..])),
                Action::Restart { kind, .. } => Some((kind.clone(), "", &["patch"][..])),
                Action::Evict { .. } => Some((pod(), "/eviction", &["create"][..])),
                Action::Exec(_) => Some(exec()),
                _ => None,
            });
        probes.chain(calls).collect()
    }

    /// Whether instances get a finalizer: something of them is not removed with them by garbage collection (`own: false`, `undo`),
    /// or is done while they are being deleted (`during: delete`).
    pub fn holds_instances(&self) -> bool {
        self.rules.iter().any(|rule| {
            rule.at_deletion
                || rule.undo.is_some()
                || (!rule.action.applies().is_empty() && !rule.action.owns())
        })
    }

    /// Names of its rules, in order.
    pub fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.name.as_str())
    }

    /// Tables a query stands on, through views.
    pub(crate) fn bases<'a>(&'a self, query: &'a Query) -> impl Iterator<Item = &'a str> {
        query.reads.iter().flat_map(|name| {
            let through = self.bases.get(name);
            through
                .into_iter()
                .flatten()
                .map(String::as_str)
                .chain(through.is_none().then_some(name.as_str()))
        })
    }

    /// A working set for its tables and views. It was made once already while compiling, so it cannot fail for the package's sake.
    pub(crate) fn sheet(&self) -> Sheet {
        let mut sheet = Sheet::new(&self.schema).expect("the same schema made a sheet at load");
        for view in &self.views {
            sheet
                .add_view(&view.name, &view.query.columns)
                .expect("the same view was added at load");
        }
        sheet
    }
}

/// Reads and compiles the package in a folder: `package.yaml` and every other text file below it.
pub fn load_dir(folder: &Path) -> Result<Compiled, Vec<Diagnostic>> {
    load_files(&read_dir(folder)?)
}

/// Compiles a package from its files by path relative to `package.yaml`.
/// A folder in SREWorks' form is converted first.
pub fn load_files(files: &Files) -> Result<Compiled, Vec<Diagnostic>> {
    let Some(classic) = crate::classic_file(files) else {
        return load_modern(files);
    };
    load_modern(&crate::convert(files)?).map_err(|mut diagnostics| {
        for diagnostic in &mut diagnostics {
            if diagnostic.file == PACKAGE_FILE {
                diagnostic.file = format!(
                    "{PACKAGE_FILE} (converted from {classic}; see `libretto package convert`)"
                );
            }
        }
        diagnostics
    })
}

fn load_modern(files: &Files) -> Result<Compiled, Vec<Diagnostic>> {
    let mut check = Check {
        files,
        diagnostics: Vec::new(),
        used: UsedFields::default(),
    };
    let compiled = compile(&mut check);
    let mut diagnostics = check.diagnostics;
    diagnostics.sort();
    diagnostics.dedup();
    match compiled {
        Some(compiled) if diagnostics.is_empty() => Ok(compiled),
        _ => Err(diagnostics),
    }
}

/// Of tables, of views and of rules, each. The largest packages have some dozens; what is evaluated in a pass is bounded only when its
/// parts are.
const PARTS: usize = 1_000;

/// Whether the package has more parts than are looked at.
fn too_many(check: &mut Check<'_>, spec: &Node) -> bool {
    let mut found = false;
    for (part, what) in [
        ("sense", "tables"),
        ("decide", "views"),
        ("execute", "rules"),
    ] {
        let Some(node) = spec.get(part) else {
            continue;
        };
        let count = match &node.data {
            Data::List(items) => items.len(),
            _ => node.entries().len(),
        };
        if count > PARTS {
            check.wrong_hint(
                node.at,
                format!("{part} has {count} {what}; at most {PARTS}"),
                "what differs in values only is rows of one",
            );
            found = true;
        }
    }
    found
}

/// What compiling carries along: the files and what was found wrong.
pub(crate) struct Check<'a> {
    pub(crate) files: &'a BTreeMap<String, String>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// By the templates so far.
    pub(crate) used: UsedFields,
}

impl Check<'_> {
    pub(crate) fn error(
        &mut self,
        file: &str,
        at: At,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.diagnostics.push(Diagnostic {
            file: file.to_owned(),
            line: at.line,
            column: at.column,
            message: message.into(),
            hint,
        });
    }

    /// An error in `package.yaml`.
    pub(crate) fn wrong(&mut self, at: At, message: impl Into<String>) {
        self.error(PACKAGE_FILE, at, message, None);
    }

    /// An error in `package.yaml` that says what to do.
    pub(crate) fn wrong_hint(
        &mut self,
        at: At,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.error(PACKAGE_FILE, at, message, Some(hint.into()));
    }

    /// Complains about every key that is not known here.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn only(&mut self, node: &Node, place: &str, known: &[&str]) {
        #[cfg(test)]
        schema::seen::note(std::panic::Location::caller(), known);
        if !matches!(node.data, Data::Map(_)) {
            self.wrong(
                node.at,
                format!("{place} must be a map, this is {}", node.what()),
            );
            return;
        }
        for (key, _) in node.entries() {
            if known.contains(&key.text.as_str()) {
                continue;
            }
            if NOT_YET.contains(&key.text.as_str()) {
                self.wrong_hint(
                    key.at,
                    format!(
                        "`{}` is not supported by this version of libretto",
                        key.text
                    ),
                    format!("{place} knows: {}", known.join(", ")),
                );
                continue;
            }
            let names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
            let hint = suggestion(&key.text, &names)
                .unwrap_or_else(|| format!("{place} knows: {}", known.join(", ")));
            self.wrong_hint(
                key.at,
                format!("unknown keyword `{}` in {place}", key.text),
                hint,
            );
        }
    }

    /// The text of a required key.
    pub(crate) fn required_text(&mut self, node: &Node, place: &str, key: &str) -> Option<String> {
        match node.get(key) {
            Some(value) => self.text(value, &format!("{place}.{key}")),
            None => {
                self.wrong(node.at, format!("{place} needs `{key}`"));
                None
            }
        }
    }

    /// The text of a node.
    pub(crate) fn text(&mut self, node: &Node, place: &str) -> Option<String> {
        match node.text() {
            Some(text) => Some(text.to_owned()),
            None => {
                self.wrong_hint(
                    node.at,
                    format!("{place} must be text, this is {}", node.what()),
                    "put it in quotes",
                );
                None
            }
        }
    }

    pub(crate) fn boolean(&mut self, node: Option<&Node>, place: &str, default: bool) -> bool {
        match node.map(|node| (node, &node.data)) {
            None => default,
            Some((_, Data::Bool(truth))) => *truth,
            Some((node, _)) => {
                self.wrong(
                    node.at,
                    format!("{place} must be true or false, this is {}", node.what()),
                );
                default
            }
        }
    }

    /// A duration in milliseconds, at least `least`.
    pub(crate) fn duration(&mut self, node: &Node, place: &str, least: i64) -> Option<i64> {
        let text = self.text(node, place)?;
        match libretto_api::package::parse_duration(&text) {
            Ok(ms) if ms >= least => Some(ms),
            Ok(_) => {
                self.wrong(node.at, format!("{place} must be at least {least}ms"));
                None
            }
            Err(error) => {
                self.wrong(node.at, format!("{place}: {error}"));
                None
            }
        }
    }

    /// One text or a list of texts.
    pub(crate) fn texts(&mut self, node: &Node, place: &str) -> Vec<(String, At)> {
        match &node.data {
            Data::Text(text) => vec![(text.clone(), node.at)],
            Data::List(items) => items
                .iter()
                .filter_map(|item| Some((self.text(item, place)?, item.at)))
                .collect(),
            _ => {
                self.wrong(
                    node.at,
                    format!(
                        "{place} must be text or a list of texts, this is {}",
                        node.what()
                    ),
                );
                Vec::new()
            }
        }
    }

    pub(crate) fn gvk(&mut self, text: &str, at: At) -> Option<Gvk> {
        match text.parse() {
            Ok(gvk) => Some(gvk),
            Err(error) => {
                self.wrong(at, format!("{error}"));
                None
            }
        }
    }

    pub(crate) fn path(&mut self, text: &str, at: At) -> Option<ColumnPath> {
        match text.parse() {
            Ok(path) => Some(path),
            Err(error) => {
                self.wrong(at, format!("{error}"));
                None
            }
        }
    }

    /// A name that can be a table and a template variable.
    pub(crate) fn identifier(&mut self, text: &str, at: At, what: &str) -> bool {
        let fine = text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !fine {
            self.wrong_hint(
                at,
                format!("`{text}` cannot be the name of a {what}"),
                "letters, digits and _, beginning with a letter, at most 63",
            );
        }
        fine
    }

    /// Compiles a template of `package.yaml`.
    pub(crate) fn tree(&mut self, node: &Node, names: &Names) -> Tree {
        self.tree_in(PACKAGE_FILE, node, names)
    }

    /// Compiles a template of a file.
    pub(crate) fn tree_in(&mut self, file: &str, node: &Node, names: &Names) -> Tree {
        let mut compiler = Compiler {
            file,
            names,
            problems: Vec::new(),
            used: &mut self.used,
        };
        let tree = compiler.tree(node);
        let source = self.files.get(file).map_or("", String::as_str);
        for (at, problem) in compiler.problems {
            let at = if problem.line == 0 {
                at
            } else {
                yaml::inside(source, at, problem.line, 0)
            };
            self.diagnostics.push(Diagnostic {
                file: file.to_owned(),
                line: at.line,
                column: at.column,
                message: problem.message,
                hint: problem.hint,
            });
        }
        tree
    }

    /// Checks a query against the tables and views there are.
    pub(crate) fn query(&mut self, scope: &mut Scope, node: &Node, place: &str) -> Option<Query> {
        let sql = self.text(node, place)?;
        match scope.sheet.describe(&sql) {
            Ok(described) => self.accept(scope, node, place, sql, described),
            Err(error) => {
                // What reads a broken view is not broken itself.
                if let SqlError::Compile { message, .. } = &error
                    && let Some(missing) = message.strip_prefix("no such table: ")
                    && scope.broken.contains(missing)
                {
                    return None;
                }
                self.sql_error(scope, node, place, &sql, &error);
                None
            }
        }
    }

    pub(crate) fn accept(
        &mut self,
        scope: &mut Scope,
        node: &Node,
        place: &str,
        sql: String,
        described: Described,
    ) -> Option<Query> {
        let Described {
            columns,
            reads,
            parameters,
        } = described;
        let mut fine = true;
        for parameter in &parameters {
            if parameter.is_empty() {
                self.wrong_hint(
                    node.at,
                    format!("{place}: parameters without a name are never bound"),
                    "name a field of the instance, like :replicas",
                );
                fine = false;
            } else if !scope.names.cr.contains(parameter) {
                let hint = suggestion(parameter, &scope.names.cr)
                    .unwrap_or_else(|| "declare it under crd.fields".to_owned());
                let offset = sql.find(&format!(":{parameter}"));
                let at = self.sql_place(node, &sql, offset);
                self.wrong_hint(at, format!("{place}: cr has no field `{parameter}`"), hint);
                fine = false;
            }
        }
        let mut seen = BTreeSet::new();
        for column in &columns {
            if !seen.insert(column.name.to_lowercase()) {
                self.wrong_hint(
                    node.at,
                    format!("{place}: two columns are called `{}`", column.name),
                    "give one another name with AS",
                );
                fine = false;
            }
        }
        for (table, column) in &reads {
            if table == "clock" {
                let period = libretto_mirror::CLOCK_COLUMNS
                    .iter()
                    .find(|(name, _)| name == column)
                    .map_or(10_000, |(_, period)| *period);
                scope.clock = Some(scope.clock.map_or(period, |known| known.min(period)));
            }
        }
        fine.then(|| Query {
            sql,
            columns,
            reads: reads.into_iter().map(|(table, _)| table).collect(),
            parameters,
        })
    }

    fn sql_place(&self, node: &Node, sql: &str, offset: Option<usize>) -> At {
        let Some(offset) = offset else {
            return node.at;
        };
        // SQLite counts from the trimmed text.
        let offset = offset + (sql.len() - sql.trim_start().len());
        let before = sql.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count();
        let column = before.len() - before.rfind('\n').map_or(0, |index| index + 1);
        let source = self.files.get(PACKAGE_FILE).map_or("", String::as_str);
        yaml::inside(source, node.at, line, column)
    }

    pub(crate) fn sql_error(
        &mut self,
        scope: &Scope,
        node: &Node,
        place: &str,
        sql: &str,
        error: &SqlError,
    ) {
        let (offset, hint) = match error {
            SqlError::Compile { message, offset } => {
                let hint = if let Some(table) = message.strip_prefix("no such table: ") {
                    let known: Vec<String> = scope.relations();
                    suggestion(table, &known)
                        .or_else(|| Some(format!("there are: {}", known.join(", "))))
                } else if let Some(column) = message.strip_prefix("no such column: ") {
                    let column = column.rsplit('.').next().unwrap_or(column);
                    let known: BTreeSet<String> = scope
                        .relations()
                        .iter()
                        .filter_map(|name| scope.sheet.columns_of(name))
                        .flatten()
                        .cloned()
                        .collect();
                    suggestion(column, &known)
                } else {
                    None
                };
                (*offset, hint)
            }
            SqlError::SeveralStatements => {
                (None, Some("put the second in a view of its own".to_owned()))
            }
            _ => (None, None),
        };
        let at = self.sql_place(node, sql, offset);
        self.error(PACKAGE_FILE, at, format!("{place}: {error}"), hint);
    }
}

/// What SQL and templates can see while compiling.
pub(crate) struct Scope {
    pub(crate) sheet: Sheet,
    pub(crate) names: Names,
    pub(crate) views: Vec<String>,
    /// Tables and views that could not be made; what reads them is not complained about again.
    pub(crate) broken: BTreeSet<String>,
    pub(crate) clock: Option<i64>,
}

impl Scope {
    fn relations(&self) -> Vec<String> {
        self.sheet
            .table_names()
            .map(str::to_owned)
            .chain(self.views.iter().cloned())
            .collect()
    }

    /// Names a template of a rule may use.
    pub(crate) fn names_for(&self, query: Option<&Query>) -> Names {
        Names {
            row: query
                .into_iter()
                .flat_map(|query| query.columns.iter().map(|column| column.name.clone()))
                .collect(),
            cr: self.names.cr.clone(),
        }
    }
}

fn compile(check: &mut Check<'_>) -> Option<Compiled> {
    let Some(text) = check.files.get(PACKAGE_FILE) else {
        check.diagnostics.push(whole_file(
            PACKAGE_FILE,
            "a package folder needs this file".to_owned(),
        ));
        return None;
    };
    let documents = match yaml::parse(PACKAGE_FILE, text) {
        Ok(documents) => documents,
        Err(diagnostic) => {
            check.diagnostics.push(diagnostic);
            return None;
        }
    };
    let [root] = documents.as_slice() else {
        check.diagnostics.push(whole_file(
            PACKAGE_FILE,
            format!("must hold one document, this has {}", documents.len()),
        ));
        return None;
    };
    check.only(
        root,
        "the package",
        &["apiVersion", "kind", "metadata", "spec"],
    );
    for (key, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match root.get(key) {
            Some(node) if node.text() == Some(expected) => {}
            Some(node) => check.wrong(node.at, format!("{key} must be {expected}")),
            None => check.wrong(root.at, format!("the package needs `{key}: {expected}`")),
        }
    }
    let empty = Node {
        at: root.at,
        data: Data::Map(Vec::new()),
    };
    let metadata = root.get("metadata").unwrap_or(&empty);
    check.only(metadata, "metadata", &["name", "version", "description"]);
    let name = check
        .required_text(metadata, "metadata", "name")
        .unwrap_or_default();
    if let Some(node) = metadata.get("name") {
        let fine = !name.is_empty()
            && name.len() <= 50
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !fine {
            check.wrong_hint(
                node.at,
                format!("`{name}` cannot be the name of a package"),
                "lower-case letters, digits and -, beginning with a letter, at most 50",
            );
        }
    }
    let version = check
        .required_text(metadata, "metadata", "version")
        .unwrap_or_default();
    let description = match metadata.get("description") {
        Some(node) => check.text(node, "metadata.description").unwrap_or_default(),
        None => String::new(),
    };
    let Some(spec) = root.get("spec") else {
        check.wrong(root.at, "the package needs `spec`");
        return None;
    };
    check.only(spec, "spec", &["crd", "sense", "decide", "execute"]);
    if too_many(check, spec) {
        return None;
    }
    let definition = crd::compile(check, spec)?;
    let sensed = sense::tables(check, spec);
    let mut schema = PackageSchema {
        package: name.clone(),
        instance: definition.instance,
        watches: sensed.watches,
        probes: sensed.probes,
        objects: Vec::new(),
        lineage: Vec::new(),
    };
    let mut names = Names::default();
    let mut cr_kinds = BTreeMap::new();
    for (column, kind) in INSTANCE_COLUMNS {
        names.cr.insert((*column).to_owned());
        cr_kinds.insert((*column).to_owned(), *kind);
    }
    for field in &schema.instance.fields {
        names.cr.insert(field.name.clone());
        cr_kinds.insert(field.name.clone(), field.kind);
    }
    let sheet = match Sheet::new(&schema) {
        Ok(sheet) => sheet,
        Err(error) => {
            check.wrong(spec.at, format!("tables cannot be made: {error}"));
            return None;
        }
    };
    let mut scope = Scope {
        sheet,
        names,
        views: Vec::new(),
        broken: sensed.broken,
        clock: None,
    };
    let mut views = values::views(check, &mut scope, spec);
    views.extend(decide::views(check, &mut scope, spec));
    let probes = sense::probes(check, &mut scope, spec);
    let executed = execute::rules(check, &mut scope, spec);
    if let Some(place) = &definition.place {
        fits::check(
            check,
            spec,
            place,
            &definition.schema,
            executed.status.as_ref(),
        );
    }
    let mut written = BTreeSet::new();
    for rule in &executed.rules {
        written.extend(rule.action.applies().into_iter().cloned());
        written.extend(rule.action.patches().cloned());
    }
    schema.objects = written
        .iter()
        .map(|gvk| {
            let mut ignore: Vec<ColumnPath> = Vec::new();
            for rule in &executed.rules {
                if rule.action.applies().contains(&gvk) || rule.action.patches() == Some(gvk) {
                    for path in &rule.ignore {
                        if !ignore.contains(path) {
                            ignore.push(path.clone());
                        }
                    }
                }
            }
            ObjectKind {
                gvk: gvk.clone(),
                ignore,
            }
        })
        .collect();
    schema.lineage = between(&schema);
    let watches = watches(&schema, &executed.rules);
    let mut bases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for view in &views {
        // Views come in order, so what a view reads is already known.
        let mut tables = BTreeSet::new();
        for name in &view.query.reads {
            match bases.get(name) {
                Some(through) => tables.extend(through.iter().cloned()),
                None => {
                    tables.insert(name.clone());
                }
            }
        }
        bases.insert(view.name.clone(), tables);
    }
    Some(Compiled {
        bases,
        name,
        version,
        description,
        crd: definition.crd,
        status_schema: definition.schema["properties"]["status"].clone(),
        cr_kinds,
        used: std::mem::take(&mut check.used),
        views,
        probes,
        metric_specs: executed
            .metrics
            .iter()
            .map(|metric| MetricSpec {
                name: metric.name.clone(),
                help: metric.help.clone(),
            })
            .collect(),
        rules: executed.rules,
        status: executed.status,
        metrics: executed.metrics,
        clock: scope.clock,
        schema,
        watches,
        written,
        // In a chart or a script it may mean something else; then the package has a right that it does not use.
        secrets: check.files.values().any(|text| text.contains("secret(")),
    })
}

/// Kinds that stand between what a package writes and what it senses: without them a Deployment's Pods have no known owner.
fn between(schema: &PackageSchema) -> Vec<Gvk> {
    let known = |gvk: &Gvk| {
        schema.watches.iter().any(|watch| watch.gvk == *gvk)
            || schema.objects.iter().any(|object| object.gvk == *gvk)
    };
    let pods = Gvk::new("", "v1", "Pod");
    let senses_pods = schema.watches.iter().any(|watch| watch.gvk == pods);
    [
        (
            Gvk::new("apps", "v1", "Deployment"),
            Gvk::new("apps", "v1", "ReplicaSet"),
        ),
        (
            Gvk::new("batch", "v1", "CronJob"),
            Gvk::new("batch", "v1", "Job"),
        ),
    ]
    .into_iter()
    .filter(|(written, middle)| senses_pods && known(written) && !known(middle))
    .map(|(_, middle)| middle)
    .collect()
}

fn watches(schema: &PackageSchema, rules: &[Rule]) -> Vec<Watch> {
    let mut watches: BTreeMap<Gvk, Watch> = BTreeMap::new();
    let mut need = |gvk: &Gvk, labels: &BTreeMap<String, String>, optional: bool| {
        watches
            .entry(gvk.clone())
            .and_modify(|known| {
                known
                    .labels
                    .retain(|key, value| labels.get(key) == Some(value));
                known.optional &= optional;
            })
            .or_insert_with(|| Watch {
                gvk: gvk.clone(),
                labels: labels.clone(),
                optional,
            });
    };
    let everything = BTreeMap::new();
    need(&schema.instance.gvk, &everything, false);
    for watch in &schema.watches {
        need(&watch.gvk, &watch.labels, false);
    }
    let ours: BTreeMap<String, String> = [(
        libretto_api::object::PACKAGE_LABEL.to_owned(),
        schema.package.clone(),
    )]
    .into();
    for rule in rules {
        for gvk in rule.action.applies() {
            let optional = match &rule.action {
                Action::Helm(template) => !template.named.contains(gvk),
                _ => false,
            };
            need(gvk, &ours, optional);
        }
        if let Some(gvk) = rule.action.patches() {
            need(gvk, &everything, false);
        }
    }
    for gvk in &schema.lineage {
        need(gvk, &everything, false);
    }
    watches.into_values().collect()
}
