//! Makes a failing plan smaller while it still fails in the same way.
//!
//! Every step takes something out (a fault, a cut, a crash, a user, half of its operations) or makes
//! it plainer (whole links, a fast disk, true clocks); a step after which the violation is gone is
//! undone. Random numbers are drawn in another order after each step, so that this is a search, not
//! a proof that what is left is needed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::faults::Fault;
use crate::faults::draw::ClockPlan;
use crate::network::LinkFaults;
use crate::plan::{MS, Plan, US};
use crate::world;

/// Runs that one shrinking may take.
pub const RUNS_MAX: usize = 600;
/// Version of the file format.
const SCHEMA_VERSION: u32 = 1;

/// A plan in a file, with what it came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanFile {
    pub schema_version: u32,
    pub violation: Option<String>,
    pub plan: Plan,
}

impl PlanFile {
    /// Writes the plan as JSON.
    pub fn write(path: &Path, plan: &Plan, violation: Option<String>) -> Result<(), String> {
        let file = PlanFile {
            schema_version: SCHEMA_VERSION,
            violation,
            plan: plan.clone(),
        };
        let text = serde_json::to_string_pretty(&file).map_err(|error| error.to_string())?;
        std::fs::write(path, text + "\n")
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Reads a plan back.
    pub fn read(path: &Path) -> Result<PlanFile, String> {
        let in_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| in_file(&error))?;
        let file: PlanFile = serde_json::from_str(&text).map_err(|error| {
            in_file(&format!(
                "not a plan of this version: {error}; write it anew with hippo-sim shrink SEED"
            ))
        })?;
        if file.schema_version != SCHEMA_VERSION {
            let found = file.schema_version;
            return Err(in_file(&format!("version {found} is not {SCHEMA_VERSION}")));
        }
        Ok(file)
    }
}

/// What kind of violation it is: names of replicas, slots and digests do not count.
pub fn class(violation: &str) -> String {
    let head = match violation.split_once(": ") {
        Some(("panic", text)) => format!("panic {text}"),
        Some((head, _)) => head.to_owned(),
        None => violation.to_owned(),
    };
    let words = head.split(|c: char| !c.is_alphabetic() && c != '-');
    let words = words.filter(|word| !word.is_empty() && word.len() < 20);
    words.take(6).collect::<Vec<_>>().join(" ")
}

/// What shrinking came to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    pub plan: Plan,
    pub violation: String,
    pub runs: usize,
    pub steps_taken: usize,
}

struct Search<'a> {
    best: Plan,
    violation: String,
    class: String,
    runs: usize,
    taken: usize,
    note: &'a mut dyn FnMut(usize, usize),
}

impl Search<'_> {
    /// Keeps a change if the plan still fails in the same way.
    fn attempt(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        let mut plan = self.best.clone();
        change(&mut plan);
        if format!("{plan:?}") == format!("{:?}", self.best) {
            return false;
        }
        self.runs += 1;
        let violation = world::run_plan(&plan).violation;
        let fails = violation.filter(|violation| class(violation) == self.class);
        if let Some(violation) = fails {
            (self.best, self.violation) = (plan, violation);
            self.taken += 1;
            (self.note)(self.runs, self.taken);
            return true;
        }
        (self.note)(self.runs, self.taken);
        false
    }

    /// Takes items out of a list: all, then halves, down to single ones.
    fn thin<T>(&mut self, list: impl Fn(&mut Plan) -> &mut Vec<T>) {
        let mut step = list(&mut self.best).len();
        while step > 0 {
            let mut at = 0;
            while at < list(&mut self.best).len() {
                let took = self.attempt(|plan| {
                    let list = list(plan);
                    let end = (at + step).min(list.len());
                    list.drain(at..end);
                });
                if !took {
                    at += step;
                }
            }
            step /= 2;
        }
    }

    fn pass(&mut self) {
        for fault in Fault::ALL {
            if self.best.faults.enabled.has(*fault) {
                self.attempt(|plan| plan.remove(*fault));
            }
        }
        self.thin(|plan| &mut plan.blows);
        for blow in 0..self.best.blows.len() {
            self.thin(|plan| &mut plan.blows[blow].crashes);
            self.attempt(|plan| plan.blows[blow].mid_write = None);
        }
        self.thin(|plan| &mut plan.cuts);
        self.thin(|plan| &mut plan.faults.steps);
        self.thin(|plan| &mut plan.faults.pauses);
        self.thin(|plan| &mut plan.faults.disk_errors);
        self.thin(|plan| &mut plan.faults.slow_disks);
        self.thin(|plan| &mut plan.faults.damages);
        self.thin(|plan| &mut plan.faults.liars);
        self.thin(|plan| &mut plan.faults.clients);
        for node in 0..self.best.faults.clocks.len() {
            self.attempt(|plan| plan.faults.clocks[node] = true_clock());
        }
        self.attempt(|plan| plan.faults.clocks.clear());
        self.links();
        for user in 0..self.best.users.len() {
            self.attempt(|plan| plan.users[user].operations = 0);
            while self.best.users[user].operations > 1
                && self.attempt(|plan| plan.users[user].operations /= 2)
            {}
            self.attempt(|plan| plan.users[user].in_flight_max = 1);
            self.attempt(|plan| plan.users[user].bundle_max = 1);
            self.attempt(|plan| plan.users[user].value_bytes_max = 16);
            self.attempt(|plan| plan.users[user].think_ns = 0);
        }
        self.attempt(|plan| plan.keys = 1);
        self.attempt(|plan| plan.pace = (usize::MAX, usize::MAX));
        self.attempt(|plan| plan.batch_delay_ns = 0);
        self.attempt(|plan| plan.datagram_bytes = 65_507);
        self.attempt(|plan| plan.lag_ns = US);
        self.attempt(|plan| {
            plan.disk.stalls_per_mille = 0;
            (plan.disk.write_ns, plan.disk.jitter_ns) = (20 * US, 1);
        });
        self.time();
    }

    fn links(&mut self) {
        let whole = |row: &mut Vec<LinkFaults>| row.fill(LinkFaults::WHOLE);
        if self.attempt(|plan| plan.links.iter_mut().for_each(whole)) {
            return;
        }
        for from in 0..self.best.links.len() {
            self.attempt(|plan| whole(&mut plan.links[from]));
        }
        for from in 0..self.best.links.len() {
            for to in 0..self.best.links[from].len() {
                self.attempt(|plan| plan.links[from][to] = LinkFaults::WHOLE);
            }
        }
    }

    /// Ends the run earlier: what never settles waits in vain for less long.
    fn time(&mut self) {
        for after_ns in [50 * MS, 500 * MS, 2000 * MS] {
            let took = self.attempt(|plan| {
                plan.deadline_ns = plan.deadline_ns.min(plan.heal_ns + after_ns);
            });
            if took {
                break;
            }
        }
        self.attempt(|plan| {
            let from_ns = plan.heal_ns;
            plan.heal_ns = plan.last_fault_ns().min(from_ns);
            plan.deadline_ns -= from_ns - plan.heal_ns;
        });
    }
}

