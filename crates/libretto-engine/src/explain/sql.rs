//! As much of SQL's grammar as is needed to say which part of a query removed its rows. What it does not understand it says nothing about.

/// A word, a quoted text or a sign.
struct Token<'a> {
    text: &'a str,
    at: usize,
    /// Parentheses around it; those themselves count as inside.
    depth: usize,
}

impl Token<'_> {
    fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    fn any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }

    fn end(&self) -> usize {
        self.at + self.text.len()
    }
}

/// A query that is one SELECT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape<'a> {
    /// Common table expressions, with the word WITH; empty without.
    pub(super) with: &'a str,
    /// Behind FROM.
    pub(super) from: &'a str,
    /// Names in FROM without which there is no row: not those of a LEFT JOIN.
    pub(super) needed: Vec<String>,
    /// What stands between the ANDs of WHERE.
    pub(super) conditions: Vec<&'a str>,
}

/// `None` for what is not one SELECT over something.
pub(super) fn shape(sql: &str) -> Option<Shape<'_>> {
    let tokens = tokens(sql);
    let outer: Vec<&Token<'_>> = tokens.iter().filter(|token| token.depth == 0).collect();
    if outer
        .iter()
        .any(|token| token.any(&["union", "except", "intersect", "values"]))
    {
        return None;
    }
    let select = outer.iter().find(|token| token.is("select"))?;
    let with = sql[..select.at].trim();
    let from = outer
        .iter()
        .position(|token| token.is("from") && token.at > select.at)?;
    let ends = |token: &&&Token<'_>| {
        token.any(&["where", "group", "having", "window", "order", "limit", ";"])
    };
    let rest = &outer[from + 1..];
    let from_end = rest.iter().find(ends).map_or(sql.len(), |token| token.at);
    let from_text = sql[outer[from].end()..from_end].trim();
    let conditions = match rest.iter().position(|token| token.is("where")) {
        None => Vec::new(),
        Some(place) => {
            let behind = &rest[place + 1..];
            let end = behind.iter().find(ends).map_or(sql.len(), |token| token.at);
            conjuncts(sql, behind, rest[place].end(), end)
        }
    };
    let within: Vec<&Token<'_>> = tokens
        .iter()
        .filter(|token| token.at >= outer[from].end() && token.at < from_end)
        .collect();
    Some(Shape {
        with,
        from: from_text,
        needed: needed(&within)?,
        conditions,
    })
}

/// Names after FROM, a comma, or a JOIN that is not a LEFT one. `None` where even those may give NULLs.
fn needed(tokens: &[&Token<'_>]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let (mut expected, mut left) = (true, false);
    for (place, token) in tokens.iter().enumerate() {
        if token.depth > 0 {
            // A subquery or the arguments of a function.
            expected = expected && !token.text.starts_with('(');
            continue;
        }
        if token.any(&["right", "full"]) {
            return None;
        } else if token.is("left") {
            left = true;
        } else if token.any(&[",", "join"]) {
            expected = true;
            left = left && token.is("join");
        } else if expected {
            let function = tokens
                .get(place + 1)
                .is_some_and(|next| next.text.starts_with('('));
            if !left && !function {
                names.push(token.text.trim_matches(['"', '`', '[', ']']).to_owned());
            }
            (expected, left) = (false, false);
        }
    }
    Some(names)
}

/// The text from `start` to `end`, cut at each AND that is no part of BETWEEN or CASE; whole when OR stands beside them.
fn conjuncts<'a>(sql: &'a str, tokens: &[&Token<'_>], start: usize, end: usize) -> Vec<&'a str> {
    let (mut parts, mut from) = (Vec::new(), start);
    let (mut cases, mut between) = (0_usize, false);
    for token in tokens.iter().filter(|token| token.at < end) {
        if token.is("case") {
            cases += 1;
        } else if token.is("end") {
            cases = cases.saturating_sub(1);
        } else if cases == 0 && token.is("or") {
            return vec![sql[start..end].trim()];
        } else if cases == 0 && token.is("between") {
            between = true;
        } else if cases == 0 && token.is("and") {
            if !between {
                parts.push(sql[from..token.at].trim());
                from = token.end();
            }
            between = false;
        }
    }
    parts.push(sql[from..end].trim());
    parts
}

fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(letter) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let through = |end: &str, from: usize| {
            rest[from..]
                .find(end)
                .map_or(rest.len(), |found| from + found + end.len())
        };
        let word = |letter: char| letter.is_alphanumeric() || letter == '_';
        let comment = rest.starts_with("--") || rest.starts_with("/*");
        let length = match letter {
            '-' if comment => through("\n", 2),
            '/' if comment => through("*/", 2),
            // A doubled quote ends one text and begins the next, which comes to the same here.
            '\'' | '"' | '`' => through(letter.encode_utf8(&mut [0; 4]), 1),
            '[' => through("]", 1),
            _ if word(letter) => rest.find(|letter| !word(letter)).unwrap_or(rest.len()),
            _ => letter.len_utf8(),
        };
        if letter == '(' {
            depth += 1;
        }
        if !comment && !letter.is_whitespace() {
            let text = &rest[..length];
            tokens.push(Token { text, at, depth });
        }
        if letter == ')' {
            depth = depth.saturating_sub(1);
        }
        at += length;
    }
    tokens
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_select_is_taken_apart() {
        let shape = shape(
            "WITH x AS (SELECT 1 WHERE a AND b) SELECT w.uid AS key FROM watchers w, leader l LEFT JOIN \"far\" f ON f.a = l.b AND f.c JOIN json_each(w.r) r \
             WHERE w.fresh AND l.at BETWEEN 1 AND 2 AND CASE WHEN a AND b THEN 1 END AND NOT EXISTS (SELECT 1 FROM y WHERE z AND z) ORDER BY w.name LIMIT 1",
        )
        .unwrap();
        assert_eq!(shape.with, "WITH x AS (SELECT 1 WHERE a AND b)");
        assert_eq!(shape.needed, ["watchers", "leader"]);
        assert_eq!(
            shape.conditions,
            [
                "w.fresh",
                "l.at BETWEEN 1 AND 2",
                "CASE WHEN a AND b THEN 1 END",
                "NOT EXISTS (SELECT 1 FROM y WHERE z AND z)"
            ]
        );
        assert!(shape.from.starts_with("watchers w, leader l") && shape.from.ends_with("r"));
    }

    #[test]
    fn what_or_joins_is_not_cut() {
        let of = |sql| shape(sql).unwrap();
        assert_eq!(
            of("SELECT 1 FROM a WHERE b AND c OR d").conditions,
            ["b AND c OR d"]
        );
        assert_eq!(of("SELECT 1 FROM a").conditions, Vec::<&str>::new());
        assert_eq!(of("SELECT x FROM (SELECT 1 FROM b) s, c").needed, ["c"]);
        assert_eq!(
            of("SELECT '(' FROM a -- WHERE x\n WHERE y").conditions,
            ["y"]
        );
    }

    #[test]
    fn what_is_not_one_select_has_no_shape() {
        for sql in [
            "SELECT 1",
            "SELECT 1 FROM a UNION ALL SELECT 2 FROM b",
            "VALUES (1)",
            "SELECT 1 FROM a RIGHT JOIN b",
        ] {
            assert_eq!(shape(sql), None, "{sql}");
        }
    }
}
