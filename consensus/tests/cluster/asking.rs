//! What one core asks for, believes and takes in of others' blocks; by hand, as in `alone`.

use consensus::{BlockCheck, Effect, Input, RecordAs, Recovered, Source};
use wire::ids::{Digest, NodeId, Position, Slot, View};
use wire::messages::{SignedHeader, Status};
use wire::seal::Statement;

use crate::alone::{Alone, LEADER, certified, chain, config, log_of, voter};
use crate::liars::unsigned;
use crate::world::{FOUR, GENESIS, INVALID, K, MS, SECOND, World, genesis, place_of};

/// What a replica says that has done nothing yet.
pub fn idle() -> Status {
    Status {
        stage: View(0),
        installed: View(0),
        committed: Slot(0),
        committed_digest: GENESIS,
        voted_slot: Slot(0),
        voted_digest: GENESIS,
        checkpoint: Slot(0),
        retained_from: Slot(1),
        lease: Slot(0),
        flags: 0,
        held: None,
    }
}

pub fn refused(effects: &[Effect]) -> bool {
    let is_refusal = |effect: &Effect| matches!(effect, Effect::Refuse { .. });
    effects.iter().any(is_refusal)
}

/// §11: a claim may cost a read of the log, so questions for claims are paced, by themselves: answers
/// with blocks do not take their turns.
#[test]
fn claims_have_a_pace_of_their_own() {
    let mut world = World::new(FOUR, 505);
    let blocks = chain(&mut world, 5);
    let recovered = Recovered {
        decided: place_of(&blocks[4].header),
        ..log_of(&blocks, RecordAs::Vote)
    };
    let config = config(&world);
    let mut alone = Alone::new(&world, config, recovered);
    let mut claims = |now: u64, count: u64| {
        let (from, first) = (NodeId(1), Slot(2));
        let answers = alone.tell(now, Input::FetchRange { from, first, count });
        let claims = |effect: &&Effect| matches!(effect, Effect::Decided { .. });
        answers.iter().filter(claims).count()
    };
    assert_eq!((claims(MS, 4), claims(MS, 4)), (1, 0));
    assert_eq!((claims(MS, 0), claims(MS, 0)), (1, 0));
    assert_eq!(claims(MS + SECOND, 0), 1);
}

/// §11: far behind, the next block is asked for by its claims. They are heard beside those of the end
/// of the range, so that a rival of it, which a liar sent before, keeps it not out.
#[test]
fn a_claim_below_another_one_is_heard() {
    let mut world = World::new(FOUR, 518);
    let (config, blank) = (config(&world), Recovered::blank(genesis()));
    let mut alone = Alone::new(&world, config, blank);
    let lost = world.forge(LEADER, 0, genesis(), 101);
    let rival = world.forge(LEADER, 0, place_of(&lost.header), 102);
    let first = world.forge(LEADER, 0, genesis(), 1);
    let good = world.forge(LEADER, 0, place_of(&first.header), 2);
    let far = world.forge(LEADER, 0, place_of(&good.header), 3);
    assert!(!refused(&alone.offer(Source::Fetched, rival)));
    assert!(
        refused(&alone.offer(Source::Fetched, good)),
        "nobody named it"
    );
    for block in [&far, &good] {
        alone.hear_claim(MS, 1, place_of(&block.header));
    }
    assert!(!refused(&alone.offer(Source::Fetched, good)));
}

