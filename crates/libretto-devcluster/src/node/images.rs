//! The image catalogue: which software of this machine answers to which image name. Never pulls anything and never pretends: the
//! version that really runs is reported, and a name it does not know is an error that says how to add it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use regex::Regex;
use serde::Deserialize;

use super::rootfs::Rootfs;

const BUILT_IN: &str = include_str!("catalogue.yaml");

/// One entry of a catalogue file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "match")]
    patterns: Vec<String>,
    /// Any of these must exist; the first that does is `$PROGRAM`.
    #[serde(default)]
    program: Vec<PathBuf>,
    #[serde(default)]
    package: String,
    /// Why this image cannot be stood in for; then nothing else matters.
    reason: Option<String>,
    version: Option<VersionCommand>,
    /// Unpacked image instead of the host's files.
    rootfs: Option<PathBuf>,
    #[serde(default)]
    entrypoint: Vec<String>,
    #[serde(default)]
    cmd: Vec<String>,
    flags_for: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    working_dir: Option<String>,
    user: Option<u32>,
    #[serde(default)]
    etc: Vec<String>,
    #[serde(default)]
    directories: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionCommand {
    arguments: Vec<String>,
    pattern: String,
}

/// What an image name stands for on this machine.
#[derive(Debug, Clone)]
pub struct Image {
    pub rootfs: ImageFiles,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Prepended when the arguments begin with a flag or a configuration file.
    flags_for: Option<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub user: Option<u32>,
    /// `host:redis-server 7.0.15`, for `imageID`.
    pub id: String,
    /// Said when something else runs than the name asked for.
    pub note: Option<String>,
}

/// Where an image's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageFiles {
    Host {
        etc: Vec<String>,
        directories: Vec<String>,
    },
    Directory(PathBuf),
}

impl Image {
    /// The process to run: `command` replaces the entrypoint, `args` the default arguments, as Kubernetes defines it.
    pub fn argv(&self, command: &[String], args: &[String]) -> Vec<String> {
        if !command.is_empty() {
            return [command, args].concat();
        }
        let args = if args.is_empty() { &self.cmd } else { args };
        let mut argv = self.entrypoint.clone();
        if let (Some(program), Some(first)) = (&self.flags_for, args.first())
            && (first.starts_with('-') || first.ends_with(".conf"))
        {
            argv.push(program.clone());
        }
        argv.extend_from_slice(args);
        argv
    }

    /// The file system description for one container; `scratch` is a directory of that container's own.
    pub fn rootfs(&self, scratch: &Path) -> Rootfs {
        match &self.rootfs {
            ImageFiles::Host { etc, directories } => Rootfs::Host {
                etc: etc.clone(),
                directories: directories.clone(),
            },
            ImageFiles::Directory(lower) => Rootfs::Directory {
                lower: lower.clone(),
                upper: scratch.join("upper"),
                work: scratch.join("work"),
            },
        }
    }
}

/// All entries, the user's before the built-in ones.
#[derive(Debug)]
pub struct Catalogue {
    entries: Vec<(Vec<Regex>, Entry)>,
    /// Version by program; asking costs a process start each.
    versions: Mutex<BTreeMap<PathBuf, Option<String>>>,
}

