//! Runs a command in a container, for calls and probes.

use std::time::Duration;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::api::{Api, AttachParams};
use libretto_api::intent::{ExecCall, Failure, FailureKind};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    failed,
    kube::{CallError, Kube},
    secret::Resolver,
};

/// Longest output that is kept, of either stream; what comes after it is read and dropped, so that the command is not held up.
const OUTPUT_LIMIT: u64 = 64 << 10;

/// How much of a failed command's output is quoted: enough for a sentence.
const QUOTE_LIMIT: usize = 300;

/// Runs a command whose exit code must be one that the call names.
pub(crate) async fn call(
    kube: &Kube,
    resolver: &Resolver<'_>,
    call: &ExecCall,
) -> Result<(), Failure> {
    let Output {
        code,
        stdout,
        stderr,
    } = run(kube, resolver, call).await?;
    if call.ok.contains(&code) || (call.ok.is_empty() && code == 0) {
        return Ok(());
    }
    let said = if stderr.trim().is_empty() {
        stdout
    } else {
        stderr
    };
    let mut quote: String = said.trim().chars().take(QUOTE_LIMIT).collect();
    if !quote.is_empty() {
        quote.insert_str(0, ": ");
    }
    Err(failed(
        FailureKind::Refused,
        format!("{}: exit code {code}{quote}", subject(call)),
    ))
}

/// Runs a command; every exit code is an answer.
pub(crate) async fn probe(
    kube: &Kube,
    resolver: &Resolver<'_>,
    call: &ExecCall,
) -> Result<Value, Failure> {
    let Output {
        code,
        stdout,
        stderr,
    } = run(kube, resolver, call).await?;
    Ok(json!({"code": code, "stdout": structured(stdout), "stderr": stderr}))
}

/// A number or a word that a command prints is a text; what says of itself that it is a structure is read as one.
fn structured(text: String) -> Value {
    if text.trim_start().starts_with(['{', '[']) {
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    } else {
        Value::String(text)
    }
}

struct Output {
    code: u8,
    stdout: String,
    stderr: String,
}

/// The command as the package wrote it: with handles, not with secrets.
fn subject(call: &ExecCall) -> String {
    format!("exec in pod {}: {}", call.pod, call.command.join(" "))
}

async fn run(kube: &Kube, resolver: &Resolver<'_>, call: &ExecCall) -> Result<Output, Failure> {
    // By its method it is a GET; what the command does, nobody knows.
    if kube.reads_only() {
        return Err(failed(
            FailureKind::Invalid,
            format!(
                "{}: no command is run where nothing is written",
                subject(call)
            ),
        ));
    }
    tokio::time::timeout(
        Duration::from_millis(call.timeout_ms),
        converse(kube, resolver, call),
    )
    .await
    .unwrap_or_else(|_elapsed| {
        Err(failed(
            FailureKind::Unreachable,
            format!(
                "{}: not finished within {} ms",
                subject(call),
                call.timeout_ms
            ),
        ))
    })
}

async fn converse(
    kube: &Kube,
    resolver: &Resolver<'_>,
    call: &ExecCall,
) -> Result<Output, Failure> {
    let unreachable = |why: &str| {
        failed(
            FailureKind::Unreachable,
            format!("{}: {why}", subject(call)),
        )
    };
    let mut command = Vec::with_capacity(call.command.len());
    for word in &call.command {
        command.push(resolver.text(word).await?);
    }
    let stdin = match &call.stdin {
        Some(text) => Some(resolver.text(text).await?),
        None => None,
    };
    let params = AttachParams {
        container: call.container.clone(),
        stdin: stdin.is_some(),
        stdout: true,
        stderr: true,
        tty: false,
        ..AttachParams::default()
    };
    let pods: Api<Pod> = Api::namespaced(kube.client().clone(), &resolver.instance().namespace);
    let mut process = pods
        .exec(&call.pod, command, &params)
        .await
        .map_err(|error| CallError::from(error).failure(&subject(call)))?;
    let status = process.take_status();
    let input = process.stdin();
    let write = async {
        if let (Some(mut input), Some(text)) = (input, stdin) {
            // A command that does not read its input has its reasons.
            let _ = input.write_all(text.as_bytes()).await;
            let _ = input.shutdown().await;
        }
    };
    let ((), stdout, stderr) =
        futures::join!(write, read(process.stdout()), read(process.stderr()));
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    let status =
        status.ok_or_else(|| unreachable("the connection ended before the command did"))?;
    Ok(Output {
        code: exit_code(&status).map_err(|why| unreachable(&why))?,
        stdout: stdout.map_err(|error| unreachable(&error.to_string()))?,
        stderr: stderr.map_err(|error| unreachable(&error.to_string()))?,
    })
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let Some(mut stream) = stream else {
        return Ok(String::new());
    };
    let mut kept = Vec::new();
    (&mut stream)
        .take(OUTPUT_LIMIT)
        .read_to_end(&mut kept)
        .await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

/// The command's own exit code, or why it did not run.
fn exit_code(status: &Status) -> Result<u8, String> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    status
        .details
        .iter()
        .flat_map(|details| details.causes.iter().flatten())
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_deref()?.parse().ok())
        .ok_or_else(|| {
            status
                .message
                .clone()
                .unwrap_or_else(|| "it failed without a reason".to_owned())
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use libretto_api::object::{Gvk, InstanceRef};

    use super::*;
    use crate::secret::NoSecrets;

    #[test]
    fn the_exit_code_is_the_commands_own() {
        let status = |value| serde_json::from_value::<Status>(value).unwrap();
        assert_eq!(exit_code(&status(json!({"status": "Success"}))), Ok(0));
        let failed = status(json!({
            "status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with exit code 3",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
        }));
        assert_eq!(exit_code(&failed), Ok(3));
        let refused = status(json!({"status": "Failure", "message": "no such container"}));
        assert_eq!(exit_code(&refused), Err("no such container".to_owned()));
    }

    #[tokio::test]
    async fn no_command_is_run_where_nothing_is_written() {
        // Nobody listens there: it must not be asked.
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let kube = Kube::new(kube::Client::try_from(config).unwrap()).only_reading();
        let instance = InstanceRef {
            package: "p".into(),
            gvk: Gvk::new("example.dev", "v1", "Thing"),
            namespace: "default".into(),
            name: "a".into(),
            uid: "u".into(),
        };
        let call = ExecCall {
            pod: "x".into(),
            container: None,
            command: vec!["rm".into(), "-r".into(), "/".into()],
            stdin: None,
            ok: Vec::new(),
            timeout_ms: 1_000,
        };
        let failure = probe(&kube, &Resolver::new(&NoSecrets, &instance), &call)
            .await
            .unwrap_err();
        assert_eq!(
            failure.message,
            "exec in pod x: rm -r /: no command is run where nothing is written"
        );
    }

    #[test]
    fn structures_are_read_and_words_are_left() {
        for (text, expected) in [
            ("{\"a\": 1}\n", json!({"a": 1})),
            ("[1, 2]", json!([1, 2])),
            ("17\n", json!("17\n")),
            ("{not json", json!("{not json")),
            ("", json!("")),
        ] {
            assert_eq!(structured(text.to_owned()), expected, "{text}");
        }
    }
}
