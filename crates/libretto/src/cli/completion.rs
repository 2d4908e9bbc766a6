//! `libretto completion`: the completion script of a shell.

use clap::{Args, CommandFactory as _};

use crate::cli::{Cli, CliError, print::Printer};

const EXAMPLES: &str = "\
Examples:
  source <(libretto completion bash)
  libretto completion zsh > ~/.zfunc/_libretto";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionArgs {
    pub shell: clap_complete::Shell,
}

pub(crate) fn completion(args: &CompletionArgs, out: &mut Printer) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "libretto", &mut script);
    out.bytes(&script)
}
