//! The command line of `hippo-sim`.

mod campaign;
#[path = "cli/canaries.rs"]
mod canaries_run;
mod recording;
mod small;
mod tools;

use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::canaries::{self, Canary};
use crate::faults::{self, Fault, FaultSet};
use crate::plan::{Options, Plan, Tables, Votes};
use crate::report;
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
/// Example: hippo-sim run --seeds 0..1000 --jobs 2, then hippo-sim 0x2a --trace,
/// hippo-sim explain 0x2a, hippo-sim diagram 0x2a -o run.svg, hippo-sim shrink 0x2a
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
    Run(campaign::RunArgs),
    /// Make a failing seed smaller: fewer faults, users and operations, and write it as a file.
    Shrink(tools::ShrinkArgs),
    /// Run a plan from a file that shrink wrote.
    Replay(tools::ReplayArgs),
    /// Run the flight recording of a real node again, and compare: exit code 0 when all is equal, 1
    /// when something is not, 6 when the file is damaged.
    ReplayRecording(recording::RecordingArgs),
    /// Say what a seed's faults are, and which probes its run hits.
    Explain(tools::SeedArgs),
    /// Print all faults, a line each; those marked off are used only with --with.
    ListFaults,
    /// Look at every state of four replicas, one of them a liar, in few views and slots.
    Small(small::SmallArgs),
    /// Plant each known bug in turn, and say how many seeds it takes to find it.
    Canaries(canaries_run::CanariesArgs),
    /// Draw a part of a run as a space-time diagram.
    Diagram(tools::DiagramArgs),
}

#[derive(Clone, Debug, Args)]
struct WorldArgs {
    /// Replicas, in their usual committee.
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// A named committee instead: 4, 5, 6, 7, 7-fast, 10, 4-strict, 4-safe, 4-mac.
    #[arg(long)]
    shape: Option<String>,
    /// core: simulated signatures of replicas; full: Ed25519 everywhere, several times slower.
    #[arg(long, value_enum, default_value_t = Profile::Core)]
    profile: Profile,
    /// Plant a known bug, to see that the checks find it.
    #[arg(long, value_enum)]
    canary: Option<Canary>,
    /// A fault to use in every seed though it is off, see list-faults; may be repeated.
    #[arg(long, value_parser = Fault::by_name, value_name = "FAULT")]
    with: Vec<Fault>,
    /// A fault never to use; may be repeated.
    #[arg(long, value_parser = Fault::by_name, value_name = "FAULT")]
    without: Vec<Fault>,
    /// One liar more than the committee bears: honest replicas must stay up or halt, no more.
    #[arg(long)]
    beyond: bool,
    /// Which votes wait for the disk: all (sync), none within a lease, or as each seed draws it.
    #[arg(long, value_enum, default_value_t = Votes::Drawn)]
    durability: Votes,
    /// Where the tables of all replicas are.
    #[arg(long, value_enum, default_value_t)]
    table: Tables,
    /// Draw from the faults of --with alone.
    #[arg(long)]
    only: bool,
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
        let mut faults = if self.only {
            FaultSet::NONE
        } else {
            FaultSet::standard()
        };
        for fault in &self.with {
            faults = faults.with(*fault);
        }
        for fault in &self.without {
            faults = faults.without(*fault);
        }
        if let Some(canary) = self.canary.filter(|canary| !canary.is_built()) {
            let (name, build) = (canary.name(), canaries::BUILD);
            return Err(format!("{name} is not in this build; build with: {build}"));
        }
        Ok(Options {
            nodes: SHAPES[shape].n,
            shape,
            profile: self.profile,
            canary: self.canary,
            faults,
            trace,
            beyond: self.beyond,
            durability: self.durability,
            table: self.table,
        })
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match (cli.command, cli.seed) {
        (Some(Command::Run(args)), _) => campaign::run(&args),
        (Some(Command::Shrink(args)), _) => tools::shrink(&args),
        (Some(Command::Replay(args)), _) => tools::replay(&args),
        (Some(Command::ReplayRecording(args)), _) => recording::run(&args),
        (Some(Command::Explain(args)), _) => tools::explain(&args),
        (Some(Command::Canaries(args)), _) => canaries_run::run(&args),
        (Some(Command::Diagram(args)), _) => tools::diagram(&args),
        (Some(Command::Small(args)), _) => small::run(&args),
        (Some(Command::ListFaults), _) => {
            print(&faults::list());
            Ok(ExitCode::SUCCESS)
        }
        (None, Some(seed)) => cli
            .world
            .options(cli.trace)
            .map(|options| replay(&Plan::new(seed, options))),
        (None, None) => Err("give a seed, or `run --seeds A..B`; see --help".to_owned()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("hippo-sim: {error}");
        ExitCode::from(USAGE)
    })
}

/// A reader that has seen enough closes the pipe.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Runs one plan and prints what it came to.
fn replay(plan: &Plan) -> ExitCode {
    print(&format!("seed {:#x}\n", plan.seed));
    if plan.options.trace {
        print(&format!("{plan:#?}\n"));
    }
    let outcome = world::run_plan(plan);
    print(&(report::describe(plan, &outcome) + "\n"));
    match outcome.violation {
        Some(violation) => {
            print(&format!("VIOLATION {violation}\n"));
            ExitCode::from(FAILURE)
        }
        None => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_names_faults() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let cli = parse("hippo-sim 0x2a --with disk-rot --without net-loss").unwrap();
        assert_eq!(cli.seed, Some(42));
        let options = cli.world.options(false).unwrap();
        assert!(options.faults.has(Fault::Rot) && !options.faults.has(Fault::Loss));
        let command = report::replay_command(42, &options);
        assert!(command.contains("--with disk-rot") && command.contains("--without net-loss"));
        let again = parse(&command.replace(" --trace", "")).unwrap();
        assert_eq!(again.world.options(false).unwrap().faults, options.faults);
        let leases = parse("hippo-sim 1 --durability lease").unwrap();
        let leases = leases.world.options(false).unwrap();
        assert!(Plan::new(1, leases).leases);
        assert!(report::replay_command(1, &leases).contains("--durability lease"));
        let only = parse("hippo-sim 1 --only --with net-cut").unwrap();
        let faults = only.world.options(false).unwrap().faults;
        assert_eq!(faults.iter().collect::<Vec<_>>(), [Fault::Cut]);
        assert!(parse("hippo-sim 1 --with net-los").is_err());
        assert!(parse("hippo-sim run --seeds 5..5").is_err());
        assert!(
            parse("hippo-sim 1 --nodes 8")
                .unwrap()
                .world
                .options(false)
                .is_err()
        );
    }
}
