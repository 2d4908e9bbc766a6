//! Builds the cluster's programs from their Go modules. Versions are pinned in `tests/kubernetes/*/go.mod` and nowhere else; results
//! are kept in the cache by version, so the second start builds nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{place::Place, run};
use crate::setup;

/// The newest minor that runs with containerd 1.6 and cgroup v1, and the one before it.
pub(crate) const MINORS: &[&str] = &["1.35", "1.34"];

/// A program, the package it is built from, and the folder below `tests/kubernetes` that pins it.
struct Program {
    name: &'static str,
    package: &'static str,
}

const KUBERNETES: &[Program] = &[
    Program {
        name: "etcd",
        package: "go.etcd.io/etcd/server/v3",
    },
    Program {
        name: "kube-apiserver",
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
    },
    Program {
        name: "kube-controller-manager",
        package: "k8s.io/kubernetes/cmd/kube-controller-manager",
    },
    Program {
        name: "kube-scheduler",
        package: "k8s.io/kubernetes/cmd/kube-scheduler",
    },
    Program {
        name: "kube-proxy",
        package: "k8s.io/kubernetes/cmd/kube-proxy",
    },
    Program {
        name: "kubelet",
        package: "k8s.io/kubernetes/cmd/kubelet",
    },
    Program {
        name: "kubectl",
        package: "k8s.io/kubernetes/cmd/kubectl",
    },
];

const COREDNS: &[Program] = &[Program {
    name: "coredns",
    package: "github.com/coredns/coredns",
}];

const PROVISIONER: &[Program] = &[Program {
    name: "local-path-provisioner",
    package: "github.com/rancher/local-path-provisioner",
}];

/// Where the built programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) version: String,
    kubernetes: PathBuf,
    coredns: PathBuf,
    provisioner: PathBuf,
}

impl Programs {
    /// The path of a program; all of them exist once [`all`] has returned.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match name {
            "coredns" => self.coredns.join(name),
            "local-path-provisioner" => self.provisioner.join(name),
            _ => self.kubernetes.join(name),
        }
    }
}

/// Since this version Go fetches the toolchain that a go.mod asks for; Debian 12 has an older one, so nothing is installed here.
const OLDEST_GO: u32 = 21;

/// Fails unless there is a Go that can build the modules.
pub(crate) fn toolchain() -> Result<(), String> {
    let advice = format!(
        "install Go 1.{OLDEST_GO} or newer and put it on the PATH; it fetches the version it needs itself"
    );
    let printed = run(Command::new("go").arg("version"))
        .map_err(|error| format!("no Go to build Kubernetes with ({error}): {advice}"))?;
    match go_minor(&printed) {
        Some(minor) if minor >= OLDEST_GO => Ok(()),
        _ => Err(format!("{} is too old: {advice}", printed.trim())),
    }
}

