//! Planted bugs that one part of the product shows by itself (see [`sim::canaries`]): each check
//! holds, and fails with the bug that it is for. This takes the feature `canary`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use replica::sessions::Sessions;
use replica::transfer::{Options as TransferOptions, Refused, Transfer};
use sim::canaries::{Canary, Finder};
use sim::faults::{Fault, FaultSet};
use sim::plan::Options;
use sim::world;
use storage::state::empty_leaf;
use wire::bytes::{HeapBuffers, HeapShared};
use wire::committee::{Committee, CommitteeParts, Member, Preset};
use wire::fragment::{MessagePlace, Origin, Reassembler, ReassemblyLimits};
use wire::header::{Fragment, HEADER_BYTES, Kind};
use wire::ids::{
    Boot, ClusterId, Digest, Instant, NodeId, PublicKey, Sequence, SessionId, Signature, Slot, View,
};
use wire::keys::NodeSecret;
use wire::limits::{GRAIN_BYTES, SESSIONS_MAX};
use wire::link::{BLOCK_REASSEMBLY, Endpoint, EndpointConfig, MESSAGE_REASSEMBLY};
use wire::messages::WishBody;
use wire::ops::{Operation, OperationsBuilder};
use wire::request::{RequestFields, RequestView, encode_request, set_signature};
use wire::seal::{Ed25519Verifier, FakeSeal, Signer, Statement, Verifier};
use wire::state::{
    BUCKETS, BUCKETS_PER_NODE, Chunk, Leaf, NODES, Node, Part, StateHead, Summary, write_cell,
};
use zerocopy::IntoBytes;

type Check = fn(Option<Canary>) -> bool;

const CHECKS: &[(Canary, Check)] = &[
    (Canary::Noview, |_| another_view_is_another_vote()),
    (Canary::Notag, |_| a_vote_is_no_commit()),
    (Canary::Weakverify, |_| a_weak_key_signs_nothing()),
    (Canary::Trailing, |_| nothing_follows_a_request()),
    (Canary::Twoforms, |_| a_wish_has_one_form()),
    (Canary::Fragmix, |_| fragments_of_two_messages_stay_apart()),
    (Canary::Reflect, |_| nobody_hears_itself()),
    (Canary::Longlen, |_| a_long_message_is_refused()),
    (Canary::Fragleak, |_| incomplete_messages_are_given_up()),
    (Canary::Sameboot, |_| two_boots_never_share_a_counter()),
    (Canary::Localevict, |_| everyone_evicts_the_oldest_session()),
    (Canary::Rootblind, |_| {
        a_bucket_of_another_state_is_refused()
    }),
    (Canary::Stuckpeer, |_| a_silent_peer_is_not_asked_alone()),
    (Canary::Cutany, damaged_logs_are_refused),
    (Canary::Noposition, misplaced_records_are_known),
];

#[test]
fn each_check_fails_with_its_bug_alone() {
    for (canary, check) in CHECKS {
        let name = canary.name();
        Canary::plant(None);
        assert!(check(None), "{name}: its check does not hold");
        if canary.is_built() {
            Canary::plant(Some(*canary));
            assert!(!check(Some(*canary)), "{name} is not found by its check");
            Canary::plant(None);
        }
    }
}

#[test]
fn every_canary_of_units_has_a_check() {
    let units = Canary::ALL.iter().filter(|c| c.finder() == Finder::Unit);
    for canary in units {
        let checked = CHECKS.iter().any(|(checked, _)| checked == canary);
        assert!(checked, "{}", canary.name());
    }
}

fn secret(id: u16) -> NodeSecret {
    NodeSecret::generate(&[id as u8 + 1; 32]).unwrap()
}

fn committee() -> Committee {
    let members = (0..4).map(|id| Member {
        id: NodeId(id),
        public_key: secret(id).public_key(),
        address: address(id),
    });
    let parts =
        CommitteeParts::with_preset(ClusterId([3; 16]), members.collect(), Preset::Balanced);
    Committee::new(parts.unwrap()).unwrap()
}

fn address(id: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7000 + id))
}

fn another_view_is_another_vote() -> bool {
    let seal = FakeSeal::new(&committee(), NodeId(0));
    let vote = |view| Statement::Vote {
        view: View(view),
        slot: Slot(1),
        digest: Digest([1; 32]),
    };
    let signature = seal.sign(&vote(1));
    seal.member(NodeId(0), &vote(2), &signature).is_err()
}

fn a_vote_is_no_commit() -> bool {
    let seal = FakeSeal::new(&committee(), NodeId(0));
    let (view, slot, digest) = (View(1), Slot(1), Digest([1; 32]));
    let signature = seal.sign(&Statement::Vote { view, slot, digest });
    let commit = Statement::Commit { view, slot, digest };
    seal.member(NodeId(0), &commit, &signature).is_err()
}

