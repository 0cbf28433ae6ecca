//! A copy of a small state, found again whole, and with each of its notes hurt.

use storage::machine::Kv;
use storage::state::Hold;
use storage::table::{Flush, LsmTable, MapStore, Run, Store, Table};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::HeapShared;
use wire::certificates::Signatures;
use wire::ids::{Epoch, NodeId, PublicKey, Sequence, SessionId, Signature, View};
use wire::ops::{Operation, OperationsBuilder};
use wire::reject::Reject;
use wire::request::{RequestFields, RequestView, encode_open, encode_request};
use wire::seal::{Rules, Statement};
use zerocopy::IntoBytes;

use std::sync::Arc;

use wire::ids::Instant;

use super::*;
use crate::execution::Replies;
use crate::transfer::Transfer;
use wire::state::Chunk;

const ME: NodeId = NodeId(1);
const GOOD: Signature = Signature([1; 64]);
const CLIENT: PublicKey = PublicKey([7; 32]);
const RULES: Rules = Rules {
    n: 4,
    slow: 3,
    view_change: 3,
    window: 128,
    epoch: Epoch(0),
    genesis: wire::certificates::Place::NONE,
};
/// First byte of the place of a note.
const NOTE: u8 = 3;

struct Judge;

impl Verifier for Judge {
    fn member(&self, _: NodeId, _: &Statement, found: &Signature) -> Result<(), Reject> {
        (*found == GOOD).then_some(()).ok_or(Reject::BadSignature)
    }

    fn request(&self, _: &RequestView<'_>) -> Result<(), Reject> {
        Ok(())
    }
}

struct Nowhere;

impl Replies for Nowhere {
    fn reply(&mut self, _: &PublicKey, _: Slot, _: &[u8]) {}

    fn read_reply(&mut self, _: &PublicKey, _: Slot, _: [&[u8]; 2]) {}
}

type Disked = Execution<Kv<LsmTable<MapStore>>>;

fn over(store: &MapStore) -> Disked {
    let table = LsmTable::reopen([1, 2], store.copy(), 1 << 20);
    Execution::new(ME, 4, Kv::new(table), 1400).with_checkpoint_interval(2)
}

fn header(slot: Slot, payload: &[u8]) -> BlockHeader {
    let parent = Digest([slot.0 as u8; 32]);
    BlockHeader::new(Epoch(0), View(0), slot, 5, parent, payload_digest(payload))
}

fn execute(execution: &mut Disked, slot: u64, payload: &[u8]) {
    let slot = Slot(slot);
    let prefix = BlockPrefix::new(header(slot, payload), GOOD, payload.len());
    let message = HeapShared::copy_from(&[prefix.as_bytes(), payload].concat());
    execution.execute(slot, &message, &mut Nowhere);
}

/// Keys k0 to k9 get this value in the first session.
fn putting(sequence: u64, value: &[u8]) -> Vec<u8> {
    let mut operations = OperationsBuilder::new();
    for number in 0..10 {
        let key = format!("k{number}");
        let key = key.as_bytes();
        operations.push(&Operation::Put { key, value });
    }
    let fields = RequestFields {
        session: SessionId::opened_at(Slot(1), 0),
        first_sequence: Sequence(sequence),
        acked_low: Sequence(0),
        flags: 0,
        count: 10,
    };
    let mut request = Vec::new();
    encode_request(&mut request, CLIENT, fields, operations.bytes());
    request
}

fn checkpoint(execution: &mut Disked) -> Digest {
    while execution.work(usize::MAX) {}
    execution.take_root().expect("an interval has passed").1
}

fn certificate(slot: u64, root: Digest, payload: &[u8]) -> CheckpointCertificate {
    let mut certificate = CheckpointCertificate {
        header: header(Slot(slot), payload),
        root,
        signatures: Signatures::new(),
    };
    for node in 0..3 {
        certificate.signatures.add(NodeId(node), GOOD);
    }
    certificate
}

