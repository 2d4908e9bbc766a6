//! The package format as a JSON Schema, for editors. It says where which keyword may stand; what only the compiler can know (SQL, paths,
//! names that must exist) it leaves to `libretto package lint`.
//!
//! Lists that the compiler has a name for are taken from there. That the rest is what the compiler knows, keyword by keyword, is tested:
//! every list of keywords that it compares with anywhere must be one of this schema's objects.

use libretto_api::package::{API_VERSION, CALLS, KIND, PROBES, VERBS};
use libretto_mirror::ColumnType;
use serde_json::{Map, Value, json};

use super::{execute, helm, kind, sense};
use crate::scenario;

/// Of `package.yaml`.
pub fn package_schema() -> Value {
    let mut root = object(
        &[
            ("apiVersion", json!({"const": API_VERSION})),
            ("kind", json!({"const": KIND})),
            ("metadata", metadata()),
            ("spec", spec()),
        ],
        &["apiVersion", "kind", "metadata", "spec"],
    );
    head(
        &mut root,
        "A package of Libretto: an operator as data",
        &definitions(),
    );
    root
}

/// Of `tests.yaml`.
pub fn tests_schema() -> Value {
    let mut root = json!({"type": "array", "items": scenario()});
    head(
        &mut root,
        "Scenarios of a package of Libretto",
        &json!({"expect": expect(), "template": template(), "duration": duration(), "texts": texts()}),
    );
    root
}

fn head(root: &mut Value, title: &str, definitions: &Value) {
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!(title);
    root["$defs"] = definitions.clone();
}

/// A map with these keywords and no others.
fn object(properties: &[(&str, Value)], required: &[&str]) -> Value {
    let properties: Map<String, Value> = properties
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), noted(name, schema.clone())))
        .collect();
    let mut schema =
        json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// With what a keyword of that name says everywhere, unless it says more here.
fn noted(name: &str, mut schema: Value) -> Value {
    let note = match name {
        "alert" => "Rows are alerts that go on.",
        "answers" => "What is answered by what is not simulated.",
        "call" => "What is done; `with` says how.",
        "command" => "The words of one command.",
        "commands" => "Several, in their order; a probe's by name.",
        "cr" => "Fields of the instance by name.",
        "crd" => "The Kind that the package is about.",
        "cron" => "When, as cron says it.",
        "default" => "The value of an instance that does not say.",
        "description" => "For people.",
        "drift" => "What becomes of fields that others change.",
        "enum" => "The values it may have.",
        "expect" => "What must be so then.",
        "fields" => "Columns of cr, by name.",
        "for" => "So much time passes.",
        "given" => "What there is at the beginning.",
        "headers" => "Of the request.",
        "helm" => "A chart, rendered and applied as if its objects stood here.",
        "help" => "What it measures.",
        "host" => "A name or an address.",
        "kind" => "Which Kind.",
        "labels" => "Which labels.",
        "message" => "In a sentence.",
        "metadata" => "Labels and annotations of the instance.",
        "method" => "Default GET, with a body POST.",
        "metric" => "A gauge of the runtime's /metrics.",
        "model" => "What is simulated.",
        "name" => "Its name.",
        "object" => "An object as somebody writes it.",
        "password" => "A text, or secret(NAME, KEY).",
        "plural" => "Default: the kind's, by English rules.",
        "pod" => "Name of a pod of the instance's namespace.",
        "port" => "Its port.",
        "probe" => "What is asked.",
        "reason" => "In one word in CamelCase.",
        "replicas" => "How many there should be.",
        "scope" => "The annotation that tells instances of a cluster-wide operator from others.",
        "shortNames" => "For kubectl.",
        "spec" => "Of the instance.",
        "status" => "What the instance says of itself.",
        "steps" => "What happens, one after another.",
        "summary" => "In a sentence.",
        "timeout" => "How long it may take.",
        "times" => "Times of a condition that are written.",
        "type" => "What it holds.",
        "unmanaged" => "The annotation that takes an instance out of everybody's hands.",
        "until" => "Until nothing is left to do.",
        "url" => "http:// or https://.",
        "username" => "Of Redis' access lists.",
        "value" => "A value, or SQL that selects it.",
        "watch" => "Objects of a Kind.",
        "where" => "Which of them.",
        "with" => "How it is asked or done.",
        _ => return schema,
    };
    if schema.is_object() && schema.get("description").is_none() {
        schema["description"] = json!(note);
    }
    schema
}

