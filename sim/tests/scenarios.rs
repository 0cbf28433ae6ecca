//! Named runs, and what the language of scenarios itself must do.

use sim::liars::LiarKind;
use sim::probes::Probe;
use sim::scenario::{Scenario, any, kind};
use wire::header::Kind;

#[test]
fn a_follower_crashes_and_catches_up() {
    Scenario::new(4)
        .at_ms(5)
        .crash(1)
        .at_ms(10)
        .client(0)
        .put("a", "1")
        .expect_progress_within_ms(50)
        .at_ms(60)
        .restart(1)
        .at_ms(100)
        .expect_decided_by(1, 2)
        .expect_value("a", "1")
        .expect_settled_within_ms(1000)
        .run()
        .unwrap();
}

/// The cluster is idle, the blocks that a replica lacks are released, and no state arrives: empty
/// blocks make another checkpoint, once in a minute and no more.
#[test]
fn an_idle_cluster_makes_a_checkpoint_for_a_replica_that_is_cut_off() {
    // More than are kept in memory.
    const LAST: u64 = 75;
    const NEXT: u64 = 80;
    let mut scenario = Scenario::new(4)
        .checkpoint_every(8)
        .release_log()
        .when(kind(Kind::Chunk).until_ms(20_000))
        .drop()
        .at_ms(5)
        .client(0)
        .put("a", "0")
        .at_ms(50)
        .crash(3);
    for put in 0..LAST - 2 {
        scenario = scenario
            .at_ms(60 + 20 * put)
            .client(0)
            .put("a", put.to_string());
    }
    let outcome = scenario
        .at_ms(2_000)
        .expect_decided(LAST)
        .expect_undecided(LAST + 1)
        .restart(3)
        .at_ms(8_000)
        .expect_decided(NEXT)
        .expect_undecided(NEXT + 1)
        .at_ms(19_000)
        .expect_undecided(NEXT + 1)
        .at_ms(32_000)
        .expect_decided_by(3, NEXT)
        .expect_value("a", (LAST - 3).to_string())
        .expect_settled_within_ms(1_000)
        .run()
        .unwrap();
    assert!(outcome.probes.count(Probe::SnapshotWritten) > 0);
}

#[test]
fn lost_votes_are_sent_again_after_a_status() {
    let outcome = Scenario::new(4)
        .when(kind(Kind::Vote).until_ms(30))
        .drop()
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .at_ms(30)
        .expect_undecided(1)
        .expect_progress_within_ms(100)
        .at_ms(150)
        .expect_answered(0)
        .run()
        .unwrap();
    assert!(outcome.probes.named()["sent-status"] > 0);
}

/// R4, Y5: it hands its view over, and the next leader goes on.
#[test]
fn a_restarted_leader_hands_over() {
    let outcome = Scenario::new(4)
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .at_ms(20)
        .expect_answered(0)
        .crash(0)
        .at_ms(25)
        .restart(0)
        .at_ms(30)
        .client(0)
        .put("a", "2")
        .expect_progress_within_ms(300)
        .run()
        .unwrap();
    assert!(outcome.probes.count(Probe::LeaderBarred) > 0);
    assert!(outcome.probes.count(Probe::ViewChanged) > 0);
    assert!(outcome.probes.named()["sent-resign"] > 0);
}

#[test]
fn what_arrives_twice_is_executed_once() {
    let outcome = Scenario::new(4)
        .when(any())
        .duplicate(3)
        .at_ms(2)
        .client(0)
        .cas("n", None, "1")
        .at_ms(20)
        .client(0)
        .cas("n", Some("1"), "2")
        .at_ms(40)
        .client(1)
        .put("m", "1")
        .at_ms(80)
        .expect_executed(3)
        .expect_value("n", "2")
        .expect_settled_within_ms(500)
        .run()
        .unwrap();
    assert_eq!(outcome.acknowledged, 3);
}

#[test]
fn halves_commit_nothing_and_heal() {
    Scenario::new(4)
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .at_ms(20)
        .expect_answered(0)
        .partition(&[&[0, 1], &[2, 3]])
        .client(0)
        .put("a", "2")
        .expect_no_progress_for_ms(300)
        .at_ms(320)
        .heal()
        .expect_progress_within_ms(200)
        .at_ms(600)
        .expect_value("a", "2")
        .expect_settled_within_ms(1000)
        .run()
        .unwrap();
}

/// Votes for another block, from one replica with a good link, neither stop the others nor count.
#[test]
fn a_liars_votes_for_nothing_do_no_harm() {
    let outcome = Scenario::new(4)
        .when(kind(Kind::Vote).from(3))
        .mutate(|vote| vote.body[0] ^= 1)
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .at_ms(30)
        .expect_answered(0)
        .expect_settled_within_ms(500)
        .run()
        .unwrap();
    assert!(outcome.probes.count(Probe::Lied) > 0);
    // With one vote less there is no quorum: so they really do not count.
    Scenario::new(4)
        .when(kind(Kind::Vote).from(3))
        .mutate(|vote| vote.body[0] ^= 1)
        .crash(2)
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .expect_no_progress_for_ms(200)
        .run()
        .unwrap();
}

