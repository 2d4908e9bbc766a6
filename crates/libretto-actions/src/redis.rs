//! Talks to a Redis or Sentinel: one connection per call, commands in order, an answer in JSON.
//!
//! A fresh connection each time is deliberate: a pooled one would hide a restarted server, and pods come and go with their addresses.

use std::time::Duration;

use libretto_api::intent::{Failure, FailureKind, RedisCall, RedisCommand};
use redis::{AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo};
use serde_json::{Map, Value};

use crate::{failed, reach::Reach, secret::Resolver, tcp::address};

/// Sends the commands; the answer is as [`libretto_api::intent::Probe::Redis`] describes it. An ignored error answers `null`.
/// `None` when what a command expects is not what was answered: the commands after it were not sent.
pub(crate) async fn call(
    reach: &Reach,
    resolver: &Resolver<'_>,
    call: &RedisCall,
) -> Result<Option<Value>, Failure> {
    let server = address(&call.host, call.port);
    let mut connection = connect(reach, call, &server).await?;
    if let Some(authenticate) = authenticate(resolver, call).await? {
        connection
            .send_packed_command(&authenticate)
            .await
            .and_then(redis::Value::extract_error)
            .map_err(|error| describe(&server, "AUTH", &error))?;
    }
    let mut replies = Map::new();
    let mut single = Value::Null;
    for command in &call.commands {
        let reply = send(resolver, &mut connection, &server, command).await?;
        if !command.expect.is_empty() {
            let mut expected = Vec::with_capacity(command.expect.len());
            for word in &command.expect {
                expected.push(resolver.text(word).await?);
            }
            if !begins(&reply, &expected) {
                return Ok(None);
            }
        }
        if call.commands.len() == 1 {
            single = reply;
        } else {
            replies.insert(command.name.clone(), reply);
        }
    }
    Ok(Some(if call.commands.len() == 1 {
        single
    } else {
        Value::Object(replies)
    }))
}

async fn connect(
    reach: &Reach,
    call: &RedisCall,
    server: &str,
) -> Result<redis::aio::MultiplexedConnection, Failure> {
    // AUTH is sent by us, with its own error; and no CLIENT SETINFO, which Sentinel refuses and ACL users may lack.
    let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    let addresses = reach
        .resolve(&call.host, call.port, call.timeout_ms)
        .await?;
    // There is at least one; the client takes one.
    let host = addresses[0].ip().to_string();
    let info = ConnectionAddr::Tcp(host, call.port)
        .into_connection_info()
        .map_err(|error| describe(server, "connect", &error))?
        .set_redis_settings(settings);
    let client = redis::Client::open(info).map_err(|error| describe(server, "connect", &error))?;
    let timeout = Duration::from_millis(call.timeout_ms);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|error| describe(server, "connect", &error))
}

async fn authenticate(
    resolver: &Resolver<'_>,
    call: &RedisCall,
) -> Result<Option<redis::Cmd>, Failure> {
    let Some(password) = &call.password else {
        return Ok(None);
    };
    let password = resolver.text(password).await?;
    if password.is_empty() {
        return Ok(None);
    }
    let mut command = redis::cmd("AUTH");
    if let Some(username) = call.username.as_deref().filter(|name| !name.is_empty()) {
        command.arg(resolver.text(username).await?);
    }
    command.arg(password);
    Ok(Some(command))
}

async fn send(
    resolver: &Resolver<'_>,
    connection: &mut redis::aio::MultiplexedConnection,
    server: &str,
    command: &RedisCommand,
) -> Result<Value, Failure> {
    let mut words = Vec::with_capacity(command.arguments.len());
    for argument in &command.arguments {
        words.push(resolver.text(argument).await?);
    }
    let mut packed = redis::Cmd::new();
    for word in &words {
        packed.arg(word);
    }
    // An error reply arrives as a value here; only a broken connection is an error of the call.
    let reply = connection
        .send_packed_command(&packed)
        .await
        .and_then(redis::Value::extract_error);
    match reply {
        Ok(reply) => Ok(answer(&words, reply)),
        Err(error) => {
            let text = error_reply(&error);
            let ignored = text.as_deref().is_some_and(|text| {
                command
                    .ignore_errors
                    .iter()
                    .any(|start| text.starts_with(start.as_str()))
            });
            if ignored {
                Ok(Value::Null)
            } else {
                Err(describe(server, &spoken(&words), &error))
            }
        }
    }
}

