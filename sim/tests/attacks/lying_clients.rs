//! Clients that lie beside honest ones, which must be served as if they were alone (CLI1-CLI7).

use sim::liars::clients::ClientKind;
use sim::scenario::Scenario;

use crate::{borne, load};

fn served_beside(kind: ClientKind) {
    let attack = || {
        let scenario = Scenario::new(4).lying_client(kind);
        let scenario = load(scenario, 2, 300, 10);
        // Nobody is blamed for what a client does: the leader stays.
        scenario
            .at_ms(350)
            .expect_answered(0)
            .expect_answered(1)
            .expect_view(0, 0)
            .expect_settled_within_ms(5_000)
    };
    borne(attack, &[]);
}

#[test]
fn cli1_bad_signatures_and_false_names() {
    served_beside(ClientKind::Forger);
}

/// Beyond the window for the leader, open for the followers a moment later (A32, §9.3).
#[test]
fn cli2_replays_and_numbers_in_disorder() {
    served_beside(ClientKind::Disorder);
}

/// It gives up, again and again, what followers stand up for: that puts no leader on trial (T2).
#[test]
fn cli2_a_client_that_gives_up() {
    let attack = || {
        let scenario = Scenario::new(4).lying_client(ClientKind::Disorder);
        // Patience is measured first.
        let scenario = load(scenario, 1, 300, 3);
        let scenario = load(scenario, 300, 6_000, 40);
        scenario
            .at_ms(6_050)
            .expect_answered(0)
            .expect_view(0, 0)
            .expect_settled_within_ms(5_000)
    };
    borne(attack, &[]);
}

#[test]
fn cli3_every_length() {
    served_beside(ClientKind::Lengths);
}

#[test]
fn cli4_two_operations_under_one_number() {
    served_beside(ClientKind::TwoFaced);
}

#[test]
fn cli5_a_flood() {
    served_beside(ClientKind::Flood);
}

#[test]
fn cli6_a_crowd_of_sessions() {
    served_beside(ClientKind::Crowd);
}

#[test]
fn cli7_scans_whose_replies_nobody_takes() {
    served_beside(ClientKind::Scanner);
}
