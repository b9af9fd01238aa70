//! `gema manual`: manual pages, and completions for shells, from the definition of the command line.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

/// Writes `gema.1`, a page for each command, and the completions, under the names that each shell expects.
pub(super) fn write(mut command: Command, folder: &Path) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command.clone().disable_help_subcommand(true), folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "gema", folder)?;
    }
    Ok(ExitCode::SUCCESS)
}