/// Brings `store` up to the checkpoint that is open.
fn flush(execution: &mut Disked, certificate: &CheckpointCertificate, store: &MapStore) {
    assert!(execution.pin(Hold::Open).ready);
    let mut writer = FlushWriter::new(certificate);
    let mut flush = Flush::new(store.run());
    let mut piece = Vec::new();
    while writer.next(execution, &mut piece).unwrap() {
        flush.add(&piece).unwrap();
        piece.clear();
    }
    flush.finish().unwrap();
    execution.flush_end(Instant(0), Arc::new(*certificate));
    execution.close_snapshot(Instant(0));
}

/// A store of the state after slot 2, who executed it, and its root.
fn written() -> (MapStore, Disked, Digest) {
    let store = MapStore::default();
    let mut execution = over(&store);
    let mut opening = Vec::new();
    encode_open(&mut opening, CLIENT, Slot(0));
    let payload = putting(1, b"one");
    execute(&mut execution, 1, &opening);
    execute(&mut execution, 2, &payload);
    let root = checkpoint(&mut execution);
    flush(&mut execution, &certificate(2, root, &payload), &store);
    (store, execution, root)
}

fn reopened(store: &MapStore) -> Result<Option<(Disked, CheckpointCertificate)>, SavedUnusable> {
    let mut execution = over(store);
    let found = reopen(&mut execution, &mut Compound::new(Judge, RULES))?;
    let certificate = found.map(|proof| proof.certificate().expect("certified"));
    Ok(certificate.map(|certificate| (execution, certificate)))
}

fn place(name: &[u8]) -> Vec<u8> {
    [&[NOTE], name].concat()
}

fn note(store: &MapStore, name: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    assert!(
        store.get(store.newest(), &place(name), &mut note),
        "{name:?}"
    );
    note
}

/// What a start says of the store with another note under this name, or none.
fn with(store: &MapStore, name: &[u8], note: Option<&[u8]>) -> Result<bool, SavedUnusable> {
    let hurt = store.copy();
    let mut run = hurt.run();
    match note {
        Some(note) => run.put(&place(name), note).unwrap(),
        None => run.delete(&place(name)).unwrap(),
    }
    run.finish().unwrap();
    reopened(&hurt).map(|found| found.is_some())
}

#[test]
fn a_blank_copy_has_no_state() {
    assert!(reopened(&MapStore::default()).unwrap().is_none());
}

#[test]
fn the_state_goes_on_from_its_copy() {
    let (store, mut before, root) = written();
    let (mut after, found) = reopened(&store).unwrap().unwrap();
    assert_eq!((found.place().slot, found.root), (Slot(2), root));
    assert_eq!(after.executed(), Slot(2));
    assert_eq!(after.machine().table().len(), 10);
    // The session is open there, too, and a write over what is on disk gives the same state.
    for execution in [&mut before, &mut after] {
        execute(execution, 3, &putting(11, b"two"));
        execute(execution, 4, &[]);
    }
    let root = checkpoint(&mut before);
    assert_eq!(checkpoint(&mut after), root);
    // Of a second flush, what did not change is from the first one.
    flush(&mut after, &certificate(4, root, &[]), &store);
    let (mut again, found) = reopened(&store).unwrap().unwrap();
    assert_eq!((found.place().slot, found.root), (Slot(4), root));
    for execution in [&mut before, &mut again] {
        execute(execution, 5, &putting(1, b"done before"));
        execute(execution, 6, &putting(21, b"three"));
    }
    assert_eq!(checkpoint(&mut again), checkpoint(&mut before));
}

#[test]
fn a_copy_that_lacks_a_note_gives_no_state() {
    let (store, ..) = written();
    let nodes: Vec<_> = (0..NODES as u16)
        .map(|number| numbered(NODE, number))
        .collect();
    let names = [CERTIFICATE, SUMMARY, COUNTS].into_iter();
    for name in names.chain(nodes.iter().map(|name| &name[..])) {
        assert!(with(&store, name, None).is_err(), "{name:?}");
    }
}

