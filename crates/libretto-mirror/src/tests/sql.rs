//! The working set and the locks on what others may run.

use super::*;
use std::collections::BTreeSet;

use crate::{Asked, Limits, Mirror, Sheet, SqlError};

fn sheet() -> Sheet {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    for number in 0..3 {
        let mut pod = child("Pod", &format!("p{number}"), Some("a"), 2);
        pod["status"]["podIP"] = serde_json::json!(format!("10.0.0.{number}"));
        apply(&mut mirror, &pod);
    }
    let mut sheet = Sheet::new(&schema()).unwrap();
    let described = sheet
        .describe("SELECT name, ip, 1 AS one FROM pods")
        .unwrap();
    sheet.add_view("addresses", &described.columns).unwrap();
    sheet.fill(&snapshot(&mirror, "a"), 123_456);
    sheet
        .materialise(
            "addresses",
            &asked(
                "SELECT name, ip, 1 AS one FROM pods",
                &["pods".to_owned()].into(),
                &[],
            ),
            Limits::PACKAGE,
        )
        .unwrap();
    sheet
}

fn asked<'a>(sql: &'a str, reads: &'a BTreeSet<String>, parameters: &'a [String]) -> Asked<'a> {
    Asked {
        sql,
        reads,
        parameters,
    }
}

#[test]
fn a_query_is_run_again_only_when_its_rows_may_differ() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    apply(&mut mirror, &child("Pod", "p0", Some("a"), 2));
    let mut sheet = Sheet::new(&schema()).unwrap();
    let counted = "SELECT count(*) AS n, :size AS size FROM pods";
    let described = sheet.describe(counted).unwrap();
    sheet.add_view("counted", &described.columns).unwrap();
    let (pods, size) = (["pods".to_owned()].into(), ["size".to_owned()]);
    let below = ["counted".to_owned()].into();
    let ask = |mirror: &Mirror| {
        sheet.fill(&snapshot(mirror, "a"), 1);
        let view = asked(counted, &pods, &size);
        sheet
            .materialise("counted", &view, Limits::PACKAGE)
            .unwrap();
        let above = asked("SELECT n + 1 AS n FROM counted", &below, &[]);
        let answer = sheet.answer(&above, Limits::PACKAGE).unwrap();
        (
            sheet.answer(&view, Limits::PACKAGE).unwrap().version,
            answer.version,
            answer.rows.rows[0][0].display(),
        )
    };
    let first = ask(&mirror);
    assert_eq!(first.2, "2");
    assert_eq!(ask(&mirror), first, "nothing changed");
    // Another pod gives the view other rows, and so everything above it.
    apply(&mut mirror, &child("Pod", "p1", Some("a"), 3));
    let second = ask(&mirror);
    assert!(second.0 != first.0 && second.1 != first.1 && second.2 == "3");
    // What changes and gives the same rows stops there.
    let mut pod = child("Pod", "p1", Some("a"), 4);
    pod["status"]["podIP"] = serde_json::json!("10.0.0.9");
    apply(&mut mirror, &pod);
    assert_eq!(ask(&mirror), second);
}

fn one(sheet: &Sheet, sql: &str) -> String {
    let rows = sheet.rows(sql, Limits::PACKAGE).unwrap();
    rows.rows[0]
        .iter()
        .map(Datum::display)
        .collect::<Vec<_>>()
        .join("|")
}

#[test]
fn queries_see_tables_views_parameters_and_the_clock() {
    let sheet = sheet();
    let cases = [
        ("SELECT count(*) FROM pods", "3"),
        (
            "SELECT group_concat(name, ' ') FROM (SELECT name FROM addresses ORDER BY name DESC)",
            "p2 p1 p0",
        ),
        ("SELECT :size, :name", "5|a"),
        ("SELECT s10, m1, now FROM clock", "120000|120000|120000"),
        ("SELECT labels ->> '$.app' FROM pods LIMIT 1", "thing"),
        ("SELECT count(*) FROM objects", "0"),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT sum(i) FROM n",
            "55",
        ),
        ("SELECT value FROM json_each('[7]')", "7"),
        ("SELECT 1;  ", "1"),
        ("VALUES (4)", "4"),
    ];
    for (sql, expected) in cases {
        assert_eq!(one(&sheet, sql), expected, "{sql}");
    }
}

#[test]
fn a_statement_says_what_it_reads_and_gives() {
    let sheet = sheet();
    let described = sheet
        .describe("SELECT a.name, p.ready, p.labels, count(*) AS n FROM addresses a JOIN pods p USING (ip) WHERE p.deleting = :size")
        .unwrap();
    let kinds: Vec<(&str, Option<ColumnType>)> = described
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("name", Some(ColumnType::String)),
            ("ready", Some(ColumnType::Bool)),
            ("labels", Some(ColumnType::Json)),
            ("n", None)
        ]
    );
    assert_eq!(described.parameters, ["size"]);
    let reads: Vec<String> = described
        .reads
        .iter()
        .map(|(table, column)| format!("{table}.{column}"))
        .collect();
    assert_eq!(
        reads,
        [
            "addresses.name",
            "pods.deleting",
            "pods.labels",
            "pods.ready"
        ]
    );
}

