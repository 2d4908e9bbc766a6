//! What a bad package is told: everything at once, each with its place, and what to do.

use super::*;

#[test]
fn mistakes_are_told_with_place_and_hint() {
    let wrong: Vec<String> = crate::compile::mistakes::MISTAKES
        .iter()
        .flat_map(|(_, cases)| cases.iter())
        .map(|(rest, expected)| (rest, expected, told(&package(rest))))
        .filter(|(_, expected, found)| found != *expected)
        .map(|(rest, expected, found)| format!("of\n{rest}expected\n{expected}found\n{found}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn everything_is_told_at_once() {
    let rest = "sense:\n  pods: {watch: Pod}\ndecide:\n  a: SELECT nam FROM cr\n  b: SELECT * FROM pods\nexecute:\n  - {name: x, for: SELECT * FROM a, call: event, with: {reason: R, message: \"{{ y }}\"}}\n  - {name: y, stable: soon, call: event, with: {reason: R, message: m}}\n";
    let found = told(&package(rest));
    let lines: Vec<&str> = found
        .lines()
        .filter(|line| !line.starts_with("  hint"))
        .collect();
    assert_eq!(
        lines.len(),
        3,
        "what stands on something broken is not blamed:\n{found}"
    );
}

#[test]
fn the_definition_is_checked_against_the_fields() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "size: {path: spec.size,",
            "size: {path: spec.sise,",
            "package.yaml:9:20: crd.fields.size: the schema in `crd.yaml` has no `spec.sise`\n  hint: did you mean `size`?\n",
        ),
        (
            "size: {path: spec.size,",
            "size: {path: spec.labels.any,",
            "",
        ),
        (
            "size: {path: spec.size,",
            "size: {path: spec.free.any.thing,",
            "",
        ),
        (
            "size: {path: spec.size,",
            "size: {path: 'spec.ports[name=a].port',",
            "",
        ),
        (
            "size: {path: spec.size,",
            "size: {path: 'spec.ports[name=a].prt',",
            "package.yaml:9:20: crd.fields.size: the schema in `crd.yaml` has no `spec.ports[name=a].prt`\n  hint: did you mean `port`?\n",
        ),
        (
            "size: {path: spec.size,",
            "size: {path: 'spec.size[0]',",
            "package.yaml:9:20: crd.fields.size: the schema in `crd.yaml` has no `spec.size[0]`\n  hint: spec.size is not an array\n",
        ),
        (
            "size: {path: spec.size,",
            "size: {path: metadata.labels.x,",
            "",
        ),
        (
            "default: 3}",
            "default: many}",
            "package.yaml:9:51: crd.fields.size.default does not fit its type\n",
        ),
        (
            "size: {path: spec.size,",
            "uid: {path: spec.size,",
            "package.yaml:9:7: `uid` is a column that cr always has\n",
        ),
        (
            "version: v1\n",
            "version: v3\n",
            "package.yaml:7:14: `crd.yaml` has no version `v3`\n  hint: it has: v1, v2\n",
        ),
        (
            "file: crd.yaml",
            "file: cdr.yaml",
            "package.yaml:6:11: there is no file `cdr.yaml` in the package\n",
        ),
        (
            "apiVersion: libretto.dev/v1alpha1",
            "apiVersion: libretto.dev/v2",
            "package.yaml:1:13: apiVersion must be libretto.dev/v1alpha1\n",
        ),
        (
            "name: demo",
            "name: Demo",
            "package.yaml:3:18: `Demo` cannot be the name of a package\n  hint: lower-case letters, digits and -, beginning with a letter, at most 50\n",
        ),
        (
            "file: crd.yaml",
            "group: example.dev",
            "package.yaml:6:5: crd needs `kind`\npackage.yaml:8:5: unknown keyword `fields` in crd\n  hint: crd knows: version, scope, unmanaged, group, kind, plural, shortNames, schema, overrides\n",
        ),
    ];
    for (old, new, expected) in cases {
        let mut files = package("");
        let text = files["package.yaml"].replace(old, new);
        files.insert("package.yaml".to_owned(), text);
        assert_eq!(&told(&files), expected, "{new}");
    }
    let mut files = package("");
    files.insert(
        "crd.yaml".to_owned(),
        CRD.replace("scope: Namespaced", "scope: Cluster")
            .replace("      subresources: {status: {}}\n", ""),
    );
    let found = told(&files);
    assert!(
        found.contains("cluster-scoped instances are not supported")
            && found.contains("needs `subresources: {status: {}}`"),
        "{found}"
    );
}

