//! A package that means harm: each attack ends at a bound with a message that names it, while rules, instances and packages beside it go
//! on as before.

use std::{fmt::Write as _, time::Instant};

use super::*;

/// Far above every bound, so that a busy machine fails no test, and far below what any of the attacks would take.
const PATIENCE: u128 = 5_000;
const HEAP: usize = 700 << 20;

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";

/// Bytes of memory the process had at most; tests beside this one are in it.
fn most() -> usize {
    let told = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    kilobytes.unwrap_or(0_usize) << 10
}

/// Runs it, within time and memory.
fn bounded<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    let took = start.elapsed().as_millis();
    assert!(took < PATIENCE, "{what}: {took} ms");
    assert!(most() < HEAP, "{what}: {} MiB", most() >> 20);
    result
}

/// A neighbour that does one thing, planned beside every attack.
fn neighbour() -> Fixture {
    Fixture::new(
        "execute:\n  - name: good\n    call: event\n    with: {reason: Good, message: works}\n",
    )
}

/// Why the rule `bad` of a package failed; the rule after it acts as always, and so does another package's instance.
fn failure(rest: &str) -> String {
    let other = neighbour().look(0);
    let mut fixture = bounded("load", || Fixture::new(rest));
    let plan = bounded(rest, || {
        let snapshot = fixture.mirror.snapshot("demo", "cr-uid").unwrap().unwrap();
        fixture
            .engine
            .plan(&snapshot, &fixture.ledger, fixture.now, 7)
    });
    let good = |plan: &Plan| {
        let acts = plan.intents.iter().any(|intent| intent.rule == "good");
        assert!(acts, "the rule beside it acts: {:?}", plan.intents);
    };
    good(&plan);
    good(&fixture.look(0));
    assert_eq!(neighbour().look(0), other);
    let bad = plan.rules.iter().find(|view| view.rule == "bad").unwrap();
    bad.failure.clone().unwrap_or_default()
}

/// Why a query failed when it was run.
fn of_sql(sql: &str) -> String {
    let sense = "sense:\n  many: {values: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}\n";
    failure(&format!(
        "{sense}execute:\n  - name: bad\n    for: |\n      {sql}\n    key: [k]\n    call: event\n    with: {{reason: Bad, message: \"{{{{ k }}}}\"}}\n  - name: good\n    call: event\n    with: {{reason: Good, message: works}}\n"
    ))
}

/// What loading says about a query.
fn at_load(sql: &str) -> String {
    let rest = format!("decide:\n  v: |\n    {sql}\nexecute: []\n");
    bounded(sql, || told(&package(&rest)))
}

/// Why a text could not be rendered.
fn of_template(text: &str) -> String {
    let text = text.replace('\n', "\n        ");
    failure(&format!(
        "execute:\n  - name: bad\n    call: event\n    with:\n      reason: Bad\n      message: |-\n        {text}\n  - name: good\n    call: event\n    with: {{reason: Good, message: works}}\n"
    ))
}

fn says(told: &str, expected: &str, of: &str) {
    let of: String = of.chars().take(200).collect();
    assert!(
        told.contains(expected),
        "{of}\n  says: {told}\n  not: {expected}"
    );
}

#[test]
fn queries_that_never_end() {
    let steps =
        "query took more than 5000000 steps: select fewer rows, or join on an indexed column";
    for sql in [
        format!("{ENDLESS} SELECT count(*) AS k FROM n"),
        "SELECT count(*) AS k FROM many a, many b, many c, many d, many e, many f, many g, many h"
            .to_owned(),
        format!("{ENDLESS} SELECT i AS k FROM n WHERE i < 0"),
    ] {
        says(&of_sql(&sql), steps, &sql);
    }
    let sql = format!("{ENDLESS} SELECT i AS k FROM n");
    says(&of_sql(&sql), "query returned more than 10000 rows", &sql);
}