#[test]
fn a_copy_with_a_flipped_bit_in_the_tree_gives_no_state() {
    let (store, ..) = written();
    for name in [SUMMARY, &numbered(NODE, 0), &numbered(NODE, 63)] {
        let whole = note(&store, name);
        for at in 0..whole.len() {
            let mut hurt = whole.clone();
            hurt[at] ^= 1;
            assert!(with(&store, name, Some(&hurt)).is_err(), "{name:?} {at}");
        }
        let cut = &whole[..whole.len() - 1];
        assert!(with(&store, name, Some(cut)).is_err(), "{name:?} cut");
    }
    let whole = note(&store, COUNTS);
    assert!(with(&store, COUNTS, Some(&whole[1..])).is_err());
}

#[test]
fn a_certificate_must_hold_and_be_of_this_state() {
    let (store, _, root) = written();
    let state = |certificate: &CheckpointCertificate| {
        with(&store, CERTIFICATE, Some(&certificate.encode())).unwrap_err()
    };
    let mut forged = certificate(2, root, &[]);
    forged.signatures.add(NodeId(3), Signature([9; 64]));
    let why = state(&forged);
    assert!(matches!(why, SavedUnusable::Uncertified(_)), "{why:?}");
    for other in [
        certificate(4, root, &[]),
        certificate(2, Digest([9; 32]), &[]),
    ] {
        let why = state(&other);
        assert!(matches!(why, SavedUnusable::OtherState), "{why:?}");
    }
}

#[test]
fn malformed_sessions_give_no_state() {
    let (store, ..) = written();
    let holding = Bucket::all().find(|bucket| {
        let name = numbered(SESSIONS, bucket.number());
        store.get(store.newest(), &place(&name), &mut Vec::new())
    });
    let name = numbered(SESSIONS, holding.unwrap().number());
    let whole = note(&store, &name);
    let cut = with(&store, &name, Some(&whole[1..]));
    assert!(matches!(cut, Err(SavedUnusable::OtherState)), "{cut:?}");
    // In the cell of others.
    let mut astray = whole;
    astray[0] ^= 1;
    let astray = with(&store, &name, Some(&astray));
    assert!(
        matches!(astray, Err(SavedUnusable::NotInstalled(_))),
        "{astray:?}"
    );
}

/// Everything of the copy at this slot as it is handed out, or none.
fn shown(execution: &mut Disked, now: u64, slot: u64) -> Option<Vec<(Part, Vec<u8>)>> {
    let (now, slot) = (Instant(now), Slot(slot));
    let mut answer = |part| {
        let mut body = Vec::new();
        assert!(
            execution.fetch_state(now, slot, part, &mut body),
            "{slot} {part:?}"
        );
        match Chunk::decode(&body).unwrap() {
            Chunk::Part { bytes, .. } => Some(bytes.to_vec()),
            Chunk::Elsewhere { .. } => None,
        }
    };
    let mut parts = vec![(Part::Summary, answer(Part::Summary)?)];
    for index in 0..NODES as u8 {
        let bytes = answer(Part::Node(index))?;
        let node = Node::parse(&bytes).unwrap().clone();
        parts.push((Part::Node(index), bytes));
        let below = Bucket::all().skip(usize::from(index) * BUCKETS_PER_NODE);
        for (bucket, leaf) in below.zip(node.leaves) {
            for index in 0..leaf.pieces() as u32 {
                let part = Part::Piece { bucket, index };
                parts.push((part, answer(part)?));
            }
        }
    }
    Some(parts)
}

/// Takes the state that was shown over.
fn taken_over(certificate: &CheckpointCertificate, shown: &[(Part, Vec<u8>)]) -> Disked {
    let mut fresh = over(&MapStore::default());
    let slot = certificate.place().slot;
    let own = fresh.leaves();
    let options = crate::transfer::Options::default();
    let mut transfer = Transfer::new(slot, certificate.root, own, &[NodeId(0)], options);
    feed(&mut transfer, slot, shown);
    fresh.install(&transfer.finish()).unwrap();
    fresh
}

