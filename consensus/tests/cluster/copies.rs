//! Copies of blocks under signatures that are not the leader's. The digest does not bind the
//! signature, so such a copy says nothing of its block, and must cost nothing but a question.

use consensus::{RecordAs, Source};
use wire::certificates::Place;
use wire::ids::{NodeId, Slot, View};
use wire::messages::SignedHeader;
use wire::seal::Statement;

use crate::disk::Entry;
use crate::liars::unsigned;
use crate::world::{FOUR, MS, Message, SECOND, World, genesis, place_of};

const LIAR: NodeId = NodeId(0);
const VICTIM: NodeId = NodeId(3);

fn propose(world: &mut World, to: u16, signed: SignedHeader) {
    world.send(LIAR, NodeId(to), Message::Block(Source::Proposed, signed));
}

/// A crash after these votes were written, before the first was checked.
fn restart_with(world: &mut World, id: NodeId, votes: &[SignedHeader]) {
    let disk = &mut world.replicas[id.index()].disk;
    for signed in votes {
        disk.durable = disk.append(Entry::Block(RecordAs::Vote, *signed)).0;
    }
    world.restart(id);
    let last = votes.last().expect("there are some");
    assert_eq!(tip(world, id), place_of(&last.header));
}

fn tip(world: &World, id: NodeId) -> Place {
    world.replicas[id.index()].core.as_ref().unwrap().tip()
}

#[test]
fn a_block_that_reached_one_replica_unsigned_is_acknowledged_in_the_next_view() {
    for seed in 0..10 {
        let mut world = World::new(FOUR, 200 + seed);
        world.corrupt(LIAR);
        let x = world.forge(LIAR, 0, genesis(), 1);
        propose(&mut world, 1, x);
        propose(&mut world, 2, x);
        propose(&mut world, 3, unsigned(x));
        // The liar is silent from here on: three votes decide, and it gives none.
        world.load = true;
        world.expect_progress(10, 30 * SECOND);
        assert!(world.correct().all(|id| world.view_of(id) >= View(1)));
        assert_eq!(world.digest_of(3, 1), place_of(&x.header).digest);
    }
}

/// V3, §11: a restart keeps an unsigned copy below what was voted for (R2), and its replica shows both in
/// its view change. There is no other copy, and the block above it, which the leader signed, names it.
#[test]
fn an_unsigned_copy_that_one_replica_restarted_with_can_be_below_the_base_of_the_next_view() {
    for seed in 0..10 {
        let mut world = World::new(FOUR, 310 + seed);
        world.corrupt(LIAR);
        let x = world.forge(LIAR, 0, genesis(), 1);
        let y = world.forge(LIAR, 0, place_of(&x.header), 2);
        world.run(5 * MS);
        restart_with(&mut world, VICTIM, &[unsigned(x), y]);
        world.load = true;
        world.expect_progress(10, 30 * SECOND);
        assert_eq!(world.digest_of(1, 2), place_of(&y.header).digest);
    }
}

/// SELECT-5, V3: two view changes show different blocks above one of which there are only unsigned copies;
/// the base is that one.
#[test]
fn a_block_of_which_there_are_unsigned_copies_alone_can_be_the_base() {
    for seed in 0..10 {
        let mut world = World::new(FOUR, 330 + seed);
        world.corrupt(LIAR);
        // What would name the blocks above it to the third one is lost.
        world.filter = Some(|_, to, message| {
            let names = match message {
                Message::Signed(said) => {
                    matches!(said.statement, Statement::Vote { view, .. } if view == View(0))
                }
                Message::Status(status) => status.installed == View(0),
                _ => false,
            };
            !(to == NodeId(1) && names)
        });
        let x = world.forge(LIAR, 0, genesis(), 1);
        world.run(5 * MS);
        for (id, mark) in [(2, 2), (3, 3)] {
            let above = world.forge(LIAR, 0, place_of(&x.header), mark);
            restart_with(&mut world, NodeId(id), &[unsigned(x), above]);
        }
        world.load = true;
        world.expect_progress(10, 30 * SECOND);
        assert_eq!(world.digest_of(1, 1), place_of(&x.header).digest);
    }
}

#[test]
fn a_good_copy_takes_the_place_of_an_unsigned_one_before_it_is_written() {
    let mut world = World::new(FOUR, 220);
    world.corrupt(LIAR);
    let x = world.forge(LIAR, 0, genesis(), 1);
    let y = world.forge(LIAR, 0, place_of(&x.header), 2);
    // y comes without its parent and is held; a good copy of it follows, then the parent.
    propose(&mut world, 3, unsigned(y));
    world.run(3 * MS);
    world.send(LIAR, VICTIM, Message::Block(Source::Fetched, y));
    world.run(3 * MS);
    propose(&mut world, 3, x);
    let voted = |w: &World| w.replicas[3].core.as_ref().unwrap().summary().voted;
    assert!(
        world.run_until(SECOND, |w| voted(w) == Slot(2)),
        "{}",
        world.describe()
    );
    // Its vote has left: the log must back it after a crash (R2).
    world.restart(VICTIM);
    assert_eq!(tip(&world, VICTIM), place_of(&y.header));
    let log = world.replicas[VICTIM.index()].disk.blocks();
    assert!(log.into_iter().all(|signed| signed == x || signed == y));
}