/// A2, as far as one view goes: x to one, y to two. What two of three honest replicas hold may be
/// decided with the liar's vote; the third must never decide the other.
#[test]
fn an_equivocating_leader_decides_one_block_at_most() {
    let outcome = Scenario::new(4)
        .when(kind(Kind::Propose).from(0).to(3))
        .lie(|context, propose| {
            let other = context.authentic.another_block(&propose);
            other.into_iter().collect()
        })
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .at_ms(100)
        .expect_decided_by(1, 1)
        .expect_decided_by(2, 1)
        .run()
        .unwrap();
    assert!(outcome.probes.count(Probe::Lied) > 0);
}

/// The other block is as good as the first: told to all, all followers decide it.
#[test]
fn another_block_of_a_lying_leader_is_well_signed() {
    Scenario::new(4)
        .when(kind(Kind::Propose).from(0))
        .lie(|context, propose| {
            let other = context.authentic.another_block(&propose);
            other.into_iter().collect()
        })
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .at_ms(50)
        .expect_decided_by(3, 1)
        .run()
        .unwrap();
}

/// What is said anew under the liar's key is accepted: its votes are needed here.
#[test]
fn a_lie_passes_the_links() {
    let outcome = Scenario::new(4)
        .when(kind(Kind::Vote).from(1))
        .lie(|context, vote| {
            assert_eq!(context.me.0, 1);
            vec![vote.clone(), vote]
        })
        .crash(3)
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .at_ms(30)
        .expect_decided(2)
        .run()
        .unwrap();
    assert!(outcome.probes.count(Probe::Lied) > 0);
}

#[test]
fn a_silent_replica_is_not_missed_and_two_faults_are() {
    let silent = || Scenario::new(4).liar(2, LiarKind::Silent);
    silent()
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .expect_progress_within_ms(50)
        .run()
        .unwrap();
    let stuck = (0..8).filter(|seed| {
        let scenario = silent()
            .seed(*seed)
            .crash(3)
            .at_ms(2)
            .client(0)
            .put("a", "1");
        scenario.expect_no_progress_for_ms(100).run().is_ok()
    });
    // Some of these liars still speak to the leader.
    assert!(stuck.count() > 0);
}

#[test]
fn flipped_bits_are_refused_and_delays_and_detours_are_survived() {
    let outcome = Scenario::new(4)
        .when(kind(Kind::Vote).from(1).to(0).first(2))
        .corrupt()
        .when(kind(Kind::Propose).to(2).first(1))
        .hold_until_ms(40)
        .when(kind(Kind::Vote).to(3).skip(1).first(1))
        .redirect(2)
        .when(kind(Kind::Reply).to_client(0))
        .delay_us(500)
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .at_ms(10)
        .pause_for_ms(1, 20)
        .at_ms(60)
        .client(0)
        .delete("a")
        .at_ms(100)
        .crash_between_effects(1, 500, 10)
        .client(0)
        .get("a")
        .expect_settled_within_ms(1000)
        .run()
        .unwrap();
    assert!(outcome.probes.count(Probe::CorruptRefused) > 0);
    assert!(outcome.probes.count(Probe::InputsHeld) > 0);
}

#[test]
fn power_is_lost_and_what_was_acknowledged_is_there() {
    Scenario::new(4)
        .at_ms(2)
        .client(0)
        .put("a", "1")
        .at_ms(30)
        .expect_answered(0)
        .crash_all()
        .at_ms(50)
        .restart_all()
        .at_ms(200)
        .expect_decided_by(3, 2)
        .expect_value("a", "1")
        .run()
        .unwrap();
}

#[test]
fn what_is_expected_and_does_not_happen_is_told() {
    let idle = || Scenario::new(4).at_ms(20);
    let told = |scenario: Scenario| scenario.run().unwrap_err();
    assert!(told(idle().expect_decided(1)).contains("slot 1 decided"));
    assert!(told(idle().expect_decided_by(2, 1)).contains("decided by 2"));
    assert!(told(idle().expect_view(0, 7)).contains("in view 7"));
    assert!(told(idle().expect_executed(1)).contains("1 operations"));
    assert!(told(idle().expect_value("a", "1")).contains("holds"));
    assert!(told(idle().expect_progress_within_ms(10)).contains("progress"));
    assert!(told(idle().expect_violation("R2")).contains("expected a violation"));
    assert!(told(idle().crash(1).expect_settled_within_ms(50)).contains("not up"));
    let put = || idle().client(0).put("a", "1");
    let unheard = put().when(any().from_client(0)).drop();
    assert!(told(unheard.at_ms(40).expect_answered(0)).contains("open"));
    assert!(told(put().expect_no_progress_for_ms(50)).contains("no progress"));
    let decided = || put().at_ms(60);
    assert!(told(decided().expect_undecided(1)).contains("undecided"));
    idle()
        .crash(1)
        .expect_settled_within_ms(50)
        .expect_violation("not up")
        .run()
        .unwrap();
}

#[test]
fn scenarios_repeat() {
    let run = |seed| {
        let scenario = Scenario::new(4).seed(seed).at_ms(2).client(0).put("a", "1");
        scenario.at_ms(30).run().unwrap().digest
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
