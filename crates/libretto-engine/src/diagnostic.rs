//! What is wrong with a package, where, and what to do about it.

use std::fmt;

use serde::Serialize;

/// One mistake in a package's files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// Path inside the package's folder.
    pub file: String,
    /// Counted from 1; 0 when the whole file is meant.
    pub line: u64,
    /// Counted from 1.
    pub column: u64,
    pub message: String,
    /// What to do, when that is known.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// All of them, one after another, for a terminal.
pub fn render(diagnostics: &[Diagnostic]) -> String {
    diagnostics
        .iter()
        .map(|diagnostic| format!("{diagnostic}\n"))
        .collect()
}
