//! Templates: structured YAML first, `{{ }}` in leaves.
//!
//! A leaf that is exactly one `{{ expression }}` keeps the expression's type; any other leaf with `{{` or `{%` gives text. What is
//! not declared is found when the package is loaded; what is undefined when it is rendered is an error, never an empty string.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libretto_api::secret::{Letters, SecretHandle};
use libretto_mirror::{ColumnType, Datum, ResultColumn};
use minijinja::{
    Environment, Error, ErrorKind, Expression, UndefinedBehavior,
    value::{Object, Value, ValueKind},
};
use serde_json::{Map, Value as Json};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use crate::{
    guard,
    yaml::{Data, Node},
};

/// Instructions one leaf may take. A configuration file rendered with a loop takes thousands; a runaway loop ends in milliseconds.
const FUEL: u64 = 100_000;

/// Expressions borrow their environment; one that lives as long as the process lets a compiled package own them.
static EXPRESSIONS: LazyLock<Environment<'static>> = LazyLock::new(environment);

/// Variables of one rendering.
pub(crate) type Context = Value;

/// A compiled piece of YAML.
#[derive(Debug)]
pub(crate) enum Tree {
    Plain(Json),
    Leaf(Leaf),
    List(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
}

/// A compiled scalar.
#[derive(Debug)]
pub(crate) struct Leaf {
    kind: LeafKind,
    /// `file:line:column`, for messages.
    place: String,
}

enum LeafKind {
    /// Keeps its type.
    Expression(Box<Expression<'static, 'static>>),
    /// Gives text. The template's name in the package's environment.
    Text(Arc<Environment<'static>>, String),
    /// An expression that can make much of little.
    GuardedExpression(String),
    /// Likewise a text, with the fuel that is left to it.
    GuardedText(Arc<Environment<'static>>, String),
}

impl std::fmt::Debug for LeafKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Expression(_) => "Expression",
            Self::Text(..) => "Text",
            Self::GuardedExpression(_) => "GuardedExpression",
            Self::GuardedText(..) => "GuardedText",
        })
    }
}

/// Something wrong in a leaf at load: where in its text (line and column from 0), what, and what to do.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) line: usize,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// Names a template may use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// Columns of the rule's rows.
    pub(crate) row: BTreeSet<String>,
    /// Columns of the instance.
    pub(crate) cr: BTreeSet<String>,
}

/// Compiles leaves, collecting what is wrong.
pub(crate) struct Compiler<'a> {
    pub(crate) file: &'a str,
    pub(crate) names: &'a Names,
    pub(crate) problems: Vec<(crate::yaml::At, Problem)>,
    pub(crate) used: &'a mut UsedFields,
}

/// Which fields of the instance templates use: what they give depends on nothing else of it.
#[derive(Debug, Default)]
pub(crate) enum UsedFields {
    #[default]
    None,
    These(BTreeSet<String>),
    /// `cr` itself is used as a value.
    All,
}

impl UsedFields {
    /// Takes in a variable a template uses, such as `cr.size`.
    fn note(&mut self, variable: &str) {
        if variable == "cr" {
            *self = Self::All;
        } else if let Some(path) = variable.strip_prefix("cr.") {
            let field = path.split('.').next().unwrap_or_default().to_owned();
            match self {
                Self::None => *self = Self::These(BTreeSet::from([field])),
                Self::These(fields) => {
                    fields.insert(field);
                }
                Self::All => {}
            }
        }
    }

    pub(crate) fn contains(&self, field: &str) -> bool {
        match self {
            Self::None => false,
            Self::These(fields) => fields.contains(field),
            Self::All => true,
        }
    }
}

