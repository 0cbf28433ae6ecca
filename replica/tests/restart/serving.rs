//! What a restarted replica gives to others, and what it does about what they say of themselves.

use consensus::quorum::Quorums;
use consensus::{BlockCheck, Config, Core};
use replica::batch::BatchLimits;
use replica::blocks::Raw;
use replica::ordering::{Input, Ordering, OrderingConfig, Output};
use replica::peer::{Grains, PeerMessage};
use replica::recovery::Restarted;
use replica::verifying::{Job, Verifying};
use storage::Writer;
use storage::wal::{Journal, JournalLimits};
use wire::block::{BlockHeader, BlockPrefix, BlockView, payload_digest};
use wire::bytes::{Buffers, HeapBuffers, HeapUnique, SharedBytes, UniqueBytes};
use wire::certificates::Place;
use wire::header::Kind;
use wire::ids::{Boot, Digest, Epoch, Instant, NodeId, Signature, Slot, View};
use wire::limits::RECORD_HEADER_BYTES;
use wire::messages::{Durability, GRAIN_WORDS, Status};
use wire::seal::{Signer, Statement};
use zerocopy::{FromBytes, IntoBytes};

use crate::world::{
    BAD, Disk, GENESIS_PLACE, GEOMETRY, GOOD, IDENTITY, Judge, RULES, buffers, judged,
};
use crate::{EMPTY, UNSIGNED, restarted, restarted_on};

struct Pen;

impl Signer for Pen {
    fn me(&self) -> NodeId {
        IDENTITY.node
    }

    fn sign(&self, _: &Statement) -> Signature {
        GOOD
    }
}

/// A replica that has just started on this log, its START durable, and the places of its blocks.
/// With `decided` the log says that all of them are, and that those below the last were let go.
fn started(
    blocks: &[(Signature, &[u8])],
    decided: bool,
) -> (Ordering<HeapBuffers, Pen, Judge>, Vec<Place>) {
    started_retaining(blocks, decided.then_some(Slot(blocks.len() as u64)))
}

/// The same; with a slot all are decided, and those below it were let go.
fn started_retaining(
    blocks: &[(Signature, &[u8])],
    retained_from: Option<Slot>,
) -> (Ordering<HeapBuffers, Pen, Judge>, Vec<Place>) {
    let mut log = restarted(blocks);
    let places: Vec<Place> = log.recovered.blocks.iter().map(|b| b.place()).collect();
    if let Some(retained_from) = retained_from {
        log.recovered.decided = *places.last().unwrap();
        log.recovered.retained_from = retained_from;
    }
    (start(log), places)
}

fn start(log: Restarted<HeapBuffers>) -> Ordering<HeapBuffers, Pen, Judge> {
    let config = Config {
        me: IDENTITY.node,
        quorums: Quorums::new(4, 1, 1, 1, true),
        epoch: Epoch(0),
        genesis: GENESIS_PLACE,
        boot: log.boot,
        blocks_held_max: 128,
        interval: 64,
        patience_ns_min: 1_000_000,
        durability: Durability::Sync,
        replaces_slow_leaders: false,
        batch_delay_ns: 0,
        sign_votes: true,
        transfer_beyond: 1 << 20,
    };
    let now = Instant(1_000);
    let durable = log.recovery.flushed();
    let limits = OrderingConfig {
        durability: Durability::Sync,
        me: IDENTITY.node,
        epoch: Epoch(0),
        boot: log.boot,
        batch: BatchLimits {
            delay_ns: 1_000,
            payload_bytes_max: 1_000,
            waiting_max: 8,
        },
        interval: 64,
        snapshot_log_bytes: 1 << 40,
        wall_offset_ns: 0,
    };
    let mut ordering = Ordering::new(
        limits,
        Core::new(config, Pen, log.recovered, now),
        log.ledger,
        Writer::new(GEOMETRY, IDENTITY, log.tail),
        buffers(),
        buffers(),
        buffers(),
        Judge,
    );
    ordering.resume(now, durable, log.snapshot, log.undecided);
    let limits = JournalLimits {
        queued_max: 64,
        batch_parts_max: 64,
        batch_bytes_max: 8 << 20,
    };
    let mut journal = Journal::new(limits, durable.position());
    while let Some(output) = ordering.next_output() {
        if let Output::Append(sealed) = output {
            assert!(journal.push(sealed).is_ok());
        }
    }
    let token = journal.next_batch().expect("START").token;
    let durable = journal.complete(token, Ok(())).expect("written");
    ordering.handle(now, Input::Durable(durable));
    assert!(ordering.is_started());
    while ordering.next_output().is_some() {}
    ordering
}

