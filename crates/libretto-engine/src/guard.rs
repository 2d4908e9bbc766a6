//! What a template may make. Fuel bounds how many instructions it takes, not how long the texts are that they make: doubling one a
//! hundred times is a hundred instructions.
//!
//! Filters, and operators where a text could grow by being used again, first weigh what they are given; when all of it is more than a
//! rendering may make, it ends. minijinja offers no hook for operators: instructions are replaced by calls of functions under names that
//! no template can write.

use std::{cell::Cell, collections::BTreeMap, sync::LazyLock};

use libretto_mirror::Limits;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Expression, State, context, filters,
    machinery::{self, CodeGenerator, Instruction, Instructions},
    value::{Rest, Value, ValueKind, ValueOrKwargs},
};

use crate::template::Context;

/// Bytes of everything that is made while one leaf is rendered, with what is thrown away: several times what fits into an object.
const MOST: usize = 8 << 20;
/// Lists in lists. As deep as YAML may be, and no deeper than a thread's stack.
const DEEPEST: usize = 64;
/// Concatenations in a leaf without loops and variables of its own: so many times the longest value is no harm.
const STRAIGHT: usize = 16;

thread_local! {
    /// What the rendering at hand may still make.
    static LEFT: Cell<usize> = const { Cell::new(MOST) };
}

/// Another rendering begins.
pub(crate) fn begin() {
    LEFT.set(MOST);
}

/// Takes off what is about to be made.
pub(crate) fn charge(bytes: usize) -> Result<(), Error> {
    match LEFT.get().checked_sub(bytes) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => Err(refused(format!(
            "template makes more than {MOST} bytes of text and lists"
        ))),
    }
}

/// Takes off what a value is as text.
pub(crate) fn weigh(value: &Value) -> Result<(), Error> {
    weigh_at(value, 0)
}

fn weigh_at(value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(refused(format!(
            "template makes lists more than {DEEPEST} deep"
        )));
    }
    match value.kind() {
        ValueKind::String | ValueKind::Bytes => charge(value.len().unwrap_or(0) + 1),
        ValueKind::Seq | ValueKind::Iterable => {
            charge(8)?;
            value
                .try_iter()?
                .try_for_each(|item| weigh_at(&item, depth + 1))
        }
        ValueKind::Map => {
            charge(8)?;
            value.try_iter()?.try_for_each(|key| {
                weigh_at(&key, depth + 1)?;
                weigh_at(&value.get_item(&key)?, depth + 1)
            })
        }
        _ => charge(8),
    }
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// An environment as minijinja makes it, for what the replaced operators and filters come down to.
static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut plain = Environment::new();
    plain.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    plain
});

/// Operators and the expressions that are theirs.
const OPERATORS: &[(&str, &str)] = &[
    ("~", "a ~ b"),
    ("+", "a + b"),
    ("*", "a * b"),
    ("==", "a == b"),
    ("!=", "a != b"),
    (">", "a > b"),
    (">=", "a >= b"),
    ("<", "a < b"),
    ("<=", "a <= b"),
    ("in", "a in b"),
];

/// The name of the function in an instruction's place.
fn replaced(instruction: &Instruction<'_>) -> Option<(&'static str, u16)> {
    Some(match instruction {
        Instruction::StringConcat => ("~", 2),
        Instruction::Add => ("+", 2),
        Instruction::Mul => ("*", 2),
        Instruction::Eq => ("==", 2),
        Instruction::Ne => ("!=", 2),
        Instruction::Gt => (">", 2),
        Instruction::Gte => (">=", 2),
        Instruction::Lt => ("<", 2),
        Instruction::Lte => ("<=", 2),
        Instruction::In => ("in", 2),
        Instruction::Slice => ("[:]", 4),
        _ => return None,
    })
}