impl Compiler<'_> {
    /// Compiles a node and everything below.
    pub(crate) fn tree(&mut self, node: &Node) -> Tree {
        match &node.data {
            Data::Text(text) if is_template(text) => match self.leaf(node, text) {
                Some(leaf) => Tree::Leaf(leaf),
                None => Tree::Plain(Json::Null),
            },
            Data::List(items) => Tree::List(items.iter().map(|item| self.tree(item)).collect()),
            Data::Map(entries) => Tree::Map(
                entries
                    .iter()
                    .map(|(key, value)| {
                        let key_node = Node {
                            at: key.at,
                            data: Data::Text(key.text.clone()),
                        };
                        (self.tree(&key_node), self.tree(value))
                    })
                    .collect(),
            ),
            _ => Tree::Plain(node.to_json()),
        }
    }

    fn leaf(&mut self, node: &Node, text: &str) -> Option<Leaf> {
        let place = format!("{}:{}:{}", self.file, node.at.line, node.at.column);
        let whole = whole_expression(text);
        let compiled = if let Some(expression) = whole {
            EXPRESSIONS
                .compile_expression_owned(expression.to_owned())
                .map(|expression| {
                    let used = expression.undeclared_variables(true);
                    (LeafKind::Expression(Box::new(expression)), used)
                })
        } else {
            let mut environment = EXPRESSIONS.clone();
            environment
                .add_template_owned(place.clone(), text.to_owned())
                .and_then(|()| {
                    let used = environment.get_template(&place)?.undeclared_variables(true);
                    Ok((LeafKind::Text(Arc::new(environment), place.clone()), used))
                })
        };
        match compiled {
            Ok((kind, used)) => {
                let words = crate::vocabulary::words(&EXPRESSIONS, text);
                self.problems
                    .extend(words.problems.into_iter().map(|problem| (node.at, problem)));
                let kind = match (words.guarded, whole) {
                    (false, _) => kind,
                    (true, Some(expression)) => LeafKind::GuardedExpression(expression.to_owned()),
                    (true, None) => {
                        let mut environment = EXPRESSIONS.clone();
                        environment.set_fuel(Some(guard::fuel(text, FUEL)));
                        LeafKind::GuardedText(Arc::new(environment), text.to_owned())
                    }
                };
                let mut used: Vec<String> = used.into_iter().collect();
                used.sort();
                for name in used {
                    self.used.note(&name);
                    if let Some(problem) = self.undeclared(&name) {
                        self.problems.push((node.at, problem));
                    }
                }
                Some(Leaf { kind, place })
            }
            Err(error) => {
                let problem = Problem {
                    line: error.line().unwrap_or(1).saturating_sub(1),
                    message: format!(
                        "template does not parse: {}",
                        error.detail().unwrap_or("unknown mistake")
                    ),
                    hint: None,
                };
                self.problems.push((node.at, problem));
                None
            }
        }
    }

    fn undeclared(&self, name: &str) -> Option<Problem> {
        let (first, rest) = match name.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (name, None),
        };
        if first == "cr" {
            let column = rest?.split('.').next().unwrap_or_default();
            if self.names.cr.contains(column) {
                return None;
            }
            return Some(Problem {
                line: 0,
                message: format!("cr has no field `{column}`"),
                hint: Some(
                    suggestion(column, &self.names.cr)
                        .unwrap_or_else(|| "declare it under crd.fields".to_owned()),
                ),
            });
        }
        if self.names.row.contains(first) || GLOBALS.contains(&first) {
            return None;
        }
        let hint = suggestion(first, &self.names.row).unwrap_or_else(|| {
            if self.names.cr.contains(first) {
                format!("write cr.{first}")
            } else if self.names.row.is_empty() {
                "this rule has no `for`: only cr is there".to_owned()
            } else {
                format!("the row has: {}", join(&self.names.row))
            }
        });
        Some(Problem {
            line: 0,
            message: format!("`{first}` is not declared"),
            hint: Some(hint),
        })
    }
}

/// Names every template knows.
const GLOBALS: &[&str] = &[
    "omit",
    "secret",
    "random",
    "range",
    "dict",
    "namespace",
    "loop",
    "true",
    "false",
    "none",
];

fn join(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(", ")
}

