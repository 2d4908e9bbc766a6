#![allow(clippy::unwrap_used)]
//! Against a real `redis-server` on a port of its own.

use std::{
    io::Read as _,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use libretto_api::{
    intent::Probe,
    object::{Gvk, InstanceRef},
    secret::SecretHandle,
};
use serde_json::json;

use super::*;
use crate::{NoSecrets, SecretSource};

const HERE: Reach = Reach {
    loopback: true,
    denied: Vec::new(),
    allowed: None,
};

struct Server {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        Self::start_on("127.0.0.1", arguments)
    }

    fn start_on(host: &str, arguments: &[&str]) -> Self {
        let port = TcpListener::bind((host, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        // The file is given so that the same call starts a sentinel, which insists on one.
        let file = directory.path().join("redis.conf");
        std::fs::write(&file, "").unwrap();
        let mut process = command
            .arg(&file)
            .args(["--port", &port.to_string(), "--bind", host, "--save", ""])
            .args(arguments)
            .current_dir(&directory)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("redis-server must be installed to run this test");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect((host, port)).is_err() {
            if let Some(status) = process.try_wait().unwrap() {
                let mut said = String::new();
                process
                    .stderr
                    .take()
                    .unwrap()
                    .read_to_string(&mut said)
                    .unwrap();
                panic!("redis-server ended with {status}: {said}");
            }
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::yield_now();
        }
        Self {
            process,
            port,
            _directory: directory,
        }
    }

    fn call(&self, commands: &[(&str, &[&str])]) -> RedisCall {
        RedisCall {
            host: "127.0.0.1".into(),
            port: self.port,
            username: None,
            password: None,
            timeout_ms: 2000,
            commands: commands
                .iter()
                .map(|(name, arguments)| RedisCommand {
                    name: (*name).to_owned(),
                    arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
                    ignore_errors: Vec::new(),
                    expect: Vec::new(),
                })
                .collect(),
        }
    }
}

fn instance() -> InstanceRef {
    InstanceRef {
        package: "redis".into(),
        gvk: Gvk::new("redis.kun", "v1beta1", "RedisCluster"),
        namespace: "default".into(),
        name: "test".into(),
        uid: "u1".into(),
    }
}

async fn run(request: &RedisCall) -> Result<Value, Failure> {
    let instance = instance();
    call(&HERE, &Resolver::new(&NoSecrets, &instance), request)
        .await
        .map(Option::unwrap_or_default)
}

struct Password;

impl SecretSource for Password {
    fn value<'a>(
        &'a self,
        _instance: &'a InstanceRef,
        _handle: &'a SecretHandle,
    ) -> futures::future::BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async { Ok("hunter2".to_owned()) })
    }
}

#[tokio::test]
async fn one_command_answers_itself_and_several_answer_by_name() {
    let server = Server::start(&[]);
    let info = run(&server.call(&[("", &["INFO", "replication"])]))
        .await
        .unwrap();
    assert_eq!(info["role"], "master");
    assert_eq!(info["connected_slaves"], "0");
    let both = run(&server.call(&[
        ("info", &["info", "server"]),
        ("config", &["CONFIG", "GET", "maxmemory*"]),
        ("ping", &["PING"]),
    ]))
    .await
    .unwrap();
    assert_eq!(both["config"]["maxmemory"], "0");
    assert_eq!(both["config"]["maxmemory-policy"], "noeviction");
    assert_eq!(both["info"]["tcp_port"], server.port.to_string());
    assert_eq!(both["ping"], "PONG");
}

#[tokio::test]
async fn a_sentinel_answers_in_objects_and_ignored_errors_are_success() {
    let server = Server::start(&[]);
    let sentinel = Server::start(&["--sentinel"]);
    let port = server.port.to_string();
    let mut remove = sentinel.call(&[
        ("remove", &["SENTINEL", "REMOVE", "main"]),
        (
            "monitor",
            &["SENTINEL", "MONITOR", "main", "127.0.0.1", &port, "1"],
        ),
    ]);
    let refused = run(&remove).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Refused);
    assert!(
        refused.message.starts_with(&format!(
            "SENTINEL REMOVE on 127.0.0.1:{}: ERR No such master",
            sentinel.port
        )),
        "{}",
        refused.message
    );
    // The order stopped at the first error: nothing is monitored yet.
    let masters = run(&sentinel.call(&[("", &["SENTINEL", "MASTERS"])]))
        .await
        .unwrap();
    assert_eq!(masters, json!([]));
    remove.commands[0].ignore_errors = vec!["ERR No such master".into()];
    run(&remove).await.unwrap();
    let answer = run(&sentinel.call(&[
        ("master", &["SENTINEL", "MASTER", "main"]),
        ("masters", &["SENTINEL", "MASTERS"]),
        ("address", &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]),
    ]))
    .await
    .unwrap();
    assert_eq!(answer["master"]["port"], port);
    assert_eq!(answer["masters"][0]["name"], "main");
    assert_eq!(answer["address"], json!(["127.0.0.1", port]));
}

