//! Processes that end at the worst time.

use sim::canaries::Canary;
use sim::scenario::{Scenario, any, kind};
use wire::header::Kind;
use wire::ids::{Digest, NodeId, Signature, Slot, View};
use wire::messages::{Held, StatusBody};
use wire::seal::Statement;
use wire::state::{FetchStateBody, Part};
use zerocopy::IntoBytes;

use crate::{borne, load};

/// A8: votes survive a restart; the view change that follows tells of them.
#[test]
fn a08_a_restart_forgets_no_vote() {
    let attack = || {
        // Everything is voted and nothing is decided when two of them end.
        let scenario = Scenario::new(4).when(kind(Kind::Vote).until_ms(30)).drop();
        let scenario = load(scenario, 2, 20, 4);
        let scenario = scenario.at_ms(25).crash(0).crash(1);
        let scenario = scenario.at_ms(30).restart(0).restart(1);
        scenario.at_ms(100).expect_settled_within_ms(20_000)
    };
    borne(attack, &[Canary::Amnesia, Canary::Blankvotes]);
}

/// A8, A26: a leader that ends between PROPOSE and its log proposes no second block, in no boot.
#[test]
fn a26_a_leader_ends_before_its_first_block_is_written() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::Resign))
            .drop()
            .at_ms(2)
            .client(0)
            .put("a", "1")
            .at_ms(3)
            .crash(0)
            .at_ms(4)
            .restart(0);
        let scenario = load(scenario, 10, 300, 10);
        scenario.at_ms(400).expect_view(0, 0)
    };
    borne(attack, &[Canary::Repropose, Canary::Boot]);
}

/// A34: a leader restarts on an idle cluster, then all of them: it goes on at once.
#[test]
fn a34_everyone_restarts_while_idle() {
    let attack = || {
        let scenario = load(Scenario::new(4), 2, 20, 4);
        let scenario = scenario.at_ms(60).crash(0).at_ms(65).restart(0);
        let scenario = scenario.at_ms(200).crash_all().at_ms(220).restart_all();
        let scenario = scenario.at_ms(500).client(0).put("late", "1");
        scenario.expect_settled_within_ms(5_000)
    };
    borne(attack, &[]);
}

/// Votes leave after the flush that backs them.
#[test]
fn votes_wait_for_the_disk() {
    let attack = || {
        let scenario = load(Scenario::new(4), 2, 20, 4);
        scenario.at_ms(100).expect_settled_within_ms(1_000)
    };
    borne(attack, &[Canary::Votefirst]);
}

/// Links take each datagram once.
#[test]
fn a11_datagrams_come_twice() {
    let attack = || {
        let scenario = Scenario::new(4).when(any()).duplicate(3);
        let scenario = load(scenario, 2, 40, 4);
        // Two of three copies: fewer are refused where links take them again.
        let scenario = scenario.at_ms(100).expect_refused(1, 50);
        scenario.expect_settled_within_ms(2_000)
    };
    borne(attack, &[Canary::Noreplay]);
}

/// R6: a replica comes back with an old directory. Others hold votes of it that are not in its log:
/// it ends before it speaks.
#[test]
fn a_directory_that_was_put_back_is_noticed() {
    let attack = || {
        let scenario = load(Scenario::new(4), 2, 30, 4);
        let scenario = load(scenario.at_ms(30).restore_later(2), 30, 100, 4);
        let scenario = scenario.at_ms(100).crash(2).at_ms(120).restart(2);
        let scenario = load(scenario, 130, 200, 8);
        let scenario = scenario.at_ms(1_500).expect_lost(2);
        scenario.expect_settled_within_ms(5_000)
    };
    borne(attack, &[Canary::Rollbackok]);
}

