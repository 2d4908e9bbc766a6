//! The functions packages may call in SQL: an allow list of SQLite's own, and ours. All deterministic.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};
use rusqlite::{Connection, functions::FunctionFlags, types::ValueRef};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::parse_bytes;

/// SQLite functions that depend on nothing but their arguments. Date and time functions are absent because `'now'` reads
/// the clock (table `clock` is the only time), `random` and the functions that tell about the connection for the same reason.
/// Sorted.
const ALLOWED: &[&str] = &[
    "->",
    "->>",
    "abs",
    "avg",
    "bytes_of",
    "ceil",
    "ceiling",
    "char",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "cume_dist",
    "dense_rank",
    "first_value",
    "floor",
    "format",
    "glob",
    "group_concat",
    "hex",
    "if",
    "ifnull",
    "iif",
    "instr",
    "json",
    "json_array",
    "json_array_length",
    "json_each",
    "json_error_position",
    "json_extract",
    "json_group_array",
    "json_group_object",
    "json_insert",
    "json_object",
    "json_patch",
    "json_pretty",
    "json_quote",
    "json_remove",
    "json_replace",
    "json_set",
    "json_tree",
    "json_type",
    "json_valid",
    "lag",
    "last_value",
    "lead",
    "length",
    "like",
    "likelihood",
    "likely",
    "lower",
    "ltrim",
    "max",
    "min",
    "mod",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "percent_rank",
    "pow",
    "power",
    "printf",
    "quote",
    "rank",
    "regexp",
    "replace",
    "round",
    "row_number",
    "rtrim",
    "sha1hex",
    "sha256hex",
    "sign",
    "sqrt",
    "string_agg",
    "substr",
    "substring",
    "sum",
    "total",
    "trim",
    "trunc",
    "typeof",
    "unhex",
    "unicode",
    "unlikely",
    "upper",
];

/// Whether a package may call it.
pub(crate) fn allowed(name: &str) -> bool {
    ALLOWED
        .binary_search_by(|probe| probe.cmp(&name.to_ascii_lowercase().as_str()))
        .is_ok()
}

/// Adds our functions to a connection.
pub(crate) fn install(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("sha1hex", 1, flags, |context| {
        Ok(text_of(context.get_raw(0)).map(|text| hex(&Sha1::digest(text))))
    })?;
    connection.create_scalar_function("sha256hex", 1, flags, |context| {
        Ok(text_of(context.get_raw(0)).map(|text| hex(&Sha256::digest(text))))
    })?;
    connection.create_scalar_function("bytes_of", 1, flags, |context| {
        Ok(text_of(context.get_raw(0))
            .and_then(|text| String::from_utf8(text).ok())
            .and_then(|text| parse_bytes(&text)))
    })?;
    // `a REGEXP b` calls regexp(b, a).
    connection.create_scalar_function("regexp", 2, flags, |context| {
        let (Some(pattern), Some(text)) =
            (text_of(context.get_raw(0)), text_of(context.get_raw(1)))
        else {
            return Ok(None);
        };
        let regex = context.get_or_create_aux(0, |_| {
            let pattern = String::from_utf8_lossy(&pattern);
            // 1 MiB of automaton is far beyond any name pattern and keeps a hostile one small.
            RegexBuilder::new(&pattern)
                .size_limit(1 << 20)
                .build()
                .map_err(|error| -> Box<dyn std::error::Error + Send + Sync> {
                    format!("`{pattern}` is not a regular expression: {error}").into()
                })
        })?;
        let regex: &Regex = &regex;
        Ok(Some(regex.is_match(&String::from_utf8_lossy(&text))))
    })
}

/// A value as the text SQLite would show; `None` for NULL.
fn text_of(value: ValueRef<'_>) -> Option<Vec<u8>> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(int) => Some(int.to_string().into_bytes()),
        ValueRef::Real(float) => Some(float.to_string().into_bytes()),
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(text.to_vec()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_list_answers_for_each_of_its_names() {
        for name in ALLOWED {
            assert!(allowed(name), "{name}");
            assert!(allowed(&name.to_uppercase()), "{name} in capitals");
        }
        for name in [
            "random",
            "datetime",
            "current_timestamp",
            "load_extension",
            "changes",
            "strftime",
        ] {
            assert!(!allowed(name), "{name}");
        }
    }

    #[test]
    fn our_functions() {
        let connection = Connection::open_in_memory().unwrap();
        install(&connection).unwrap();
        let cases = [
            (
                "sha1hex('abc')",
                Some("a9993e364706816aba3e25717850c26c9cd0d89d"),
            ),
            ("sha1hex(NULL)", None),
            ("substr(sha256hex('abc'), 1, 8)", Some("ba7816bf")),
            ("bytes_of('64mb')", Some("67108864")),
            ("bytes_of('lots')", None),
            ("bytes_of(12)", Some("12")),
            ("'redis-0' REGEXP '^redis-[0-9]+$'", Some("1")),
            ("'redis-x' REGEXP '^redis-[0-9]+$'", Some("0")),
            ("NULL REGEXP 'x'", None),
        ];
        for (expression, expected) in cases {
            let sql = format!("SELECT CAST({expression} AS TEXT)");
            let found: Option<String> = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
            assert_eq!(found.as_deref(), expected, "{expression}");
        }
        let error = connection
            .query_row("SELECT 'a' REGEXP '('", [], |row| row.get::<_, bool>(0))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`(` is not a regular expression"),
            "{error}"
        );
    }
}