/// §11: what b + 1 replicas claim is asked for, though a block is here that its leader did not sign, whose
/// parent does not exist, and votes of a liar name another.
#[test]
fn what_enough_replicas_claim_is_asked_for_in_its_turn() {
    let mut world = World::new(FOUR, 531);
    let blocks = chain(&mut world, 3);
    let recovered = Recovered {
        decided: place_of(&blocks[0].header),
        ..log_of(&blocks[..1], RecordAs::Vote)
    };
    let mut alone = Alone::new(&world, config(&world), recovered);
    alone.core.set_started(true);
    let lost = world.forge(LEADER, 0, place_of(&blocks[0].header), 77);
    let orphan = world.forge(LEADER, 0, place_of(&lost.header), 78);
    alone.offer(Source::Proposed, orphan);
    alone.hear_vote(&world, 0, 0, place_of(&orphan.header));
    let wanted = place_of(&blocks[1].header);
    let status = Status {
        committed: wanted.slot,
        committed_digest: wanted.digest,
        voted_slot: wanted.slot,
        voted_digest: Digest([77; 32]),
        ..idle()
    };
    let (mut asked, mut others) = (Vec::new(), 0);
    for ms in 2..2000 {
        for from in [1, 2] {
            let mut effects = alone.hear_claim(ms * MS, from, wanted);
            let from = NodeId(from);
            effects.extend(alone.tell(ms * MS, Input::Status { from, status }));
            for effect in effects {
                match effect {
                    Effect::FetchBlock { to, place, .. } if place == wanted => asked.push(to),
                    Effect::FetchBlock { .. } => others += 1,
                    _ => {}
                }
            }
        }
    }
    assert!(
        [1, 2].iter().all(|id| asked.contains(&NodeId(*id))),
        "{asked:?}"
    );
    // However many names there are.
    let times = asked.len();
    assert!(
        times.abs_diff(others) <= FOUR.n,
        "{times} and {others} times"
    );
}

/// §11: a leader may have signed no copy of a whole stretch but of its end. Ranges leave such blocks out;
/// who is far behind asks for the end by name, of every replica in turn, and all below comes along.
#[test]
fn far_behind_the_end_of_a_range_is_asked_for_by_name() {
    let mut world = World::new(FOUR, 533);
    let blocks = chain(&mut world, 60);
    let recovered = Recovered {
        decided: place_of(&blocks[0].header),
        ..log_of(&blocks[..1], RecordAs::Vote)
    };
    let mut alone = Alone::new(&world, config(&world), recovered);
    alone.core.set_started(true);
    let place_at = |slot: Slot| place_of(&blocks[slot.0 as usize - 1].header);
    let newest = place_at(Slot(60));
    let status = Status {
        committed: newest.slot,
        committed_digest: newest.digest,
        ..idle()
    };
    let mut asked = std::collections::BTreeSet::new();
    let mut claims = Vec::new();
    for ms in 2..2_000 {
        let mut effects = Vec::new();
        for from in [1, 2].map(NodeId) {
            effects.extend(alone.tell(ms * MS, Input::Status { from, status }));
        }
        for (from, slot) in claims.drain(..) {
            effects.extend(alone.hear_claim(ms * MS, from, place_at(slot)));
        }
        for effect in effects {
            match effect {
                // They claim the end, and there is no block to give.
                Effect::FetchRange { to, first, count } if [1, 2].contains(&to.0) => {
                    claims.push((to.0, Slot(first.0 + count.max(1) - 1)));
                }
                Effect::FetchBlock { to, place, have } => {
                    assert_eq!(place, place_at(place.slot));
                    asked.insert((to, place.slot.0 > 2, have));
                }
                _ => {}
            }
        }
    }
    for to in [1, 2].map(NodeId) {
        assert!(asked.contains(&(to, true, Slot(1))), "{asked:?}");
    }
}

