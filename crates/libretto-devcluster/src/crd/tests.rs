//! Custom resource definitions: checks, pruning, defaults, validation, rules.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::parse;
use crate::{error::FieldError, schema::TypeSchema};

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"},
                },
                "additionalPrinterColumns": [
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status", "priority": 1},
                ],
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": schema()},
            }],
        },
    })
}

fn schema() -> Value {
    json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "x-kubernetes-validations": [
                    {"rule": "self.size <= self.most", "message": "size must not exceed most"},
                    {"rule": "self.color == oldSelf.color", "message": "color is immutable", "fieldPath": ".color", "reason": "FieldValueForbidden"},
                ],
                "properties": {
                    "size": {"type": "integer", "minimum": 3},
                    "most": {"type": "integer", "default": 10},
                    "replicas": {"type": "integer", "default": 1},
                    "color": {"type": "string", "default": "red", "enum": ["red", "blue"]},
                    "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
                    "port": {"x-kubernetes-int-or-string": true},
                    "when": {"type": "string", "format": "date-time"},
                    "maybe": {"type": "string", "nullable": true},
                    "half": {"type": "number", "exclusiveMaximum": true, "maximum": 1, "multipleOf": 0.5},
                    "tags": {"type": "array", "maxItems": 2, "minItems": 1, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "users": {
                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {
                            "type": "object", "required": ["name"],
                            "properties": {
                                "name": {"type": "string"},
                                "level": {"type": "integer", "default": 0, "x-kubernetes-validations": [
                                    {"rule": "self >= oldSelf", "messageExpression": "'level must not fall below ' + string(oldSelf)"},
                                ]},
                            },
                        },
                    },
                    "limits": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "integer", "maximum": 9}},
                    "either": {
                        "type": "object",
                        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                    },
                    "some": {"type": "integer", "anyOf": [{"maximum": 3}, {"minimum": 7}], "not": {"enum": [9]}},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "string"}}},
                    "closed": {"type": "object"},
                    "whole": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
                },
            },
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
        },
    })
}

fn custom() -> TypeSchema {
    TypeSchema::Custom(parse(&definition()).unwrap().versions[0].schema.clone())
}

fn thing(spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": spec})
}

/// As in the message of the API server.
fn show(errors: &[FieldError]) -> Vec<String> {
    errors
        .iter()
        .map(|error| format!("{}: {}", error.field, error.message))
        .collect()
}

#[test]
fn a_definition_is_read() {
    let custom = parse(&definition()).unwrap();
    assert_eq!(custom.list_kind, "ThingList");
    assert_eq!(custom.singular, "thing");
    assert!(custom.namespaced);
    let version = &custom.versions[0];
    assert!(version.status && version.served && version.storage);
    let scale = version.scale.as_ref().unwrap();
    assert_eq!(scale.spec_replicas, "spec.replicas");
    assert_eq!(scale.selector.as_deref(), Some("status.selector"));
    assert_eq!(version.columns[1].priority, 1);
    assert_eq!(version.selectable, [".spec.color"]);
}

