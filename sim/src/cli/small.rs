//! `hippo-sim small`: every state of a small world.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{FAILURE, print};
use crate::canaries::{BUILD, Canary};
use crate::small::{self, Options, Report};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LiarArg {
    #[value(name = "0")]
    Zero,
    #[value(name = "1")]
    One,
    #[value(name = "2")]
    Two,
    #[value(name = "3")]
    Three,
    None,
}

#[derive(Debug, Args)]
pub(super) struct SmallArgs {
    /// Which replica lies; r(v) leads view v.
    #[arg(long, value_enum, default_value = "0")]
    liar: LiarArg,
    /// Slots in which blocks are proposed.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4))]
    slots: u64,
    /// Views that can be installed; what is chosen for the next one is checked as well.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4))]
    views: u8,
    /// States at most; about 60 bytes each.
    #[arg(long, default_value_t = 20_000_000)]
    states_max: usize,
    /// Acknowledgements arrive one by one as well, not as certificates alone.
    #[arg(long)]
    acks: bool,
    /// Plant a known bug, to see that it is found.
    #[arg(long, value_enum)]
    canary: Option<Canary>,
}

pub(super) fn run(args: &SmallArgs) -> Result<ExitCode, String> {
    if let Some(canary) = args.canary.filter(|canary| !canary.is_built()) {
        let name = canary.name();
        return Err(format!("{name} is not in this build; build with: {BUILD}"));
    }
    let options = Options {
        liar: match args.liar {
            LiarArg::None => None,
            liar => Some(liar as usize),
        },
        slots: args.slots,
        views: args.views,
        states_max: args.states_max,
        acks: args.acks,
        canary: args.canary,
    };
    if args.canary.is_some() {
        // A planted bug often ends in a failed assertion; that is what is looked for.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let terminal = std::io::stderr().is_terminal();
    let mut note = |report: &Report| {
        if terminal {
            let (states, seconds) = (report.states, report.elapsed.as_secs());
            let waiting = states - report.expanded;
            eprint!(
                "\r{states} states, {waiting} to look at, depth {}, {seconds} s ",
                report.depth
            );
            let _ = std::io::stderr().flush();
        }
    };
    let report = small::run(&options, &mut note);
    if terminal {
        eprintln!();
    }
    if let Some((what, way)) = &report.violation {
        for (number, step) in way.iter().enumerate() {
            print(&format!("{:3}  {step}\n", number + 1));
        }
        print(&format!("VIOLATION {what}\n"));
    }
    print(&(report.line() + "\n"));
    Ok(if report.violation.is_some() {
        ExitCode::from(FAILURE)
    } else {
        ExitCode::SUCCESS
    })
}
