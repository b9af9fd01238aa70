//! The `gema` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    gema::cli::run()
}