/// Answers what a transfer asks, in turns of a few, until it asks nothing.
fn feed(transfer: &mut Transfer, slot: Slot, shown: &[(Part, Vec<u8>)]) {
    loop {
        let mut asked = Vec::new();
        transfer.poll(Instant(1), &mut |to, _, part| asked.push((to, part)));
        if asked.is_empty() {
            return;
        }
        // The last one asked for comes first.
        for (from, part) in asked.into_iter().rev() {
            let (_, bytes) = shown.iter().find(|(known, _)| *known == part).unwrap();
            let chunk = Chunk::Part { slot, part, bytes };
            transfer.handle(Instant(1), from, &chunk).unwrap();
        }
    }
}

/// Lets the state that was shown take the place of the one in `store`, and of what was executed.
fn streamed(
    execution: &mut Disked,
    store: &MapStore,
    certificate: &CheckpointCertificate,
    shown: &[(Part, Vec<u8>)],
) {
    let slot = certificate.place().slot;
    let peers = [NodeId(0), NodeId(2)];
    let options = crate::transfer::Options::default();
    let mut transfer = Transfer::stream(slot, certificate.root, &peers, options);
    feed(&mut transfer, slot, shown);
    assert!(transfer.awaits_start() && !transfer.is_complete());
    transfer.start_stream(&execution.copied_leaves());
    let mut writer = StreamWriter::new(certificate, execution.copy().unwrap());
    let mut flush = Flush::new(store.run());
    let mut piece = Vec::new();
    loop {
        match writer.next(execution, &mut transfer, &mut piece) {
            Next::Nothing => feed(&mut transfer, slot, shown),
            Next::Bytes => flush.add(&std::mem::take(&mut piece)).unwrap(),
            Next::End => break,
        }
    }
    flush.finish().unwrap();
    adopt(execution, Arc::new(*certificate)).unwrap();
}

/// An execution that flushes into the store that it reads.
fn sharing(store: &MapStore) -> Disked {
    let table = LsmTable::reopen([1, 2], store.clone(), 1 << 20);
    Execution::new(ME, 4, Kv::new(table), 1400).with_checkpoint_interval(2)
}

#[test]
fn a_state_is_streamed_in_the_place_of_another() {
    let (store, _, root) = written();
    let (mut shower, _) = reopened(&store).unwrap().unwrap();
    let first = certificate(2, root, &putting(1, b"one"));
    let whole = shown(&mut shower, 1, 2).unwrap();

    // One that holds nothing, one that has other keys and sessions on disk and in memory.
    let blank = MapStore::default();
    let other = MapStore::default();
    let mut strange = sharing(&other);
    let mut payload = Vec::new();
    encode_open(&mut payload, PublicKey([9; 32]), Slot(0));
    execute(&mut strange, 1, &payload);
    let payload = strange_puts(1, 40);
    execute(&mut strange, 2, &payload);
    let root = checkpoint(&mut strange);
    flush(&mut strange, &certificate(2, root, &payload), &other);
    execute(&mut strange, 3, &strange_puts(2, 60));
    let visited = strange.machine().table().len();
    assert_eq!(visited, 60);

    let fresh = sharing(&blank);
    for (mut execution, store) in [(fresh, blank), (strange, other)] {
        streamed(&mut execution, &store, &first, &whole);
        assert_eq!(execution.executed(), Slot(2));
        assert_eq!(execution.last_checkpoint(), Some((Slot(2), first.root)));
        let mut keys = 0;
        execution
            .machine()
            .table()
            .visit(&[], None, &mut |key, value| {
                assert_eq!((key[0], value), (b'k', &b"one"[..]));
                keys += 1;
                true
            });
        assert_eq!((keys, execution.machine().table().len()), (10, 10));
        // It shows what it was shown, goes on as the others do, and so does who starts from its copy.
        assert_eq!(shown(&mut execution, 1, 2).unwrap(), whole);
        let (mut again, _) = reopened(&store).unwrap().unwrap();
        let (mut before, _) = reopened(&{ written().0 }).unwrap().unwrap();
        for execution in [&mut execution, &mut again, &mut before] {
            execute(execution, 3, &putting(11, b"two"));
            execute(execution, 4, &putting(1, b"done before"));
        }
        let root = checkpoint(&mut before);
        assert_eq!(checkpoint(&mut again), root);
        assert_eq!(checkpoint(&mut execution), root);
        flush(
            &mut execution,
            &certificate(4, root, &putting(1, b"done before")),
            &store,
        );
        assert_eq!(reopened(&store).unwrap().unwrap().1.root, root);
    }
}

