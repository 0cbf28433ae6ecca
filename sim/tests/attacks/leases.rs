//! Votes that leave without the disk (R3), and what is owed for them.

use sim::canaries::Canary;
use sim::scenario::{Scenario, kind};
use wire::header::Kind;
use wire::ids::Slot;
use wire::messages::{STATUS_SILENT, Status, StatusBody};
use zerocopy::IntoBytes;

use crate::{borne, load};

/// Leases, and disks so slow that whoever crashes under load has forgotten votes.
fn cluster() -> Scenario {
    let scenario = Scenario::new(4).leases().writes_take_us(8_000);
    scenario.checkpoint_every(8)
}

/// A8: a replica that forgot votes says nothing before a checkpoint has covered them; then it votes.
#[test]
fn a08_whoever_forgot_votes_is_silent_until_they_are_history() {
    let attack = || {
        let scenario = load(cluster(), 20, 100, 4);
        let scenario = scenario.at_ms(101).crash(3).at_ms(110).restart(3);
        let scenario = scenario.at_ms(112).expect_silent(3, true);
        let scenario = load(scenario, 120, 400, 4);
        let scenario = scenario.at_ms(900).expect_silent(3, false);
        // It counts again: another one may be missing.
        let scenario = scenario.at_ms(901).crash(1);
        let scenario = load(scenario, 910, 960, 10);
        let scenario = scenario.at_ms(2_000).expect_answered(0).expect_answered(1);
        scenario.restart(1).at_ms(2_002).expect_silent(1, true)
    };
    borne(attack, &[Canary::Shortsilence]);
}

/// The first votes leave when the first lease is on the disk, and later ones with it alone.
#[test]
fn votes_wait_for_their_lease() {
    let attack = || {
        let scenario = Scenario::new(4).leases().writes_take_us(20_000);
        // START is durable after the first write, LEASE after the second.
        let scenario = load(scenario.checkpoint_every(8), 2, 120, 4);
        let scenario = scenario.at_ms(121);
        scenario.expect_settled_within_ms(5_000)
    };
    borne(attack, &[Canary::Leaselate]);
}

/// A27: a clean stop skips silence; its marker says nothing of a later crash.
#[test]
fn a27_a_marker_counts_for_its_own_process() {
    let attack = || {
        let scenario = load(cluster(), 20, 60, 4);
        let scenario = scenario.at_ms(61).stop_for_ms(3, 5);
        let scenario = scenario.at_ms(120).expect_silent(3, false);
        let scenario = load(scenario, 121, 160, 4);
        let scenario = scenario.at_ms(161).crash(3).at_ms(170).restart(3);
        let scenario = scenario.at_ms(172).expect_silent(3, true);
        // Stopped cleanly while it is silent: what the process before forgot is still forgotten.
        let scenario = scenario.at_ms(173).stop_for_ms(3, 5);
        let scenario = scenario.at_ms(193).expect_silent(3, true);
        scenario.at_ms(194).expect_settled_within_ms(20_000)
    };
    borne(attack, &[Canary::Oldmarker]);
}

/// A35: on an idle cluster the leader fills up to the checkpoint that ends a silence.
#[test]
fn a35_silence_ends_on_an_idle_cluster() {
    let attack = || {
        let scenario = load(cluster(), 20, 40, 4);
        let scenario = scenario.at_ms(60).crash(2).at_ms(70).restart(2);
        let scenario = scenario.at_ms(72).expect_silent(2, true);
        let scenario = scenario.at_ms(2_000).expect_silent(2, false);
        // The leader itself: it hands its view over, and another one fills up.
        let scenario = scenario.at_ms(2_001).crash(0).at_ms(2_010).restart(0);
        let scenario = scenario.at_ms(2_012).expect_silent(0, true);
        scenario.at_ms(6_000).expect_silent(0, false)
    };
    borne(attack, &[]);
}

/// A35: a lying STATUS asks for blocks up to an impossible lease, and up to one that could be.
#[test]
fn a35_silent_spam_costs_one_run() {
    let spam = |lease: u64| {
        let scenario = cluster().at_ms(10);
        let scenario = scenario
            .when(kind(Kind::Status).from(1))
            .mutate(move |spoken| {
                let status = StatusBody::decode(&spoken.body).unwrap();
                let status = Status {
                    lease: Slot(lease),
                    flags: status.flags | STATUS_SILENT,
                    ..status
                };
                spoken.body = StatusBody::encode(&status).as_bytes().to_vec();
            });
        scenario.at_ms(20_000)
    };
    spam(u64::MAX).expect_undecided(1).run().unwrap();
    let once = spam(20).expect_decided(24).expect_undecided(25);
    once.run().unwrap();
}

/// A35: a crash with leases while another replica is dead, or silent too: nothing more commits, and
/// nothing that was decided is contradicted.
#[test]
fn a35_more_silent_or_dead_than_borne_stop_the_cluster() {
    let attack = |back: bool| {
        let scenario = load(cluster(), 20, 100, 4);
        let scenario = scenario.at_ms(101).crash(2).crash(3).at_ms(110).restart(3);
        let scenario = if back { scenario.restart(2) } else { scenario };
        let scenario = scenario.at_ms(112).expect_silent(3, true);
        let scenario = scenario.at_ms(120).client(0).put("late", "1");
        let scenario = scenario.at_ms(150).expect_no_progress_for_ms(3_000);
        scenario.at_ms(3_200).expect_silent(3, true)
    };
    attack(false).run().unwrap();
    attack(true).run().unwrap();
}

/// All end at once: with leases the cluster has stopped for good, and says nothing wrong.
#[test]
fn everyone_crashes_with_leases() {
    let scenario = load(cluster(), 20, 60, 4);
    let scenario = scenario.at_ms(61).crash_all().at_ms(70).restart_all();
    let scenario = (0..4).fold(scenario.at_ms(75), |s, node| s.expect_silent(node, true));
    let scenario = scenario.client(0).put("late", "1");
    let scenario = scenario.at_ms(80).expect_no_progress_for_ms(3_000);
    scenario.run().unwrap();
}

/// R5: without durability no word waits for the disk; whoever ends uncleanly has lost his, and the
/// one who was stopped has not.
#[test]
fn without_durability_an_unclean_end_is_a_lost_disk() {
    let slow = || Scenario::new(4).writes_take_us(50_000);
    let asked = |scenario: Scenario| scenario.at_ms(200).client(0).put("key", "value");
    let by_now = |scenario: Scenario| asked(scenario).at_ms(220).expect_answered(0);
    by_now(slow()).run().unwrap_err();
    let scenario = by_now(slow().without_durability());

    let scenario = scenario.at_ms(300).stop_for_ms(1, 5);
    let scenario = scenario.at_ms(1_000).crash(3).at_ms(1_010).restart(3);
    let scenario = scenario.at_ms(1_020).expect_lost(3);
    // Three are left, and the one that was stopped is one of them.
    let scenario = load(scenario, 1_100, 1_200, 10);
    let scenario = scenario.at_ms(2_000).expect_answered(0).expect_answered(1);
    scenario.run().unwrap();
}
