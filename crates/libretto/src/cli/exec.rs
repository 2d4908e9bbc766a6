//! `libretto exec`: runs a command in a container, with the terminal when asked.

use std::io::{IsTerminal as _, Read as _};

use clap::Args;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::api::{Api, AttachParams, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    pods,
};

const EXAMPLES: &str = "\
Examples:
  libretto exec redis-cluster-test-0 -- redis-cli info replication
  libretto exec -it redis-cluster-test-0 -- sh
  libretto exec redis-sentinel-test-0 -- redis-cli -h redis-sentinel-test -p 26379 sentinel masters";

/// Keystrokes waiting to be sent; more than a screen full of paste waits in the terminal.
const TYPED: usize = 64;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExecArgs {
    /// POD, or KIND/NAME of what selects pods
    pub pod: String,

    /// Container (default: the first)
    #[arg(short, long)]
    pub container: Option<String>,

    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,

    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub tty: bool,

    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

pub(crate) async fn exec(args: ExecArgs) -> Result<(), CliError> {
    if args.tty && !std::io::stdin().is_terminal() {
        return Err(CliError::usage(
            "-t needs a terminal on standard input; leave it away in scripts",
        ));
    }
    let cluster = Cluster::connect(&args.cluster, args.namespace.namespace.as_deref()).await?;
    let pod = pods::find(&cluster, &args.pod).await?;
    let name = pods::name(&pod).to_owned();
    let params = AttachParams {
        container: Some(pods::container(&pod, args.container.as_deref())?),
        stdin: args.stdin,
        stdout: true,
        // A terminal has one stream for both.
        stderr: !args.tty,
        tty: args.tty,
        ..AttachParams::default()
    };
    let api: Api<Pod> = Api::namespaced(cluster.kube.client().clone(), &cluster.namespace);
    let mut process = api
        .exec(&name, &args.command, &params)
        .await
        .map_err(|error| CliError::call(&format!("exec in pod {name}"), &error.into()))?;

    let raw = if args.tty {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    if let Some(mut sizes) = process.terminal_size() {
        tokio::spawn(async move {
            let Ok(mut changed) =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())
            else {
                return;
            };
            loop {
                if let Ok(size) = tcgetwinsize(std::io::stdout()) {
                    let size = TerminalSize {
                        width: size.ws_col,
                        height: size.ws_row,
                    };
                    if futures::SinkExt::send(&mut sizes, size).await.is_err() {
                        return;
                    }
                }
                if changed.recv().await.is_none() {
                    return;
                }
            }
        });
    }
    if let Some(mut input) = process.stdin() {
        let mut typed = read_stdin();
        tokio::spawn(async move {
            while let Some(bytes) = typed.recv().await {
                if input.write_all(&bytes).await.is_err() || input.flush().await.is_err() {
                    return;
                }
            }
            // Dropping it closes the command's standard input.
            let _ = input.shutdown().await;
        });
    }
    let status = process.take_status();
    let output = copy(process.stdout(), tokio::io::stdout());
    let errors = copy(process.stderr(), tokio::io::stderr());
    let (output, errors) = futures::join!(output, errors);
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    drop(raw);
    output?;
    errors?;
    verdict(&name, status)
}

async fn copy(
    from: Option<impl AsyncRead + Unpin>,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> Result<(), CliError> {
    let Some(mut from) = from else {
        return Ok(());
    };
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
}

/// Standard input from a thread of its own: a blocking read cannot be given up, and must not hold up the end of the command.
fn read_stdin() -> tokio::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(TYPED);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = vec![0; 4 << 10];
        while let Ok(read) = input.read(&mut buffer) {
            if read == 0 || sender.blocking_send(buffer[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The command's own exit code, or why it did not run.
fn verdict(pod: &str, status: Option<Status>) -> Result<(), CliError> {
    let Some(status) = status else {
        return Err(CliError::failed(format!(
            "exec in pod {pod}: the connection ended before the command did"
        )));
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(());
    }
    let code = status
        .details
        .iter()
        .flat_map(|details| details.causes.iter().flatten())
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_deref()?.parse::<u8>().ok());
    match code {
        Some(code) => Err(CliError::Exit(code)),
        None => Err(CliError::failed(format!(
            "exec in pod {pod}: {}",
            status
                .message
                .as_deref()
                .unwrap_or("it failed without a reason")
        ))),
    }
}

/// The terminal passes every key through while this lives.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Result<Self, CliError> {
        let before = tcgetattr(std::io::stdin()).map_err(std::io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(std::io::Error::from)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // When the terminal is gone there is nothing to restore.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exit_code_is_the_commands_own() {
        let status = |value| Some(serde_json::from_value::<Status>(value).unwrap());
        assert!(verdict("p", status(json!({"status": "Success"}))).is_ok());
        let failed = status(json!({
            "status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with exit code 3",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
        }));
        assert_eq!(verdict("p", failed).unwrap_err().exit_code(), 3);
        let refused = status(json!({"status": "Failure", "message": "no such container"}));
        assert_eq!(
            verdict("p", refused).unwrap_err().to_string(),
            "exec in pod p: no such container"
        );
        assert_eq!(verdict("p", None).unwrap_err().exit_code(), 1);
    }
}
