//! Reads objects from files, folders and standard input.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::cli::CliError;

/// Longest manifest that is read: the API server refuses single objects above 1.5 MiB; a bundle of a hundred of them is a mistake.
const LIMIT: u64 = 64 << 20;

/// Objects of all `files`, in order: YAML or JSON, several documents, `List`s opened.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Value>, CliError> {
    let mut objects = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().take(LIMIT).read_to_string(&mut text)?;
            objects.extend(parse("standard input", &text)?);
            continue;
        }
        for path in expand(file)? {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(&path)
                .map_err(|error| CliError::failed(format!("read {name}: {error}")))?;
            objects.extend(parse(&name, &text)?);
        }
    }
    if objects.is_empty() {
        return Err(CliError::failed("the files contain no object"));
    }
    Ok(objects)
}

/// A folder stands for its manifests, in the order of their names.
fn expand(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed =
        |error: std::io::Error| CliError::failed(format!("read {}: {error}", path.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let manifest = path.extension().is_some_and(|extension| {
            extension == "yaml" || extension == "yml" || extension == "json"
        });
        if manifest {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

pub(crate) fn parse(source: &str, text: &str) -> Result<Vec<Value>, CliError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| CliError::failed(format!("{source}: {error}")))?;
    let mut objects = Vec::new();
    for document in documents {
        if document.is_null() {
            continue;
        }
        let is_list = document["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("List"));
        match document["items"].as_array() {
            Some(items) if is_list => objects.extend(items.iter().cloned()),
            _ => objects.push(document),
        }
    }
    for object in &objects {
        libretto_actions::kube::object_ref(object)
            .map_err(|failure| CliError::failed(format!("{source}: {}", failure.message)))?;
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_and_lists_are_flattened() {
        let text = "\
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
# nothing
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Secret, metadata: {name: b}}
- {apiVersion: v1, kind: Secret, metadata: {name: c}}
";
        let names: Vec<Value> = parse("f", text)
            .unwrap()
            .iter()
            .map(|object| object["metadata"]["name"].clone())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn mistakes_name_the_file() {
        for text in ["kind: Pod\n", "a: [\n", "apiVersion: v1\nkind: Pod\n"] {
            let error = parse("pod.yaml", text).unwrap_err().to_string();
            assert!(error.starts_with("pod.yaml: "), "{error}");
        }
    }

    #[test]
    fn a_folder_is_read_in_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "notes.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<_> = expand(folder.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a.yml", "b.yaml"]);
    }
}
