//! How a command says that it did not work: one message that names the object, and what to do when something can be done.

use std::fmt;

use libretto_actions::kube::CallError;

/// The end of a command that was not success.
#[derive(Debug)]
pub enum CliError {
    /// It was asked in a way that makes no sense.
    Usage(String),
    /// It did not work.
    Failed {
        message: String,
        hint: Option<String>,
    },
    /// Ctrl-C.
    Interrupted,
    /// Whoever read our output went away: nothing to say, and nobody to say it to.
    NobodyListens,
    /// A command in a pod, or a supervised process, ended with its own code.
    Exit(u8),
}

impl CliError {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Adds what can be done about it.
    #[must_use]
    pub(crate) fn hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Failed { message, .. } => Self::Failed {
                message,
                hint: Some(text.into()),
            },
            other => other,
        }
    }

    /// A request about `what` was not answered with success.
    pub(crate) fn call(what: &str, error: &CallError) -> Self {
        let failed = Self::failed(format!("{what}: {error}"));
        match error {
            // Somebody answers, and it is not whom the kubeconfig was written for.
            CallError::Unreachable(reason) if of_another(reason) => failed.hint(
                "the kubeconfig is of another cluster, or of this one before it was made anew: its certificate authority does not know who answers there",
            ),
            CallError::Unreachable(_) => failed.hint(
                "is the cluster running? `libretto up` starts one; --kubeconfig names another",
            ),
            CallError::Api(status) if status.code == 401 => {
                failed.hint("the credentials in the kubeconfig are not accepted")
            }
            _ => failed,
        }
    }

    /// Names the help of the command it is about.
    #[must_use]
    pub(crate) fn of_command(self, command: &str) -> Self {
        match self {
            Self::Usage(message) if !message.contains("--help") => {
                Self::Usage(format!("{message}\n\nSee `{command} --help`."))
            }
            other => other,
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed { .. } => 1,
            Self::Usage(_) => 2,
            Self::Interrupted => 130,
            Self::NobodyListens => 0,
            Self::Exit(code) => *code,
        }
    }

    /// Tells the user, on standard error.
    pub fn print(&self) {
        use std::io::Write as _;
        let text = self.to_string();
        if text.is_empty() {
            return;
        }
        let red = anstyle::AnsiColor::Red.on_default().bold();
        // Nowhere is left to report that standard error does not work.
        let _ = writeln!(anstream::stderr(), "{red}error{red:#}: {text}");
    }
}

/// The certificate of who answers does not follow from the kubeconfig's authority; one that is merely too old does.
fn of_another(reason: &str) -> bool {
    reason.contains("certificate")
        && ["UnknownIssuer", "BadSignature", "NotValidForName"]
            .iter()
            .any(|kind| reason.contains(kind))
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Whoever knows the command names its help.
            Self::Usage(message) if message.contains("--help") => f.write_str(message),
            Self::Usage(message) => write!(f, "{message}\n\nSee `libretto --help`."),
            Self::Failed { message, hint } => {
                f.write_str(message)?;
                if let Some(hint) = hint {
                    write!(f, "\n  hint: {hint}")?;
                }
                Ok(())
            }
            Self::Interrupted | Self::NobodyListens | Self::Exit(_) => Ok(()),
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::NobodyListens
        } else {
            Self::failed(error.to_string())
        }
    }
}