/// Slots of the blocks that peer 2 is sent when it asks for this one and all below, with the
/// leader's signatures on them.
fn served(
    ordering: &mut Ordering<HeapBuffers, Pen, Judge>,
    at: u64,
    place: Place,
) -> Vec<(u64, Signature)> {
    let Place { slot, digest } = place;
    let have = Slot(0);
    let message = PeerMessage::FetchBlock {
        slot,
        digest,
        have,
        grains: None,
    };
    answers(ordering, at, message)
}

/// The same for another question.
fn answers(
    ordering: &mut Ordering<HeapBuffers, Pen, Judge>,
    at: u64,
    message: PeerMessage,
) -> Vec<(u64, Signature)> {
    let from = NodeId(2);
    ordering.handle(Instant(at), Input::Peer { from, message });
    let mut blocks = Vec::new();
    while let Some(output) = ordering.next_output() {
        if let Output::SendLong {
            kind: Kind::Block,
            slot,
            message,
            ..
        } = output
        {
            let (prefix, _) = BlockPrefix::ref_from_prefix(&message).expect("a block");
            blocks.push((slot.0, prefix.signature));
        }
    }
    blocks
}

/// N2, R2: a copy that its leader did not sign stays in the log. Whoever is sent it takes the sender
/// for a liar, so it is kept back; the asker asks others. Nobody may have another one: below a block that
/// the leader signed it is given to who asks for it by name.
#[test]
fn copies_that_no_leader_signed_are_given_away_where_a_signed_block_names_them() {
    let (mut ordering, places) = started(&[EMPTY, EMPTY, UNSIGNED], false);
    let given = served(&mut ordering, 1_000_000_000, places[2]);
    assert_eq!(given, [(2, GOOD), (1, GOOD)]);
    for retained_from in [None, Some(Slot(1))] {
        let (mut ordering, places) = started_retaining(&[EMPTY, UNSIGNED, EMPTY], retained_from);
        let given = served(&mut ordering, 1_000_000_000, places[2]);
        assert_eq!(given, [(3, GOOD), (2, BAD), (1, GOOD)]);
        let (first, count) = (Slot(1), 3);
        let message = PeerMessage::FetchRange { first, count };
        let in_a_row = answers(&mut ordering, 2_000_000_000, message);
        let expected = [(1, GOOD), (3, GOOD)];
        let decided = retained_from.is_some();
        assert_eq!(in_a_row, if decided { &expected[..] } else { &[] });
    }
}

/// A replica whose core remembers the last of four decided blocks alone; the others lie in its log, each
/// so many times as long as it is. And its disk.
fn forgetful(times: u32) -> (Ordering<HeapBuffers, Pen, Judge>, Vec<Place>, Disk) {
    let (mut log, disk) = restarted_on(&[EMPTY, UNSIGNED, EMPTY, EMPTY]);
    let places: Vec<Place> = log.recovered.blocks.iter().map(|b| b.place()).collect();
    log.recovered.decided = places[3];
    log.recovered.blocks.drain(..3);
    for (place, _, (start, sectors)) in log.undecided.drain(..) {
        log.ledger.note(place.slot, start, times * sectors);
    }
    let ordering = start(log);
    assert_eq!(ordering.core().digest_at(Slot(2)), None);
    (ordering, places, disk)
}

/// What peer 2 is sent for this question; a disk gives back what was read, the last of it first.
fn read_back(
    ordering: &mut Ordering<HeapBuffers, Pen, Judge>,
    disk: &Disk,
    now: Instant,
    message: PeerMessage,
) -> Vec<(u64, Signature)> {
    let from = NodeId(2);
    ordering.handle(now, Input::Peer { from, message });
    let (mut given, mut reads) = (Vec::new(), Vec::new());
    loop {
        while let Some(output) = ordering.next_output() {
            match output {
                Output::Read(read) => reads.push(read),
                Output::SendLong { slot, message, .. } => {
                    let (prefix, _) = BlockPrefix::ref_from_prefix(&message).expect("a block");
                    given.push((slot.0, prefix.signature));
                }
                _ => {}
            }
        }
        let Some(read) = reads.pop() else {
            return given;
        };
        let segment = &disk.0[read.segment as usize];
        let bytes_each = read.bytes;
        let mut buffer = HeapBuffers { bytes_each }.take().unwrap();
        buffer.copy_from_slice(&segment[read.offset as usize..][..read.bytes]);
        let record = UniqueBytes::freeze(buffer).slice(0..read.bytes);
        ordering.handle(now, Input::Record { read, record });
    }
}

