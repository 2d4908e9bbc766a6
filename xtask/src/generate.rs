//! Files that follow from others: the reference of the package language, its schemas, what the Helm chart says about each bundled package,
//! and the chart rendered into the manifests that `libretto install` prints. `cargo xtask check` fails when they are out of date.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::setup;

/// Helm leaves such an object where it is when the release goes: with a definition every custom resource of its kind would go.
const KEEP: &str = "\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n";

/// Writes the files, or only fails when they are not as they would be written.
pub(crate) fn run(libretto: &Path, check: bool) -> Result<(), String> {
    let workspace = setup::workspace();
    let chart = workspace.join("deploy/libretto");
    let mut files = BTreeMap::new();
    for name in packages(&workspace)? {
        let print = |what| output(Command::new(libretto).args(["package", what, &name]));
        let crd = print("crd")?.replacen("\nmetadata:\n", KEEP, 1);
        files.insert(chart.join(format!("files/{name}.crd.yaml")), crd);
        files.insert(
            chart.join(format!("files/{name}.rbac.yaml")),
            print("rbac")?,
        );
    }
    for (from, to) in [
        ("crates/libretto-api/src/crds.yaml", "crd"),
        ("crates/libretto/src/installations/rbac.yaml", "rbac"),
    ] {
        let text = fs::read_to_string(workspace.join(from))
            .map_err(|error| format!("read {from}: {error}"))?;
        let text = text.replace("\nmetadata:\n", KEEP);
        files.insert(chart.join(format!("files/installations.{to}.yaml")), text);
    }
    settle(files, Some(&chart.join("files")), check)?;
    let schemas = workspace.join("deploy/schemas");
    let print = |flags: &[&str]| {
        output(
            Command::new(libretto)
                .args(["package", "schema"])
                .args(flags),
        )
    };
    let files = BTreeMap::from([
        (schemas.join("package.json"), print(&[])?),
        (schemas.join("tests.json"), print(&["--tests"])?),
    ]);
    settle(files, Some(&schemas), check)?;
    let reference = output(Command::new(libretto).args(["package", "reference"]))?;
    let place = workspace.join("docs/reference.md");
    settle(BTreeMap::from([(place, reference)]), None, check)?;
    // Only now: the chart reads the files above.
    let helm = setup::tools()?.join("helm");
    // CI's lint looks at what a release would be, not only at the templates.
    output(
        Command::new(&helm)
            .args(["lint", "--strict", "--quiet"])
            .arg(&chart),
    )?;
    let mut files = BTreeMap::new();
    for scope in ["cluster", "namespace"] {
        let manifests = output(
            Command::new(&helm)
                .args(["template", "libretto"])
                .arg(&chart)
                // The definitions are in the binary as part of the packages.
                .args([
                    "--namespace",
                    "libretto-system",
                    "--set",
                    "crds.install=false",
                ])
                .args(["--set", &format!("scope={scope}")]),
        )?;
        let place = workspace.join(format!("deploy/manifests/{scope}.yaml"));
        files.insert(place, manifests);
    }
    settle(files, None, check)
}

fn packages(workspace: &Path) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = list(&workspace.join("packages"))?
        .iter()
        .filter(|path| path.join("package.yaml").is_file())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Makes the files what they should be; in `whole` there is nothing else.
fn settle(
    files: BTreeMap<PathBuf, String>,
    whole: Option<&Path>,
    check: bool,
) -> Result<(), String> {
    let mut stale: Vec<PathBuf> = match whole {
        Some(folder) => list(folder)?,
        None => Vec::new(),
    };
    stale.retain(|path| !files.contains_key(path));
    if !check {
        for path in stale.drain(..) {
            fs::remove_file(&path)
                .map_err(|error| format!("remove {}: {error}", path.display()))?;
        }
    }
    for (path, text) in files {
        if fs::read_to_string(&path).is_ok_and(|found| found == text) {
            continue;
        }
        if check {
            stale.push(path);
        } else {
            fs::write(&path, text).map_err(|error| format!("write {}: {error}", path.display()))?;
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = stale
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Err(format!(
        "out of date: {}\n`cargo xtask generate` writes them",
        names.join(", ")
    ))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("read {}: {error}", folder.display());
    fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| Ok(entry.map_err(failed)?.path()))
        .collect()
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .current_dir(setup::workspace())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!(
        "{name}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_check_changes_nothing_and_names_what_is_stale() {
        let folder = std::env::temp_dir().join(format!("libretto-generate-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("gone.yaml"), "").unwrap();
        let wanted = || BTreeMap::from([(folder.join("new.yaml"), "a: 1\n".to_owned())]);
        let error = settle(wanted(), Some(&folder), true).unwrap_err();
        assert!(
            error.contains("gone.yaml") && error.contains("new.yaml"),
            "{error}"
        );
        assert!(folder.join("gone.yaml").exists());
        settle(wanted(), Some(&folder), false).unwrap();
        settle(wanted(), Some(&folder), true).unwrap();
        assert!(!folder.join("gone.yaml").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
