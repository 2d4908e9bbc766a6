//! Filters and tests that a template names and nobody knows: minijinja finds them only when it renders, we when we load.

use minijinja::{
    Environment, ErrorKind,
    machinery::{CompiledTemplate, Instruction, Instructions, get_compiled_template},
};

use crate::{
    guard,
    template::{Problem, suggestion},
};

/// Of Jinja's filters those that rules use, and our own: for "did you mean". Whether a name is known, the environment says.
const FILTERS: &[&str] = &[
    "abs",
    "b64encode",
    "batch",
    "bool",
    "count",
    "default",
    "dictsort",
    "first",
    "float",
    "format",
    "fromjson",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "quote_shell",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sha1",
    "sha256",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "urlencode",
];
const TESTS: &[&str] = &[
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "even",
    "false",
    "float",
    "ge",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sequence",
    "startingwith",
    "string",
    "true",
    "undefined",
    "upper",
];

/// What a template's words say about it.
#[derive(Debug, Default)]
pub(crate) struct Words {
    pub(crate) problems: Vec<Problem>,
    /// Its operators are to be guarded.
    pub(crate) guarded: bool,
}

/// What `text`, which parses, names without it being there, or without it being allowed.
pub(crate) fn words(environment: &Environment<'static>, text: &str) -> Words {
    let mut own = environment.clone();
    if own.add_template_owned("leaf", text.to_owned()).is_err() {
        return Words::default();
    }
    let Ok(template) = own.get_template("leaf") else {
        return Words::default();
    };
    let CompiledTemplate {
        instructions,
        blocks,
        ..
    } = get_compiled_template(&template);
    let mut problems = Vec::new();
    for instructions in std::iter::once(instructions).chain(blocks.values()) {
        of_instructions(environment, instructions, &mut problems);
    }
    if !blocks.is_empty() {
        problems.push(refused(0, "block"));
    }
    Words {
        problems,
        guarded: guard::needed(instructions),
    }
}

fn refused(line: usize, what: &str) -> Problem {
    Problem {
        line,
        message: format!("templates have no {what}"),
        hint: Some("what is used twice is a column of a view, or a document of its own".to_owned()),
    }
}

fn of_instructions(
    environment: &Environment<'static>,
    instructions: &Instructions<'_>,
    problems: &mut Vec<Problem>,
) {
    let mut place = 0;
    while let Some(instruction) = instructions.get(place) {
        if let Some(what) = guard::forbidden(instruction) {
            let line = instructions.get_line(place).unwrap_or(1).saturating_sub(1);
            problems.push(refused(line, what));
        }
        let (what, name, known) = match instruction {
            Instruction::ApplyFilter(name, ..) => ("filter", *name, FILTERS),
            Instruction::PerformTest(name, ..) => ("test", *name, TESTS),
            _ => {
                place += 1;
                continue;
            }
        };
        let line = instructions.get_line(place).unwrap_or(1).saturating_sub(1);
        place += 1;
        if knows(environment, what, name) {
            continue;
        }
        let names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
        let hint = suggestion(name, &names)
            .unwrap_or_else(|| format!("{what}s are: {}", names.join(", ")));
        problems.push(Problem {
            line,
            message: format!("there is no {what} `{name}`"),
            hint: Some(hint),
        });
    }
}

/// Tries it: with a wrong value or too few arguments it fails in another way than when it is not there.
fn knows(environment: &Environment<'static>, what: &str, name: &str) -> bool {
    let (expression, unknown) = match what {
        "filter" => (format!("0|{name}"), ErrorKind::UnknownFilter),
        _ => (format!("0 is {name}"), ErrorKind::UnknownTest),
    };
    match environment.compile_expression(&expression) {
        Ok(expression) => expression
            .eval(())
            .err()
            .is_none_or(|error| error.kind() != unknown),
        // `is ==` and the like are known under names that cannot be written so.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_suggested_is_there() {
        let environment = crate::template::environment();
        for name in FILTERS {
            assert!(knows(&environment, "filter", name), "{name}");
        }
        for name in TESTS {
            assert!(knows(&environment, "test", name), "{name}");
        }
        assert!(!knows(&environment, "filter", "md5"));
        assert!(!knows(&environment, "test", "numeric"));
    }
}
