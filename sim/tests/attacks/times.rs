//! Networks and clocks at their worst.

use sim::scenario::{Scenario, any, kind};
use wire::header::Kind;

use crate::{borne, load};

/// A23: every link loses, doubles or delays something, one of them one way for good.
#[test]
fn a23_links_lose_double_and_delay() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(any().from(1).to(2))
            .drop()
            .when(any().from(0).to(3).until_ms(900))
            .delay_us(40_000)
            .when(any().from(2).to(0).until_ms(900))
            .duplicate(3)
            .when(any().from(3).first(40))
            .drop()
            .when(any().to(1).skip(10).first(60))
            .delay_us(150_000);
        let scenario = load(scenario, 2, 300, 10);
        scenario.at_ms(1_000).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A24: the clock of a follower, then of the leader, jumps by a minute: timers may fire, no more. One
/// replica that loses patience moves nothing (Y3).
#[test]
fn a24_clocks_jump() {
    let attack = || {
        let scenario = load(Scenario::new(4), 2, 50, 5);
        let scenario = scenario.at_ms(51).clock_jumps_by_ms(2, 60_000);
        let scenario = load(scenario, 52, 100, 5);
        let scenario = scenario.at_ms(101).clock_jumps_by_ms(0, 60_000);
        let scenario = load(scenario, 102, 150, 5);
        let scenario = scenario.at_ms(200).expect_answered(0).expect_answered(1);
        scenario.expect_view(1, 0).expect_settled_within_ms(2_000)
    };
    borne(attack, &[]);
}

/// A33, Y2: two glitches a minute apart, each at another replica alone. A wish that was withdrawn is
/// not counted with a later one of somebody else.
#[test]
fn a33_old_wishes_are_not_added_up() {
    let deaf = |scenario: Scenario, node: usize, until_ms: u64| {
        let kinds = [Kind::Vote, Kind::Decided, Kind::Status, Kind::Propose];
        kinds.iter().fold(scenario, |scenario, deaf| {
            scenario
                .when(kind(*deaf).to(node).until_ms(until_ms))
                .drop()
        })
    };
    let attack = || {
        let scenario = load(deaf(Scenario::new(4), 1, 2_500), 2, 2_400, 50);
        let scenario = scenario.at_ms(20_000);
        let scenario = load(deaf(scenario, 2, 22_500), 20_002, 22_400, 50);
        let scenario = scenario.at_ms(24_000).expect_answered(0);
        let scenario = (0..4).fold(scenario, |scenario, node| scenario.expect_view(node, 0));
        scenario.expect_settled_within_ms(2_000)
    };
    borne(attack, &[]);
}

/// A37: wall clocks minutes apart; time is the leader's hint, and no part of validity (N2).
#[test]
fn a37_clocks_are_minutes_apart() {
    let attack = || {
        let scenario = Scenario::new(4)
            .wall_clock_ahead_by_s(1, 300)
            .wall_clock_ahead_by_s(2, 3_600);
        let scenario = load(scenario, 2, 60, 5);
        // The next leader's clock is ahead of, the one after it behind the log's time.
        let scenario = scenario.at_ms(60).crash(0).at_ms(65).restart(0);
        let scenario = load(scenario, 100, 160, 5);
        let scenario = scenario.at_ms(160).crash(1).at_ms(165).restart(1);
        let scenario = load(scenario, 200, 260, 5);
        scenario.at_ms(300).expect_settled_within_ms(10_000)
    };
    borne(attack, &[]);
}
