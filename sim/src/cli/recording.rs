//! `hippo-sim replay-recording`: the flight recording of a real node, once more.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use consensus::{Effect, Recipient};
use replica::recording::{Ending, Mismatch, Recording, Report, Step, replay};
use wire::ids::Instant;
use wire::seal::{Ed25519Verifier, Statement};

use super::{FAILURE, print};

/// Exit code of all programs for damaged data.
const DAMAGED: u8 = 6;

#[derive(Debug, Args)]
pub(super) struct RecordingArgs {
    /// A file that a node wrote to recordings/ in its data directory
    file: PathBuf,
    /// Print every input and its effects
    #[arg(long)]
    trace: bool,
}

/// What the replay shows of a run, a line each.
struct Timeline {
    trace: bool,
    text: String,
    first: Option<Instant>,
    decided: u64,
    views: u64,
    proposed: u64,
    votes: u64,
    wishes: u64,
}

impl Timeline {
    fn new(trace: bool) -> Timeline {
        Timeline {
            trace,
            text: String::new(),
            first: None,
            decided: 0,
            views: 0,
            proposed: 0,
            votes: 0,
            wishes: 0,
        }
    }

    fn line(&mut self, at: Instant, number: u64, what: &str) {
        let first = *self.first.get_or_insert(at);
        let milliseconds = at.since_ns(first) as f64 / 1e6;
        let _ = writeln!(self.text, "{milliseconds:>12.3} ms  #{number:<9} {what}");
    }

    fn step(&mut self, step: &Step<'_>) {
        let (at, number) = (step.at, step.number);
        self.first.get_or_insert(at);
        if self.trace {
            self.line(at, number, &format!("<- {:?}", step.input));
        }
        self.proposed += u64::from(matches!(step.input, consensus::Input::Own { .. }));
        for effect in step.effects {
            if self.trace {
                self.line(at, number, &format!("   -> {effect:?}"));
            }
            match effect {
                Effect::Final { place, way } => {
                    self.decided += 1;
                    let what = format!("decides up to slot {} ({way:?})", place.slot);
                    if self.decided == 1 || self.trace {
                        self.line(at, number, &what);
                    }
                }
                Effect::Installed { view } => {
                    self.views += 1;
                    self.line(at, number, &format!("installs view {view}"));
                }
                Effect::Say { to, signed } => self.says(at, number, *to, &signed.statement),
                Effect::Stable { slot } => {
                    self.line(at, number, &format!("checkpoint {slot} is stable"));
                }
                Effect::Evidence(_) => self.line(at, number, "proves that a leader lied"),
                Effect::Transfer(certificate) => {
                    let slot = certificate.header.slot();
                    self.line(at, number, &format!("takes the state of slot {slot} over"));
                }
                Effect::Diverged { slot, .. } => {
                    self.line(
                        at,
                        number,
                        &format!("its own state of slot {slot} is WRONG"),
                    );
                }
                _ => {}
            }
        }
    }

    fn says(&mut self, at: Instant, number: u64, to: Recipient, statement: &Statement) {
        match statement {
            Statement::Vote { .. } => self.votes += u64::from(to == Recipient::All),
            Statement::Wish { view, .. } => {
                self.wishes += 1;
                self.line(at, number, &format!("wishes for view {view}"));
            }
            Statement::Resign { view } => self.line(at, number, &format!("resigns in view {view}")),
            Statement::NewViewAck {
                view, base_slot, ..
            } => {
                let what = format!("acknowledges base {base_slot} of view {view}");
                self.line(at, number, &what);
            }
            _ => {}
        }
    }
}

fn described(report: &Report, shown: &Timeline) -> String {
    let mut text = String::new();
    let start = if report.from_boot {
        "from the first input of the process"
    } else {
        "from the middle: the oldest image of the core that was kept"
    };
    let (begin, end) = (&report.start, &report.end);
    let _ = writeln!(text, "starts {start}");
    let _ = writeln!(
        text,
        "view {} to {}, slots {} to {} decided; {} inputs, {} effects: {} proposals, {} new votes, \
         {} wishes, {} decisions, {} views installed",
        begin.view,
        end.view,
        begin.decided,
        end.decided,
        report.inputs,
        report.effects,
        shown.proposed,
        shown.votes,
        shown.wishes,
        shown.decided,
        shown.views
    );
    let _ = writeln!(
        text,
        "compared: number and digest of all effects of each input; {} whole states on the way",
        report.states_compared
    );
    text += "not compared: signatures that this node made. They are taken from the recording, since no \
             key is in it; signatures of others were checked again\n";
    text
}

/// Replays a recording.
pub(super) fn run(args: &RecordingArgs) -> Result<ExitCode, String> {
    let path = args.file.display();
    let file = std::fs::read(&args.file).map_err(|error| format!("cannot read {path}: {error}"))?;
    let damaged = |error: &dyn std::fmt::Display| {
        eprintln!("hippo-sim: {path}: {error}");
        Ok(ExitCode::from(DAMAGED))
    };
    let recording = match Recording::decode(&file) {
        Ok(recording) => recording,
        Err(error) => return damaged(&error),
    };
    let about = &recording.description;
    print(&format!(
        "node {} of cluster {}, boot {}, {}: {}\n",
        about.node,
        about.committee.cluster(),
        about.boot,
        about.program,
        about.reason
    ));
    let verifier = Ed25519Verifier::new(&about.committee);
    let mut shown = Timeline::new(args.trace);
    let replayed = replay(about.node, &recording.reels, verifier, |step| {
        shown.step(step);
        print(&std::mem::take(&mut shown.text));
    });
    let report = match replayed {
        Ok(report) => report,
        Err(error) => return damaged(&error),
    };
    print(&described(&report, &shown));
    if let Ending::InInput {
        number,
        panicked_again,
    } = report.ending
    {
        let again = if panicked_again {
            "the replay panics in it as well"
        } else {
            "the replay deals with it; its effects are not compared"
        };
        print(&format!(
            "the process ended within input {number}: {again}\n"
        ));
    }
    Ok(match &report.mismatch {
        None => {
            print("EQUAL\n");
            ExitCode::SUCCESS
        }
        Some(found) => {
            print(&format!("MISMATCH {}\n", told(found)));
            ExitCode::from(FAILURE)
        }
    })
}

fn told(found: &Mismatch) -> String {
    match found {
        Mismatch::Outcome {
            number,
            recorded_effects,
            replayed_effects,
            ..
        } => format!(
            "input {number}: the node had {recorded_effects} effects, the replay has \
             {replayed_effects}, or others; --trace prints them"
        ),
        Mismatch::State { reel } => {
            format!(
                "the state at the beginning of reel {reel} is not what inputs before it lead to"
            )
        }
        Mismatch::Panicked { number, .. } => {
            format!("input {number}: the replay panics, the node did not")
        }
    }
}
