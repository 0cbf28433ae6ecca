//! Changes of views under attack.

use sim::canaries::Canary;
use sim::liars::{Alarmist, FalseChanges, FalseLeader, Way};
use sim::scenario::{Scenario, kind};
use wire::header::Kind;

use crate::{borne, load};

/// A restarted leader resigns: the quickest honest way into another view.
fn resigns(scenario: Scenario, at_ms: u64) -> Scenario {
    scenario.at_ms(at_ms).crash(0).at_ms(at_ms + 5).restart(0)
}

/// A1: decided in view 0, a lying leader in view 1, and view 2 keeps it.
#[test]
fn a01_a_lying_leader_between_two_honest_ones() {
    for way in [Way::WrongBase, Way::Hides, Way::TwoChoices, Way::OnlyHalf] {
        let attack = || {
            let scenario = Scenario::new(4).seat(1, FalseLeader::choosing(way));
            let scenario = load(scenario, 2, 40, 4);
            let scenario = resigns(scenario, 40);
            scenario.at_ms(100).expect_settled_within_ms(40_000)
        };
        borne(attack, &[]);
    }
}

/// A5: a view that nobody certified is claimed once view 2 is entered.
#[test]
fn a05_a_view_that_nobody_certified() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::NewView).from(1))
            .drop()
            .seat(3, FalseChanges::pretending());
        let scenario = load(scenario, 2, 40, 4);
        let scenario = load(resigns(scenario, 40), 70, 90, 5);
        scenario.at_ms(100).expect_settled_within_ms(40_000)
    };
    borne(attack, &[Canary::Fakeview]);
}

/// A7: votes in a view that was left, too few view changes, forgotten acknowledgement rules.
#[test]
fn a07_what_was_left_is_left() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::Vote).from(0).until_ms(60))
            .drop()
            .when(kind(Kind::Propose).to(3))
            .delay_us(3_000);
        let scenario = load(scenario, 2, 60, 2);
        let scenario = resigns(scenario, 60);
        scenario
            .at_ms(100)
            .expect_view(2, 1)
            .expect_settled_within_ms(20_000)
    };
    borne(attack, &[Canary::Vcsmall]);
}

/// A11, A14: acknowledgements of two bases, and old certificates again and again.
#[test]
fn a14_split_acknowledgements_and_stale_certificates() {
    let attack = || {
        let scenario = Scenario::new(4).seat(3, Alarmist::splitting());
        let scenario = load(scenario, 2, 40, 4);
        let scenario = resigns(scenario, 40);
        scenario.at_ms(100).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A16: b liars that wish for another view all the time do not move it.
#[test]
fn a16_the_wishes_of_a_liar_move_nothing() {
    let attack = || {
        let scenario = Scenario::new(4).seat(3, Alarmist::wishing());
        let scenario = load(scenario, 2, 400, 20);
        let scenario = scenario.at_ms(600).expect_answered(0).expect_answered(1);
        (0..3).fold(scenario, |scenario, node| scenario.expect_view(node, 0))
    };
    borne(attack, &[Canary::Onewish]);
}

/// A16: a replica that was cut off wishes, and must be voted with all the same: another is down.
#[test]
fn a16_a_lone_wisher_keeps_voting() {
    let attack = || {
        let scenario = Scenario::new(4).crash(3);
        let scenario = load(scenario, 2, 40, 4);
        // Its leader's proposals come late for so long that it loses patience alone.
        let scenario = scenario
            .when(kind(Kind::Vote).to(1).until_ms(2600))
            .drop()
            .when(kind(Kind::Decided).to(1).until_ms(2600))
            .drop()
            .when(kind(Kind::Status).to(1).until_ms(2600))
            .drop();
        let scenario = load(scenario, 44, 2400, 40);
        scenario.at_ms(2500).expect_view(0, 0).expect_view(2, 0)
    };
    borne(attack, &[Canary::Wishstops]);
}

/// A31: what certifies view 1 is lost for one replica, which learns decisions of that view.
#[test]
fn a31_decisions_of_a_view_before_its_certificate() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::NewViewAck).to(3).until_ms(300))
            .drop()
            .when(kind(Kind::NewViewCertificate).to(3).until_ms(300))
            .drop();
        let scenario = load(scenario, 2, 40, 4);
        let scenario = resigns(scenario, 40);
        let scenario = load(scenario, 60, 200, 10);
        scenario.at_ms(600).expect_settled_within_ms(5_000)
    };
    borne(attack, &[]);
}