/// The 26 in `go version go1.26.8 linux/amd64`.
fn go_minor(printed: &str) -> Option<u32> {
    let (_, rest) = printed.split_once("go1.")?;
    let end = rest
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Fails unless the programs are built or what they are built from can be downloaded.
pub(crate) fn reachable(place: &Place, minor: &str) -> Result<(), String> {
    let kept = place
        .cache
        .join(cache_name(minor, &pinned(minor, "k8s.io/kubernetes")?));
    if KUBERNETES
        .iter()
        .all(|program| kept.join(program.name).exists())
    {
        return Ok(());
    }
    // The largest of the modules; it would be downloaded anyway. A machine without a way out may wait for ever.
    run(Command::new("timeout")
        .args(["120", "go", "mod", "download", "k8s.io/kubernetes"])
        .current_dir(pins().join(minor))
        .env("GOWORK", "off"))
    .map(|_| ())
    .map_err(|error| format!("Go modules cannot be downloaded: {error}"))
}

/// Builds what is not in the cache yet: minutes the first time, nothing afterwards.
pub(crate) fn all(place: &Place, minor: &str) -> Result<Programs, String> {
    let version = pinned(minor, "k8s.io/kubernetes")?;
    Ok(Programs {
        kubernetes: module(place, minor, "k8s.io/kubernetes", KUBERNETES)?,
        coredns: module(place, "dns", "github.com/coredns/coredns", COREDNS)?,
        provisioner: module(
            place,
            "storage",
            "github.com/rancher/local-path-provisioner",
            PROVISIONER,
        )?,
        version,
    })
}

/// Builds the programs of one module into a folder named after its main dependency's version.
fn module(
    place: &Place,
    folder: &str,
    dependency: &str,
    programs: &[Program],
) -> Result<PathBuf, String> {
    let version = pinned(folder, dependency)?;
    let kept = place.cache.join(cache_name(folder, &version));
    super::place::create_folder(&kept)?;
    for program in programs {
        let target = kept.join(program.name);
        if target.exists() {
            continue;
        }
        let unfinished = kept.join(format!("{}.part", program.name));
        crate::run::step(&format!("build {} {version}", program.name), || {
            run(Command::new("go")
                .current_dir(pins().join(folder))
                .args(["build", "-trimpath", "-ldflags"])
                .arg(link_flags(&version))
                .arg("-o")
                .arg(&unfinished)
                .arg(program.package)
                // The programs must run in images without a C library too; and only what go.sum names may be downloaded.
                .env("CGO_ENABLED", "0")
                .env("GOFLAGS", "-mod=readonly")
                .env("GOWORK", "off"))?;
            fs::rename(&unfinished, &target)
                .map_err(|error| format!("rename {}: {error}", unfinished.display()))
        })?;
    }
    Ok(kept)
}

fn pins() -> PathBuf {
    setup::workspace().join("tests/kubernetes")
}

/// The version that `tests/kubernetes/<folder>/go.mod` requires of a module.
fn pinned(folder: &str, dependency: &str) -> Result<String, String> {
    let path = pins().join(folder).join("go.mod");
    let text =
        fs::read_to_string(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    required(&text, dependency)
        .ok_or_else(|| format!("{} requires no {dependency}", path.display()))
}

fn required(go_mod: &str, dependency: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("require ").unwrap_or(line);
        let mut words = line.split_whitespace();
        (words.next() == Some(dependency))
            .then(|| words.next())
            .flatten()
            .filter(|version| version.starts_with('v'))
            .map(str::to_owned)
    })
}

fn cache_name(folder: &str, version: &str) -> PathBuf {
    match folder {
        "dns" | "storage" => Path::new(folder).join(version),
        _ => version.into(),
    }
}

/// Kubernetes learns its version when it is linked; without it the API server refuses to compare versions.
fn link_flags(version: &str) -> String {
    let mut flags = "-s -w".to_owned();
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ] {
        for (name, value) in [
            ("gitVersion", version),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
        ] {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn go_mod(folder: &str) -> String {
        fs::read_to_string(pins().join(folder).join("go.mod")).unwrap()
    }

    #[test]
    fn every_part_of_kubernetes_has_the_number_of_the_whole() {
        for minor in MINORS {
            let text = go_mod(minor);
            let version = required(&text, "k8s.io/kubernetes").unwrap();
            assert!(version.starts_with(&format!("v{minor}.")), "{version}");
            let part = version.replacen("v1.", "v0.", 1);
            let replaced: Vec<&str> = text.lines().filter(|line| line.contains(" => ")).collect();
            assert!(
                replaced.len() >= 30,
                "{minor}: only {} parts",
                replaced.len()
            );
            for line in replaced {
                let (name, target) = line.trim().split_once(" => ").unwrap();
                assert_eq!(target, format!("{name} {part}"), "{minor}");
            }
        }
    }

    #[test]
    fn every_program_is_a_tool_of_its_module() {
        for (folder, programs) in [("dns", COREDNS), ("storage", PROVISIONER)]
            .into_iter()
            .chain(MINORS.iter().map(|minor| (*minor, KUBERNETES)))
        {
            let text = go_mod(folder);
            for program in programs {
                assert!(
                    text.lines()
                        .any(|line| line.trim().trim_start_matches("tool ") == program.package),
                    "{folder}: {}",
                    program.package
                );
            }
        }
    }

    #[test]
    fn versions_are_read_and_linked() {
        let text = "module m\nrequire a/b v1.2.3\nrequire (\n\tc/d v0.4.0 // indirect\n)\nreplace c/d => c/d v0.5.0\n";
        assert_eq!(required(text, "a/b").as_deref(), Some("v1.2.3"));
        assert_eq!(required(text, "c/d").as_deref(), Some("v0.4.0"));
        assert_eq!(required(text, "e/f"), None);
        assert_eq!(go_minor("go version go1.26.8 linux/amd64\n"), Some(26));
        assert_eq!(go_minor("go version go1.19rc2 linux/amd64\n"), Some(19));
        assert_eq!(go_minor("go version devel"), None);
        let flags = link_flags("v1.35.4");
        assert!(flags.contains("component-base/version.gitVersion=v1.35.4"));
        assert!(flags.contains("client-go/pkg/version.gitMinor=35"));
    }
}
