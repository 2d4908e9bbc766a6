#!/usr/bin/env python3
"""Compares our server-side apply and strategic merge patch with upstream's code on random objects.

    scripts/differential.py [sequences] [seed]

Needs Go, and the Go modules named in scripts/oracle/go.mod (structured-merge-diff, apimachinery, api), which `go build` fetches.
Ends with 0 when everything agrees, with 1 and the first disagreements when not, and with 77 when there is no Go.

What is compared: conflicts with their paths, the resulting object including the order of lists, and every manager's field set.
Empty maps and lists are left out of the comparison of objects: where pruning empties a container upstream leaves a null that each API
type treats in its own way; we keep the container if it is still applied.
"""

import json
import pathlib
import random
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
GROUP = "differential.example.com"
VERSION = GROUP + "/v1"

S, I = {"type": "string"}, {"type": "integer"}


def keyed(keys, properties):
    return {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": keys,
        "items": {"type": "object", "required": keys[:1], "properties": properties},
    }


SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "replicas": I,
                "paused": {"type": "boolean"},
                "note": S,
                "tags": {"type": "object", "additionalProperties": S},
                "sel": {"type": "object", "additionalProperties": S, "x-kubernetes-map-type": "atomic"},
                "limits": {
                    "type": "object",
                    "properties": {
                        "cpu": S,
                        "memory": S,
                        "opts": {
                            "type": "object",
                            "properties": {"mode": S, "deep": {"type": "object", "properties": {"x": I, "y": I}}},
                        },
                    },
                },
                "containers": keyed(
                    ["name"],
                    {
                        "name": S,
                        "image": S,
                        "args": {"type": "array", "items": S},
                        "env": keyed(["name"], {"name": S, "value": S}),
                        "ports": keyed(["port", "protocol"], {"port": I, "protocol": S | {"default": "TCP"}, "name": S}),
                    },
                ),
                "finals": {"type": "array", "x-kubernetes-list-type": "set", "items": S},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
        }
    },
}

DEFINITION = {
    "metadata": {"name": "things." + GROUP},
    "spec": {
        "group": GROUP,
        "scope": "Cluster",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": SCHEMA}}],
    },
}


class Process:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, value):
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def ask(self, **question):
        self.tell(question)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"no answer to {json.dumps(question)}")
        return json.loads(line)


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def one(self, *choices):
        return self.random.choice(choices)

    def some(self, choices, least=1):
        return self.random.sample(choices, self.random.randint(least, len(choices)))

    def part(self, fields, chance=0.5):
        return {name: make() for name, make in fields.items() if self.random.random() < chance}

    def port(self, number, protocol):
        port = {"port": number} | self.part({"name": lambda: self.one("h", "g")})
        # TCP may be left out; it is then part of the key all the same.
        if protocol != "TCP" or self.random.random() < 0.5:
            port["protocol"] = protocol
        return port

    def container(self, name):
        return {"name": name} | self.part(
            {
                "image": lambda: self.one("i1", "i2"),
                "args": lambda: self.some(["p", "q", "r"]),
                "env": lambda: [
                    {"name": e} | self.part({"value": lambda: self.one("1", "2")}) for e in self.some(["E", "F", "G"])
                ],
                "ports": lambda: [self.port(*p) for p in self.some([(80, "TCP"), (80, "UDP"), (81, "TCP")])],
            }
        )

    def spec(self):
        return self.part(
            {
                "replicas": lambda: self.random.randint(1, 3),
                "paused": lambda: self.one(True, False),
                "note": lambda: self.one("x", "y"),
                "tags": lambda: {k: self.one("1", "2") for k in self.some(["a", "b", "c"], 0)},
                "sel": lambda: {k: self.one("1", "2") for k in self.some(["a", "b"])},
                "limits": lambda: self.part(
                    {
                        "cpu": lambda: self.one("1", "2"),
                        "memory": lambda: self.one("1", "2"),
                        "opts": lambda: self.part(
                            {
                                "mode": lambda: self.one("m", "n"),
                                "deep": lambda: self.part({"x": lambda: self.one(1, 2), "y": lambda: self.one(1, 2)}),
                            }
                        ),
                    }
                ),
                "containers": lambda: [self.container(n) for n in self.some(["c1", "c2", "c3", "c4"])],
                "finals": lambda: self.some(["f1", "f2", "f3", "f4"]),
                "free": lambda: self.part(
                    {"k": lambda: self.one(1, 2), "l": lambda: [1, self.one(2, 3)], "m": lambda: {"z": self.one(1, 2)}}
                ),
            },
            0.4,
        )

    def object(self):
        out = {"spec": self.spec()}
        if self.random.random() < 0.4:
            out["metadata"] = {"labels": {k: self.one("1", "2") for k in self.some(["a", "b"])}}
        return out

    # Built-in kinds, for strategic merge patches.
    def pod_spec(self):
        return {
            "containers": [
                {"name": n}
                | self.part(
                    {
                        "image": lambda: self.one("i1", "i2"),
                        "command": lambda: self.some(["p", "q"]),
                        "env": lambda: [{"name": e, "value": self.one("1", "2")} for e in self.some(["E", "F", "G"])],
                        "ports": lambda: [
                            {"containerPort": p, "protocol": "TCP"} | self.part({"name": lambda: self.one("h", "g")})
                            for p in self.some([80, 81, 82])
                        ],
                    }
                )
                for n in self.some(["c1", "c2", "c3"])
            ]
        } | self.part(
            {
                "volumes": lambda: [
                    {"name": v} | self.one({"emptyDir": {}}, {"secret": {"secretName": "s"}}, {"configMap": {"name": "c"}})
                    for v in self.some(["v1", "v2", "v3"])
                ],
                "tolerations": lambda: [{"key": k, "operator": "Exists"} for k in self.some(["k1", "k2"])],
                "securityContext": lambda: self.part({"runAsUser": lambda: self.one(1, 2), "fsGroup": lambda: self.one(1, 2)}),
                "nodeSelector": lambda: {k: self.one("1", "2") for k in self.some(["a", "b"])},
            }
        )

    def built_in(self, kind):
        metadata = {"name": "x"} | self.part(
            {
                "labels": lambda: {k: self.one("1", "2") for k in self.some(["a", "b", "c"])},
                "finalizers": lambda: self.some(["f/1", "f/2", "f/3"]),
            }
        )
        if kind == "ConfigMap":
            return {"metadata": metadata, "data": {k: self.one("1", "2") for k in self.some(["a", "b", "c"], 0)}}
        if kind == "Service":
            ports = [{"port": p} | self.part({"name": lambda: self.one("h", "g")}) for p in self.some([80, 81, 82])]
            return {"metadata": metadata, "spec": {"ports": ports}}
        if kind == "Pod":
            return {"metadata": metadata, "spec": self.pod_spec()}
        strategy = self.one(
            {"type": "Recreate"}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": self.one(1, 2)}}
        )
        return {
            "metadata": metadata,
            "spec": {"replicas": self.one(1, 2), "strategy": strategy, "template": {"spec": self.pod_spec()}},
        }