/// Filters that give about as much as they are given.
const LINEAR: &[&str] = &[
    "upper",
    "lower",
    "title",
    "capitalize",
    "length",
    "count",
    "dictsort",
    "items",
    "reverse",
    "trim",
    "split",
    "lines",
    "first",
    "last",
    "min",
    "max",
    "sort",
    "list",
    "string",
    "sum",
    "groupby",
    "unique",
    "chain",
    "zip",
    "urlencode",
    "int",
    "float",
    "round",
    "bool",
];
/// Tests that look at the whole of two values.
const TESTS: &[&str] = &[
    "eq",
    "equalto",
    "==",
    "ne",
    "!=",
    "lt",
    "lessthan",
    "<",
    "le",
    "<=",
    "gt",
    "greaterthan",
    ">",
    "ge",
    ">=",
    "in",
    "sameas",
    "startingwith",
    "endingwith",
];

/// Puts guards on an environment's filters, tests and operators.
pub(crate) fn install(environment: &mut Environment<'static>) {
    for (name, expression) in OPERATORS {
        let expression: Expression<'static, 'static> = PLAIN
            .compile_expression(expression)
            .expect("the operators are written above");
        environment.add_function(*name, move |a: Value, b: Value| {
            weigh(&a)?;
            weigh(&b)?;
            if *name == "*" {
                let (times, other) = if a.is_number() { (&a, &b) } else { (&b, &a) };
                many(other, times.as_usize().unwrap_or(0))?;
            }
            expression.eval(context! { a, b })
        });
    }
    let slice = PLAIN
        .compile_expression("a[b:c:d]")
        .expect("it is written here");
    environment.add_function("[:]", move |a: Value, b: Value, c: Value, d: Value| {
        weigh(&a)?;
        slice.eval(context! { a, b, c, d })
    });
    for name in LINEAR {
        environment.add_filter(*name, move |args: Rest<ValueOrKwargs>| {
            plain(name, &args.into_values())
        });
    }
    for name in TESTS {
        environment.add_test(*name, move |args: Rest<Value>| {
            args.iter().try_for_each(weigh)?;
            PLAIN.empty_state().perform_test(name, &args)
        });
    }
    growing(environment);
    environment.remove_filter("pprint");
    environment.remove_global("debug");
}

/// Filters whose result can be much longer than what they are given, and those that call others.
fn growing(environment: &mut Environment<'static>) {
    environment.add_filter("replace", |args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        if let [value, from, to] = args.as_slice() {
            args.iter().try_for_each(weigh)?;
            let (value, from) = (value.to_string(), from.to_string());
            many(to, value.matches(&from).count())?;
        }
        plain("replace", &args)
    });
    environment.add_filter("join", |args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        if let [value, by, ..] = args.as_slice() {
            many(by, value.len().unwrap_or(0))?;
        }
        plain("join", &args)
    });
    environment.add_filter("indent", |args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        if let Some(value) = args.first() {
            weigh(value)?;
            // Wherever the width stands, also among the named ones.
            let widest = args[1..].iter().map(greatest).max().unwrap_or(0);
            let lines = value.to_string().lines().count();
            charge(lines.saturating_mul(widest))?;
        }
        plain("indent", &args)
    });
    environment.add_filter("format", |args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        if let Some(text) = args.first().and_then(Value::as_str) {
            let places = text.matches('%').count();
            let widths = text.split(|c: char| !c.is_ascii_digit());
            let widest: usize = widths.map(|digits| digits.parse().unwrap_or(0)).sum();
            // `*` takes its width from the arguments.
            let given: usize = match text.contains('*') {
                true => args[1..].iter().map(greatest).sum(),
                false => 0,
            };
            charge(widest.saturating_add(given).saturating_mul(2))?;
            for argument in &args[1..] {
                many(argument, places)?;
            }
        }
        plain("format", &args)
    });
    for name in ["batch", "slice"] {
        environment.add_filter(name, move |args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            let count: usize = args.iter().skip(1).map(greatest).max().unwrap_or(0);
            charge(count.saturating_mul(32))?;
            plain(name, &args)
        });
    }
    environment.add_filter(
        "map",
        |state: &mut State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>| {
            weigh(&value)?;
            filters::map(state, value, args)
        },
    );
}

