//! One core, alone: its log, the words of others and its effects, all by hand.

use consensus::{
    BlockCheck, Config, Core, Effect, Input, Outbox, Record, RecordAs, Recovered, RecoveredBlock,
    Source,
};
use wire::block::{BlockHeader, BlockRef};
use wire::certificates::{
    CheckpointCertificate, NewViewCertificate, Place, Signatures, Wish, WishCertificate,
};
use wire::ids::{Boot, Digest, Instant, NodeId, Position, Slot, View};
use wire::messages::{Durability, SignedHeader, Status};
use wire::seal::{FakeSeal, Signer, Statement};

use crate::liars::unsigned;
use crate::world::{FOUR, GENESIS, INVALID, K, MS, SECOND, STRICT, World, genesis, place_of};

const ME: NodeId = NodeId(3);
const LEADER: NodeId = NodeId(0);

struct Alone {
    core: Core<FakeSeal>,
    /// Of the one after the last record in the log.
    end: u64,
}

impl Alone {
    fn new(world: &World, config: Config, recovered: Recovered) -> Alone {
        let end = recovered.durable_position.0;
        let seal = world.seals[ME.index()].clone();
        let core = Core::new(config, seal, recovered, Instant(0));
        Alone { core, end }
    }

    fn tell(&mut self, now: u64, input: Input) -> Vec<Effect> {
        let mut out = Outbox::new();
        self.core.handle(Instant(now), input, &mut out);
        out.drain().collect()
    }

    /// Every record that was asked for is in the log, and durable.
    fn write(&mut self, now: u64, effects: &[Effect]) -> Vec<Effect> {
        let mut more = Vec::new();
        for effect in effects {
            let end = Position(self.end + 4096);
            let written = match *effect {
                Effect::Append { place, .. } => Input::Appended { place, end },
                Effect::Record(_) => Input::Recorded { end },
                _ => continue,
            };
            self.end = end.0;
            more.extend(self.tell(now, written));
        }
        let position = Position(self.end);
        more.extend(self.tell(now, Input::Durable { position }));
        more
    }

    fn hear_vote(&mut self, world: &World, from: u16, view: u64, place: Place) -> Vec<Effect> {
        let (from, view) = (NodeId(from), View(view));
        let Place { slot, digest } = place;
        let vote = BlockRef { view, slot, digest };
        let signed = world.sign(from, Statement::Vote { view, slot, digest });
        let signature = signed.signature;
        let input = Input::Vote {
            from,
            vote,
            signature,
        };
        self.tell(MS, input)
    }

    fn check(&mut self, block: &SignedHeader) {
        let (place, signature) = (place_of(&block.header), block.signature);
        let found = BlockCheck::Good;
        let checked = Input::Checked {
            place,
            signature,
            found,
        };
        self.tell(MS, checked);
    }

    fn offer(&mut self, source: Source, signed: SignedHeader) -> Vec<Effect> {
        let SignedHeader { header, signature } = signed;
        let input = Input::Block {
            from: LEADER,
            source,
            header,
            signature,
            digest: header.digest(),
        };
        self.tell(MS, input)
    }
}

fn chain(world: &mut World, length: u64) -> Vec<SignedHeader> {
    let mut parent = genesis();
    let blocks = (0..length).map(|index| {
        let block = world.forge(LEADER, 0, parent, 1 + (index % 100) as u8);
        parent = place_of(&block.header);
        block
    });
    blocks.collect()
}

/// A log with these blocks and nothing else; the tip is the last of them.
fn log_of(blocks: &[SignedHeader], kind: RecordAs) -> Recovered {
    let record = |(index, signed): (usize, &SignedHeader)| RecoveredBlock {
        header: signed.header,
        signature: signed.signature,
        signature_good: true,
        digest: signed.header.digest(),
        kind,
        end: Position(4096 * (index as u64 + 1)),
    };
    Recovered {
        tip: place_of(&blocks.last().unwrap().header),
        blocks: blocks.iter().enumerate().map(record).collect(),
        durable_position: Position(4096 * blocks.len() as u64),
        ..Recovered::blank(GENESIS)
    }
}