/// §11: a range brings the signed ends of stretches alone. That they are held is enough to ask for what is
/// below them by name, the highest first, for its answer holds all the others.
#[test]
fn what_a_range_leaves_out_is_asked_for_at_once() {
    // What is claimed further away than one answer reaches comes later.
    for (highest, expected) in [(65, 65), (66, 2)] {
        let mut world = World::new(FOUR, 539);
        let blocks = chain(&mut world, 90);
        let mut behind = Behind::new(&world, &blocks);
        behind.ask_until(2);
        for slot in [5, 9] {
            behind.alone.offer(Source::Fetched, blocks[slot - 1]);
        }
        for (from, slot) in [(1, highest), (2, highest), (1, 2), (2, 2)] {
            let place = place_of(&blocks[slot - 1].header);
            behind.alone.hear_claim(2 * MS, from, place);
        }
        behind.ask_until(100);
        let named = |(at, effect): &(u64, Effect)| match effect {
            Effect::FetchBlock { place, have, .. } => Some((*at, place.slot.0, have.0)),
            _ => None,
        };
        let first = behind.asked.first().expect("a question").0;
        let named = behind.asked.iter().find_map(named);
        assert_eq!(named, Some((first, expected, 1)));
    }
}

/// §11: questions become rare while nothing comes of them. After a block of use they do not wait.
#[test]
fn a_block_of_use_hastens_the_next_question() {
    for (source, at) in [(Source::Fetched, 8), (Source::Proposed, 1)] {
        let mut world = World::new(FOUR, 540);
        let blocks = chain(&mut world, 90);
        let mut behind = Behind::new(&world, &blocks);
        behind.ask_until(1000);
        let before = behind.last_at();
        behind.ask_until(before + 2);
        // It is held above a gap, or links.
        let effects = behind.alone.offer_at(behind.now * MS, source, blocks[at]);
        assert!(!refused(&effects));
        let came = behind.now;
        behind.asked.clear();
        behind.ask_until(came + 30);
        let asked = behind.asked.iter().map(|(at, _)| at - came);
        let mut asked = asked.collect::<Vec<_>>();
        asked.dedup();
        assert!((5..8).contains(&asked[0]), "{source:?} {asked:?}");
        assert!(
            (10..14).contains(&(asked[1] - asked[0])),
            "{source:?} {asked:?}"
        );
    }
}

/// §11: whoever answered last is asked first the next time, for the leader may leave this replica out.
#[test]
fn whoever_answered_is_asked_first() {
    for (by, expected) in [(1, 1), (2, LEADER.0)] {
        let mut world = World::new(FOUR, 545);
        let blocks = chain(&mut world, 3);
        let recovered = Recovered {
            decided: place_of(&blocks[0].header),
            ..log_of(&blocks[..1], RecordAs::Vote)
        };
        let mut alone = Alone::new(&world, config(&world), recovered);
        alone.core.set_started(true);
        let mut asked = Vec::new();
        for ms in 2..80 {
            let mut effects = match ms {
                2 => alone.hear_vote(&world, 2, 0, place_of(&blocks[1].header)),
                // Replica 1 was asked last.
                20 => alone.offer_from(20 * MS, NodeId(by), Source::Fetched, blocks[1]),
                21 => alone.hear_vote(&world, 2, 0, place_of(&blocks[2].header)),
                _ => Vec::new(),
            };
            effects.extend(alone.tell(ms * MS, Input::Tick));
            for effect in effects {
                if let Effect::FetchBlock { to, place, .. } = effect {
                    asked.push((place.slot.0, to.0));
                }
            }
        }
        assert_eq!(asked[..3], [(2, LEADER.0), (2, 1), (3, expected)]);
    }
}

/// §11: a range comes in many blocks. While they come, the next question waits; not for what another one
/// sends.
#[test]
fn the_rest_of_a_range_is_waited_for() {
    let second_question = |answered: Option<bool>| {
        let mut world = World::new(FOUR, 546);
        let blocks = chain(&mut world, 90);
        let mut behind = Behind::new(&world, &blocks);
        while behind.asked.is_empty() {
            behind.ask_until(behind.now + 1);
        }
        let first = behind.now;
        let serving = behind.asked.iter().find_map(|(_, effect)| match effect {
            Effect::FetchRange { to, count: 1.., .. } => Some(*to),
            _ => None,
        });
        let serving = serving.expect("a question for a range");
        behind.ask_until(first + 8);
        if let Some(by_serving) = answered {
            let other = NodeId(if serving == NodeId(1) { 2 } else { 1 });
            let from = if by_serving { serving } else { other };
            let effects =
                behind
                    .alone
                    .offer_from(behind.now * MS, from, Source::Fetched, blocks[8]);
            assert!(!refused(&effects));
        }
        behind.asked.clear();
        behind.ask_until(first + 30);
        behind.asked[0].0 - first
    };
    assert_eq!(second_question(None), 10);
    assert_eq!(second_question(Some(true)), 13);
    assert_eq!(second_question(Some(false)), 10);
}