#[test]
fn a_table_that_is_only_joined_is_still_read() {
    let sheet = sheet();
    let cases = [
        "SELECT a.name FROM addresses a JOIN pods p USING (ip)",
        "SELECT a.name FROM addresses a NATURAL JOIN pods p",
        "SELECT a.name FROM addresses a, pods",
        "SELECT a.name FROM addresses a WHERE EXISTS (SELECT 1 FROM pods)",
        "SELECT a.name FROM addresses a WHERE (SELECT count(*) FROM pods) > 1",
        "SELECT name FROM addresses UNION SELECT 'x' FROM pods",
    ];
    for sql in cases {
        let described = sheet.describe(sql).unwrap();
        assert!(
            described.reads.iter().any(|(table, _)| table == "pods"),
            "{sql}: {:?}",
            described.reads
        );
    }
}

#[test]
fn whatever_is_not_reading_its_own_tables_is_refused() {
    let sheet = sheet();
    let cases = [
        (
            "INSERT INTO pods(name) VALUES ('x')",
            "not allowed: writing: rules change the world, queries only read",
        ),
        (
            "DELETE FROM pods",
            "not allowed: writing: rules change the world, queries only read",
        ),
        (
            "UPDATE pods SET name = 'x'",
            "not allowed: writing: rules change the world, queries only read",
        ),
        (
            "CREATE TABLE t(a)",
            "not allowed: writing: rules change the world, queries only read",
        ),
        (
            "DROP TABLE pods",
            "not allowed: writing: rules change the world, queries only read",
        ),
        ("ATTACH 'file:/tmp/x' AS x", "not allowed: ATTACH"),
        ("PRAGMA database_list", "not allowed: PRAGMA database_list"),
        (
            "SELECT * FROM pragma_database_list",
            "not allowed: reading pragma_database_list",
        ),
        (
            "SELECT * FROM sqlite_master",
            "not allowed: reading sqlite_master",
        ),
        (
            "SELECT * FROM sqlite_schema",
            "not allowed: reading sqlite_master",
        ),
        ("BEGIN", "not allowed: a transaction"),
        ("SAVEPOINT x", "not allowed: a transaction"),
        ("VACUUM", "statement is not a single SELECT"),
        ("EXPLAIN SELECT 1", "statement is not a single SELECT"),
        (
            "SELECT 1; SELECT 2",
            "more than one statement: keep only the first",
        ),
        ("", "statement is empty"),
        (" ; ", "statement is empty"),
        (
            "SELECT random()",
            "not allowed: function random() (only functions that depend on nothing but their arguments are; time comes from table clock)",
        ),
        (
            "SELECT datetime('now')",
            "not allowed: function datetime() (only functions that depend on nothing but their arguments are; time comes from table clock)",
        ),
        (
            "SELECT load_extension('x')",
            "not allowed: function load_extension() (only functions that depend on nothing but their arguments are; time comes from table clock)",
        ),
        ("SELECT missing FROM pods", "no such column: missing"),
        ("SELECT * FROM missing", "no such table: missing"),
        ("SELEC 1", "near \"SELEC\": syntax error"),
        ("SELECT ?", "parameters must be named, like :replicas"),
        ("SELECT :missing", "parameter :missing has no value"),
    ];
    for (sql, message) in cases {
        let error = sheet.rows(sql, Limits::PACKAGE).unwrap_err();
        assert_eq!(error.to_string(), message, "{sql}");
    }
    assert_eq!(
        one(&sheet, "SELECT count(*) FROM pods"),
        "3",
        "nothing of it happened"
    );
}

#[test]
fn bombs_end_at_their_bounds() {
    let sheet = sheet();
    let small = Limits {
        steps: 100_000,
        rows: 100,
        bytes: 100_000,
        value: 1_000,
    };
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
    let cases = [
        (
            format!("{endless} SELECT count(*) FROM n"),
            SqlError::Budget(100_000),
        ),
        (
            format!("{endless} SELECT i FROM n"),
            SqlError::TooManyRows(100),
        ),
        (
            "SELECT printf('%2000d', 1) AS long".to_owned(),
            SqlError::TooLong {
                column: "long".into(),
                limit: 1_000,
            },
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(sheet.rows(&sql, small).unwrap_err(), expected, "{sql}");
    }
    let error = sheet
        .rows("SELECT length(printf('%20000000d', 1))", small)
        .unwrap_err();
    assert!(matches!(error, SqlError::TooLong { .. }), "{error:?}");
    let nested = format!("SELECT {}1{}", "(1 + ".repeat(500), ")".repeat(500));
    let error = sheet.rows(&nested, small).unwrap_err().to_string();
    assert!(error.contains("maximum depth 200"), "{error}");
    assert_eq!(
        one(&sheet, "SELECT 1"),
        "1",
        "the next statement has its own budget"
    );
}

#[test]
fn a_person_reads_the_whole_mirror_and_nothing_else() {
    let mut mirror = mirror();
    apply(&mut mirror, &thing("a", 1));
    apply(&mut mirror, &thing("b", 2));
    let table = mirror
        .query(
            "SELECT name, size FROM demo__cr ORDER BY name",
            Limits::QUERY,
        )
        .unwrap();
    assert_eq!(*table.columns, ["name", "size"]);
    assert_eq!(table.rows.len(), 2);
    assert!(mirror.query("DELETE FROM demo__cr", Limits::QUERY).is_err());
    let names: Vec<String> = mirror.tables().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "demo__cr",
            "demo__objects",
            "demo__pods",
            "demo__services",
            "demo__info"
        ]
    );
}