/// An answer has an end, wherever its blocks come from, and one order.
#[test]
fn an_answer_from_the_log_is_no_longer_than_another_one() {
    for (times, lowest) in [(1, 1), (100, 1), (150, 2)] {
        let (mut ordering, places, disk) = forgetful(times);
        let Place { slot, digest } = places[2];
        let message = PeerMessage::FetchBlock {
            slot,
            digest,
            have: Slot(0),
            grains: None,
        };
        let given = read_back(&mut ordering, &disk, Instant(1_000_000_000), message);
        let slots = given.into_iter().map(|(slot, _)| slot);
        assert!(slots.eq((lowest..=3).rev()), "{times} sectors each");
    }
}

/// §11: what is final and so old that the core has forgotten it lies in the log by its slot. Whoever asks
/// for it by name is given it, whether its leader signed this copy or not: there may be no other.
#[test]
fn blocks_older_than_what_is_remembered_are_read_back() {
    let (mut ordering, places, disk) = forgetful(1);
    let asked = |slot: Slot, digest, grains| PeerMessage::FetchBlock {
        slot,
        digest,
        have: Slot(0),
        grains,
    };
    let all = Grains {
        count: 1,
        missing: [u64::MAX; GRAIN_WORDS],
    };
    let Place { slot, digest } = places[1];
    let questions = [
        (asked(slot, digest, None), &[(2, BAD), (1, GOOD)][..]),
        (asked(slot, digest, Some(all)), &[(2, BAD)]),
        (asked(Slot(0), digest, None), &[]),
        (asked(Slot(5), digest, None), &[]),
        (asked(Slot(4), digest, None), &[]),
    ];
    for (turn, (message, expected)) in questions.into_iter().enumerate() {
        let now = Instant((turn as u64 + 1) * 1_000_000_000);
        let given = read_back(&mut ordering, &disk, now, message);
        assert_eq!(given, expected, "question {turn}");
    }
}

#[test]
fn copies_that_a_leader_signed_are_given_away() {
    let (mut ordering, places) = started(&[EMPTY, EMPTY, EMPTY], false);
    let given = served(&mut ordering, 1_000_000_000, places[2]);
    assert_eq!(given, [(3, GOOD), (2, GOOD), (1, GOOD)]);
}

/// Whoever asks for it again and again costs this replica no check each time.
#[test]
fn a_copy_is_judged_once_whether_its_leader_signed_it_or_not() {
    for decided in [false, true] {
        let (mut ordering, places) = started(&[EMPTY, UNSIGNED, EMPTY], decided);
        let first = served(&mut ordering, 1_000_000_000, places[2]);
        let before = judged();
        for turn in 2..10 {
            let again = served(&mut ordering, turn * 1_000_000_000, places[2]);
            assert_eq!(again, first);
        }
        assert_eq!(judged(), before);
    }
}

/// N2: a leader's block is known here before its requests are, and after they were found bad; whoever
/// is sent it judges all of it for nothing, and takes this replica for a liar.
#[test]
fn blocks_are_given_away_once_their_requests_are_known_to_hold() {
    for (found, highest) in [
        (BlockCheck::InvalidPayload, None),
        (BlockCheck::Good, Some(4)),
    ] {
        let (mut ordering, places) = started(&[EMPTY, EMPTY, EMPTY], false);
        let (from, raw) = (NodeId(0), block(0, 4, places[2].digest, 0));
        let now = Instant(2_000);
        ordering.handle(now, Input::Proposed { from, raw });
        let mut written = None;
        while let Some(output) = ordering.next_output() {
            if let Output::Verify { place, .. } = output {
                written = Some(place);
            }
        }
        let place = written.expect("it is written and verified");
        let slots = |given: Vec<(u64, Signature)>| given.iter().map(|(slot, _)| *slot).max();
        let unjudged = slots(served(&mut ordering, 1_000_000_000, place));
        assert!(unjudged < Some(4), "{unjudged:?}");
        let checked = consensus::Input::Checked {
            place,
            signature: GOOD,
            found,
        };
        ordering.handle(now, Input::Agreement(checked));
        let given = slots(served(&mut ordering, 2_000_000_000, place));
        assert_eq!(given.filter(|slot| *slot > 3), highest, "{found:?}");
    }
}

