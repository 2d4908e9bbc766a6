//! The `libretto` command. Everything is in the library; see [`libretto::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // Inside a pod's process this never returns; no thread may have been started before.
    libretto::cli::up::dispatch_roles();
    libretto::cli::main()
}