fn config(world: &World) -> Config {
    world.config(ME.0)
}

fn is_skip(effect: &Effect) -> bool {
    matches!(effect, Effect::Record(Record::Skip { .. }))
}

/// A replica that was proposed these blocks; `placed` of them are on their way to the disk, the others
/// wait for room in the log. Those of `checked` are verified. And where the records end.
fn voter(
    world: &World,
    blocks: &[SignedHeader],
    placed: u64,
    checked: std::ops::Range<u64>,
) -> (Alone, Position) {
    let blank = Recovered::blank(GENESIS);
    let mut alone = Alone::new(world, config(world), blank);
    for (index, block) in (0..).zip(blocks) {
        alone.offer(Source::Proposed, *block);
        if index < placed {
            alone.end += 4096;
            let (place, end) = (place_of(&block.header), Position(alone.end));
            alone.tell(MS, Input::Appended { place, end });
        }
        if checked.contains(&index) {
            alone.check(block);
        }
    }
    let position = Position(alone.end);
    (alone, position)
}

fn certificate_of(block: &SignedHeader) -> CheckpointCertificate {
    CheckpointCertificate {
        header: block.header,
        root: Digest([1; 32]),
        signatures: Signatures::new(),
    }
}

/// A quorum has the same state at this block.
fn certified(world: &mut World, block: &SignedHeader) -> Input {
    let mut certificate = certificate_of(block);
    for by in [0, 1, 2] {
        let signature = world.sign(NodeId(by), certificate.statement()).signature;
        certificate.signatures.add(NodeId(by), signature);
    }
    let certificate = world.compound.checkpoint_certificate(certificate);
    Input::CheckpointCertificate(Box::new(certificate.unwrap()))
}

/// The state at this block was taken over from others.
fn taken_over(block: &SignedHeader) -> Input {
    let certificate = Box::new(certificate_of(block));
    Input::Installed { certificate }
}

fn is_view_change(effect: &Effect) -> bool {
    matches!(effect, Effect::Record(Record::ViewChange(_)))
}

