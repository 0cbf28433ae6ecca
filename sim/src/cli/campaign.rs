//! Many seeds at once.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;

use super::{FAILURE, Format, WorldArgs, parse_range};
use crate::plan::{Options, Plan};
use crate::report::{self, Summary};
use crate::world;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Seeds to run, the second bound excluded.
    #[arg(long, value_parser = parse_range, default_value = "0..100")]
    seeds: Range<u64>,
    /// Threads; each runs one seed at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Run every seed twice and compare the digests.
    #[arg(long)]
    twice: bool,
    #[command(flatten)]
    world: WorldArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Runs the seeds; the exit code says whether all of them held.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode, String> {
    let options = args.world.options(false)?;
    let begin = Instant::now();
    let Range { start, end } = args.seeds;
    if args.output == Format::Table {
        println!("seeds {start:#x}..{end:#x}");
    }
    let next = AtomicU64::new(start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, 256) {
            scope.spawn(|| work(&next, start..end, options, args.twice, &summary, begin));
        }
    });
    let summary = summary
        .into_inner()
        .map_err(|_| "a seed ended in a panic")?;
    let wall_s = begin.elapsed().as_secs_f64();
    match args.output {
        Format::Json => println!("{:#}", summary.json(&options, wall_s)),
        Format::Table => println!("{}", summary.table(wall_s)),
    }
    Ok(if summary.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

fn work(
    next: &AtomicU64,
    seeds: Range<u64>,
    options: Options,
    twice: bool,
    summary: &Mutex<Summary>,
    begin: Instant,
) {
    let count = seeds.end - seeds.start;
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end {
            return;
        }
        let outcome = world::run_caught(seed, options);
        let repeats = !twice || world::run_caught(seed, options).digest == outcome.digest;
        let plan = Plan::new(seed, options);
        let mut summary = summary.lock().expect("seeds are caught when they panic");
        summary.add(&plan, &outcome);
        if !repeats {
            summary.unrepeatable.push(seed);
            eprintln!("seed {seed:#x}: two runs differ");
        }
        if let Some(violation) = &outcome.violation {
            let command = report::replay_command(seed, &options);
            eprintln!("seed {seed:#x}: {violation}\n  replay: {command}");
        }
        report::progress(&summary, count, begin.elapsed().as_secs_f64());
    }
}