/// A map of anything to this.
fn map(values: &Value) -> Value {
    json!({"type": "object", "additionalProperties": values})
}

fn said(mut schema: Value, text: &str) -> Value {
    schema["description"] = json!(text);
    schema
}

fn of(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn truth(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

/// Names as of tables, views, fields and columns.
const WORD: &str = "^[A-Za-z][A-Za-z0-9_]{0,62}$";

fn named(values: &Value) -> Value {
    json!({"type": "object", "additionalProperties": values, "propertyNames": {"pattern": WORD}})
}

fn template() -> Value {
    json!({"description": "A value, or a text with {{ }}."})
}

fn duration() -> Value {
    json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "description": "A whole number and ms, s, m or h."})
}

fn texts() -> Value {
    json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
}

fn definitions() -> Value {
    json!({
        "template": template(),
        "duration": duration(),
        "texts": texts(),
        "sql": {"type": "string", "description": "One SELECT in SQLite's SQL; fields of the instance are :parameters."},
        "gvk": {"type": "string", "pattern": "^([^/]+/)?[^/]+/[^/]+$", "description": "version/Kind, or group/version/Kind."},
        "column": column(),
        "event": event(),
        "command": command(),
        "redisCall": redis(false),
        "redisProbe": redis(true),
        "httpCall": http(false),
        "httpProbe": http(true),
        "tcpProbe": object(&[("host", of("template")), ("port", of("template"))], &["host", "port"]),
        "execCall": exec(false),
        "execProbe": exec(true),
        "dnsProbe": object(&[("name", of("template"))], &["name"]),
        "prometheusProbe": prometheus(),
        "scaling": object(&[
            ("kind", of("gvk")),
            ("name", of("template")),
            ("replicas", of("template")),
        ], &["kind", "name", "replicas"]),
        "restart": object(&[
            ("kind", json!({"enum": ["apps/v1/Deployment", "apps/v1/StatefulSet", "apps/v1/DaemonSet"]})),
            ("name", of("template")),
        ], &["kind", "name"]),
        "eviction": object(&[
            ("name", of("template")),
            ("uid", said(of("template"), "Only that incarnation is evicted.")),
        ], &["name"]),
        "deletion": object(&[
            ("kind", of("gvk")),
            ("name", of("template")),
            ("uid", said(of("template"), "Only that incarnation is deleted.")),
        ], &["kind", "name"]),
        "field": field(true),
        "member": field(false),
        "structure": structure(),
    })
}

fn metadata() -> Value {
    object(
        &[
            (
                "name",
                json!({"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$"}),
            ),
            (
                "version",
                text("Of the package, in quotes when it looks like a number."),
            ),
            ("description", text("What it is for.")),
        ],
        &["name", "version"],
    )
}

fn spec() -> Value {
    object(
        &[
            ("crd", crd()),
            (
                "sense",
                said(named(&table()), "Tables: what the package looks at."),
            ),
            (
                "decide",
                said(named(&of("sql")), "Views: what follows from the tables."),
            ),
            (
                "execute",
                json!({"type": "array", "items": rule(), "description": "Rules: what is done about rows."}),
            ),
        ],
        &["crd"],
    )
}

