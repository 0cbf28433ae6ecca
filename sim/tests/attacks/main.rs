//! The attacks of protocol §13, one small scenario each, by their numbers.
//!
//! Each must be borne. Where a rule is what makes it so, the scenario is run once more with that
//! rule broken (see [`sim::canaries`]) and must fail then; this takes the feature `canary`.
//!
//! Not here: A21, A38 and the part of A29 that changes members, which need reconfiguration; A20 is
//! what random seeds draw.

mod clients;
mod equivocation;
mod feeders;
mod hidden;
mod leaders;
mod leases;
mod lying_clients;
mod reads;
mod restarts;
mod times;
mod views;
mod windows;

use sim::canaries::Canary;
use sim::scenario::Scenario;
use sim::world::Outcome;

/// The attack is borne, and succeeds against each of the planted bugs.
fn borne(attack: impl Fn() -> Scenario, against: &[Canary]) -> Outcome {
    let outcome = attack().run().unwrap();
    for canary in against {
        if !canary.is_built() {
            continue;
        }
        let planted = std::panic::AssertUnwindSafe(|| attack().canary(*canary).run());
        let found = std::panic::catch_unwind(planted);
        let found = found.is_err() || found.is_ok_and(|outcome| outcome.is_err());
        assert!(found, "{} is not found by its scenario", canary.name());
    }
    Canary::plant(None);
    outcome
}

/// Two clients that ask now and then until the end.
fn load(scenario: Scenario, from_ms: u64, until_ms: u64, every_ms: u64) -> Scenario {
    let steps = (from_ms..until_ms).step_by(every_ms as usize).enumerate();
    steps.fold(scenario, |scenario, (turn, at)| {
        let scenario = scenario.at_ms(at);
        let key = format!("key {}", turn % 3);
        scenario.client(turn % 2).put(key, format!("{turn}"))
    })
}
