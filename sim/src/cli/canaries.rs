//! How many seeds it takes to find each planted bug.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;

use super::{FAILURE, print};
use crate::canaries::{BUILD, Canary, Finder};
use crate::world;

#[derive(Debug, Args)]
pub(super) struct CanariesArgs {
    /// Seeds for each at most.
    #[arg(long, default_value_t = 5000)]
    seeds_max: u64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Only these; may be repeated.
    #[arg(long, value_enum)]
    only: Vec<Canary>,
}

/// Looks for each; the exit code says whether all that seeds must find were found.
pub(super) fn run(args: &CanariesArgs) -> Result<ExitCode, String> {
    let wanted = |canary: &&Canary| args.only.is_empty() || args.only.contains(canary);
    let mut missed = 0;
    // A planted bug often ends in a failed assertion; that is what is looked for.
    std::panic::set_hook(Box::new(|_| {}));
    for canary in Canary::ALL.iter().filter(wanted) {
        let name = canary.name();
        if !canary.is_built() {
            return Err(format!("{name} is not in this build; build with: {BUILD}"));
        }
        let begin = Instant::now();
        if let Finder::Scenario(file) = canary.finder() {
            print(&format!(
                "{name:16} by the scenarios of sim/tests/attacks/{file}.rs\n"
            ));
            continue;
        }
        if canary.finder() == Finder::Unit {
            print(&format!("{name:16} by a check of sim/tests/planted.rs\n"));
            continue;
        }
        let seconds = || begin.elapsed().as_secs_f64();
        let line = match find(*canary, args) {
            Some((seed, violation)) => {
                let first = violation.lines().next().unwrap_or_default();
                format!("{:5} seeds  {:6.1} s  {first}", seed + 1, seconds())
            }
            None => {
                missed += 1;
                format!("not found in {} seeds, {:.1} s", args.seeds_max, seconds())
            }
        };
        print(&format!("{name:16} {line}\n"));
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

/// The first seed that finds it, whatever the number of threads.
fn find(canary: Canary, args: &CanariesArgs) -> Option<(u64, String)> {
    let options = canary.options();
    let next = AtomicU64::new(0);
    let found = AtomicU64::new(args.seeds_max);
    let violations = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, 256) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= found.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Some(violation) = world::run_caught(seed, options).violation {
                        found.fetch_min(seed, Ordering::Relaxed);
                        let mut violations = violations.lock().expect("no holder panics");
                        violations.push((seed, violation));
                    }
                }
            });
        }
    });
    let violations = violations.into_inner().expect("no holder panics");
    violations.into_iter().min()
}