/// Keys z0, z1 and so on get a value, in the first session of another client.
fn strange_puts(sequence: u64, keys: usize) -> Vec<u8> {
    let mut operations = OperationsBuilder::new();
    for number in 0..keys {
        let key = format!("z{number}");
        let key = key.as_bytes();
        operations.push(&Operation::Put { key, value: key });
    }
    let fields = RequestFields {
        session: SessionId::opened_at(Slot(1), 0),
        first_sequence: Sequence(sequence),
        acked_low: Sequence(0),
        flags: 0,
        count: keys as u16,
    };
    let mut request = Vec::new();
    encode_request(&mut request, PublicKey([9; 32]), fields, operations.bytes());
    request
}

#[test]
fn a_copy_is_shown_whole_while_newer_ones_are_made_and_after_a_restart() {
    const WHILE: u64 = crate::execution::TRANSFER_HOLD_NS;
    let (store, mut execution, root) = written();
    let first = certificate(2, root, &putting(1, b"one"));
    let (mut execution_again, found) = reopened(&store).unwrap().unwrap();
    assert_eq!(found.root, first.root);
    let whole = shown(&mut execution_again, 1, 2).unwrap();
    assert!(shown(&mut execution_again, 1, 4).is_none());
    assert_eq!(execution_again.shows_instead_of(Slot(4)), Some(Slot(2)));
    let mut fresh = taken_over(&first, &whole);

    // What a copy shows is what was executed, whoever goes on from it.
    for execution in [&mut fresh, &mut execution] {
        execute(execution, 3, &putting(11, b"two"));
        execute(execution, 4, &[]);
    }
    assert_eq!(checkpoint(&mut fresh), checkpoint(&mut execution));

    let store = MapStore::default();
    let mut execution = sharing(&store);
    let mut opening = Vec::new();
    encode_open(&mut opening, CLIENT, Slot(0));
    execute(&mut execution, 1, &opening);
    let mut certificates = Vec::new();
    for slot in [2, 4, 6, 8, 10] {
        let payload = putting(5 * slot - 9, &[slot as u8; 40]);
        execute(&mut execution, slot, &payload);
        let certificate = certificate(slot, checkpoint(&mut execution), &payload);
        flush(&mut execution, &certificate, &store);
        certificates.push(certificate);
        execute(&mut execution, slot + 1, &[]);
        // Somebody asks for the first one all the time.
        if slot < 8 {
            let now = 1 + slot * WHILE / 4;
            execution.expire(Instant(now));
            let old = shown(&mut execution, now, 2).unwrap();
            taken_over(&certificates[0], &old);
            assert_eq!(execution.copies_from(), Some(Slot(2)));
            assert!(shown(&mut execution, now, slot).is_some());
        }
    }
    // Of those that are asked for, no more than three are kept.
    assert_eq!(execution.copies_from(), Some(Slot(4)));
    execution.expire(Instant(20 * WHILE));
    assert_eq!(execution.copies_from(), Some(Slot(10)));
    assert!(shown(&mut execution, 20 * WHILE, 8).is_none());
}
