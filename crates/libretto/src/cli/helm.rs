//! Where Helm is, for every command that renders charts.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Default, Args)]
pub struct HelmArgs {
    /// Helm, for packages with charts: a path, or a name to look for in PATH [default: helm]
    #[arg(
        long,
        value_name = "PROGRAM",
        env = "LIBRETTO_HELM",
        hide_env_values = true
    )]
    pub helm: Option<PathBuf>,
}

impl HelmArgs {
    /// The flag or the environment, else the settings file, else `helm`.
    pub(crate) fn program(self, settings: Option<PathBuf>) -> PathBuf {
        self.helm
            .or(settings)
            .unwrap_or_else(|| PathBuf::from("helm"))
    }
}
