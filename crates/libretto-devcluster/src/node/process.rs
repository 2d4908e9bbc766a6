//! The process driver's substitute for mounts: paths of volumes are replaced, as text, by where the volumes really are.
//!
//! Without namespaces a container is a plain process that sees the host's files. Its volumes are directories elsewhere, so every
//! mention of a mount path in its command, environment and working directory, and in copies of its projected text files, is rewritten.
//! There is no isolation whatever; programs must listen on `$(POD_IP)` (127.66.x.y), because every pod shares the loopback interface.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{container::ContainerSpec, rootfs::Mount};

/// The variable under which the replacements travel with the specification, for later execs.
const VARIABLE: &str = "LIBRETTO_PATHS";

/// The specification of a plain process in place of a container with these mounts. `directory` is the container's own.
pub(crate) fn substitute(
    spec: ContainerSpec,
    mounts: &[Mount],
    directory: &Path,
) -> Result<ContainerSpec, String> {
    let mut replacements = mounts
        .iter()
        // What the sandbox would provide; the host's own are used.
        .filter(|mount| {
            !mount.target.starts_with("/etc/host") && mount.target != "/etc/resolv.conf"
        })
        .map(|mount| {
            let source = match &mount.sub_path {
                Some(sub_path) => mount.source.join(sub_path),
                None => mount.source.clone(),
            };
            (mount.target.trim_end_matches('/').to_owned(), source)
        })
        .collect::<Vec<_>>();
    // Longest first: /data/logs before /data.
    replacements.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
    let files = directory.join("files");
    let _ = fs::remove_dir_all(&files);
    let originals = replacements.clone();
    for (index, mount) in mounts.iter().enumerate() {
        let position = replacements
            .iter()
            .position(|(target, _)| target == mount.target.trim_end_matches('/'));
        let (true, Some(position)) = (mount.read_only, position) else {
            continue;
        };
        let copy = files.join(index.to_string());
        let source = originals[position].1.clone();
        copy_text(&source, &copy, &originals)
            .map_err(|error| format!("copying {}: {error}", source.display()))?;
        replacements[position].1 = copy;
    }
    let replace = |text: &str| rewrite(text, &replacements);
    let working_dir = replace(&spec.working_dir);
    let working_dir = if Path::new(&working_dir).is_dir() {
        working_dir
    } else {
        directory.display().to_string()
    };
    let mut env = spec
        .env
        .iter()
        .map(|(name, value)| (name.clone(), replace(value)))
        .collect::<Vec<_>>();
    let pairs = replacements
        .iter()
        .map(|(target, source)| format!("{target}={}", source.display()));
    env.push((VARIABLE.to_owned(), pairs.collect::<Vec<_>>().join(":")));
    Ok(ContainerSpec {
        argv: spec.argv.iter().map(|word| replace(word)).collect(),
        env,
        working_dir,
        ..spec
    })
}

/// A command for a running container, with the container's replacements. Unchanged for an isolated one.
pub(crate) fn substitute_words(spec: &ContainerSpec, words: &[String]) -> Vec<String> {
    let pairs = spec
        .env
        .iter()
        .find(|(name, _)| name == VARIABLE && spec.isolation.is_none());
    let Some((_, pairs)) = pairs else {
        return words.to_vec();
    };
    let replacements = pairs
        .split(':')
        .filter_map(|pair| pair.split_once('='))
        .map(|(target, source)| (target.to_owned(), PathBuf::from(source)))
        .collect::<Vec<_>>();
    words
        .iter()
        .map(|word| rewrite(word, &replacements))
        .collect()
}

/// Replaces each mention of a target that is a whole path prefix: `/data/x` but not `/database` nor `/my/data`.
fn rewrite(text: &str, replacements: &[(String, PathBuf)]) -> String {
    let boundary =
        |c: Option<char>| c.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')));
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    'text: while let Some(first) = rest.chars().next() {
        let before = result.chars().next_back();
        if first == '/' && boundary(before) && before != Some('/') {
            for (target, source) in replacements {
                if let Some(tail) = rest.strip_prefix(target.as_str())
                    && boundary(tail.chars().next())
                {
                    result.push_str(&source.display().to_string());
                    rest = tail;
                    continue 'text;
                }
            }
        }
        result.push(first);
        rest = &rest[first.len_utf8()..];
    }
    result
}

/// Copies a projected volume, rewriting what is text. Links through `..data` are followed, its bookkeeping is not copied.
fn copy_text(
    source: &Path,
    target: &Path,
    replacements: &[(String, PathBuf)],
) -> std::io::Result<()> {
    if source.is_dir() {
        fs::create_dir_all(target)?;
        for entry in fs::read_dir(source)? {
            let name = entry?.file_name();
            if !name.to_string_lossy().starts_with("..") {
                copy_text(&source.join(&name), &target.join(&name), replacements)?;
            }
        }
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match String::from_utf8(fs::read(source)?) {
        Ok(text) => fs::write(target, rewrite(&text, replacements))?,
        Err(binary) => fs::write(target, binary.into_bytes())?,
    }
    fs::set_permissions(target, fs::metadata(source)?.permissions())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_whole_paths_are_rewritten() {
        let replacements = [
            ("/data/logs".to_owned(), PathBuf::from("/v/logs")),
            ("/data".to_owned(), PathBuf::from("/v/data")),
        ];
        for (text, expected) in [
            ("/data", "/v/data"),
            ("/data/logs/x", "/v/logs/x"),
            ("--dir=/data/", "--dir=/v/data/"),
            ("dir /data\nother", "dir /v/data\nother"),
            ("/database /my/data", "/database /my/data"),
            ("http://data", "http://data"),
        ] {
            assert_eq!(rewrite(text, &replacements), expected);
        }
    }

    #[test]
    fn projected_files_are_copied_with_real_paths() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config");
        fs::create_dir(&config).unwrap();
        fs::write(config.join("redis.conf"), "dir /data\n").unwrap();
        let mount = |source: &Path, target: &str, read_only| Mount {
            source: source.to_owned(),
            sub_path: None,
            target: target.to_owned(),
            read_only,
        };
        let data = directory.path().join("data");
        let spec = ContainerSpec {
            argv: vec!["redis-server".into(), "/etc/redis/redis.conf".into()],
            env: Vec::new(),
            working_dir: "/nowhere".into(),
            isolation: None,
            identity: super::super::container::Identity::default(),
        };
        let mounts = vec![
            mount(&config, "/etc/redis", true),
            mount(&data, "/data", false),
        ];
        let spec = substitute(spec, &mounts, directory.path()).unwrap();
        let text = fs::read_to_string(&spec.argv[1]).unwrap();
        assert_eq!(text, format!("dir {}\n", data.display()));
        assert_eq!(
            substitute_words(&spec, &["/data/x".into()]),
            [format!("{}/x", data.display())]
        );
    }
}
