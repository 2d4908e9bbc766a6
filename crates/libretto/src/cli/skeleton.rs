//! `libretto package new`: a package that works, to be changed into another.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::cli::{CliError, print::Printer};

#[derive(Debug, Args)]
pub struct NewArgs {
    /// Name of the package, and of the folder it is made in: lower-case letters, digits and -
    pub name: String,

    /// Kind of its instances [default: from the name: my-cache gives MyCache]
    #[arg(long)]
    pub kind: Option<String>,

    /// API group of that Kind: a domain of yours
    #[arg(long, default_value = "example.com")]
    pub group: String,

    /// Folder to make it in
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub parent: PathBuf,
}

const FILES: &[(&str, &str)] = &[
    ("package.yaml", include_str!("skeleton/package.yaml")),
    (
        "objects/10-config.yaml",
        include_str!("skeleton/objects/10-config.yaml"),
    ),
    (
        "objects/20-deployment.yaml",
        include_str!("skeleton/objects/20-deployment.yaml"),
    ),
    ("tests.yaml", include_str!("skeleton/tests.yaml")),
    (EXAMPLE, include_str!("skeleton/example.yaml")),
];

/// Beside what the package is made of.
const EXAMPLE: &str = "example.yaml";

pub(crate) fn new(args: &NewArgs, out: &mut Printer) -> Result<(), CliError> {
    let kind = args.kind.clone().unwrap_or_else(|| kind_of(&args.name));
    let folder = make(args, &kind)?;
    let place = folder.display();
    out.text(&format!(
        "{place} is a working package. Next:\n\n  \
         libretto package test {place}\n  \
         libretto up --no-demo --package {place}     # in another terminal, then:\n  \
         libretto apply -f {place}/{EXAMPLE}\n  \
         libretto get {} first -o yaml\n",
        kind.to_lowercase()
    ))
}

fn make(args: &NewArgs, kind: &str) -> Result<PathBuf, CliError> {
    let folder = args.parent.join(&args.name);
    // The compiler knows what a name, a group and a Kind may be; nothing is written before it agrees.
    let files = files(&args.name, kind, &args.group);
    libretto_engine::load_files(
        &files
            .iter()
            .filter(|(name, _)| *name != EXAMPLE)
            .map(|(name, text)| ((*name).to_owned(), text.clone()))
            .collect(),
    )
    .map_err(|diagnostics| {
        let told = libretto_engine::render(&diagnostics);
        let first = told.lines().next().unwrap_or_default();
        // Where in a file that does not exist yet is of no help.
        let what = first.splitn(4, ':').last().unwrap_or(first).trim();
        let hint = told.lines().nth(1).unwrap_or_default().trim();
        let hint = hint.trim_start_matches("hint: ");
        CliError::usage(format!("{what}: {hint}"))
    })?;
    if folder.exists() {
        return Err(
            CliError::failed(format!("{} exists already", folder.display()))
                .hint("choose another name, or another folder with --parent"),
        );
    }
    for (name, text) in &files {
        write(&folder.join(name), text)?;
    }
    Ok(folder)
}

fn files(name: &str, kind: &str, group: &str) -> Vec<(&'static str, String)> {
    FILES
        .iter()
        .map(|(file, text)| {
            let text = text
                .replace("my-name", name)
                .replace("my-group", group)
                .replace("MyKind", kind);
            (*file, text)
        })
        .collect()
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        CliError::failed(format!("cannot write {}: {error}", path.display()))
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

/// my-cache: MyCache.
fn kind_of(name: &str) -> String {
    name.split('-')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| {
                first.to_ascii_uppercase().to_string() + letters.as_str()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_skeleton_passes_its_own_tests() {
        let files = files("my-cache", &kind_of("my-cache"), "example.org")
            .into_iter()
            .map(|(name, text)| (name.to_owned(), text))
            .filter(|(name, _)| name != EXAMPLE)
            .collect();
        let charts: std::sync::Arc<dyn libretto_api::chart::Charts> =
            std::sync::Arc::new(libretto_api::chart::NoCharts);
        let reports = libretto_engine::scenario::run(&files, None, &charts).unwrap();
        assert_eq!(reports.len(), 3);
        for report in reports {
            assert!(report.failures.is_empty(), "{report:?}");
        }
    }

    #[test]
    fn nothing_is_written_for_a_name_that_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        for (name, kind, group, word) in [
            ("My", None, "example.com", "name of a package"),
            ("my", Some("my"), "example.com", "kind of a Kind"),
            ("my", None, "example", "group of a Kind"),
        ] {
            let args = NewArgs {
                name: name.to_owned(),
                kind: kind.map(str::to_owned),
                group: group.to_owned(),
                parent: folder.path().to_owned(),
            };
            let kind = args.kind.clone().unwrap_or_else(|| kind_of(name));
            let error = make(&args, &kind).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert!(!folder.path().join(name).exists());
        }
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let args = NewArgs {
            name: "mine".to_owned(),
            kind: None,
            group: "example.com".to_owned(),
            parent: folder.path().to_owned(),
        };
        make(&args, "Mine").unwrap();
        let file = folder.path().join("mine/package.yaml");
        fs::write(&file, "changed").unwrap();
        let error = make(&args, "Mine").unwrap_err().to_string();
        assert!(error.contains("exists already"), "{error}");
        assert_eq!(fs::read_to_string(file).unwrap(), "changed");
    }
}