/// A block above these, signed well.
fn block(view: u64, slot: u64, parent: Digest, time_ns: u64) -> Raw<HeapUnique> {
    let payload = payload_digest(&[]);
    let header = BlockHeader::new(Epoch(0), View(view), Slot(slot), time_ns, parent, payload);
    message_of(header, GOOD)
}

fn message_of(header: BlockHeader, signature: Signature) -> Raw<HeapUnique> {
    let prefix = BlockPrefix::new(header, signature, 0);
    let mut buffer = buffers().take().unwrap();
    let message_bytes = prefix.as_bytes().len();
    buffer[RECORD_HEADER_BYTES..][..message_bytes].copy_from_slice(prefix.as_bytes());
    Raw {
        buffer,
        message_bytes,
    }
}

/// The place of the block that is to be judged after this input.
fn to_be_judged(
    ordering: &mut Ordering<HeapBuffers, Pen, Judge>,
    input: Input<HeapBuffers>,
) -> Option<Place> {
    ordering.handle(Instant(2_000), input);
    let mut found = None;
    while let Some(output) = ordering.next_output() {
        if let Output::Judge(offer) = output {
            found = Some(offer.place);
        }
    }
    found
}

/// §9.1: a BLOCK takes as many checks as it has requests. One that is here, that rivals one that is
/// here, or that lies out of reach costs none; nor does a second copy while the first is judged.
#[test]
fn blocks_that_have_no_use_here_are_not_judged() {
    let (mut ordering, places) = started(&[EMPTY, EMPTY, EMPTY], false);
    let from = NodeId(2);
    let mut offer = |from, raw| to_be_judged(&mut ordering, Input::Offered { from, raw });
    let top = places[2].digest;
    assert_eq!(offer(from, block(0, 3, places[1].digest, 0)), None, "held");
    assert_eq!(offer(from, block(0, 3, places[1].digest, 7)), None, "rival");
    assert_eq!(offer(from, block(0, 500, top, 0)), None, "too far up");
    assert_eq!(offer(from, block(9, 4, top, 0)), None, "of a later view");
    let next = offer(from, block(0, 4, top, 0)).expect("it is news");
    for _ in 0..3 {
        assert_eq!(offer(from, block(0, 4, top, 0)), None, "being judged");
    }
    // A liar's copy, which will not hold, keeps nobody else's out.
    assert_eq!(offer(NodeId(3), block(0, 4, top, 0)), Some(next));
    let unfit = Input::Unfit {
        from,
        place: next,
        checks: 1,
        unsound: None,
    };
    assert_eq!(to_be_judged(&mut ordering, unfit), None);
    let again = Input::Offered {
        from,
        raw: block(0, 4, top, 0),
    };
    assert_eq!(to_be_judged(&mut ordering, again), Some(next));
    let (from, mut judged) = (NodeId(3), 0);
    for time in 10..1_000 {
        let raw = block(0, 5, top, time);
        let offered = Input::Offered { from, raw };
        judged += u64::from(to_be_judged(&mut ordering, offered).is_some());
    }
    assert_eq!(judged, 1, "of a view and slot, of one peer");
}

