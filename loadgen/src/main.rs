//! The program `hippo-load`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use loadgen::cli::{Cli, Command};
use loadgen::verdict::exit;
use mimalloc::MiMalloc;
use platform::processor;
use platform::tripwire::Tripwire;

#[global_allocator]
static ALLOCATOR: Tripwire<MiMalloc> = Tripwire::new(MiMalloc);

fn main() -> ExitCode {
    if let Some(missing) = processor::missing() {
        eprintln!("hippo-load: {}", processor::advice(missing));
        return ExitCode::from(exit::FAILURE);
    }
    // clap prints usage errors itself and exits 2.
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(flags) => loadgen::run::run(flags, &loadgen::command_line()),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("hippo-load: {error:#}");
            ExitCode::from(exit::FAILURE)
        }
    }
}
