//! Where packages come from: those built into the binary, and folders given by the user.

use std::{path::Path, sync::Arc};

use include_dir::{Dir, include_dir};
use libretto_engine::{Compiled, Diagnostic, Files};

/// The operators that come with Libretto.
static BUNDLED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../packages");

/// A package could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("no package named {name:?} comes with libretto; there are: {known}")]
    Unknown { name: String, known: String },
    #[error("there is no folder {path}")]
    NoFolder { path: String },
    #[error("{path} is not a package: it has no package.yaml, and no file in SREWorks' form")]
    NotAPackage { path: String },
    #[error("package {path} has {} mistake{}:\n{}", diagnostics.len(), if diagnostics.len() == 1 { "" } else { "s" }, libretto_engine::render(diagnostics).trim_end())]
    Mistakes {
        path: String,
        diagnostics: Vec<Diagnostic>,
    },
}

/// Names of the bundled packages, sorted.
pub fn bundled_names() -> Vec<String> {
    let mut names: Vec<String> = BUNDLED
        .dirs()
        .filter(|dir| dir.get_file(dir.path().join("package.yaml")).is_some())
        .filter_map(|dir| dir.path().file_name()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// Files of a bundled package by path relative to its package.yaml.
pub fn bundled_files(name: &str) -> Option<Files> {
    let dir = BUNDLED.get_dir(name)?;
    let mut files = Files::new();
    collect(dir, dir.path(), &mut files);
    files.contains_key("package.yaml").then_some(files)
}

fn collect(dir: &Dir<'static>, root: &Path, files: &mut Files) {
    for file in dir.files() {
        let path = file
            .path()
            .strip_prefix(root)
            .unwrap_or_else(|_| file.path());
        let name = path.to_string_lossy();
        libretto_engine::add_file(files, &name, file.contents().to_vec())
            .expect("a bundled package was read when it was built in");
    }
    for dir in dir.dirs() {
        collect(dir, root, files);
    }
}

/// `place` names no folder with a package, so that it can only be the name of a bundled one.
pub fn bundled(place: &str) -> bool {
    let path = Path::new(place);
    // Only a folder without package.yaml is looked into: it may be in SREWorks' form.
    let classic = || {
        libretto_engine::read_dir(path)
            .is_ok_and(|files| libretto_engine::classic_file(&files).is_some())
    };
    !path.join("package.yaml").is_file() && (!path.is_dir() || !classic())
}

/// Files of the package that `place` names: a folder with a package.yaml, or a bundled package.
pub fn files(place: &str) -> Result<Files, PackageError> {
    let path = Path::new(place);
    if !bundled(place) {
        return libretto_engine::read_dir(path).map_err(|diagnostics| PackageError::Mistakes {
            path: place.to_owned(),
            diagnostics,
        });
    }
    // A folder that only happens to have the name of a bundled package (its data, a checkout) does not hide it.
    if let Some(files) = bundled_files(place) {
        return Ok(files);
    }
    if path.is_dir() {
        return Err(PackageError::NotAPackage {
            path: place.to_owned(),
        });
    }
    // A name has no slash.
    if place.contains('/') || place.starts_with('.') {
        return Err(PackageError::NoFolder {
            path: place.to_owned(),
        });
    }
    Err(PackageError::Unknown {
        name: place.to_owned(),
        known: bundled_names().join(", "),
    })
}

/// Files of a package that are needed to run it, and how many bytes they are: what is not needed takes no room in the cluster.
pub fn files_to_run(place: &str) -> Result<(Files, usize), PackageError> {
    let mut files = files(place)?;
    files.retain(|path, _| path != "tests.yaml" && !path.ends_with(".md"));
    let size = files
        .iter()
        .map(|(path, text)| path.len() + text.len())
        .sum();
    Ok((files, size))
}

/// Loads the packages at these places; all bundled ones when the list is empty.
pub fn load(places: &[String]) -> Result<Vec<Arc<Compiled>>, PackageError> {
    let places = if places.is_empty() {
        bundled_names()
    } else {
        places.to_vec()
    };
    places
        .into_iter()
        .map(|place| {
            let files = files(&place)?;
            libretto_engine::load_files(&files)
                .map(Arc::new)
                .map_err(|diagnostics| PackageError::Mistakes {
                    path: place,
                    diagnostics,
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_no_package_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = files(folder.path().to_str().unwrap()).unwrap_err();
        assert!(matches!(error, PackageError::NotAPackage { .. }));
        let error = files("no-such-package").unwrap_err();
        assert!(error.to_string().contains("comes with libretto"), "{error}");
        let error = files("./nosuch").unwrap_err();
        assert_eq!(error.to_string(), "there is no folder ./nosuch");
    }

    #[test]
    fn bundled_packages_are_found_by_name() {
        for name in bundled_names() {
            assert!(files(&name).unwrap().contains_key("tests.yaml"), "{name}");
            assert_eq!(load(std::slice::from_ref(&name)).unwrap().len(), 1);
        }
    }
}