#[test]
fn objects_in_files_are_checked_in_their_files() {
    let mut files = package("execute:\n  - {name: a, apply: objects/*.yaml}\n");
    files.insert("objects/a.yaml".to_owned(), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  file: |\n    one\n    {{ cr.nope }}\n    {% for x in y %}{% endfor %}\n---\nkind: Service\nmetadata: {name: \"{{ cr.name }}\"}\n".to_owned());
    files.insert("objects/b.yaml".to_owned(), "a: [\n".to_owned());
    let found = told(&files);
    let expected = [
        "objects/a.yaml:6:5: `y` is not declared\n",
        "objects/a.yaml:6:5: cr has no field `nope`\n",
        "objects/a.yaml:10:1: rule a: the object needs `apiVersion`\n",
        "objects/b.yaml:",
    ];
    for line in expected {
        assert!(found.contains(line), "no `{line}` in\n{found}");
    }
}

#[test]
fn what_a_package_needs_follows_from_what_it_says() {
    let rest = r#"
sense:
  pods: {watch: v1/Pod, where: {labels: {app: demo, tier: a}}}
  more: {watch: v1/Pod, where: {labels: {app: demo}}}
execute:
  - {name: a, apply: {apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}}
  - {name: b, patch: {apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: b}}}
  - metric: {name: demo_pods, help: pods, value: SELECT count(*) FROM pods}
"#;
    let package = compiled(rest);
    let watches: Vec<String> = package
        .watches()
        .iter()
        .map(|watch| format!("{} {:?}", watch.gvk, watch.labels))
        .collect();
    assert_eq!(
        watches,
        [
            r#"v1/Pod {"app": "demo"}"#,
            r#"apps/v1/Deployment {"libretto.dev/package": "demo"}"#,
            "apps/v1/ReplicaSet {}",
            "example.dev/v1/Thing {}",
            "networking.k8s.io/v1/Ingress {}",
        ]
    );
    assert_eq!(package.metrics()[0].name, "demo_pods");
    assert_eq!(
        (
            package.name(),
            package.version(),
            package.gvk().to_string().as_str()
        ),
        ("demo", "1.0.0", "example.dev/v1/Thing")
    );
    assert_eq!(package.written().len(), 2);
}

#[test]
fn leaves_keep_their_types_and_know_their_functions() {
    let rest = r#"
sense:
  rows: {watch: v1/Secret, reach: namespace, cols: {flag: {path: data.flag, type: bool}, list: {path: data.list, type: json}}}
execute:
  - name: a
    for: SELECT name, flag, list, 1.5 AS ratio, NULL AS absent FROM rows
    apply:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: "map-{{ name }}"}
      data:
        int: "{{ cr.size }}"
        text: "size {{ cr.size }}"
        flag: "{{ flag }}"
        list: "{{ list }}"
        first: "{{ list[0].a }}"
        ratio: "{{ ratio }}"
        nothing: "{{ absent }}"
        either: "{{ absent or 'else' }}"
        gone: "{{ omit }}"
        items: ["{{ cr.mode }}", "{{ omit }}", "{{ [1, omit, 2] }}"]
        "key-{{ name }}": "{{ {'a': {'b': 1}, 'c': omit} }}"
        b64: "{{ 'x' | b64encode }}"
        sha: "{{ 'abc' | sha1 }}"
        shell: "{{ \"it's\" | quote_shell }}"
        json: "{{ list | tojson }}"
        parsed: "{{ '[1]' | fromjson }}"
        secret: "{{ secret('a', 'b') }}"
        block: |
          {% for item in list %}
          a {{ item.a }}
          {% endfor %}
        end: "{{ 'no braces' }} {{ 'one' }}"
        plain: no
        "off": on
