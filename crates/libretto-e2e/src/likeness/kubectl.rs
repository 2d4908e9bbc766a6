//! Commands of kubectl as steps of a case.

use std::{
    path::{Path as FilePath, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{case::CaseStep, place::Place, run::Words};
use crate::{Failure, Step};

/// Longest time of one command; those that wait are given shorter limits of their own.
const LIMIT: Duration = Duration::from_secs(150);

/// The kubectl that both clusters are asked with: `$LIBRETTO_TOOLS`, else what `cargo xtask tools` has fetched.
fn program() -> Step<PathBuf> {
    let tools = std::env::var_os("LIBRETTO_TOOLS").map_or_else(
        || FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools"),
        PathBuf::from,
    );
    let kubectl = tools.join("kubectl");
    if kubectl.exists() {
        Ok(kubectl)
    } else {
        Err(format!("{} is missing: run `cargo xtask tools`", kubectl.display()).into())
    }
}

/// Runs the command and answers with its exit code and what it printed, as lines.
pub(super) async fn run(place: &Place, step: &CaseStep, words: &Words) -> Step<Value> {
    let arguments = split(&words.fill(step.kubectl.as_deref().unwrap_or_default())?)?;
    let mut command = tokio::process::Command::new(program()?);
    // In front: behind `--` it would be the argument of a command in a pod.
    if let Some(namespace) = words.get("ns") {
        command.arg("--namespace").arg(namespace);
    }
    command
        .args(&arguments)
        .env("KUBECONFIG", &place.kubeconfig)
        .env("HOME", place.home.path())
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in &step.env {
        command.env(name, words.fill(value)?);
    }
    let input = match (&step.text, step.content()?) {
        (Some(text), _) => words.fill(text)?,
        (None, Some(Value::Array(documents))) => {
            let documents: Vec<_> = documents.iter().map(Value::to_string).collect();
            words.fill(&documents.join("\n---\n"))?
        }
        (None, Some(document)) => words.fill(&document.to_string())?,
        (None, None) => String::new(),
    };
    let mut child = command.spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that does not read its input is not an error of the case.
        let _ = pipe.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .map_err(|_| Failure::from("kubectl did not end"))??;
    let normaliser = words.normaliser();
    let mut answer = json!({"exit": output.status.code()});
    // How often a command that waits says so depends on the moment: `show: []` leaves the exit code.
    if step.show.is_none() {
        answer["stdout"] = normaliser.lines(&String::from_utf8_lossy(&output.stdout));
        answer["stderr"] = normaliser.lines(&String::from_utf8_lossy(&output.stderr));
    }
    Ok(answer)
}

/// Words separated by blanks; quotes keep blanks, as in a shell.
fn split(line: &str) -> Step<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (character, quote) {
            (character, Some(open)) if character == open => quote = None,
            (character, None) if character == '\'' || character == '"' => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (character, None) if character.is_whitespace() => words.extend(word.take()),
            (character, _) => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed: {line}").into());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lines_are_split_as_a_shell_does() {
        assert_eq!(
            split(r#"patch x -p '{"a": 1}' --type=merge ''"#).unwrap(),
            ["patch", "x", "-p", "{\"a\": 1}", "--type=merge", ""]
        );
        assert!(split("a 'b").is_err());
    }
}