#[tokio::test]
async fn a_password_is_resolved_sent_and_never_told() {
    let server = Server::start(&["--requirepass", "hunter2"]);
    let refused = run(&server.call(&[("", &["PING"])])).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Refused);
    assert!(refused.message.contains("NOAUTH"), "{}", refused.message);
    let instance = instance();
    let resolver = Resolver::new(&Password, &instance);
    let handle = SecretHandle::Key {
        name: "auth".into(),
        key: "password".into(),
    };
    let mut with_password = server.call(&[("", &["PING"])]);
    with_password.password = Some(handle.text());
    let answer = call(&HERE, &resolver, &with_password).await.unwrap();
    assert_eq!(answer, Some("PONG".into()));
    // The value as an argument, echoed back in the server's complaint.
    with_password.commands[0].arguments = vec!["CONFIG".into(), handle.text()];
    let error = call(&HERE, &resolver, &with_password).await.unwrap_err();
    assert!(
        !resolver.scrub(&error.message).contains("hunter2"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn what_is_no_longer_so_stops_the_rest() {
    let server = Server::start(&[]);
    // (words expected of ROLE, whether SET is sent)
    for (expected, sent) in [
        (&["master"][..], true),
        (&["master", "0"], true),
        (&["slave"], false),
        (&["master", "0", "", "more"], false),
    ] {
        run(&server.call(&[("", &["DEL", "key"])])).await.unwrap();
        let mut request = server.call(&[("role", &["ROLE"]), ("set", &["SET", "key", "1"])]);
        request.commands[0].expect = expected.iter().map(|&word| word.to_owned()).collect();
        let instance = instance();
        let answer = call(&HERE, &Resolver::new(&NoSecrets, &instance), &request).await;
        assert_eq!(answer.unwrap().is_some(), sent, "{expected:?}");
        let there = run(&server.call(&[("", &["EXISTS", "key"])]))
            .await
            .unwrap();
        assert_eq!(there, i32::from(sent), "{expected:?}");
    }
}

#[tokio::test]
async fn settings_that_are_secrets_are_not_told() {
    let server = Server::start(&["--requirepass", "hunter2", "--masterauth", "hunter2"]);
    let mut request = server.call(&[("", &["CONFIG", "GET", "*"])]);
    request.password = Some("hunter2".into());
    let settings = run(&request).await.unwrap();
    assert_eq!(settings["maxmemory"], "0");
    assert!(!settings.to_string().contains("hunter2"));
}

#[tokio::test]
async fn an_acl_user_is_named() {
    let server = Server::start(&[]);
    run(&server.call(&[("", &["ACL", "SETUSER", "probe", "on", ">pw", "+ping"])]))
        .await
        .unwrap();
    let mut request = server.call(&[("", &["PING"])]);
    request.username = Some("probe".into());
    request.password = Some("pw".into());
    assert_eq!(run(&request).await.unwrap(), "PONG");
    request.password = Some("wrong".into());
    let error = run(&request).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Refused);
    assert!(error.message.starts_with("AUTH on "), "{}", error.message);
}

#[tokio::test]
async fn nobody_there_and_nobody_answering_are_unreachable() {
    let mut server = Server::start(&[]);
    let mut request = server.call(&[("", &["PING"])]);
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    assert_eq!(
        run(&request).await.unwrap_err().kind,
        FailureKind::Unreachable
    );
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    request.port = silent.local_addr().unwrap().port();
    request.timeout_ms = 50;
    let error = run(&request).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Unreachable);
}

#[tokio::test]
async fn ipv6_hosts_need_no_brackets() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // This machine has no IPv6; nothing can listen there.
    }
    let server = Server::start_on("::1", &[]);
    let mut request = server.call(&[("", &["PING"])]);
    request.host = "::1".into();
    assert_eq!(run(&request).await.unwrap(), "PONG");
}

#[test]
fn replies_become_json_by_shape() {
    let text = |words: &[&str]| -> redis::Value {
        redis::Value::Array(
            words
                .iter()
                .map(|word| redis::Value::BulkString(word.as_bytes().to_vec()))
                .collect(),
        )
    };
    let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    for (line, reply, expected) in [
        ("CONFIG GET a", text(&["a", "1"]), json!({"a": "1"})),
        ("KEYS *", text(&["a", "b"]), json!(["a", "b"])),
        ("HKEYS h", text(&["a", "b", "c"]), json!(["a", "b", "c"])),
        (
            "SENTINEL REPLICAS main",
            redis::Value::Array(vec![text(&["ip", "1.2.3.4"]), text(&["ip", "1.2.3.5"])]),
            json!([{"ip": "1.2.3.4"}, {"ip": "1.2.3.5"}]),
        ),
        ("DBSIZE", redis::Value::Int(7), json!(7)),
        ("GET x", redis::Value::Nil, Value::Null),
        (
            "INFO",
            redis::Value::BulkString(
                b"# Server\r\nredis_version:7.0.15\r\n\r\ndb0:keys=1,expires=0\r\n".to_vec(),
            ),
            json!({"redis_version": "7.0.15", "db0": "keys=1,expires=0"}),
        ),
    ] {
        assert_eq!(answer(&words(line), reply), expected, "{line}");
    }
}

#[test]
fn a_probe_is_data() {
    let probe = Probe::Tcp {
        host: "h".into(),
        port: 1,
        timeout_ms: 2,
    };
    let text = serde_json::to_string(&probe).unwrap();
    assert_eq!(serde_json::from_str::<Probe>(&text).unwrap(), probe);
}
