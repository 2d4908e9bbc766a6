//! House rules that a compiler does not check: every module says what it is for, no file grows without bound, nothing unfinished.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file past this many lines is two subjects; generated tables are data and live elsewhere.
const LONGEST_FILE: usize = 1_500;

/// Fails with every breach at once.
pub(crate) fn check(workspace: &Path) -> Result<(), String> {
    let mut files = Vec::new();
    for folder in ["crates", "xtask"] {
        rust_files(&workspace.join(folder), &mut files)?;
    }
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("read {}: {error}", path.display()))?;
        let name = path
            .strip_prefix(workspace)
            .unwrap_or(&path)
            .display()
            .to_string();
        found.extend(breaches(&name, &text));
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("\n"))
    }
}

fn breaches(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with("#!["))
        .unwrap_or_default();
    let documented = first
        .strip_prefix("//!")
        .is_some_and(|rest| rest.trim().len() > 10);
    if !documented {
        found.push(format!(
            "{name}: begin the file with `//!` and what it is for"
        ));
    }
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        found.push(format!(
            "{name}: {lines} lines; split it by subject (at most {LONGEST_FILE})"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        // Written in two halves so that this file passes its own check.
        for word in [
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("#[ig", "nore"),
        ] {
            if line.contains(word) {
                found.push(format!(
                    "{name}:{}: `{word}` does not belong here: finish it or open an issue",
                    number + 1
                ));
            }
        }
    }
    found
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries =
        fs::read_dir(folder).map_err(|error| format!("read {}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry
            .map_err(|error| format!("read {}: {error}", folder.display()))?
            .path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_purpose_is_named() {
        assert_eq!(
            breaches("a.rs", "fn main() {}\n"),
            ["a.rs: begin the file with `//!` and what it is for"]
        );
    }

    #[test]
    fn a_documented_file_passes() {
        assert!(
            breaches(
                "a.rs",
                "//! Does one thing, and that one well.\nfn main() {}\n"
            )
            .is_empty()
        );
    }
}
