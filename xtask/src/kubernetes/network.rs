//! The cluster's network on this machine: the node's own link and address, the CNI configuration, a handful of iptables rules and
//! sysctls, and how all of it is taken away again.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::{
    place::{CLUSTER_CIDR, LINK, NODE_ADDRESS, POD_CIDR, Place},
    run,
};

/// Every rule of ours carries this comment.
const MARK: &str = "libretto-kubernetes";

/// What the kubelet and routing between pods change; the values from before are kept in the state and put back.
const SYSCTLS: &[&str] = &[
    "net/ipv4/ip_forward",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Makes the link and the rules unless they are there.
pub(crate) fn up(place: &Place) -> Result<(), String> {
    remember_sysctls(place)?;
    if !link_exists() {
        run(Command::new("ip").args(["link", "add", LINK, "type", "bridge"]))?;
    }
    run(Command::new("ip").args([
        "address",
        "replace",
        &format!("{NODE_ADDRESS}/32"),
        "dev",
        LINK,
    ]))?;
    run(Command::new("ip").args(["link", "set", LINK, "up"]))?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        .map_err(|error| format!("allow routing between pods: {error}"))?;
    for rule in rules() {
        let exists = command("iptables", "--check", &rule)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !exists {
            run(&mut command("iptables", "--insert", &rule))?;
        }
    }
    Ok(())
}

/// Takes away the link, every rule and chain of ours, of kube-proxy and of the CNI plugins, and restores the sysctls.
pub(crate) fn down(place: &Place) -> Result<(), String> {
    for family in ["iptables", "ip6tables"] {
        // A machine without one of them has nothing of ours in it.
        let Ok(saved) = run(&mut Command::new(format!("{family}-save"))) else {
            continue;
        };
        let removal = removal(&saved);
        if !removal.is_empty() {
            restore(family, &removal)?;
        }
    }
    if link_exists() {
        run(Command::new("ip").args(["link", "delete", LINK]))?;
    }
    restore_sysctls(place)
}

/// The CNI configuration. Each pod hangs on a pair of links of its own and is routed: between pods of one bridge, Service addresses
/// would need br_netfilter, which not every kernel has.
pub(crate) fn configuration(place: &Place) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "libretto",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "dataDir": place.path("cni-addresses"),
                    "ranges": [[{"subnet": POD_CIDR}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn link_exists() -> bool {
    fs::metadata(format!("/sys/class/net/{LINK}")).is_ok()
}

/// Table, chain and rest of each rule: pods may talk to everybody, and appear as this machine outside the cluster.
fn rules() -> [Vec<&'static str>; 3] {
    [
        vec![
            "nat",
            "POSTROUTING",
            "--source",
            POD_CIDR,
            "!",
            "--destination",
            CLUSTER_CIDR,
            "--jump",
            "MASQUERADE",
        ],
        vec![
            "filter", "FORWARD", "--source", POD_CIDR, "--jump", "ACCEPT",
        ],
        vec![
            "filter",
            "FORWARD",
            "--destination",
            POD_CIDR,
            "--jump",
            "ACCEPT",
        ],
    ]
}

fn command(program: &str, action: &str, rule: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--wait", "--table", rule[0], action, rule[1]])
        .args(["--match", "comment", "--comment", MARK])
        .args(&rule[2..]);
    command
}

fn restore(family: &str, rules: &str) -> Result<(), String> {
    let name = format!("{family}-restore");
    let mut child = Command::new(&name)
        .args(["--wait", "--noflush"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all(rules.as_bytes())
            .map_err(|error| format!("{name}: {error}"))?;
    }
    let output = child
        .wait_with_output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{name}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}

/// What `iptables-restore --noflush` must read so that nothing of the cluster is left of what `iptables-save` wrote.
fn removal(saved: &str) -> String {
    let mut result = String::new();
    let mut table = String::new();
    let mut chains: Vec<&str> = Vec::new();
    let mut rules: Vec<String> = Vec::new();
    for line in saved.lines() {
        if line.starts_with('*') {
            table = line.to_owned();
            chains.clear();
            rules.clear();
        } else if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split(' ').next().unwrap_or_default();
            if of_the_cluster(name) {
                chains.push(name);
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
            let target = rest
                .split_once("-j ")
                .and_then(|(_, target)| target.split(' ').next())
                .unwrap_or_default();
            if !of_the_cluster(chain) && (of_the_cluster(target) || rest.contains(MARK)) {
                rules.push(format!("-D {rule}"));
            }
        } else if line == "COMMIT" && !(chains.is_empty() && rules.is_empty()) {
            result.push_str(&table);
            result.push('\n');
            for rule in &rules {
                result.push_str(rule);
                result.push('\n');
            }
            // All are emptied before the first is removed: they refer to each other.
            for action in ["-F", "-X"] {
                for chain in &chains {
                    result.push_str(&format!("{action} {chain}\n"));
                }
            }
            result.push_str("COMMIT\n");
        }
    }
    result
}

fn of_the_cluster(chain: &str) -> bool {
    chain.starts_with("KUBE-") || chain.starts_with("CNI-")
}

fn remember_sysctls(place: &Place) -> Result<(), String> {
    if place.state.join("sysctls.json").exists() {
        return Ok(());
    }
    let values: serde_json::Map<String, Value> = SYSCTLS
        .iter()
        .filter_map(|name| {
            let value = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
            Some(((*name).to_owned(), value.trim().into()))
        })
        .collect();
    place
        .write("sysctls.json", &Value::Object(values).to_string())
        .map(|_| ())
}

fn restore_sysctls(place: &Place) -> Result<(), String> {
    let Ok(text) = fs::read_to_string(place.state.join("sysctls.json")) else {
        return Ok(());
    };
    // A file cut short by a full disk: the values are then unknown, and the rest of `down` matters more.
    let values: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    for (name, value) in values {
        let path = format!("/proc/sys/{name}");
        let before = value.as_str().unwrap_or_default();
        if fs::read_to_string(&path).is_ok_and(|now| now.trim() != before) {
            fs::write(&path, before)
                .map_err(|error| format!("write {before} to {path}: {error}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_the_cluster_is_removed() {
        let saved = "\
*mangle
:PREROUTING ACCEPT [0:0]
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:DOCKER - [0:0]
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
-A POSTROUTING -m comment --comment libretto-kubernetes -j MASQUERADE
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.231.128.1/32 -j KUBE-SVC-A
COMMIT
";
        assert_eq!(
            removal(saved),
            "\
*nat
-D POSTROUTING -m comment --comment libretto-kubernetes -j MASQUERADE
-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-F KUBE-SERVICES
-F KUBE-SVC-A
-X KUBE-SERVICES
-X KUBE-SVC-A
COMMIT
"
        );
        assert_eq!(removal("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"), "");
    }
}
