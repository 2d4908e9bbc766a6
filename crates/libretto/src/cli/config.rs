//! The optional settings file. A flag beats the environment, the environment beats the file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::{CliError, Color};

/// Settings, each the same as the flag of its name.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) color: Option<Color>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) port: Option<u16>,
    pub(crate) driver: Option<super::up::PodDriver>,
    /// Seconds.
    pub(crate) timeout: Option<u64>,
    /// Bundled names or folders.
    pub(crate) packages: Vec<String>,
    /// Image catalogue.
    pub(crate) images: Option<PathBuf>,
    pub(crate) metrics_addr: Option<String>,
    pub(crate) helm: Option<PathBuf>,
    /// URLs.
    pub(crate) alertmanagers: Vec<String>,
}

impl Config {
    /// Reads the named file, or the default one when there is one.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, CliError> {
        let (path, required) = match path {
            Some(path) => (path.to_owned(), true),
            None => match default_path() {
                Some(path) => (path, false),
                None => return Ok(Self::default()),
            },
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::read(&text, &path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {
                Ok(Self::default())
            }
            Err(error) => Err(CliError::failed(format!(
                "read settings file {}: {error}",
                path.display()
            ))),
        }
    }

    fn read(text: &str, path: &str) -> Result<Self, CliError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text)
            .map_err(|error| CliError::failed(format!("settings file {path}: {error}")))
    }
}

fn default_path() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(base.join("libretto/config.yaml"))
}

/// Where `libretto up` keeps its cluster: $XDG_DATA_HOME/libretto, by default ~/.local/share/libretto.
pub(crate) fn default_data_dir() -> PathBuf {
    std::env::var_os("XDG_DATA_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
        // Without a home (a bare service account) the working folder is the one place sure to be the user's.
        .map_or_else(|| PathBuf::from(".libretto"), |base| base.join("libretto"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_are_read_and_mistakes_named() {
        let config = Config::read("port: 0\ndriver: process\npackages: [redis]\n", "c").unwrap();
        assert_eq!(config.port, Some(0));
        assert_eq!(config.packages, ["redis"]);
        let error = Config::read("prot: 1\n", "c.yaml").unwrap_err().to_string();
        assert!(
            error.contains("c.yaml") && error.contains("prot"),
            "{error}"
        );
        assert_eq!(Config::read("\n", "c").unwrap(), Config::default());
    }
}
