//! What a package is told that is wrong: each mistake with what stands after `crd`, and the words for it.
//!
//! The tests hold the compiler to these words, and the reference shows them.

/// By the part of the package that the mistake is in.
pub(crate) const MISTAKES: &[(&str, &[(&str, &str)])] = &[
    (
        "keywords",
        &[
            (
                "sens: {}\n",
                "package.yaml:14:3: unknown keyword `sens` in spec\n  hint: did you mean `sense`?\n",
            ),
            (
                "parameters: {}\n",
                "package.yaml:14:3: `parameters` is not supported by this version of libretto\n  hint: spec knows: crd, sense, decide, execute\n",
            ),
            (
                "execute:\n  - {name: a, deny: {}}\n",
                "package.yaml:15:17: `deny` is not supported by this version of libretto\n  hint: rule a knows: apply, patch, helm, call, alert, status, metric, name, for, key, on, stable, repeat, once, after, limit, ignore, adopt, leave, event, own, with, undo, during, drift, force, ready, schedule\n",
            ),
            (
                "execute:\n  - {name: a, aply: {}}\n",
                "package.yaml:15:17: unknown keyword `aply` in rule a\n  hint: did you mean `apply`?\n",
            ),
            (
                "execute:\n  - {name: a}\n",
                "package.yaml:15:7: rule a has no verb\n  hint: one of: apply, patch, helm, call, alert, status, metric\n",
            ),
            (
                "execute:\n  - {name: a, call: event, patch: {}}\n",
                "package.yaml:15:7: rule a has 2 verbs: patch, call\n  hint: a rule does one thing; write two rules over one view\n",
            ),
            (
                "execute:\n  - {call: event, with: {reason: R, message: m}}\n",
                "package.yaml:15:7: a rule needs `name`\n  hint: conditions, events and the record speak of it by name\n",
            ),
            (
                "execute: {}\n",
                "package.yaml:14:12: execute must be a list of rules, this is a map\n",
            ),
        ],
    ),
    (
        "sense",
        &[
            (
                "sense:\n  sizes: {values: {a: 1}}\n",
                "package.yaml:15:21: sense.sizes.values must be a list, this is a map\n  hint: a list of rows such as {name: a, size: 1}, or of values, which become the column `value`\n",
            ),
            (
                "sense:\n  sizes: {values: [{a: 1}, 2]}\n",
                "package.yaml:15:30: sense.sizes.values: either all rows are maps, or none is\n",
            ),
            (
                "sense:\n  sizes: {values: []}\n",
                "package.yaml:15:21: sense.sizes.values has 0 rows: 1 to 1000\n",
            ),
            (
                "sense:\n  sizes: {values: [1], watch: v1/Pod}\n",
                "package.yaml:15:5: sense.sizes has both `watch` and `values`: a table has one source\n",
            ),
            (
                "sense:\n  pods: {watch: Pod}\n",
                "package.yaml:15:19: `Pod` names no kind: write `version/Kind` for the core group (v1/Pod) or `group/version/Kind` (apps/v1/StatefulSet)\n",
            ),
            (
                "sense:\n  pods: {watch: v1/Pod, probe: redis}\n",
                "package.yaml:15:5: sense.pods has both `watch` and `probe`: a table has one source\n",
            ),
            (
                "sense:\n  cr: {watch: v1/Pod}\n",
                "package.yaml:15:5: `cr` is a table the runtime makes\n",
            ),
            (
                "sense:\n  my-pods: {watch: v1/Pod}\n",
                "package.yaml:15:5: `my-pods` cannot be the name of a table\n  hint: letters, digits and _, beginning with a letter, at most 63\n",
            ),
            (
                "sense:\n  pods: {watch: v1/Pod, reach: all}\n",
                "package.yaml:15:34: sense.pods: `reach: all` is not supported by this version of libretto\n  hint: own or namespace\n",
            ),
            (
                "sense:\n  pods: {watch: v1/Pod, cols: {ip: status..ip}}\n",
                "package.yaml:15:38: `status..ip` is not a path: a key is empty; keys with dots are written [\"like.this\"]\n",
            ),
            (
                "sense:\n  pods: {watch: v1/Pod, cols: {ip: {path: status.ip, type: text}}}\n",
                "package.yaml:15:62: sense.pods.cols.ip: there is no type `text`\n  hint: types are: string, int, float, bool, time, json, quantity\n",
            ),
            (
                "sense:\n  pods: {watch: v1/Pod, cols: {uid: metadata.uid}}\n",
                "package.yaml:15:34: sense.pods.cols.uid: this column is always there\n",
            ),
            (
                "sense:\n  info: {probe: sql, for: SELECT 1 AS key, with: {}}\n",
                "package.yaml:15:19: sense.info: probe `sql` is not supported by this version of libretto\n  hint: probes are: redis, tcp, http, exec, dns, prometheus\n",
            ),
            (
                "sense:\n  info: {probe: tcp, for: SELECT 1 AS k, every: 5, with: {host: h, port: 1}}\n",
                "package.yaml:15:29: sense.info.for must select a column `key`\n  hint: such as `uid AS key`: it says which target a row belongs to\npackage.yaml:15:51: sense.info.every must be text, this is a number\n  hint: put it in quotes\n",
            ),
            (
                "sense:\n  info: {probe: redis, for: SELECT 1 AS key, with: {host: h, commands: {a: [PING]}}, cols: {x: b.role}}\n",
                "package.yaml:15:98: sense.info.cols.x: `b.role` does not begin with the command's name\n  hint: write a.b.role\n",
            ),
            (
                "sense:\n  info: {probe: redis, for: SELECT 1 AS key, with: {host: h, command: PING}}\n",
                "package.yaml:15:73: sense.info.with: a command is a list of words, this is text\n  hint: [INFO, replication]\n",
            ),
            (
                "execute:\n  - status: {ready: SELECT 1 AS fine, runtime: false}\n",
                "package.yaml:15:23: status.ready is about the runtime's conditions, and `runtime: false` leaves them out\n  hint: leave one of the two out\npackage.yaml:15:23: status.ready must select a column `ok`\n  hint: SELECT ... AS ok, 'Reason' AS reason, 'message' AS message\npackage.yaml:15:23: status.ready: column `fine` is none of ok, reason, message, stalled\n",
            ),
        ],
    ),
    (
        "decide",
        &[
            (
                "decide:\n  a: SELECT nam FROM cr\n",
                "package.yaml:15:15: decide.a: no such column: nam\n  hint: did you mean `name`?\n",
            ),
            (
                "decide:\n  a: |\n    SELECT name,\n           siz\n    FROM cr\n",
                "package.yaml:17:14: decide.a: no such column: siz\n  hint: did you mean `size`?\n",
            ),
            (
                "decide:\n  a: SELECT * FROM cx\n",
                "package.yaml:15:8: decide.a: no such table: cx\n  hint: did you mean `cr`?\n",
            ),
            (
                "decide:\n  a: SELECT * FROM b\n  b: SELECT * FROM c\n  c: SELECT * FROM a\n",
                "package.yaml:15:8: decide.a: views read each other in a circle: a -> b -> c -> a\n  hint: let one of them read tables only\n",
            ),
            (
                "decide:\n  a: SELECT * FROM b\n  b: SELECT nope FROM cr\n",
                "package.yaml:16:15: decide.b: no such column: nope\n",
            ),
            (
                "decide:\n  a: SELECT 1; SELECT 2\n",
                "package.yaml:15:8: decide.a: more than one statement: keep only the first\n  hint: put the second in a view of its own\n",
            ),
            (
                "decide:\n  a: DELETE FROM cr\n",
                "package.yaml:15:8: decide.a: not allowed: writing: rules change the world, queries only read\n",
            ),
            (
                "decide:\n  a: SELECT random() AS r\n",
                "package.yaml:15:8: decide.a: not allowed: function random() (only functions that depend on nothing but their arguments are; time comes from table clock)\n",
            ),
            (
                "decide:\n  a: SELECT :sise AS s\n",
                "package.yaml:15:15: decide.a: cr has no field `sise`\n  hint: did you mean `size`?\n",
            ),
            (
                "decide:\n  a: SELECT ? AS s\n",
                "package.yaml:15:8: decide.a: parameters without a name are never bound\n  hint: name a field of the instance, like :replicas\n",
            ),
            (
                "decide:\n  a: SELECT a.name, b.name FROM cr a, cr b\n",
                "package.yaml:15:8: decide.a: two columns are called `name`\n  hint: give one another name with AS\n",
            ),
            (
                "decide:\n  a: [SELECT 1]\n",
                "package.yaml:15:8: decide.a must be a SELECT, this is a list\n  hint: write it as text, after `|` when it is long\n",
            ),
        ],
    ),
    (
        "rules",
        &[
            (
                "execute:\n  - {name: a, call: event, with: {reason: R, message: \"{{ nam }}\"}, for: SELECT name FROM cr}\n",
                "package.yaml:15:57: `nam` is not declared\n  hint: did you mean `name`?\n",
            ),
            (
                "execute:\n  - {name: a, call: event, with: {reason: R, message: \"{{ size }}\"}}\n",
                "package.yaml:15:57: `size` is not declared\n  hint: write cr.size\n",
            ),
            (
                "execute:\n  - {name: a, call: event, with: {reason: R, message: \"{{ cr.sise }}\"}}\n",
                "package.yaml:15:57: cr has no field `sise`\n  hint: did you mean `size`?\n",
            ),
            (
                "execute:\n  - {name: a, call: event, with: {reason: R, message: \"{{ cr. }}\"}}\n",
                "package.yaml:15:57: template does not parse: unexpected end of input, expected identifier or integer\n",
            ),
            (
                "execute:\n  - {name: a, call: sql, with: {}}\n",
                "package.yaml:15:23: rule a: `call: sql` is not supported by this version of libretto\n  hint: calls are: redis, http, exec, kube.delete, kube.scale, kube.restart, kube.evict, event\n",
            ),
            (
                "execute:\n  - {name: a, call: rediss, with: {}}\n",
                "package.yaml:15:23: rule a: there is no call `rediss`\n  hint: did you mean `redis`?\n",
            ),
            (
                "execute:\n  - {name: a, stable: 5 seconds, call: event, with: {reason: R, message: m}}\n",
                "package.yaml:15:25: rule a: stable: `5 seconds` is not a duration: write a whole number and ms, s, m or h, like 500ms, 15s, 2m, 1h\n",
            ),
            (
                "execute:\n  - {name: a, once: true, for: SELECT size FROM cr, call: event, with: {reason: R, message: m}}\n",
                "package.yaml:15:7: rule a: `once` needs to know which row was done\n  hint: select a column `key`, or name columns with `key:`\n",
            ),
            (
                "execute:\n  - {name: a, once: true, repeat: 5s, call: event, with: {reason: R, message: m}}\n",
                "package.yaml:15:7: rule a: `once` and `repeat` contradict each other\n",
            ),
            (
                "execute:\n  - {name: a, 'on': [sizes], for: \"SELECT size, name FROM cr\", call: event, with: {reason: R, message: m}}\n",
                "package.yaml:15:24: rule a: `on` names a column `sizes` that the row does not have\n  hint: did you mean `size`?\n",
            ),
            (
                "execute:\n  - {name: a, limit: 0, call: event, with: {reason: R, message: m}}\n",
                "package.yaml:15:24: rule a: limit must be a number of at least 1\n",
            ),
            (
                "execute:\n  - {name: a, after: b, call: event, with: {reason: R, message: m}}\n",
                "package.yaml:15:24: rule a: there is no rule `b` to come after\n  hint: `after` names rules with apply, patch, helm or call\n",
            ),
            (
                "execute:\n  - {name: a, after: b, call: event, with: {reason: R, message: m}}\n  - {name: b, after: [a], call: event, with: {reason: R, message: m}}\n",
                "package.yaml:15:24: rule a: rules wait for each other in a circle: a -> b -> a\n",
            ),
            (
                "execute:\n  - {name: a, call: event, with: {reason: R, message: m}}\n  - {name: a, call: event, with: {reason: R, message: m}}\n",
                "package.yaml:16:14: there are two rules `a`; the first is at line 15\n",
            ),
            (
                "execute:\n  - {name: a, own: false, call: event, with: {reason: R, message: m}}\n",
                "package.yaml:15:17: rule a: `own` has no meaning with `call`\n",
            ),
            (
                "sense:\n  p: {probe: redis, for: SELECT 'k' AS key, with: {host: h, command: [PING], timeout: 1s}, cols: {a: b}}\n",
                "package.yaml:15:89: sense.p.with: a probe's timeout is not one of its `with`\n  hint: write `timeout` beside `every`\n",
            ),
            (
                "sense:\n  p: {watch: v1/Pod, cols: {a: {path: spec, type: int, only: x}}}\n",
                "package.yaml:15:64: sense.p.cols.a: `only` is a list of members to keep\n  hint: such as [ip, flags]\npackage.yaml:15:64: sense.p.cols.a: `only` is for columns of type json\n",
            ),
        ],
    ),
    (
        "objects",
        &[
            (
                "execute:\n  - {name: a, apply: objects/*.yaml}\n",
                "package.yaml:15:24: rule a: no file matches `objects/*.yaml`\n  hint: the package has: crd.yaml, package.yaml\n",
            ),
            (
                "execute:\n  - {name: a, apply: {apiVersion: v1, kind: \"{{ cr.mode }}\", metadata: {}, status: {}}}\n",
                "package.yaml:15:24: rule a: the object needs `metadata.name`\npackage.yaml:15:47: rule a: kind must be plain text: what is watched depends on it\npackage.yaml:15:86: rule a: status is not applied with the object\n  hint: leave it out\n",
            ),
            (
                "execute:\n  - {name: a, patch: {metadata: {name: x, ownerReferences: []}}}\n",
                "package.yaml:15:24: rule a: the object needs `apiVersion`\npackage.yaml:15:24: rule a: the object needs `kind`\npackage.yaml:15:62: rule a: metadata.ownerReferences is the runtime's to set\n",
            ),
        ],
    ),
    (
        "status and metrics",
        &[
            (
                "execute:\n  - status: {conditions: {Ready: SELECT 1 AS ok}}\n",
                "package.yaml:15:15: condition Ready is the runtime's\n  hint: choose another name, or write `runtime: false` to have none of the runtime's conditions\n",
            ),
            (
                "execute:\n  - status: {conditions: {Fine: SELECT 1 AS okay}}\n",
                "package.yaml:15:35: condition Fine must select a column `ok`\n  hint: SELECT ... AS ok, 'Reason' AS reason, 'message' AS message\npackage.yaml:15:35: condition Fine: column `okay` is none of ok, reason, message\n",
            ),
            (
                "execute:\n  - status: {}\n  - status: {}\n",
                "package.yaml:16:7: there are two status rules: one instance has one status\n",
            ),
            (
                "execute:\n  - metric: {name: Bad-Name, value: SELECT 1}\n",
                "package.yaml:15:22: `Bad-Name` cannot be the name of a metric\n  hint: lower-case letters, digits and _, beginning with a letter\n",
            ),
            (
                "execute:\n  - metric: {name: m, value: \"SELECT 1, 2\"}\n",
                "package.yaml:15:32: metric m: the query must select a column `value`\n",
            ),
        ],
    ),
];
