//! Leaders that serve badly.

use sim::canaries::Canary;
use sim::liars::{BadBatch, Censor, EndSigner, HalfHeard, SlowLeader, Starver, Timestamps, Twin};
use sim::network::End;
use sim::scenario::{Scenario, any};

use crate::{borne, load};

/// A12: payloads reach one replica only; the others fetch them, or leave the leader.
#[test]
fn a12_payloads_for_one_replica_only() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, Starver::serving(2));
        let scenario = load(scenario, 2, 40, 8);
        scenario.at_ms(100).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A12: one replica gets no blocks from the leader and keeps up all the same.
#[test]
fn a12_one_replica_is_starved() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, Starver::starving(2));
        let scenario = load(scenario, 2, 60, 4);
        scenario
            .at_ms(500)
            .expect_decided_by(2, 10)
            .expect_view(2, 0)
    };
    borne(attack, &[]);
}

/// R2, §11: of most blocks there is no copy that their leader signed. They are decided all the same, and who
/// was sent none of them has them in the end.
#[test]
fn blocks_that_no_leader_signed_are_decided_and_found() {
    for left_out in [None, Some(2)] {
        let attack = || {
            let scenario = Scenario::new(4).seat(0, EndSigner::of(2, left_out));
            let scenario = load(scenario, 2, 100, 4);
            let scenario = scenario
                .at_ms(101)
                .expect_decided_by(1, 8)
                .expect_view(1, 0);
            scenario.expect_settled_within_ms(20_000)
        };
        borne(attack, &[]);
    }
}

/// A17: slower than anybody, yet within T1 at first: progress goes on.
#[test]
fn a17_a_slow_leader() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, SlowLeader::by_ms(300));
        let scenario = load(scenario, 2, 100, 20);
        scenario.at_ms(100).expect_settled_within_ms(30_000)
    };
    borne(attack, &[]);
}

/// A17, T4: proposals once in 45 ms, which is more than five commits take and less than T1 bears: the
/// leader keeps its view for as long as T4 leaves any, and no longer. Its clients reach followers
/// alone: others would wait longer before they turn to all, and what followers do not hold is no
/// backlog.
#[test]
fn a17_a_leader_that_is_slow_within_t1_is_replaced() {
    let attack = || {
        let scenario = Scenario::new(4)
            .seat(0, SlowLeader::pacing_ms(45))
            .when(any().from_client(0).to(0))
            .drop()
            .when(any().from_client(1).to(0))
            .drop();
        let scenario = load(scenario, 2, 4_900, 7);
        let scenario = scenario.at_ms(4_900).expect_view(1, 0).expect_view(2, 0);
        // Patience is measured in 64 decisions first, and these come slowly.
        let scenario = load(scenario, 4_900, 16_000, 7);
        let scenario = scenario.at_ms(16_000).expect_view(1, 1).expect_view(2, 1);
        scenario.expect_settled_within_ms(5_000)
    };
    borne(attack, &[]);
}

/// T4: a healthy leader is not replaced, however its load goes up and down.
#[test]
fn a_healthy_leader_keeps_its_view_under_changing_load() {
    let attack = || {
        let mut scenario = Scenario::new(4);
        for second in 0..12 {
            let from_ms = 2 + 1_000 * second;
            let every_ms = [1, 97, 3, 400][second as usize % 4];
            scenario = load(scenario, from_ms, from_ms + 998, every_ms);
        }
        let scenario = (0..4).fold(scenario.at_ms(12_100), |scenario, node| {
            scenario.expect_view(node, 0)
        });
        scenario.expect_settled_within_ms(5_000)
    };
    borne(attack, &[]);
}

/// A18: a leader that ignores one client is left, and the client is served.
#[test]
fn a18_a_censoring_leader() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, Censor::of(End(4)));
        let scenario = load(scenario, 2, 60, 8);
        scenario.at_ms(100).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A18, N9: a request with a bad signature under a good header.
#[test]
fn a18_a_bad_request_in_a_block() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, BadBatch::from_ms(20, true));
        let scenario = load(scenario, 2, 60, 4);
        scenario.at_ms(100).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A30: one byte of a client's signature is another than the header says.
#[test]
fn a30_a_payload_that_its_header_does_not_name() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, BadBatch::from_ms(20, false));
        let scenario = load(scenario, 2, 60, 4);
        scenario.at_ms(100).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A19: authentic for one follower and not for the two others.
#[test]
fn a19_authentic_for_half() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, HalfHeard::wrong_for(4, &[2, 3]));
        let scenario = load(scenario, 2, 60, 8);
        scenario.at_ms(100).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A22: two processes with the leader's key, each known to some.
#[test]
fn a22_twins_lead() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, Twin::parted(4, &[2, 3]));
        let scenario = load(scenario, 2, 60, 8);
        scenario.at_ms(100).expect_settled_within_ms(30_000)
    };
    borne(attack, &[]);
}

/// A37: time hints from the end of time.
#[test]
fn a37_time_hints_from_the_end_of_time() {
    let attack = || {
        let scenario = Scenario::new(4).seat(0, Timestamps::hinting(u64::MAX));
        let scenario = load(scenario, 2, 60, 8);
        scenario.at_ms(100).expect_settled_within_ms(30_000)
    };
    borne(attack, &[Canary::Samevoter]);
}
