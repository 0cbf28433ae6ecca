//! What shows one core that a block is what it seems, and what it does with one that is not; by hand, as in
//! `alone`.

use consensus::{Effect, Input, RecordAs, Recovered, Source};
use wire::certificates::Place;
use wire::ids::{Digest, NodeId, Slot, View};
use wire::messages::SignedHeader;
use wire::seal::{Statement, sign};

use crate::alone::{Alone, LEADER, chain, config, in_view_one, log_of};
use crate::asking::refused;
use crate::liars::unsigned;
use crate::world::{FOUR, INVALID, MS, World, genesis, place_of};

/// N2: a block of the installed view is that of its leader. What the leader of another view signs above
/// one that it made up itself proves nothing.
#[test]
fn a_leader_vouches_for_blocks_of_its_own_view_alone() {
    let mut world = World::new(FOUR, 532);
    let recovered = in_view_one(genesis(), Recovered::blank(genesis()));
    let mut alone = Alone::new(&world, config(&world), recovered);
    let takes =
        |alone: &mut Alone, signed: SignedHeader| !refused(&alone.offer(Source::Vouched, signed));
    let (old, new) = (NodeId(0), NodeId(1));
    for (view, by, expected) in [(0, old, false), (1, new, true)] {
        let below = world.forge(new, 1, genesis(), 10 + view as u8);
        let above = world.forge(by, view, place_of(&below.header), 20 + view as u8);
        // A liar names it, so that it has a use here.
        alone.hear_vote(&world, 2, view, place_of(&above.header));
        let place = place_of(&above.header);
        alone.hear_claim(MS, 2, place);
        alone.offer(Source::Fetched, above);
        assert!(alone.core.knows(place));
        assert_eq!(takes(&mut alone, unsigned(below)), expected, "view {view}");
    }
}

/// R2, §11: what shows that a block is one's own leader's, or final, though no copy bears a signature.
#[test]
fn what_is_settled_claimed_or_has_a_checked_child_is_vouched_for() {
    let mut world = World::new(FOUR, 535);
    let blocks = chain(&mut world, 3);
    let places = [0, 1, 2].map(|at: usize| place_of(&blocks[at].header));
    let log = || log_of(&blocks, RecordAs::Vote);
    let config = config(&world);
    // Of another view than their children, which say nothing then.
    let vouched = |recovered| {
        let alone = Alone::new(&world, config, recovered);
        places.map(|place| alone.core.is_vouched(View(7), place))
    };
    assert_eq!(vouched(log()), [false; 3]);
    let decided = Recovered {
        decided: places[1],
        ..log()
    };
    assert_eq!(vouched(decided), [true, true, false]);
    assert_eq!(
        vouched(in_view_one(places[1], log())),
        [true, true, false],
        "the base"
    );
    let elsewhere = Place {
        slot: Slot(3),
        digest: Digest([77; 32]),
    };
    assert_eq!(
        vouched(in_view_one(elsewhere, log())),
        [false; 3],
        "the base is on another chain, for all that is known"
    );

    let mut alone = Alone::new(&world, config, Recovered::blank(genesis()));
    for (from, vouched) in [(1, false), (1, false), (2, true)] {
        alone.hear_claim(MS, from, places[2]);
        assert_eq!(alone.core.is_vouched(View(0), places[2]), vouched);
    }
    for (source, vouched) in [(Source::Proposed, false), (Source::Fetched, true)] {
        let mut alone = Alone::new(&world, config, Recovered::blank(genesis()));
        alone.offer(source, blocks[1]);
        assert!(alone.core.knows(places[1]));
        assert_eq!(alone.core.is_vouched(View(0), places[0]), vouched);
        assert!(!alone.core.is_vouched(View(1), places[0]));
    }
}

