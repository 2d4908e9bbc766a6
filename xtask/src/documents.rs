//! Documents that show files. A fenced block that names a file after its language is a part of that file, word by word; one that is
//! called `package` is a whole package, which `libretto package lint` is shown.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A fenced block with a second word behind its language.
#[derive(Debug, PartialEq)]
struct Block<'a> {
    line: usize,
    about: &'a str,
    text: String,
}

/// Fails with every block that is not what its file says.
pub(crate) fn check(workspace: &Path) -> Result<(), String> {
    let mut found = Vec::new();
    for (name, document) in documents(workspace)? {
        for block in blocks(&document) {
            if block.about == "package" {
                continue;
            }
            let place = format!("{name}:{}", block.line);
            match fs::read_to_string(workspace.join(block.about)) {
                Err(error) => found.push(format!("{place}: read {}: {error}", block.about)),
                Ok(file) if holds(&file, &block.text) => {}
                Ok(_) => found.push(format!(
                    "{place}: {} does not have these lines; change the one or the other",
                    block.about
                )),
            }
        }
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("\n"))
    }
}

/// Writes the packages that documents show into folders below `into`, and returns these.
pub(crate) fn packages(workspace: &Path, into: &Path) -> Result<Vec<PathBuf>, String> {
    let mut folders = Vec::new();
    for (name, document) in documents(workspace)? {
        for block in blocks(&document) {
            if block.about != "package" {
                continue;
            }
            let folder = into.join(format!("{}-{}", name.replace('/', "-"), block.line));
            fs::create_dir_all(&folder)
                .and_then(|()| fs::write(folder.join("package.yaml"), &block.text))
                .map_err(|error| format!("write {}: {error}", folder.display()))?;
            folders.push(folder);
        }
    }
    Ok(folders)
}

/// Name and text of README.md and of what is in docs/.
fn documents(workspace: &Path) -> Result<Vec<(String, String)>, String> {
    let folder = workspace.join("docs");
    let entries =
        fs::read_dir(&folder).map_err(|error| format!("read {}: {error}", folder.display()))?;
    let mut paths = vec![workspace.join("README.md")];
    paths.extend(
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "md")),
    );
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("read {}: {error}", path.display()))?;
            let name = path.strip_prefix(workspace).unwrap_or(&path);
            Ok((name.display().to_string(), text))
        })
        .collect()
}

fn blocks(document: &str) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let text: String = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .flat_map(|line| [line, "\n"])
            .collect();
        if let Some((_, about)) = info.split_once(' ') {
            found.push(Block {
                line: number + 1,
                about: about.trim(),
                text,
            });
        }
    }
    found
}

/// Whether a file has these lines, whole and one after another.
fn holds(file: &str, lines: &str) -> bool {
    format!("\n{file}").contains(&format!("\n{lines}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_what_it_is() {
        let document =
            "a\n```\nb\n```\n```yaml x/y.yaml\nc:\n  d\n```\n```sh\n```\n```yaml package\n```\n";
        let told: Vec<(usize, &str, String)> = blocks(document)
            .into_iter()
            .map(|block| (block.line, block.about, block.text))
            .collect();
        assert_eq!(
            told,
            [
                (5, "x/y.yaml", "c:\n  d\n".to_owned()),
                (11, "package", String::new())
            ]
        );
    }

    #[test]
    fn lines_are_whole() {
        assert!(holds("a:\n  b: 1\n", "  b: 1\n"));
        assert!(!holds("a:\n  b: 1\n", "b: 1\n"), "indented otherwise");
        assert!(!holds("a:\n  b: 12\n", "  b: 1\n"), "cut off");
    }
}
