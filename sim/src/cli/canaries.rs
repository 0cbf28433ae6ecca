//! How many seeds it takes to find each planted bug.

use std::collections::BTreeMap;
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
    /// Find each so many times, for the median of the seeds that it takes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    finds: u16,
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
        let finds = find(*canary, args);
        let line = if let Some((seed, violation)) = finds.first() {
            let first = violation.lines().next().unwrap_or_default();
            let median = match finds.len() {
                1 => String::new(),
                finds_made => format!("median {:4} of {finds_made:2}  ", median_seeds(&finds)),
            };
            format!("{:5} seeds  {median}{:6.1} s  {first}", seed + 1, seconds())
        } else {
            missed += 1;
            format!("not found in {} seeds, {:.1} s", args.seeds_max, seconds())
        };
        print(&format!("{name:16} {line}\n"));
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

/// Seeds from one find to the next, the one in the middle.
fn median_seeds(finds: &[(u64, String)]) -> u64 {
    let seeds = finds.iter().map(|(seed, _)| seed + 1);
    let before = std::iter::once(0).chain(seeds.clone());
    let mut taken = seeds
        .zip(before)
        .map(|(seed, before)| seed - before)
        .collect::<Vec<_>>();
    taken.sort_unstable();
    taken[taken.len() / 2]
}

/// The first seeds that find it, whatever the number of threads.
fn find(canary: Canary, args: &CanariesArgs) -> Vec<(u64, String)> {
    let options = canary.options();
    let finds = usize::from(args.finds);
    let next = AtomicU64::new(0);
    let end = AtomicU64::new(args.seeds_max);
    let violations = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, 256) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Some(violation) = world::run_caught(seed, options).violation {
                        let mut violations = violations.lock().expect("no holder panics");
                        violations.insert(seed, violation);
                        if let Some(last) = violations.keys().nth(finds - 1) {
                            end.fetch_min(*last, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let violations = violations.into_inner().expect("no holder panics");
    violations.into_iter().take(finds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_seeds_between_finds() {
        let finds = |seeds: &[u64]| {
            let finds = seeds.iter().map(|seed| (*seed, String::new()));
            median_seeds(&finds.collect::<Vec<_>>())
        };
        assert_eq!(finds(&[0]), 1);
        assert_eq!(finds(&[9]), 10);
        // 10, 1 and 4 seeds.
        assert_eq!(finds(&[9, 10, 14]), 4);
    }
}
