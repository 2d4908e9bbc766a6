//! The grammar of label selectors, with upstream's tokens, since its messages show them.

use super::Requirement;
use crate::schema::names;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    End,
    Error,
    Identifier,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
}

/// Whether `in` and `notin` are operators here, or values like others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    Operator,
    Values,
}

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser {
        tokens: scan(text),
        next: 0,
    };
    let mut requirements = Vec::new();
    loop {
        let (token, literal) = parser.look(Context::Values);
        match token {
            Token::Identifier | Token::Not => {
                let requirement = parser
                    .requirement()
                    .map_err(|why| format!("unable to parse requirement: {why}"))?;
                requirements.push(requirement);
                let (token, literal) = parser.take(Context::Values);
                match token {
                    Token::End => return Ok(requirements),
                    Token::Comma => {
                        let (token, literal) = parser.look(Context::Values);
                        if !matches!(token, Token::Identifier | Token::Not) {
                            return Err(format!(
                                "found '{literal}', expected: identifier after ','"
                            ));
                        }
                    }
                    _ => {
                        return Err(format!(
                            "found '{literal}', expected: ',' or 'end of string'"
                        ));
                    }
                }
            }
            Token::End => return Ok(requirements),
            _ => {
                return Err(format!(
                    "found '{literal}', expected: !, identifier, or 'end of string'"
                ));
            }
        }
    }
}

fn special(character: char) -> bool {
    matches!(character, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "(" => Token::Open,
        _ => return None,
    })
}

fn scan(text: &str) -> Vec<(Token, String)> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&character) = characters.get(at) {
        let start = at;
        if matches!(character, ' ' | '\t' | '\r' | '\n') {
            at += 1;
        } else if special(character) {
            // The longest symbol that begins here.
            let pair: String = characters[at..].iter().take(2).collect();
            let single = character.to_string();
            let (token, literal) = match (symbol(&pair), symbol(&single)) {
                (Some(token), _) if pair.len() == 2 => (token, pair),
                (_, Some(token)) => (token, single),
                _ => (
                    Token::Error,
                    format!("error expected: keyword found '{single}'"),
                ),
            };
            at += literal.chars().count().min(2);
            tokens.push((token, literal));
        } else {
            while characters
                .get(at)
                .is_some_and(|&one| !special(one) && !matches!(one, ' ' | '\t' | '\r' | '\n'))
            {
                at += 1;
            }
            let word: String = characters[start..at].iter().collect();
            let token = match word.as_str() {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            tokens.push((token, word));
        }
    }
    tokens
}

struct Parser {
    tokens: Vec<(Token, String)>,
    next: usize,
}

impl Parser {
    fn look(&self, context: Context) -> (Token, String) {
        match self.tokens.get(self.next) {
            None => (Token::End, String::new()),
            Some((Token::In | Token::NotIn, literal)) if context == Context::Values => {
                (Token::Identifier, literal.clone())
            }
            Some((token, literal)) => (*token, literal.clone()),
        }
    }

    fn take(&mut self, context: Context) -> (Token, String) {
        let found = self.look(context);
        self.next += 1;
        found
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.take(Context::Values);
        let absent = token == Token::Not;
        if absent {
            (token, key) = self.take(Context::Values);
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        if let Some(why) = names::qualified_name(&key) {
            return Err(format!("<nil>: Invalid value: {key:?}: {why}"));
        }
        let last = matches!(self.look(Context::Values).0, Token::End | Token::Comma);
        if absent {
            return Ok(Requirement::Absent(key));
        }
        if last {
            return Ok(Requirement::Exists(key));
        }
        let (operator, literal) = self.take(Context::Operator);
        let values = match operator {
            Token::In | Token::NotIn => self.values()?,
            Token::Equals
            | Token::DoubleEquals
            | Token::NotEquals
            | Token::Greater
            | Token::Less => vec![self.value()?],
            _ => return Err(format!("found '{literal}', expected: {OPERATORS}")),
        };
        build(key, operator, values)
    }

    fn value(&mut self) -> Result<String, String> {
        if matches!(self.look(Context::Values).0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take(Context::Values) {
            (Token::Identifier, literal) => Ok(literal),
            (_, literal) => Err(format!("found '{literal}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, literal) = self.take(Context::Values);
        if token != Token::Open {
            return Err(format!("found '{literal}' expected: '('"));
        }
        match self.look(Context::Values) {
            (Token::Close, _) => {
                self.next += 1;
                Ok(Vec::new())
            }
            (Token::Identifier | Token::Comma, _) => self.list(),
            (_, literal) => Err(format!(
                "found '{literal}', expected: ',', ')' or identifier"
            )),
        }
    }

    /// Values up to and with the closing parenthesis; nothing between two commas is the empty value.
    fn list(&mut self) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        loop {
            let (token, literal) = self.take(Context::Values);
            match token {
                Token::Identifier => {
                    values.push(literal);
                    match self.look(Context::Values) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => break,
                        (_, literal) => {
                            return Err(format!("found '{literal}', expected: ',' or ')'"));
                        }
                    }
                }
                Token::Comma => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.look(Context::Values).0 {
                        Token::Close => {
                            values.push(String::new());
                            break;
                        }
                        Token::Comma => {
                            self.next += 1;
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                _ => return Err(format!("found '{literal}', expected: ',', or identifier")),
            }
        }
        self.next += 1;
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn build(key: String, operator: Token, mut values: Vec<String>) -> Result<Requirement, String> {
    if matches!(operator, Token::In | Token::NotIn) && values.is_empty() {
        return Err(
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                .to_owned(),
        );
    }
    let number = |text: &str| {
        text.parse::<i64>().map_err(|_| {
            format!(
                "values[0]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        })
    };
    let first = values.first().cloned().unwrap_or_default();
    match operator {
        Token::Greater => return Ok(Requirement::Greater(key, number(&first)?)),
        Token::Less => return Ok(Requirement::Less(key, number(&first)?)),
        _ => {}
    }
    for (index, value) in values.iter().enumerate() {
        if let Some(why) = names::label_value(value) {
            return Err(format!(
                "values[{index}][{key}]: Invalid value: {value:?}: {why}"
            ));
        }
    }
    values.dedup();
    Ok(match operator {
        Token::NotIn | Token::NotEquals => Requirement::NotIn(key, values),
        _ => Requirement::In(key, values),
    })
}
