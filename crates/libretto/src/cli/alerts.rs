//! Whom alerts are told, for every command that runs packages.

use clap::Args;

use crate::cli::CliError;

#[derive(Debug, Default, Args)]
pub struct AlertArgs {
    /// Alertmanager to tell the packages' alerts to, by its URL; repeatable
    #[arg(
        long = "alertmanager",
        value_name = "URL",
        env = "LIBRETTO_ALERTMANAGERS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub alertmanagers: Vec<String>,
}

impl AlertArgs {
    /// The flag or the environment, else the settings file.
    pub(crate) fn receivers(self, settings: Vec<String>) -> Result<Vec<String>, CliError> {
        let receivers = if self.alertmanagers.is_empty() {
            settings
        } else {
            self.alertmanagers
        };
        for receiver in &receivers {
            if !receiver.starts_with("http://") && !receiver.starts_with("https://") {
                return Err(CliError::usage(format!(
                    "--alertmanager {receiver:?}: a URL such as http://alertmanager:9093"
                )));
            }
        }
        Ok(receivers)
    }
}
