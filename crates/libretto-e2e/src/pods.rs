//! Commands in pods, and the processes of pods as the host sees them.

use std::{fs, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{AttachParams, ListParams},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::io::AsyncReadExt;

use crate::Step;

/// What common Redis clients wait for an answer, and long enough for a loaded machine to start a process in a pod.
const ANSWER: Duration = Duration::from_secs(5);

/// Runs a command in a pod's first container and returns its standard output; a failing command is an error.
///
/// A command may wait for ever for the answer of a server that vanished with its network; clients give up by themselves, so this
/// does too.
pub async fn exec(client: &Client, pod: &str, command: &[&str]) -> Step<String> {
    exec_within(client, pod, command, ANSWER).await
}

/// As [`exec`], for commands that may take longer.
pub async fn exec_within(
    client: &Client,
    pod: &str,
    command: &[&str],
    limit: Duration,
) -> Step<String> {
    let running = run(client, pod, command);
    tokio::time::timeout(limit, running)
        .await
        .map_err(|_elapsed| {
            format!(
                "{} in pod {pod}: no answer in {} s",
                command.join(" "),
                limit.as_secs()
            )
        })?
}

/// Prints a last line of its own, so that an output that was lost on its way is not taken for an empty one: a container runtime may
/// close the stream of a command that ended at once before everything was read from it.
const WRAPPER: &str = r#""$@"; code=$?; echo; echo "$0 $code"; exit $code"#;
const LAST: &str = "libretto-e2e-end";

async fn run(client: &Client, pod: &str, command: &[&str]) -> Step<String> {
    for _ in 0..3 {
        let wrapped: Vec<&str> = ["sh", "-c", WRAPPER, LAST]
            .into_iter()
            .chain(command.iter().copied())
            .collect();
        let out = run_once(client, pod, &wrapped).await?;
        if let Some(out) = out.trim_end().strip_suffix(&format!("\n{LAST} 0")) {
            return Ok(out.to_owned());
        }
        tell(&format!(
            "lost the output of {} in pod {pod}: {out:?}",
            command.join(" ")
        ));
    }
    Err(format!(
        "{} in pod {pod}: its output was lost three times",
        command.join(" ")
    )
    .into())
}

#[expect(clippy::print_stdout, reason = "belongs into the test log")]
fn tell(line: &str) {
    println!("{line}");
}

async fn run_once(client: &Client, pod: &str, command: &[&str]) -> Step<String> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let parameters = AttachParams::default().stdout(true).stderr(true);
    let mut process = pods.exec(pod, command.to_vec(), &parameters).await?;
    let (mut out, mut err) = (String::new(), String::new());
    let mut stdout = process.stdout().ok_or("exec gave no standard output")?;
    let mut stderr = process.stderr().ok_or("exec gave no standard error")?;
    let status = process.take_status().ok_or("exec gave no status")?;
    let (read_out, read_err) = tokio::join!(
        stdout.read_to_string(&mut out),
        stderr.read_to_string(&mut err)
    );
    read_out?;
    read_err?;
    match status.await {
        Some(status) if status.status.as_deref() == Some("Success") => Ok(out),
        Some(status) => Err(format!(
            "{} in pod {pod}: {}: {out}{err}",
            command.join(" "),
            status.message.unwrap_or_default()
        )
        .into()),
        None => Err(format!("{} in pod {pod}: no exit status came", command.join(" ")).into()),
    }
}

/// Pods with a label, by name.
pub async fn labelled(client: &Client, selector: &str) -> Step<Vec<Pod>> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let mut list = pods
        .list(&ListParams::default().labels(selector))
        .await?
        .items;
    list.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(list)
}

/// Kills the process of this command name that has this address and descends from `root`.
pub(crate) fn kill_process(root: u32, pod_ip: &str, program: &str) -> Step {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok())
        else {
            continue;
        };
        // A process may end while it is looked at.
        let (Ok(command), Ok(addresses)) = (
            fs::read_to_string(path.join("comm")),
            fs::read_to_string(path.join("net/fib_trie")),
        ) else {
            continue;
        };
        if command.trim() == program && is_local(&addresses, pod_ip) && descends_from(pid, root) {
            found.push(pid);
        }
    }
    match found.as_slice() {
        [pid] => Ok(kill(Pid::from_raw(i32::try_from(*pid)?), Signal::SIGKILL)?),
        others => Err(format!(
            "{} processes named {program} have the address {pod_ip}, expected one",
            others.len()
        )
        .into()),
    }
}

/// Whether an address is one of the network itself: the routing table also holds those that are reached through a link.
fn is_local(fib_trie: &str, address: &str) -> bool {
    let leaf = format!("|-- {address}");
    let mut lines = fib_trie.lines().map(str::trim);
    lines.any(|line| line == leaf)
        && lines
            .take_while(|line| !line.starts_with(['|', '+']))
            .any(|line| line == "/32 host LOCAL")
}

fn descends_from(mut pid: u32, root: u32) -> bool {
    while pid != root {
        let parent = fs::read_to_string(format!("/proc/{pid}/status"))
            .ok()
            .and_then(|text| {
                text.lines()
                    .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
            });
        match parent {
            // The kernel, or the first process of all.
            None | Some(0) => return false,
            Some(parent) => pid = parent,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_behind_a_link_is_not_local() {
        let table = "Local:\n  +-- 0.0.0.0/0 2 0 2\n     |-- 10.231.1.5\n        /32 link UNICAST\n     |-- 10.231.1.51\n        /32 host LOCAL\n";
        assert!(!is_local(table, "10.231.1.5"));
        assert!(is_local(table, "10.231.1.51"));
        assert!(!is_local(table, "10.231.1.6"));
    }
}