/// §11: a liar that led a view before makes up blocks, claims them itself, and sends them as if they had been
/// asked for. That puts no question off, and does not make it the one that is asked first.
#[test]
fn blocks_that_nobody_asked_for_put_no_question_off() {
    let questions = |liar: bool| {
        let mut world = World::new(FOUR, 544);
        let blocks = chain(&mut world, 4);
        let recovered = Recovered {
            decided: place_of(&blocks[0].header),
            ..log_of(&blocks[..1], RecordAs::Vote)
        };
        let mut alone = Alone::new(&world, config(&world), recovered);
        alone.core.set_started(true);
        alone.hear_vote(&world, 2, 0, place_of(&blocks[2].header));
        let (mut asked, mut taken) = (Vec::new(), 0);
        for ms in 2..200 {
            let mut effects = Vec::new();
            if liar && ms % 3 == 0 {
                let mut parent = genesis();
                for _ in 0..3 + ms / 3 {
                    parent = place_of(&world.forge(LEADER, 0, parent, 100).header);
                }
                let junk = world.forge(LEADER, 0, parent, 50);
                effects.extend(alone.hear_claim(ms * MS, LEADER.0, place_of(&junk.header)));
                let said = alone.offer_from(ms * MS, LEADER, Source::Fetched, junk);
                taken += usize::from(!refused(&said));
                effects.extend(said);
            }
            effects.extend(alone.tell(ms * MS, Input::Tick));
            let to = effects.iter().filter_map(|effect| match effect {
                Effect::FetchBlock { to, .. } => Some((ms, *to)),
                _ => None,
            });
            asked.extend(to);
        }
        (asked, taken)
    };
    let (undisturbed, _) = questions(false);
    assert!(undisturbed.len() > 4, "{undisturbed:?}");
    let (disturbed, taken) = questions(true);
    assert!(taken > 20, "{taken}");
    for (turn, (disturbed, undisturbed)) in disturbed.iter().zip(&undisturbed).enumerate() {
        assert!(disturbed.0 <= undisturbed.0, "{disturbed:?}");
        assert!(turn >= 3 || disturbed.1 == undisturbed.1, "{disturbed:?}");
    }
}

/// §11: the leader feeds this replica a branch that has lost, block by block: that puts no question for what
/// the others have decided off, and every one of them is asked.
#[test]
fn a_branch_that_has_lost_puts_no_question_off() {
    let mut world = World::new(FOUR, 547);
    let blocks = chain(&mut world, 3);
    let recovered = Recovered {
        decided: place_of(&blocks[0].header),
        ..log_of(&blocks[..1], RecordAs::Vote)
    };
    let mut alone = Alone::new(&world, config(&world), recovered);
    alone.core.set_started(true);
    let wanted = place_of(&blocks[2].header);
    let mut top = place_of(&blocks[0].header);
    let (mut asked, mut linked) = (Vec::new(), Slot(0));
    for tick in 1..2000 {
        let now = MS + tick * MS / 5;
        let mut effects = Vec::new();
        if tick < 20 {
            for from in [1, 2] {
                effects.extend(alone.hear_claim(now, from, wanted));
            }
        }
        if top.slot < Slot(60) {
            let block = world.forge(LEADER, 0, top, 77);
            effects.extend(alone.offer_at(now, Source::Proposed, block));
            top = place_of(&block.header);
            linked = linked.max(alone.core.summary().linked);
        }
        effects.extend(alone.tell(now, Input::Tick));
        let to = effects.iter().filter_map(|effect| match effect {
            Effect::FetchBlock { to, place, .. } if *place == wanted => Some((tick, to.0)),
            _ => None,
        });
        asked.extend(to);
    }
    assert!(linked > Slot(10), "the branch grows: {linked}");
    assert!(asked[0].0 < 40, "{asked:?}");
    let all = (0..3).all(|id| asked.iter().any(|(tick, to)| *to == id && *tick < 1000));
    assert!(all, "{asked:?}");
}