fn crd() -> Value {
    let scope = object(
        &[
            ("annotation", text("Of the instance.")),
            (
                "value",
                text(
                    "With it a cluster-wide operator takes the instance, without it one of the namespace.",
                ),
            ),
        ],
        &["annotation", "value"],
    );
    let unmanaged = object(
        &[
            ("annotation", text("Of the instance.")),
            ("value", text("With it the instance is nobody's.")),
        ],
        &["annotation", "value"],
    );
    let column = object(
        &[
            ("path", text("Where in the instance, such as spec.size.")),
            ("type", json!({"enum": ColumnType::NAMES})),
            ("default", json!({})),
            (
                "sensitive",
                truth("The value is only ever spoken about by handle."),
            ),
        ],
        &["path"],
    );
    let file = object(
        &[
            ("file", text("A CustomResourceDefinition in the package.")),
            (
                "version",
                text("The served version that the package works with."),
            ),
            ("scope", scope.clone()),
            ("unmanaged", unmanaged.clone()),
            (
                "fields",
                named(&json!({"anyOf": [text("A path: a text without default."), column]})),
            ),
        ],
        &["file", "version"],
    );
    let mut short: Vec<(&str, Value)> = kind::KEYWORDS
        .iter()
        .map(|keyword| {
            let schema = match *keyword {
                "shortNames" => of("texts"),
                "schema" => said(named(&of("field")), "Fields of spec, each a column of cr."),
                "group" => text("A domain of yours."),
                "overrides" => {
                    truth("Users may lay fields over the objects that are made for them.")
                }
                _ => json!({"type": "string"}),
            };
            (*keyword, schema)
        })
        .collect();
    short.push(("version", text("Such as v1.")));
    short.push(("scope", scope));
    short.push(("unmanaged", unmanaged));
    json!({
        "if": {"required": ["file"]},
        "then": file,
        "else": object(&short, &["group", "kind", "version"]),
    })
}

/// A field of the short form; at the top it is a column.
fn field(top: bool) -> Value {
    let types: Vec<&str> = kind::TYPES.iter().map(|(name, ..)| *name).collect();
    let inner = json!({"anyOf": [of("member"), of("structure")]});
    let mut keywords = vec![
        ("type", json!({"enum": types})),
        ("default", json!({})),
        (
            "min",
            json!({"type": "number", "description": "Of a number, or of the length of a list."}),
        ),
        (
            "max",
            json!({"type": "number", "description": "Of a number, or of the length of a list."}),
        ),
        ("enum", json!({"type": "array"})),
        ("pattern", text("A regular expression, for texts.")),
        (
            "items",
            said(
                inner.clone(),
                "What a list holds: a type, or the fields of a structure.",
            ),
        ),
        (
            "values",
            said(
                inner,
                "What a map holds: a type, or the fields of a structure.",
            ),
        ),
        ("required", truth("An instance without it is refused.")),
        ("description", json!({"type": "string"})),
    ];
    if top {
        keywords.push((
            "sensitive",
            truth("The value is only ever spoken about by handle."),
        ));
    }
    json!({"anyOf": [{"enum": types}, {"type": "null"}, object(&keywords, &[])]})
}

/// Fields of a structure inside a list or map. Fields of these names would make it a type.
fn structure() -> Value {
    json!({
        "type": "object",
        "additionalProperties": of("member"),
        "propertyNames": {"not": {"enum": ["type", "items", "values"]}},
    })
}

fn table() -> Value {
    let columns = said(
        named(&of("column")),
        "Columns: what of each object or answer is kept.",
    );
    let watch = object(
        &[
            ("watch", of("gvk")),
            (
                "where",
                object(&[("labels", map(&json!({"type": "string"})))], &[]),
            ),
            (
                "reach",
                json!({"enum": ["own", "namespace"], "default": "own", "description": "Objects of the instance, or all of its namespace."}),
            ),
            ("cols", columns.clone()),
        ],
        &["watch"],
    );
    let mut probe = object(
        &[
            ("probe", json!({"enum": PROBES})),
            ("for", said(of("sql"), "The targets, with a column `key`.")),
            ("every", said(of("duration"), "Default 5s, at least 100ms.")),
            ("timeout", said(of("duration"), "Default 2s.")),
            ("with", json!({"type": "object"})),
            ("cols", columns),
            (
                "misses",
                json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 3, "description": "After so many in a row the columns become NULL."}),
            ),
        ],
        &["probe", "for", "with"],
    );
    probe["allOf"] = choices("probe", PROBES, |name| of(&format!("{name}Probe")));
    let values = object(
        &[(
            "values",
            json!({"type": "array", "minItems": 1, "maxItems": 1000, "description": "Rows of constants."}),
        )],
        &["values"],
    );
    json!({
        "if": {"required": ["watch"]},
        "then": watch,
        "else": {"if": {"required": ["probe"]}, "then": probe, "else": values},
    })
}

