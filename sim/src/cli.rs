//! The command line of `hippo-sim`.

use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::plan::{Canary, Options, Plan};
use crate::report::{self, Summary};
use crate::seals::Profile;
use crate::shapes::SHAPES;
use crate::world;

/// Exit codes of all programs: 1 failure, 2 usage.
const FAILURE: u8 = 1;
const USAGE: u8 = 2;

/// Runs whole clusters of replicas in one deterministic, simulated world.
///
/// The same seed always gives the same run. A violation prints the seed and the command that
/// replays it, and the exit code is 1.
///
/// Example: hippo-sim run --seeds 0..1000 --jobs 2, then hippo-sim 0x2a --trace
#[derive(Debug, Parser)]
#[command(name = "hippo-sim", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// A seed to replay, decimal or 0x.
    #[arg(value_parser = parse_seed)]
    seed: Option<u64>,
    #[command(flatten)]
    world: WorldArgs,
    /// Print every event.
    #[arg(long)]
    trace: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run many seeds.
    Run(RunArgs),
}

#[derive(Clone, Debug, Args)]
struct WorldArgs {
    /// Replicas, in their usual committee.
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// A named committee instead: 4, 5, 6, 7, 7-fast, 10, 4-strict, 4-safe.
    #[arg(long)]
    shape: Option<String>,
    /// core: simulated signatures of replicas; full: Ed25519 everywhere, several times slower.
    #[arg(long, value_enum, default_value_t = Profile::Core)]
    profile: Profile,
    /// Plant a known bug, to see that the checks find it.
    #[arg(long, value_enum)]
    canary: Option<Canary>,
}

#[derive(Debug, Args)]
struct RunArgs {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

fn parse_seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("not a seed: {error}"))
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text
        .split_once("..")
        .ok_or("write A..B, for example 0..1000")?;
    let range = parse_seed(first)?..parse_seed(end)?;
    if range.is_empty() {
        return Err(format!("{text} holds no seed"));
    }
    Ok(range)
}

impl WorldArgs {
    fn options(&self, trace: bool) -> Result<Options, String> {
        let name = self.shape.clone().unwrap_or_else(|| self.nodes.to_string());
        let Some(shape) = SHAPES.iter().position(|shape| shape.name == name) else {
            let known = SHAPES.iter().map(|shape| shape.name).collect::<Vec<_>>();
            return Err(format!(
                "no committee {name}; there are {}",
                known.join(", ")
            ));
        };
        Ok(Options {
            nodes: SHAPES[shape].n,
            shape,
            profile: self.profile,
            canary: self.canary,
            trace,
            ..Options::default()
        })
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match (cli.command, cli.seed) {
        (Some(Command::Run(args)), _) => run(&args),
        (None, Some(seed)) => cli
            .world
            .options(cli.trace)
            .map(|options| replay(seed, options)),
        (None, None) => Err("give a seed, or `run --seeds A..B`; see --help".to_owned()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("hippo-sim: {error}");
        ExitCode::from(USAGE)
    })
}

fn replay(seed: u64, options: Options) -> ExitCode {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "seed {seed:#x}");
    let plan = Plan::new(seed, options);
    if options.trace {
        let _ = writeln!(out, "{plan:#?}");
    }
    let outcome = world::run(seed, options);
    let _ = writeln!(out, "{}", report::describe(&plan, &outcome));
    match outcome.violation {
        Some(violation) => {
            let _ = writeln!(out, "VIOLATION {violation}");
            ExitCode::from(FAILURE)
        }
        None => ExitCode::SUCCESS,
    }
}

fn run(args: &RunArgs) -> Result<ExitCode, String> {
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
            scope.spawn(|| work(&next, end, options, args.twice, &summary, begin));
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
    end: u64,
    options: Options,
    twice: bool,
    summary: &Mutex<Summary>,
    begin: Instant,
) {
    let count = end - next.load(Ordering::Relaxed).min(end);
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
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