/// §11: the leader signs each eighth block alone, so that ranges bring those and no others, and answers
/// nothing. It feeds this replica the next block now and then: that is progress, and no reason to put
/// the same questions to the same replica again.
#[test]
fn a_liar_that_feeds_block_by_block_does_not_hold_a_replica_back() {
    assert_eq!(catches_up(4, &[1, 2], 64, 300), 90);
    for every_ms in [8, 20, 60, 150] {
        // Only one of the others has blocks to give.
        assert_eq!(catches_up(every_ms, &[2], 64, 500), 90, "{every_ms}");
    }
}

/// §11: an answer holds few large blocks, and what is claimed moves on while the way down from it is long.
#[test]
fn answers_of_few_blocks_lead_up_to_the_end_all_the_same() {
    for every_ms in [6, 8, 10, 20, 40] {
        assert_eq!(catches_up(every_ms, &[1, 2], 4, 400), 90, "{every_ms}");
    }
}

/// What is linked within so long: the liar sends the next block every so often, and those that `serve`
/// give so many blocks in an answer.
fn catches_up(every_ms: u64, serve: &[u16], most: u64, within_ms: u64) -> u64 {
    let mut world = World::new(FOUR, 541);
    let blocks = chain(&mut world, 90);
    let mut behind = Behind::new(&world, &blocks);
    while behind.linked() < 90 && behind.now < within_ms {
        behind.ask_until(behind.now + 1);
        if behind.now.is_multiple_of(every_ms) {
            let next = blocks[behind.linked() as usize];
            behind.take(Source::Fetched, next);
        }
        behind.answer(&blocks, serve, most);
    }
    behind.linked()
}

/// §11: blocks are here, words for them were lost for good, and nobody gives a further one. One claim of
/// enough replicas on the highest block that they share decides all below.
#[test]
fn the_highest_block_that_may_be_final_is_asked_for() {
    // Near, and far behind what the statuses name.
    for further in [3, 20] {
        let mut world = World::new(FOUR, 542);
        let blocks = chain(&mut world, 14 + further);
        let mut behind = Behind::new(&world, &blocks);
        for block in &blocks[1..14] {
            behind.take(Source::Proposed, *block);
            behind.alone.check(block);
        }
        assert_eq!(behind.linked(), 14);
        while behind.now < 250 {
            behind.ask_until(behind.now + 1);
            behind.answer(&blocks, &[], 0);
        }
        let decided = behind.alone.core.summary().decided;
        assert_eq!(decided, Slot(14), "{further}");
    }
}

/// §11: correct replicas have the same copy of a block that its leader did not sign. It is judged once,
/// and makes room for one that is signed.
#[test]
fn the_copy_that_is_held_is_not_judged_again() {
    let mut world = World::new(FOUR, 543);
    let blocks = chain(&mut world, 9);
    let mut behind = Behind::new(&world, &blocks);
    behind.take(Source::Fetched, blocks[5]);
    behind.take(Source::Vouched, unsigned(blocks[4]));
    let takes = |signed: SignedHeader| {
        let SignedHeader { header, signature } = signed;
        let core = &behind.alone.core;
        core.would_take(&header, &signature, header.digest(), true)
    };
    assert!(takes(unsigned(blocks[4])).is_err());
    assert_eq!(takes(blocks[4]), Ok(()));
}

