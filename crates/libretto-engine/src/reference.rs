//! The package language as one page, written from what the compiler itself knows: its schemas, the tables the mirror makes, the words
//! of templates, the limits, and what it says about mistakes.

use std::fmt::Write as _;

use libretto_api::{
    package::{CALLS, PROBES, VERBS},
    reason,
};
use libretto_mirror::{
    CLOCK_COLUMNS, ColumnType, INSTANCE_COLUMNS, Limits, OBJECT_COLUMNS, PROBE_COLUMNS,
    WATCH_COLUMNS,
};
use serde_json::Value;

use crate::compile::{
    execute::{MODIFIERS, SENSELESS},
    mistakes::MISTAKES,
    schema::{package_schema, tests_schema},
};

/// In Markdown.
pub fn reference() -> String {
    let schema = package_schema();
    let mut page = Page {
        text: HEAD.to_owned(),
        definitions: &schema["$defs"],
    };
    page.package(&schema);
    page.rules(&schema["properties"]["spec"]["properties"]["execute"]["items"]);
    page.tables();
    page.templates();
    page.conditions();
    page.limits();
    let tests = tests_schema();
    page.definitions = &tests["$defs"];
    page.scenarios(&tests);
    page.mistakes();
    let mut text = page.text;
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    format!("{}\n", text.trim_end())
}

const HEAD: &str = "\
# Reference of the package language

Every keyword, table, action and mistake. `cargo xtask generate` writes this page from the code; [language.md](language.md) explains how
the parts work together.
";

/// What templates have beside Jinja's own filters and tests.
const WORDS: &[(&str, &str)] = &[
    ("cr", "the instance: `cr.name`, `cr.namespace`, its fields"),
    (
        "columns of the row",
        "by their names, in rules with `for`; probes have those of their targets",
    ),
    ("omit", "alone in a leaf: the key is left out"),
    (
        "secret(NAME, KEY)",
        "the value of a Secret's key in the instance's namespace; only where it is sent, never in a text that is computed with",
    ),
    (
        "random(LENGTH)",
        "in `stringData` of a Secret: made once, and kept while the Secret is there",
    ),
    ("b64encode, sha1, sha256", "filters of texts"),
    ("quote_shell", "one word of a shell, whatever is in it"),
    ("fromjson, tojson", "JSON in texts"),
];

/// Functions of SQL beside SQLite's own.
const FUNCTIONS: &[(&str, &str)] = &[
    ("sha1hex(text)", "its SHA-1, in hexadecimal digits"),
    ("sha256hex(text)", "its SHA-256, in hexadecimal digits"),
    (
        "bytes_of(quantity)",
        "a quantity such as `64Mi` as a number",
    ),
    (
        "text REGEXP pattern",
        "whether a regular expression matches",
    ),
];

struct Page<'a> {
    text: String,
    definitions: &'a Value,
}