/// `with` follows from the word at `keyword`.
fn choices(keyword: &str, names: &[&str], with: impl Fn(&str) -> Value) -> Value {
    names
        .iter()
        .map(|name| {
            json!({
                "if": {"required": [keyword], "properties": {keyword: {"const": name}}},
                "then": {"properties": {"with": with(name)}},
            })
        })
        .collect()
}

fn column() -> Value {
    let long = object(
        &[
            ("path", text("Where in the object or answer.")),
            ("type", json!({"enum": ColumnType::NAMES})),
            (
                "only",
                said(of("texts"), "Members that are kept, of type json."),
            ),
        ],
        &["path"],
    );
    json!({"anyOf": [text("A path: a text."), long]})
}

fn redis(probe: bool) -> Value {
    let timeout = if probe { json!(false) } else { of("duration") };
    let mut schema = object(
        &[
            ("host", of("template")),
            ("port", said(of("template"), "Default 6379.")),
            ("username", of("template")),
            ("password", of("template")),
            ("timeout", timeout),
            ("command", of("command")),
            (
                "commands",
                json!({"anyOf": [{"type": "array", "items": of("command")}, map(&of("command"))]}),
            ),
        ],
        &["host"],
    );
    schema["oneOf"] = json!([{"required": ["command"]}, {"required": ["commands"]}]);
    schema
}

fn command() -> Value {
    let words = json!({"anyOf": [{"type": "array", "minItems": 1}, {"type": "string", "pattern": "\\{[{%]"}]});
    let long = object(
        &[
            ("command", words.clone()),
            (
                "when",
                said(of("template"), "Sent only if true; not in a probe."),
            ),
            (
                "ignore",
                said(of("texts"), "Errors that begin so count as success."),
            ),
            (
                "expect",
                json!({"type": "array", "minItems": 1, "description": "Go on only if the reply begins so."}),
            ),
        ],
        &["command"],
    );
    json!({"if": {"type": "object"}, "then": long, "else": words})
}

fn http(probe: bool) -> Value {
    let mut keywords = vec![
        ("method", json!({"enum": sense::METHODS})),
        ("url", of("template")),
        ("headers", map(&of("template"))),
        ("json", said(of("template"), "A structure, sent as JSON.")),
        ("body", said(of("template"), "A text.")),
    ];
    if !probe {
        keywords.push((
            "ok",
            json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 100, "maximum": 599}, "description": "Codes of success; default 200 to 299."}),
        ));
        keywords.push(("timeout", of("duration")));
    }
    let mut schema = object(&keywords, &["url"]);
    schema["not"] = json!({"required": ["json", "body"]});
    schema
}

fn exec(probe: bool) -> Value {
    let mut keywords = vec![
        ("pod", of("template")),
        (
            "container",
            said(of("template"), "Default: the pod's own default."),
        ),
        (
            "command",
            json!({"anyOf": [{"type": "array", "minItems": 1}, {"type": "string", "pattern": "\\{[{%]"}], "description": "A list of words; no shell is between."}),
        ),
        ("stdin", said(of("template"), "A text.")),
    ];
    if !probe {
        keywords.push((
            "ok",
            json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 255}, "description": "Exit codes of success; default 0."}),
        ));
        keywords.push(("timeout", said(of("duration"), "Default 10s.")));
    }
    object(&keywords, &["pod", "command"])
}

fn prometheus() -> Value {
    let mut schema = object(
        &[
            (
                "url",
                said(
                    of("template"),
                    "Of a page in the text format or, with `query`, of a server.",
                ),
            ),
            ("headers", map(&of("template"))),
            (
                "metrics",
                said(of("texts"), "Only these of a page; default all."),
            ),
            ("query", said(of("template"), "PromQL, asked for now.")),
        ],
        &["url"],
    );
    schema["not"] = json!({"required": ["metrics", "query"]});
    schema
}