/// A replica that has decided the first of these blocks, and hears from two others that all are.
struct Behind {
    alone: Alone,
    status: Status,
    now: u64,
    /// Milliseconds, and what was asked.
    asked: Vec<(u64, Effect)>,
}

impl Behind {
    fn new(world: &World, blocks: &[SignedHeader]) -> Behind {
        let last = place_of(&blocks.last().unwrap().header);
        let recovered = Recovered {
            decided: place_of(&blocks[0].header),
            ..log_of(&blocks[..1], RecordAs::Vote)
        };
        let mut alone = Alone::new(world, config(world), recovered);
        alone.core.set_started(true);
        Behind {
            alone,
            status: Status {
                committed: last.slot,
                committed_digest: last.digest,
                ..idle()
            },
            now: 1,
            asked: Vec::new(),
        }
    }

    fn ask_until(&mut self, ms: u64) {
        for now in self.now + 1..=ms {
            self.now = now;
            for from in [1, 2].map(NodeId) {
                let status = self.status;
                let effects = self.alone.tell(now * MS, Input::Status { from, status });
                let is_question = |effect: &Effect| {
                    matches!(
                        effect,
                        Effect::FetchBlock { .. } | Effect::FetchRange { .. }
                    )
                };
                let questions = effects.into_iter().filter(is_question);
                self.asked.extend(questions.map(|effect| (now, effect)));
            }
        }
    }

    fn linked(&self) -> u64 {
        self.alone.core.summary().linked.0
    }

    fn take(&mut self, source: Source, signed: SignedHeader) {
        self.alone.offer_at(self.now * MS, source, signed);
    }

    /// Replicas 1 and 2 say what is final; those that `serve` give blocks, so many in an answer: copies of
    /// each eighth one are signed.
    fn answer(&mut self, blocks: &[SignedHeader], serve: &[u16], most: u64) {
        let signed = |slot: u64| slot.is_multiple_of(8);
        let mut busy = Vec::new();
        for (_, effect) in std::mem::take(&mut self.asked) {
            match effect {
                Effect::FetchRange { to, first, count } if to != LEADER => {
                    let last = (first.0 + count.max(1) - 1).min(blocks.len() as u64);
                    let place = place_of(&blocks[last as usize - 1].header);
                    self.alone.hear_claim(self.now * MS, to.0, place);
                    if count == 0 || !serve.contains(&to.0) {
                        continue;
                    }
                    busy.push(to);
                    for slot in (first.0..=last).filter(|slot| signed(*slot)) {
                        self.take(Source::Fetched, blocks[slot as usize - 1]);
                    }
                }
                Effect::FetchBlock { to, place, have } if serve.contains(&to.0) => {
                    busy.push(to);
                    let lowest = have.0.max(place.slot.0.saturating_sub(most));
                    for slot in (lowest + 1..=place.slot.0).rev() {
                        let block = blocks[slot as usize - 1];
                        if signed(slot) {
                            self.take(Source::Fetched, block);
                        } else {
                            self.take(Source::Vouched, unsigned(block));
                        }
                    }
                }
                _ => {}
            }
        }
        busy.sort_unstable();
        assert!(busy.windows(2).all(|two| two[0] != two[1]), "one at a time");
    }

    fn last_at(&self) -> u64 {
        self.asked.last().expect("a question").0
    }
}