/// R6: a liar names statements that the replica never made until it believes nothing of the kind from
/// that peer any more. What the others name still counts.
#[test]
fn bad_recalls_of_one_replica_do_not_silence_the_others() {
    let attack = || {
        let scenario = load(Scenario::new(4), 2, 30, 4);
        let scenario = load(scenario.at_ms(30).restore_later(2), 30, 100, 4);
        // For a while it hears the liar alone, and nothing that would move its tip.
        let honest = |from| any().from(from).to(2).until_ms(400);
        let scenario = scenario.at_ms(100).crash(2);
        let scenario = scenario.when(honest(0)).drop().when(honest(3)).drop();
        let scenario = scenario.when(any().from(1).to(2)).lie(|_, mut spoken| {
            if spoken.kind != Kind::Status {
                return Vec::new();
            }
            let mut status = StatusBody::decode(&spoken.body).unwrap();
            status.held = Some(Held {
                statement: Statement::Vote {
                    view: View(0),
                    slot: Slot(1 << 20),
                    digest: Digest([7; 32]),
                },
                signature: Signature([7; 64]),
            });
            spoken.body = StatusBody::encode(&status).as_bytes().to_vec();
            vec![spoken; 1_100]
        });
        let scenario = load(scenario.at_ms(120).restart(2), 130, 600, 8);
        scenario.at_ms(1_500).expect_lost(2)
    };
    borne(attack, &[Canary::Rollbackok]);
}

/// R6: all restart, and nobody remembers anything of anybody: they go on.
#[test]
fn everyone_restarts_and_nobody_knows_anything() {
    let attack = || {
        let scenario = load(Scenario::new(4), 2, 40, 4);
        let scenario = scenario.at_ms(41).crash_all().at_ms(50).restart_all();
        let scenario = load(scenario, 60, 100, 4);
        scenario.at_ms(600).expect_settled_within_ms(5_000)
    };
    borne(attack, &[]);
}

/// Logs that are let go only once they are full, under load.
fn fills_its_log(scenario: Scenario) -> Scenario {
    let scenario = load(scenario.small_log(8, u64::MAX), 2, 900, 1);
    scenario.at_ms(1_000).expect_settled_within_ms(20_000)
}

/// K2: logs fill up between two checkpoints, at all replicas at once. What they let go of is behind the
/// one that is there, not behind one that needs more blocks.
#[test]
fn a_full_log_waits_for_no_checkpoint() {
    let scenario = Scenario::new(4).checkpoint_every(64);
    fills_its_log(scenario).run().unwrap();
}

/// The same when all of them end meanwhile: the checkpoint is there after a restart, too.
#[test]
fn a_full_log_waits_for_no_checkpoint_after_a_restart() {
    for ms in [408, 420, 432, 438, 588, 600] {
        let scenario = Scenario::new(4).checkpoint_every(64).writes_take_us(2_000);
        let scenario = load(scenario.small_log(8, u64::MAX), 2, ms, 1);
        let scenario = scenario.at_ms(ms).crash_all();
        let scenario = scenario.at_ms(ms + 20).restart_all();
        let scenario = load(scenario, ms + 40, 900, 1).at_ms(1_000);
        let settled = scenario.expect_settled_within_ms(20_000).run();
        settled.unwrap_or_else(|reason| panic!("ended at {ms} ms: {reason}"));
    }
}

/// K2: a log that holds fewer than three intervals keeps nothing for others once it is full.
#[test]
fn a_small_log_keeps_nothing_for_others() {
    let scenario = Scenario::new(4).checkpoint_every(150);
    fills_its_log(scenario).run().unwrap();
}

/// K2, K4: a full log needs a snapshot of a newer checkpoint than the one that a liar keeps in use.
#[test]
fn a_liar_that_fetches_a_state_for_ever_keeps_no_full_log_waiting() {
    let scenario = Scenario::new(4).checkpoint_every(250);
    let asks = scenario
        .when(kind(Kind::Status).from(3))
        .lie(|context, spoken| {
            let to = NodeId(spoken.to.0 as u16);
            let fetch = |index: u64| {
                let slot = Slot(250 * index);
                let body = FetchStateBody::new(slot, Part::Summary).as_bytes().to_vec();
                context
                    .authentic
                    .say(to, Kind::FetchState, View(0), slot, body)
            };
            (1..8).map(fetch).chain([spoken]).collect()
        });
    fills_its_log(asks).run().unwrap();
}