impl Catalogue {
    /// The built-in catalogue, preceded by the user's file when there is one.
    pub fn load(file: Option<&Path>) -> std::io::Result<Self> {
        let mut entries = Vec::new();
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                std::io::Error::new(
                    error.kind(),
                    format!("reading image catalogue {}: {error}", file.display()),
                )
            })?;
            entries.extend(parse(&text).map_err(|error| {
                std::io::Error::other(format!("image catalogue {}: {error}", file.display()))
            })?);
        }
        entries.extend(parse(BUILT_IN).map_err(std::io::Error::other)?);
        Ok(Self {
            entries,
            versions: Mutex::default(),
        })
    }

    /// What `name` stands for; the error is for the user.
    pub async fn resolve(&self, name: &str) -> Result<Image, String> {
        if name.starts_with('/') {
            return unpacked(Path::new(name));
        }
        let (normal, tag) = normalise(name);
        let entry = self
            .entries
            .iter()
            .find(|(patterns, _)| patterns.iter().any(|pattern| pattern.is_match(&normal)))
            .map(|(_, entry)| entry)
            .ok_or_else(|| {
                format!(
                    "image {name:?} is not in the catalogue of local software; add an entry to a catalogue file (--images), or use the path of an unpacked image directory as the image"
                )
            })?;
        if let Some(reason) = &entry.reason {
            return Err(format!(
                "image {name:?} cannot be run from local software: {reason}"
            ));
        }
        if let Some(directory) = &entry.rootfs {
            return Ok(from_directory(directory, entry));
        }
        let program = entry.program.iter().find(|path| path.exists()).ok_or_else(|| {
            let paths = entry.program.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
            format!(
                "image {name:?} needs {}, which is not installed; install it (Debian: apt-get install {}) or add a catalogue entry (--images)",
                paths.join(" or "),
                entry.package
            )
        })?;
        let software = program
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let version = match &entry.version {
            Some(command) => self.version(program, command).await,
            None => None,
        };
        let running = match &version {
            Some(version) => format!("{software} {version}"),
            None => software,
        };
        let note = match &version {
            Some(version) if !tag_agrees(&tag, version) => Some(format!(
                "image {name} is answered by this machine's {running}: there is no registry, the tag cannot be honoured"
            )),
            _ => None,
        };
        let path = program.display().to_string();
        let fill = |list: &[String]| {
            list.iter()
                .map(|word| {
                    if word == "$PROGRAM" {
                        path.clone()
                    } else {
                        word.clone()
                    }
                })
                .collect()
        };
        Ok(Image {
            rootfs: ImageFiles::Host {
                etc: entry.etc.clone(),
                directories: entry.directories.clone(),
            },
            entrypoint: fill(&entry.entrypoint),
            cmd: fill(&entry.cmd),
            flags_for: entry.flags_for.clone(),
            env: entry.env.clone().into_iter().collect(),
            working_dir: entry.working_dir.clone().unwrap_or_else(|| "/".to_owned()),
            user: entry.user,
            id: format!("host:{running}"),
            note,
        })
    }

    async fn version(&self, program: &Path, command: &VersionCommand) -> Option<String> {
        if let Some(known) = self.versions.lock().get(program) {
            return known.clone();
        }
        let output = tokio::process::Command::new(program)
            .args(&command.arguments)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        // A version switch answers at once; one that does not is treated as "version unknown".
        let version = match tokio::time::timeout(Duration::from_secs(5), output).await {
            Ok(Ok(output)) => {
                let text = [output.stdout, output.stderr].concat();
                Regex::new(&command.pattern).ok().and_then(|pattern| {
                    Some(
                        pattern
                            .captures(&String::from_utf8_lossy(&text))?
                            .get(1)?
                            .as_str()
                            .to_owned(),
                    )
                })
            }
            _ => None,
        };
        self.versions
            .lock()
            .insert(program.to_owned(), version.clone());
        version
    }
}

fn parse(text: &str) -> Result<Vec<(Vec<Regex>, Entry)>, String> {
    let entries: Vec<Entry> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    entries
        .into_iter()
        .map(|entry| {
            if let Some(version) = &entry.version {
                Regex::new(&version.pattern)
                    .map_err(|error| format!("version pattern of {:?}: {error}", entry.patterns))?;
            }
            let patterns = entry
                .patterns
                .iter()
                .map(|pattern| {
                    let expression = regex::escape(pattern).replace("\\*", ".*");
                    Regex::new(&format!("^{expression}$")).map_err(|error| error.to_string())
                })
                .collect::<Result<Vec<_>, _>>()?;
            Ok((patterns, entry))
        })
        .collect()
}

/// `docker.io/library/redis` → (`redis:latest`, `latest`); a digest is dropped.
fn normalise(name: &str) -> (String, String) {
    let name = name.split('@').next().unwrap_or(name);
    let name = ["docker.io/", "index.docker.io/"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    // A colon before the last slash belongs to a registry's port.
    let tag = match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag.to_owned(),
        _ => return (format!("{name}:latest"), "latest".to_owned()),
    };
    (name.to_owned(), tag)
}

/// A tag agrees when it names no version, or a prefix of the running one.
fn tag_agrees(tag: &str, version: &str) -> bool {
    let asked = tag.trim_start_matches('v');
    let end = asked
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(asked.len());
    let asked = asked[..end].trim_end_matches('.');
    asked.is_empty()
        || version == asked
        || version
            .strip_prefix(asked)
            .is_some_and(|rest| rest.starts_with('.'))
}