fn alert() -> Value {
    object(
        &[
            (
                "severity",
                said(of("template"), "info, warning (default) or critical."),
            ),
            ("summary", of("template")),
            ("description", of("template")),
            (
                "labels",
                said(named(&of("template")), "Beside the runtime's own."),
            ),
        ],
        &["summary"],
    )
}

fn event() -> Value {
    object(
        &[
            ("type", said(of("template"), "Normal (default) or Warning.")),
            ("reason", of("template")),
            ("message", of("template")),
        ],
        &["reason", "message"],
    )
}

/// Name of the definition of a call's `with`.
fn call(name: &str) -> Value {
    of(match name {
        "kube.delete" => "deletion",
        "kube.scale" => "scaling",
        "kube.restart" => "restart",
        "kube.evict" => "eviction",
        "exec" => "execCall",
        "event" => "event",
        "http" => "httpCall",
        _ => "redisCall",
    })
}

fn rule() -> Value {
    let mut keywords: Vec<(&str, Value)> = VERBS.iter().map(|name| (*name, verb(name))).collect();
    keywords.extend(
        execute::MODIFIERS
            .iter()
            .map(|name| (*name, modifier(name))),
    );
    let mut schema = object(&keywords, &[]);
    let verbs: Vec<Value> = VERBS
        .iter()
        .map(|name| json!({"required": [name]}))
        .collect();
    schema["oneOf"] = json!(verbs);
    let mut rules = vec![
        json!({"if": {"required": ["status"]}, "then": object(&[("name", json!({})), ("status", json!({}))], &[])}),
        json!({"if": {"required": ["metric"]}, "then": object(&[("name", json!({})), ("metric", json!({}))], &[])}),
        json!({"if": {"required": ["call"]}, "then": {"required": ["name", "with"]}}),
    ];
    for (verb, senseless) in execute::SENSELESS {
        let mut properties: Map<String, Value> = senseless
            .iter()
            .map(|name| ((*name).to_owned(), json!(false)))
            .collect();
        if *verb != "call" {
            properties.insert("during".to_owned(), json!(false));
        }
        rules.push(json!({"if": {"required": [verb]}, "then": {"properties": properties, "required": ["name"]}}));
    }
    if let Value::Array(choices) = choices("call", CALLS, call) {
        rules.extend(choices);
    }
    schema["allOf"] = Value::Array(rules);
    schema
}

fn verb(name: &str) -> Value {
    let manifest = json!({"type": "object", "required": ["apiVersion", "kind", "metadata"]});
    match name {
        "apply" => {
            json!({"anyOf": [of("texts"), manifest], "description": "Files of the package, or an object: server-side apply, with drift repaired."})
        }
        "patch" => {
            json!({"anyOf": [{"type": "string"}, manifest], "description": "Fields of an object that somebody else owns."})
        }
        "helm" => chart(),
        "call" => json!({"enum": CALLS}),
        "alert" => alert(),
        "status" => status(),
        _ => object(
            &[
                (
                    "name",
                    json!({"type": "string", "pattern": "^[a-z][a-z0-9_]*$"}),
                ),
                ("help", json!({"type": "string"})),
                (
                    "value",
                    said(of("sql"), "A column `value`, and one for each label."),
                ),
                ("labels", of("texts")),
            ],
            &["name", "value"],
        ),
    }
}

