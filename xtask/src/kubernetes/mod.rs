//! `cargo xtask kubernetes`: a real single-node Kubernetes out of ordinary packages, for tests against the API server itself. The
//! operators' own cluster (`libretto up`) needs none of this. See docs/kubernetes.md.

mod build;
mod certificates;
mod cleanup;
mod components;
mod images;
mod network;
mod place;
mod processes;
mod registry;

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use clap::Subcommand;

use crate::{
    run::step,
    say,
    setup::{self, Need},
};
use place::Place;

#[derive(Subcommand)]
pub(crate) enum Action {
    /// Build what is missing, start the cluster, and wait until its node is Ready
    Up {
        /// Which Kubernetes
        #[arg(long, default_value = build::MINORS[0], value_parser = build::MINORS.to_vec())]
        minor: String,
    },
    /// Build what is missing and start nothing
    Build {
        /// Which Kubernetes
        #[arg(long, default_value = build::MINORS[0], value_parser = build::MINORS.to_vec())]
        minor: String,
    },
    /// Kill one of its processes and start it again
    Restart {
        /// Which; `status` names them
        #[arg(value_parser = components::ALL.to_vec())]
        process: String,
    },
    /// Stop the cluster and remove everything it left on this machine; built programs and images are kept
    Down,
    /// Say which processes run and whether the node is Ready; ends with 1 when anything is missing
    Status,
    /// Serve the built images to containerd; `up` starts this
    #[command(hide = true)]
    ServeImages,
}

const NEEDS: &[Need] = &[
    Need {
        program: "containerd",
        package: "containerd",
        why: "runs the containers",
    },
    Need {
        program: "runc",
        package: "runc",
        why: "runs the containers",
    },
    Need {
        program: "iptables",
        package: "iptables",
        why: "carries Service addresses to pods",
    },
    Need {
        program: "ip",
        package: "iproute2",
        why: "makes the node's link",
    },
    Need {
        program: "openssl",
        package: "openssl",
        why: "makes certificates",
    },
    Need {
        program: "/usr/lib/cni/ptp",
        package: "containernetworking-plugins",
        why: "connects pods",
    },
];

pub(crate) use build::MINORS;

/// Why a cluster of this minor cannot be started on this machine, if it cannot.
pub(crate) fn possible(minor: &str) -> Result<(), String> {
    root()?;
    build::toolchain()?;
    build::reachable(&Place::find()?, minor)
}

fn root() -> Result<(), String> {
    if setup::is_root() {
        Ok(())
    } else {
        Err(
            "a Kubernetes node makes network links, mounts and control groups: run this as root"
                .to_owned(),
        )
    }
}

/// Runs `action` with the kubeconfig and the audit log of a cluster, which is stopped afterwards unless it was up before.
pub(crate) fn during(
    minor: &str,
    action: impl FnOnce(&Path, &Path) -> Result<(), String>,
) -> Result<(), String> {
    let place = Place::find()?;
    let was_up = running_minor(&place).is_some();
    let result = up(&place, minor).and_then(|()| action(&place.kubeconfig(), &place.log("audit")));
    if was_up {
        return result;
    }
    // What it did before it failed is worth more than that the machine could not be cleaned.
    let cleaned = step("stop Kubernetes", || cleanup::down(&place));
    result.and(cleaned)
}

pub(crate) fn execute(action: &Action) -> Result<ExitCode, String> {
    let place = Place::find()?;
    if !matches!(action, Action::Build { .. }) {
        root()?;
    }
    match action {
        Action::Build { minor } => {
            build::toolchain().and_then(|()| build::all(&place, minor).map(|_| ()))
        }
        Action::Up { minor } => up(&place, minor),
        Action::Restart { process } => restart(&place, process),
        Action::Down => cleanup::down(&place),
        Action::Status => return status(&place),
        Action::ServeImages => registry::serve(&place),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn up(place: &Place, minor: &str) -> Result<(), String> {
    if let Some(running) = running_minor(place)
        && running != minor
    {
        return Err(format!(
            "Kubernetes {running} is up: `cargo xtask kubernetes down` first, to start {minor}"
        ));
    }
    setup::require(&[NEEDS])?;
    build::toolchain()?;
    let programs = build::all(place, minor)?;
    images::all(&place.cache)?;
    for folder in ["logs", "run"] {
        place::create_folder(&place.state.join(folder))?;
    }
    cleanup::remember(place)?;
    place.write("minor", minor)?;
    step("certificates", || certificates::all(place))?;
    step("network", || network::up(place))?;
    components::up(place, &programs)?;
    say(&format!(
        "Kubernetes {} is up\n\n    export KUBECONFIG={}\n    export PATH={}:$PATH\n",
        programs.version,
        place.kubeconfig().display(),
        programs
            .path("kubectl")
            .parent()
            .unwrap_or(&place.cache)
            .display()
    ));
    Ok(())
}

fn restart(place: &Place, process: &str) -> Result<(), String> {
    let minor = running_minor(place).ok_or("no cluster: `cargo xtask kubernetes up` starts one")?;
    let id = processes::id(place, process).ok_or_else(|| {
        format!("{process} does not run; `cargo xtask kubernetes up` starts what is missing")
    })?;
    processes::kill(&[id])?;
    let programs = build::all(place, &minor)?;
    components::up(place, &programs)
}

fn status(place: &Place) -> Result<ExitCode, String> {
    let Some(minor) = running_minor(place) else {
        say("no cluster: `cargo xtask kubernetes up` starts one");
        return Ok(ExitCode::FAILURE);
    };
    let mut complete = true;
    for name in components::ALL {
        if let Some(id) = processes::id(place, name) {
            say(&format!("{name:24} runs, process {id}"));
        } else {
            complete = false;
            say(&format!(
                "{name:24} does not run; see {}",
                place.log(name).display()
            ));
        }
    }
    // The programs are there: the cluster could not have been started otherwise.
    let programs = build::all(place, &minor)?;
    let ready = match components::node_ready(place, &programs) {
        Ok(true) => "Ready",
        Ok(false) => "not Ready",
        Err(_) => "not Ready: the API server does not answer",
    };
    say(&format!("node {:19} {ready}", place::NODE));
    Ok(if complete && ready == "Ready" {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The minor whose state is on this machine.
fn running_minor(place: &Place) -> Option<String> {
    fs::read_to_string(place.state.join("minor")).ok()
}

/// Runs a command to its end and returns what it printed; a failure carries what it said.
fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let arguments: Vec<String> = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    Err(format!(
        "{name} {}: {}\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