#[test]
fn queries_of_few_steps_over_long_values() {
    let long = "printf('%.*c', 1400000, 'x')";
    for sql in [
        // Cut and lengthened again and again.
        format!(
            "WITH RECURSIVE n(i, s) AS (SELECT 1, {long} UNION ALL SELECT i + 1, substr(s || 'y', 2) FROM n) SELECT max(i) AS k FROM n"
        ),
        format!("{ENDLESS} SELECT count(*) AS k FROM n WHERE length(upper({long} || i)) = 0"),
        format!(
            "{ENDLESS} SELECT count(*) AS k FROM n WHERE json_valid('[' || substr(replace({long}, 'x', '1,'), 1, 1400001) || i || ']') = 2"
        ),
        format!(
            "{ENDLESS} SELECT sum(e.value) AS k FROM n, json_each('[' || substr(replace(printf('%.*c', 700000, 'x'), 'x', '1,'), 1, 1399999) || ']') e"
        ),
        format!(
            "{ENDLESS} SELECT count(*) AS k FROM n WHERE {long} || i LIKE '%{}b%'",
            "a".repeat(250)
        ),
        format!(
            "{ENDLESS} SELECT count(*) AS k FROM n WHERE printf('%.*c', 16000, 'a') REGEXP '(a|b|ab){{50}}(a*a*){{20}}' || i"
        ),
    ] {
        let told = of_sql(&sql);
        let ended = [
            "query worked on long values for more than 250 ms",
            "query took more than 5000000 steps",
        ];
        assert!(
            ended.iter().any(|message| told.contains(message)),
            "{sql}\n  says: {told}"
        );
    }
    // One step each, of which SQLite would make minutes.
    for sql in [
        "SELECT instr(printf('%.*c', 1400000, 'a'), printf('%.*c', 700000, 'a') || 'b') AS k",
        "SELECT length(replace(printf('%.*c', 1400000, 'a'), printf('%.*c', 700000, 'a') || 'b', 'c')) AS k",
        "SELECT length(trim(printf('%.*c', 1400000, 'a'), replace(printf('%.*c', 1000000, 'b'), 'b', 'c') || 'a')) AS k",
        "SELECT length(printf('%.*c', 1400000, 'a')) AS k",
    ] {
        assert_eq!(of_sql(sql), "", "{sql}");
    }
}

#[test]
fn queries_that_fill_the_memory() {
    let long = "printf('%.*c', 1000000, 'x')";
    for (sql, expected) in [
        (format!("{ENDLESS} SELECT {long} || i AS k FROM n LIMIT 10000"), "query returned more than 16777216 bytes: select fewer rows or shorter values"),
        ("SELECT printf('%.*c', 100000000, 'x') AS k".to_owned(), "is longer than 1500000 bytes"),
        ("SELECT printf('%.*c', 2000000, 'x') AS k".to_owned(), "a value of column `k` is longer than 1500000 bytes"),
        (format!("SELECT hex({long}) || hex({long}) AS k"), "is longer than 1500000 bytes"),
        (format!("SELECT replace({long}, 'x', {long}) AS k"), "is longer than 1500000 bytes"),
        (format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) SELECT group_concat({long}) AS k FROM n"), "is longer than 1500000 bytes"),
        ("WITH RECURSIVE n(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM n) SELECT count(*) AS k FROM n".to_owned(), "is longer than 1500000 bytes"),
    ] {
        says(&of_sql(&sql), expected, &sql);
    }
    // Put aside for sorting, where no row is seen.
    for sql in [
        format!("{ENDLESS} SELECT count(*) AS k FROM (SELECT DISTINCT {long} || i FROM n)"),
        format!(
            "{ENDLESS}, m AS MATERIALIZED (SELECT {long} || i AS s FROM n) SELECT count(*) AS k FROM m a, m b"
        ),
        format!(
            "{ENDLESS} SELECT k FROM (SELECT i AS k, row_number() OVER (ORDER BY {long} || i) FROM n)"
        ),
    ] {
        let told = of_sql(&sql);
        let ended = [
            "query took more than 5000000 steps",
            "or held more than 96 MiB",
            "query worked on long values for more than 250 ms",
        ];
        assert!(
            ended.iter().any(|message| told.contains(message)),
            "{sql}\n  says: {told}"
        );
    }
}

