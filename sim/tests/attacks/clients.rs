//! Clients alone against the cluster, or it against them.

use sim::canaries::Canary;
use sim::scenario::{Scenario, any, kind};
use wire::header::Kind;

use crate::{borne, load};

/// A32: a client that no leader hears is forwarded, and served.
#[test]
fn a32_requests_reach_followers_only() {
    let attack = || {
        let scenario = Scenario::new(4).when(any().from_client(0).to(0)).drop();
        let scenario = load(scenario, 2, 100, 10);
        scenario.at_ms(200).expect_settled_within_ms(10_000)
    };
    borne(attack, &[]);
}

/// §9.3: a client whose first answers are lost learns of its session from any b+1 replicas.
#[test]
fn a28_the_answers_to_an_open_are_lost() {
    let attack = || {
        Scenario::new(4)
            .when(kind(Kind::Reply).to_client(0).until_ms(300))
            .drop()
            .at_ms(2)
            .client(0)
            .put("a", "1")
            .when(any().from(0).to_client(0))
            .drop()
            .at_ms(300)
            .expect_settled_within_ms(10_000)
    };
    borne(attack, &[]);
}

/// A28: the same request comes again and again, also late; it runs once.
#[test]
fn a28_a_request_is_replayed() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::Request))
            .duplicate(4)
            .when(kind(Kind::Reply).to_client(0).until_ms(150))
            .drop();
        let scenario = load(scenario, 2, 100, 5);
        scenario.at_ms(200).expect_settled_within_ms(10_000)
    };
    borne(attack, &[]);
}

/// A quorum is counted by replicas.
#[test]
fn votes_count_once() {
    let attack = || {
        let scenario = load(Scenario::new(4), 2, 40, 4);
        scenario.at_ms(100).expect_settled_within_ms(1_000)
    };
    borne(attack, &[Canary::Lowquorum, Canary::Samevoter]);
}

/// CLI5: requests wait for a block, and no vote makes way for them.
#[test]
fn votes_do_not_make_way_for_clients() {
    let attack = || {
        let scenario = Scenario::new(4).batch_delay_us(1_000);
        let scenario = (2..22).fold(scenario, |scenario, ms| {
            let scenario = scenario.at_ms(ms);
            (0..8).fold(scenario, |scenario, client| {
                scenario
                    .client(client)
                    .put(format!("key {client}"), format!("{ms}"))
            })
        });
        let scenario = scenario.at_ms(30).expect_none_refused(0);
        scenario.expect_settled_within_ms(20_000)
    };
    borne(attack, &[Canary::Shedvotes]);
}
