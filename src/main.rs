//! The `gema` program: calls the command line.

use std::process::ExitCode;

/// Returns memory to the system some seconds after a peak, from a thread of its own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    gema::cli::run()
}
