//! One core, alone: its log, the words of others and its effects, all by hand.

use consensus::{
    BlockCheck, Config, Core, Effect, Input, Outbox, Record, RecordAs, Recovered, RecoveredBlock,
    Source,
};
use wire::block::BlockRef;
use wire::certificates::{
    CheckpointCertificate, NewViewCertificate, Place, Signatures, Wish, WishCertificate,
};
use wire::ids::{Boot, Digest, Instant, NodeId, Position, Slot, View};
use wire::messages::{Durability, SignedHeader, Status};
use wire::seal::{FakeSeal, Signer, Statement};

use crate::world::{FOUR, K, MS, SECOND, STRICT, World, genesis, place_of};

const ME: NodeId = NodeId(3);
pub const LEADER: NodeId = NodeId(0);

pub struct Alone {
    pub core: Core<FakeSeal>,
    /// Of the one after the last record in the log.
    end: u64,
}

impl Alone {
    pub fn new(world: &World, config: Config, recovered: Recovered) -> Alone {
        let end = recovered.durable_position.0;
        let seal = world.seals[ME.index()].clone();
        let core = Core::new(config, seal, recovered, Instant(0));
        Alone { core, end }
    }

    pub fn tell(&mut self, now: u64, input: Input) -> Vec<Effect> {
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

    pub fn hear_vote(&mut self, world: &World, from: u16, view: u64, place: Place) -> Vec<Effect> {
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

    pub fn hear_claim(&mut self, now: u64, from: u16, place: Place) -> Vec<Effect> {
        let (from, Place { slot, digest }) = (NodeId(from), place);
        self.tell(now, Input::Decided { from, slot, digest })
    }

    pub fn check(&mut self, block: &SignedHeader) {
        let (place, signature) = (place_of(&block.header), block.signature);
        let found = BlockCheck::Good;
        let checked = Input::Checked {
            place,
            signature,
            found,
        };
        self.tell(MS, checked);
    }

    pub fn offer(&mut self, source: Source, signed: SignedHeader) -> Vec<Effect> {
        self.offer_at(MS, source, signed)
    }

    pub fn offer_at(&mut self, now: u64, source: Source, signed: SignedHeader) -> Vec<Effect> {
        self.offer_from(now, LEADER, source, signed)
    }

    pub fn offer_from(
        &mut self,
        now: u64,
        from: NodeId,
        source: Source,
        signed: SignedHeader,
    ) -> Vec<Effect> {
        let SignedHeader { header, signature } = signed;
        let input = Input::Block {
            from,
            source,
            header,
            signature,
            digest: header.digest(),
        };
        self.tell(now, input)
    }
}

pub fn chain(world: &mut World, length: u64) -> Vec<SignedHeader> {
    let mut parent = genesis();
    let blocks = (0..length).map(|index| {
        let block = world.forge(LEADER, 0, parent, 1 + (index % 100) as u8);
        parent = place_of(&block.header);
        block
    });
    blocks.collect()
}

/// A log with these blocks and nothing else; the tip is the last of them.
pub fn log_of(blocks: &[SignedHeader], kind: RecordAs) -> Recovered {
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
        ..Recovered::blank(genesis())
    }
}

/// The same log after view 1 was installed on this base.
pub fn in_view_one(base: Place, log: Recovered) -> Recovered {
    Recovered {
        stage: View(1),
        installed: View(1),
        certificate: Some(NewViewCertificate {
            view: View(1),
            base,
            acks: Signatures::new(),
        }),
        ..log
    }
}

pub fn config(world: &World) -> Config {
    world.config(ME.0)
}

fn is_skip(effect: &Effect) -> bool {
    matches!(effect, Effect::Record(Record::Skip { .. }))
}

/// A replica that was proposed these blocks; `placed` of them are on their way to the disk, the others
/// wait for room in the log. Those of `checked` are verified. And where the records end.
pub fn voter(
    world: &World,
    blocks: &[SignedHeader],
    placed: u64,
    checked: std::ops::Range<u64>,
) -> (Alone, Position) {
    let blank = Recovered::blank(genesis());
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
pub fn certified(world: &mut World, block: &SignedHeader) -> Input {
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
    let recovered = in_view_one(base, log_of(&blocks, RecordAs::Fetched));
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
    let log = Recovered {
        decided: base,
        ..log_of(&blocks[..4], RecordAs::Vote)
    };
    let recovered = in_view_one(base, log);
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
    let mut alone = Alone::new(&world, config, Recovered::blank(genesis()));
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
    let decided = [0, 1].map(|from| alone.hear_claim(MS, from, place));
    let more = decided.iter().map(|effects| votes(effects)).sum::<u64>();
    assert_eq!(more, 20);
}

/// R6, V1: after a stop that was not clean a view change waits, like votes, for what others know.
#[test]
fn an_owed_view_change_waits_until_others_were_heard() {
    let world = World::new(FOUR, 520);
    let recovered = Recovered {
        stage: View(1),
        ..Recovered::blank(genesis())
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
    let blank = Recovered::blank(genesis());
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
