//! What `up` tells people to try: lines that can be pasted as they are into any shell.

use std::{ffi::OsStr, path::Path};

/// The demo's master before anything happened.
pub(super) const FIRST: &str = "redis-cluster-test-0";

/// How this program is called from here: its name when that finds it, else its path.
pub(super) fn program() -> String {
    let Ok(this) = std::env::current_exe() else {
        return "libretto".to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    called(&this, &path)
}

fn called(this: &Path, path: &OsStr) -> String {
    let first = std::env::split_paths(path)
        .map(|folder| folder.join("libretto"))
        .find(|candidate| candidate.is_file());
    let same = |other: &Path| match (other.canonicalize(), this.canonicalize()) {
        (Ok(other), Ok(this)) => other == this,
        _ => false,
    };
    if first.is_some_and(|first| same(&first)) {
        return "libretto".to_owned();
    }
    // Whole: the other terminal may be in another folder.
    word(&this.to_string_lossy())
}

/// The text as one word of a shell's command line.
fn word(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%,".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The lines. Each explanation is a line of its own: not every shell takes comments behind a command. `master` is the demo's.
pub(super) fn hints(
    program: &str,
    kubeconfig: &str,
    found_without_help: bool,
    master: Option<&str>,
) -> Vec<String> {
    let whom = if found_without_help {
        "for kubectl, in another terminal; libretto finds it by itself"
    } else {
        "for kubectl and libretto, in another terminal"
    };
    let mut lines = vec![
        format!("  # {whom}"),
        format!("  export KUBECONFIG={}", word(kubeconfig)),
    ];
    let Some(master) = master else {
        return lines;
    };
    for (why, command) in [
        ("what there is", "get rediscluster,pods,svc".to_owned()),
        (
            "its conditions and events",
            "describe rediscluster test".to_owned(),
        ),
        (
            "ask a Sentinel who the master is",
            "exec redis-sentinel-test-0 -- redis-cli -h redis-sentinel-test -p 26379 sentinel get-master-addr-by-name mymaster".to_owned(),
        ),
        (
            "kill the master, ask again, and see",
            format!("delete pod/{master} --now"),
        ),
        ("what happened", "events --for rediscluster/test".to_owned()),
        (
            "ask in SQL",
            "query \"SELECT name, phase, ip FROM pods\"".to_owned(),
        ),
    ] {
        lines.push(format!("  # {why}"));
        lines.push(format!("  {program} {command}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn what_is_printed_can_be_pasted() {
        for (text, quoted) in [
            ("/tmp/x-1/kubeconfig", "/tmp/x-1/kubeconfig"),
            ("/home/a b/k", "'/home/a b/k'"),
            ("/it's", r"'/it'\''s'"),
        ] {
            assert_eq!(word(text), quoted);
        }
        let lines = hints("libretto", "/k", true, Some("redis-cluster-test-2"));
        let commands: Vec<&String> = lines
            .iter()
            .filter(|line| !line.starts_with("  # "))
            .collect();
        assert_eq!(commands.len() * 2, lines.len());
        assert_eq!(*commands[0], "  export KUBECONFIG=/k");
        for command in &commands[1..] {
            let words = command.replace("\"SELECT name, phase, ip FROM pods\"", "SELECT");
            Cli::try_parse_from(words.split_whitespace())
                .unwrap_or_else(|error| panic!("{command}: {error}"));
        }
        assert!(
            commands
                .iter()
                .any(|line| line.contains("pod/redis-cluster-test-2 "))
        );
        assert_eq!(hints("libretto", "/k", false, None).len(), 2);
    }

    #[test]
    fn the_program_is_called_as_it_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, elsewhere) = (folder.path().join("bin"), folder.path().join("target"));
        for folder in [&bin, &elsewhere] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("libretto"), "").unwrap();
        }
        let on_path = bin.join("libretto");
        let built = elsewhere.join("libretto");
        assert_eq!(called(&on_path, bin.as_os_str()), "libretto");
        assert_eq!(called(&built, bin.as_os_str()), built.to_str().unwrap());
        assert_eq!(called(&built, OsStr::new("")), built.to_str().unwrap());
    }
}