#[test]
fn a_slot_with_more_blocks_than_are_remembered_keeps_the_own_one() {
    // A leader's rivals, each of which had to be written for some view change before GST.
    let mut world = World::new(FOUR, 230);
    world.corrupt(LIAR);
    world.run(5 * MS);
    let x = world.forge(LIAR, 0, genesis(), 1);
    let y = world.forge(LIAR, 0, place_of(&x.header), 2);
    let rivals = (10..15).map(|mark| world.forge(LIAR, 0, genesis(), mark));
    let rivals = rivals.collect::<Vec<_>>();
    let disk = &mut world.replicas[VICTIM.index()].disk;
    for rival in rivals {
        disk.append(Entry::Block(RecordAs::Fetched, rival));
    }
    disk.append(Entry::Block(RecordAs::Vote, x));
    disk.durable = disk.append(Entry::Block(RecordAs::Vote, y)).0;
    world.restart(VICTIM);
    let core = world.replicas[VICTIM.index()].core.as_ref().unwrap();
    assert_eq!(core.tip(), place_of(&y.header));
    assert!(
        core.has_written(place_of(&x.header)),
        "its view change is whole"
    );
    world.load = true;
    world.expect_progress(10, 30 * SECOND);
}

#[test]
fn a_block_decided_before_its_signature_was_looked_at_survives_a_restart() {
    for seed in 0..10 {
        let mut world = World::new(FOUR, 240 + seed);
        world.corrupt(LIAR);
        let x = world.forge(LIAR, 0, genesis(), 1);
        let y = world.forge(LIAR, 0, place_of(&x.header), 2);
        for to in [1, 2] {
            propose(&mut world, to, x);
            propose(&mut world, to, y);
            world.lie_vote(LIAR, to, &y);
        }
        world.lie_vote(LIAR, 3, &x);
        // The others decide x at the victim while its copy is still being checked.
        world.run(20 * MS);
        propose(&mut world, 3, unsigned(x));
        world.run(20 * MS);
        propose(&mut world, 3, y);
        world.run(20 * MS);
        world.restart(VICTIM);
        world.load = true;
        world.expect_progress(10, 30 * SECOND);
        assert_eq!(world.digest_of(3, 2), place_of(&y.header).digest);
    }
}

#[test]
fn an_unsigned_copy_below_the_base_of_a_new_view_is_borne() {
    // The certified chain is right whatever signature one copy bears: q replicas checked it.
    for seed in 0..20 {
        let mut world = World::new(FOUR, 260 + seed);
        world.corrupt(LIAR);
        let x = world.forge(LIAR, 0, genesis(), 1);
        let y = world.forge(LIAR, 0, place_of(&x.header), 2);
        for to in [1, 2] {
            propose(&mut world, to, x);
            propose(&mut world, to, y);
        }
        propose(&mut world, 3, unsigned(y));
        world.load = true;
        let others = |w: &World| w.view_of(NodeId(1)) >= View(1) && w.view_of(NodeId(2)) >= View(1);
        let _ = world.run_until(SECOND, others);
        propose(&mut world, 3, unsigned(x));
        world.expect_progress(10, 30 * SECOND);
    }
}

/// §11: two chains of an equivocating leader fill the buffers of whoever must hold both.
#[test]
fn rivals_that_nothing_needs_make_room_when_buffers_are_scarce() {
    let mut world = World::new(FOUR, 290);
    world.corrupt(LIAR);
    let x = world.forge(LIAR, 0, genesis(), 1);
    let y = world.forge(LIAR, 0, place_of(&x.header), 2);
    let rival = world.forge(LIAR, 0, place_of(&x.header), 3);
    propose(&mut world, 3, x);
    world.run(3 * MS);
    propose(&mut world, 3, y);
    world.run(3 * MS);
    // Others do not hear of it yet: the victim stays in the view.
    world.filter = Some(|_, _, message| !matches!(message, Message::Evidence(_)));
    // A vote names the rival, so it is fetched, and held beside the block that was voted for.
    world.lie_vote(LIAR, 3, &rival);
    world.run(3 * MS);
    world.send(LIAR, VICTIM, Message::Block(Source::Fetched, rival));
    world.run(3 * MS);
    let holds = |w: &World, signed: &SignedHeader| {
        let bytes = &w.replicas[VICTIM.index()].bytes;
        bytes.contains_key(&place_of(&signed.header))
    };
    assert!(holds(&world, &x) && holds(&world, &y) && holds(&world, &rival));
    assert_eq!(world.view_of(VICTIM), View(0), "the rival is of the view");
    world.scarce = 100;
    world.run(5 * MS);
    assert!(holds(&world, &x) && holds(&world, &y) && !holds(&world, &rival));
    assert_eq!(world.view_of(VICTIM), View(0));
    world.filter = None;
    // Whichever of the two the next view begins on, what it lacks is fetched anew.
    for to in [1, 2] {
        propose(&mut world, to, x);
        world.run(3 * MS);
        propose(&mut world, to, rival);
    }
    world.load = true;
    world.expect_progress(10, 30 * SECOND);
}

/// Each pair that is handed out costs two checks. What a leader says on its own link is its word,
/// whatever the signatures are worth: the view is given up, and proof is sought once.
#[test]
fn a_leader_that_signs_badly_has_proof_sought_once() {
    let mut world = World::new(FOUR, 300);
    world.corrupt(LIAR);
    let x = world.forge(LIAR, 0, genesis(), 1);
    for payload in 2..40 {
        let top = world.forge(LIAR, 0, place_of(&x.header), payload);
        for to in [1, 2, 3] {
            propose(&mut world, to, unsigned(top));
        }
    }
    let given_up = |w: &World| w.correct().all(|id| w.view_of(id) >= View(1));
    assert!(world.run_until(100 * MS, given_up), "{}", world.describe());
    for id in [1, 2, 3] {
        assert_eq!(world.replicas[id].accusations, 1);
    }
}