"#;
    let mut f = Fixture::new(rest);
    f.put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "r", "namespace": "ns"}, "data": {"flag": true, "list": [{"a": 1}, {"a": 2}]}}));
    let plan = f.look(0);
    let Effect::Apply { object, .. } = &plan.intents[1].effect else {
        panic!("{plan:?}")
    };
    assert_eq!(
        object["data"],
        json!({
            "int": 3, "text": "size 3", "flag": true, "list": [{"a": 1}, {"a": 2}], "first": 1, "ratio": 1.5, "nothing": null, "either": "else",
            "items": ["plain", [1, 2]], "key-r": {"a": {"b": 1}}, "b64": "eA==", "sha": "a9993e364706816aba3e25717850c26c9cd0d89d",
            "shell": "'it'\\''s'", "json": "[{\"a\":1},{\"a\":2}]", "parsed": [1], "secret": "\u{1}secret:key:a:b\u{1}",
            "block": "a 1\na 2\n", "end": "no braces one", "plain": "no", "off": "on",
        })
    );
}

#[test]
fn templates_that_fail_say_where_and_why() {
    let cases = [
        (
            "text {{ x }}",
            "a value inside text is NULL: give it a default, like {{ x or '' }}",
        ),
        ("text {{ omit }}", "omit must stand alone in its leaf"),
        ("{{ cr.labels.a.b }}", "undefined"),
        ("{{ range(10000000) | list | length }}", "range"),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "template took more than 100000 instructions",
        ),
        ("{{ 'x' | fromjson }}", "fromjson: not JSON"),
    ];
    for (template, expected) in cases {
        let rest = format!(
            "execute:\n  - name: a\n    for: SELECT NULL AS x, 'k' AS key\n    call: event\n    with: {{reason: R, message: \"{template}\"}}\n"
        );
        let mut f = Fixture::new(&rest);
        let failure = f.look(0).rules[0].failure.clone().unwrap_or_default();
        assert!(failure.contains(expected), "{template}: {failure}");
        assert!(
            failure.starts_with("row k: package.yaml:18:"),
            "{template}: {failure}"
        );
    }
}

const SHORT: &str = r#"
apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {name: demo, version: 1.0.0}
spec:
  crd:
    group: example.dev
    kind: Policy
    version: v1
    shortNames: [pol]
    schema:
      replicas: {type: int, default: 3, min: 1, max: 9, description: How many.}
      image:    {default: "redis:7.2"}
      host:     {type: string, required: true, pattern: "^[a-z.]+$"}
      mode:     {enum: [a, b], default: a}
      password: {sensitive: true}
      memory:   {type: quantity, default: 1Gi}
      tags:     {type: map}
      paths:    {type: list, max: 4}
      users:    {type: list, items: {name: {required: true}, level: int}, default: []}
      extra:    json
      debug:    bool
"#;

#[test]
fn a_kind_in_short_form_becomes_a_definition() {
    let files = BTreeMap::from([("package.yaml".to_owned(), SHORT.to_owned())]);
    let package = load_files(&files).unwrap();
    let crd = package.crd();
    assert_eq!(crd["metadata"]["name"], "policies.example.dev");
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["pol"]));
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(schema["required"], json!(["spec"]));
    let spec = &schema["properties"]["spec"];
    assert_eq!(spec["required"], json!(["host"]));
    assert_eq!(
        spec["properties"],
        json!({
            "replicas": {"type": "integer", "default": 3, "minimum": 1, "maximum": 9, "description": "How many."},
            "image": {"type": "string", "default": "redis:7.2"},
            "host": {"type": "string", "pattern": "^[a-z.]+$"},
            "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "password": {"type": "string"},
            "memory": {"x-kubernetes-int-or-string": true, "default": "1Gi", "anyOf": [{"type": "integer"}, {"type": "string"}],
                "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTP]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"},
            "tags": {"type": "object", "additionalProperties": {"type": "string"}},
            "paths": {"type": "array", "maxItems": 4, "items": {"type": "string"}},
            "users": {"type": "array", "default": [], "items": {"type": "object", "required": ["name"],
                "properties": {"name": {"type": "string"}, "level": {"type": "integer"}}}},
            "extra": {"x-kubernetes-preserve-unknown-fields": true},
            "debug": {"type": "boolean"},
            "paused": {"type": "boolean", "description": "Nothing is changed while this is true."},
            "stopped": {"type": "boolean", "description": "Workloads have no replicas while this is true; data stays."},
        })
    );
    let field = |name: &str| package.fields().iter().find(|field| field.name == name);
    assert_eq!(field("users").unwrap().path.to_string(), "spec.users");
    assert!(field("password").unwrap().sensitive);
    assert_eq!(package.gvk(), &Gvk::new("example.dev", "v1", "Policy"));
}