fn true_clock() -> ClockPlan {
    ClockPlan {
        rate_per_mille: 1000,
        jumps: Vec::new(),
        wall_offset_ns: 0,
    }
}

/// Shrinks a plan that fails; `None` when it does not fail. `note` hears of runs and steps taken.
pub fn shrink(plan: &Plan, note: &mut dyn FnMut(usize, usize)) -> Option<Shrunk> {
    let violation = world::run_plan(plan).violation?;
    let mut search = Search {
        best: plan.clone(),
        class: class(&violation),
        violation,
        runs: 1,
        taken: 0,
        note,
    };
    loop {
        let before = search.taken;
        search.pass();
        if search.taken == before || search.runs >= RUNS_MAX {
            break;
        }
    }
    Some(Shrunk {
        plan: search.best,
        violation: search.violation,
        runs: search.runs,
        steps_taken: search.taken,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canaries::Canary;
    use crate::plan::Options;

    #[test]
    fn classes_forget_numbers() {
        let one = class("R2: 1 votes for slot 7 while 6 is durable");
        assert_eq!(one, class("R2: 3 votes for slot 19 while 2 is durable"));
        assert_ne!(one, class("G1: 1 decides slot 7"));
        let down = class("replica 1 does not start: a log");
        assert_eq!(down, class("replica 3 does not start: another"));
        assert_ne!(class("panic: index out of"), class("panic: overflow"));
    }

    #[test]
    fn a_failing_plan_gets_smaller_and_fails_from_its_file_too() {
        let options = Options {
            canary: Some(Canary::Lowquorum),
            ..Options::default()
        };
        let failing = (0..50).map(|seed| Plan::new(seed, options));
        let mut failing = failing.filter(|plan| world::run_plan(plan).violation.is_some());
        let plan = failing.next().expect("the canary is found");
        let size =
            |plan: &Plan| plan.cuts.len() + plan.blows.len() + plan.faults.enabled.iter().count();
        let shrunk = shrink(&plan, &mut |_, _| {}).expect("it fails");
        assert!(size(&shrunk.plan) < size(&plan), "{:?}", shrunk.plan);
        assert_eq!(class(&shrunk.violation), "G");
        let operations = |plan: &Plan| plan.users.iter().map(|u| u.operations).sum::<u32>();
        assert!(operations(&shrunk.plan) < operations(&plan));

        let path = std::env::temp_dir().join(format!("hippo-sim-plan-{}", std::process::id()));
        PlanFile::write(&path, &shrunk.plan, Some(shrunk.violation.clone())).unwrap();
        let file = PlanFile::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let again = world::run_plan(&file.plan);
        assert_eq!(again.violation, Some(shrunk.violation));
        assert_eq!(again.digest, world::run_plan(&shrunk.plan).digest);
    }

    #[test]
    fn a_plan_that_holds_is_not_shrunk() {
        assert!(shrink(&Plan::new(3, Options::default()), &mut |_, _| {}).is_none());
    }
}