impl Page<'_> {
    fn package(&mut self, schema: &Value) {
        let spec = &schema["properties"]["spec"]["properties"];
        self.heading(2, "package.yaml");
        self.keywords(&schema["properties"]["metadata"], "metadata.");
        self.keywords(&schema["properties"]["spec"], "spec.");
        self.heading(3, "crd, in short form");
        self.keywords(&spec["crd"]["else"], "");
        self.heading(3, "A field of crd.schema");
        self.keywords(&self.definitions["field"].clone(), "");
        self.heading(3, "crd, with a definition of your own");
        self.keywords(&spec["crd"]["then"], "");
        let table = &spec["sense"]["additionalProperties"];
        self.heading(2, "Tables: sense");
        self.heading(3, "watch");
        self.keywords(&table["then"], "");
        self.heading(3, "probe");
        self.keywords(&table["else"]["then"], "");
        for probe in PROBES {
            self.heading(4, &format!("with, of probe: {probe}"));
            self.keywords(&self.definitions[format!("{probe}Probe")].clone(), "");
        }
        self.heading(3, "values");
        self.keywords(&table["else"]["else"], "");
        self.heading(3, "A column of cols");
        self.keywords(&self.definitions["column"].clone(), "");
    }

    fn rules(&mut self, rule: &Value) {
        self.heading(2, "Rules: execute");
        self.line("A rule has one verb and any of the modifiers that suit it.\n");
        self.line("| verb | form | |\n| --- | --- | --- |");
        for verb in VERBS {
            self.row(verb, &rule["properties"][*verb], false);
        }
        self.line("");
        self.line("| modifier | form | | with |\n| --- | --- | --- | --- |");
        for modifier in MODIFIERS {
            let schema = &rule["properties"][*modifier];
            let fits: Vec<&str> = VERBS
                .iter()
                .copied()
                .filter(|verb| suits(verb, modifier))
                .collect();
            let line = format!(
                "| `{modifier}` | {} | {} | {} |",
                self.form(schema),
                said(schema),
                fits.join(", ")
            );
            self.line(&line);
        }
        for verb in ["helm", "alert", "status", "metric"] {
            self.heading(3, verb);
            self.keywords(&rule["properties"][verb], "");
        }
        for call in CALLS {
            self.heading(3, &format!("with, of call: {call}"));
            self.keywords(&self.call(rule, call), "");
        }
        self.heading(3, "A command of Redis");
        self.keywords(&self.definitions["command"]["then"].clone(), "");
    }

    /// What a call's `with` may say.
    fn call(&self, rule: &Value, call: &str) -> Value {
        rule["allOf"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|choice| choice["if"]["properties"]["call"]["const"] == call)
            .map(|choice| self.followed(&choice["then"]["properties"]["with"]).clone())
            .unwrap_or_default()
    }

    fn tables(&mut self) {
        self.heading(2, "Tables and their columns");
        self.columns(
            "cr",
            "the instance, one row; then its fields",
            INSTANCE_COLUMNS,
        );
        self.columns(
            "a watch",
            "one row per object; then its cols",
            WATCH_COLUMNS,
        );
        self.columns(
            "a probe",
            "one row per target; then its cols",
            PROBE_COLUMNS,
        );
        self.columns(
            "objects",
            "what the instance applied or patched",
            OBJECT_COLUMNS,
        );
        let clock: Vec<(&str, ColumnType)> = CLOCK_COLUMNS
            .iter()
            .map(|(name, _)| (*name, ColumnType::Time))
            .collect();
        self.columns("clock", "the time, one row", &clock);
        let types: Vec<String> = ColumnType::NAMES
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        self.line(&format!("Types of columns: {}.\n", types.join(", ")));
        self.line("SQL is SQLite's, reading only, with these functions more:\n");
        self.pairs(["function", ""], FUNCTIONS);
    }

    fn columns(&mut self, table: &str, what: &str, columns: &[(&str, ColumnType)]) {
        self.heading(3, &format!("{table}: {what}"));
        self.line("| column | type | |\n| --- | --- | --- |");
        for (name, kind) in columns {
            let line = format!(
                "| `{name}` | {} | {} |",
                kind_name(*kind),
                column(table, name)
            );
            self.line(&line);
        }
        self.line("");
    }

    fn templates(&mut self) {
        self.heading(2, "Words of templates");
        self.pairs(["word", ""], WORDS);
    }

    fn conditions(&mut self) {
        self.heading(2, "Conditions and reasons");
        self.line("Those that the runtime writes on every instance; `status` of the package adds others.\n");
        self.pairs(["condition", ""], reason::CONDITIONS);
        self.pairs(["reason", ""], reason::REASONS);
    }

    fn limits(&mut self) {
        self.heading(2, "Limits");
        let Limits {
            steps,
            rows,
            value,
            bytes,
        } = Limits::PACKAGE;
        self.line("| of one query | |\n| --- | --- |");
        for (what, number) in [
            ("steps of SQLite's machine", steps),
            ("rows of its answer", rows as u64),
            ("bytes of a value", value as u64),
            ("bytes of its whole answer", bytes as u64),
        ] {
            self.line(&format!("| {what} | {number} |"));
        }
        self.line("");
    }

    fn scenarios(&mut self, tests: &Value) {
        self.heading(2, "tests.yaml");
        self.keywords(&tests["items"], "");
        self.heading(3, "A step");
        self.keywords(&tests["items"]["properties"]["steps"]["items"], "");
        self.heading(3, "expect");
        self.keywords(&self.definitions["expect"].clone(), "");
    }

    fn mistakes(&mut self) {
        self.heading(2, "Mistakes, and what is said about them");
        self.line(
            "All mistakes of a package are told at once. Each example stands after `crd` of a package whose Kind has the fields `size`, `mode` and others.\n",
        );
        for (part, cases) in MISTAKES {
            self.heading(3, part);
            for (rest, told) in *cases {
                let told = told.replace("package.yaml:", "");
                let _ = writeln!(
                    self.text,
                    "```yaml\n{}\n```\n\n```\n{}\n```\n",
                    rest.trim_end(),
                    told.trim_end()
                );
            }
        }
    }

    fn heading(&mut self, level: usize, title: &str) {
        let title = title.replace(['<', '>'], "");
        let _ = writeln!(self.text, "\n{} {title}\n", "#".repeat(level));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn pairs(&mut self, head: [&str; 2], pairs: &[(&str, &str)]) {
        self.line(&format!("| {} | {} |\n| --- | --- |", head[0], head[1]));
        for (name, what) in pairs {
            self.line(&format!("| `{name}` | {} |", escaped(what)));
        }
        self.line("");
    }

    /// The keywords of a map, those of maps in it with the way there.
    fn keywords(&mut self, schema: &Value, prefix: &str) {
        let schema = self.with_keywords(schema).clone();
        self.line("| keyword | form | |\n| --- | --- | --- |");
        self.rows(&schema, prefix);
        self.line("");
    }

    fn rows(&mut self, schema: &Value, prefix: &str) {
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            if *inner == Value::Bool(false) {
                continue;
            }
            self.row(
                &format!("{prefix}{name}"),
                inner,
                required.contains(&name.as_str()),
            );
            if inner["properties"].is_object() {
                self.rows(inner, &format!("{prefix}{name}."));
            }
        }
    }

    fn row(&mut self, name: &str, schema: &Value, required: bool) {
        let needed = if required { ", needed" } else { "" };
        let line = format!(
            "| `{name}` | {}{needed} | {} |",
            self.form(schema),
            said(schema)
        );
        self.line(&line);
    }

    /// Of alternatives the one that is a map of keywords.
    fn with_keywords<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let schema = self.followed(schema);
        let alternatives = schema["anyOf"].as_array().into_iter().flatten();
        alternatives
            .chain(schema.get("then"))
            .find(|inner| inner["properties"].is_object())
            .unwrap_or(schema)
    }

    fn followed<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(place) => &self.definitions[place.rsplit('/').next().unwrap_or_default()],
            None => schema,
        }
    }

    /// In a word or two, what may stand there.
    fn form(&self, schema: &Value) -> String {
        if let Some(place) = schema["$ref"].as_str() {
            let name = place.rsplit('/').next().unwrap_or_default();
            return match name {
                "sql" => "SQL".to_owned(),
                "texts" => "text, or a list".to_owned(),
                "gvk" => "version/Kind".to_owned(),
                "template" | "duration" | "column" | "command" | "field" | "member" => {
                    name.to_owned()
                }
                _ => "map".to_owned(),
            };
        }
        if let Some(value) = schema.get("const") {
            return format!("`{}`", plain(value));
        }
        if let Some(values) = schema["enum"].as_array() {
            let words: Vec<String> = values
                .iter()
                .map(|value| format!("`{}`", plain(value)))
                .collect();
            return words.join(", ");
        }
        if let Some(items) = schema.get("items") {
            return match self.form(items).as_str() {
                "any" => "list".to_owned(),
                form => format!("list of {form}"),
            };
        }
        if let Some(values) = schema.get("additionalProperties")
            && !values.is_boolean()
        {
            return match self.form(values).as_str() {
                "any" => "map".to_owned(),
                form => format!("map of {form}"),
            };
        }
        if let Some(alternatives) = schema["anyOf"].as_array() {
            let mut forms: Vec<String> =
                alternatives.iter().map(|inner| self.form(inner)).collect();
            forms.dedup();
            return forms.join(" or ");
        }
        if let (Some(one), Some(other)) = (schema.get("then"), schema.get("else")) {
            let mut forms = vec![self.form(one), self.form(other)];
            forms.dedup();
            return forms.join(" or ");
        }
        match &schema["type"] {
            Value::String(kind) => match kind.as_str() {
                "object" => "map",
                "array" => "list",
                "string" => "text",
                "integer" => "whole number",
                "boolean" => "true or false",
                other => other,
            }
            .to_owned(),
            Value::Array(kinds) => {
                let words: Vec<String> = kinds
                    .iter()
                    .map(|kind| self.form(&serde_json::json!({"type": kind})))
                    .collect();
                words.join(" or ")
            }
            _ => "any".to_owned(),
        }
    }
}