#[test]
fn what_sql_may_not_touch_is_said_at_load() {
    let functions = "(only functions that depend on nothing but their arguments are; time comes from table clock)";
    let writing = "not allowed: writing: rules change the world, queries only read";
    for (sql, expected) in [
        (
            "SELECT zeroblob(1000000000)",
            format!("not allowed: function zeroblob() {functions}"),
        ),
        (
            "SELECT hex(randomblob(1000000000))",
            format!("not allowed: function randomblob() {functions}"),
        ),
        (
            "SELECT load_extension('/tmp/x.so')",
            format!("not allowed: function load_extension() {functions}"),
        ),
        (
            "SELECT fts3_tokenizer('simple')",
            format!("not allowed: function fts3_tokenizer() {functions}"),
        ),
        (
            "SELECT readfile('/etc/passwd')",
            "no such function: readfile".to_owned(),
        ),
        (
            "SELECT writefile('/tmp/x', 'y')",
            "no such function: writefile".to_owned(),
        ),
        ("SELECT edit('x')", "no such function: edit".to_owned()),
        (
            "SELECT * FROM sqlite_master",
            "not allowed: reading sqlite_master".to_owned(),
        ),
        (
            "SELECT * FROM sqlite_temp_master",
            "not allowed: reading sqlite_".to_owned(),
        ),
        (
            "SELECT * FROM pragma_database_list",
            "not allowed: reading pragma_database_list".to_owned(),
        ),
        (
            "SELECT * FROM dbstat",
            "not allowed: reading dbstat".to_owned(),
        ),
        (
            "SELECT * FROM sqlite_dbpage",
            "no such table: sqlite_dbpage".to_owned(),
        ),
        ("ATTACH '/tmp/x' AS x", "not allowed: ATTACH".to_owned()),
        ("DETACH main", "not allowed: DETACH".to_owned()),
        (
            "PRAGMA writable_schema = 1",
            "not allowed: PRAGMA writable_schema".to_owned(),
        ),
        ("CREATE TEMP TABLE x(a)", writing.to_owned()),
        ("CREATE TEMP VIEW x AS SELECT 1", writing.to_owned()),
        ("INSERT INTO cr(name) VALUES ('x')", writing.to_owned()),
        ("UPDATE cr SET name = 'x'", writing.to_owned()),
        ("DELETE FROM cr", writing.to_owned()),
        ("DROP TABLE cr", writing.to_owned()),
        (
            "WITH x AS (SELECT 1) DELETE FROM cr RETURNING name",
            writing.to_owned(),
        ),
        (
            "VACUUM INTO '/tmp/x'",
            "statement is not a single SELECT".to_owned(),
        ),
        ("SELECT 1; DROP TABLE cr", writing.to_owned()),
        ("SELECT 1; SELECT 2", "more than one statement".to_owned()),
        (
            "SELECT * FROM redis__pods",
            "no such table: redis__pods".to_owned(),
        ),
        (
            "SELECT * FROM other.cr",
            "no such table: other.cr".to_owned(),
        ),
        ("SELECT * FROM temp.cr", "no such table: temp.cr".to_owned()),
    ] {
        says(&at_load(sql), &expected, sql);
    }
}

#[test]
fn statements_that_are_hard_to_read() {
    let list = format!("SELECT 1 AS k WHERE 1 IN ({}2)", "1, ".repeat(30_000));
    says(
        &at_load(&list),
        "statement is longer than 65536 bytes",
        "a list",
    );
    for (depth, expected) in [
        (500, "maximum depth 200"),
        (5_000, "statement is nested too deep"),
    ] {
        let deep = format!(
            "SELECT {}1{} AS k",
            "(1 + ".repeat(depth),
            ")".repeat(depth)
        );
        says(&at_load(&deep), expected, "brackets");
    }
    for (open, close) in [
        ("SELECT * FROM (", ")"),
        ("SELECT (", ")"),
        ("SELECT EXISTS (", ")"),
    ] {
        let nested = format!("{}SELECT 1{}", open.repeat(3_000), close.repeat(3_000));
        assert_ne!(at_load(&nested), "", "{open}");
    }
    let mut doubled = String::from("WITH c0 AS (SELECT 1 AS k)");
    for number in 1..40 {
        let _ = write!(
            doubled,
            ", c{number} AS (SELECT a.k FROM c{0} a, c{0} b)",
            number - 1
        );
    }
    doubled.push_str(" SELECT k FROM c39");
    assert_ne!(at_load(&doubled), "");
    let union = vec!["SELECT 1 AS k"; 1_000].join(" UNION ALL ");
    says(
        &at_load(&union),
        "too many terms in compound SELECT",
        "UNION ALL",
    );
    let joined = format!("SELECT 1 AS k FROM cr {}", ", cr".repeat(100));
    says(&at_load(&joined), "at most 64 tables in a join", "join");
}

