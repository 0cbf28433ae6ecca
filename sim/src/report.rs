//! What a person reads: the trace of one run, progress, and the summary of many.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use serde_json::{Value, json};
use wire::header::Header;

use crate::plan::{Options, Plan};
use crate::world::Outcome;

/// One line for one event.
pub fn trace(now_ns: u64, kind: u8, numbers: &[usize], bytes: &[u8]) {
    let text = match (kind, numbers) {
        (b'A', [from, to]) => match Header::split(bytes) {
            Ok((header, kind, _)) => {
                let slot = header.peer_route().slot();
                let between_nodes = kind.direction() == wire::header::Direction::BetweenNodes;
                let slot = if between_nodes {
                    format!(" slot {slot}")
                } else {
                    String::new()
                };
                format!("{from} -> {to} {kind:?}{slot} {} bytes", bytes.len())
            }
            Err(reject) => format!("{from} -> {to} {reject:?}"),
        },
        (b'W', [node, token]) => format!("{node} written, batch {token}"),
        (b'R', [node, slot]) => format!("{node} read slot {slot} back"),
        (b'G', [node, segments]) => format!("{node} has {segments} segments"),
        (b'T', [node]) => format!("{node} wakes"),
        (b'U', [user]) => format!("user {user} wakes"),
        (b'C', [node]) => format!("{node} crashes"),
        (b'S', [node]) => format!("{node} starts"),
        _ => format!("{} {numbers:?}", char::from(kind)),
    };
    // A reader that has seen enough closes the pipe.
    let _ = writeln!(
        std::io::stdout(),
        "{:>14.6} ms  {text}",
        now_ns as f64 / 1e6
    );
}

/// The command that replays a seed.
pub fn replay_command(seed: u64, options: &Options) -> String {
    let mut command = format!("hippo-sim {seed:#x} --trace");
    if options.nodes != 4 {
        command += &format!(" --nodes {}", options.nodes);
    }
    if options.profile != crate::seals::Profile::Core {
        command += " --profile full";
    }
    if let Some(canary) = options.canary {
        command += &format!(" --canary {canary:?}").to_lowercase();
    }
    command
}

/// What one seed came to, in one paragraph.
pub fn describe(plan: &Plan, outcome: &Outcome) -> String {
    format!(
        "scenario {:?}, {} users, {} crashes ({} torn logs), {} events in {:.1} ms of virtual time\n\
         {} datagrams sent, {} lost, {} doubled; {} slots decided, {} operations acknowledged\n\
         digest {}",
        plan.scenario,
        plan.users.len(),
        outcome.crashes,
        outcome.torn,
        outcome.events,
        outcome.virtual_ns as f64 / 1e6,
        outcome.network.sent,
        outcome.network.lost,
        outcome.network.doubled,
        outcome.decided,
        outcome.acknowledged,
        outcome.digest,
    )
}

/// Totals of many seeds.
#[derive(Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub events: u64,
    pub virtual_ns: u64,
    pub datagrams: u64,
    pub lost: u64,
    pub crashes: u64,
    pub torn: u64,
    pub slots: u64,
    pub acknowledged: u64,
    pub results_lost: u64,
    pub block_buffers_used_max: usize,
    /// Seeds without any decision, and without any crash, loss or doubled datagram.
    pub seeds_without_progress: u64,
    pub seeds_without_fault: u64,
    pub scenarios: BTreeMap<String, u64>,
    pub violations: BTreeMap<u64, String>,
    /// Seeds whose two runs differed.
    pub unrepeatable: Vec<u64>,
}

impl Summary {
    pub fn add(&mut self, plan: &Plan, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.virtual_ns += outcome.virtual_ns;
        self.datagrams += outcome.network.sent;
        self.lost += outcome.network.lost;
        self.crashes += outcome.crashes;
        self.torn += outcome.torn;
        self.slots += outcome.decided.0;
        self.acknowledged += outcome.acknowledged;
        self.results_lost += outcome.results_lost;
        self.block_buffers_used_max = self
            .block_buffers_used_max
            .max(outcome.block_buffers_used_max);
        self.seeds_without_progress += u64::from(outcome.decided.0 == 0);
        let faults = outcome.crashes + outcome.network.lost + outcome.network.doubled;
        self.seeds_without_fault += u64::from(faults == 0);
        let scenario = format!("{:?}", plan.scenario).to_lowercase();
        *self.scenarios.entry(scenario).or_default() += 1;
        if let Some(violation) = &outcome.violation {
            self.violations.insert(outcome.seed, violation.clone());
        }
    }

    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.unrepeatable.is_empty()
    }

    pub fn json(&self, options: &Options, wall_s: f64) -> Value {
        let violations = self.violations.iter().map(|(seed, violation)| {
            json!({
                "seed": format!("{seed:#x}"),
                "violation": violation,
                "replay": replay_command(*seed, options),
            })
        });
        json!({
            "schema_version": 1,
            "nodes": options.nodes,
            "profile": options.profile,
            "canary": options.canary,
            "seeds": self.seeds,
            "scenarios": self.scenarios,
            "events": self.events,
            "virtual_s": self.virtual_ns as f64 / 1e9,
            "wall_s": wall_s,
            "datagrams": self.datagrams,
            "datagrams_lost": self.lost,
            "crashes": self.crashes,
            "torn_logs": self.torn,
            "slots_decided": self.slots,
            "operations_acknowledged": self.acknowledged,
            "results_lost": self.results_lost,
            "block_buffers_used_max": self.block_buffers_used_max,
            "seeds_without_progress": self.seeds_without_progress,
            "seeds_without_fault": self.seeds_without_fault,
            "unrepeatable_seeds": self.unrepeatable,
            "violations": violations.collect::<Vec<_>>(),
        })
    }

    pub fn table(&self, wall_s: f64) -> String {
        let virtual_s = self.virtual_ns as f64 / 1e9;
        format!(
            "{} seeds in {wall_s:.1} s ({:.0} an hour); {virtual_s:.1} s of virtual time, {:.0} times \
             real time\n{} events, {} datagrams ({} lost), {} crashes ({} torn logs), {} slots, \
             {} operations acknowledged\nscenarios {:?}; {} seeds without progress, {} without a \
             fault; at most {} block buffers in use\n{} violations",
            self.seeds,
            self.seeds as f64 / wall_s * 3600.0,
            virtual_s / wall_s,
            self.events,
            self.datagrams,
            self.lost,
            self.crashes,
            self.torn,
            self.slots,
            self.acknowledged,
            self.scenarios,
            self.seeds_without_progress,
            self.seeds_without_fault,
            self.block_buffers_used_max,
            self.violations.len(),
        )
    }
}

/// Shows how far a long run is; only on a terminal.
pub fn progress(done: u64, of: u64, violations: usize) {
    let mut error = std::io::stderr();
    if error.is_terminal() && (done.is_multiple_of(16) || done == of) {
        let _ = write!(error, "\r{done}/{of} seeds, {violations} violations ");
        if done == of {
            let _ = writeln!(error);
        }
        let _ = error.flush();
    }
}