/// The compiler takes the modifier with the verb.
fn suits(verb: &str, modifier: &str) -> bool {
    match verb {
        "status" | "metric" => modifier == "name",
        _ if modifier == "during" => verb == "call",
        _ => SENSELESS
            .iter()
            .find(|(known, _)| *known == verb)
            .is_none_or(|(_, senseless)| !senseless.contains(&modifier)),
    }
}

fn said(schema: &Value) -> String {
    let mut text = escaped(schema["description"].as_str().unwrap_or_default());
    if let Some(default) = schema.get("default") {
        if !text.is_empty() {
            text.push(' ');
        }
        let _ = write!(text, "Default `{}`.", plain(default));
    }
    text
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn kind_name(kind: ColumnType) -> String {
    plain(&serde_json::to_value(kind).unwrap_or_default())
}

/// What is in a column that every table of its sort has.
fn column(table: &str, name: &str) -> &'static str {
    match (table, name) {
        ("clock", "now") => "the time in milliseconds since 1970, in steps of ten seconds",
        ("clock", "s10") => "the start of these ten seconds",
        ("clock", "m1") => "the start of this minute",
        ("clock", "m5") => "the start of these five minutes",
        ("clock", "h1") => "the start of this hour",
        ("a probe", "key") => "the target's, as `for` selects it",
        ("a probe", "ok") => "1 when the last question was answered as it should be",
        ("a probe", "error") => "why it was not, else NULL",
        ("a probe", "at") => "when it was asked; never counts as a change",
        ("objects", "gvk") => "version/Kind, or group/version/Kind",
        ("objects", "owned") => "1 when it was applied, 0 when it is only patched",
        ("objects", "ready") => "1 when an object of its Kind does its work; see `ready`",
        (_, "uid") => "metadata.uid",
        (_, "namespace") => "metadata.namespace",
        (_, "name") => "metadata.name",
        (_, "owner") => "uid of the instance that it belongs to",
        (_, "labels") => "metadata.labels",
        (_, "annotations") => "metadata.annotations",
        (_, "generation") => "metadata.generation",
        (_, "deleting") => "1 while it is being deleted",
        (_, "created") => "metadata.creationTimestamp, in milliseconds since 1970",
        (_, "status") => "the whole status",
        (_, "finalizers") => "metadata.finalizers",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_on_the_page_is_explained() {
        let page = reference();
        for (table, columns) in [
            ("cr", INSTANCE_COLUMNS),
            ("a watch", WATCH_COLUMNS),
            ("a probe", PROBE_COLUMNS),
            ("objects", OBJECT_COLUMNS),
        ] {
            for (name, _) in columns {
                assert!(!column(table, name).is_empty(), "{table}.{name}");
            }
        }
        for (name, _) in CLOCK_COLUMNS {
            assert!(!column("clock", name).is_empty(), "{name}");
        }
        let empty: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("| `") && line.ends_with("|  |"))
            .collect();
        assert!(empty.is_empty(), "not explained:\n{}", empty.join("\n"));
        for word in VERBS.iter().chain(MODIFIERS).chain(CALLS).chain(PROBES) {
            assert!(
                page.contains(&format!("`{word}`")) || page.contains(&format!(": {word}\n")),
                "{word}"
            );
        }
    }

    #[test]
    fn modifiers_are_listed_with_the_verbs_that_take_them() {
        assert!(suits("call", "undo") && !suits("apply", "undo"));
        assert!(suits("apply", "ready") && !suits("call", "ready"));
        assert!(suits("status", "name") && !suits("status", "for"));
    }
}
