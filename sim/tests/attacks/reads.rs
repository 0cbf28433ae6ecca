//! Reads beside the order (protocol §9.6): fences under attack.

use sim::ask::{Ask, If};
use sim::canaries::Canary;
use sim::liars::{LiarKind, Spoken};
use sim::scenario::{Scenario, any, kind};
use wire::header::{Fragment, Kind};
use wire::ops::ResultBuffer;
use wire::read::ReadReplyHead;

use crate::{borne, load};

/// A READ-REPLY that says this, whatever the replica has executed.
fn says(spoken: &mut Spoken, value: Option<&[u8]>) {
    let mut result = ResultBuffer::new();
    match value {
        Some(value) => result.value(value),
        None => result.absent(),
    }
    spoken.body.truncate(size_of::<ReadReplyHead>());
    spoken.body.extend_from_slice(result.bytes());
    spoken.fragment = Fragment::whole(&spoken.body);
}

/// A write is told to client 0 while these replicas, which voted for it, do not learn before
/// `until_ms` that the votes were enough. It is 90 ms then.
fn written_where_few_know(scenario: Scenario, nodes: &[usize], until_ms: u64) -> Scenario {
    // Links and sessions first.
    let scenario = scenario.at_ms(2).client(0).put("b", "1");
    let scenario = scenario.client(1).get("b").at_ms(60);
    let scenario = nodes.iter().fold(scenario, |scenario, node| {
        // What replicas say of their votes in STATUS counts too.
        let kinds = [Kind::Vote, Kind::Decided, Kind::Status];
        kinds.into_iter().fold(scenario, |scenario, of| {
            scenario.when(kind(of).to(*node).until_ms(until_ms)).drop()
        })
    });
    let scenario = scenario.client(0).put("a", "new");
    scenario.at_ms(90).expect_answered(0).expect_answered(1)
}

/// §9.6 (b): a fenced read takes no part in the order, and needs three of four.
#[test]
fn a_fenced_read_needs_no_block_and_three_of_four() {
    for away in [None, Some(0), Some(3)] {
        let attack = || {
            let scenario = Scenario::new(4).at_ms(2).client(0).put("key 0", "new");
            let scenario = scenario.at_ms(60).client(1).get_fenced("absent");
            let scenario = scenario.at_ms(70);
            let scenario = match away {
                Some(node) => scenario.crash(node),
                None => scenario,
            };
            scenario
                .at_ms(71)
                .client(1)
                .get_fenced("key 0")
                .client(1)
                .scan_fenced("key", "", 10)
                .at_ms(75)
                .expect_answered(1)
                .expect_fenced(1, 3)
                .expect_executed(1)
        };
        borne(attack, &[]);
    }
}

/// A25: two replicas voted and have not executed, a third lies that nothing was written. Who had
/// been told of the write must not be told otherwise.
#[test]
fn a25_a_lagging_pair_and_a_liar() {
    let attack = || {
        let liar = Scenario::new(4)
            .when(kind(Kind::ReadReply).from(3))
            .mutate(|spoken| says(spoken, None));
        let scenario = written_where_few_know(liar, &[1, 2], 400);
        let scenario = scenario.client(1).get_fenced("a");
        let scenario = scenario.at_ms(600).client(1).get_fenced("a");
        scenario.at_ms(610).expect_settled_within_ms(10_000)
    };
    borne(attack, &[Canary::Nofence]);
}

/// A25, without a liar: of five replicas two may complete a write, and three are enough for a read.
#[test]
fn a25_three_of_five_are_behind() {
    let attack = || {
        let scenario = written_where_few_know(Scenario::new(5), &[2, 3, 4], 300);
        let scenario = scenario
            .when(kind(Kind::ReadReply).from(0).until_ms(300))
            .drop()
            .client(1)
            .get_fenced("a");
        scenario.at_ms(310).expect_settled_within_ms(10_000)
    };
    borne(attack, &[Canary::Nofence]);
}

/// A25: reads while the view changes, with a replica that says nothing, one that lies, or none.
#[test]
fn a25_reads_while_views_change() {
    for other in 0..3 {
        let attack = || {
            let scenario = Scenario::new(4);
            let scenario = match other {
                1 => scenario.when(any().from(3).until_ms(300)).drop(),
                2 => scenario.liar(3, LiarKind::WrongStates),
                _ => scenario,
            };
            let scenario = (2..200u64).step_by(3).fold(scenario, |scenario, at| {
                let scenario = scenario.at_ms(at);
                let scenario = if at == 41 {
                    scenario.crash(0)
                } else if at == 47 {
                    scenario.restart(0)
                } else {
                    scenario
                };
                let key = format!("key {}", at % 3);
                let scenario = scenario.client(0).put(&key, format!("{at}"));
                let scenario = scenario.client(1).get_fenced(&key);
                scenario.client(2).scan_fenced("key", "", 10)
            });
            let scenario = scenario.at_ms(400).client(2).get_fenced("key 0");
            scenario.expect_settled_within_ms(20_000)
        };
        borne(attack, &[]);
    }
}