/// The largest number in an argument, named or not.
fn greatest(argument: &Value) -> usize {
    if let Some(number) = argument.as_usize() {
        return number;
    }
    let items = argument.try_iter().into_iter().flatten();
    match argument.kind() {
        ValueKind::Map => items
            .filter_map(|key| argument.get_item(&key).ok()?.as_usize())
            .max()
            .unwrap_or(0),
        _ => 0,
    }
}

fn many(value: &Value, times: usize) -> Result<(), Error> {
    let before = LEFT.get();
    weigh(value)?;
    let each = before - LEFT.get();
    charge(each.saturating_mul(times))
}

fn plain(filter: &str, args: &[Value]) -> Result<Value, Error> {
    args.iter().try_for_each(weigh)?;
    PLAIN.empty_state().apply_filter(filter, args)
}

/// Something templates do not do: said at load.
pub(crate) fn forbidden(instruction: &Instruction<'_>) -> Option<&'static str> {
    Some(match instruction {
        Instruction::BuildMacro(..) => "macro",
        Instruction::BeginCapture(_) => "set, filter or call with a block",
        Instruction::Include(_) => "include",
        Instruction::LoadBlocks | Instruction::ExportLocals => "extends or import",
        Instruction::CallBlock(_) => "block",
        Instruction::FastRecurse => "recursive loop",
        _ => return None,
    })
}

/// Whether operators of these instructions need a guard: a value can be used again by them, or is multiplied.
pub(crate) fn needed(instructions: &Instructions<'_>) -> bool {
    let all = || (0..).map_while(|place| instructions.get(place));
    let again = all().any(|instruction| {
        matches!(
            instruction,
            Instruction::StoreLocal(_)
                | Instruction::SetAttr(_)
                | Instruction::Iterate(_)
                | Instruction::PushWith
                | Instruction::Mul
        )
    });
    let growing = |instruction: &&Instruction<'_>| {
        matches!(instruction, Instruction::StringConcat | Instruction::Add)
    };
    again || all().filter(growing).count() > STRAIGHT
}

/// Fuel of a guarded text: what stands between tags is copied without being weighed, at most once for each instruction.
pub(crate) fn fuel(text: &str, fuel: u64) -> u64 {
    let copies = 8 * MOST / text.len().max(1);
    fuel.min(copies as u64)
}

/// The instructions with guarded operators.
fn guarded<'a>(generator: CodeGenerator<'a>) -> Instructions<'a> {
    let (mut instructions, _) = generator.finish();
    let mut place = 0;
    while let Some(instruction) = instructions.get_mut(place) {
        if let Some((name, arguments)) = replaced(instruction) {
            *instruction = Instruction::CallFunction(name, Some(arguments));
        }
        place += 1;
    }
    instructions
}

/// Evaluates an expression with guarded operators.
pub(crate) fn expression(
    environment: &Environment<'_>,
    text: &str,
    context: &Context,
) -> Result<Value, Error> {
    let mut generator = CodeGenerator::new("<expression>", text);
    generator.compile_expr(&machinery::parse_expr(text)?);
    let mut unused = String::new();
    let (value, _) = machinery::eval(
        environment,
        &guarded(generator),
        context.clone(),
        &BTreeMap::new(),
        &mut machinery::make_string_output(&mut unused),
        AutoEscape::None,
    )?;
    Ok(value.unwrap_or(Value::UNDEFINED))
}

/// Renders a text with guarded operators.
pub(crate) fn text(
    environment: &Environment<'_>,
    text: &str,
    context: &Context,
) -> Result<String, Error> {
    let mut generator = CodeGenerator::new("<text>", text);
    generator.compile_stmt(&machinery::parse(
        text,
        "<text>",
        crate::template::syntax(),
    )?);
    let mut output = String::new();
    machinery::eval(
        environment,
        &guarded(generator),
        context.clone(),
        &BTreeMap::new(),
        &mut machinery::make_string_output(&mut output),
        AutoEscape::None,
    )?;
    Ok(output)
}

/// Whether a rendered text is one that may be.
pub(crate) fn fits(text: String) -> Result<String, Error> {
    if text.len() > Limits::PACKAGE.value {
        return Err(refused(format!(
            "template gives more than {} bytes",
            Limits::PACKAGE.value
        )));
    }
    Ok(text)
}
