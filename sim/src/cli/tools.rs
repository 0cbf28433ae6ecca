//! What helps a person with one seed.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{FAILURE, WorldArgs, parse_seed, print};
use crate::diagram::{self, Frame};
use crate::plan::{MS, Plan};
use crate::probes::Probe;
use crate::record::{What, Window};
use crate::report;
use crate::shrink::{self, PlanFile};
use crate::world;

/// A seed and its world.
#[derive(Debug, Args)]
pub(super) struct SeedArgs {
    /// Decimal or 0x.
    #[arg(value_parser = parse_seed)]
    seed: u64,
    #[command(flatten)]
    world: WorldArgs,
}

impl SeedArgs {
    fn plan(&self) -> Result<Plan, String> {
        Ok(Plan::new(self.seed, self.world.options(false)?))
    }
}

#[derive(Debug, Args)]
pub(super) struct ShrinkArgs {
    #[command(flatten)]
    seed: SeedArgs,
    /// Where the smaller plan goes [default: shrunk-SEED.json].
    #[arg(short, long)]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// A file that shrink wrote.
    file: PathBuf,
    /// Print every event.
    #[arg(long)]
    trace: bool,
}

#[derive(Debug, Args)]
pub(super) struct DiagramArgs {
    /// A seed, decimal or 0x.
    #[arg(value_parser = parse_seed, required_unless_present = "plan")]
    seed: Option<u64>,
    /// A file that shrink wrote, instead of a seed.
    #[arg(long, conflicts_with = "seed")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    world: WorldArgs,
    /// First millisecond of virtual time, as traces count it; worlds begin at 1000
    /// [default: what leads to the violation, or to the first decision].
    #[arg(long)]
    from: Option<f64>,
    /// Last millisecond.
    #[arg(long)]
    to: Option<f64>,
    /// Where the picture goes.
    #[arg(short, long, default_value = "out.svg")]
    output: PathBuf,
}

/// Shrinks a seed and writes what is left.
pub(super) fn shrink(args: &ShrinkArgs) -> Result<ExitCode, String> {
    let plan = args.seed.plan()?;
    let seed = plan.seed;
    print(&format!("seed {seed:#x}\n"));
    let terminal = std::io::stderr().is_terminal();
    let mut note = |runs: usize, taken: usize| {
        if terminal {
            eprint!("\r{runs} runs, {taken} steps taken ");
            let _ = std::io::stderr().flush();
        }
    };
    let Some(shrunk) = shrink::shrink(&plan, &mut note) else {
        print("it holds: there is nothing to shrink\n");
        return Ok(ExitCode::SUCCESS);
    };
    if terminal {
        eprintln!();
    }
    let default = || PathBuf::from(format!("shrunk-{seed:#x}.json"));
    let path = args.output.clone().unwrap_or_else(default);
    PlanFile::write(&path, &shrunk.plan, Some(shrunk.violation.clone()))?;
    print(&format!(
        "{} runs, {} steps taken; what is left:\n{}VIOLATION {}\nreplay: hippo-sim replay {}\n",
        shrunk.runs,
        shrunk.steps_taken,
        report::plan(&shrunk.plan),
        shrunk.violation,
        path.display(),
    ));
    Ok(ExitCode::from(FAILURE))
}

/// Runs a plan from a file.
pub(super) fn replay(args: &ReplayArgs) -> Result<ExitCode, String> {
    let mut file = PlanFile::read(&args.file)?;
    file.plan.options.trace = args.trace;
    Ok(super::replay(&file.plan))
}