#[test]
fn regular_expressions_that_are_too_much() {
    let sql = "SELECT 'x' REGEXP '(((((a{100}){100}){100}){100}){100})' AS k";
    says(&of_sql(sql), "Compiled regex exceeds size limit", sql);
    let sql = "SELECT printf('%.*c', 20000, 'a') REGEXP '(a*)*b' AS k";
    says(
        &of_sql(sql),
        "REGEXP looks at texts of at most 16384 bytes",
        sql,
    );
    // Exponential for engines that go back; here one look at each letter.
    let sql = "SELECT printf('%.*c', 16000, 'a') REGEXP '(a*)*(a*)*(a|aa)+$b' AS k";
    assert_eq!(of_sql(sql), "", "{sql}");
}

#[test]
fn templates_that_never_end() {
    let fuel = "template took more than 100000 instructions";
    let nested = "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{% endfor %}{% endfor %}{% endfor %}";
    says(&of_template(nested), fuel, nested);
    says(
        &of_template("{% for a in range(1000000000) %}x{% endfor %}"),
        "range has too many elements",
        "range",
    );
    says(
        &of_template("{{ range(10**9)|list }}"),
        "range has too many elements",
        "range",
    );
}

#[test]
fn templates_that_fill_the_memory() {
    let most = [
        "template makes more than 8388608 bytes of text and lists",
        "template makes lists more than 64 deep",
    ];
    for text in [
        "{{ 'x' * 90000000 }}",
        "{{ 90000000 * 'x' }}",
        "{{ [1] * 90000000 }}",
        "{% set x = namespace(a='xxxxxxxxxx') %}{% for i in range(100) %}{% set x.a = x.a ~ x.a %}{% endfor %}{{ x.a|length }}",
        "{% set x = namespace(a='xxxxxxxxxx') %}{% for i in range(100) %}{% set x.a = x.a + x.a %}{% endfor %}{{ x.a|length }}",
        "{% set x = namespace(a=[1]) %}{% for i in range(100) %}{% set x.a = [x.a, x.a] %}{% endfor %}{{ x.a }}",
        "{% set x = namespace(a=[1]) %}{% for i in range(60) %}{% set x.a = [x.a, x.a] %}{% endfor %}{{ x.a == [x.a] }}",
        "{% set x = namespace(a=[1]) %}{% for i in range(60) %}{% set x.a = [x.a, x.a] %}{% endfor %}{{ x.a is eq([x.a]) }}",
        "{% set x = namespace(a=[1]) %}{% for i in range(60) %}{% set x.a = [x.a, x.a] %}{% endfor %}{{ x.a|tojson }}",
        "{% set a = 'x' * 3000000 %}{% for i in range(10000) %}{% set b = a[1:] %}{% endfor %}x",
        "{{ 'x'|indent(1000000000, true) }}",
        "{{ 'x'|indent(width=1000000000, first=true) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '%*d'|format(1000000000, 1) }}",
        "{{ [1]|batch(1000000000, 'x') }}",
        "{{ [1]|slice(1000000000, 'x') }}",
        "{{ range(90000)|join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }}",
        "{{ ('x' * 20000)|replace('x', 'y' * 20000) }}",
        "{{ range(90000)|map('replace', '', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx')|list|length }}",
    ] {
        let told = of_template(text);
        assert!(
            most.iter().any(|message| told.contains(message)),
            "{text}\n  says: {told}"
        );
    }
    let text = "{% set x = namespace(a=[1]) %}{% for i in range(100) %}{% set x.a = [x.a] %}{% endfor %}{{ x.a }}";
    says(&of_template(text), most[1], text);
    let text = "{% for i in range(9000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}";
    says(
        &of_template(text),
        "template gives more than 1500000 bytes",
        text,
    );
    let raw = format!(
        "{{% for i in range(90000) %}}{}{{% endfor %}}",
        "raw ".repeat(10_000)
    );
    says(&of_template(&raw), "instructions", "raw text");
}

#[test]
fn templates_that_call_themselves() {
    for (text, what) in [
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "macro"),
        (
            "{% set x %}{% for i in range(9) %}x{% endfor %}{% endset %}{{ x }}",
            "set, filter or call with a block",
        ),
        (
            "{% filter upper %}x{% endfilter %}",
            "set, filter or call with a block",
        ),
        ("{% include '/etc/passwd' %}", "include"),
        ("{% extends 'x' %}", "extends or import"),
        ("{% import 'x' as x %}", "extends or import"),
        ("{% block x %}{{ self.x() }}{% endblock %}", "block"),
        (
            "{% for a in [[1]] recursive %}{{ loop(a) }}{% endfor %}",
            "recursive loop",
        ),
    ] {
        let rest = format!(
            "execute:\n  - name: bad\n    call: event\n    with:\n      reason: Bad\n      message: |-\n        {text}\n"
        );
        let told = bounded(text, || told(&package(&rest)));
        says(&told, &format!("templates have no {what}"), text);
    }
}

