//! Windows and checkpoints.

use sim::canaries::Canary;
use sim::scenario::{Scenario, kind};
use wire::header::Kind;

use crate::{borne, load};

/// I3: without checkpoints nobody votes beyond two intervals; with them it goes on.
#[test]
fn nobody_votes_beyond_the_window() {
    let attack = || {
        let scenario = Scenario::new(4)
            .checkpoint_every(4)
            .when(kind(Kind::Checkpoint).until_ms(400))
            .drop();
        let scenario = load(scenario, 2, 200, 5);
        let scenario = scenario.at_ms(399).expect_decided(8).expect_undecided(9);
        scenario.at_ms(400).expect_settled_within_ms(10_000)
    };
    borne(attack, &[Canary::Farvote]);
}
