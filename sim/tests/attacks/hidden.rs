//! What is final by votes that hardly anyone saw, and new leaders that would rather forget it.

use sim::liars::{Equivocator, FalseLeader, HalfHeard, Way};
use sim::scenario::{Scenario, any, kind};
use wire::header::Kind;

use crate::{borne, load};

/// A6, V2: the leader of view 1 tells two halves of two choices. At most one base is certified.
#[test]
fn a06_two_new_views_for_one_view() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::Vote).to(2).until_ms(80))
            .drop()
            .when(kind(Kind::Propose).to(3).until_ms(60))
            .drop()
            .seat(1, FalseLeader::choosing(Way::TwoChoices));
        let scenario = load(scenario, 2, 50, 4);
        let scenario = scenario.at_ms(50).crash(0).at_ms(55).restart(0);
        scenario.at_ms(150).expect_settled_within_ms(40_000)
    };
    borne(attack, &[]);
}

/// A9: the liar's votes reach one replica alone, which decides and is cut off. Whatever the others
/// do without it must agree with it (T).
#[test]
fn a09_one_replica_decides_and_vanishes() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::Propose).to(2).until_ms(400))
            .drop()
            .when(kind(Kind::Block).to(2).until_ms(400))
            .drop()
            .when(kind(Kind::Vote).from(3).to(0).until_ms(900))
            .lie(|_, _| Vec::new())
            .when(kind(Kind::Vote).from(3).to(2).until_ms(900))
            .lie(|_, _| Vec::new());
        // Links stand by now. Nobody hears from replica 1 that it decided.
        let scenario = scenario.at_ms(1);
        let scenario = [Kind::Status, Kind::Decided, Kind::Reply]
            .iter()
            .fold(scenario, |scenario, told| {
                scenario.when(kind(*told).from(1).until_ms(1_200)).drop()
            });
        let scenario = scenario
            .at_ms(2)
            .client(0)
            .put("hidden", "1")
            .at_ms(400)
            .expect_decided_by(1, 1)
            .partition(&[&[1]])
            .crash(0)
            .at_ms(405)
            .restart(0);
        let scenario = load(scenario, 500, 700, 20);
        let scenario = scenario.at_ms(1_200).heal();
        scenario.expect_settled_within_ms(40_000)
    };
    borne(attack, &[]);
}

/// A13: the leader of view 1 chooses what hides the sole claimant, and tells only half of it.
#[test]
fn a13_the_sole_claimant_is_hidden() {
    for way in [Way::Hides, Way::OnlyHalf] {
        let attack = || {
            // Replica 2 alone holds the last block; what it voted counts with those of two others.
            let scenario = Scenario::new(4)
                .when(kind(Kind::Propose).to(3).until_ms(60))
                .drop()
                .when(kind(Kind::Block).to(3).until_ms(60))
                .drop()
                .when(kind(Kind::Vote).until_ms(60))
                .drop()
                .seat(1, FalseLeader::choosing(way));
            let scenario = load(scenario, 2, 50, 4);
            let scenario = scenario.at_ms(60).crash(0).at_ms(65).restart(0);
            scenario.at_ms(150).expect_settled_within_ms(40_000)
        };
        borne(attack, &[]);
    }
}

/// A15, SELECT-2: the leader forks its chain above a checkpoint that one replica does not have.
#[test]
fn a15_a_fork_above_a_checkpoint_that_some_lack() {
    let attack = || {
        let scenario = Scenario::new(4)
            .checkpoint_every(4)
            .when(kind(Kind::Checkpoint).to(3).until_ms(120))
            .drop()
            .when(kind(Kind::CheckpointCertificate).to(3).until_ms(120))
            .drop()
            .seat(0, Equivocator::telling_from_ms(4, &[1], 40));
        let scenario = load(scenario, 2, 100, 4);
        scenario.at_ms(200).expect_settled_within_ms(40_000)
    };
    borne(attack, &[]);
}

/// A19, BYZ16: votes by MAC alone, good for one and bad for two: as if it voted selectively.
#[test]
fn a19_votes_by_mac_that_are_good_for_half() {
    let attack = || {
        let scenario = Scenario::new(4)
            .votes_by_mac()
            .seat(3, HalfHeard::wrong_for(4, &[0, 2]));
        let scenario = load(scenario, 2, 60, 4);
        let scenario = scenario.at_ms(60).expect_answered(0);
        let scenario = scenario.crash(0).at_ms(65).restart(0);
        let scenario = load(scenario, 100, 160, 8);
        scenario.at_ms(200).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A36, V-WF: the leader's signature on what one replica gets is bad, the others decide the block:
/// the tip of that replica must be one that it can show.
#[test]
fn a36_a_tip_without_the_leaders_signature() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::Propose).from(0).to(2))
            .mutate(|propose| {
                // Behind the header of the block: its signature (see wire/src/block.rs).
                if let Some(byte) = propose.body.get_mut(100) {
                    *byte ^= 1;
                }
            });
        let scenario = load(scenario, 2, 40, 4);
        let scenario = scenario.at_ms(40).expect_decided_by(1, 1);
        // The others must do with what replica 2 says.
        let scenario = scenario.crash(3).crash(0).at_ms(45).restart(0);
        let scenario = load(scenario, 60, 100, 8);
        let scenario = scenario.at_ms(400).restart(3);
        scenario.expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A36: a jump over blocks that never came survives a restart, and is told in the view change.
#[test]
fn a36_a_jump_survives_a_restart() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(any().from(0).to(2).until_ms(30))
            .drop();
        let scenario = load(scenario, 2, 60, 4);
        let scenario = scenario.at_ms(60).crash(2).at_ms(62).restart(2);
        let scenario = scenario.at_ms(70).crash(0).at_ms(75).restart(0);
        let scenario = load(scenario, 100, 160, 8);
        scenario.at_ms(200).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}