#[test]
fn mistakes_in_a_short_form_are_told() {
    for (old, new, expected) in [
        (
            "group: example.dev",
            "group: example",
            "package.yaml:7:12: `example` cannot be the group of a Kind\n  hint: a domain such as example.com\n",
        ),
        (
            "kind: Policy",
            "kind: policy",
            "package.yaml:8:11: `policy` cannot be the kind of a Kind\n  hint: letters and digits, beginning with a capital letter\n",
        ),
        (
            "version: v1\n",
            "version: one\n",
            "package.yaml:9:14: `one` cannot be the version of a Kind\n  hint: v1, v1beta1, v2alpha3\n",
        ),
        (
            "debug:    bool",
            "debug:    boolean",
            "package.yaml:22:17: crd.schema.debug: there is no type `boolean`\n  hint: types are: string, int, float, bool, quantity, list, map, json\n",
        ),
        (
            "debug:    bool",
            "debug:    {type: bool, min: 1}",
            "package.yaml:22:35: crd.schema.debug: `min` is not for type bool\n  hint: it is for: int, float, list\n",
        ),
        (
            "debug:    bool",
            "debug:    {type: bool, default: perhaps}",
            "package.yaml:22:39: crd.schema.debug.default does not fit its type\n",
        ),
        (
            "level: int",
            "level: {type: int, sensitive: true}",
            "package.yaml:20:69: crd.schema.users.items.level: only a string can be sensitive\npackage.yaml:20:81: unknown keyword `sensitive` in crd.schema.users.items.level\n  hint: crd.schema.users.items.level knows: type, default, min, max, enum, pattern, items, values, required, description\n",
        ),
        (
            "debug:    bool",
            "uid:      string",
            "package.yaml:22:7: `uid` is a column that cr always has\n",
        ),
        (
            "    group: example.dev\n    kind: Policy\n    version: v1\n    shortNames: [pol]\n",
            "    version: v1\n",
            "package.yaml:7:5: crd needs `group`\npackage.yaml:7:5: crd needs `kind`\n",
        ),
    ] {
        let text = SHORT.replacen(old, new, 1);
        assert_ne!(text, SHORT, "{old}");
        let files = BTreeMap::from([("package.yaml".to_owned(), text)]);
        assert_eq!(told(&files), expected, "{new}");
    }
}

#[test]
fn filters_and_tests_that_nobody_knows_are_found_at_load() {
    let found = told(&package(
        r#"
execute:
  - name: a
    call: event
    with: {reason: "{{ cr.mode | md5 }}", message: "x {{ 'a' if cr.size is numbr else cr.mode | uper | trim }}"}
  - name: b
    call: event
    with:
      reason: R
      message: |
        {% for label in ['x'] if label is defined %}
        {{ label | shout }}
        {% endfor %}
"#,
    ));
    for expected in [
        "package.yaml:18:22: there is no filter `md5`\n  hint: filters are: abs, b64encode",
        "package.yaml:18:54: there is no filter `uper`\n  hint: did you mean `upper`?",
        "package.yaml:18:54: there is no test `numbr`\n  hint: did you mean `number`?",
        "package.yaml:25:11: there is no filter `shout`",
    ] {
        assert!(found.contains(expected), "{expected}\nnot in\n{found}");
    }
    assert_eq!(found.matches("there is no").count(), 4, "{found}");
}