/// A25: what was voted in view 0 and decided nowhere is given up, or not: readers agree on it.
#[test]
fn a25_a_tail_that_nobody_decided() {
    let attack = || {
        let scenario = Scenario::new(4)
            .at_ms(2)
            .client(0)
            .put("a", "old")
            .at_ms(20)
            .when(kind(Kind::Vote).until_ms(60))
            .drop()
            .client(0)
            .put("a", "new")
            .at_ms(22)
            .crash(0)
            .at_ms(24)
            .client(1)
            .get_fenced("a")
            .client(2)
            .get_fenced("a");
        let scenario = scenario.at_ms(60).restart(0);
        let scenario = (100..200).step_by(7).fold(scenario, |scenario, at| {
            scenario
                .at_ms(at)
                .client(1 + at as usize % 2)
                .get_fenced("a")
        });
        scenario.at_ms(300).expect_settled_within_ms(20_000)
    };
    borne(attack, &[]);
}

/// A29, the part of one epoch: a replica that restarted, one that lags, and one that lies.
#[test]
fn a29_a_restarted_a_lagging_and_a_lying_replica() {
    let attack = || {
        let liar = Scenario::new(4)
            .when(kind(Kind::ReadReply).from(3))
            .mutate(|spoken| says(spoken, None))
            .when(kind(Kind::Wish).until_ms(1_400))
            .drop();
        // Replica 1 has voted: its log tells the next process so. That answers once it has waited
        // for what others hold of it (R6).
        let scenario = written_where_few_know(liar, &[1, 2], 1_400).crash(1);
        let scenario = scenario.at_ms(95).restart(1);
        let scenario = scenario.at_ms(1_150).client(1).get_fenced("a");
        let scenario = scenario.at_ms(1_600).client(1).get_fenced("a");
        scenario.at_ms(1_610).expect_settled_within_ms(10_000)
    };
    borne(attack, &[Canary::Nofence]);
}

/// §9.2, §9.6: one lie is not believed, whether it comes first or makes the number full.
#[test]
fn one_lying_answer_is_not_believed() {
    let first = || {
        let scenario = (0..3).fold(Scenario::new(4), |scenario, honest| {
            let filter = kind(Kind::ReadReply).from(honest);
            scenario.when(filter).delay_us(500)
        });
        lied_to(scenario)
    };
    borne(first, &[Canary::Onereply]);
    let last = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::ReadReply).from(2))
            .delay_us(2_000)
            .when(kind(Kind::ReadReply).from(3))
            .delay_us(1_000);
        lied_to(scenario)
    };
    borne(last, &[Canary::Mixreply]);
}

fn lied_to(scenario: Scenario) -> Scenario {
    scenario
        .when(kind(Kind::ReadReply).from(3))
        .mutate(|spoken| says(spoken, Some(b"lie")))
        .at_ms(2)
        .client(0)
        .put("a", "new")
        .at_ms(60)
        .expect_answered(0)
        .client(1)
        .get_fenced("a")
        .at_ms(80)
        .expect_answered(1)
        .expect_fenced(1, 1)
        .expect_settled_within_ms(1_000)
}

/// Under writes to what is read replicas rarely agree: such reads are ordered, and end.
#[test]
fn contended_reads_end() {
    let attack = || {
        let scenario = (0..4).fold(Scenario::new(4), |scenario, node| {
            let late = kind(Kind::Vote).to(node);
            scenario.when(late).delay_us(node as u64 * 700)
        });
        let scenario = (2..120u64).fold(scenario, |scenario, at| {
            let scenario = scenario.at_ms(at).client(0).put("a", format!("{at}"));
            let scenario = scenario.client(1).get_fenced("a");
            let held = vec![If::Present(b"a".to_vec())];
            let both = vec![
                Ask::Put(b"b".to_vec(), format!("{at}").into_bytes()),
                Ask::Get(b"a".to_vec()),
            ];
            let scenario = scenario.client(2).txn(held, both);
            scenario.client(2).scan("a", "", 5)
        });
        scenario.at_ms(121).expect_settled_within_ms(10_000)
    };
    borne(attack, &[]);
}

/// Reads and load together, without anything wrong.
#[test]
fn calm_reads_are_not_ordered() {
    let attack = || {
        let scenario = load(Scenario::new(4), 2, 60, 10);
        let scenario = (100..120).fold(scenario, |scenario, at| {
            scenario.at_ms(at).client(2).get_fenced("key 1")
        });
        let scenario = scenario.at_ms(140).expect_fenced(2, 20);
        scenario.expect_executed(6).expect_settled_within_ms(1_000)
    };
    borne(attack, &[]);
}
