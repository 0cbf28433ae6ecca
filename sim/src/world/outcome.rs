//! How a run ended, and the ways to run one.

use replica::recording::Reel;
use wire::ids::{NodeId, Slot};

use super::World;
use crate::linear::Checked;
use crate::network::Counts;
use crate::node::Node;
use crate::plan::{Options, Plan};
use crate::probes::Probes;
use crate::record::{Record, Window};
use crate::seals::Seal;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    /// Over every event, in hexadecimal.
    pub digest: String,
    pub violation: Option<String>,
    pub events: u64,
    pub virtual_ns: u64,
    pub network: Counts,
    pub acknowledged: u64,
    /// Operations of which a client learned only that they were executed.
    pub results_lost: u64,
    pub decided: Slot,
    pub crashes: u64,
    /// Restarts that found the remains of a torn write.
    pub torn: u64,
    pub block_buffers_used_max: usize,
    pub probes: Probes,
    /// What the search for an order came to.
    pub checked: Checked,
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Outcome {
    World::new(Plan::new(seed, options)).run()
}

/// Runs one seed; a failed assertion of the product is a violation like any other. The digest of
/// such a run is empty.
pub fn run_caught(seed: u64, options: Options) -> Outcome {
    run_plan(&Plan::new(seed, options))
}

/// Runs a plan, drawn or changed, as [`run_caught`] does.
pub fn run_plan(plan: &Plan) -> Outcome {
    let caught = std::panic::catch_unwind(|| World::new(plan.clone()).run());
    caught.unwrap_or_else(|panic| panicked(plan, &*panic))
}

/// Runs a plan and keeps what happened within a window of time, also when it ends in a panic.
pub fn run_recorded(plan: &Plan, window: Window) -> (Outcome, Record) {
    let record = std::rc::Rc::new(std::cell::RefCell::new(Record::new(window)));
    let kept = std::rc::Rc::clone(&record);
    let run = std::panic::AssertUnwindSafe(|| {
        let mut world = World::new(plan.clone());
        world.record = Some(kept);
        world.run()
    });
    let outcome = std::panic::catch_unwind(run);
    let outcome = outcome.unwrap_or_else(|panic| panicked(plan, &*panic));
    let record = record.borrow().clone();
    (outcome, record)
}

/// Invariants whose failure means that more replicas lie than are borne: a replica halts then.
const HALTS: [&str; 2] = ["I7", "I10"];

fn panicked(plan: &Plan, panic: &(dyn std::any::Any + Send)) -> Outcome {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("without a message");
    let halts = plan.options.beyond && HALTS.iter().any(|halt| text.starts_with(halt));
    Outcome {
        seed: plan.seed,
        digest: String::new(),
        violation: (!halts).then(|| format!("panic: {text}")),
        events: 0,
        virtual_ns: 0,
        network: Counts::default(),
        acknowledged: 0,
        results_lost: 0,
        decided: Slot(0),
        crashes: 0,
        torn: 0,
        block_buffers_used_max: 0,
        probes: Probes::default(),
        checked: Checked::default(),
    }
}

/// Runs a plan that records and hands over what its replicas hold at the end.
pub fn run_for_recordings(plan: &Plan) -> Vec<(NodeId, Vec<Reel>, Seal)> {
    assert!(plan.records(), "see Plan::records");
    let mut world = World::new(plan.clone());
    let _ = world.run_inner();
    world.nodes.iter().filter_map(Node::recorded).collect()
}