/// Each case: what is changed in the status schema, the `status` rule, and what is said.
#[test]
fn a_status_that_the_schema_cannot_hold_is_told() {
    const CONDITIONS: &str = "conditions: {type: array, items: {type: object, x-kubernetes-preserve-unknown-fields: true}}";
    let items = |items: &str| format!("conditions: {{type: array, items: {items}}}");
    let exact = |keys: &str| {
        items(&format!(
            "{{type: object, required: [{keys}], properties: {{type: {{type: string}}, status: {{type: string}}, reason: {{type: string}}, message: {{type: string}}, lastTransitionTime: {{type: string}}}}}}"
        ))
    };
    let rule = |status: &str| format!("execute:\n  - status:\n      {status}\n");
    let healthy = rule("conditions: {Healthy: SELECT 1 AS ok}");
    let cases: &[(&str, String, String, &[&str])] = &[
        ("", String::new(), healthy.clone(), &[]),
        (
            CONDITIONS,
            String::new(),
            String::new(),
            &[
                "crd.yaml:27:13: the status schema has no `conditions`: every status would be refused\n  hint: add conditions: {type: array",
            ],
        ),
        // Nothing is written there.
        (CONDITIONS, String::new(), rule("runtime: false"), &[]),
        (
            "observedGeneration: {type: integer}",
            String::new(),
            String::new(),
            &["crd.yaml:27:13: the status schema has no `observedGeneration`"],
        ),
        (
            "observedGeneration: {type: integer}",
            "observedGeneration: {type: string}".to_owned(),
            String::new(),
            &["crd.yaml:36:17: status.observedGeneration must be of type integer"],
        ),
        (
            CONDITIONS,
            "conditions: {type: object}".to_owned(),
            String::new(),
            &["crd.yaml:37:17: status.conditions must be an array of objects"],
        ),
        (CONDITIONS, exact("type, lastTransitionTime"), String::new(), &[]),
        (
            CONDITIONS,
            exact("type, severity"),
            rule("times: [lastUpdateTime]"),
            &[
                "a condition in the status schema has no `lastUpdateTime`: every status would be refused\n  hint: add lastUpdateTime: {type: string}",
                "a condition in the status schema requires `severity`, which is not written\n  hint: take it from `required`",
            ],
        ),
        (
            CONDITIONS,
            items("{type: object, x-kubernetes-preserve-unknown-fields: true, properties: {message: {type: integer}, type: {enum: [Ready, Reconciling, Stalled]}}}"),
            healthy,
            &[
                "`message` of a condition must be of type string",
                "`type` of a condition cannot be `Healthy` in the status schema",
            ],
        ),
        (
            "size: {type: integer}\n                text",
            "readyReplicas: {type: integer}\n                text".to_owned(),
            rule("fields: SELECT 1 AS \"readyReplica\", 2 AS \"nested.flag\", 3 AS \"nested.flat\""),
            &[
                "package.yaml:16:30: status.fields: the schema in `crd.yaml` has no `status.readyReplica`: every status would be refused\n  hint: did you mean `readyReplicas`?\n",
                "package.yaml:16:71: status.fields: the schema in `crd.yaml` has no `status.nested.flat`: every status would be refused\n  hint: did you mean `flag`?\n",
            ],
        ),
        (
            "            status:\n              type: object\n",
            "            status:\n              type: object\n              required: [size, phase]\n".to_owned(),
            rule("fields: SELECT 1 AS size"),
            &["the status schema requires `phase`, which nothing writes"],
        ),
        (
            "            status:\n              type: object\n",
            "            former:\n              type: object\n".to_owned(),
            String::new(),
            &["crd.yaml:15:9: version `v1` has no `status` in its schema"],
        ),
    ];
    for (old, new, rest, expected) in cases {
        let mut files = package(rest);
        assert!(CRD.contains(old), "{old}");
        files.insert("crd.yaml".to_owned(), CRD.replace(old, new));
        let found = told(&files);
        assert_eq!(found.matches("hint:").count(), expected.len(), "{found}");
        for expected in *expected {
            assert!(found.contains(expected), "{expected}\nnot in\n{found}");
        }
    }
}