/// N2: where few blocks can be held, the base of a view may lie further above what was executed than
/// votes reach. It is voted for all the same: no replica votes for less, and so no other vote can
/// move them on.
#[test]
fn the_base_of_a_view_is_voted_for_wherever_it_lies() {
    let mut world = World::new(FOUR, 500);
    let blocks = chain(&mut world, 100);
    let base = place_of(&blocks[99].header);
    let recovered = Recovered {
        stage: View(1),
        installed: View(1),
        certificate: Some(NewViewCertificate {
            view: View(1),
            base,
            acks: Signatures::new(),
        }),
        ..log_of(&blocks, RecordAs::Fetched)
    };
    let few = Config {
        interval: 64,
        blocks_held_max: 128,
        ..config(&world)
    };
    assert!(base.slot.0 < few.window(), "inside the window");
    let mut alone = Alone::new(&world, few, recovered);
    let said = alone.tell(MS, Input::Tick);
    let expected = Statement::Vote {
        view: View(1),
        slot: base.slot,
        digest: base.digest,
    };
    let votes = |effect: &Effect| matches!(effect, Effect::Say { signed, .. } if signed.statement == expected);
    assert!(said.iter().any(votes), "{said:?}");
    // The votes of the others for it are all that anyone waits for.
    for from in [0, 1] {
        let effects = alone.hear_vote(&world, from, 1, base);
        let ends =
            |effect: &Effect| matches!(effect, Effect::Final { place, .. } if *place == base);
        assert_eq!(effects.iter().any(ends), from == 1);
    }
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

/// R3, I3: a tip that jumped may lie above the lease that is held. A COMMIT stays within it until the
/// next lease is on the disk.
#[test]
fn a_commit_stays_within_the_lease_that_is_held() {
    let mut world = World::new(STRICT, 510);
    let blocks = chain(&mut world, 5);
    let places = blocks.iter().map(|block| place_of(&block.header));
    let places = places.collect::<Vec<_>>();
    let recovered = Recovered {
        lease: Slot(3),
        ..log_of(&blocks, RecordAs::Fetched)
    };
    let leased = Config {
        durability: Durability::Lease,
        ..config(&world)
    };
    let mut alone = Alone::new(&world, leased, recovered);
    let asked = alone.tell(MS, Input::Tick);
    let mut effects = Vec::new();
    for from in [0, 1, 2] {
        effects.extend(alone.hear_vote(&world, from, 0, places[4]));
    }
    let committed = |effects: &[Effect]| {
        let commits = effects.iter().filter_map(|effect| match effect {
            Effect::Record(Record::Commit(found)) => Some(found.block),
            _ => None,
        });
        commits.collect::<Vec<_>>()
    };
    assert_eq!(committed(&effects), [places[2]], "within the lease");
    let more = alone.write(MS, &asked);
    assert_eq!(committed(&more), [places[4]], "the new lease is durable");
}

/// R3, K4: a state may be taken over far above the lease that is held, and the process end before the
/// next one is written. All that the old one allows is forgotten with what lies below the state.
#[test]
fn a_lease_below_all_that_is_remembered_allows_no_vote() {
    let mut world = World::new(FOUR, 521);
    let blocks = chain(&mut world, 3 * K + 1);
    let state = &blocks[3 * K as usize - 1];
    let place = place_of(&state.header);
    let leased = Config {
        durability: Durability::Lease,
        ..config(&world)
    };
    let recovered = Recovered {
        decided: place,
        checkpoint: Some(certificate_of(state)),
        retained_from: place.slot,
        lease: Slot(leased.window()),
        ..log_of(&blocks[3 * K as usize..], RecordAs::Vote)
    };
    let mut alone = Alone::new(&world, leased, recovered);
    let slot = place.slot;
    let effects = alone.tell(MS, Input::Executed { slot });
    let is_lease = |effect: &Effect| matches!(effect, Effect::Record(Record::Lease { .. }));
    assert!(effects.iter().any(is_lease), "{effects:?}");
    let says = |effect: &Effect| matches!(effect, Effect::Say { .. });
    assert!(!effects.iter().any(says), "{effects:?}");
    let said = alone.write(MS, &effects);
    assert!(said.iter().any(says), "{said:?}");
}

/// R2, K4: the state of a certified slot may be taken over while the record of that slot's block, which
/// was linked in the meantime, is on its way to the disk. Executing needs no blocks then; the vote
/// still waits for its record.
#[test]
fn a_state_that_is_taken_over_sends_no_vote_before_its_record() {
    let mut world = World::new(FOUR, 515);
    let blocks = chain(&mut world, K);
    let (mut alone, position) = voter(&world, &blocks, K, 0..K);
    let last = blocks.last().unwrap();
    let place = place_of(&last.header);
    let (view, slot, digest) = (View(0), place.slot, place.digest);
    let vote = Statement::Vote { view, slot, digest };
    let votes =
        |effect: &Effect| matches!(effect, Effect::Say { signed, .. } if signed.statement == vote);
    let said = alone.tell(MS, taken_over(last));
    assert_eq!(alone.core.summary().executed, slot);
    assert!(!said.iter().any(votes), "{said:?}");
    let said = alone.tell(MS, Input::Durable { position });
    assert!(said.iter().any(votes), "{said:?}");
}

/// R2: SKIP stands before every block record that is counted after it. Own records that reach beyond a
/// certified slot are in the log already; a jump there would hide them from a restart.
#[test]
fn a_state_below_the_end_of_the_own_records_is_no_jump() {
    let mut world = World::new(FOUR, 516);
    let blocks = chain(&mut world, K + 3);
    // All are written, and one is not verified yet: the tip lies below the state.
    let (mut alone, position) = voter(&world, &blocks, K + 3, 0..K - 2);
    alone.tell(MS, Input::Durable { position });
    assert_eq!(alone.core.standing().tip.slot, Slot(K + 3));
    let said = alone.tell(MS, taken_over(&blocks[K as usize - 1]));
    assert!(!said.iter().any(is_skip), "{said:?}");
    for block in &blocks[K as usize - 2..] {
        alone.check(block);
    }
    assert_eq!(alone.core.tip(), place_of(&blocks.last().unwrap().header));
}

/// R2, K4: own records that wait for room in the log are not written any more when a state above them
/// is taken over. What follows has to extend something that a restart finds.
#[test]
fn a_state_above_the_end_of_the_own_log_is_a_jump() {
    let mut world = World::new(FOUR, 517);
    let blocks = chain(&mut world, K + 1);
    let (mut alone, position) = voter(&world, &blocks, K - 2, 0..K + 1);
    alone.tell(MS, Input::Durable { position });
    assert_eq!(alone.core.tip().slot, Slot(K + 1));
    let state = &blocks[K as usize - 1];
    let said = alone.tell(MS, taken_over(state));
    let skip = said.iter().find(|effect| is_skip(effect));
    let Some(Effect::Record(Record::Skip { place, .. })) = skip else {
        panic!("{said:?}");
    };
    assert_eq!(*place, place_of(&state.header));
    // The record of the last block still waits; the log ends at the state.
    assert_eq!(alone.core.standing().tip, *place);
}

/// K1: a state is signed when its blocks are durable. A state above it that was taken over says nothing
/// of those.
#[test]
fn a_state_that_is_taken_over_signs_no_earlier_one() {
    let mut world = World::new(FOUR, 519);
    let blocks = chain(&mut world, 2 * K);
    let (mut alone, position) = voter(&world, &blocks, K, 0..K);
    let place = place_of(&blocks[K as usize - 1].header);
    for from in [0, 1, 2] {
        alone.hear_vote(&world, from, 0, place);
    }
    let slot = place.slot;
    assert_eq!(alone.core.summary().decided, slot);
    alone.tell(MS, Input::Executed { slot });
    let root = Digest([7; 32]);
    let mut said = alone.tell(MS, Input::Root { slot, root });
    said.extend(alone.tell(MS, taken_over(blocks.last().unwrap())));
    said.extend(alone.tell(MS, Input::Tick));
    let signs = |effect: &Effect| {
        let Effect::Say { signed, .. } = effect else {
            return false;
        };
        matches!(signed.statement, Statement::Checkpoint { .. })
    };
    assert!(!said.iter().any(signs), "{said:?} before {position:?}");
}

/// §11: far behind, the next block is asked for by its claims. They are heard beside those of the end
/// of the range, so that a rival of it, which a liar sent before, keeps it not out.
#[test]
fn a_claim_below_another_one_is_heard() {
    let mut world = World::new(FOUR, 518);
    let (config, blank) = (config(&world), Recovered::blank(GENESIS));
    let mut alone = Alone::new(&world, config, blank);
    let lost = world.forge(LEADER, 0, genesis(), 101);
    let rival = world.forge(LEADER, 0, place_of(&lost.header), 102);
    let first = world.forge(LEADER, 0, genesis(), 1);
    let good = world.forge(LEADER, 0, place_of(&first.header), 2);
    let far = world.forge(LEADER, 0, place_of(&good.header), 3);
    let refused = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Refuse { .. }));
    assert!(!refused(&alone.offer(Source::Fetched, rival)));
    assert!(
        refused(&alone.offer(Source::Fetched, good)),
        "nobody named it"
    );
    for block in [&far, &good] {
        let Place { slot, digest } = place_of(&block.header);
        let from = NodeId(1);
        alone.tell(MS, Input::Decided { from, slot, digest });
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
        stage: View(0),
        installed: View(0),
        committed: wanted.slot,
        committed_digest: wanted.digest,
        voted_slot: wanted.slot,
        voted_digest: Digest([77; 32]),
        checkpoint: Slot(0),
        retained_from: Slot(1),
        lease: Slot(0),
        flags: 0,
        held: None,
    };
    let mut asked = Vec::new();
    for ms in 2..500 {
        for from in [1, 2].map(NodeId) {
            let Place { slot, digest } = wanted;
            let mut effects = alone.tell(ms * MS, Input::Decided { from, slot, digest });
            effects.extend(alone.tell(ms * MS, Input::Status { from, status }));
            for effect in effects {
                if let Effect::FetchBlock { to, place, .. } = effect
                    && place == wanted
                {
                    asked.push(to);
                }
            }
        }
    }
    assert!(
        [1, 2].iter().all(|id| asked.contains(&NodeId(*id))),
        "{asked:?}"
    );
}