fn chart() -> Value {
    let skips: Vec<&str> = helm::SKIPS.iter().map(|(name, _)| *name).collect();
    let value = json!({"type": ["object", "string"]});
    object(
        &[
            (
                "chart",
                text("A folder of the package, or an archive as `helm pull` writes it."),
            ),
            (
                "from",
                said(
                    object(
                        &[
                            (
                                "repository",
                                text(
                                    "https://HOST/PATH, or oci://HOST/PATH without the chart's name.",
                                ),
                            ),
                            ("name", text("Of the chart, in the repository.")),
                            ("version", text("Exactly this one.")),
                        ],
                        &["repository", "name", "version"],
                    ),
                    "Where `libretto package fetch` gets it.",
                ),
            ),
            (
                "release",
                said(of("template"), "Default: the instance's name."),
            ),
            (
                "values",
                json!({"anyOf": [value, {"type": "array", "items": value}], "description": "A map, a file, or a list of these, each laid over the one before."}),
            ),
            (
                "kinds",
                said(of("texts"), "Kinds that cannot be read off the templates."),
            ),
            (
                "skip",
                json!({"anyOf": [{"enum": skips}, {"type": "array", "items": {"enum": skips}}], "description": "What the chart goes without."}),
            ),
        ],
        &["chart"],
    )
}

fn status() -> Value {
    object(
        &[
            (
                "fields",
                said(of("sql"), "One row; its columns are paths of status."),
            ),
            (
                "json",
                said(of("texts"), "Columns of fields whose text is JSON."),
            ),
            (
                "conditions",
                said(map(&of("sql")), "By type: a row of ok, reason, message."),
            ),
            (
                "ready",
                said(
                    of("sql"),
                    "A row of ok, reason, message, stalled: what the package says about Ready.",
                ),
            ),
            (
                "order",
                json!({"enum": ["declared", "newest"], "default": "declared"}),
            ),
            (
                "times",
                json!({"anyOf": [{"enum": execute::TIMES}, {"type": "array", "items": {"enum": execute::TIMES}}]}),
            ),
            (
                "runtime",
                truth("Default true: add the conditions Ready, Reconciling and Stalled."),
            ),
        ],
        &[],
    )
}

fn modifier(name: &str) -> Value {
    match name {
        "name" => json!({"type": "string", "description": "Unique in the package."}),
        "for" => said(
            of("sql"),
            "One row of work per row; without it the instance is the one row.",
        ),
        "key" => said(
            of("texts"),
            "Columns that identify a row; default `key`, else `name`, else all.",
        ),
        "on" => said(of("texts"), "Columns whose change counts; default all."),
        "stable" => said(
            of("duration"),
            "Act only on rows that have been there, unchanged, that long.",
        ),
        "repeat" => said(
            of("duration"),
            "The row should vanish; act again while it does not.",
        ),
        "once" => truth("Once per row, remembered across restarts."),
        "after" => said(of("texts"), "Rules that must be settled first."),
        "limit" => json!({"type": "integer", "minimum": 1, "description": "Most rows in flight."}),
        "ignore" => said(
            of("texts"),
            "Fields that are never compared after creation.",
        ),
        "adopt" => truth("Take over an existing object of that name."),
        "leave" => {
            json!({"const": "orphan", "description": "Keep the object when its row leaves."})
        }
        "event" => said(of("event"), "Recorded when a row's effect succeeded."),
        "own" => truth("Default true: an owner reference to the instance."),
        "with" => json!({"type": "object", "description": "What the call says."}),
        "undo" => {
            let mut undo = object(
                &[
                    ("call", json!({"enum": CALLS})),
                    ("with", json!({"type": "object"})),
                ],
                &["call", "with"],
            );
            undo["allOf"] = choices("call", CALLS, call);
            said(undo, "The call that takes this one back.")
        }
        "during" => {
            json!({"const": "delete", "description": "Acts while the instance is being deleted, and only then."})
        }
        "ready" => said(
            of("sql"),
            "Rows of ok and, where not all objects are meant, name and kind; message.",
        ),
        "schedule" => json!({
            "if": {"type": "object"},
            "then": object(
                &[
                    ("cron", text("Minute, hour, day of the month, month, day of the week.")),
                    ("zone", text("Of the IANA database; default UTC.")),
                ],
                &["cron"],
            ),
            "else": {"type": "string"},
            "description": "Times of the calls, as cron says them.",
        }),
        "drift" => json!({"enum": ["repair", "keep"], "default": "repair"}),
        "force" => truth("Take the fields from whoever holds them."),
        // Known to the compiler and not described here: better than a keyword that an editor calls wrong.
        _ => json!({}),
    }
}