#[test]
fn values_are_checked_in_upstreams_words() {
    let schema = custom();
    for (spec, expected) in [
        (json!({"size": 3}), vec![]),
        (
            json!({"size": 1}),
            vec![
                "spec.size: Invalid value: 1: spec.size in body should be greater than or equal to 3",
            ],
        ),
        (
            json!({}),
            vec![
                "spec.size: Required value",
                "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
             correct the existing errors to complete validation",
            ],
        ),
        (
            json!({"size": 3, "color": "green"}),
            vec![
                r#"spec.color: Unsupported value: "green": supported values: "red", "blue""#,
                "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
             correct the existing errors to complete validation",
            ],
        ),
        (
            json!({"size": 3, "name": "A"}),
            vec![
                r#"spec.name: Invalid value: "A": spec.name in body should be at least 2 chars long"#,
            ],
        ),
        (
            json!({"size": 3, "when": "soon"}),
            vec![
                r#"spec.when: Invalid value: "soon": spec.when in body must be of type date-time: "soon""#,
                "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
             correct the existing errors to complete validation",
            ],
        ),
        (
            json!({"size": 3, "half": 1}),
            vec!["spec.half: Invalid value: 1: spec.half in body should be less than 1"],
        ),
        (
            json!({"size": 3, "half": 0.3}),
            vec!["spec.half: Invalid value: 0.3: spec.half in body should be a multiple of 0.5"],
        ),
        (json!({"size": 3, "port": 80}), vec![]),
        (json!({"size": 3, "port": "http"}), vec![]),
        (json!({"size": 3, "maybe": null}), vec![]),
        (
            json!({"size": 3, "tags": ["a", "a"]}),
            vec![r#"spec.tags[1]: Duplicate value: "a""#],
        ),
        (
            json!({"size": 3, "tags": []}),
            vec!["spec.tags: Invalid value: 0: spec.tags in body should have at least 1 items"],
        ),
        (
            json!({"size": 3, "users": [{"name": "a"}, {"name": "a"}]}),
            vec![r#"spec.users[1]: Duplicate value: {"name":"a"}"#],
        ),
        (
            json!({"size": 3, "limits": {"cpu": 10}}),
            vec![
                "spec.limits.cpu: Invalid value: 10: spec.limits.cpu in body should be less than or equal to 9",
            ],
        ),
        (
            json!({"size": 3, "either": {}}),
            vec![
                r#"spec.either: Invalid value: "": "spec.either" must validate one and only one schema (oneOf). Found none valid"#,
            ],
        ),
        (
            json!({"size": 3, "either": {"a": "x", "b": "y"}}),
            vec![
                r#"spec.either: Invalid value: "": "spec.either" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ],
        ),
        (
            json!({"size": 3, "some": 5}),
            vec![
                r#"spec.some: Invalid value: "": "spec.some" must validate at least one schema (anyOf)"#,
            ],
        ),
        (
            json!({"size": 3, "some": 9}),
            vec![r#"spec.some: Invalid value: "": "spec.some" must not validate the schema (not)"#],
        ),
        (
            json!({"size": 3, "whole": {}}),
            vec![
                "spec.whole.apiVersion: Required value: must not be empty",
                "spec.whole.kind: Required value: must not be empty",
                "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
             correct the existing errors to complete validation",
            ],
        ),
        (
            json!({"size": 20}),
            vec!["spec: Invalid value: size must not exceed most"],
        ),
    ] {
        let mut object = thing(&spec);
        schema.default(&mut object);
        assert_eq!(show(&schema.validate(&object, None)), expected, "{spec}");
    }
    for (spec, first) in [
        (
            json!({"size": "3"}),
            r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#,
        ),
        (
            json!({"size": null}),
            r#"spec.size: Invalid value: "null": spec.size in body must be of type integer: "null""#,
        ),
        (
            json!({"size": 3, "name": "abcdef"}),
            "spec.name: Too long: may not be more than 5 bytes",
        ),
        (
            json!({"size": 3, "tags": ["a", "b", "c"]}),
            "spec.tags: Too many: 3: must have at most 2 items",
        ),
        (
            json!({"size": 3, "port": true}),
            r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
        ),
    ] {
        assert_eq!(
            show(&schema.validate(&thing(&spec), None))[0],
            first,
            "{spec}"
        );
    }
}

#[test]
fn transition_rules_run_on_updates() {
    let schema = custom();
    let defaulted = |spec: Value| {
        let mut object = thing(&spec);
        schema.default(&mut object);
        object
    };
    let old = defaulted(json!({"size": 3, "users": [{"name": "a", "level": 5}, {"name": "b"}]}));
    assert_eq!(show(&schema.validate(&old, None)), [] as [&str; 0]);
    let new = defaulted(
        json!({"size": 3, "color": "blue", "users": [{"name": "b"}, {"name": "a", "level": 4}]}),
    );
    assert_eq!(
        show(&schema.validate(&new, Some(&old))),
        [
            "spec.color: Forbidden: color is immutable",
            // The item is found by its key, not by its place.
            r#"spec.users[1].level: Invalid value: 4: level must not fall below 5"#,
        ]
    );
}

#[test]
fn what_did_not_change_is_not_checked_again() {
    let schema = custom();
    let old = thing(&json!({"size": 1, "most": 10, "color": "red"}));
    assert_eq!(schema.validate(&old, None).len(), 1);
    let mut new = old.clone();
    new["spec"]["name"] = "ab".into();
    assert_eq!(show(&schema.validate(&new, Some(&old))), [] as [&str; 0]);
    new["spec"]["size"] = 2.into();
    assert_eq!(schema.validate(&new, Some(&old)).len(), 1);
}

#[test]
fn pruning_and_defaults() {
    let schema = custom();
    let mut object = json!({
        "apiVersion": "example.com/v1", "kind": "Thing",
        "metadata": {"name": "x", "labels": {"a": "b"}, "nonsense": 1},
        "spec": {
            "size": 3, "sise": 4, "users": [{"name": "a", "nick": "b"}], "limits": {"cpu": 1},
            "free": {"anything": {"goes": 1}}, "closed": {"gone": 1},
            "whole": {"apiVersion": "v1", "kind": "X", "metadata": {"name": "y", "nonsense": 1}, "spec": {"kept": 1}},
            "color": null, "maybe": null,
        },
    });
    assert_eq!(
        schema.prune(&mut object),
        [
            "metadata.nonsense",
            "spec.closed.gone",
            "spec.sise",
            "spec.users[0].nick",
            "spec.whole.metadata.nonsense"
        ]
    );
    schema.default(&mut object);
    assert_eq!(
        object["spec"],
        json!({
            "size": 3, "most": 10, "replicas": 1, "color": "red", "maybe": null,
            "users": [{"name": "a", "level": 0}], "limits": {"cpu": 1},
            "free": {"anything": {"goes": 1}}, "closed": {},
            "whole": {"apiVersion": "v1", "kind": "X", "metadata": {"name": "y"}, "spec": {"kept": 1}},
        })
    );
}

/// Changes one thing in a good definition and expects one complaint.
#[track_caller]
fn refused(change: impl FnOnce(&mut Value), expected: &str) {
    let mut crd = definition();
    change(&mut crd);
    let errors = show(&parse(&crd).unwrap_err());
    assert!(
        errors.iter().any(|error| error == expected),
        "expected {expected}\nfound {errors:#?}"
    );
}

#[test]
fn bad_definitions() {
    refused(
        |crd| crd["metadata"]["name"] = "thing.example.com".into(),
        r#"metadata.name: Invalid value: "thing.example.com": must be spec.names.plural+"."+spec.group"#,
    );
    refused(
        |crd| crd["spec"]["scope"] = Value::Null,
        "spec.scope: Required value",
    );
    refused(
        |crd| crd["spec"]["scope"] = "Everywhere".into(),
        r#"spec.scope: Unsupported value: "Everywhere": supported values: "Cluster", "Namespaced""#,
    );
    refused(
        |crd| crd["spec"]["group"] = "example".into(),
        r#"spec.group: Invalid value: "example": should be a domain with at least one dot"#,
    );
    refused(
        |crd| crd["spec"]["versions"][0]["storage"] = false.into(),
        r#"spec.versions: Invalid value: ["v1"]: must have exactly one version marked as storage version"#,
    );
    refused(
        |crd| crd["spec"]["versions"][0]["schema"] = Value::Null,
        "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
    );
    refused(
        |crd| crd["spec"]["conversion"] = json!({"strategy": "Webhook"}),
        r#"spec.conversion.strategy: Unsupported value: "Webhook": supported values: "None""#,
    );
    refused(
        |crd| {
            crd["spec"]["versions"][0]["subresources"]["scale"]["specReplicasPath"] =
                "spec.replicas".into();
        },
        r#"spec.versions[0].subresources.scale.specReplicasPath: Invalid value: "spec.replicas": should be a json path under .spec"#,
    );
    refused(
        |crd| crd["spec"]["versions"][0]["additionalPrinterColumns"][0]["type"] = "int".into(),
        "spec.versions[0].additionalPrinterColumns[0].type: Unsupported value: \"int\": supported values: \
         \"boolean\", \"date\", \"integer\", \"number\", \"string\"",
    );
    refused(
        |crd| {
            crd["spec"]["versions"][0]["additionalPrinterColumns"][0]["jsonPath"] = ".spec[".into();
        },
        r#"spec.versions[0].additionalPrinterColumns[0].jsonPath: Invalid value: ".spec[": unterminated array"#,
    );
    refused(
        |crd| crd["spec"]["versions"][0]["selectableFields"][0]["jsonPath"] = ".spec.users".into(),
        "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.users\": must point to a field of type string, \
         boolean or integer",
    );
}

#[test]
fn schemas_that_are_not_structural() {
    const ROOT: &str = "spec.versions[0].schema.openAPIV3Schema";
    let spec_of = |crd: &mut Value, change: &dyn Fn(&mut Value)| {
        change(
            &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"],
        );
    };
    for (change, field, message) in [
        (
            json!({"x": {}}),
            "x].type",
            "Required value: must not be empty for specified object fields",
        ),
        (
            json!({"x": {"type": "array"}}),
            "x].items",
            "Required value: must be specified",
        ),
        (
            json!({"x": {"type": "array", "items": {}}}),
            "x].items.type",
            "Required value: must not be empty for specified array items",
        ),
        (
            json!({"x": {"type": "text"}}),
            "x].type",
            r#"Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string""#,
        ),
        (
            json!({"x": {"type": "object", "additionalProperties": false}}),
            "x].additionalProperties",
            "Forbidden: additionalProperties cannot be set to false",
        ),
        (
            json!({"x": {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}}),
            "x].additionalProperties",
            "Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            json!({"x": {"type": "string", "$ref": "y"}}),
            "x].$ref",
            "Forbidden: $ref is not supported",
        ),
        (
            json!({"x": {"type": "string", "pattern": "("}}),
            "x].pattern",
            "must be a valid regular expression",
        ),
        (
            json!({"x": {"type": "string", "anyOf": [{"type": "string"}]}}),
            "x].anyOf[0].type",
            "Forbidden: must be empty to be structural",
        ),
        (
            json!({"x": {"type": "object", "oneOf": [{"properties": {"a": {}}}]}}),
            "x].properties[a]",
            &format!(
                "Required value: because it is defined in {ROOT}.properties[spec].properties[x].oneOf[0].properties[a]"
            ),
        ),
        (
            json!({"x": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                      "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}),
            "x].items.properties[k].default",
            "Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ),
        (
            json!({"x": {"type": "integer", "x-kubernetes-int-or-string": true}}),
            "x].type",
            r#"Invalid value: "integer": must be empty if x-kubernetes-int-or-string is true"#,
        ),
        (
            json!({"x": {"type": "integer", "minimum": 3, "default": 1}}),
            "x].default",
            "should be greater than or equal to 3",
        ),
        (
            json!({"x": {"type": "string", "x-kubernetes-validations": [{"rule": "self =="}]}}),
            "x].x-kubernetes-validations[0].rule",
            "compilation failed",
        ),
        (
            json!({"x": {"type": "string", "x-kubernetes-validations": [{"rule": "true", "reason": "Because"}]}}),
            "x].x-kubernetes-validations[0].reason",
            "Unsupported value",
        ),
    ] {
        let mut crd = definition();
        spec_of(&mut crd, &|properties| {
            crate::patch::merge(properties, &change);
        });
        let field = format!("{ROOT}.properties[spec].properties[{field}");
        let errors = parse(&crd).unwrap_err();
        assert!(
            errors
                .iter()
                .any(|error| error.field == field && error.message.contains(message)),
            "expected {field}: {message}\nfound {:#?}",
            show(&errors)
        );
    }
    refused(
        |crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["type"] = "string".into(),
        &format!(r#"{ROOT}.type: Invalid value: "string": must be object at the root"#),
    );
    refused(
        |crd| {
            crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["metadata"] =
                json!({"type": "object", "properties": {"labels": {"type": "object"}}});
        },
        &format!(
            "{ROOT}.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is \
             implicitly specified"
        ),
    );
}
