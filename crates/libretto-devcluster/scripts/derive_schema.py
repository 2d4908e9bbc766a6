#!/usr/bin/env python3
"""Derives data/kubernetes-1.37.* from the published OpenAPI definitions of Kubernetes.

Input: the wheel of the PyPI package `kubernetes-validate`, version 1.37.0 (`pip download --no-deps kubernetes-validate==1.37.0`).
It carries the definitions of Kubernetes 1.37 with their x-kubernetes-* keys, but without defaults and int-or-string markers; what
is lost and matters is filled in below, by hand. Kubernetes is licensed under Apache-2.0; see data/README.md.

    scripts/derive_schema.py kubernetes_validate-1.37.0-py3-none-any.whl

Two files come out, each zlib-compressed JSON: the structure (types, list and map kinds, patch strategies, required fields), which the
API server needs at once, and the descriptions, which only `kubectl explain` needs.
"""

import json
import pathlib
import sys
import zipfile
import zlib

MEMBER = "kubernetes_validate/kubernetes-json-schema/v1.37.0-local/_definitions.json"
DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
PREFIX = "#/$defs/"

# The keys of a schema node that decide how a value is merged, pruned or checked.
STRUCTURE = [
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-patch-strategy",
    "x-kubernetes-patch-merge-key",
]

# Types whose JSON form is not one JSON type. The formats are read back by schema/node.rs.
SPECIAL = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"format": "int-or-string"},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"format": "quantity"},
}

# Keys of list maps that may be left out, with the value they then have.
KEY_DEFAULTS = {
    ("io.k8s.api.core.v1.ContainerPort", "protocol"): "TCP",
    ("io.k8s.api.core.v1.ServicePort", "protocol"): "TCP",
    ("io.k8s.api.core.v1.LocalObjectReference", "name"): "",
    ("io.k8s.api.core.v1.ObjectReference", "name"): "",
}


def structure(node):
    out = {}
    kind = node.get("type")
    if isinstance(kind, list):
        kinds = [k for k in kind if k != "null"]
        assert len(kinds) == 1, kind
        kind = kinds[0]
    if kind:
        out["type"] = kind
    if "$ref" in node:
        out["$ref"] = node["$ref"].removeprefix(PREFIX)
    for key in ["format", "required"] + STRUCTURE:
        if key in node:
            out[key] = node[key]
    if "properties" in node:
        out["properties"] = {name: structure(p) for name, p in sorted(node["properties"].items())}
    for key in ["items", "additionalProperties"]:
        if isinstance(node.get(key), dict):
            out[key] = structure(node[key])
    return out


def descriptions(definition):
    out = {"": definition.get("description", "")}
    for name, prop in sorted(definition.get("properties", {}).items()):
        if prop.get("description"):
            out[name] = prop["description"]
    return {k: v for k, v in out.items() if v}


def write(name, value):
    text = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    packed = zlib.compress(text, 9)
    (DATA / name).write_bytes(packed)
    print(f"{name}: {len(text)} bytes, {len(packed)} compressed")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        definitions = json.loads(wheel.read(MEMBER))["$defs"]
    table, texts = {}, {}
    for name, definition in sorted(definitions.items()):
        node = dict(SPECIAL[name]) if name in SPECIAL else structure(definition)
        # The wheel lists every group a shared type such as DeleteOptions is registered in; only kinds of one group are resources.
        kinds = definition.get("x-kubernetes-group-version-kind", [])
        if len(kinds) == 1:
            node["x-kubernetes-group-version-kind"] = kinds
        table[name] = node
        text = descriptions(definition)
        if text:
            texts[name] = text
    for (name, field), value in KEY_DEFAULTS.items():
        table[name]["properties"][field]["default"] = value
    write("kubernetes-1.37.structure.json.z", table)
    write("kubernetes-1.37.descriptions.json.z", texts)


if __name__ == "__main__":
    main()