/// V3: a base that was acknowledged stays retrievable here, also after a restart.
#[test]
fn a_base_that_was_acknowledged_before_a_restart_is_vouched_for() {
    let mut world = World::new(FOUR, 534);
    let block = world.forge(LEADER, 0, genesis(), 1);
    let place = place_of(&block.header);
    let statement = Statement::NewViewAck {
        view: View(1),
        base_slot: place.slot,
        base: place.digest,
    };
    let config = config(&world);
    let ack = sign(&world.seals[config.me.index()], statement);
    for (ack, vouched) in [(None, false), (Some(ack), true)] {
        let recovered = Recovered {
            stage: View(1),
            tip: genesis(),
            ack,
            ..log_of(&[block], RecordAs::Fetched)
        };
        let alone = Alone::new(&world, config, recovered);
        assert_eq!(alone.core.is_vouched(View(0), place), vouched);
    }
}

/// N9: an invalid block of which only the header was kept keeps out no other one, which may be what the
/// others have; two of one slot are evidence, whichever was found first.
#[test]
fn an_invalid_block_and_another_one_of_its_slot_are_evidence() {
    let mut world = World::new(FOUR, 539);
    let (config, blank) = (config(&world), Recovered::blank(genesis()));
    let bad = world.forge(LEADER, 0, genesis(), INVALID);
    let other = world.forge(LEADER, 0, genesis(), 2);
    let is_evidence = |effect: &Effect| matches!(effect, Effect::Evidence(_));
    for bad_first in [false, true] {
        let mut alone = Alone::new(&world, config, blank.clone());
        let mut said = Vec::new();
        for turn in [bad_first, !bad_first] {
            assert!(!said.iter().any(is_evidence), "of one block");
            if turn {
                said.extend(alone.tell(MS, Input::Unsound { signed: bad }));
            } else {
                let digest = other.header.digest();
                let taken = alone
                    .core
                    .would_take(&other.header, &other.signature, digest, false);
                assert_eq!(taken, Ok(()));
                said.extend(alone.offer(Source::Fetched, other));
            }
        }
        assert!(!refused(&said), "{said:?}");
        assert!(said.iter().any(is_evidence), "{said:?}");
    }
}

/// §11: the parent of a block that does not hold is nothing to ask for; what others vote for is.
#[test]
fn the_parent_of_an_invalid_block_is_not_asked_for() {
    let mut world = World::new(FOUR, 536);
    let (config, blank) = (config(&world), Recovered::blank(genesis()));
    let mut alone = Alone::new(&world, config, blank);
    alone.core.set_started(true);
    let lost = place_of(&world.forge(LEADER, 0, genesis(), 77).header);
    let signed = world.forge(LEADER, 0, lost, INVALID);
    alone.tell(MS, Input::Unsound { signed });
    let wanted = place_of(&world.forge(LEADER, 0, genesis(), 1).header);
    let mut asked = std::collections::BTreeSet::new();
    for ms in 2..500 {
        let mut effects = alone.hear_vote(&world, 1, 0, wanted);
        effects.extend(alone.tell(ms * MS, Input::Tick));
        for effect in effects {
            if let Effect::FetchBlock { place, .. } = effect {
                asked.insert(place);
            }
        }
    }
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), [wanted]);
}

/// A slot of which more blocks are here than there is room for makes room for the one that is final.
#[test]
fn a_final_block_takes_the_room_of_its_rivals() {
    let mut world = World::new(FOUR, 538);
    let (config, blank) = (config(&world), Recovered::blank(genesis()));
    let mut alone = Alone::new(&world, config, blank);
    for mark in 0..4 {
        let rival = world.forge(LEADER, 0, genesis(), 10 + mark);
        let place = place_of(&rival.header);
        // Each but the first is named by somebody, and has a use for that.
        match mark {
            0 => {}
            3 => drop(alone.hear_claim(MS, 2, place)),
            from => drop(alone.hear_vote(&world, from.into(), 0, place)),
        }
        assert!(!refused(&alone.offer(Source::Fetched, rival)), "{mark}");
    }
    let last = world.forge(LEADER, 0, genesis(), 20);
    for (from, taken) in [(0, false), (1, true)] {
        alone.hear_claim(MS, from, place_of(&last.header));
        let effects = alone.offer(Source::Fetched, last);
        assert_eq!(!refused(&effects), taken, "{effects:?}");
    }
}
