//! What a person reads: the trace of one run, progress, and the summary of many.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use serde_json::{Value, json};
use wire::header::Header;

use crate::faults::{Fault, FaultSet};
use crate::plan::{Options, Plan, Tables, Votes};
use crate::probes::{Reached, SEEDS_FEW};
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
        (b'E', [node]) => format!("{node} is to stop"),
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
    if options.shape != 0 {
        command += &format!(" --shape {}", options.shape().name);
    }
    if options.profile != crate::seals::Profile::Core {
        command += " --profile full";
    }
    if let Some(canary) = options.canary {
        command += &format!(" --canary {}", canary.name());
    }
    if options.beyond {
        command += " --beyond";
    }
    match options.durability {
        Votes::Drawn => {}
        Votes::Sync => command += " --durability sync",
        Votes::Lease => command += " --durability lease",
    }
    if options.table == Tables::Disk {
        command += " --table disk";
    }
    let standard = FaultSet::standard();
    for fault in Fault::ALL {
        match (standard.has(*fault), options.faults.has(*fault)) {
            (false, true) => command += &format!(" --with {}", fault.name()),
            (true, false) => command += &format!(" --without {}", fault.name()),
            _ => {}
        }
    }
    command
}

/// What one seed came to, in one paragraph.
pub fn describe(plan: &Plan, outcome: &Outcome) -> String {
    format!(
        "scenario {:?}, {}, {} users, {} crashes ({} torn logs), {} events in {:.1} ms of virtual time\n\
         {} datagrams sent, {} lost, {} doubled, {} corrupted; {} slots decided, {} operations \
         acknowledged, {} checked for an order\nfaults {}\ndigest {}",
        plan.scenario,
        if plan.leases { "leases" } else { "sync" },
        plan.users.len(),
        outcome.crashes,
        outcome.torn,
        outcome.events,
        outcome.virtual_ns as f64 / 1e6,
        outcome.network.sent,
        outcome.network.lost,
        outcome.network.doubled,
        outcome.network.corrupted,
        outcome.decided,
        outcome.acknowledged,
        outcome.checked.operations,
        names(plan.faults.enabled),
        outcome.digest,
    )
}

/// The faults of a plan with their times and places, a line each.
pub fn plan(plan: &Plan) -> String {
    let ms = |at_ns: u64| at_ns as f64 / 1e6;
    let mut text = format!(
        "{} replicas, {:?}, faults until {:.1} ms, to be settled by {:.1} ms\n",
        plan.options.nodes,
        plan.scenario,
        ms(plan.heal_ns),
        ms(plan.deadline_ns),
    );
    for user in plan.users.iter().filter(|user| user.operations > 0) {
        text += &format!("  {user:?}\n");
    }
    for blow in &plan.blows {
        let wait = blow.mid_write.map(|node| format!(", in a write of {node}"));
        let (at, wait) = (ms(blow.at_ns), wait.unwrap_or_default());
        text += &format!("  crashes at {at:.3} ms{wait}:");
        for crash in &blow.crashes {
            let (after, down) = (ms(crash.after_ns), ms(crash.down_ns));
            text += &format!(" {} after {after:.3} for {down:.3} ms;", crash.node);
        }
        text += "\n";
    }
    for cut in &plan.cuts {
        let to = cut.to.map_or("all".to_owned(), |to| to.to_string());
        let arrow = if cut.both_ways { "<->" } else { "->" };
        let (from, until) = (ms(cut.from_ns), ms(cut.until_ns));
        text += &format!(
            "  cut {} {arrow} {to} from {from:.3} to {until:.3} ms\n",
            cut.end
        );
    }
    let whole = crate::network::LinkFaults::WHOLE;
    let bad = plan.links.iter().flatten().filter(|link| **link != whole);
    text += &format!("  {} links that are not whole\n", bad.count());
    let faults = &plan.faults;
    let more: [(&str, Vec<String>); 8] = [
        ("crash between effects", debug(&faults.steps)),
        ("pause", debug(&faults.pauses)),
        ("clock", debug(&faults.clocks)),
        ("failing write", debug(&faults.disk_errors)),
        ("slow disk", debug(&faults.slow_disks)),
        ("damage", debug(&faults.damages)),
        ("liar", debug(&faults.liars)),
        ("lying client", debug(&faults.clients)),
    ];
    for (what, items) in more {
        for item in items {
            text += &format!("  {what}: {item}\n");
        }
    }
    text
}

fn debug<T: std::fmt::Debug>(items: &[T]) -> Vec<String> {
    items.iter().map(|item| format!("{item:?}")).collect()
}

fn names(faults: FaultSet) -> String {
    let names = faults.iter().map(Fault::name).collect::<Vec<_>>();
    names.join(" ")
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
    /// Operations whose order was searched for, and keys for which that was given up.
    pub checked_operations: u64,
    pub unknown_keys: u64,
    /// Seeds that enabled each fault, and that hit each probe.
    pub enabled: BTreeMap<&'static str, u64>,
    pub reached: Reached,
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
        self.checked_operations += outcome.checked.operations;
        self.unknown_keys += outcome.checked.unknown;
        for fault in plan.faults.enabled.iter() {
            *self.enabled.entry(fault.name()).or_default() += 1;
        }
        self.reached.add(&outcome.probes);
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
            "seeds_an_hour": (self.seeds as f64 / wall_s * 3600.0).round(),
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
            "operations_checked": self.checked_operations,
            "keys_of_unknown_order": self.unknown_keys,
            "seeds_with_fault": self.enabled,
            "seeds_at_probe": self.reached.seeds(),
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
             fault; at most {} block buffers in use\n{} operations checked for an order, unknown on {} \
             keys\nprobes hit by fewer than {} seeds: {}\n{} violations",
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
            self.checked_operations,
            self.unknown_keys,
            SEEDS_FEW,
            self.few(),
            self.violations.len(),
        )
    }

    fn few(&self) -> String {
        let few = self.reached.few();
        let few = few.map(|(name, seeds)| format!("{name} {seeds}"));
        few.collect::<Vec<_>>().join(", ")
    }
}

/// Shows how far a long run is; only on a terminal, on one line that is written again and again.
pub fn progress(summary: &Summary, of: u64, wall_s: f64) {
    let mut error = std::io::stderr();
    let done = summary.seeds;
    if error.is_terminal() && (done.is_multiple_of(16) || done == of) {
        let _ = write!(
            error,
            "\r{done}/{of} seeds, {:.0}/s, {:.0} s of virtual time, {} violations ",
            done as f64 / wall_s.max(1e-3),
            summary.virtual_ns as f64 / 1e9,
            summary.violations.len(),
        );
        if done == of {
            let _ = writeln!(error);
        }
        let _ = error.flush();
    }
}
