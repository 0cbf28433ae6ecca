//! Leaders that say two things, and what view changes make of it.

use std::cell::RefCell;
use std::rc::Rc;

use sim::canaries::Canary;
use sim::liars::{Equivocator, FalseChanges};
use sim::scenario::{Scenario, kind};
use wire::header::Kind;

use crate::{borne, load};

/// A2, A3, A4: x to 1, y to 2 and 3, which decide y with the liar's vote; its view change claims x.
/// The exclusion of the proven liar, with the tightened threshold, must yield y.
#[test]
fn a03_an_equivocator_claims_the_branch_that_lost() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, Equivocator::telling(4, &[1]));
        let scenario = load(scenario, 2, 40, 4);
        scenario.at_ms(200).expect_settled_within_ms(20_000)
    };
    let broken = [Canary::Noexcl, Canary::Loose, Canary::Thresh];
    borne(attack, &broken);
}

/// A4: only the leader's word stands for the longest tip.
#[test]
fn a04_the_longest_tip_is_the_equivocators() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, Equivocator::telling(4, &[1]));
        let scenario = load(scenario, 2, 40, 4);
        scenario.at_ms(200).expect_settled_within_ms(20_000)
    };
    borne(attack, &[Canary::Maxtip]);
}

/// A7: two blocks for one slot come to one replica: it votes for the first alone.
#[test]
fn a07_no_vote_for_a_second_block() {
    let attack = || {
        // The second comes after the first was voted for, and nothing tells that it is decided.
        let kept = Rc::new(RefCell::new(None));
        let said = Rc::clone(&kept);
        let scenario = [Kind::Vote, Kind::Decided]
            .iter()
            .fold(Scenario::new(4), |scenario, deaf| {
                scenario.when(kind(*deaf).to(2).until_ms(60)).drop()
            });
        let scenario = [1, 3].iter().fold(scenario, |scenario, from| {
            let claims = kind(Kind::Status).from(*from).to(2).until_ms(60);
            scenario.when(claims).drop()
        });
        let scenario = scenario
            .when(kind(Kind::Propose).from(0).to(2))
            .lie(move |context, propose| {
                *kept.borrow_mut() = context.authentic.another_block(&propose);
                vec![propose]
            })
            .when(kind(Kind::Status).from(0).to(2))
            .lie(move |_, status| {
                let other = said.borrow_mut().take();
                [Some(status), other].into_iter().flatten().collect()
            });
        let scenario = load(scenario, 2, 30, 4);
        scenario.at_ms(200).expect_settled_within_ms(20_000)
    };
    borne(attack, &[Canary::Doublevote]);
}

/// A10: with COMMITs decided by three of four, one of whom denies everything in the view change:
/// the certificate of a single replica carries the block.
#[test]
fn a10_a_certificate_that_one_replica_shows() {
    let attack = || {
        let scenario = Scenario::shaped("4-strict")
            .when(kind(Kind::Propose).to(3))
            .drop()
            .when(kind(Kind::Block).to(3))
            .drop()
            .seat(2, FalseChanges::denying());
        let scenario = load(scenario, 2, 30, 4);
        let scenario = scenario.at_ms(40).crash(0).at_ms(45).restart(0);
        scenario.at_ms(400).expect_view(1, 1)
    };
    borne(attack, &[Canary::Noqc]);
}
