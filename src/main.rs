//! The `gema` program.
fn main() {}