/// "did you mean" for a name close to a known one.
pub(crate) fn suggestion<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a String>,
) -> Option<String> {
    known
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        // A third of the letters may be wrong; the same word is no suggestion.
        .filter(|(distance, candidate)| *distance > 0 && *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// Edits between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

/// Whether the text has anything to render.
pub(crate) fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%") || text.contains("{#")
}

/// The expression of a leaf that is exactly one.
fn whole_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inner = inner.strip_prefix('-').unwrap_or(inner);
    let inner = inner.strip_suffix('-').unwrap_or(inner);
    // `{{ a }}-{{ b }}` also begins and ends so, but what stands between is no expression. A broken single one has no other
    // braces; it is compiled as an expression for the better message.
    (EXPRESSIONS.compile_expression(inner).is_ok()
        || !(inner.contains("{{") || inner.contains("}}")))
    .then_some(inner)
}

/// Block tags on lines of their own leave nothing behind, and a file keeps its last newline.
pub(crate) fn syntax() -> minijinja::syntax::SyntaxConfig {
    minijinja::syntax::SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .expect("the default delimiters are valid")
}

pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(64);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_syntax(syntax());
    environment.set_formatter(|output, state, value| {
        if value.is_none() {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "a value inside text is NULL: give it a default, like {{ x or '' }}",
            ));
        }
        if is_omit(value) {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "omit must stand alone in its leaf",
            ));
        }
        guard::weigh(value)?;
        minijinja::escape_formatter(output, state, value)
    });
    guard::install(&mut environment);
    environment.add_global("omit", Value::from_object(Omit));
    environment.add_function("secret", |name: String, key: String| {
        SecretHandle::Key { name, key }.text()
    });
    environment.add_function("random", random);
    environment.add_filter("b64encode", |text: String| {
        Ok::<_, Error>(STANDARD.encode(open(text)?))
    });
    environment.add_filter("sha1", |text: String| {
        Ok::<_, Error>(hex(&Sha1::digest(open(text)?)))
    });
    environment.add_filter("sha256", |text: String| {
        Ok::<_, Error>(hex(&Sha256::digest(open(text)?)))
    });
    environment.add_filter("quote_shell", |text: String| {
        Ok::<_, Error>(format!("'{}'", open(text)?.replace('\'', "'\\''")))
    });
    environment.add_filter("fromjson", |text: String| -> Result<Value, Error> {
        // A list of one letter each takes so much of the heap.
        guard::charge(16 * text.len())?;
        serde_json::from_str::<Json>(&text)
            .map(|json| json_value(&json))
            .map_err(|error| {
                Error::new(
                    ErrorKind::InvalidOperation,
                    format!("fromjson: not JSON: {error}"),
                )
            })
    });
    // Without the HTML-safe escapes that minijinja's own has: here JSON goes into YAML leaves and annotations.
    environment.add_filter("tojson", |value: Value| -> Result<String, Error> {
        guard::weigh(&value)?;
        to_json(&value)
            .map(|json| libretto_mirror::canonical_json(&json.unwrap_or(Json::Null)))
            .map_err(|message| Error::new(ErrorKind::InvalidOperation, message))
    });
    environment
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The value that drops its key or list item.
#[derive(Debug)]
struct Omit;

impl Object for Omit {}

fn is_omit(value: &Value) -> bool {
    value.downcast_object_ref::<Omit>().is_some()
}

impl Leaf {
    /// `None` when it yields `omit`.
    pub(crate) fn render(&self, context: &Context) -> Result<Option<Json>, String> {
        let fail = |error: &Error| format!("{}: {}", self.place, message(error));
        guard::begin();
        let text = match &self.kind {
            LeafKind::Expression(expression) => return self.value(expression.eval(context)),
            LeafKind::GuardedExpression(text) => {
                return self.value(guard::expression(&EXPRESSIONS, text, context));
            }
            LeafKind::Text(environment, name) => environment
                .get_template(name)
                .and_then(|template| template.render(context)),
            LeafKind::GuardedText(environment, text) => guard::text(environment, text, context),
        };
        text.and_then(guard::fits)
            .map(|text| Some(Json::from(text)))
            .map_err(|error| fail(&error))
    }

    /// An expression's value.
    fn value(&self, value: Result<Value, Error>) -> Result<Option<Json>, String> {
        let value = value.and_then(|value| guard::weigh(&value).map(|()| value));
        let value = value.map_err(|error| format!("{}: {}", self.place, message(&error)))?;
        to_json(&value).map_err(|message| format!("{}: {message}", self.place))
    }
}

fn message(error: &Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => format!("template took more than {FUEL} instructions"),
        kind => match error.detail() {
            Some(detail) => detail.to_owned(),
            None => kind.to_string(),
        },
    }
}

impl Tree {
    /// The rendered value; `None` when the whole is `omit`.
    pub(crate) fn render(&self, context: &Context) -> Result<Option<Json>, String> {
        Ok(Some(match self {
            Self::Plain(value) => value.clone(),
            Self::Leaf(leaf) => return leaf.render(context),
            Self::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    list.extend(item.render(context)?);
                }
                Json::Array(list)
            }
            Self::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let Some(key) = key.render(context)? else {
                        continue;
                    };
                    if let Some(value) = value.render(context)? {
                        map.insert(scalar_text(&key).unwrap_or_default(), value);
                    }
                }
                Json::Object(map)
            }
        }))
    }
}

/// A scalar as the text it would have in a command.
pub(crate) fn scalar_text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// What Jinja calls true: not false, 0, empty or none.
pub(crate) fn truthy(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(truth) => *truth,
        Json::Number(number) => number.as_f64() != Some(0.0),
        // A rendered `when` may have become text.
        Json::String(text) => !matches!(text.trim(), "" | "false" | "False" | "0" | "none"),
        Json::Array(items) => !items.is_empty(),
        Json::Object(map) => !map.is_empty(),
    }
}