/// The command's name for a message: never its arguments, which may be secret or long.
fn spoken(words: &[String]) -> String {
    let container = matches!(
        words
            .first()
            .map(|word| word.to_ascii_uppercase())
            .as_deref(),
        Some("SENTINEL" | "CONFIG" | "CLIENT" | "CLUSTER" | "ACL")
    );
    words
        .iter()
        .take(if container { 2 } else { 1 })
        .map(|word| word.to_ascii_uppercase())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The server's error as it sent it (`ERR No such master with that name`); `None` when the connection failed.
fn error_reply(error: &redis::RedisError) -> Option<String> {
    let code = error.code()?;
    Some(match error.detail() {
        Some(detail) => format!("{code} {detail}"),
        None => code.to_owned(),
    })
}

fn describe(server: &str, command: &str, error: &redis::RedisError) -> Failure {
    match error_reply(error) {
        Some(reply) => failed(
            FailureKind::Refused,
            format!("{command} on {server}: {reply}"),
        ),
        None if error.is_timeout() => failed(
            FailureKind::Unreachable,
            format!("{command} on {server}: no answer in time"),
        ),
        None => failed(
            FailureKind::Unreachable,
            format!("{command} on {server}: {error}"),
        ),
    }
}

/// Commands that reply with a plain list whose length says nothing about pairs.
const LISTS: &[&str] = &[
    "KEYS",
    "SMEMBERS",
    "LRANGE",
    "MGET",
    "ZRANGE",
    "SCAN",
    "ROLE",
    "COMMAND",
    "ACL LIST",
    "ACL USERS",
    "ACL CAT",
    "SENTINEL GET-MASTER-ADDR-BY-NAME",
];

/// Settings that are secrets: `CONFIG GET *` tells them, and no answer may bring one into the mirror.
const SECRET_SETTINGS: &[&str] = &[
    "requirepass",
    "masterauth",
    "primaryauth",
    "tls-key-file-pass",
    "tls-client-key-file-pass",
];

/// A reply as columns are read from it.
fn answer(words: &[String], reply: redis::Value) -> Value {
    let name = spoken(words);
    if name == "INFO" || name == "CLUSTER INFO" {
        let text = match reply {
            redis::Value::VerbatimString { text, .. } => text,
            other => plain(other).as_str().unwrap_or_default().to_owned(),
        };
        return info(&text);
    }
    let value = plain(reply);
    if LISTS.contains(&name.as_str()) {
        return value;
    }
    match pairs(&value) {
        Some(mut object) => {
            if let (Value::Object(settings), "CONFIG GET") = (&mut object, name.as_str()) {
                settings.retain(|setting, _| !SECRET_SETTINGS.contains(&setting.as_str()));
            }
            object
        }
        None => match value {
            Value::Array(items) => Value::Array(
                items
                    .into_iter()
                    .map(|item| pairs(&item).unwrap_or(item))
                    .collect(),
            ),
            other => other,
        },
    }
}

/// Whether a reply begins with these words; numbers are compared as they are written.
fn begins(reply: &Value, expected: &[String]) -> bool {
    let is = |value: &Value, word: &String| match value {
        Value::String(text) => text == word,
        other => {
            let written = other.to_string();
            written == *word
        }
    };
    match reply {
        Value::Array(items) => {
            items.len() >= expected.len()
                && items
                    .iter()
                    .zip(expected)
                    .all(|(item, word)| is(item, word))
        }
        other => expected.len() == 1 && is(other, &expected[0]),
    }
}

/// `field:value` lines; section headings and blank lines are dropped.
fn info(text: &str) -> Value {
    let fields = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.trim_end().split_once(':'))
        .map(|(field, value)| (field.to_owned(), value.into()))
        .collect();
    Value::Object(fields)
}

/// A flat array of names and values as an object.
fn pairs(value: &Value) -> Option<Value> {
    let items = value.as_array()?;
    let flat = items
        .iter()
        .all(|item| !item.is_array() && !item.is_object());
    if items.is_empty() || items.len() % 2 == 1 || !flat {
        return None;
    }
    let mut object = Map::new();
    for pair in items.chunks_exact(2) {
        let name = pair[0].as_str()?;
        object.insert(name.to_owned(), pair[1].clone());
    }
    Some(Value::Object(object))
}

fn plain(reply: redis::Value) -> Value {
    match reply {
        redis::Value::Nil => Value::Null,
        redis::Value::Int(number) => number.into(),
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
        redis::Value::SimpleString(text) => text.into(),
        redis::Value::Okay => "OK".into(),
        redis::Value::Double(number) => number.into(),
        redis::Value::Boolean(flag) => flag.into(),
        redis::Value::VerbatimString { text, .. } => text.into(),
        redis::Value::BigNumber(digits) => String::from_utf8_lossy(&digits).into_owned().into(),
        redis::Value::Array(items) | redis::Value::Set(items) => {
            Value::Array(items.into_iter().map(plain).collect())
        }
        redis::Value::Map(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let key = match plain(key) {
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    (key, plain(value))
                })
                .collect(),
        ),
        redis::Value::Attribute { data, .. } => plain(*data),
        redis::Value::Push { data, .. } => Value::Array(data.into_iter().map(plain).collect()),
        redis::Value::ServerError(error) => error.to_string().into(),
        // The enum is open; a kind of reply that this crate learns later has no reading here yet.
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests;