/// N2: a block of the installed view is that of its leader. What the leader of another view signs above
/// one that it made up itself proves nothing.
#[test]
fn a_leader_vouches_for_blocks_of_its_own_view_alone() {
    let mut world = World::new(FOUR, 532);
    let recovered = Recovered {
        stage: View(1),
        installed: View(1),
        certificate: Some(NewViewCertificate {
            view: View(1),
            base: genesis(),
            acks: Signatures::new(),
        }),
        ..Recovered::blank(GENESIS)
    };
    let mut alone = Alone::new(&world, config(&world), recovered);
    let takes = |alone: &mut Alone, signed: SignedHeader| {
        let effects = alone.offer(Source::Vouched, signed);
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Refuse { .. }))
    };
    let (old, new) = (NodeId(0), NodeId(1));
    for (view, by, expected) in [(0, old, false), (1, new, true)] {
        let below = world.forge(new, 1, genesis(), 10 + view as u8);
        let above = world.forge(by, view, place_of(&below.header), 20 + view as u8);
        // A liar names it, so that it has a use here.
        alone.hear_vote(&world, 2, view, place_of(&above.header));
        let place = place_of(&above.header);
        let (from, Place { slot, digest }) = (NodeId(2), place);
        alone.tell(MS, Input::Decided { from, slot, digest });
        alone.offer(Source::Fetched, above);
        assert!(alone.core.knows(place));
        assert_eq!(takes(&mut alone, unsigned(below)), expected, "view {view}");
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
    let Place { slot, digest } = place;
    let mut effects = Vec::new();
    for from in [1, 2].map(NodeId) {
        effects.extend(alone.tell(MS, Input::Decided { from, slot, digest }));
        if from == NodeId(1) {
            effects.extend(alone.offer(Source::Fetched, rival));
        }
        let is_final = |effect: &Effect| matches!(effect, Effect::Final { place: found, .. } if *found == place);
        let found = effects.iter().any(is_final);
        assert_eq!(found, from == NodeId(2), "{effects:?}");
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
    let Place { slot, digest } = parent;
    for from in [1, 2].map(NodeId) {
        alone.tell(MS, Input::Decided { from, slot, digest });
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
        stage: View(0),
        installed: View(0),
        committed: last.slot,
        committed_digest: last.digest,
        voted_slot: last.slot,
        voted_digest: last.digest,
        checkpoint: Slot(K),
        retained_from: Slot(K + 1),
        lease: Slot(0),
        flags: 0,
        held: None,
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
    let old = world.forge(LEADER, 0, place_of(&own[1].header), 9).header;
    let takes = |header: &BlockHeader, leads_on| {
        let taken = alone.core.would_take(header, header.digest(), leads_on);
        taken.is_ok()
    };
    assert!(!takes(&old, false), "of an older view, above the base");
    assert!(takes(&old, true));
    assert!(!takes(&own[0].header, true), "decided");
}

/// K2: a replica that executes as fast as the others, and an interval behind them, moves its window too,
/// though there is always a newer certificate.
#[test]
fn the_next_certified_state_moves_the_window_however_many_newer_ones_there_are() {
    let mut world = World::new(FOUR, 529);
    let blocks = chain(&mut world, 3 * K);
    let (mut alone, _) = voter(&world, &blocks, 2 * K, 0..2 * K);
    let at = |slot: u64| &blocks[slot as usize - 1];
    alone.tell(MS, certified(&mut world, at(K)));
    for slot in [K, 2 * K] {
        alone.tell(MS, certified(&mut world, at(slot + K)));
        let place = place_of(&at(slot).header);
        for from in [0, 1, 2] {
            alone.hear_vote(&world, from, 0, place);
        }
        alone.tell(MS, Input::Executed { slot: place.slot });
        assert_eq!(alone.core.summary().low, place.slot);
    }
}

/// N2, R2: blocks of an older view above the base, which a view that this replica missed has decided, are
/// no votes of the view that it is in.
#[test]
fn what_a_missed_view_decided_is_no_own_vote() {
    let mut world = World::new(FOUR, 530);
    let blocks = chain(&mut world, K);
    let base = place_of(&blocks[3].header);
    let recovered = Recovered {
        stage: View(1),
        installed: View(1),
        certificate: Some(NewViewCertificate {
            view: View(1),
            base,
            acks: Signatures::new(),
        }),
        decided: base,
        ..log_of(&blocks[..4], RecordAs::Vote)
    };
    let mut alone = Alone::new(&world, config(&world), recovered);
    alone.core.set_started(true);
    let last = certified(&mut world, &blocks[K as usize - 1]);
    alone.tell(MS, last);
    let mut kinds = Vec::new();
    // Each is in the log when the next one comes, and the last to come is none of the lowest.
    for index in [7, 4, 5, 6] {
        let effects = alone.offer(Source::Fetched, blocks[index]);
        for effect in effects.iter().chain(&alone.write(MS, &effects)) {
            if let Effect::Append { place, kind, .. } = effect {
                kinds.push((place.slot.0, *kind));
            }
        }
    }
    let fetched = [8, 5, 6, 7].map(|slot| (slot, RecordAs::Fetched));
    assert_eq!(kinds, fetched);
    assert_eq!(alone.core.summary().decided, Slot(K));
}

/// N2, R2: a proposal is written before its leader's signature is checked, so that a leader that signs
/// badly could fill the log of one replica, which wishes for another view alone.
#[test]
fn after_a_copy_that_its_leader_did_not_sign_no_further_proposal_is_written() {
    let mut world = World::new(FOUR, 527);
    let blocks = chain(&mut world, 2);
    let mut alone = Alone::new(&world, config(&world), Recovered::blank(GENESIS));
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
    let mut alone = Alone::new(&world, config(&world), Recovered::blank(GENESIS));
    alone.core.set_started(true);
    let takes = |alone: &Alone, signed: &SignedHeader| {
        let header = &signed.header;
        let taken = alone.core.would_take(header, header.digest(), true);
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

/// V3: what is recorded as voted may be the base of the next view, and all must hold it then. A leader
/// that lets one replica alone decide, and floods it, gets no claim that the others cannot follow.
#[test]
fn no_more_is_claimed_than_others_can_hold() {
    let mut world = World::new(FOUR, 525);
    let config = Config {
        interval: 128,
        ..config(&world)
    };
    let held = config.blocks_held_max;
    assert!(config.window() > held, "or the window is the limit");
    let blocks = chain(&mut world, held);
    let mut alone = Alone::new(&world, config, Recovered::blank(GENESIS));
    let votes = |effects: &[Effect]| {
        let as_vote = |effect: &&Effect| {
            let kind = RecordAs::Vote;
            matches!(effect, Effect::Append { kind: found, .. } if *found == kind)
        };
        effects.iter().filter(as_vote).count() as u64
    };
    let mut recorded = 0;
    for block in &blocks {
        let effects = alone.offer(Source::Proposed, *block);
        recorded += votes(&effects);
        alone.write(MS, &effects);
        alone.check(block);
    }
    assert_eq!(recorded, held / 2, "nobody has decided anything");
    // The leader, which may lie, and one other have decided some of it.
    let place = place_of(&blocks[19].header);
    for from in [0, 1].map(NodeId) {
        let status = Status {
            stage: View(0),
            installed: View(0),
            committed: place.slot,
            committed_digest: place.digest,
            voted_slot: place.slot,
            voted_digest: place.digest,
            checkpoint: Slot(0),
            retained_from: Slot(1),
            lease: Slot(0),
            flags: 0,
            held: None,
        };
        let effects = alone.tell(MS, Input::Status { from, status });
        assert_eq!(votes(&effects), 0, "{effects:?}");
    }
    // A third: this replica itself, by their claims.
    let Place { slot, digest } = place;
    let claims = [0, 1].map(NodeId);
    let decided = claims.map(|from| alone.tell(MS, Input::Decided { from, slot, digest }));
    let more = decided.iter().map(|effects| votes(effects)).sum::<u64>();
    assert_eq!(more, 20);
}

/// R6, V1: after a stop that was not clean a view change waits, like votes, for what others know.
#[test]
fn an_owed_view_change_waits_until_others_were_heard() {
    let world = World::new(FOUR, 520);
    let recovered = Recovered {
        stage: View(1),
        ..Recovered::blank(GENESIS)
    };
    let mut alone = Alone::new(&world, config(&world), recovered);
    alone.core.recall(false);
    for now in [MS, SECOND / 2] {
        assert!(!alone.tell(now, Input::Tick).iter().any(is_view_change));
    }
    let due = alone.core.wake_at();
    assert!(due <= Instant(2 * SECOND), "the wait ends by itself");
    let said = alone.tell(2 * SECOND, Input::Tick);
    assert!(said.iter().any(is_view_change), "{said:?}");
}

/// R2: the chain of the own vote records may lie off the branch and above the tip, not yet verified
/// and not yet written. When buffers are scarce it is not forgotten, for what the log says of it
/// is read from it (K2).
#[test]
fn the_chain_of_the_own_vote_records_is_not_forgotten() {
    let mut world = World::new(FOUR, 530);
    let blank = Recovered::blank(GENESIS);
    let mut alone = Alone::new(&world, config(&world), blank);
    let mine = chain(&mut world, 2);
    let mut records = 0;
    for block in &mine {
        let effects = alone.offer(Source::Proposed, *block);
        let as_vote = |effect: &&Effect| {
            let kind = RecordAs::Vote;
            matches!(effect, Effect::Append { kind: found, .. } if *found == kind)
        };
        records += effects.iter().filter(as_vote).count();
    }
    assert_eq!(records, 2, "on their way into the log");
    // The view ends before they were verified. From here on the tip jumps nowhere.
    let wishes = [0, 1, 2].map(|by| {
        let (by, view, boot, counter) = (NodeId(by), View(1), Boot(1), 1);
        let wish = Statement::Wish {
            view,
            boot,
            counter,
        };
        let signature = world.seals[by.index()].sign(&wish);
        Wish {
            by,
            view,
            boot,
            counter,
            signature,
        }
    });
    let view = View(1);
    let wishes = wishes.to_vec();
    let certificate = WishCertificate { view, wishes };
    let certificate = world.compound.wish_certificate(certificate).unwrap();
    let entered = alone.tell(MS, Input::WishCertificate(Box::new(certificate)));
    assert!(entered.iter().any(is_view_change));
    // The others decided another chain of the lying leader.
    let first = world.forge(LEADER, 0, genesis(), 201);
    let second = world.forge(LEADER, 0, place_of(&first.header), 202);
    for from in [0, 1, 2] {
        alone.hear_vote(&world, from, 0, place_of(&first.header));
    }
    alone.offer(Source::Fetched, first);
    alone.offer(Source::Fetched, second);
    let summary = alone.core.summary();
    assert_eq!((summary.decided, summary.linked), (Slot(1), Slot(2)));
    assert_eq!(summary.linked_digest, second.header.digest());
    let mut out = Outbox::new();
    alone.core.forget_rivals(&mut out);
    let own = place_of(&mine[1].header);
    let forgets = |effect: Effect| matches!(effect, Effect::Forget { place } if place == own);
    assert!(!out.drain().any(forgets));
    assert_eq!(alone.core.standing().tip, genesis(), "nothing is written");
}