fn frame(client: PublicKey) -> Vec<u8> {
    let mut builder = OperationsBuilder::new();
    builder.push(&Operation::Get { key: b"k" });
    let (bytes, count) = builder.finish();
    let fields = RequestFields {
        session: SessionId(1),
        first_sequence: Sequence(1),
        acked_low: Sequence(0),
        flags: 0,
        count: count as u16,
    };
    let mut frame = Vec::new();
    encode_request(&mut frame, client, fields, &bytes);
    frame
}

/// CLI1: with the neutral element for key and point, and 0, everything would be signed.
fn a_weak_key_signs_nothing() -> bool {
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut frame = frame(PublicKey(neutral));
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&neutral);
    set_signature(&mut frame, &Signature(signature));
    let verifier = Ed25519Verifier::new(&committee());
    let request = RequestView::parse(&frame).unwrap();
    verifier.request(&request).is_err()
}

fn nothing_follows_a_request() -> bool {
    let mut frame = frame(PublicKey([1; 32]));
    frame.push(0);
    RequestView::parse(&frame).is_err()
}

/// Whatever is taken is what its fields encode to.
fn a_wish_has_one_form() -> bool {
    let wish = WishBody::new(Boot(1), 2, Signature([3; 64]));
    (0..wish.as_bytes().len()).all(|at| {
        let mut bytes = wish.as_bytes().to_vec();
        bytes[at] ^= 1;
        WishBody::decode(&bytes).map_or(true, |taken| {
            let made = WishBody::new(taken.boot(), taken.counter(), taken.signature);
            made.as_bytes() == bytes
        })
    })
}

const PLACE: MessagePlace = MessagePlace {
    view: View(0),
    slot: Slot(0),
    number: 0,
};

fn reassembler() -> Reassembler<HeapBuffers> {
    let limits = ReassemblyLimits {
        partials_max: 4,
        partials_per_sender_max: 4,
        idle_ns_max: 1_000,
    };
    let bytes_each = 8_192;
    Reassembler::new(HeapBuffers { bytes_each }, limits)
}

fn part(message: u64, offset_grains: u16) -> Fragment {
    Fragment {
        message,
        offset_grains,
        total: 2 * GRAIN_BYTES as u32,
    }
}

fn fragments_of_two_messages_stay_apart() -> bool {
    let (mut joined, origin) = (reassembler(), Origin::Node(NodeId(1)));
    let grain = [7; GRAIN_BYTES];
    let mut insert = |fragment| {
        let kind = Kind::Forward;
        joined.insert(Instant(1), origin, kind, PLACE, fragment, &grain)
    };
    let first = insert(part(1, 0)).unwrap().is_none();
    let second = insert(part(2, 1)).unwrap().is_none();
    first && second
}

fn incomplete_messages_are_given_up() -> bool {
    let mut joined = reassembler();
    let origin = Origin::Node(NodeId(1));
    let grain = [7; GRAIN_BYTES];
    let kind = Kind::Forward;
    let started = joined.insert(Instant(1), origin, kind, PLACE, part(1, 0), &grain);
    assert!(started.unwrap().is_none());
    joined.expire(Instant(1_000_000));
    joined.is_empty()
}

fn endpoint(id: u16, boot: u32) -> Endpoint<HeapBuffers> {
    let committee = committee();
    let config = EndpointConfig {
        me: NodeId(id),
        committee: &committee,
        secret: &secret(id),
        boot: Boot(boot),
        datagram_bytes: 1472,
        cookie_secret: [5; 32],
        blocks: BLOCK_REASSEMBLY,
        messages: MESSAGE_REASSEMBLY,
    };
    let buffers = || HeapBuffers {
        bytes_each: 1 << 19,
    };
    Endpoint::new(&config, buffers(), buffers()).unwrap()
}

fn status(from: &mut Endpoint<HeapBuffers>, to: u16) -> Vec<u8> {
    let (mut head, body) = ([0; HEADER_BYTES], [0; 96]);
    let fragment = Fragment::whole(&body);
    let to = NodeId(to);
    from.seal_peer(
        to,
        Kind::Status,
        View(0),
        Slot(0),
        fragment,
        &body,
        &mut head,
    );
    [&head[..], &body].concat()
}

/// ATK4: a process that starts again seals nothing that an earlier one could have sealed.
fn two_boots_never_share_a_counter() -> bool {
    let (mut first, mut second) = (endpoint(0, 1), endpoint(0, 2));
    status(&mut first, 1) != status(&mut second, 1)
}