/// N7: claims alone show that the own branch lost, also when every block is here and nobody votes, as
/// between two views.
#[test]
fn claims_against_the_own_branch_are_enough() {
    let mut world = World::new(FOUR, 522);
    let blocks = chain(&mut world, 3);
    let (mut alone, position) = voter(&world, &blocks, 3, 0..3);
    alone.tell(MS, Input::Durable { position });
    let rival = world.forge(LEADER, 0, genesis(), 101);
    let place = place_of(&rival.header);
    let mut effects = Vec::new();
    for from in [1, 2] {
        effects.extend(alone.hear_claim(MS, from, place));
        if from == 1 {
            effects.extend(alone.offer(Source::Fetched, rival));
        }
        let is_final = |effect: &Effect| matches!(effect, Effect::Final { place: found, .. } if *found == place);
        let found = effects.iter().any(is_final);
        assert_eq!(found, from == 2, "{effects:?}");
    }
}

/// N7: whoever missed a view and is beyond it already learns from claims alone what was decided there,
/// for no block of it links by itself. Otherwise its acknowledgement of a base that lies further up
/// than it can hold blocks would be missing for ever.
#[test]
fn what_a_missed_view_decided_is_learned_from_claims() {
    learns_from_claims(1);
    // Also beyond the window: a replica whose checkpoint is old decides and executes there, too.
    learns_from_claims(2 * K);
    learns_from_claims(2 * K + 5);
}

/// The own log ends with so many blocks, all decided, and no checkpoint.
fn learns_from_claims(own: u64) {
    let mut world = World::new(FOUR, 523);
    let own = chain(&mut world, own);
    let last = place_of(&own.last().unwrap().header);
    let recovered = Recovered {
        stage: View(3),
        decided: last,
        ..log_of(&own, RecordAs::Vote)
    };
    let mut alone = Alone::new(&world, config(&world), recovered);
    alone.tell(MS, Input::Executed { slot: last.slot });
    let mut parent = last;
    let missed = [2, 3, 4].map(|mark| {
        let block = world.forge(NodeId(1), 1, parent, mark);
        parent = place_of(&block.header);
        block
    });
    for from in [1, 2] {
        alone.hear_claim(MS, from, parent);
    }
    let mut effects = Vec::new();
    for block in missed {
        effects.extend(alone.offer(Source::Fetched, block));
        alone.check(&block);
    }
    let is_final =
        |effect: &Effect| matches!(effect, Effect::Final { place, .. } if *place == parent);
    assert!(effects.iter().any(is_final), "{effects:?}");
}

/// K4: a replica that lacks few blocks takes the state over all the same when nobody has them any more.
#[test]
fn few_blocks_that_nobody_retains_are_replaced_by_the_state() {
    let mut world = World::new(FOUR, 524);
    let blocks = chain(&mut world, K + 2);
    let recovered = Recovered {
        decided: place_of(&blocks[K as usize - 3].header),
        ..log_of(&blocks[..K as usize - 2], RecordAs::Vote)
    };
    let mut alone = Alone::new(&world, config(&world), recovered);
    alone.core.set_started(true);
    alone.tell(MS, certified(&mut world, &blocks[K as usize - 1]));
    let slot = Slot(K - 2);
    alone.tell(MS, Input::Executed { slot });
    let last = place_of(&blocks[K as usize + 1].header);
    let status = Status {
        committed: last.slot,
        committed_digest: last.digest,
        voted_slot: last.slot,
        voted_digest: last.digest,
        checkpoint: Slot(K),
        retained_from: Slot(K + 1),
        ..idle()
    };
    let mut effects = Vec::new();
    for ms in 2..500 {
        for from in [0, 1].map(NodeId) {
            effects.extend(alone.tell(ms * MS, Input::Status { from, status }));
        }
    }
    let transfers = effects.iter().filter(|e| matches!(e, Effect::Transfer(_)));
    assert_eq!(transfers.count(), 1);
}

