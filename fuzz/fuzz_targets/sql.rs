//! Any text as a query of a package: it answers within its bounds, or says why not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libretto_mirror::{ColumnType, Datum, Limits, ask};

fuzz_target!(|sql: &str| {
    let columns = [
        ("name".to_owned(), ColumnType::String),
        ("size".to_owned(), ColumnType::Int),
    ];
    let rows = [
        vec![Datum::from("a"), Datum::Int(1)],
        vec![Datum::from("b"), Datum::Null],
    ];
    match ask("pods", &columns, &rows, sql, Limits::PACKAGE) {
        Ok(table) => assert!(table.rows.len() <= Limits::PACKAGE.rows),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