/// Converts; drops `omit` inside lists and maps, `None` when the value itself is.
fn to_json(value: &Value) -> Result<Option<Json>, String> {
    if is_omit(value) {
        return Ok(None);
    }
    Ok(Some(match value.kind() {
        ValueKind::Undefined => return Err("the expression's value is undefined".to_owned()),
        ValueKind::None => Json::Null,
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = Vec::new();
            for item in value.try_iter().map_err(|error| error.to_string())? {
                items.extend(to_json(&item)?);
            }
            Json::Array(items)
        }
        ValueKind::Map => {
            let mut map = Map::new();
            for key in value.try_iter().map_err(|error| error.to_string())? {
                let item = value.get_item(&key).map_err(|error| error.to_string())?;
                if let Some(item) = to_json(&item)? {
                    map.insert(key.to_string(), item);
                }
            }
            Json::Object(map)
        }
        ValueKind::Number => {
            let json = serde_json::to_value(value).map_err(|error| error.to_string())?;
            if json.is_null() {
                return Err("the expression's value is not a finite number".to_owned());
            }
            json
        }
        _ => serde_json::to_value(value).map_err(|error| error.to_string())?,
    }))
}

/// JSON as a template's value.
fn json_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Value::from(int),
            (None, Some(float)) => Value::from(float),
            (None, None) => Value::from(()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(json_value).collect::<Vec<Value>>().into(),
        Json::Object(map) => Value::from_pairs(
            map.iter()
                .map(|(key, value)| (key.clone(), json_value(value))),
        ),
    }
}

/// A column's value in a template: JSON structured, booleans as booleans.
pub(crate) fn column_value(datum: &Datum, kind: Option<ColumnType>) -> Value {
    match datum {
        Datum::Null => Value::from(()),
        Datum::Int(int) if kind == Some(ColumnType::Bool) => Value::from(*int != 0),
        Datum::Int(int) => Value::from(*int),
        Datum::Float(float) => Value::from(*float),
        Datum::Text(text) if kind == Some(ColumnType::Json) => serde_json::from_str::<Json>(text)
            .map_or_else(|_| Value::from(text.as_str()), |json| json_value(&json)),
        Datum::Text(text) => Value::from(text.as_str()),
    }
}

/// The variable `cr`, of the fields that are used.
pub(crate) fn cr_value(fields: &[(String, Datum)], kinds: &BTreeMap<String, ColumnType>) -> Value {
    Value::from_pairs(
        fields
            .iter()
            .map(|(name, datum)| (name.clone(), column_value(datum, kinds.get(name).copied()))),
    )
}

/// A text that is no secret. The value of a secret is put in when everything is rendered: what a filter would make of it, it would make
/// of the handle.
fn open(text: String) -> Result<String, Error> {
    guard::charge(2 * text.len())?;
    if text.contains(libretto_api::secret::MARK) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a secret cannot be encoded, digested or quoted by a filter: its value is put in afterwards",
        ));
    }
    Ok(text)
}

/// `random(24)`, `random(6, 'digits')`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "so are arguments of template functions passed"
)]
fn random(length: Option<u16>, letters: Option<String>) -> Result<String, Error> {
    let length = length.unwrap_or(24);
    let name = letters.as_deref().unwrap_or("alnum");
    let problem = |text: String| Error::new(ErrorKind::InvalidOperation, text);
    // A Secret holds a mebibyte; a key of 512 letters is longer than any that is used.
    if !(1..=512).contains(&length) {
        return Err(problem(format!("random({length}): from 1 to 512 letters")));
    }
    let letters = Letters::named(name).ok_or_else(|| {
        let known: Vec<&str> = Letters::ALL.iter().map(|(name, _)| *name).collect();
        problem(format!(
            "random: there are no letters `{name}`; there are: {}",
            known.join(", ")
        ))
    })?;
    Ok(SecretHandle::Made { letters, length }.text())
}

/// The variables of one row.
pub(crate) fn row_context(cr: &Value, columns: &[ResultColumn], row: &[Datum]) -> Context {
    Value::from_pairs(
        columns
            .iter()
            .zip(row)
            .map(|(column, datum)| (column.name.clone(), column_value(datum, column.kind)))
            .chain([("cr".to_owned(), cr.clone())]),
    )
}