/// §11: ancestors come newest first. One whose child is being judged is wanted though nothing names it
/// yet; out of reach, or held, it is not.
#[test]
fn the_parent_of_a_block_that_is_judged_is_wanted() {
    let mut world = World::new(FOUR, 526);
    let own = chain(&mut world, 2);
    let recovered = Recovered {
        stage: View(1),
        installed: View(1),
        decided: place_of(&own[0].header),
        ..log_of(&own[..1], RecordAs::Vote)
    };
    let alone = Alone::new(&world, config(&world), recovered);
    let old = world.forge(LEADER, 0, place_of(&own[1].header), 9);
    let takes = |signed: &SignedHeader, leads_on| {
        let SignedHeader { header, signature } = signed;
        let digest = header.digest();
        let taken = alone.core.would_take(header, signature, digest, leads_on);
        taken.is_ok()
    };
    assert!(!takes(&old, false), "of an older view, above the base");
    assert!(takes(&old, true));
    assert!(!takes(&own[0], true), "decided");
}

/// N2, R2: a proposal is written before its leader's signature is checked, so that a leader that signs
/// badly could fill the log of one replica, which wishes for another view alone.
#[test]
fn after_a_copy_that_its_leader_did_not_sign_no_further_proposal_is_written() {
    let mut world = World::new(FOUR, 527);
    let blocks = chain(&mut world, 2);
    let mut alone = Alone::new(&world, config(&world), Recovered::blank(genesis()));
    let appends = |effects: &[Effect]| {
        let appends = |effect: &&Effect| matches!(effect, Effect::Append { .. });
        effects.iter().filter(appends).count()
    };
    assert_eq!(appends(&alone.offer(Source::Proposed, blocks[0])), 1);
    let (place, signature) = (place_of(&blocks[0].header), blocks[0].signature);
    let found = BlockCheck::ForeignSignature;
    let end = Position(4096);
    alone.tell(MS, Input::Appended { place, end });
    let checked = Input::Checked {
        place,
        signature,
        found,
    };
    alone.tell(MS, checked);
    assert_eq!(appends(&alone.offer(Source::Proposed, blocks[0])), 0);
    let rival = world.forge(LEADER, 0, genesis(), 77);
    assert_eq!(appends(&alone.offer(Source::Proposed, rival)), 0);
    // What others have of it is judged first, and taken.
    assert_eq!(appends(&alone.offer(Source::Fetched, blocks[0])), 1);
}

/// N9, V2: what its leader signed and is invalid is judged once, takes nobody's room and ends the view.
#[test]
fn an_invalid_block_that_another_replica_sends_is_known_from_then_on() {
    let mut world = World::new(FOUR, 528);
    let mut alone = Alone::new(&world, config(&world), Recovered::blank(genesis()));
    alone.core.set_started(true);
    let takes = |alone: &Alone, signed: &SignedHeader| {
        let SignedHeader { header, signature } = signed;
        let digest = header.digest();
        let taken = alone.core.would_take(header, signature, digest, true);
        taken.is_ok()
    };
    let wishes = |effects: &[Effect]| {
        let is_wish = |effect: &Effect| matches!(effect, Effect::Say { signed, .. } if matches!(signed.statement, Statement::Wish { .. }));
        effects.iter().any(is_wish)
    };
    let bad = world.forge(LEADER, 0, genesis(), INVALID);
    assert!(takes(&alone, &bad));
    let said = alone.tell(MS, Input::Unsound { signed: bad });
    assert!(wishes(&said), "{said:?}");
    assert!(!takes(&alone, &bad));
    // As many as there is room for, and then none; one that others vote for finds room.
    for mark in 100..120 {
        let signed = world.forge(LEADER, 0, genesis(), mark);
        alone.tell(MS, Input::Unsound { signed });
    }
    let good = world.forge(LEADER, 0, genesis(), 1);
    alone.hear_vote(&world, 1, 0, place_of(&good.header));
    let effects = alone.offer(Source::Fetched, good);
    let appends = |effect: &Effect| matches!(effect, Effect::Append { place, .. } if *place == place_of(&good.header));
    assert!(effects.iter().any(appends), "{effects:?}");
}