def clean(value):
    """Without nulls and empty containers, below and including `value`."""
    if isinstance(value, dict):
        cleaned = {k: clean(v) for k, v in value.items()}
        return {k: v for k, v in cleaned.items() if v is not None and v != {} and v != []}
    if isinstance(value, list):
        return [clean(v) for v in value]
    return value


def without_null(value):
    if isinstance(value, dict):
        return {k: without_null(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_null(v) for v in value]
    return value


def decoded(value):
    """What upstream's library leaves in added list items and the API server's decoder drops: nulls and directives.

    An added item's own `$patch: delete` items would even be decoded as items; we drop them, and so does this."""
    if isinstance(value, dict):
        return {k: decoded(v) for k, v in value.items() if v is not None and not k.startswith("$")}
    if isinstance(value, list):
        return [decoded(v) for v in value if not (isinstance(v, dict) and v.get("$patch") == "delete")]
    return value


def merged(live, patch):
    out = dict(live)
    for key, value in patch.items():
        both = isinstance(value, dict) and isinstance(live.get(key), dict)
        out[key] = merged(live[key], value) if both else value
    return out


def full(body, managers):
    """Our form of an object: with identity and managedFields."""
    metadata = {"name": "t"} | (body.get("metadata") or {})
    if managers:
        metadata["managedFields"] = [
            {
                "manager": key.split("|")[0],
                "operation": key.split("|")[1],
                "apiVersion": VERSION,
                "fieldsV1": entry["fields"],
            }
            for key, entry in managers.items()
        ]
    return {"apiVersion": VERSION, "kind": "Thing"} | body | {"metadata": metadata}


def bare(ours):
    body = {k: v for k, v in ours.items() if k not in ("apiVersion", "kind", "metadata")}
    labels = ours["metadata"].get("labels")
    return body | ({"metadata": {"labels": labels}} if labels else {})


def comparable(managers):
    """Nobody owns `metadata` itself in ours: the API server strips it. Upstream's library alone does not know that."""
    out = {}
    for key, fields in managers.items():
        fields = json.loads(json.dumps(fields))
        metadata = fields.get("f:metadata")
        if metadata is not None:
            metadata.pop(".", None)
            if not metadata:
                del fields["f:metadata"]
        if fields:
            out[key] = fields
    return out


class Count:
    def __init__(self):
        self.operations = self.conflicts = self.refused = self.patches = 0
        self.disagreements = []

    def differ(self, what, **details):
        self.disagreements.append((what, details))


def ownership(generator, ours, upstream, count):
    live, managers = {}, {}
    for _ in range(8):
        who = generator.one("a", "b", "c")
        write = generator.one("apply", "apply", "apply", "update", "patch") if live else generator.one("apply", "create")
        force = generator.random.random() < 0.4
        config = generator.object()
        if write == "update":
            config = live | {"spec": generator.spec()}
        elif write == "patch":
            config = live | {"spec": merged(live.get("spec") or {}, generator.spec())}
        op = "apply" if write == "apply" else "update"
        key = f"{who}|{'Apply' if op == 'apply' else 'Update'}"
        theirs = upstream.ask(Op=op, Manager=key, Live=live, Config=config, Force=force, Managers=managers)
        mine = ours.ask(
            op=op,
            live=full(live, managers) if live else None,
            config=full(config, {}),
            manager=who,
            apiVersion=VERSION,
            force=force,
        )
        count.operations += 1
        details = dict(write=write, who=who, force=force, live=live, managers=managers, config=config)
        if "error" in theirs:
            count.refused += 1
            if "error" not in mine:
                count.differ("upstream refuses", theirs=theirs, mine=mine, **details)
            continue
        if "conflicts" in theirs or "conflicts" in mine:
            count.conflicts += 1
            if theirs.get("conflicts") != mine.get("conflicts"):
                count.differ("conflicts", theirs=theirs, mine=mine, **details)
            if "object" not in theirs:
                continue
        elif "error" in mine:
            count.differ("we refuse", theirs=theirs, mine=mine, **details)
        else:
            their_object, my_object = clean(theirs["object"] or {}), clean(bare(mine["object"]))
            if their_object != my_object:
                count.differ("object", theirs=their_object, mine=my_object, **details)
            their_sets = comparable({key: entry["fields"] for key, entry in theirs["managers"].items()})
            my_entries = mine["object"]["metadata"].get("managedFields", [])
            my_sets = comparable({f"{e['manager']}|{e['operation']}": e["fieldsV1"] for e in my_entries})
            if their_sets != my_sets:
                count.differ("owners", theirs=their_sets, mine=my_sets, **details)
        live, managers = without_null(theirs["object"] or {}), theirs["managers"]
        if not managers:
            # On objects nobody owns the API server does more than the library (before-first-apply); begin afresh.
            live = {}


def strategic(generator, ours, upstream, count):
    kind = generator.one("Pod", "Deployment", "Service", "ConfigMap")
    original, modified = generator.built_in(kind), generator.built_in(kind)
    # What is live has drifted from what was applied.
    current = merged(original, generator.built_in(kind)) if generator.random.random() < 0.5 else original
    theirs = upstream.ask(Op="strategic", Kind=kind, Original=original, Modified=modified, Current=current)
    if "patch" not in theirs:
        return
    group = "apps" if kind == "Deployment" else ""
    mine = ours.ask(op="strategic", group=group, kind=kind, live=current, patch=theirs["patch"])
    count.patches += 1
    details = dict(kind=kind, live=current, patch=theirs["patch"])
    if ("error" in theirs) != ("error" in mine):
        count.differ("strategic refusal", theirs=theirs, mine=mine, **details)
    elif "object" in theirs and decoded(theirs["object"]) != mine["object"]:
        count.differ("strategic object", theirs=theirs["object"], mine=mine["object"], **details)


def main():
    sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    if shutil.which("go") is None:
        print("go is not installed; nothing compared", file=sys.stderr)
        sys.exit(77)
    build = HERE / "oracle" / "target"
    build.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-mod=mod", "-o", str(build / "oracle"), "."], cwd=HERE / "oracle", check=True)
    subprocess.run(
        ["cargo", "build", "--quiet", "-p", "libretto-devcluster", "--example", "patch_lines"], cwd=HERE, check=True
    )
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--no-deps"], cwd=HERE, check=True, capture_output=True, text=True
    )
    target = pathlib.Path(json.loads(metadata.stdout)["target_directory"])
    ours = Process([str(target / "debug" / "examples" / "patch_lines")])
    ours.tell(DEFINITION)
    upstream = Process([str(build / "oracle")])
    generator, count = Generator(seed), Count()
    for _ in range(sequences):
        ownership(generator, ours, upstream, count)
        for _ in range(4):
            strategic(generator, ours, upstream, count)
    print(
        f"{count.operations} writes ({count.conflicts} conflicts, {count.refused} refused by upstream), "
        f"{count.patches} strategic patches, {len(count.disagreements)} disagreements"
    )
    for what in sorted({what for what, _ in count.disagreements}):
        print(f"  {what}: {sum(1 for other, _ in count.disagreements if other == what)}")
    for what, details in count.disagreements[:3]:
        print(what)
        for key, value in details.items():
            print(f"  {key}: {json.dumps(value)}")
    sys.exit(1 if count.disagreements else 0)


if __name__ == "__main__":
    main()