/// What a seed is made of and where it gets.
pub(super) fn explain(args: &SeedArgs) -> Result<ExitCode, String> {
    let plan = args.plan()?;
    let outcome = world::run_plan(&plan);
    let mut text = format!("seed {:#x}\n{}", plan.seed, report::plan(&plan));
    text += &format!("{}\n\nprobes hit:\n", report::describe(&plan, &outcome));
    for probe in Probe::ALL {
        let count = outcome.probes.count(*probe);
        if count > 0 {
            text += &format!("{count:>8}  {:22} {}\n", probe.name(), probe.about());
        }
    }
    text += "datagrams sent, by kind:\n";
    let named = outcome.probes.named();
    let sent = named
        .iter()
        .filter(|(name, n)| name.starts_with("sent-") && **n > 0);
    for (name, count) in sent {
        text += &format!("{count:>8}  {}\n", name.trim_start_matches("sent-"));
    }
    if let Some(places) = outcome.probes.places() {
        text += "rare places of the product:\n";
        for (place, count) in places.filter(|(_, count)| *count > 0) {
            text += &format!("{count:>8}  {place}\n");
        }
    }
    let missed = Probe::ALL.iter().filter(|p| outcome.probes.count(**p) == 0);
    let missed = missed.map(|probe| probe.name()).collect::<Vec<_>>();
    text += &format!("not hit: {}\n", missed.join(", "));
    print(&text);
    match outcome.violation {
        Some(violation) => {
            print(&format!("VIOLATION {violation}\n"));
            Ok(ExitCode::from(FAILURE))
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Draws a part of a run.
pub(super) fn diagram(args: &DiagramArgs) -> Result<ExitCode, String> {
    let plan = match (&args.plan, args.seed) {
        (Some(path), _) => PlanFile::read(path)?.plan,
        (None, Some(seed)) => Plan::new(seed, args.world.options(false)?),
        (None, None) => return Err("give a seed or --plan FILE".to_owned()),
    };
    let milliseconds = |at: f64| (at.max(0.0) * 1e6) as u64;
    let asked = Window {
        from_ns: args.from.map_or(0, milliseconds),
        until_ns: args.to.map_or(u64::MAX, milliseconds),
    };
    if asked.from_ns >= asked.until_ns {
        return Err("--from must be before --to".to_owned());
    }
    let (outcome, mut record) = world::run_recorded(&plan, asked);
    let end_ns = record.end_ns();
    let window = match (args.from, args.to) {
        (None, None) if outcome.violation.is_some() => Window {
            from_ns: end_ns.saturating_sub(4 * MS),
            until_ns: end_ns + MS / 10,
        },
        (None, None) => diagram::window_of(&record),
        (None, Some(_)) => Window {
            from_ns: asked.until_ns.saturating_sub(4 * MS),
            ..asked
        },
        (Some(_), None) => Window {
            until_ns: asked.from_ns + 4 * MS,
            ..asked
        },
        (Some(_), Some(_)) => asked,
    };
    if record.left_out > 0 {
        // There was too much before the part that is drawn.
        record = world::run_recorded(&plan, window).1;
    }
    let verdict = outcome
        .violation
        .clone()
        .unwrap_or_else(|| "holds".to_owned());
    let shown: String = verdict.chars().take(150).collect();
    let frame = Frame {
        title: format!("seed {:#x}: {shown}", plan.seed),
        nodes: plan.options.nodes,
        ends: plan.options.nodes + plan.users.len() + plan.faults.clients.len(),
        liars: plan.faults.liars.iter().map(|(node, _)| *node).collect(),
        window,
    };
    let svg = diagram::draw(&record, &frame);
    std::fs::write(&args.output, svg)
        .map_err(|error| format!("cannot write {}: {error}", args.output.display()))?;
    let inside = |at_ns: u64| window.has(at_ns);
    let decisions = record.marks.iter().filter(|m| inside(m.at_ns));
    let decisions = decisions.filter(|mark| matches!(mark.what, What::Decides(_)));
    print(&format!(
        "seed {:#x}: {:.3} to {:.3} ms of {:.3} ms, {} messages, {} decisions -> {}\n",
        plan.seed,
        window.from_ns as f64 / 1e6,
        window.until_ns as f64 / 1e6,
        end_ns as f64 / 1e6,
        record.messages.iter().filter(|m| inside(m.sent_ns)).count(),
        decisions.count(),
        args.output.display(),
    ));
    Ok(ExitCode::SUCCESS)
}
