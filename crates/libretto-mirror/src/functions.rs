//! The functions packages may call in SQL: an allow list of SQLite's own, and ours. All deterministic.

use std::{borrow::Cow, collections::BTreeSet, fmt::Write as _};

use regex::{Regex, RegexBuilder};
use rusqlite::{Connection, Error, ffi, functions::FunctionFlags, types::ValueRef};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::{Limits, parse_bytes};

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

/// A match takes, at worst, a look at every state of the automaton for every letter. Names and versions are short.
const REGEXP_TEXT: usize = 16 << 10;

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
    // SQLite's own look at every pair of letters: two long texts would take minutes, in one step that nothing interrupts.
    connection.create_scalar_function("instr", 2, flags, |context| {
        let (Some(text), Some(part)) = (shown(context.get_raw(0)), shown(context.get_raw(1)))
        else {
            return Ok(None);
        };
        let place = text.find(part.as_ref());
        Ok(Some(place.map_or(0, |place| {
            text[..place].chars().count() as i64 + 1
        })))
    })?;
    connection.create_scalar_function("replace", 3, flags, |context| {
        let (Some(text), Some(part), Some(by)) = (
            shown(context.get_raw(0)),
            shown(context.get_raw(1)),
            shown(context.get_raw(2)),
        ) else {
            return Ok(None);
        };
        if part.is_empty() {
            return Ok(Some(text.into_owned()));
        }
        let found = text.matches(part.as_ref()).count();
        let length = text.len() - found * part.len() + found.saturating_mul(by.len());
        if length > 2 * Limits::PACKAGE.value {
            return Err(Error::SqliteFailure(
                ffi::Error::new(ffi::SQLITE_TOOBIG),
                None,
            ));
        }
        Ok(Some(text.replace(part.as_ref(), &by)))
    })?;
    for (name, left, right) in [
        ("trim", true, true),
        ("ltrim", true, false),
        ("rtrim", false, true),
    ] {
        connection.create_scalar_function(name, 2, flags, move |context| {
            let (Some(text), Some(letters)) =
                (shown(context.get_raw(0)), shown(context.get_raw(1)))
            else {
                return Ok(None);
            };
            let letters: BTreeSet<char> = letters.chars().collect();
            let mut rest = text.as_ref();
            if left {
                rest = rest.trim_start_matches(|letter| letters.contains(&letter));
            }
            if right {
                rest = rest.trim_end_matches(|letter| letters.contains(&letter));
            }
            Ok(Some(rest.to_owned()))
        })?;
    }
    // `a REGEXP b` calls regexp(b, a).
    connection.create_scalar_function("regexp", 2, flags, |context| {
        let (Some(pattern), Some(text)) =
            (text_of(context.get_raw(0)), text_of(context.get_raw(1)))
        else {
            return Ok(None);
        };
        let regex = context.get_or_create_aux(0, |_| {
            let pattern = String::from_utf8_lossy(&pattern);
            // 256 KiB of automaton is far beyond any name pattern and keeps a hostile one small.
            RegexBuilder::new(&pattern)
                .size_limit(1 << 18)
                .build()
                .map_err(|error| -> Box<dyn std::error::Error + Send + Sync> {
                    format!("`{pattern}` is not a regular expression: {error}").into()
                })
        })?;
        if text.len() > REGEXP_TEXT {
            let problem = format!("REGEXP looks at texts of at most {REGEXP_TEXT} bytes");
            return Err(Error::UserFunctionError(problem.into()));
        }
        let regex: &Regex = &regex;
        Ok(Some(regex.is_match(&String::from_utf8_lossy(&text))))
    })
}

/// A value as SQLite casts it to text; `None` for NULL.
fn shown(value: ValueRef<'_>) -> Option<Cow<'_, str>> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(int) => Some(int.to_string().into()),
        ValueRef::Real(float) => Some(real(float).into()),
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(String::from_utf8_lossy(text)),
    }
}

/// `%!.17g`, of the fewest digits that tell the number.
fn real(float: f64) -> String {
    if !float.is_finite() {
        return if float > 0.0 { "Inf" } else { "-Inf" }.to_owned();
    }
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let point = |digits: &str| if digits.contains('.') { "" } else { ".0" };
    if (-4..=16).contains(&exponent) {
        let digits = float.to_string();
        return format!("{digits}{}", point(&digits));
    }
    let point = point(digits);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}{point}e{sign}{:02}", exponent.abs())
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
    fn those_of_sqlite_that_we_replace_say_what_sqlite_says() {
        let (plain, ours) = (
            Connection::open_in_memory().unwrap(),
            Connection::open_in_memory().unwrap(),
        );
        install(&ours).unwrap();
        let values = [
            "'abcabc'",
            "'b'",
            "''",
            "'héllo é'",
            "'é'",
            "12",
            "2",
            "1.5",
            "0.1 + 0.2",
            "2.0",
            "1e15",
            "1e20",
            "-1e-7",
            "0.0001",
            "123456.789",
            "1234567890123456.0",
            "1e16",
            "1e17",
            "1e18",
            "1e300",
            "x'616263'",
            "NULL",
            "' a '",
        ];
        let ask = |connection: &Connection, sql: &str| -> (String, Option<String>) {
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            connection.query_row(sql, [], row).unwrap()
        };
        for a in values {
            for b in values {
                for call in ["instr", "trim", "ltrim", "rtrim"]
                    .map(|name| format!("{name}({a}, {b})"))
                    .into_iter()
                    .chain(["'-'", "''", "1.5"].map(|c| format!("replace({a}, {b}, {c})")))
                {
                    // Two blobs are compared by bytes in SQLite; packages have none.
                    if call.starts_with("instr(x") {
                        continue;
                    }
                    let sql = format!("SELECT typeof({call}), CAST({call} AS TEXT)");
                    assert_eq!(ask(&ours, &sql), ask(&plain, &sql), "{call}");
                }
            }
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
