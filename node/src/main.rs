//! `hippo`: the node, and the operator's and client's commands.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mimalloc::MiMalloc;
use platform::tripwire::Tripwire;

/// Counts what the hot stages allocate after start, which should be nothing.
#[global_allocator]
static ALLOCATOR: Tripwire<MiMalloc> = Tripwire::new(MiMalloc);

fn main() -> ExitCode {
    node::cli::main()
}