fn scenario() -> Value {
    let answer = object(
        &[
            ("probe", text("A probe's table.")),
            ("call", text("A rule with `call`.")),
            ("key", text("Default: every target, or row.")),
            (
                "answer",
                json!({"description": "In the form of the probe's answers."}),
            ),
            ("error", text("Why it fails.")),
        ],
        &[],
    );
    let answers = json!({"type": "array", "items": answer, "description": "What is answered by what is not simulated."});
    let given = object(
        &[
            (
                "cr",
                said(map(&json!({})), "Fields of the instance by name."),
            ),
            ("spec", json!({"type": "object"})),
            ("metadata", json!({"type": "object"})),
            (
                "model",
                json!({"enum": ["redis", "redis-sentinel", "kubernetes"]}),
            ),
            (
                "objects",
                json!({"type": "array", "items": {"type": "object"}, "description": "What else exists."}),
            ),
            ("answers", answers.clone()),
        ],
        &[],
    );
    let happens: Map<String, Value> = scenario::HAPPENINGS
        .iter()
        .map(|name| {
            let schema = match *name {
                "cr" | "spec" | "metadata" | "object" => json!({"type": "object"}),
                "write" => json!({"type": "integer", "description": "So many keys."}),
                "answers" => answers.clone(),
                _ => text("Kind/name"),
            };
            ((*name).to_owned(), noted(name, schema))
        })
        .collect();
    let mut step = object(
        &[
            (
                "set",
                json!({"type": "object", "additionalProperties": false, "properties": happens, "description": "What happens."}),
            ),
            ("until", json!({"const": "settled"})),
            ("for", of("duration")),
            ("expect", of("expect")),
        ],
        &[],
    );
    step["not"] = json!({"required": ["until", "for"]});
    let mut schema = object(
        &[
            ("name", json!({"type": "string"})),
            ("given", given),
            ("steps", json!({"type": "array", "items": step})),
            (
                "tables",
                said(
                    map(&json!({"type": "array", "items": {"type": "object"}})),
                    "Rows of tables and views, for one evaluation.",
                ),
            ),
            ("expect", of("expect")),
            (
                "sweep",
                truth("Default true: play it again with crashes and events in another order."),
            ),
        ],
        &["name"],
    );
    schema["oneOf"] = json!([{"required": ["steps"]}, {"required": ["tables"]}]);
    schema
}

fn expect() -> Value {
    let keywords: Vec<(&str, Value)> = scenario::EXPECTATIONS
        .iter()
        .map(|name| {
            let schema = match *name {
                "rows" => said(map(&json!({})), "Of a table, view or rule."),
                "applied" => said(
                    map(&json!({"type": ["object", "null"]})),
                    "Parts of objects by Kind/name; null for none.",
                ),
                "calls" => said(
                    map(&json!({"type": "integer"})),
                    "How often a rule's call succeeded in the step.",
                ),
                "status" => json!({"type": "object"}),
                "order" => said(of("texts"), "Of calls."),
                "never" => said(of("texts"), "Queries without a row all through the step."),
                _ => json!({}),
            };
            (*name, schema)
        })
        .collect();
    object(&keywords, &[])
}

/// Names of everything that may stand beside a verb.
#[cfg(test)]
pub(crate) fn modifiers() -> &'static [&'static str] {
    execute::MODIFIERS
}

/// Which lists of keywords were compared with, and where: to be held against the schemas.
#[cfg(test)]
pub(crate) mod seen {
    use std::{cell::RefCell, collections::BTreeSet, panic::Location};

    /// File, line, keywords.
    pub(crate) type Seen = BTreeSet<(String, u32, Vec<String>)>;

    thread_local! {
        static SEEN: RefCell<Seen> = RefCell::default();
    }

    pub(crate) fn note(place: &Location<'_>, known: &[&str]) {
        let mut known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
        known.sort();
        SEEN.with_borrow_mut(|seen| {
            seen.insert((place.file().to_owned(), place.line(), known));
        });
    }

    pub(crate) fn take() -> Seen {
        SEEN.take()
    }
}
