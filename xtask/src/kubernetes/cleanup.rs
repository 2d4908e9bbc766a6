//! Takes the cluster off this machine, in whatever state it is: also when `up` was interrupted or anything was killed. What to remove is
//! therefore found by looking (processes, mounts, cgroups, links), not remembered.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{components, network, place::Place, processes, run};

/// Folders outside the state that kubelet, containerd and the CNI plugins insist on. Those that were not there before are removed.
const FOREIGN: &[&str] = &[
    "/run/containerd",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
];

/// Notes which of the foreign folders exist before the cluster makes them.
pub(crate) fn remember(place: &Place) -> Result<(), String> {
    if place.state.join("foreign").exists() {
        return Ok(());
    }
    let absent: Vec<&str> = FOREIGN
        .iter()
        .copied()
        .filter(|folder| !Path::new(folder).exists())
        .collect();
    place.write("foreign", &absent.join("\n")).map(|_| ())
}

/// Ends and removes everything. Each part is tried even when one before it failed.
pub(crate) fn down(place: &Place) -> Result<(), String> {
    let mut failures = Vec::new();
    let mut step = |name: &str, action: &dyn Fn() -> Result<(), String>| {
        if let Err(message) = crate::run::step(name, action) {
            failures.push(format!("{name}: {message}"));
        }
    };
    step("stop the processes", &|| stop(place));
    step("end the pods", &|| end_pods(place));
    step("unmount", &|| unmount(place));
    step("remove the control groups", &remove_cgroups);
    step("remove links and rules", &|| network::down(place));
    if !failures.is_empty() {
        // The state still says what to put back; another `down` continues.
        return Err(failures.join("\n"));
    }
    crate::run::step("remove the state", || remove_state(place))
}

fn stop(place: &Place) -> Result<(), String> {
    // containerd outlives the pods: its shims report to it.
    for name in components::ALL.iter().rev() {
        processes::stop(place, name)?;
    }
    // Those whose id was never written down: `up` was killed at that moment.
    let state = place.state.display().to_string();
    let cache = place.cache.display().to_string();
    processes::kill(&processes::by_arguments(|arguments| {
        is_component(arguments, &state, &cache)
    }))
}

/// Whether a command line is one of the cluster's servers. A user's kubectl or editor is not.
fn is_component(arguments: &[String], state: &str, cache: &str) -> bool {
    let Some((program, rest)) = arguments.split_first() else {
        return false;
    };
    let name = program.rsplit('/').next().unwrap_or(program);
    let ours = rest.iter().any(|argument| argument.contains(state));
    components::ALL.contains(&name) && ours && (name == "containerd" || program.starts_with(cache))
        || rest == ["kubernetes", "serve-images"]
}

/// Shims belong to the socket they report to; what ran in pods is listed in their control groups.
fn end_pods(place: &Place) -> Result<(), String> {
    let socket = place.containerd_socket();
    processes::kill(&processes::by_arguments(|arguments| {
        arguments
            .first()
            .is_some_and(|program| program.ends_with("containerd-shim-runc-v2"))
            && arguments.contains(&socket)
    }))?;
    remove_sockets()?;
    let mut ids: Vec<u32> = cgroups()
        .iter()
        .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    processes::kill(&ids)
}

/// Where every shim puts its socket, whatever containerd's own folders are.
const SHIM_SOCKETS: &str = "/run/containerd/s";

/// A killed shim leaves its socket behind; those of another containerd's shims still have a listener.
fn remove_sockets() -> Result<(), String> {
    let Ok(entries) = fs::read_dir(SHIM_SOCKETS) else {
        return Ok(());
    };
    let listed = fs::read_to_string("/proc/net/unix")
        .map_err(|error| format!("read the open sockets: {error}"))?;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if !is_open(&listed, &path.display().to_string()) {
            fs::remove_file(&path)
                .map_err(|error| format!("remove {}: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// Whether a socket's path is the last field of a line of `/proc/net/unix`.
fn is_open(listed: &str, path: &str) -> bool {
    listed
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some(path))
}

/// Everything mounted below the state folder, the last mount first.
fn unmount(place: &Place) -> Result<(), String> {
    let text = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("read the mounts: {error}"))?;
    for point in mount_points(&text, &place.state.display().to_string())
        .iter()
        .rev()
    {
        run(Command::new("umount").arg(point))
            // Lazily, when something outside still looks at it.
            .or_else(|_| run(Command::new("umount").args(["--lazy", point])))?;
    }
    Ok(())
}

fn mount_points(mountinfo: &str, below: &str) -> Vec<String> {
    let below = format!("{below}/");
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        // The kernel writes a space in a path as \040.
        .map(|point| point.replace("\\040", " "))
        .filter(|point| point.starts_with(&below))
        .collect()
}

/// Every control group of pods, parents before children, in every hierarchy.
fn cgroups() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup/kubepods")];
    if let Ok(entries) = fs::read_dir("/sys/fs/cgroup") {
        folders.extend(entries.filter_map(|entry| Some(entry.ok()?.path().join("kubepods"))));
    }
    folders.retain(|folder| folder.is_dir());
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        if let Ok(entries) = fs::read_dir(&folder) {
            folders.extend(
                entries
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| path.is_dir() && !path.is_symlink()),
            );
        }
        next += 1;
    }
    folders
}

fn remove_cgroups() -> Result<(), String> {
    for folder in cgroups().iter().rev() {
        // Hierarchies mounted together appear under two names; the second removal finds nothing.
        match fs::remove_dir(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("remove {}: {error}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove_state(place: &Place) -> Result<(), String> {
    let absent = fs::read_to_string(place.state.join("foreign")).unwrap_or_default();
    for folder in absent.lines().filter(|folder| FOREIGN.contains(folder)) {
        remove(Path::new(folder))?;
    }
    remove(&place.state)
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn only_servers_are_ended() {
        for (line, expected) in [
            ("/c/v1/kubelet --config=/s/kubelet.json", true),
            ("containerd --config /s/containerd.toml", true),
            ("/target/debug/xtask kubernetes serve-images", true),
            ("/c/v1/kubectl --kubeconfig=/s/kubeconfig get pods", false),
            ("containerd", false),
            ("/usr/bin/kubelet --config=/s/other", false),
            ("tail -f /s/logs/kubelet.log", false),
            ("libretto run --kubeconfig /s/kubeconfig", false),
        ] {
            assert_eq!(is_component(&words(line), "/s", "/c"), expected, "{line}");
        }
    }

    #[test]
    fn a_socket_with_a_listener_is_kept() {
        let listed = "Num RefCount Protocol Flags Type St Inode Path\n0: 00000002 00000000 00010000 0001 01 77 /run/containerd/s/ab\n";
        assert!(is_open(listed, "/run/containerd/s/ab"));
        assert!(!is_open(listed, "/run/containerd/s/a"));
    }

    #[test]
    fn mounts_below_the_state_are_found() {
        let text = "22 1 0:1 / / rw - ext4 a rw\n23 22 0:2 / /s/a\\040b rw - tmpfs b rw\n24 22 0:3 / /state rw - tmpfs c rw\n";
        assert_eq!(mount_points(text, "/s"), ["/s/a b"]);
    }
}
