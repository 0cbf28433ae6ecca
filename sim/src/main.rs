//! `hippo-sim`: whole clusters in one deterministic world.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    sim::cli::main()
}