/// A copy that its leader did not sign is judged for the child that is being judged. A liar whose child
/// then comes to nothing has had it judged in vain, and pays for it: a little more than the time it took, for
/// a correct sender may be in that place.
#[test]
fn unsigned_copies_for_which_nothing_vouches_in_the_end_are_judged_so_often() {
    let (mut ordering, places) = started(&[EMPTY, EMPTY, EMPTY], false);
    let (from, now) = (NodeId(3), Instant(2_000));
    let mut verifying = Verifying::new(Judge, RULES);
    let mut judged = 0;
    for time in 0..20_000 {
        let none = payload_digest(&[]);
        let header =
            |slot, parent| BlockHeader::new(Epoch(0), View(0), Slot(slot), time, parent, none);
        let parent = header(4, places[2].digest);
        let child = message_of(header(5, parent.digest()), GOOD);
        let raw = message_of(parent, BAD);
        let Some(place) = to_be_judged(&mut ordering, Input::Offered { from, raw: child }) else {
            break;
        };
        ordering.handle(now, Input::Offered { from, raw });
        let unfit = Input::Unfit {
            from,
            place,
            checks: 0,
            unsound: None,
        };
        let Some(Output::Judge(offer)) = ordering.next_output() else {
            break;
        };
        assert!(offer.vouched, "by the child that is being judged");
        judged += 1;
        assert_eq!(to_be_judged(&mut ordering, unfit), None);
        let verdict = verifying.handle::<HeapBuffers>(now, Job::Fetched(offer));
        let (told, refused) = verdict.told();
        assert!(refused.is_none(), "it is the core that does not take it");
        assert_eq!(to_be_judged(&mut ordering, told.unwrap()), None);
    }
    assert!((4_000..10_000).contains(&judged), "{judged} were judged");
}

/// One that is here, unsigned or with a signature that nobody has checked, gives way to a signed copy alone.
#[test]
fn a_second_unsigned_copy_is_not_judged_to_the_end() {
    let (mut ordering, _) = started(&[EMPTY, EMPTY, EMPTY], false);
    let (leader, from) = (NodeId(0), NodeId(3));
    let orphan = || block(0, 5, Digest([7; 32]), 0);
    let header = BlockView::parse(orphan().message()).unwrap().prefix.header;
    for (held, vouched) in [(false, true), (true, false)] {
        if held {
            let raw = orphan();
            let proposed = Input::Proposed { from: leader, raw };
            assert_eq!(to_be_judged(&mut ordering, proposed), None);
        }
        let raw = block(0, 6, header.digest(), 0);
        let child = to_be_judged(&mut ordering, Input::Offered { from, raw });
        let raw = orphan();
        ordering.handle(Instant(2_000), Input::Offered { from, raw });
        let Some(Output::Judge(offer)) = ordering.next_output() else {
            panic!("its child is being judged");
        };
        assert_eq!(offer.vouched, vouched, "held: {held}");
        for place in [child.unwrap(), offer.place] {
            let (checks, unsound) = (0, None);
            let unfit = Input::Unfit {
                from,
                place,
                checks,
                unsound,
            };
            assert_eq!(to_be_judged(&mut ordering, unfit), None);
        }
    }
}

/// Whether checkpoints are kept whole follows what peers say of themselves, at most once in an
/// interval: each change looks at every bucket.
#[test]
fn a_liar_that_changes_its_mind_with_every_status_changes_little_here() {
    let (mut ordering, places) = started(&[EMPTY, EMPTY, EMPTY], true);
    let status = |committed: Slot| Status {
        held: None,
        stage: View(0),
        installed: View(0),
        committed,
        committed_digest: places[2].digest,
        voted_slot: Slot(0),
        voted_digest: Digest::ZERO,
        checkpoint: Slot(0),
        retained_from: Slot(1),
        lease: Slot(0),
        flags: 0,
    };
    let mut changes = 0;
    for turn in 0..1_000u64 {
        let liar = if turn % 2 == 0 { Slot(0) } else { Slot(3) };
        for (from, committed) in [(0, Slot(3)), (2, Slot(3)), (3, liar)] {
            let message = PeerMessage::Status(status(committed));
            let from = NodeId(from);
            ordering.handle(Instant(2_000 + turn), Input::Peer { from, message });
            while let Some(output) = ordering.next_output() {
                changes += u64::from(matches!(output, Output::KeepNewest(_)));
            }
        }
    }
    assert!(changes <= 3, "{changes} changes");
}

/// R6: what a process forgot is not known before the others were heard. When it stops earlier than
/// that, its marker would tell the next one that nothing was forgotten.
#[test]
fn a_stop_while_the_others_are_asked_is_not_a_clean_one() {
    let mut log = restarted(&[EMPTY, EMPTY]);
    log.boot = Boot(2);
    let mut ordering = start(log);
    ordering.recall(false);
    ordering.stop();
    while let Some(output) = ordering.next_output() {
        if let Output::Append(sealed) = output {
            assert_ne!(sealed.kind, storage::Kind::CleanStop);
        }
    }
}