#[test]
fn what_guarded_templates_give_is_what_they_gave() {
    let text = "{% for a in range(3) %}{% set b = a * 2 %}{{ a ~ ':' ~ b ~ (' even' if b in [0, 4] else '') ~ ' ' ~ 'abc'[a:] }}{% if a + b >= 3 and a != 2 %}!{% endif %};{% endfor %}";
    let rest = format!(
        "execute:\n  - name: say\n    call: event\n    with:\n      reason: Said\n      message: |-\n        {text}\n"
    );
    let mut fixture = Fixture::new(&rest);
    let done = fixture.go(0).join("\n");
    says(&done, "0:0 even abc;1:2 bc!;2:4 even c;", text);
}

#[test]
fn yaml_that_is_more_than_it_looks() {
    let mut files = package("execute: []\n");
    let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for number in 1..12 {
        let _ = writeln!(
            laughs,
            "a{number}: &a{number} [{}]",
            vec![format!("*a{}", number - 1); 10].join(", ")
        );
    }
    for (what, text) in [
        ("aliases", laughs),
        (
            "lists",
            format!("a: {}1{}\n", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        (
            "maps",
            format!("a: {}1{}\n", "{a: ".repeat(100_000), "}".repeat(100_000)),
        ),
        (
            "indentation",
            (0..2_000).fold(String::new(), |text, depth| {
                text + &" ".repeat(depth) + "a:\n"
            }),
        ),
        ("itself", "a: &a [*a]\n".to_owned()),
        ("documents", "--- 1\n".repeat(100_000)),
        ("nodes", format!("a: [{}]\n", "1, ".repeat(500_000))),
    ] {
        files.insert("package.yaml".to_owned(), text);
        let told = bounded(what, || told(&files));
        says(&told, "not valid YAML: ", what);
    }
}

#[test]
fn packages_of_too_many_parts() {
    let mut rules = String::from("execute:\n");
    for number in 0..100_000 {
        let _ = writeln!(
            rules,
            "- {{name: r{number}, call: event, with: {{reason: R, message: m}}}}"
        );
    }
    let mut views = String::from("execute: []\ndecide:\n");
    for number in 0..100_000 {
        let _ = writeln!(views, "  v{number}: SELECT 1 AS a");
    }
    for rest in [&rules, &views] {
        let told = bounded("parts", || told(&package(rest)));
        let ended = ["not valid YAML: ", "decide has 100000 views; at most 1000"];
        assert!(
            ended.iter().any(|message| told.contains(message)),
            "{told:.300}"
        );
    }
    let some = |what: &str, line: &dyn Fn(usize) -> String| -> String {
        (0..1_001).fold(what.to_owned(), |text, number| text + &line(number) + "\n")
    };
    let rules = some("execute:\n", &|number| {
        format!("- {{name: r{number}, call: event, with: {{reason: R, message: m}}}}")
    });
    let views = some("execute: []\ndecide:\n", &|number| {
        format!("  v{number}: SELECT 1 AS a")
    });
    let tables = some("execute: []\nsense:\n", &|number| {
        format!("  t{number}: {{values: [1]}}")
    });
    for (rest, what) in [
        (rules, "execute has 1001 rules"),
        (views, "decide has 1001 views"),
        (tables, "sense has 1001 tables"),
    ] {
        let told = bounded("parts", || told(&package(&rest)));
        says(&told, &format!("{what}; at most 1000"), what);
    }
}

#[test]
fn circles() {
    let chain: String = (0..300).fold(String::new(), |text, number| {
        text + &format!("  v{number}: SELECT * FROM v{}\n", (number + 1) % 300)
    });
    let told = bounded("views", || {
        told(&package(&format!("execute: []\ndecide:\n{chain}")))
    });
    says(
        &told,
        "views read each other in a circle: v0 -> v1 -> ",
        "views",
    );
    let chain: String = (0..300).fold(String::new(), |text, number| {
        text + &format!(
            "- {{name: r{number}, after: [r{}], call: event, with: {{reason: R, message: m}}}}\n",
            (number + 1) % 300
        )
    });
    let told = bounded("rules", || {
        super::told(&package(&format!("execute:\n{chain}")))
    });
    says(&told, "circle", "after");
}
