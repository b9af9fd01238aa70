//! The `gema` program.

use std::process::ExitCode;

/// Gives memory back some seconds after a peak, from a thread of its own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    gema::cli::run()
}