/// An unpacked image: a root directory, or an OCI bundle (`rootfs/` and `config.json`).
fn unpacked(path: &Path) -> Result<Image, String> {
    if !path.is_dir() {
        return Err(format!("image directory {} does not exist", path.display()));
    }
    let path = path
        .canonicalize()
        .map_err(|error| format!("image directory {}: {error}", path.display()))?;
    let mut image = Image {
        rootfs: ImageFiles::Directory(path.clone()),
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        flags_for: None,
        env: Vec::new(),
        working_dir: "/".to_owned(),
        user: None,
        id: format!("dir:{}", path.display()),
        note: None,
    };
    let configuration = path.join("config.json");
    if path.join("rootfs").is_dir() && configuration.is_file() {
        #[derive(Deserialize)]
        struct Bundle {
            process: Process,
        }
        #[derive(Deserialize)]
        struct Process {
            #[serde(default)]
            args: Vec<String>,
            #[serde(default)]
            env: Vec<String>,
            cwd: Option<String>,
        }
        let failed =
            |error: &dyn std::fmt::Display| format!("{}: {error}", configuration.display());
        let text = std::fs::read(&configuration).map_err(|error| failed(&error))?;
        let bundle: Bundle = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
        image.rootfs = ImageFiles::Directory(path.join("rootfs"));
        image.cmd = bundle.process.args;
        image.env = bundle
            .process
            .env
            .iter()
            .filter_map(|variable| variable.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        image.working_dir = bundle.process.cwd.unwrap_or_else(|| "/".to_owned());
    }
    Ok(image)
}

fn from_directory(directory: &Path, entry: &Entry) -> Image {
    Image {
        rootfs: ImageFiles::Directory(directory.to_owned()),
        entrypoint: entry.entrypoint.clone(),
        cmd: entry.cmd.clone(),
        flags_for: entry.flags_for.clone(),
        env: entry.env.clone().into_iter().collect(),
        working_dir: entry.working_dir.clone().unwrap_or_else(|| "/".to_owned()),
        user: entry.user,
        id: format!("dir:{}", directory.display()),
        note: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_normalised() {
        for (name, expected) in [
            ("redis", "redis:latest"),
            ("redis:7", "redis:7"),
            ("docker.io/library/redis:7@sha256:00", "redis:7"),
            ("quay.io:443/a/b", "quay.io:443/a/b:latest"),
            ("quay.io:443/a/b:1", "quay.io:443/a/b:1"),
        ] {
            assert_eq!(normalise(name).0, expected);
        }
    }

    #[test]
    fn tags_and_versions() {
        for (tag, version, agrees) in [
            ("latest", "7.0.15", true),
            ("alpine", "7.0.15", true),
            ("7", "7.0.15", true),
            ("7.0.15-alpine", "7.0.15", true),
            ("v7.0", "7.0.15", true),
            ("7.0.1", "7.0.15", false),
            ("5.0.4-alpine", "7.0.15", false),
        ] {
            assert_eq!(tag_agrees(tag, version), agrees, "{tag} {version}");
        }
    }

    fn catalogue(text: &str) -> (tempfile::TempDir, Catalogue) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("images.yaml");
        std::fs::write(&file, text).unwrap();
        let catalogue = Catalogue::load(Some(&file)).unwrap();
        (directory, catalogue)
    }

    #[tokio::test]
    async fn the_users_entries_come_first_and_the_version_is_honest() {
        let (_directory, catalogue) = catalogue(
            "- match: ['redis:*']\n  program: [/nowhere, /bin/sh]\n  version: {arguments: [-c, 'echo tool 7.1.2'], pattern: 'tool ([0-9.]+)'}\n  entrypoint: [$PROGRAM]\n  flags_for: tool\n",
        );
        let image = catalogue.resolve("redis:5.0.4-alpine").await.unwrap();
        assert_eq!(image.id, "host:sh 7.1.2");
        assert_eq!(
            image.note.as_deref(),
            Some(
                "image redis:5.0.4-alpine is answered by this machine's sh 7.1.2: there is no registry, the tag cannot be honoured"
            )
        );
        assert!(catalogue.resolve("redis:7.1").await.unwrap().note.is_none());
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            image.argv(&[], &words(&["--port", "1"])),
            words(&["/bin/sh", "tool", "--port", "1"])
        );
        assert_eq!(
            image.argv(&words(&["x"]), &words(&["-y"])),
            words(&["x", "-y"])
        );
    }

    #[tokio::test]
    async fn unknown_and_missing_images_say_what_to_do() {
        let (directory, catalogue) =
            catalogue("- match: ['db:*']\n  program: [/nowhere/db]\n  package: db-server\n");
        for (name, part) in [
            (
                "unheard/of:1",
                "add an entry to a catalogue file (--images)",
            ),
            (
                "db:1",
                "image \"db:1\" needs /nowhere/db, which is not installed; install it (Debian: apt-get install db-server)",
            ),
            (
                "postgres:17",
                "cannot be run from local software: database images",
            ),
            (
                "/nowhere/image",
                "image directory /nowhere/image does not exist",
            ),
        ] {
            let error = catalogue.resolve(name).await.unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let bundle = directory.path();
        std::fs::create_dir(bundle.join("rootfs")).unwrap();
        std::fs::write(
            bundle.join("config.json"),
            r#"{"process": {"args": ["/app"], "env": ["A=b=c"], "cwd": "/srv"}}"#,
        )
        .unwrap();
        let image = catalogue.resolve(bundle.to_str().unwrap()).await.unwrap();
        assert_eq!(image.argv(&[], &[]), ["/app"]);
        assert_eq!(image.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(image.working_dir, "/srv");
    }
}