/// ATK1: what a replica said is no word of the other end, whoever sends it back.
fn nobody_hears_itself() -> bool {
    let (mut one, mut other) = (endpoint(0, 1), endpoint(1, 1));
    let hear = |by: &mut Endpoint<HeapBuffers>, datagram: &[u8]| {
        let datagram = HeapShared::copy_from(datagram);
        by.receive(Instant(1), address(1), &datagram).is_ok()
    };
    // Each names the other's boot once it has heard of it.
    let greeting = status(&mut one, 1);
    let heard = hear(&mut other, &greeting);
    let answer = status(&mut other, 0);
    let heard = heard && hear(&mut one, &answer);
    assert!(heard, "they know each other");
    let said = status(&mut one, 1);
    !hear(&mut one, &said)
}

/// CLI3: what does not fit is refused before anything is done with it.
fn a_long_message_is_refused() -> bool {
    let fragment = Fragment {
        message: 1,
        offset_grains: 40,
        total: 64 * GRAIN_BYTES as u32,
    };
    let insert = || {
        let (origin, kind) = (Origin::Node(NodeId(1)), Kind::Forward);
        let grain = [7; GRAIN_BYTES];
        reassembler().insert(Instant(1), origin, kind, PLACE, fragment, &grain)
    };
    let refused = std::panic::catch_unwind(|| insert().is_err());
    refused.unwrap_or(false)
}

fn client(number: u16) -> PublicKey {
    let mut key = [9; 32];
    key[..2].copy_from_slice(&number.to_le_bytes());
    PublicKey(key)
}

/// §9.3: evictions follow the order of the log.
fn everyone_evicts_the_oldest_session() -> bool {
    let mut sessions = Sessions::new();
    for number in 0..=SESSIONS_MAX as u16 {
        let slot = Slot(u64::from(number) + 1);
        sessions.open(&client(number), Slot(0), slot, 0);
    }
    !sessions.has(&client(0)) && sessions.has(&client(1))
}

fn a_silent_peer_is_not_asked_alone() -> bool {
    let options = TransferOptions {
        timeout_ns: 1_000,
        ..TransferOptions::default()
    };
    let peers = [1, 2, 3].map(NodeId);
    let own = vec![None; BUCKETS];
    let mut transfer = Transfer::new(Slot(8), Digest([1; 32]), own, &peers, options);
    let mut asked = BTreeSet::new();
    for turn in 1..20 {
        let now = Instant(turn * 2_000);
        transfer.poll(now, &mut |to, _, _| {
            asked.insert(to);
        });
    }
    asked.len() == peers.len()
}

/// K4, A20: a bucket of the right length and with other bytes.
fn a_bucket_of_another_state_is_refused() -> bool {
    let mut node = Node {
        leaves: [empty_leaf(); BUCKETS_PER_NODE],
    };
    let mut summary = Summary {
        head: StateHead::new(Slot(8), 0, 0),
        nodes: [node.digest(); NODES],
    };
    let (mut certified, mut lie) = (Vec::new(), Vec::new());
    write_cell(7, b"what was certified", &mut certified);
    write_cell(7, b"what a liar sends.", &mut lie);
    node.leaves[0] = Leaf::of(&certified).unwrap();
    summary.nodes[0] = node.digest();
    let own = vec![Some(empty_leaf()); BUCKETS];
    let (slot, root) = (Slot(8), summary.root());
    let options = TransferOptions::default();
    let mut transfer = Transfer::new(slot, root, own, &[NodeId(1)], options);
    let mut verdict = Ok(());
    for _ in 0..3 {
        let mut asked = None;
        transfer.poll(Instant(1), &mut |_, _, part| asked = Some(part));
        let part = asked.expect("something is missing");
        let bytes = match part {
            Part::Summary => summary.as_bytes(),
            Part::Node(_) => node.as_bytes(),
            Part::Piece { .. } => &lie[..],
        };
        let chunk = Chunk::Part { slot, part, bytes };
        verdict = transfer.handle(Instant(1), NodeId(1), &chunk);
    }
    verdict == Err(Refused::Wrong)
}

/// DISK4: rot in what was acknowledged is refused, not cut.
fn damaged_logs_are_refused(canary: Option<Canary>) -> bool {
    damage_is_named(canary, Fault::Rot, "write-ahead log damaged")
}

/// DISK5: sectors that changed places, or show what they held before, are known for what they are.
fn misplaced_records_are_known(canary: Option<Canary>) -> bool {
    damage_is_named(canary, Fault::Misdirect, "belongs to another place")
}

fn damage_is_named(canary: Option<Canary>, damage: Fault, name: &str) -> bool {
    let faults = FaultSet::NONE.with(damage).with(Fault::Crash);
    let named = |seed| {
        let options = Options {
            faults,
            canary,
            ..Options::default()
        };
        let violation = world::run_caught(seed, options).violation;
        violation.is_some_and(|violation| violation.contains(name))
    };
    (0..20).any(named)
}
